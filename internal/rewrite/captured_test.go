package rewrite

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	workflowpb "go.temporal.io/api/workflowservice/v1"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

const recorded = "../../testdata/rpc"

// TestCaptured seals and opens what a real SDK and a real server said to each
// other (testdata/rpc/README.md): no canary is left in clear, and every byte
// comes back.
func TestCaptured(t *testing.T) {
	r := newRewriter(t, sealAll)
	files, err := filepath.Glob(filepath.Join(recorded, "*.binpb"))
	if err != nil {
		t.Fatal(err)
	}
	canaries := map[string]int{}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			in, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			part := strings.Split(name, ".")
			m := r.Method(service + part[0])
			if m == nil {
				t.Fatalf("%s is not a method of the workflow service", part[0])
			}
			switch part[2] {
			case "request":
				capturedRequest(t, r, m, in)
			case "response":
				capturedResponse(t, r, m, in)
			case "status":
				capturedStatus(t, r, m, in)
			default:
				t.Fatalf("%s is neither a request nor an answer", name)
			}
			canaries[part[2]] += bytes.Count(in, []byte(canaryMark))
		})
	}
	for _, direction := range []string{"request", "response", "status"} {
		if canaries[direction] == 0 {
			t.Errorf("no %s holds a canary: the recording is not what the test is about", direction)
		}
	}
}

// capturedRequest sends a request through as the proxy does it, and opens
// what would have been stored.
func capturedRequest(t *testing.T, r *Rewriter, m *Method, in []byte) {
	c := r.call(m)
	defer c.Done()
	if err := c.Identify(in); err != nil {
		t.Fatal(err)
	}
	if c.Namespace() != testNamespace {
		t.Errorf("the request's namespace is %q", c.Namespace())
	}
	out, err := c.Request(context.Background(), bytes.Clone(in))
	if err != nil {
		t.Fatal(err)
	}
	noCanary(t, in, out)
	back, err := unsealed(t, r, m, m.request.desc, out)
	if err != nil {
		t.Fatal(err)
	}
	same(t, in, textRestored(t, r, m, back))
}

// textRestored opens the text of a failed query, which its caller gets as the
// message of an error answer.
func textRestored(t *testing.T, r *Rewriter, m *Method, in []byte) []byte {
	if m.name != "RespondQueryTaskCompleted" {
		return in
	}
	answer := decode(t, in, new(workflowpb.RespondQueryTaskCompletedRequest))
	c := r.call(r.Method(service + "QueryWorkflow"))
	defer c.Done()
	answer.ErrorMessage = c.Status(context.Background(), &spb.Status{Message: answer.ErrorMessage}).Message
	return marshal(answer)
}

// capturedResponse opens an answer as the proxy does it, after its payloads
// were sealed the way that requests would have brought them to the server.
func capturedResponse(t *testing.T, r *Rewriter, m *Method, in []byte) {
	stored, err := sealed(t, r, m, m.response.desc, in)
	if err != nil {
		t.Fatal(err)
	}
	noCanary(t, in, stored)
	c := r.call(m)
	defer c.Done()
	out, err := c.Response(context.Background(), bytes.Clone(stored))
	if err != nil {
		t.Fatal(err)
	}
	if n := c.ResponseStats().Unopened; n > 0 {
		t.Errorf("%d payloads stay sealed", n)
	}
	same(t, in, out)
	// An answer that holds nothing sealed, from the time before the proxy, passes as it is.
	again, err := unsealed(t, r, m, m.response.desc, in)
	if err != nil {
		t.Fatal(err)
	}
	same(t, in, again)
}

// capturedStatus opens an error answer whose failure and text were sealed by
// the worker's proxy.
func capturedStatus(t *testing.T, r *Rewriter, m *Method, in []byte) {
	st := decode(t, in, new(spb.Status))
	stored := sealedStatus(t, r, m, st)
	noCanary(t, in, bytesOf(t, stored))
	c := r.call(m)
	defer c.Done()
	if opened := c.Status(context.Background(), stored); !proto.Equal(opened, st) {
		t.Errorf("opened to %v, was %v", opened, st)
	}
}

// sealedStatus is an error answer whose failure and text a worker's proxy sealed.
func sealedStatus(t *testing.T, r *Rewriter, m *Method, st *spb.Status) *spb.Status {
	t.Helper()
	stored := proto.CloneOf(st)
	details, err := sealed(t, r, m, (*spb.Status)(nil).ProtoReflect().Descriptor(), bytesOf(t, &spb.Status{Details: st.Details}))
	if err != nil {
		t.Fatal(err)
	}
	stored.Details = decode(t, details, new(spb.Status)).Details
	sealer, _, err := r.state.Load().Keys.Sealer(context.Background(), testNamespace, "default")
	if err != nil {
		t.Fatal(err)
	}
	text, err := sealer.Envelope().AppendText(nil, []byte(st.Message), new(envelope.Nonces))
	if err != nil {
		t.Fatal(err)
	}
	stored.Message = string(text)
	return stored
}

func decode[M proto.Message](t *testing.T, b []byte, m M) M {
	t.Helper()
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatal(err)
	}
	return m
}

// noCanary looks for canaries in a sealed message.
func noCanary(t *testing.T, in, out []byte) {
	t.Helper()
	if bytes.Contains(out, []byte(canaryMark)) {
		t.Errorf("%d of %d canaries are in clear", bytes.Count(out, []byte(canaryMark)), bytes.Count(in, []byte(canaryMark)))
	}
	if !bytes.Contains(in, []byte(canaryMark)) && !bytes.Equal(in, out) {
		t.Error("a message without payloads was changed")
	}
}

func same(t *testing.T, want, got []byte) {
	t.Helper()
	if !bytes.Equal(want, got) {
		t.Error(firstDifference(want, got))
	}
}
