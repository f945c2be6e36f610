package rewrite

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	querypb "go.temporal.io/api/query/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
)

// away is a key that makes data keys and unwraps none until it is back, as in a proxy that was started just before its KMS went away.
type away struct {
	crypto.Provider
	back *atomic.Bool
}

func (a away) UnwrapDataKey(ctx context.Context, wrapped []byte, kc crypto.KeyContext) ([]byte, error) {
	if a.back.Load() {
		return a.Provider.UnwrapDataKey(ctx, wrapped, kc)
	}
	return nil, &crypto.Error{Kind: crypto.KindUnavailable, Op: "unwrap", Err: errors.New("it does not answer")}
}

// TestResultsDoNotComeSealedForNow: the answer to a query whose key is out of reach for now is an error, after which
// clients ask again. Given sealed, it fails them for good.
func TestResultsDoNotComeSealedForNow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "seal.key")
	if err := localkey.Create(file, time.Now()); err != nil {
		t.Fatal(err)
	}
	other := newRewriterWith(t, sealAll, file, localkey.Open)
	cold := newRewriterWith(t, sealAll, file, func(ctx context.Context, uri string) (crypto.Provider, error) {
		p, err := localkey.Open(ctx, uri)
		return away{p, new(atomic.Bool)}, err
	})
	answer := &workflowservice.QueryWorkflowResponse{QueryResult: secret("CANARY-answer")}
	m := other.Method(service + "QueryWorkflow")
	stored, err := sealed(t, other, m, answer.ProtoReflect().Descriptor(), marshal(answer))
	if err != nil {
		t.Fatal(err)
	}
	open := func(r *Rewriter, method string, in []byte) ([]byte, error) {
		c := r.call(r.Method(service + method))
		t.Cleanup(c.Done)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return c.Response(ctx, bytes.Clone(in))
	}
	if out, err := open(other, "QueryWorkflow", stored); err != nil || !proto.Equal(decode(t, out, new(workflowservice.QueryWorkflowResponse)), answer) {
		t.Fatalf("the proxy that sealed it opens it to %q, %v", out, err)
	}
	var e *Error
	if out, err := open(cold, "QueryWorkflow", stored); !errors.As(err, &e) || !e.Transient() {
		t.Errorf("an answer for now out of reach came as %q, %v", out, err)
	}
}

// TestHeldResponsesOpenOnceTheKeyIsBack: a task is held by opening the response of one call again and again. Each attempt asks
// for the keys anew, and so does the status of an error.
func TestHeldResponsesOpenOnceTheKeyIsBack(t *testing.T) {
	file := filepath.Join(t.TempDir(), "seal.key")
	if err := localkey.Create(file, time.Now()); err != nil {
		t.Fatal(err)
	}
	other := newRewriterWith(t, sealAll, file, localkey.Open)
	task := &workflowservice.PollWorkflowTaskQueueResponse{TaskToken: []byte("t"), Query: &querypb.WorkflowQuery{QueryArgs: secret("CANARY-asked")}}
	m := other.Method(service + "PollWorkflowTaskQueue")
	stored, err := sealed(t, other, m, task.ProtoReflect().Descriptor(), marshal(task))
	if err != nil {
		t.Fatal(err)
	}
	var back atomic.Bool
	cold := newRewriterWith(t, sealAll, file, func(ctx context.Context, uri string) (crypto.Provider, error) {
		p, err := localkey.Open(ctx, uri)
		return away{p, &back}, err
	})
	c := cold.call(m)
	t.Cleanup(c.Done)
	attempt := func() (*workflowservice.PollWorkflowTaskQueueResponse, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		out, err := c.Response(ctx, bytes.Clone(stored))
		if err != nil {
			return nil, err
		}
		return decode(t, out, new(workflowservice.PollWorkflowTaskQueueResponse)), nil
	}
	var e *Error
	if out, err := attempt(); !errors.As(err, &e) || !e.Transient() {
		t.Fatalf("a task for now out of reach came as %q, %v", out, err)
	}
	time.Sleep(2 * time.Second) // until the keyring no longer asks by itself
	back.Store(true)
	var out *workflowservice.PollWorkflowTaskQueueResponse
	for range 20 {
		if out, err = attempt(); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil || !proto.Equal(out.Query, task.Query) {
		t.Errorf("the key is back, and the held task came as %v, %v", out, err)
	}
}
