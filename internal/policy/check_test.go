package policy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// reported runs a check and returns its findings, a line each.
func reported(t *testing.T, opts CheckOptions) (Report, string) {
	t.Helper()
	r := Check(context.Background(), opts)
	var lines []string
	for _, f := range r.Findings {
		where := ""
		if f.Where != "" {
			where = f.Where + ": "
		}
		lines = append(lines, strings.ReplaceAll(string(f.Level)+": "+where+f.Text, filepath.Dir(opts.File)+"/", ""))
	}
	return r, strings.Join(lines, "\n")
}

func wantLines(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("the check does not say %q; it says:\n%s", w, got)
		}
	}
}

func TestCheckFindsFaults(t *testing.T) {
	opts := options(t, map[string]string{
		"policy.rego": "package temporal\n\nrequest := 1\n",
		"team.rego":   "package temporal.namespaces.team\n\nrequest contains {\n",
	})
	r, text := reported(t, CheckOptions{Options: opts})
	if r.OK() || r.Revision != "" {
		t.Error("a policy that does not load passed the check")
	}
	wantLines(t, text, "error: policy.rego:3: request must be a set", "error: namespaces/team.rego:4: ")

	write(t, opts.File, passing)
	write(t, filepath.Join(opts.Namespaces, "team.rego"), "package temporal.namespaces.team\n\nrequest contains {\"action\": \"seal\"} if input.payload.kind == \"memo\"\n")
	write(t, filepath.Join(filepath.Dir(opts.File), "policy_test.rego"), "package temporal_test\n\nimport data.temporal\n\ntest_wrong if temporal.request == set()\n\ntest_right if count(temporal.request) == 1\n\ntodo_test_later if false\n")
	write(t, filepath.Join(opts.Namespaces, "team_test.rego"), "package temporal.namespaces.team_test\n\ntest_typo if data.temporal.namespaces.team.request with input.payload.kind as \"memo\"\n\ntest_bad if {\n")
	cases := filepath.Join(filepath.Dir(opts.File), "cases.yaml")
	write(t, cases, `
keys: [default]
defaults: {namespace: team}
cases:
  - {name: good, input: {payload: {kind: memo}}, want: {action: seal, key: default}}
  - {name: wrong, input: {payload: {kind: memo}}, want: {action: pass}}
  - {input: {payload: {kind: memo}}, want: {key: default}}
  - {name: no fact, input: {payload: {kind: memo}}, unknown: [workflow.kind], want: {action: seal}}
  - {name: which way, direction: sideways, input: {payload: {kind: memo}}, want: {action: seal}}
  - {name: no kind, input: {}, want: {action: seal}}
  - {name: no error, input: {payload: {kind: memo}}, want: {error: boom}}
`)
	write(t, filepath.Join(opts.Namespaces, "more_cases.yaml"), "cases:\n  - {name: x, inputs: {}}\n")
	r, text = reported(t, CheckOptions{Options: opts})
	if r.OK() || r.Tests != 3 || r.Cases != 7 {
		t.Errorf("%d tests and %d cases ran", r.Tests, r.Cases)
	}
	wantLines(t, text,
		"error: policy_test.rego:5: test test_wrong fails",
		"note: policy_test.rego:9: test todo_test_later is skipped",
		"error: namespaces/team_test.rego:",
		`error: cases.yaml: case "wrong": wanted pass, got seal with key default`,
		`case "case 3": `+"`want` needs an `action` or an `error`",
		`case "no fact": workflow.kind is not a fact`,
		`case "which way": unknown direction "sideways"`,
		`case "no kind": the case needs`,
		`case "no error": wanted an error with "boom", got seal`,
		"error: namespaces/more_cases.yaml: [2:15]", "inputs",
	)
	if strings.Contains(text, `"good"`) || strings.Contains(text, "test_right") {
		t.Errorf("what is right was reported:\n%s", text)
	}
}

func TestCheckWarns(t *testing.T) {
	opts := options(t, map[string]string{
		"policy.rego": `package temporal

request contains {"action": "seal", "key": "phi"} if input.payload.kind == "memo"

request contains {"action": "pass"} if input.sealed.key == "x"

response contains {"action": "redact"} if input.content.json == 1
`,
		"a.rego": `package temporal.namespaces.a

request contains {"action": "pass"}

request contains {"action": "seal"} if {
	input.payload.kind in {"result", "memo"}
	is_secret
}

is_secret if input.activity.type == "Scan"

request contains {"action": "seal"} if input.workflow.task_queue == "q"
`,
	})
	opts.KeyRank = func(namespace, key string) (int, bool) { return 0, key == "default" || namespace == "a" }
	opts.DefaultKey = func(string) (string, bool) { return "default", true }
	r, text := reported(t, CheckOptions{
		Options: opts,
		Served:  []string{"a", "b", "c"},
		Facts: []CallFacts{
			{RPC: "RespondActivityTaskCompletedById", Kind: KindResult, Known: FactActivityID},
			{RPC: "RespondActivityTaskCompleted", Kind: KindResult, ByTask: AllFacts},
			{RPC: "SignalWorkflowExecution", Kind: KindSignal, Known: FactWorkflowID | FactTaskQueue, NotApplicable: FactActivityID | FactActivityType},
		},
	})
	if !r.OK() || r.Revision == "" {
		t.Errorf("warnings alone failed the check:\n%s", text)
	}
	wantLines(t, text,
		`warning: policy.rego:3: key "phi" is not configured for b, c`,
		"warning: policy.rego:5: a request rule reads input.sealed",
		"warning: policy.rego:7: a response rule reads input.content",
		"note: namespaces/a.rego:5: this rule reads activity.type, which some calls do not contain; where it looks at one there, a pass becomes seal: "+
			"RespondActivityTaskCompleted (result: activity.type, unless the task token contains it), RespondActivityTaskCompletedById (result: activity.type)",
		"note: namespaces/a.rego:12: this rule reads workflow.task_queue",
		"note: policy.rego: no rule reads input.payload.external",
		"note: b: the namespace has no policy of its own",
		"note: c: the namespace has no policy of its own",
	)
	if strings.Contains(text, "SignalWorkflowExecution") {
		t.Errorf("a signal contains what the rules read of it, and was reported:\n%s", text)
	}
}

// TestCasesLookIntoDocuments: a case whose document lacks a field that a rule names is about a payload that is sealed whole.
func TestCasesLookIntoDocuments(t *testing.T) {
	opts := options(t, map[string]string{"policy.rego": `package temporal

request contains {"action": "seal", "fields": ["/a"]} if input.payload.kind == "input"

request contains {"action": "seal", "fields": ["/a"], "missing": "pass"} if input.payload.kind == "memo"

request contains {"action": "seal", "feilds": ["/a"]} if input.payload.name == "never"

response contains {"action": "open"}
`})
	opts.Unmatched = func(_ string, document []byte, fields, optional []string) string {
		if string(document) == `{"b":1}` && len(optional) < len(fields) {
			return "no " + fields[0]
		}
		return ""
	}
	write(t, filepath.Join(filepath.Dir(opts.File), "cases.yaml"), `
defaults: {namespace: team}
cases:
  - {name: there, input: {payload: {kind: input}, content: {json: {a: 1}}}, want: {action: seal, fields: [/a], unmatched: false}}
  - {name: not there, input: {payload: {kind: input}, content: {json: {b: 1}}}, want: {action: seal, fields: [], unmatched: true}}
  - {name: may be missing, input: {payload: {kind: memo}, content: {json: {b: 1}}}, want: {action: seal, fields: [/a], optional: [/a]}}
  - {name: believed, input: {payload: {kind: input}, content: {json: {b: 1}}}, want: {action: seal, fields: [/a]}}
  - {name: feared, input: {payload: {kind: memo}, content: {json: {b: 1}}}, want: {action: seal, optional: [], unmatched: true}}
`)
	r, text := reported(t, CheckOptions{Options: opts})
	if len(r.Findings) != 4 || r.Cases != 5 {
		t.Errorf("%d cases, and findings:\n%s", r.Cases, text)
	}
	wantLines(t, text,
		`case "believed": wanted seal fields /a, got seal with key default (the whole payload: no /a)`,
		`case "feared": wanted seal (if there: ) (the whole payload: the document lacks a field), got seal with key default fields /a (if there: /a)`,
		`error: policy.rego:7: each call in which this rule holds is refused: action seal has no member "feilds"`)
}

// TestCasesWithoutContent: a case without content fails with what its rules read and what to add, and one with other facts without that.
func TestCasesWithoutContent(t *testing.T) {
	opts := options(t, map[string]string{"policy.rego": `package temporal

request contains {"action": "seal", "subject": {"pointer": "/patient"}} if { input.payload.kind == "input"; input.content.json.patient }

request contains {"action": "mask", "fields": ["/pin"]} if { input.payload.kind == "result"; input.content.json.pin }

request contains {"action": "pass"} if { input.payload.kind == "memo"; not input.content.json.patient }

request contains {"action": "seal", "subject": {"pointer": "/patient"}} if { input.payload.kind == "heartbeat"; input.workflow.type == "Admission" }

response contains {"action": "open"}
`})
	write(t, filepath.Join(filepath.Dir(opts.File), "cases.yaml"), `
defaults: {namespace: team}
cases:
  - {name: subject, input: {payload: {kind: input, encoding: json/plain}}, want: {action: seal}}
  - {name: mask, input: {payload: {kind: result, encoding: json/plain}}, want: {action: seal}}
  - {name: pass, input: {payload: {kind: memo, encoding: json/plain}}, want: {action: pass}}
  - {name: fact, unknown: [workflow.type], input: {payload: {kind: heartbeat, encoding: json/plain}}, want: {action: seal}}
  - {name: unreadable, input: {payload: {kind: input}, content: {raw: '{"a":1,"a":2}'}}, want: {action: seal}}
  - {name: expected, input: {payload: {kind: input, encoding: json/plain}}, want: {action: deny}}
  - {name: added, input: {payload: {kind: input}, content: {json: {name: Ada}}}, want: {action: seal}}
`)
	_, text := reported(t, CheckOptions{Options: opts})
	const add = "; the case has no content: add to its input `content: {json: ...}` with a document"
	wantLines(t, text,
		`case "subject": wanted seal, got deny: a rule that names a subject reads content.json, which this request does not tell (policy.rego:3)`+add,
		`case "mask": wanted seal, got deny: a rule that masks reads content.json, which this request does not tell (policy.rego:5)`+add,
		`case "pass": wanted pass, got seal with key default (a pass was not honored: a rule reads a fact that this request does not contain)`+add,
		`case "fact": wanted seal, got deny: a rule that names a subject reads workflow.type, which this request does not tell (policy.rego:9)`+"\n",
		`case "unreadable": wanted seal, got deny: a rule that names a subject reads content.json, which this request does not tell (policy.rego:3)`+"\n")
	if strings.Contains(text, "expected") || strings.Contains(text, "added") {
		t.Error(text)
	}
}

// TestCheckOfShipped is what `temporal-seal check` says without any file.
func TestCheckOfShipped(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "policy.rego"))
	if err != nil {
		t.Fatal(err)
	}
	r := Check(context.Background(), CheckOptions{Options: Options{Shipped: text}})
	if !r.OK() || len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Text, "input.payload.external") {
		t.Errorf("findings: %v", fmt.Sprint(r.Findings))
	}
}
