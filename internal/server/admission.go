package server

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
)

// Limits bound what callers can make the proxy hold at once. What is over a limit is refused with RESOURCE_EXHAUSTED before
// anything of it was forwarded, which SDKs take as a sign to try again later.
type Limits struct {
	// Connections of callers. One more is closed as soon as it is accepted.
	Connections int
	// Calls are those that are answered at once. Held are those that wait at the server: polls for tasks, and for the end of
	// a workflow or an update. They last a minute and need little, so they are counted on their own.
	Calls, Held int
	// Bytes of messages in memory, each counted once. One message needs up to three times its size: as it came, in one
	// piece, and sealed or opened.
	Bytes int64
	// ConnectionAge is how long a connection of a caller gets new calls, more or less. 0: for ever.
	ConnectionAge time.Duration
}

// LimitsFor gives the limits that fit into so many bytes of memory.
func LimitsFor(memory int64) Limits {
	return Limits{
		Connections: int(min(max(memory/4/perConnection, 100), mostLimit)),
		Calls:       int(min(max(memory/4/perCall, 100), mostLimit)),
		Held:        int(min(max(memory/3/perHeld, 1000), mostLimit)),
		Bytes:       max(memory/perByte, MinBytes),
	}
}

const (
	// What is reckoned for one of each, from above: buffers and goroutines of a connection; a request's first window and
	// its copies; a poll; and of a message's byte, of which there are up to three, with what the garbage collector has
	// not found yet, in a third of the memory.
	perConnection = 64 << 10
	perCall       = 128 << 10
	perHeld       = 24 << 10
	perByte       = 16

	mostLimit = 1_000_000

	// MinBytes leaves room for the largest message that a Temporal frontend takes by default, beside others.
	MinBytes = 16 << 20

	// MinConnectionAge is the least age at which callers' connections may be closed: every such end costs SDKs a new
	// connection, and a load balancer that moves polls more often than they end only makes work.
	MinConnectionAge = 6 * time.Minute

	// unreserved is the size up to which messages are let in without asking for room: Calls bounds them well enough.
	unreserved = 16 << 10
	// roomWait is how long a request waits for room before it is refused, and answerTries how often as long an answer
	// does, which has cost the server work.
	roomWait    = time.Second
	answerTries = 5
)

// gate counts what is inside.
type gate struct {
	limit  int64
	inside atomic.Int64
}

func (g *gate) enter() bool {
	if g.inside.Add(1) > g.limit {
		g.inside.Add(-1)
		return false
	}
	return true
}

func (g *gate) leave() { g.inside.Add(-1) }

// overLimit counts a refusal. The log tells of each limit once a minute: there may be thousands.
func (s *Server) overLimit(limit string) {
	s.metrics.refused.WithLabelValues(limit).Inc()
	s.toldMu.Lock()
	defer s.toldMu.Unlock()
	if now := time.Now(); now.Sub(s.told[limit]) > time.Minute {
		s.told[limit] = now
		s.log.Warn("callers are refused, since there is more to do than the limit allows", "limit", "limits."+limit, "connections", s.Connections(),
			"calls", s.calls.inside.Load(), "long_polls", s.waiting.inside.Load(), "bytes", s.room.inUse())
	}
}

// room is the number of bytes that messages may have in memory. Who waits for room is served in turn.
type room struct {
	mu      sync.Mutex
	size    int64
	used    int64
	waiting []*waiter
}

type waiter struct {
	n      int64
	served chan struct{}
}

// take waits for n bytes of room, for a while. What is larger than all room there is takes all of it.
func (r *room) take(ctx context.Context, n int64, wait time.Duration) bool {
	n = min(n, r.size)
	r.mu.Lock()
	if len(r.waiting) == 0 && r.used+n <= r.size {
		r.used += n
		r.mu.Unlock()
		return true
	}
	w := &waiter{n, make(chan struct{})}
	r.waiting = append(r.waiting, w)
	r.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-w.served:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return r.giveUp(w)
}

// giveUp takes w out of the queue. It reports true if w was served just now.
func (r *room) giveUp(w *waiter) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, other := range r.waiting {
		if other == w {
			r.waiting = append(r.waiting[:i], r.waiting[i+1:]...)
			r.serve() // those behind may be smaller
			return false
		}
	}
	return true
}

// add takes n bytes whether there is room or not: they are in memory already. A negative n gives room back.
func (r *room) add(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used += n
	r.serve()
}

func (r *room) serve() {
	for len(r.waiting) > 0 && r.used+r.waiting[0].n <= r.size {
		w := r.waiting[0]
		r.waiting = r.waiting[1:]
		r.used += w.n
		close(w.served)
	}
}

func (r *room) inUse() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used
}

// waits tells which calls wait at the server, besides polls for tasks.
func waits(full string) bool {
	switch name := full[strings.LastIndexByte(full, '/')+1:]; name {
	case "GetWorkflowExecutionHistory", "UpdateWorkflowExecution", "ExecuteMultiOperation", "DescribeActivityExecution", "DescribeNexusOperationExecution":
		return true
	default:
		return strings.HasPrefix(name, "Poll")
	}
}

func tooManyCalls(kind string, limit int64) error {
	return &refusal{codes.ResourceExhausted, fmt.Sprintf("%d calls are being answered, all that `limits.%s` of the proxy's config allows: try again later, give the proxy more memory, or run more of them", limit, kind)}
}

func noRoom(what string, n, size int64) error {
	return &refusal{codes.ResourceExhausted, fmt.Sprintf("there is no room for %s of %d bytes beside the others: `limits.bytes` of the proxy's config allows %d; try again later, give the proxy more memory, or run more of them", what, n, size)}
}

// enter counts a call in, among those that wait at the server or the others.
func (s *Server) enter(waits bool) (*gate, error) {
	kind, g := "calls", &s.calls
	if waits {
		kind, g = "long_polls", &s.waiting
	}
	if !g.enter() {
		s.overLimit(kind)
		return nil, tooManyCalls(kind, g.limit)
	}
	return g, nil
}
