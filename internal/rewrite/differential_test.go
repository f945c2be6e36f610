package rewrite

import (
	"context"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/proxy"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

var canaryPattern = regexp.MustCompile(canaryMark + `[0-9]+`)

// declared are the differences to the visitor of go.temporal.io/api/proxy,
// one by one. "ours" is a site that it does not visit, "theirs" one that we
// leave readable.
var declared = map[string]string{
	"raw_history": "ours: a history that is serialised within a DataBlob",
}

// visited gives the canaries in the payloads that the API's own visitor finds.
func visited(t *testing.T, d protoreflect.MessageDescriptor, in []byte) map[string]bool {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	m := mt.New().Interface()
	if err := proto.Unmarshal(in, m); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	err = proxy.VisitPayloads(context.Background(), m, proxy.VisitPayloadsOptions{SkipSearchAttributes: true,
		Visitor: func(_ *proxy.VisitPayloadsContext, ps []*commonpb.Payload) ([]*commonpb.Payload, error) {
			for _, p := range ps {
				for _, c := range canaryPattern.FindAllString(string(p.Data), -1) {
					found[c] = true
				}
			}
			return ps, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestVisitsWhatTheAPIsVisitorVisits compares the payloads that the walk
// finds with those of go.temporal.io/api/proxy, on random messages of every
// type. Histories within a DataBlob and exempt sites are the declared
// differences; both are taken out of the messages, and each is counted to
// show that it was there.
func TestVisitsWhatTheAPIsVisitorVisits(t *testing.T) {
	r := newRewriter(t, sealAll)
	compared, blobs := 0, 0
	eachMessage(t, r, func(t *testing.T, m *Method, d protoreflect.MessageDescriptor, response bool) {
		for round := range rounds() {
			g := &generator{rand: rand.New(rand.NewPCG(uint64(round), 11)), dense: round%2 == 0}
			message := g.message(d, 0)
			dropExempt(message)
			blobs += dropBlobs(message)
			in := marshal(message)

			c := compiler{plan: r.plan.Load(), method: m.name}
			w := walk{plan: r.plan.Load(), method: m.name}
			w.reset(in)
			if err := w.run(c.message(d, "", "")); err != nil {
				t.Fatal(err)
			}
			ours := map[string]bool{}
			for i := range w.slots {
				s := &w.slots[i]
				if s.f.op == opPayload {
					b := w.boxes[s.box]
					for _, c := range canaryPattern.FindAllString(string(in[b.start:b.end]), -1) {
						ours[c] = true
					}
				}
			}
			for i := range w.failures {
				for _, c := range canaryPattern.FindAllString(string(w.failures[i].parts[failAttributes].value.of(in)), -1) {
					ours[c] = true
				}
			}
			theirs := visited(t, d, in)
			compared += len(theirs)
			if !maps.Equal(ours, theirs) {
				t.Errorf("round %d: the walk found %d payloads, the visitor %d; only ours: %v, only theirs: %v", round,
					len(ours), len(theirs), without(ours, theirs), without(theirs, ours))
			}
		}
	})
	if compared == 0 || blobs == 0 {
		t.Errorf("%d payloads compared, %d serialised histories taken out: the messages did not hold what the test is about", compared, blobs)
	}
	t.Logf("%d payloads visited by both; declared differences: %v, and the %d exemptions", compared, declared, len(exemptions))
}

func without(a, b map[string]bool) []string {
	var only []string
	for k := range a {
		if !b[k] {
			only = append(only, k)
		}
	}
	slices.Sort(only)
	return only
}

// dropBlobs empties the serialised histories in a message and counts them.
func dropBlobs(m protoreflect.Message) int {
	n := 0
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Message() == nil || fd.IsMap():
		case fd.Message().FullName() == msgDataBlob:
			m.Clear(fd)
			n++
		case fd.IsList():
			for i := range v.List().Len() {
				n += dropBlobs(v.List().Get(i).Message())
			}
		default:
			n += dropBlobs(v.Message())
		}
		return true
	})
	return n
}
