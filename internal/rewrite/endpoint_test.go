package rewrite

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	workflowpb "go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
)

// endpointRules let inputs pass but for one namespace, which denies what comes there.
const endpointRules = `package temporal

response contains {"action": "open"}

request contains {"action": "pass"} if input.namespace != "sealing"

request contains {"action": "deny", "reason": "no"} if input.namespace == "guarded"
`

// leadsTo resolves the endpoints of these tests: known-x leads to the namespace x.
func leadsTo(_ context.Context, endpoint string) (string, bool) {
	name, known := bytes.CutPrefix([]byte(endpoint), []byte("known-"))
	return string(name), known
}

// TestEndpointsOfRequests: the input of a Nexus operation meets the rules of the namespace to which its endpoint leads, and
// callers call those alone that they reach. If it is not known where an endpoint leads, nothing passes in clear.
func TestEndpointsOfRequests(t *testing.T) {
	r := newRewriter(t, endpointRules)
	mine := func(namespace string) bool { return namespace == testNamespace || namespace == "sealing" }
	for _, c := range []struct {
		endpoint        string
		endpoints       Endpoints
		clear           bool // the input passes
		denied, limited bool // for everybody, and for a caller who reaches some namespaces
	}{
		{"known-" + testNamespace, leadsTo, true, false, false},
		{"known-other", leadsTo, true, false, true},
		{"known-sealing", leadsTo, false, false, false},
		{"known-guarded", leadsTo, false, true, true},
		{"unknown", leadsTo, false, false, true},
		{"known-" + testNamespace, nil, false, false, true},
	} {
		for _, m := range []interface{ ProtoMessage() }{
			nexusCommand(c.endpoint, secret(canaryMark).Payloads[0]),
			&workflowpb.StartNexusOperationExecutionRequest{Namespace: testNamespace, Endpoint: c.endpoint, Input: secret(canaryMark).Payloads[0]},
		} {
			method, in := "RespondWorkflowTaskCompleted", []byte(nil)
			switch m := m.(type) {
			case *workflowpb.RespondWorkflowTaskCompletedRequest:
				in = bytesOf(t, m)
			case *workflowpb.StartNexusOperationExecutionRequest:
				method, in = "StartNexusOperationExecution", bytesOf(t, m)
			}
			for _, limited := range []bool{false, true} {
				call := r.call(r.Method(service + method))
				call.ResolveEndpoints(c.endpoints)
				if limited {
					call.Restrict(mine)
				}
				out, err := call.Request(t.Context(), in)
				var e *Error
				denied := errors.As(err, &e) && e.Kind == KindDenied
				if want := c.denied || limited && c.limited; denied != want || !denied && err != nil {
					t.Errorf("%s, endpoint %s, limited %v: %v", method, c.endpoint, limited, err)
				} else if clear := bytes.Contains(out, []byte(canaryMark)); err == nil && clear != c.clear {
					t.Errorf("%s, endpoint %s: in clear %v", method, c.endpoint, clear)
				}
				call.Done()
			}
		}
	}
}

// TestUnknownEndpointWithoutAKey: what can neither pass nor be sealed is denied.
func TestUnknownEndpointWithoutAKey(t *testing.T) {
	r := newRewriter(t, endpointRules)
	file := filepath.Join(t.TempDir(), "seal.key")
	if err := localkey.Create(file, time.Now()); err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.New(t.Context(), keyring.Options{Open: localkey.Open,
		Keys: []keyring.KeyConfig{{Name: "default", Active: "local:" + file, Namespaces: []string{testNamespace}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	r.Apply(State{Keys: keys, Policy: r.state.Load().Policy})
	call := r.call(r.Method(service + "RespondWorkflowTaskCompleted"))
	defer call.Done()
	call.call.namespace = "keyless"
	q := nexusCommand("unknown", secret(canaryMark).Payloads[0])
	q.Namespace = "keyless"
	_, err = call.Request(t.Context(), bytesOf(t, q))
	if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindDenied {
		t.Errorf("an input in a namespace without a key: %v", err)
	}
}

// TestEndpointFields: the walk knows an endpoint in the messages that call operations, each of which has a scope of its own.
// A request with another one has to be looked at: does the server copy something to where the endpoint leads?
func TestEndpointFields(t *testing.T) {
	p := newRewriter(t, sealAll).plan.Load()
	var found []string
	for _, m := range p.methods {
		var open []*node
		var visit func(n *node)
		visit = func(n *node) {
			if n == nil || slices.Contains(open, n) {
				return
			}
			open = append(open, n)
			for i := range n.fields {
				if n.fields[i].op == opEndpoint && !slices.Contains(found, string(n.name.Name())) {
					found = append(found, string(n.name.Name()))
				}
				visit(n.fields[i].child)
			}
			open = open[:len(open)-1]
		}
		visit(m.request)
	}
	slices.Sort(found)
	want := []string{"ScheduleNexusOperationCommandAttributes", "StartNexusOperationExecutionRequest"}
	if !slices.Equal(found, want) {
		t.Errorf("endpoints are in %v, want %v", found, want)
	}
}
