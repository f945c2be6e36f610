package upstream

import (
	"context"
	"hash/maphash"
	"log/slog"
	"strconv"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.opentelemetry.io/otel/trace"
	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc/metadata"
)

const (
	// confirmTimeout bounds the question. Without an answer the call goes on as one for a namespace that is
	// only claimed.
	confirmTimeout = 2 * time.Second
	// unconfirmedFor is how long the upstream is not asked again after it did not confirm.
	unconfirmedFor = 3 * time.Second
	maxUnconfirmed = 1024
)

// Confirmations ask upstreams whether namespaces exist. The keyring makes only a few data keys a second for
// namespaces that a caller claims and no upstream has confirmed. After a restart that is every namespace, so
// the upstream is asked before the first key of each is needed.
type Confirmations struct {
	confirmed func(namespace string)
	log       *slog.Logger
	seed      maphash.Seed
	asking    singleflight.Group
	recent    *lru.Cache[string, time.Time] // until when not to ask again
}

// NewConfirmations returns Confirmations that call confirmed for each namespace that exists.
func NewConfirmations(confirmed func(namespace string), log *slog.Logger) (*Confirmations, error) {
	recent, err := lru.New[string, time.Time](maxUnconfirmed)
	return &Confirmations{confirmed: confirmed, log: log, seed: maphash.MakeSeed(), recent: recent}, err
}

// Confirm asks the upstream whether a namespace exists, as the caller whose metadata out carries, and waits
// for the answer or for the end of ctx. Calls with the same question and the same credentials wait for one
// answer; other credentials may get another one.
func (c *Confirmations) Confirm(ctx, out context.Context, upstream *Pool, namespace string) {
	md, _ := metadata.FromOutgoingContext(out)
	credentials := maphash.String(c.seed, strings.Join(md["authorization"], "\x00"))
	question := namespace + "\x00" + strconv.FormatUint(credentials, 36)
	if until, ok := c.recent.Get(question); ok && time.Now().Before(until) {
		return
	}
	answered := c.asking.DoChan(question, func() (any, error) {
		// The question outlives the call where others wait for it, and has no part in the call's trace.
		out := trace.ContextWithSpanContext(context.WithoutCancel(out), trace.SpanContext{})
		c.ask(out, upstream, question[:len(namespace)]) // a copy: namespace may alias the request
		c.recent.Add(question, time.Now().Add(unconfirmedFor))
		return nil, nil
	})
	select {
	case <-answered:
	case <-ctx.Done():
	}
}

func (c *Confirmations) ask(out context.Context, upstream *Pool, namespace string) {
	ctx, cancel := context.WithTimeout(out, confirmTimeout)
	defer cancel()
	client := workflowservice.NewWorkflowServiceClient(upstream)
	_, err := client.DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: namespace})
	if err != nil {
		c.log.Debug("the upstream did not confirm a namespace; few data keys are made for it until it answers a call",
			"namespace", namespace, "error", err)
		return
	}
	c.confirmed(namespace)
}
