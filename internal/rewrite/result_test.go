package rewrite

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
)

// away is a key that makes data keys and unwraps none, as in a proxy that was started just before its KMS went away.
type away struct{ crypto.Provider }

func (away) UnwrapDataKey(context.Context, []byte, crypto.KeyContext) ([]byte, error) {
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
		return away{p}, err
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
