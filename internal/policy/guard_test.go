package policy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"
)

// test.panic(x) stands for a builtin with a fault in it.
func init() {
	b := &ast.Builtin{Name: "test.panic", Decl: types.NewFunction(types.Args(types.A), types.B)}
	ast.RegisterBuiltin(b)
	topdown.RegisterBuiltinFunc(b.Name, func(_ topdown.BuiltinContext, args []*ast.Term, _ func(*ast.Term) error) error {
		panic("cannot handle " + args[0].String())
	})
	capabilities.Builtins = append(capabilities.Builtins, b)
}

const secret = "canary-5d41402a"

// guarded is a policy whose rules fail in different ways, each for payloads of one name.
const guarded = `package temporal

request contains {"action": "pass"}

request contains {"action": "deny"} if {
	input.payload.name == "panic"
	test.panic(input.content.json)
}

request contains {"action": "deny"} if {
	input.payload.name == "slow"
	some a in numbers.range(1, 3000)
	some b in numbers.range(1, 3000)
	a * b == -1
}

request contains {"action": "deny"} if {
	input.payload.name == "conflict"
	twice(input.content.json) == 1
}

twice(x) := 1 if x
twice(x) := x if x

request contains {"action": "deny"} if {
	input.payload.name == "builtin"
	to_number(input.content.json) == 1
}

request contains {"action": "deny", "reason": sprintf("saw %v", [input.content.json])} if input.payload.name == "reason"

request contains {"action": "deny", "reason": concat(" ", ["no", input.payload.name])} if startswith(input.payload.name, "memo")

request contains {"action": "seal", "key": input.content.json} if input.payload.name == "key"

request contains {"action": "seal", "fields": [input.content.json]} if input.payload.name == "fields"
`

func TestFailingRules(t *testing.T) {
	p := mustLoad(t, map[string]string{"policy.rego": guarded}, ranked("default"))
	p.queries("n")[Request].limit = 50 * time.Millisecond
	for name, want := range map[string]string{
		"panic":    "the evaluation panicked",
		"slow":     "the rules took longer than 50",
		"conflict": "two different values",
		"key":      "computed the name of a key from the payload",
		"fields":   `member "fields"`,
	} {
		in := &Input{Namespace: "n", Kind: KindMemo, Name: name, Encoding: "json/plain", Data: []byte(`"` + secret + `"`)}
		start := time.Now()
		_, err := p.Decide(context.Background(), Request, in)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) || e.Namespace != "n" {
			t.Errorf("%s: got %v", name, err)
		}
		if strings.Contains(fmt.Sprint(err), secret) {
			t.Errorf("%s: the error holds what is in the payload: %v", name, err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
	}
	for name, want := range map[string]string{
		"reason":  "denied by policy (its reason was computed from the payload, so it is not repeated here)",
		"memo-42": "no memo-42",
	} {
		v := decide(t, p, Request, &Input{Namespace: "n", Kind: KindMemo, Name: name, Encoding: "json/plain", Data: []byte(`"` + secret + `"`)})
		if v.Action != Deny || v.Reason != want {
			t.Errorf("%s: %s", name, v)
		}
	}
	// A builtin that cannot make sense of its arguments leaves its rule undefined.
	if v := decide(t, p, Request, &Input{Namespace: "n", Kind: KindMemo, Name: "builtin", Encoding: "json/plain", Data: []byte(`"x"`)}); v.Action != Pass {
		t.Errorf("builtin: %s", v)
	}
}

func TestEndedCall(t *testing.T) {
	p := mustLoad(t, map[string]string{"policy.rego": guarded})
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("caller went away"))
	_, err := p.Decide(ctx, Request, &Input{Namespace: "n", Kind: KindMemo, Name: "slow"})
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "the call ended while its policy was evaluated: caller went away") {
		t.Errorf("got %v", err)
	}
	// An evaluation that broke off must not have left anything in the cache.
	if v := decide(t, p, Request, &Input{Namespace: "n", Kind: KindMemo, Name: "other"}); v.Action != Pass || v.Hit {
		t.Errorf("got %s, hit %v", v, v.Hit)
	}
}

func TestBadClaims(t *testing.T) {
	p := mustLoad(t, map[string]string{"policy.rego": "package temporal\n\nrequest contains {\"action\": \"pass\"} if input.caller.claims.team == \"x\"\n"})
	in := &Input{Namespace: "n", Kind: KindMemo, Caller: NewCaller("jwt", "s", "", map[string]any{"f": func() {}})}
	var e *Error
	if _, err := p.Decide(context.Background(), Request, in); !errors.As(err, &e) || !strings.Contains(err.Error(), `claim "f" of the caller is not a JSON value`) {
		t.Errorf("got %v", err)
	}
}

// TestPassHoldsWhateverIsUnknown: where a pass was given although facts or content were
// out of sight, no value of theirs would have made it anything else.
func TestPassHoldsWhateverIsUnknown(t *testing.T) {
	ctx := context.Background()
	p := mustLoad(t, map[string]string{
		"policy.rego": sensitive["policy.rego"] + "\nis_token(x) if regex.match(`^eyJ`, x)\n", "a.rego": sensitive["a.rego"], "b.rego": sensitive["b.rego"],
		"clinic.rego": clinicTeam,
	})
	r := rand.New(rand.NewPCG(3, 4))
	passed, weakened := 0, 0
	for range 8_000 {
		_, in := randomInput(r)
		in.Namespace = pick(r, "a", "b", "c", "clinic")
		if in.Kind == KindSearchAttribute || in.Kind == KindReason {
			continue
		}
		v, err := p.Decide(ctx, Request, in)
		if err != nil {
			t.Fatal(err)
		}
		if v.Weakened {
			weakened++
		}
		if v.Action != Pass || in.unknown() == 0 {
			continue
		}
		passed++
		for range 6 {
			known := *in
			known.Known |= in.unknown()
			known.WorkflowID, known.WorkflowType = pick(r, "w1", "acme/1"), pick(r, "Pay", "Ship", "Admission")
			known.TaskQueue, known.ActivityID, known.ActivityType = pick(r, "q1", "other"), pick(r, "7", "8"), pick(r, "Scan", "Mail")
			for _, m := range members { // what was known stays
				if in.Known&m.read != 0 {
					*m.text(&known) = *m.text(in)
				}
			}
			if v, err := p.Decide(ctx, Request, &known); err != nil || v.Action != Pass {
				t.Fatalf("passed with %v unknown, but %s (%v) with %+v", in.unknown().Names(), v, err, known)
			}
		}
	}
	if passed < 100 || weakened < 100 {
		t.Errorf("only %d passes over unknown facts and %d weakened ones were seen", passed, weakened)
	}
}

// TestPartsHoldOnlyOverKnownFacts: fields and clear leave something readable, as a pass does.
func TestPartsHoldOnlyOverKnownFacts(t *testing.T) {
	for _, parts := range []string{`"fields": ["/a"]`, `"clear": ["/a"]`} {
		p := mustLoad(t, map[string]string{"policy.rego": "package temporal\n\nrequest contains {\"action\": \"seal\", " + parts +
			"}\n\nrequest contains {\"action\": \"seal\"} if input.workflow.type == \"Secret\"\n"})
		in := &Input{Namespace: "n", Kind: KindSignal, NotApplicable: AllFacts}
		if v := decide(t, p, Request, in); v.Weakened || len(v.Fields)+len(v.Clear) != 1 {
			t.Errorf("%s, nothing unknown: %s", parts, v)
		}
		in.NotApplicable = 0
		if v := decide(t, p, Request, in); !v.Weakened || v.Fields != nil || v.Clear != nil || v.Action != Seal {
			t.Errorf("%s, the type unknown: %s", parts, v)
		}
	}
}

// TestContentIsDecodedOnlyWhenRead gives content that no decoder would get through
// unnoticed to rules that do not look.
func TestContentIsDecodedOnlyWhenRead(t *testing.T) {
	p := mustLoad(t, map[string]string{"policy.rego": floor, "clinic.rego": clinicTeam}, ranked("phi", "jwt", "default"))
	in := &Input{Namespace: "clinic", Kind: KindInput, Encoding: "json/plain", WorkflowType: "Mail",
		Known: FactWorkflowType, NotApplicable: FactActivityType, Data: []byte(`{"broken`)}
	for i, hit := range []bool{false, true, true} {
		if v := decide(t, p, Request, in); v.Action != Pass || v.Hit != hit {
			t.Errorf("decision %d: %s, hit %v", i, v, v.Hit)
		}
	}
	in.WorkflowType = "Admission"
	for range 3 {
		if v := decide(t, p, Request, in); v.Action != Seal || !v.Weakened || v.Hit {
			t.Errorf("over broken content: %s, hit %v", v, v.Hit)
		}
	}
	in.Data = []byte(`{"fine":1}`)
	if v := decide(t, p, Request, in); v.Action != Pass || v.Hit {
		t.Errorf("over other content: %s, hit %v", v, v.Hit)
	}
}

// TestDecodingIsLinear gives the decoder as much as it takes of what costs most.
func TestDecodingIsLinear(t *testing.T) {
	for name, unit := range map[string]string{"numbers": "1e999", "objects": `{"":0}`, "strings": `"\u00e9"`, "arrays": "[[]]"} {
		text := "[" + strings.Repeat(unit+",", min(maxContent/(len(unit)+1), maxValues/3)-10) + "0]"
		start := time.Now()
		_, err := decodeJSON([]byte(text), nil)
		took := time.Since(start)
		t.Logf("%s: %v", name, took)
		if err != nil || took > 20*time.Second { // seconds on a busy machine; hours if each number cost its value
			t.Errorf("%s: decoded %v in %v", name, err, took)
		}
	}
	deep := strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000)
	if _, err := decodeJSON([]byte(deep), nil); err != nil {
		t.Error("a deep document was not decoded")
	}
}

func TestDecodeJSON(t *testing.T) {
	for text, want := range map[string]string{
		`{"a":[1,-2.5e3,"x\n\u00e9\ud83d\ude00",true,false,null],"b":{}}`: `{"a": [1, -2.5e3, "x\né😀", true, false, null], "b": {}}`,
		" [ ] ": "[]", `"\/"`: `"/"`, "12345678901234567890123": "12345678901234567890123",
		`{"a":1,"a":1}`: "", `{"\u0061":1,"a":2}`: "", `{"x":[{"k":1,"k":2}]}`: "", "{": "", "": "", "1 2": "",
		"\"\xff\"": "", "1e9999": "", "1e-0099": "1e-0099", strings.Repeat("1", 65): "", "[1,1e25000]": "",
	} {
		v, err := decodeJSON([]byte(text), nil)
		ok := err == nil
		if !ok {
			v = ast.String("")
		}
		if ok != (want != "") || (ok && v.String() != want) {
			t.Errorf("%s: %s, %v", text, v, ok)
		}
	}
}
