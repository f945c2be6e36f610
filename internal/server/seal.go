package server

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// seal makes the request to forward: the one that came, if nothing in it changes.
func (c *call) seal() error {
	if c.method.rewrite.RequestTouched() {
		start := time.Now()
		c.session.ResolveEndpoints(func(ctx context.Context, endpoint string) (namespace string, known bool) {
			return c.server.endpoints.Namespace(ctx, c.out, c.upstream, endpoint)
		})
		sealed, err := c.session.Request(c.ctx, c.request)
		if err != nil {
			c.server.metrics.refusedRequest(c.session.RequestStats(), err)
			return c.failRefused(err)
		}
		c.rewritten(policy.Request, c.session.RequestStats(), start, c.span)
		if !same(sealed, c.request) {
			c.sealed = c.lease.lend(sealed)
			return nil
		}
	}
	c.sealed = c.in.Share() // c.in stays until the call's end: names alias the request
	return nil
}

// failRefused fails the task whose answer the proxy had to refuse, and gives the worker what it expects of a
// task that is over. cause is returned where there is no task to fail.
func (c *call) failRefused(cause error) error {
	if !c.server.tasks.FailRefused(c.out, c.taskCall(), cause) {
		return cause
	}
	return &refusal{code: codes.NotFound, text: fmt.Sprintf("the task was failed in the worker's place: %v", cause),
		expected: crypto.KindOf(cause) == crypto.KindErased}
}

// same reports whether two slices are the same bytes in memory.
func same(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
