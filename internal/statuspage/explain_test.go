package statuspage_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/statuspage"
)

const rules = `package temporal

request contains {"action": "pass"} if input.activity.type == "Print"

request contains {"action": "seal", "key": "phi"} if input.content.json.ssn

response contains {"action": "open"} if {
	input.caller.claims.team == "billing"
	input.sealed.granted
}
`

// asked posts a form, and returns what the page says.
func asked(t *testing.T, values url.Values) (*statuspage.Explain, string) {
	t.Helper()
	p, err := policy.NewEngine(t.Context(), policy.Options{Shipped: []byte(rules)})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/explain", strings.NewReader(values.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	form, err := statuspage.ReadForm(r)
	if err != nil {
		t.Fatal(err)
	}
	e := &statuspage.Explain{Form: form, Revision: "abc", RPCs: []string{"Encode"}, Namespaces: []string{"clinic"}}
	e.Ask(t.Context(), p.Current())
	var b bytes.Buffer
	if err := e.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	return e, b.String()
}

func form(more ...string) url.Values {
	v := url.Values{"direction": {"request"}, "namespace": {"default"}, "rpc": {"StartWorkflowExecution"}, "kind": {"input"}, "encoding": {"json/plain"},
		"caller_kind": {"anonymous"}}
	for i := 0; i < len(more); i += 2 {
		v.Set(more[i], more[i+1])
	}
	return v
}

// TestExplain: the page shows rules, verdict and missing facts, keeps what was entered in its fields, and says what is wrong.
func TestExplain(t *testing.T) {
	for name, c := range map[string]struct {
		form url.Values
		want []string
	}{
		"content":      {form("content", `{"ssn": "<i>1</i>"}`), []string{"Verdict: seal with key phi", "input.content.json.ssn", "does not hold", "&lt;i&gt;1&lt;/i&gt;", "the content counts"}},
		"a fact":       {form("activity_type", "Print", "content", "{}"), []string{"Verdict: pass", `value="Print"`}},
		"unknown fact": {form("activity_type_unknown", "1", "content", "{}"), []string{"Verdict: seal", "activity.type"}},
		"an answer": {form("direction", "response", "rpc", "PollActivityTaskQueue", "caller_kind", "jwt", "claims", `{"team":"billing"}`, "granted", "1", "sealed_namespace", "clinic"),
			[]string{"Verdict: open"}},
		"of its own namespace": {form("direction", "response"), []string{"Verdict: deny"}},
		"a text":               {form("kind", "text"), []string{"Verdict: pass", "stay readable"}},
		"claims":               {form("claims", "team"), []string{"No verdict", "no JSON object"}},
		"a kind":               {form("kind", "inputs"), []string{"No verdict", "did you mean"}},
		"a direction":          {form("direction", "sideways"), []string{"unknown direction"}},
	} {
		e, text := asked(t, c.form)
		for _, part := range c.want {
			if !strings.Contains(text, part) {
				t.Errorf("%s: the page lacks %q (%s)", name, part, e.Error)
			}
		}
		if strings.Contains(text, "<i>") || strings.Contains(text, "ZgotmplZ") {
			t.Errorf("%s: an entry became markup", name)
		}
	}
}

// TestBadForms: what is no form, too long or not text is refused.
func TestBadForms(t *testing.T) {
	for name, body := range map[string]string{"too long": "content=" + strings.Repeat("x", statuspage.MaxForm), "no form": "%zz", "no UTF-8": "content=%ff"} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/explain", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Body = http.MaxBytesReader(w, r.Body, statuspage.MaxForm)
		if _, err := statuspage.ReadForm(r); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	e := &statuspage.Explain{Form: statuspage.NewForm()}
	var b bytes.Buffer
	if err := e.WriteHTML(&b); err != nil || !strings.Contains(b.String(), `value="StartWorkflowExecution"`) || strings.Contains(b.String(), "Verdict") {
		t.Errorf("the empty form: %v\n%s", err, b.String())
	}
}
