package rewrite

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// TestASparseWalkFindsAllThatIsSealed compares a walk that descends only where a marker is with one that descends
// everywhere, on random responses of every type. Both have to find the same sealed payloads, with the same facts, and the same
// tasks.
func TestASparseWalkFindsAllThatIsSealed(t *testing.T) {
	r := newRewriter(t, sealAll)
	sealed, tasks, skipped := 0, 0, 0
	eachMessage(t, r, func(t *testing.T, m *Method, d protoreflect.MessageDescriptor, response bool) {
		for round := range rounds() {
			g := &generator{rand: rand.New(rand.NewPCG(uint64(round), 12)), dense: round%2 == 0, marked: 1 + round%7}
			in := marshal(g.message(d, 0))
			if !response {
				continue
			}
			all, few := found(t, r, m, in, false), found(t, r, m, in, true)
			if !slices.Equal(all.sealed, few.sealed) {
				t.Errorf("round %d: sealed payloads\n everywhere: %v\n by markers: %v", round, all.sealed, few.sealed)
			}
			if !slices.Equal(all.tasks, few.tasks) {
				t.Errorf("round %d: tasks\n everywhere: %v\n by markers: %v", round, all.tasks, few.tasks)
			}
			sealed, tasks, skipped = sealed+len(all.sealed), tasks+len(all.tasks), skipped+all.slots-few.slots
		}
	})
	if sealed == 0 || tasks == 0 || skipped == 0 {
		t.Errorf("%d sealed payloads, %d tasks, %d payloads skipped: the messages did not hold what the test is about", sealed, tasks, skipped)
	}
	t.Logf("%d sealed payloads and %d tasks found by both; the walk by markers skipped %d payloads", sealed, tasks, skipped)
}

type finding struct {
	sealed, tasks []string
	slots         int
}

// found returns what a walk over a response finds.
func found(t *testing.T, r *Rewriter, m *Method, in []byte, sparse bool) (f finding) {
	t.Helper()
	message := Message{walk: walk{plan: r.plan.Load(), method: m.name, response: true, sparse: sparse}}
	w := &message.walk
	if err := w.runRegular(m.response, in); err != nil {
		t.Fatal(err)
	}
	err := message.payloads(func(s *slot, failure int, payload []byte) error {
		if envelope.Marked(payload) {
			facts := w.facts(s.scope)
			f.sealed = append(f.sealed, fmt.Sprintf("%s %q %d %v %q", s.f.path, message.name(s), failure, facts, payload))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range w.scopes {
		if s := &w.scopes[i]; s.task {
			f.tasks = append(f.tasks, fmt.Sprintf("%q %v", s.token.of(w.buf), w.facts(int32(i))))
		}
	}
	f.slots = len(w.slots)
	return f
}
