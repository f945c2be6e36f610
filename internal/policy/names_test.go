package policy

import (
	"strings"
	"testing"
)

// testRPCs stands for the methods that the rewriter knows.
func testRPCs(o *Options) {
	o.RPCs = []string{"StartWorkflowExecution", "PollWorkflowTaskQueue", "PollActivityTaskQueue", "Decode"}
}

// TestNames holds rules to the closed lists: of kinds, methods, kinds of callers and actions. Each text is the body of the
// platform's module; want is part of the error, "" for none.
func TestNames(t *testing.T) {
	t.Parallel()
	const pass = `request contains {"action": "pass"} if `
	for name, tt := range map[string]struct{ rules, want string }{
		"equal":                 {pass + `input.payload.kind == "resutl"`, `policy.rego:3: "resutl" is not a kind of payload; did you mean "result"?`},
		"reversed":              {pass + `"resutl" == input.payload.kind`, `did you mean "result"?`},
		"not equal":             {pass + `input.payload.kind != "heder"`, `"heder" is not a kind of payload; did you mean "header"?`},
		"negated":               {pass + `not input.payload.kind == "heder"`, `"heder"`},
		"unified":               {pass + `input.payload.kind = "heder"`, `"heder"`},
		"in a set":              {pass + `input.payload.kind in {"result", "inptu"}`, `"inptu" is not a kind of payload; did you mean "input"?`},
		"in an array":           {pass + `not input.payload.kind in ["result", "inptu"]`, `"inptu"`},
		"one of several":        {pass + "{\n\tsome k in [\"inptu\", \"result\"]\n\tinput.payload.kind == k\n}", `policy.rego:4: "inptu"`},
		"every":                 {pass + `{ every k in {"inptu"} { input.payload.kind != k } }`, `"inptu"`},
		"in a named set":        {pass + "input.payload.kind in open\n\nopen := {\"result\", \"memmo\"}", `policy.rego:5: "memmo"`},
		"looked up in a set":    {pass + "open[input.payload.kind]\n\nopen := {\"memmo\"}", `"memmo"`},
		"looked up in a map":    {pass + "open[input.payload.kind]\n\nopen := {\"memmo\": true}", `"memmo"`},
		"in a map's values":     {pass + "input.payload.kind in open\n\nopen := {\"a\": \"memmo\"}", `"memmo"`},
		"in a partial set":      {pass + "input.payload.kind in open\n\nopen contains \"memmo\"", `policy.rego:5: "memmo"`},
		"in a union":            {pass + "input.payload.kind in (open | {\"inptu\"})\n\nopen := {\"memo\"}", `"inptu"`},
		"by a variable":         {pass + "{\n\tk := input.payload.kind\n\tk == \"inptu\"\n}", `"inptu"`},
		"by a part of input":    {pass + "{\n\tp := input.payload\n\tp.kind == \"inptu\"\n}", `"inptu"`},
		"by input":              {pass + "{\n\td := input\n\td.payload.kind == \"inptu\"\n}", `"inptu"`},
		"by a helper rule":      {pass + "kind == \"inptu\"\n\nkind := input.payload.kind", `"inptu"`},
		"by a function":         {pass + "is(input.payload.kind)\n\nis(x) if x == \"inptu\"", `policy.rego:5: "inptu"`},
		"by a function's head":  {pass + "is(input.payload.kind)\n\nis(\"inptu\")", `policy.rego:5: "inptu"`},
		"by two functions":      {pass + "a(input.payload)\n\na(x) if b(x.kind)\n\nb(x) if x in {\"inptu\"}", `"inptu"`},
		"a function's argument": {pass + "is(input.payload.kind, {\"inptu\"})\n\nis(x, list) if x in list", `policy.rego:3: "inptu"`},
		"else":                  {pass + "ok\n\nok := true if input.payload.kind == \"memo\"\nelse := true if input.payload.kind == \"inptu\"", `"inptu"`},
		"within comprehensions": {pass + "count([1 | input.payload.kind == \"inptu\"]) == 0", `"inptu"`},
		"a method":              {pass + `input.rpc == "StartWorkflowExectuion"`, `"StartWorkflowExectuion" is not a method; did you mean "StartWorkflowExecution"?`},
		"a full method":         {pass + `input.rpc == "temporal.api.workflowservice.v1.WorkflowService/StartWorkflowExecution"`, `is not a method`},
		"a prefix":              {pass + `startswith(input.rpc, "Pol1")`, `"Pol1" matches no method`},
		"an expression":         {pass + `regex.match("^poll", input.rpc)`, `"^poll" matches no method`},
		"a kind of caller":      {"response contains {\"action\": \"open\"} if input.caller.kind == \"mtsl\"", `"mtsl" is not a kind of caller; did you mean "mtls"?`},
		"an unlike kind":        {"response contains {\"action\": \"open\"} if input.caller.kind == \"certificate\"", `"certificate" is not a kind of caller; there are anonymous, mtls, token, jwt`},
		"an action":             {`request contains {"action": "pas"} if input.payload.kind == "memo"`, `"pas" is not an action of a request; did you mean "pass"?`},
		"the other direction's": {`request contains {"action": "open"} if input.payload.kind == "memo"`, `"open" is not an action of a request`},
		"an action by name":     {"request contains v if {\n\tinput.payload.kind == \"memo\"\n\tv := {\"action\": \"pas\"}\n}", `"pas"`},
		"an action by variable": {"request contains {\"action\": a} if {\n\tinput.payload.kind == \"memo\"\n\tsome a in [\"pas\"]\n}", `"pas"`},
		"two":                   {pass + `input.payload.kind in {"inptu", "memmo"}`, `"memmo"`},

		"right names":           {pass + "{\n\tinput.payload.kind in {\"input\", \"result\"}\n\tinput.rpc != \"Decode\"\n\tstartswith(input.rpc, \"Poll\")\n\tinput.caller.kind == \"jwt\"\n}", ""},
		"names of other things": {pass + "{\n\tinput.payload.name in {\"inptu\"}\n\tinput.workflow.type == \"resutl\"\n}", ""},
		"a helper of both":      {pass + "{\n\tis(input.payload.kind, \"memo\")\n\tis(input.workflow.type, \"Order\")\n}\n\nis(x, y) if x == y", ""},
		"a list of both":        {pass + "{\n\tinput.payload.kind in names\n\tinput.workflow.type in names\n}\n\nnames := {\"memo\", \"Order\"}", ""},
		"lower case":            {pass + `lower(input.payload.kind) == "x"`, ""},
		"claims":                {`response contains {"action": "open"} if input.caller.claims.kind == "mtsl"`, ""},
		"of verdicts' reasons":  {`request contains {"action": "deny", "reason": "pas"} if input.payload.kind == "memo"`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, map[string]string{"policy.rego": "package temporal\n\n" + tt.rules + "\n"}, testRPCs)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("the error is %v, want one with %s", err, tt.want)
			}
		})
	}
}

// TestNamesOfNamespaces blames a namespace's file for its own names alone.
func TestNamesOfNamespaces(t *testing.T) {
	t.Parallel()
	_, err := load(t, map[string]string{
		"policy.rego": "package temporal\n\nkinds := {\"memo\"}\n\nis(x) if x in {\"Order\"}\n",
		"clinic.rego": "package temporal.namespaces[\"clinic\"]\n\nimport data.temporal\n\nrequest contains {\"action\": \"pass\"} if {\n\tinput.payload.kind == \"memmo\"\n\ttemporal.is(input.payload.kind)\n}\n",
	}, testRPCs)
	if err == nil || !strings.Contains(err.Error(), `clinic.rego:6: "memmo" is not a kind of payload; did you mean "memo"?`) || strings.Contains(err.Error(), "Order") {
		t.Errorf("the error is %v", err)
	}
}
