package operator

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"go.temporal.io/sdk/client"
)

func TestCandidate(t *testing.T) {
	t.Parallel()
	scenario(t, "1.4", "a candidate that denies, passes and fails changes nothing", candidateActsNowhere)
	scenario(t, "1.4", "a candidate that does not compile", candidateThatFails)
	scenario(t, "1.5", "the counter by kind and actions", candidateCounts)
	scenario(t, "1.6", "/candidate, the log and /readyz", candidateLists)
}

const withCandidate = `
listeners: [{address: "127.0.0.1:0"}]
upstreams: [{address: "${temporal}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
policy: {file: "${dir}/policy.rego", candidate: {file: "${dir}/candidate.rego"}}
`

const candidateRules = `package temporal

request contains {"action": "pass"} if input.payload.kind == "input"

request contains {"action": "deny"} if input.payload.kind == "result"

request contains {"action": "seal", "key": "missing"} if input.payload.kind == "signal"

response contains {"action": "deny"} if input.payload.kind == "input"

response contains {"action": "open"} if input.payload.kind != "input"
`

// tries runs a workflow through a proxy with a candidate.
func tries(s *site) *proxy {
	s.Helper()
	s.write("policy.rego", openAll)
	s.write("candidate.rego", candidateRules)
	p := s.serve(withCandidate)
	runsSealed(s, p, "")
	return p
}

// runsSealed runs a workflow, and checks that everything of it is stored sealed.
func runsSealed(s *site, p *proxy, suffix string) {
	s.Helper()
	c := s.client(p.address, "default")
	run, err := c.ExecuteWorkflow(s.Context(), client.StartWorkflowOptions{ID: s.name + suffix, TaskQueue: s.name}, "WaitForSignal", "CANARY-INPUT")
	s.ok(err)
	finishes(s, p, run, "CANARY-INPUT")
	stored := fmt.Sprint(s.history(s.expand("${temporal}"), "default", run.GetID()))
	s.lacks("the history at the server", stored, "CANARY")
}

func candidateActsNowhere(s *site) {
	p := tries(s)
	s.want(p.logged("the candidate policy does not load; calls go on by the policy in force") == 0, "the candidate does not load")
	if n, _ := p.metric("temporal_seal_policy_candidate_decisions_total", "outcome", "different"); n < 3 {
		s.Errorf("%v decisions differ", n)
	}
	if n, _ := p.metric("temporal_seal_payloads_total", "action", "sealed"); n < 3 {
		s.Errorf("%v payloads are sealed", n)
	}
}

func candidateThatFails(s *site) {
	s.write("policy.rego", openAll)
	s.write("candidate.rego", "package temporal\n\nrequest contains {\n")
	p := s.serve(withCandidate)
	p.awaitLog("the candidate policy does not load; calls go on by the policy in force")
	n, _ := p.metric("temporal_seal_policy_candidate_stale")
	s.want(n == 1, "temporal_seal_policy_candidate_stale is %v", n)
	code, ready := p.get("/readyz")
	s.want(code == 200, "/readyz answers %d", code)
	s.contains("/readyz", ready, "candidate policy: its files do not load", "candidate.rego:")
	runsSealed(s, p, "-1")
	checked := s.run("check", "--config", p.config, "--offline")
	s.want(checked.code == 1, "check ends with %d", checked.code)
	s.contains("check", checked.all(), "policy.candidate: ", "candidate.rego:")

	s.write("candidate.rego", candidateRules)
	p.awaitLog("the candidate policy is compared with the policy in force")
	s.eventually(func() error {
		if n, _ := p.metric("temporal_seal_policy_candidate_stale"); n != 0 {
			return fmt.Errorf("temporal_seal_policy_candidate_stale is %v", n)
		}
		return nil
	})
	runsSealed(s, p, "-2")
	if n, _ := p.metric("temporal_seal_policy_candidate_decisions_total", "outcome", "different"); n == 0 {
		s.Error("no decision differs")
	}
	s.contains("check", s.run("check", "--config", p.config, "--offline").all(), "candidate")
}

func candidateCounts(s *site) {
	p := tries(s)
	for _, c := range [][3]string{{"input", "seal", "pass"}, {"result", "seal", "deny"}, {"signal", "seal", "error"}, {"input", "open", "deny"}} {
		n, _ := p.metric("temporal_seal_policy_candidate_differences_total", "kind", c[0], "from", c[1], "to", c[2])
		s.want(n >= 1, "%v differences of %v", n, c)
	}
	n, _ := p.metric("temporal_seal_policy_candidate_info")
	s.want(n == 1, "temporal_seal_policy_candidate_info is %v", n)
	s.write("candidate.rego", openAll)
	s.eventually(func() error {
		var listed struct {
			InForce   string `json:"policy_revision"`
			Candidate string `json:"candidate_revision"`
		}
		_, page := p.get("/candidate")
		if err := json.Unmarshal([]byte(page), &listed); err != nil || listed.InForce != listed.Candidate {
			return fmt.Errorf("the candidate is another one: %s", page)
		}
		return nil
	})
}

// listedDifference is an element of what /candidate lists.
type listedDifference struct {
	Method, Kind, Namespace, Direction string
	WorkflowType                       string `json:"workflow_type"`
	Count                              int
	From, To                           struct {
		Action, Key string
		Rules       []string
	}
}

func candidateLists(s *site) {
	p := tries(s)
	code, page := p.get("/candidate")
	s.want(code == 200, "/candidate answers %d", code)
	s.lacks("/candidate", page, "CANARY")
	var listed struct{ Differences []listedDifference }
	s.ok(json.Unmarshal([]byte(page), &listed))
	found := false
	for _, d := range listed.Differences {
		if d.Method != "StartWorkflowExecution" {
			continue
		}
		found = true
		s.want(d.Kind == "input" && d.Namespace == "default" && d.Direction == "request" && d.WorkflowType == "WaitForSignal" && d.Count == 1 &&
			d.From.Action == "seal" && d.From.Key == "default" && len(d.From.Rules) == 0 && d.To.Action == "pass" &&
			len(d.To.Rules) == 1 && strings.HasSuffix(d.To.Rules[0], "candidate.rego:3"), "/candidate lists %+v", d)
	}
	s.want(found, "/candidate does not list the start: %s", page)
	p.awaitLog("the candidate policy decides otherwise", "namespace", "default", "kind", "input", "from", "seal with key default", "to", "pass")
	_, ready := p.get("/readyz")
	s.contains("/readyz", ready, "candidate policy: revision ", " is compared with the policy in force")
}
