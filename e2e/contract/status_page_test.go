package contract

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
)

// counted is what the status says of the payloads of a namespace, by workflow type and kind.
func (r *rig) counted(t *testing.T, namespace string) map[string]map[string]int {
	t.Helper()
	code, body := r.admin(t, "/status")
	var status struct {
		Payloads []struct {
			Namespace    string         `json:"namespace"`
			WorkflowType string         `json:"workflow_type"`
			Kind         string         `json:"kind"`
			LastHour     map[string]int `json:"last_hour"`
			SinceStart   map[string]int `json:"since_start"`
		} `json:"payloads"`
	}
	if err := json.Unmarshal([]byte(body), &status); code != http.StatusOK || err != nil {
		t.Fatalf("/status: %d, %v\n%s", code, err, body)
	}
	all := map[string]map[string]int{}
	for _, row := range status.Payloads {
		for outcome, n := range row.SinceStart {
			if row.LastHour[outcome] != n {
				t.Errorf("%s: %d in the last hour, %d since the start", outcome, row.LastHour[outcome], n)
			}
			if n > 0 && row.Namespace == namespace {
				key := row.WorkflowType + "/" + row.Kind
				if all[key] == nil {
					all[key] = map[string]int{}
				}
				all[key][outcome] = n
			}
		}
	}
	return all
}

// The status counts what became of payloads, by namespace, workflow type and kind, and holds nothing of them.
func TestStatusCountsWhatBecomesOfPayloads(t *testing.T) {
	r := start(t, setup{policy: `package temporal

request contains {"action": "pass"} if {
	input.payload.kind == "header"
	input.payload.name == "trace"
}

request contains {"action": "deny", "reason": concat(" ", ["REASON-CANARY", input.content.json])} if {
	input.payload.kind == "header"
	input.payload.name == "token"
}

response contains {"action": "open"} if input.payload.kind == "result"

response contains {"action": "redact"} if input.payload.kind == "memo"

response contains {"action": "keep"} if input.payload.kind == "input"
`})
	begin := func(header string, answers ...answer) exchange {
		return r.send(t, "StartWorkflowExecution", &workflowservice.StartWorkflowExecutionRequest{Namespace: "shop", WorkflowId: "w",
			WorkflowType: &commonpb.WorkflowType{Name: "Order"}, Input: list(text("CANARY-1"), text("CANARY-2")),
			Header: &commonpb.Header{Fields: map[string]*commonpb.Payload{header: text("CANARY-3")}}}, answers...)
	}
	begin("trace").want(t, "OK")
	begin("trace").want(t, "OK")
	begin("token").refused(t, "PermissionDenied")
	begin("trace", answer{"StartWorkflowExecution", blackbox.Answer{Status: statusOf(6, "already started")}}).want(t, "AlreadyExists")
	sealed := r.seal(t, "shop", text("CANARY-4"))
	got := r.counted(t, "shop")
	want := map[string]map[string]int{"Order/input": {"sealed": 4}, "Order/header": {"passed": 2, "denied": 1}, "/signal": {"sealed": 1}}
	for key, outcomes := range want {
		for outcome, n := range outcomes {
			if got[key][outcome] != n {
				t.Errorf("%s: %s %d, want %d", key, outcome, got[key][outcome], n)
			}
			delete(got[key], outcome)
		}
	}
	for key, rest := range got {
		if len(rest) > 0 {
			t.Errorf("%s: also %v", key, rest)
		}
	}
	_, _ = r.Open(t.Context(), r.client, "shop", "", sealed)
	for _, path := range []string{"/", "/status"} {
		code, page := r.admin(t, path)
		if code != http.StatusOK || !strings.Contains(page, "Order") || !strings.Contains(page, "PERMISSION_DENIED") {
			t.Errorf("%s: %d\n%s", path, code, page)
		}
		if strings.Contains(page, "CANARY") {
			t.Errorf("%s holds a part of a payload, or of a reason that a rule made of one", path)
		}
	}
	if opened := r.counted(t, "shop")["/query"]; opened["opened"]+opened["kept"]+opened["denied"]+opened["failed"] != 1 {
		t.Errorf("of a sealed query result: %v", opened)
	}
}

// A page of another site whose name has been made to lead to the admin listener reads nothing of what is for people.
func TestStatusIsForThisMachine(t *testing.T) {
	r := start(t, setup{})
	for _, path := range []string{"/", "/status", "/explain", "/candidate", "/survey"} {
		for host, want := range map[string]int{"localhost:7334": 0, "evil.example.com": 403, "evil.example.com:7334": 403} {
			q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.proxy.Admin+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			q.Host = host
			a, err := http.DefaultClient.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(a.Body)
			_ = a.Body.Close()
			if want == 0 && a.StatusCode == http.StatusForbidden || want != 0 && a.StatusCode != want {
				t.Errorf("%s as %s: %d %.200s", path, host, a.StatusCode, body)
			}
		}
	}
}

// explain posts the form of explain, as a browser that shows a page of an origin would.
func (r *rig) explain(t *testing.T, origin string, form url.Values) (int, string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.proxy.Admin+"/explain", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if origin != "" {
		q.Header.Set("Origin", origin)
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a.StatusCode, string(body)
}

// Explain shows what the policy in force decides, keeps nothing of what was entered, and takes no form from another site's page.
func TestExplainInABrowser(t *testing.T) {
	r := start(t, setup{policy: "package temporal\n\nrequest contains {\"action\": \"pass\"} if input.content.json.public == true\n"})
	form := url.Values{"direction": {"request"}, "namespace": {"shop"}, "rpc": {"StartWorkflowExecution"}, "kind": {"input"}, "caller_kind": {"anonymous"},
		"content": {`{"public": true, "name": "CANARY-explained"}`}}
	code, page := r.explain(t, "http://"+r.proxy.Admin, form)
	if code != http.StatusOK || !strings.Contains(page, "Verdict: pass") || !strings.Contains(page, "input.content.json.public") {
		t.Errorf("%d\n%s", code, page)
	}
	if code, page = r.explain(t, "https://evil.example.com", form); code != http.StatusForbidden || strings.Contains(page, "Verdict") {
		t.Errorf("from a page of another site: %d\n%s", code, page)
	}
	form.Set("content", strings.Repeat("CANARY ", 10_000))
	if code, page = r.explain(t, "", form); code != http.StatusBadRequest {
		t.Errorf("a form that is too long: %d\n%s", code, page)
	}
	if log := r.proxy.Log.String(); strings.Contains(log, "CANARY") {
		t.Errorf("the log holds what was entered:\n%s", log)
	}
	for _, path := range []string{"/", "/status", "/explain", "/metrics", "/readyz"} {
		if _, page := r.admin(t, path); strings.Contains(page, "CANARY") {
			t.Errorf("%s holds what was entered", path)
		}
	}
}
