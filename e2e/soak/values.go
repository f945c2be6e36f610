package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

// doc is what every payload of the load holds: the secret of its workflow, and what there is to compute with.
type doc struct {
	Secret string `json:"secret"`
	N      int64  `json:"n"`
	Fill   string `json:"fill,omitempty"`
}

// step is what an activity computes. Its results tell if one was left out, or came twice or in another order.
func step(a, b int64) int64 { return (a*31 + b) % 1_000_000_007 }

// steps is a row of them.
func steps(a int64, bs ...int64) int64 {
	for _, b := range bs {
		a = step(a, b)
	}
	return a
}

// filled is a document with a text of some size that cannot be compressed, and the secret in its middle.
func filled(secret string, n int64, size int) doc {
	raw := make([]byte, size/4)
	source := rand.NewChaCha8(sha256.Sum256([]byte(secret)))
	_, _ = source.Read(raw) // never fails
	text := hex.EncodeToString(raw)
	return doc{Secret: secret, N: n, Fill: text + secret + text}
}

// digest is what is left of a document in a result that is compared.
func digest(d doc) doc {
	sum := sha256.Sum256([]byte(d.Fill))
	return doc{Secret: d.Secret, N: d.N, Fill: hex.EncodeToString(sum[:])}
}

// wrong is an error that no retry mends: something arrived that was not sent.
func wrong(format string, args ...any) error {
	return temporal.NewNonRetryableApplicationError(fmt.Sprintf(format, args...), "Wrong", nil)
}

// propagator carries the secret of a workflow in headers, from clients to workflows, their children and activities.
type propagator struct{}

type secretKey struct{}

const secretHeader = "soak-secret"

func (propagator) Inject(ctx context.Context, w workflow.HeaderWriter) error {
	return inject(ctx.Value(secretKey{}), w)
}

func (propagator) InjectFromWorkflow(ctx workflow.Context, w workflow.HeaderWriter) error {
	return inject(ctx.Value(secretKey{}), w)
}

func inject(secret any, w workflow.HeaderWriter) error {
	text, ok := secret.(string)
	if !ok {
		return nil
	}
	p, err := converter.GetDefaultDataConverter().ToPayload(doc{Secret: text})
	if err == nil {
		w.Set(secretHeader, p)
	}
	return err
}

func (propagator) Extract(ctx context.Context, r workflow.HeaderReader) (context.Context, error) {
	secret, err := extract(r)
	return context.WithValue(ctx, secretKey{}, secret), err
}

func (propagator) ExtractToWorkflow(ctx workflow.Context, r workflow.HeaderReader) (workflow.Context, error) {
	secret, err := extract(r)
	return workflow.WithValue(ctx, secretKey{}, secret), err
}

func extract(r workflow.HeaderReader) (secret string, err error) {
	p, ok := r.Get(secretHeader)
	if !ok {
		return "", nil
	}
	var d doc
	err = converter.GetDefaultDataConverter().FromPayload(p, &d)
	return d.Secret, err
}

// headed checks that the header came with the payload.
func headed(ctx interface{ Value(any) any }, in doc) error {
	if got, _ := ctx.Value(secretKey{}).(string); got != in.Secret {
		return wrong("the header arrived as %q, want %q", got, in.Secret)
	}
	return nil
}

// failsWith checks that an error is the one that a document was given to as message and as details.
func failsWith(err error, want doc) error {
	var failed *temporal.ApplicationError
	if !errors.As(err, &failed) {
		return wrong("failed with %T %v, want an application error", err, err)
	}
	var got doc
	if failed.Message() != message(want) || failed.Details(&got) != nil || got != want {
		return wrong("failed with %q and details %v, want %q and %v", failed.Message(), got, message(want), want)
	}
	return nil
}

// failure is an error with a secret in its message and in its details.
func failure(d doc, retry bool) error {
	return temporal.NewApplicationErrorWithOptions(message(d), "Planned", temporal.ApplicationErrorOptions{NonRetryable: !retry, Details: []any{d}})
}

func message(d doc) string { return fmt.Sprintf("planned failure %d of %s", d.N, d.Secret) }
