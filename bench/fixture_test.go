package main

import (
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
	"google.golang.org/protobuf/proto"
)

func TestMixedHistory(t *testing.T) {
	h := mixedHistory()
	if len(h.Events) != historyEvents {
		t.Errorf("%d events, want %d", len(h.Events), historyEvents)
	}
	if size := proto.Size(h); size < 500<<10 || size > 2<<20 {
		t.Errorf("%d bytes, want 0.5 to 2 MB", size)
	}
	all, err := slotsOf(h)
	if err != nil {
		t.Fatal(err)
	}
	small, large := 0, 0
	for _, p := range all.payloads {
		switch n := len(p.Data); {
		case n < 20 || n > 100<<10:
			t.Errorf("a payload of %d bytes", n)
		case n < 300:
			small++
		case n >= 10_000:
			large++
		}
	}
	if small*2 < len(all.payloads) || large == 0 {
		t.Errorf("of %d payloads %d are small and %d are large", len(all.payloads), small, large)
	}
	if len(all.failures) < 30 {
		t.Errorf("%d failures, want 30 at least", len(all.failures))
	}
}

// Every epoch has to seal something, or the history would have fewer data keys than is said.
func TestDeal(t *testing.T) {
	all, err := slotsOf(mixedHistory())
	if err != nil {
		t.Fatal(err)
	}
	dealt, clear := 0, 0
	seen := map[*commonpb.Payload]bool{}
	for i, generation := range deal(all) {
		for j, mine := range generation {
			if len(mine.payloads) == 0 {
				t.Errorf("process %d of generation %d has no payload to seal", j, i)
			}
			dealt += len(mine.payloads) + len(mine.failures)
			for k, p := range mine.payloads {
				if seen[p] {
					t.Error("a payload was dealt twice")
				}
				seen[p] = true
				if passes(k) {
					clear++
				}
			}
		}
	}
	if want := len(all.payloads) + len(all.failures); dealt != want {
		t.Errorf("%d slots were dealt, want %d", dealt, want)
	}
	if share := float64(clear) / float64(len(all.payloads)); share < 0.4 || share > 0.6 {
		t.Errorf("%.2f of %d payloads pass in clear, want half", share, len(all.payloads))
	}
	t.Logf("%d payloads, %d failures, %d payloads in clear", len(all.payloads), len(all.failures), clear)
}

func TestSlots(t *testing.T) {
	text := func(s string) *commonpb.Payload { return &commonpb.Payload{Data: []byte(s)} }
	attributes := &historypb.WorkflowExecutionStartedEventAttributes{Input: payloads(text("input")),
		Memo:             &commonpb.Memo{Fields: map[string]*commonpb.Payload{"m": text("memo")}},
		SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{"s": text("attribute")}},
		ContinuedFailure: failure(newRand(), 2)}
	m := &historypb.History{Events: []*historypb.HistoryEvent{{Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
		WorkflowExecutionStartedEventAttributes: attributes}}}}
	before := proto.CloneOf(m)
	s, err := slotsOf(m)
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(m, before) {
		t.Error("the message was changed")
	}
	var found []string
	for _, p := range s.payloads {
		found = append(found, string(p.Data))
	}
	if got := strings.Join(found, " "); got != "input memo" && got != "memo input" {
		t.Errorf("payloads %q, want input and memo alone", got)
	}
	if len(s.failures) != 1 || s.failures[0] != attributes.ContinuedFailure {
		t.Errorf("%d failures, want the outermost alone", len(s.failures))
	}
}

func TestSealed(t *testing.T) {
	secret := payload(newRand(), 50)
	clear := &commonpb.Payload{Data: []byte("ciphertext")}
	withFailure := new(history)
	withFailure.activityFailed(failure(newRand(), 1))
	for name, c := range map[string]struct {
		m        proto.Message
		failures bool
		want     bool
	}{
		"ciphertext":                        {payloads(clear), true, true},
		"one of two in clear":               {payloads(clear, secret), true, false},
		"a failure in clear":                {&historypb.History{Events: withFailure.events}, true, false},
		"a failure in clear is not counted": {&historypb.History{Events: withFailure.events}, false, true},
	} {
		if got, err := sealed(c.m, c.failures); err != nil || got != c.want {
			t.Errorf("%s: %v, %v; want %v", name, got, err, c.want)
		}
	}
}

func TestCounters(t *testing.T) {
	c, err := parseCounters(strings.NewReader(`# HELP a_total what
# TYPE a_total counter
a_total{kind="x",code="1"} 2
a_total{kind="y",code="1"} 3
a_total_more 100
b 1.5e+03
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		name   string
		labels []string
		want   float64
	}{{"a_total", nil, 5}, {"a_total", []string{`kind="y"`}, 3}, {"b", nil, 1500}, {"c", nil, 0}} {
		if got := c.sum(s.name, s.labels...); got != s.want {
			t.Errorf("%s %v: %v, want %v", s.name, s.labels, got, s.want)
		}
	}
}

// The mix is one of a hundred calls, and each call's request has an answer of its own.
func TestMix(t *testing.T) {
	w, err := newMix("../testdata/rpc")
	if err != nil {
		t.Fatal(err)
	}
	if len(w.calls) != 100 {
		t.Errorf("%d calls, want 100", len(w.calls))
	}
	answers := map[string]proto.Message{}
	for _, a := range w.stored {
		key, err := answerKey(a.method, a.request)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := answers[key]; ok && !proto.Equal(other, a.response) {
			t.Errorf("two different answers for %s", a.method)
		}
		answers[key] = a.response
	}
}
