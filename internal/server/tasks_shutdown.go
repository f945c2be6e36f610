package server

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"go.temporal.io/api/workflowservice/v1"
)

// A worker that shuts down tells the server, which then ends its polls, and the worker waits for their end. Polls that
// the proxy holds the server does not know of, so the proxy ends those.

const (
	// goneFor is how long the polls of a worker are not held that said goodbye: one may have been on its way. The server
	// remembers workers for as long.
	goneFor = 30 * time.Second
	maxGone = 10_000
)

// poller is who polls, and for what.
type poller struct{ namespace, instance, identity, queue, normalQueue string }

func (c *call) poller() poller {
	q := c.pollRequest()
	return poller{q.GetNamespace(), q.GetWorkerInstanceKey(), q.GetIdentity(), q.GetTaskQueue().GetName(), q.GetTaskQueue().GetNormalName()}
}

// of tells if the poll is one of the worker that a request says shuts down. A worker that has a key of its own is known
// by that; others by their sticky queue, or by identity and queue. A poll too many that ends costs nothing: its worker
// polls again.
func (p poller) of(q *workflowservice.ShutdownWorkerRequest) bool {
	if p.namespace != q.GetNamespace() {
		return false
	}
	if p.instance != "" && q.GetWorkerInstanceKey() != "" {
		return p.instance == q.GetWorkerInstanceKey()
	}
	if p.queue != "" && p.queue == q.GetStickyTaskQueue() {
		return true
	}
	if p.identity == "" || p.identity != q.GetIdentity() {
		return false
	}
	return q.GetTaskQueue() == "" || p.queue == q.GetTaskQueue() || p.normalQueue == q.GetTaskQueue()
}

// heldPolls are the polls that wait for a key.
type heldPolls struct {
	mu    sync.Mutex
	polls map[*heldPoll]struct{}
	gone  *simplelru.LRU[goneWorker, time.Time] // when they said goodbye
}

type heldPoll struct {
	poller
	letGo context.CancelFunc
}

type goneWorker struct{ namespace, instance string }

func newHeldPolls() (*heldPolls, error) {
	gone, err := simplelru.NewLRU[goneWorker, time.Time](maxGone, nil)
	return &heldPolls{polls: map[*heldPoll]struct{}{}, gone: gone}, err
}

// hold gives a context that ends when the poll's worker shuts down. The poll is held until letGo is called.
func (h *heldPolls) hold(ctx context.Context, p poller) (held context.Context, letGo func()) {
	held, cancel := context.WithCancel(ctx)
	poll := &heldPoll{p, cancel}
	h.mu.Lock()
	defer h.mu.Unlock()
	if left, ok := h.gone.Get(goneWorker{p.namespace, p.instance}); ok && time.Since(left) < goneFor {
		cancel()
	}
	h.polls[poll] = struct{}{}
	return held, func() {
		cancel()
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.polls, poll)
	}
}

// release ends the polls of a worker that shuts down.
func (h *heldPolls) release(q *workflowservice.ShutdownWorkerRequest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if q.GetWorkerInstanceKey() != "" {
		h.gone.Add(goneWorker{strings.Clone(q.GetNamespace()), strings.Clone(q.GetWorkerInstanceKey())}, time.Now())
	}
	for p := range h.polls {
		if p.of(q) {
			p.letGo()
		}
	}
}

// goodbye releases the polls that the proxy holds of a worker that tells the server that it shuts down.
func (c *call) goodbye(in *frame) {
	if c.method.full == workflowservice.WorkflowService_ShutdownWorker_FullMethodName {
		c.server.held.release(read(new(workflowservice.ShutdownWorkerRequest), in.bytes()))
	}
}
