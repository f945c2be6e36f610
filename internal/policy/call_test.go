package policy

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// readsContent is a policy whose verdicts depend on the content.
const readsContent = `package temporal

request contains {"action": "pass"} if not input.content.json.secret

request contains {"action": "deny"} if {
	walk(input.content.json, [_, text])
	text == "eyJ"
}
`

// TestContentOfManyValues: a document that is too large to look into is sealed, or refused where it cannot be.
func TestContentOfManyValues(t *testing.T) {
	p := mustLoad(t, map[string]string{"policy.rego": readsContent})
	for name, text := range map[string]string{
		"lists":   "[" + strings.Repeat("[],", maxValues) + `"eyJ"]`,
		"members": `{"a":[` + strings.Repeat(`{"":0},`, maxValues/3) + `"eyJ"]}`,
		"bytes":   `["` + strings.Repeat("x", maxContent) + `","eyJ"]`,
	} {
		in := &Input{Namespace: "n", Kind: KindInput, Encoding: "json/plain", Data: []byte(text)}
		if v := decide(t, p, Request, in); v.Action != Seal || !v.Weakened {
			t.Errorf("%s: %s", name, v)
		}
		in.Kind = KindSearchAttribute
		if v := decide(t, p, Request, in); v.Action != Deny || !strings.Contains(v.Reason, "cannot be checked") {
			t.Errorf("%s in a search attribute: %s", name, v)
		}
	}
	in := &Input{Namespace: "n", Kind: KindInput, Encoding: "json/plain", Data: []byte("[" + strings.Repeat("[],", maxValues-3) + `"x"]`)}
	if v := decide(t, p, Request, in); v.Action != Pass || v.Weakened {
		t.Errorf("just as many as rules may look into: %s", v)
	}
}

// memory lets a call have so many bytes.
type memory struct{ left, charged int64 }

var errFull = errors.New("others use the memory")

func (m *memory) Charge(n int64) error {
	if n > m.left {
		return errFull
	}
	m.left -= n
	m.charged += n
	return nil
}

// TestContentIsCharged: the values of a document count against the call's memory, those of one document at a time.
func TestContentIsCharged(t *testing.T) {
	p := mustLoad(t, map[string]string{"policy.rego": readsContent})
	m := &memory{left: 3 << 20}
	call := Call{Memory: m}
	try := func(values int) error {
		in := &Input{Namespace: "n", Kind: KindInput, Encoding: "json/plain", Data: []byte("[" + strings.Repeat("0,", values) + "0]"), Call: &call}
		_, err := p.Decide(context.Background(), Request, in)
		return err
	}
	if err := try(chargeStep / 2); err != nil || m.charged != 0 {
		t.Errorf("a small document: %d bytes charged, %v", m.charged, err)
	}
	for range 3 {
		if err := try(20_000); err != nil || m.charged < 20_000*valueCost || m.charged > 25_000*valueCost {
			t.Errorf("20,000 values: %d bytes charged, %v", m.charged, err)
		}
	}
	if err := try(50_000); !errors.Is(err, errFull) {
		t.Errorf("more than there is: %v", err)
	}
}
