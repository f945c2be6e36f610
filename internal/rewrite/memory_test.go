package rewrite

import (
	"bytes"
	"context"
	"errors"
	"testing"

	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protowire"
)

// counter is a Memory with a limit.
type counter struct{ n, most, limit int64 }

var errFull = errors.New("others use it")

func (c *counter) Charge(n int64) error {
	if c.n+n > c.limit {
		return errFull
	}
	c.n += n
	c.most = max(c.most, c.n)
	return nil
}

// counted has a request sealed, or a response opened, with its memory counted.
func counted(t testing.TB, r *Rewriter, method string, in []byte, memory Memory, response bool) (kind Kind, err error) {
	t.Helper()
	s := r.call(r.Method(service + method))
	defer s.Done()
	s.CountIn(memory)
	if response {
		_, err = s.Response(context.Background(), in)
	} else {
		_, err = s.Request(context.Background(), in)
	}
	var e *Error
	if errors.As(err, &e) {
		kind = e.Kind
	}
	return kind, err
}

// numbered is a field on the wire.
func numbered(num protowire.Number, content []byte) []byte { return wireField(num, content) }

// manyParts are messages that take far more memory than they have bytes.
func manyParts() map[string]struct {
	method string
	in     []byte
} {
	type message = struct {
		method string
		in     []byte
	}
	head := func(times int) (in []byte) {
		for range times {
			in = append(in, numbered(9, []byte(testNamespace))...)
		}
		return in
	}
	decision := func(times, n int, command []byte) []byte {
		return append(head(times), bytes.Repeat(numbered(2, command), n)...)
	}
	chain := func(depth int, leaf []byte) []byte {
		f := leaf
		for range depth {
			f = append(bytes.Clone(leaf), numbered(4, f)...)
		}
		return f
	}
	failure := func(depth int, leaf []byte) []byte { return numbered(5, numbered(1, chain(depth, leaf))) }
	return map[string]message{
		"empty commands after a repeated field": {"RespondWorkflowTaskCompleted", decision(2, 200_000, nil)},
		"empty payloads":                        {"RespondActivityTaskCompleted", numbered(2, bytes.Repeat([]byte{0x0a, 0}, 200_000))},
		"commands with empty attributes":        {"RespondWorkflowTaskCompleted", decision(1, 200_000, numbered(2, nil))},
		"chains of failures":                    {"RespondWorkflowTaskCompleted", decision(1, 100, failure(1000, nil))},
		"chains of failures with messages":      {"RespondWorkflowTaskCompleted", decision(1, 100, failure(500, numbered(1, []byte("m"))))},
	}
}

// TestPartsAreCounted: what a message takes by the number of its parts is counted, and refused where it is not free.
func TestPartsAreCounted(t *testing.T) {
	r := newRewriter(t, sealAll)
	for name, test := range manyParts() {
		t.Run(name, func(t *testing.T) {
			all := &counter{limit: 1 << 40}
			kind, _ := counted(t, r, test.method, test.in, all, false)
			if all.most < 4*int64(len(test.in)) {
				t.Errorf("%d bytes are counted for a message of %d", all.most, len(test.in))
			}
			if kind == KindMemory {
				t.Errorf("refused for memory although all is free")
			}
			little := &counter{limit: all.most / 2}
			if kind, err := counted(t, r, test.method, test.in, little, false); kind != KindMemory || !errors.Is(err, errFull) {
				t.Errorf("with half of it: %v %v", kind, err)
			}
		})
	}
	// What every worker sends costs no lock of the server.
	ordinary := bytesOf(t, &workflowpb.RespondActivityTaskCompletedRequest{Namespace: testNamespace, Result: jsonNoise(100 << 10)})
	none := &counter{}
	if _, err := counted(t, r, "RespondActivityTaskCompleted", ordinary, none, false); err != nil || none.most != 0 {
		t.Errorf("an ordinary message counts %d: %v", none.most, err)
	}
}

// TestTooMuchForOneMessage: a message that takes too much by itself is refused for good.
func TestTooMuchForOneMessage(t *testing.T) {
	r := newRewriter(t, sealAll)
	in := append(bytes.Repeat(numbered(9, []byte(testNamespace)), 2), bytes.Repeat([]byte{0x12, 0}, 2_000_000)...)
	if kind, err := counted(t, r, "RespondWorkflowTaskCompleted", in, nil, false); kind != KindTooLarge || !errors.Is(err, ErrTooMuch) {
		t.Errorf("%v %v", kind, err)
	}
}
