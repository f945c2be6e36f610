package policy

import (
	"slices"
	"strings"
	"testing"
)

// TestWhatAQueryCanRead holds the analysis to each way in which a rule may reach into input.
func TestWhatAQueryCanRead(t *testing.T) {
	all := func(prefix string) (names []string) {
		for _, name := range (readEverything &^ readContent).Names() {
			name = "input." + name
			if strings.HasPrefix(name, prefix) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	for name, tt := range map[string]struct {
		rules string
		want  []string
	}{
		"nothing":                    {`request contains {"action": "pass"}`, nil},
		"in a body":                  {`request contains {"action": "pass"} if input.rpc == "x"`, []string{"input.rpc"}},
		"in a head":                  {`request contains {"action": "seal", "key": input.payload.name}`, []string{"input.payload.name"}},
		"in a negation":              {`request contains {"action": "pass"} if not input.payload.name == "x"`, []string{"input.payload.name"}},
		"in a comprehension":         {`request contains {"action": "pass"} if count({x | x := input.payload.path}) == 1`, []string{"input.payload.path"}},
		"in every":                   {`request contains {"action": "pass"} if { every x in [1] { x == input.payload.path } }`, []string{"input.payload.path"}},
		"in a nested reference":      {"request contains {\"action\": table[input.workflow.type]}\n\ntable := {\"x\": \"pass\"}", []string{"input.workflow.type"}},
		"in a rule":                  {"request contains {\"action\": \"pass\"} if ok\n\nok if input.caller.kind == \"mtls\"", []string{"input.caller.kind"}},
		"in a default's other rules": {"request contains {\"action\": v}\n\ndefault v := \"seal\"\n\nv := \"pass\" if input.activity.id == \"1\"", []string{"input.activity.id"}},
		"in an else":                 {"request contains {\"action\": f(1)}\n\nf(x) := \"pass\" if {\n\tx == 2\n} else := \"seal\" if {\n\tinput.workflow.id == \"w\"\n}", []string{"input.workflow.id"}},
		"in an argument":             {"request contains {\"action\": \"pass\"} if f(input.payload.type)\n\nf(x) if x == \"t\"", []string{"input.payload.type"}},
		"one claim":                  {`request contains {"action": "pass"} if "a" in input.caller.claims.groups`, []string{"input.caller.claims.groups"}},
		"a claim by a variable":      {`request contains {"action": "pass"} if { some n in ["a"]; input.caller.claims[n] }`, []string{"input.caller.claims"}},
		"a member by a variable":     {`request contains {"action": "pass"} if { some n in ["id"]; input.activity[n] == "1" }`, all("input.activity.")},
		"an object as a whole":       {"request contains {\"action\": \"pass\"} if f(input.workflow)\n\nf(x) if x.id == \"w\"", all("input.workflow.")},
		"input as a whole":           {"request contains {\"action\": \"pass\"} if f(input)\n\nf(x) if x.rpc == \"r\"", all("input.")},
		"under with":                 {"request contains {\"action\": \"pass\"} if ok with input.rpc as input.payload.name\n\nok if input.rpc == \"r\"", all("input.")},
		"content is left out":        {`request contains {"action": "pass"} if input.content.json.a == input.payload.kind`, []string{"input.payload.kind"}},
		"an unused rule":             {"request contains {\"action\": \"pass\"}\n\nunused if input.rpc == \"x\"", nil},
		"the other direction":        {"request contains {\"action\": \"pass\"}\n\nresponse contains {\"action\": \"open\"} if input.sealed.key == \"k\"", nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustLoad(t, map[string]string{"policy.rego": "package temporal\n\n" + tt.rules + "\n"})
			if got := p.queries("")[Request].reads.keyNames(); !slices.Equal(got, tt.want) {
				t.Errorf("it reads %v, want %v", got, tt.want)
			}
		})
	}
}
