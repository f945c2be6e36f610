package policy

import (
	"context"
	"fmt"
	"sync"

	"github.com/open-policy-agent/opa/v1/version"
)

// selfTestRules are chosen such that each verdict shows whether OPA reported what a rule reached for.
const selfTestRules = `package temporal

request contains {"action": "pass"} if {
	input.payload.kind == "input"
	not input.workflow.type == "Secret"
}

request contains {"action": "pass"} if {
	input.payload.kind == "result"
	not input.content.json.secret
}

request contains {"action": "pass"} if {
	input.payload.kind == "signal"
	not input.payload.name == "secret"
}

request contains {"action": "pass"} if input.payload.kind == "memo"
`

// selfTestCases are decided in this order, with one policy cache.
var selfTestCases = []struct {
	name          string
	in            Input
	want          Action
	weakened, hit bool
}{
	{"a fact that is known", Input{Kind: KindInput, WorkflowType: "Public", Known: AllFacts}, Pass, false, false},
	{"a fact that is unknown", Input{Kind: KindInput}, Seal, true, false},
	{"an unknown fact that no rule reaches", Input{Kind: KindMemo}, Pass, false, false},
	{"the same payload once more", Input{Kind: KindMemo}, Pass, false, true},
	{"content that a rule accepts", Input{Kind: KindResult, Data: []byte(`{}`)}, Pass, false, false},
	{"content that the rule refuses", Input{Kind: KindResult, Data: []byte(`{"secret": true}`)}, Seal, false, false},
	{"content that cannot be read", Input{Kind: KindResult, Data: []byte(`{`)}, Seal, true, false},
	{"a name that is unknown", Input{Kind: KindSignal, Apart: true}, Seal, true, false},
}

// selfTest checks, once per process and before any policy serves, that OPA still reports what rules reach
// for. That an unknown fact turns a pass into a seal, and that no verdict on a payload's content is kept,
// depends on how OPA evaluates lazy objects. OPA does not promise this, so an upgrade may change it.
var selfTest = sync.OnceValue(func() error {
	p, err := selfTestPolicy()
	if err != nil {
		return err
	}
	return p.selfTest()
})

// selfTestPolicy loads the rules without a dry run, which would evaluate them before they are checked.
func selfTestPolicy() (*Policy, error) {
	files := Sources{{name: "self-test.rego", text: []byte(selfTestRules)}}
	return assemble(context.Background(), Options{CacheSize: 1 << 6}, files, nil)
}

// selfTest decides every case and returns an error for the first unexpected verdict.
func (p *Policy) selfTest() error {
	for _, c := range selfTestCases {
		in := c.in
		in.Namespace, in.Encoding = "self-test", "json/plain"
		v, err := p.Decide(context.Background(), Request, &in)
		if err == nil && v.Action == c.want && v.Weakened == c.weakened && v.Hit == c.hit {
			continue
		}
		return &Error{Err: fmt.Errorf("self-test: %s: got %s (weakened %v, from the cache %v, error %v), "+
			"want %s (weakened %v, from the cache %v). OPA %s evaluates input in another way than this proxy relies on, "+
			"so rules could read an unknown fact without being noticed. Nothing is served; "+
			"run a published release, or build with the version of OPA that its go.mod names",
			c.name, v.Action, v.Weakened, v.Hit, err, c.want, c.weakened, c.hit, version.Version)}
	}
	return nil
}
