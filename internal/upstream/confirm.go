package upstream

import (
	"context"
	"hash/maphash"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"go.opentelemetry.io/otel/trace"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/metadata"
)

// The keyring gives few data keys a second to namespaces that nobody but a caller says exist. After a restart that is
// every namespace, so the upstream is asked before the first key of each is needed.

const (
	// confirmTimeout bounds the question. Without an answer the call goes on as one for a namespace that is only claimed.
	confirmTimeout = 2 * time.Second
	// unconfirmedFor is how long the upstream is not asked again after it did not confirm.
	unconfirmedFor = 3 * time.Second
	maxQuestions   = 1024
)

// question is what one caller wants to know of one namespace. Another caller may be told something else.
type question struct {
	namespace string
	caller    uint64 // hash of the credentials that the upstream sees
}

// asked is a question under way, or one whose answer was not yes.
type asked struct {
	done  chan struct{}
	until time.Time // once done: no new question before this
}

// Confirmations are the questions that were asked lately.
type Confirmations struct {
	seed maphash.Seed

	confirmed func(namespace string) // called for each that exists
	log       *slog.Logger

	mu     sync.Mutex
	recent *simplelru.LRU[question, *asked]
}

// NewConfirmations has confirmed called for each namespace that exists.
func NewConfirmations(confirmed func(namespace string), log *slog.Logger) (*Confirmations, error) {
	recent, err := simplelru.NewLRU[question, *asked](maxQuestions, nil)
	return &Confirmations{seed: maphash.MakeSeed(), confirmed: confirmed, log: log, recent: recent}, err
}

// join gives the question's latest asking. first tells its caller to do the asking.
func (c *Confirmations) join(q question) (a *asked, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a, ok := c.recent.Get(q); ok && (a.until.IsZero() || time.Now().Before(a.until)) {
		return a, false
	}
	a = &asked{done: make(chan struct{})}
	c.recent.Add(question{strings.Clone(q.namespace), q.caller}, a)
	return a, true
}

func (c *Confirmations) answered(a *asked) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a.until = time.Now().Add(unconfirmedFor)
	close(a.done)
}

// Confirm asks the upstream if a namespace exists. Calls that ask the same wait for one answer. out is ctx with the
// metadata to send.
func (c *Confirmations) Confirm(ctx, out context.Context, upstream *Pool, namespace string) {
	md, _ := metadata.FromOutgoingContext(out)
	q := question{namespace, maphash.Comparable(c.seed, strings.Join(md["authorization"], "\x00"))}
	a, first := c.join(q)
	if first {
		// It outlives the call where others wait for it, and has no part in the call's trace.
		out = trace.ContextWithSpanContext(context.WithoutCancel(out), trace.SpanContext{})
		go c.ask(out, upstream, strings.Clone(namespace), a)
	}
	select {
	case <-a.done:
	case <-ctx.Done():
	}
}

// ask makes the call, as the caller would.
func (c *Confirmations) ask(out context.Context, upstream *Pool, namespace string, a *asked) {
	defer c.answered(a)
	out, cancel := context.WithTimeout(out, confirmTimeout)
	defer cancel()
	if _, err := workflowservice.NewWorkflowServiceClient(upstream).DescribeNamespace(out, &workflowservice.DescribeNamespaceRequest{Namespace: namespace}); err != nil {
		c.log.Debug("the upstream did not confirm a namespace; few data keys are made for it until it answers a call", "namespace", namespace, "error", err)
		return
	}
	c.confirmed(namespace)
}
