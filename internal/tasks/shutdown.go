package tasks

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"go.temporal.io/api/workflowservice/v1"
)

const (
	// goneFor is how long polls of a worker are not held after it has shut down: one may have been on its
	// way. The server remembers such workers for as long.
	goneFor = 30 * time.Second
	maxGone = 10_000
)

// EndPolls ends the polls that the proxy holds of a worker, by its ShutdownWorker request. The worker waits
// for the end of its polls; the server ends those that it knows.
func (t *Tasks) EndPolls(request []byte) {
	t.polls.release(readHead(new(workflowservice.ShutdownWorkerRequest), request))
}

// EndAllPolls ends all polls that the proxy holds, since it shuts down: their workers poll again, and may reach a replica
// that stays. Polls are held no longer than most from then on.
func (t *Tasks) EndAllPolls(most time.Duration) {
	h := t.polls
	h.mu.Lock()
	defer h.mu.Unlock()
	h.most = most
	for p := range h.polls {
		p.end()
	}
}

// heldPolls are the polls that are held: see poll.go.
type heldPolls struct {
	mu    sync.Mutex
	most  time.Duration // how long each is held
	polls map[*heldPoll]struct{}
	gone  *simplelru.LRU[goneWorker, time.Time] // when they shut down; evicts
}

type heldPoll struct {
	request pollRequest
	end     context.CancelFunc
}

// goneWorker is the hash of a worker's namespace and instance key, which may be of any length.
type goneWorker [sha256.Size]byte

func goneWorkerOf(namespace, instance string) goneWorker {
	return sha256.Sum256(fmt.Appendf(nil, "%q %q", namespace, instance))
}

func newHeldPolls() (*heldPolls, error) {
	gone, err := simplelru.NewLRU[goneWorker, time.Time](maxGone, nil)
	return &heldPolls{most: longestPoll, polls: map[*heldPoll]struct{}{}, gone: gone}, err
}

// hold returns a context that ends when the poll's worker or the proxy shuts down. The poll is held until release is
// called.
func (h *heldPolls) hold(ctx context.Context, q pollRequest) (held context.Context, release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	held, cancel := context.WithTimeout(ctx, h.most)
	poll := &heldPoll{q, cancel}
	worker := goneWorkerOf(q.GetNamespace(), q.GetWorkerInstanceKey())
	if since, ok := h.gone.Get(worker); ok && time.Since(since) < goneFor {
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

// count returns how many polls are held.
func (h *heldPolls) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.polls)
}

// release ends the polls of a worker that shuts down.
func (h *heldPolls) release(q *workflowservice.ShutdownWorkerRequest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if q.GetWorkerInstanceKey() != "" {
		h.gone.Add(goneWorkerOf(q.GetNamespace(), q.GetWorkerInstanceKey()), time.Now())
	}
	for p := range h.polls {
		if polledBy(p.request, q) {
			p.end()
		}
	}
}

// polledBy reports whether a poll is one of the worker that shuts down. A worker that has a key of its own
// is known by that; others by their sticky queue, or by identity and queue. To end a poll too many costs
// nothing: its worker polls again.
func polledBy(p pollRequest, q *workflowservice.ShutdownWorkerRequest) bool {
	if p.GetNamespace() != q.GetNamespace() {
		return false
	}
	if p.GetWorkerInstanceKey() != "" && q.GetWorkerInstanceKey() != "" {
		return p.GetWorkerInstanceKey() == q.GetWorkerInstanceKey()
	}
	queue := p.GetTaskQueue()
	if queue.GetName() != "" && queue.GetName() == q.GetStickyTaskQueue() {
		return true
	}
	if p.GetIdentity() == "" || p.GetIdentity() != q.GetIdentity() {
		return false
	}
	return q.GetTaskQueue() == "" || queue.GetName() == q.GetTaskQueue() || queue.GetNormalName() == q.GetTaskQueue()
}
