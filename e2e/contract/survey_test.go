package contract

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
)

// surveyed returns the places with findings, each with how many are in clear.
func (r *rig) surveyed(t *testing.T) map[string]int {
	t.Helper()
	code, body := r.admin(t, "/survey")
	var report struct {
		Findings []struct {
			At struct {
				Workflow string `json:"workflow_type"`
				Kind     string `json:"kind"`
			} `json:"at"`
			Pointer  string `json:"pointer"`
			Findings []struct {
				What  string `json:"what"`
				Clear int    `json:"policy_leaves_in_clear"`
			} `json:"findings"`
		} `json:"findings"`
	}
	if err := json.Unmarshal([]byte(body), &report); code != http.StatusOK || err != nil {
		t.Fatalf("/survey: %d, %v\n%s", code, err, body)
	}
	places := map[string]int{}
	for _, row := range report.Findings {
		for _, f := range row.Findings {
			places[fmt.Sprintf("%s %s %s: %s", row.At.Workflow, row.At.Kind, row.Pointer, f.What)] = f.Clear
		}
	}
	return places
}

// A survey of live traffic names the places of what is sensitive, with what stays in clear, and shows no part of a value, nor of a name that
// may be one. Calls are as without it.
func TestLiveSurvey(t *testing.T) {
	r := start(t, setup{extra: "survey: {rate: 10000, cpu_percent: 50}\n",
		policy: "package temporal\n\nrequest contains {\"action\": \"pass\"} if input.workflow.type == \"Public\"\n\nresponse contains {\"action\": \"open\"}\n"})
	const mail, name = "canary.value@clinic.example", "canary.name@clinic.example"
	document := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")},
		Data: []byte(fmt.Sprintf(`{"contact":%q,"byPatient":{%q:1}}`, mail, name))}
	want := map[string]bool{"Public input /contact: e-mail address": true, "Public input /byPatient/{key}: e-mail address": true,
		"Sealed input /contact: e-mail address": false, "Sealed input /byPatient/{key}: e-mail address": false}
	var places map[string]int
	found := func() bool {
		places = r.surveyed(t)
		for place, clear := range want {
			if n, ok := places[place]; !ok || (n > 0) != clear {
				return false
			}
		}
		return true
	}
	for end := time.Now().Add(time.Minute); !found(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("found %v, want %v", places, want)
		}
		for _, kind := range []string{"Public", "Sealed"} {
			r.startWorkflow(t, "shop", "w", kind, document).want(t, "OK")
		}
	}
	for place := range places {
		if _, ok := want[place]; !ok {
			t.Errorf("found where nothing is: %s", place)
		}
	}
	for _, path := range []string{"/survey", "/status", "/", "/metrics", "/readyz"} {
		if _, page := r.admin(t, path); strings.Contains(page, "canary") {
			t.Errorf("%s holds a value, or a name that is one:\n%s", path, page)
		}
	}
	if log := r.proxy.Log.String(); strings.Contains(log, "canary") {
		t.Errorf("the log holds a value:\n%s", log)
	}
	if _, page := r.admin(t, "/"); !strings.Contains(page, "payloads in clear were searched") || !strings.Contains(page, "/byPatient/{key}") {
		t.Errorf("the status page does not show the survey:\n%s", page)
	}
}

// Metrics count payloads for the namespaces that the config names, and for all others together.
func TestMetricsByNamespace(t *testing.T) {
	r := start(t, setup{extra: "metrics: {namespaces: [shop, clinic]}\n"})
	for _, namespace := range []string{"shop", "shop", "unnamed"} {
		r.send(t, "StartWorkflowExecution", &workflowservice.StartWorkflowExecutionRequest{Namespace: namespace, WorkflowId: "w",
			Input: list(text("one"))}).want(t, "OK")
	}
	_, page := r.admin(t, "/metrics")
	for _, line := range []string{`namespace_payloads_total{namespace="shop",outcome="sealed"} 2`, `namespace_payloads_total{namespace="clinic",outcome="sealed"} 0`,
		`namespace_payloads_total{namespace="other",outcome="sealed"} 1`} {
		if !strings.Contains(page, line) {
			t.Errorf("no %s", line)
		}
	}
	if strings.Contains(page, `"unnamed"`) {
		t.Error("a namespace that the config does not name is a label")
	}
}
