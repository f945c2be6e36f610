package policy

import (
	"context"
	"slices"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	p := mustLoad(t, map[string]string{"policy.rego": floor, "clinic.rego": clinicTeam}, ranked("phi", "jwt", "default"))
	in := &Input{Namespace: "clinic", RPC: "StartWorkflowExecution", Kind: KindInput, Encoding: "json/plain",
		WorkflowType: "Admission", Known: FactWorkflowType, Data: []byte(`{"t":"eyJh.eyJi.c"}`)}
	e, err := p.Explain(context.Background(), Request, in)
	if err != nil {
		t.Fatal(err)
	}
	if e.Verdict.Key != "jwt" || e.Cached {
		t.Errorf("verdict %s, remembered %v", e.Verdict, e.Cached)
	}
	if len(e.Packages) != 2 || e.Packages[1].Package != `temporal.namespaces.clinic` {
		t.Fatalf("packages: %+v", e.Packages)
	}
	if set := e.Packages[1].Set; !slices.Equal(set, []string{`{"action": "pass"}`, `{"action": "seal", "key": "jwt"}`}) {
		t.Errorf("the team's set is %v", set)
	}
	if rules := e.Packages[1].Rules; len(rules) != 3 || !strings.HasSuffix(rules[2].Location, "clinic.rego:9") || len(rules[1].Verdicts) != 0 {
		t.Errorf("rules: %+v", rules)
	}
	want := []string{"input.activity.type", "input.payload.kind", "input.payload.name", "input.workflow.type"}
	if !slices.Equal(e.CacheKey, want) {
		t.Errorf("the cache's key holds %v, want %v", e.CacheKey, want)
	}
	if !slices.Equal(e.Unsure, []string{"activity.type"}) {
		t.Errorf("unsure about %v", e.Unsure)
	}
	trace, err := Trace(t.Context(), p, Request, in)
	if err != nil || len(trace) == 0 || e.Verdict.String() != "seal with key jwt" {
		t.Errorf("trace of %d lines, verdict: %s", len(trace), e.Verdict)
	}
	p.unmatched = func(string, []byte, []string, []string) string { return "nothing there" }
	if v := p.within(Verdict{Action: Seal, Key: "jwt", Fields: []string{"/t"}, Optional: []string{}}, in); v.Fields != nil || v.Optional != nil ||
		v.String() != "seal with key jwt (the whole payload: nothing there)" {
		t.Errorf("a document without the field: %s", v)
	}
	if v := p.within(Verdict{Action: Seal, Key: "jwt", Fields: []string{"/t"}}, &Input{}); v.String() != "seal with key jwt fields /t" {
		t.Errorf("a payload without content: %s", v)
	}
	p.missingOf = func(_ string, _ []byte, at Subject) string { return "not at " + at.Pointer }
	if v := p.within(Verdict{Action: Seal, Key: "jwt", Subject: Subject{Pointer: "/id"}}, in); v.Action != Deny || v.Reason != "a rule seals with the key of the subject at /id, and there is none: not at /id" {
		t.Errorf("a document without the subject: %s", v)
	}
	if v := p.within(Verdict{Action: Seal, Key: "jwt", Subject: Subject{Fact: "workflow.id"}}, in); v.Action != Seal {
		t.Errorf("a subject that is a fact: %s", v)
	}
	in.WorkflowType = "Mail"
	if e, err = p.Explain(context.Background(), Request, in); err != nil || !e.Cached {
		t.Errorf("a decision without content counts as not remembered: %v", err)
	}
}
