package policy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"
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

// TestEqualPayloadsAreEvaluatedOnce: what differs in nothing that the rules have read shares an evaluation.
func TestEqualPayloadsAreEvaluatedOnce(t *testing.T) {
	p := mustLoad(t, map[string]string{"policy.rego": `package temporal

request contains {"action": "deny"} if {
	input.payload.kind == "header"
	input.payload.name == "authorization"
}

request contains {"action": "deny"} if {
	input.payload.kind == "search_attribute"
	input.content.json == "eyJ"
}
`})
	for _, c := range []struct {
		kind, data  string
		evaluations int
	}{
		{KindSearchAttribute, `""`, 1}, {KindSearchAttribute, `%d`, 101}, {KindMemo, `%d`, 1}, {KindHeader, `0`, 100},
	} {
		call := new(Call)
		for i := range 100 {
			data := c.data
			if strings.Contains(data, "%d") {
				data = fmt.Sprintf(data, i)
			}
			in := &Input{Namespace: "n", Kind: c.kind, Name: fmt.Sprint(c.kind, c.evaluations, i), Encoding: "json/plain", Data: []byte(data), Call: call}
			decide(t, p, Request, in)
		}
		if call.evaluations > c.evaluations {
			t.Errorf("%s of %s: %d evaluations", c.kind, c.data, call.evaluations)
		}
		last := &Input{Namespace: "n", Kind: c.kind, Name: "authorization", Encoding: "json/plain", Data: []byte(`"eyJ"`), Call: call}
		if v := decide(t, p, Request, last); (v.Action == Deny) != (c.kind != KindMemo) {
			t.Errorf("%s: %s", c.kind, v)
		}
	}
}

// TestSharedVerdictsAreThoseOfTheRules decides about made-up payloads with and without what a call shares.
func TestSharedVerdictsAreThoseOfTheRules(t *testing.T) {
	p := mustLoad(t, map[string]string{
		"policy.rego": sensitive["policy.rego"] + "\nis_token(x) if regex.match(`^eyJ`, x)\n", "a.rego": sensitive["a.rego"], "b.rego": sensitive["b.rego"],
		"clinic.rego": clinicTeam,
	})
	p.cache = nil
	r := rand.New(rand.NewPCG(5, 6))
	decided, evaluated := 0, 0
	for range 300 {
		d, first := randomInput(r)
		call := new(Call)
		for range 20 {
			_, other := randomInput(r)
			in := *first
			in.Name, in.Kind, in.Data = other.Name, other.Kind, other.Data
			if r.IntN(2) == 0 {
				in.Path, in.Encoding = other.Path, other.Encoding
			}
			want, wantErr := p.Decide(context.Background(), d, &in)
			in.Call = call
			got, err := p.Decide(context.Background(), d, &in)
			if fmt.Sprintf("%+v %v", got, err) != fmt.Sprintf("%+v %v", want, wantErr) {
				t.Fatalf("%+v: %+v, %v, without the call %+v, %v", in, got, err, want, wantErr)
			}
			decided++
		}
		evaluated += call.evaluations
	}
	if evaluated > decided*9/10 {
		t.Errorf("%d of %d decisions were evaluated", evaluated, decided)
	}
}

// TestEvaluationsAreBounded: a request with ever new content is refused in the end.
func TestEvaluationsAreBounded(t *testing.T) {
	p := mustLoad(t, map[string]string{"policy.rego": "package temporal\n\nrequest contains {\"action\": \"pass\"} if input.content.json == 1\n"})
	call := new(Call)
	for i := range maxEvaluations + 1 {
		in := &Input{Namespace: "n", Kind: KindInput, Encoding: "json/plain", Data: fmt.Append(nil, i), Call: call}
		_, err := p.Decide(context.Background(), Request, in)
		if errors.Is(err, ErrTooMany) != (i >= maxEvaluations) {
			t.Fatalf("evaluation %d: %v", i+1, err)
		}
	}
	call = &Call{spent: maxSpent}
	in := &Input{Namespace: "n", Kind: KindInput, Encoding: "json/plain", Call: call, Data: []byte("[" + strings.Repeat("0,", 50_000) + "1]")}
	if _, err := p.Decide(context.Background(), Request, in); err == nil || !strings.Contains(err.Error(), "on the payloads of one message") {
		t.Errorf("after the time of the message: %v", err)
	}
}

// TestNamespacesDoNotWaitForEachOther: evaluations of one namespace's module wait for their turn, others don't.
func TestNamespacesDoNotWaitForEachOther(t *testing.T) {
	own := func(name string) string {
		return "package temporal.namespaces[\"" + name + "\"]\n\nrequest contains {\"action\": \"pass\"} if input.content.json == 1\n"
	}
	p := mustLoad(t, map[string]string{"policy.rego": floor, "slow.rego": own("slow"), "fast.rego": own("fast")})
	running := p.queries("slow")[Request].running
	for range cap(running) {
		running <- struct{}{}
	}
	if want := max(1, runtime.GOMAXPROCS(0)/2); cap(running) != want {
		t.Errorf("%d evaluations at once, want %d", cap(running), want)
	}
	for namespace, waits := range map[string]bool{"slow": true, "fast": false, "none": false} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		if waits {
			cancel()
		}
		_, err := p.Decide(ctx, Request, &Input{Namespace: namespace, Kind: KindInput, Encoding: "json/plain", Data: []byte("1")})
		if (err != nil) != waits {
			t.Errorf("%s: %v", namespace, err)
		}
		cancel()
	}
	<-running
	decide(t, p, Request, &Input{Namespace: "slow", Kind: KindInput, Encoding: "json/plain", Data: []byte("1")})
	if len(running) != cap(running)-1 {
		t.Error("an evaluation that has ended still counts")
	}
}
