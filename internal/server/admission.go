package server

import (
	"container/list"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
	"github.com/temporal-seal/temporal-seal/internal/x/lograte"
)

// Limits bound what callers can make the proxy hold at once. What is over a limit is refused with RESOURCE_EXHAUSTED before
// anything of it was forwarded, which SDKs take as a sign to try again later.
type Limits struct {
	// Connections of callers. One more is closed as soon as it is accepted.
	Connections int
	// Calls are those that the server answers at once. LongPolls wait at the server: for tasks, and for the end of a
	// workflow or an update. They last a minute and need little, so they are counted on their own.
	Calls, LongPolls int
	// Bytes of messages in memory, each counted once. One message needs up to three times its size: as it came, in one
	// piece, and sealed or opened.
	Bytes int64
	// ConnectionAge is how long a connection of a caller gets new calls, more or less. 0: for ever.
	ConnectionAge time.Duration
}

// LimitsFor returns the limits that fit into so many bytes of memory.
func LimitsFor(memory int64) Limits {
	return Limits{
		Connections: int(min(max(memory/4/perConnection, 100), mostLimit)),
		Calls:       int(min(max(memory/4/perCall, 100), mostLimit)),
		LongPolls:   int(min(max(memory/3/perLongPoll, 1000), mostLimit)),
		Bytes:       max(memory/perByte, MinBytes),
	}
}

const (
	// Upper bounds of the memory that each takes: the buffers and goroutines of a connection; a request's first window
	// and its copies; a long poll; and a byte of a message, of which there are up to three copies, with those that the
	// garbage collector has not found yet, in a third of the memory.
	perConnection = 64 << 10
	perCall       = 128 << 10
	perLongPoll   = 24 << 10
	perByte       = 16

	mostLimit = 1_000_000

	// MinBytes is enough for the largest message that a Temporal frontend accepts by default, beside others.
	MinBytes = 16 << 20

	// MinConnectionAge is the least age at which callers' connections may be closed: every such end costs SDKs a new
	// connection, and a load balancer that moves polls more often than they end only makes work.
	MinConnectionAge = 6 * time.Minute

	// unreserved is the size up to which a message never waits: the limit of calls bounds such messages well enough.
	unreserved = 16 << 10
	// bytesWait is how long a request waits for the limit of bytes before it is refused. An answer waits answerTries times
	// as long, since it has cost the server work.
	bytesWait   = time.Second
	answerTries = 5

	// keptAccounts is how many accounts of callers are kept that nothing counts in any more.
	keptAccounts = 1000
)

// admission shares what the proxy may hold at once among connections, callers, and in all. Each call, and each byte of its
// messages, counts in three accounts.
type admission struct {
	limits  Limits
	metrics *Metrics
	log     *slog.Logger
	logged  lograte.Limiter

	mu          sync.Mutex
	connections int
	unknown     list.List // the connections, oldest first, on which no caller has proved an identity
	total       account
	callers     map[callerKey]*account
	waiting     []*waiter // for bytes, in the order in which they came
}

// account counts what one connection or one caller has, or all of them have, and what they may have.
type account struct {
	calls, polls, bytes             int64
	mostCalls, mostPolls, mostBytes int64

	key callerKey // of a caller's account
}

// callerKey identifies a caller across connections and tokens.
type callerKey struct{ kind, subject, listener string }

// place is what one call takes of the limits. Its bytes may outlast it: they are given back when the answer is written.
type place struct {
	in       *admission
	accounts [3]*account // of all, of the connection, and of the caller; nil where there is none
	longPoll bool
	bytes    int64
}

// waiter is a message that waits for n bytes.
type waiter struct {
	place  *place
	n      int64
	served chan struct{}
}

// newAdmission returns an admission that nothing counts in yet.
func newAdmission(l Limits, m *Metrics, log *slog.Logger) *admission {
	return &admission{limits: l, metrics: m, log: log, callers: map[callerKey]*account{},
		total: account{mostCalls: int64(l.Calls), mostPolls: int64(l.LongPolls), mostBytes: l.Bytes}}
}

// newAccount returns the account of one connection or one caller. A sixteenth of each limit stays for the others.
func (a *admission) newAccount() *account {
	share := func(limit int64) int64 { return limit - limit/16 }
	return &account{mostCalls: share(a.total.mostCalls), mostPolls: share(a.total.mostPolls), mostBytes: share(a.total.mostBytes)}
}

// largest is how large a request may be.
func (a *admission) largest() int64 { return min(upstream.MaxMessage, a.limits.Bytes) }

// connect counts a connection in. It reports false if it is one too many. Where the limit is reached, or where most of it is
// taken by connections on which nobody has proved an identity, the oldest of these is closed.
func (a *admission) connect() bool {
	a.mu.Lock()
	full := a.connections >= a.limits.Connections
	var oldest *connection
	if first := a.unknown.Front(); first != nil && (full || a.unknown.Len() >= max(a.limits.Connections/2, 1)) {
		oldest = a.unknown.Remove(first).(*connection)
		oldest.place = nil
		full = false
	}
	if !full {
		a.connections++
	}
	a.mu.Unlock()
	if oldest != nil {
		_ = oldest.Close()
	}
	if full || oldest != nil {
		a.overLimit("connections")
	}
	return !full
}

// unproved notes a connection on which nobody has proved an identity yet.
func (a *admission) unproved(c *connection) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.place = a.unknown.PushBack(c)
}

// proved notes that a caller of the connection has proved an identity.
func (a *admission) proved(c *connection) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unlist(c)
}

// unlist removes a connection from the list of those without an identity. The caller holds the lock.
func (a *admission) unlist(c *connection) {
	if c.place != nil {
		a.unknown.Remove(c.place)
		c.place = nil
	}
}

// disconnect counts a connection out.
func (a *admission) disconnect(c *connection) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unlist(c)
	a.connections--
}

// connected is the number of connections.
func (a *admission) connected() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.connections
}

// admit counts the call in, or refuses it where it is one too many.
func (c *call) admit() error {
	place, err := c.server.admission.enter(connectionOf(c.ctx), c.id.Caller, c.method.longPoll)
	if err == nil {
		c.lease = newLease(place)
	}
	return err
}

// enter counts a call in. The call has to leave when it ends. conn and caller may be nil. The error is the status to
// answer with.
func (a *admission) enter(conn *connection, caller *policy.Caller, longPoll bool) (place, error) {
	kind, limit := "calls", a.limits.Calls
	if longPoll {
		kind, limit = "long_polls", a.limits.LongPolls
	}
	p := place{in: a, longPoll: longPoll, accounts: [3]*account{&a.total}}
	if conn != nil {
		p.accounts[1] = conn.account
	}
	a.mu.Lock()
	p.accounts[2] = a.accountOf(caller)
	full := false
	for _, acc := range p.accounts {
		full = full || acc != nil && acc.full(longPoll)
	}
	if full {
		a.forget(&p)
	} else {
		p.add(1)
	}
	a.mu.Unlock()
	if full {
		a.overLimit(kind)
		return place{}, answerFor(tooManyCalls(kind, limit)).Err()
	}
	return p, nil
}

// accountOf returns a caller's account. Anonymous callers have none, since they cannot be told apart.
func (a *admission) accountOf(caller *policy.Caller) *account {
	if caller == nil || caller.Kind == "anonymous" {
		return nil
	}
	if acc := a.callers[callerKey{caller.Kind, caller.Subject, caller.Listener}]; acc != nil {
		return acc
	}
	acc := a.newAccount()
	acc.key = callerKey{strings.Clone(caller.Kind), strings.Clone(caller.Subject), strings.Clone(caller.Listener)}
	a.callers[acc.key] = acc
	return acc
}

// forget removes the account of a call's caller, if there are many and nothing counts in this one any more.
func (a *admission) forget(p *place) {
	acc := p.accounts[2]
	if acc != nil && len(a.callers) > keptAccounts && acc.calls == 0 && acc.polls == 0 && acc.bytes == 0 {
		delete(a.callers, acc.key)
	}
}

// full reports whether one more call would be too many.
func (acc *account) full(longPoll bool) bool {
	if longPoll {
		return acc.polls >= acc.mostPolls
	}
	return acc.calls >= acc.mostCalls
}

// add counts n calls more, or less.
func (p *place) add(n int64) {
	for _, acc := range p.accounts {
		switch {
		case acc == nil:
		case p.longPoll:
			acc.polls += n
		default:
			acc.calls += n
		}
	}
}

// leave counts the call out.
func (p *place) leave() {
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	p.add(-1)
	p.in.forget(p)
}

// reserve waits until the limits allow n bytes more, and reports false if that takes too long. A small message never
// waits. One that is larger than a limit takes all of it: taken is how much was reserved.
func (p *place) reserve(ctx context.Context, n int64, wait time.Duration) (taken int64, ok bool) {
	if n <= unreserved {
		p.count(n)
		return n, true
	}
	for _, acc := range p.accounts {
		if acc != nil {
			n = min(n, acc.mostBytes)
		}
	}
	a := p.in
	a.mu.Lock()
	if len(a.waiting) == 0 && fits(n, p.accounts[:]) {
		p.take(n)
		a.mu.Unlock()
		return n, true
	}
	w := &waiter{p, n, make(chan struct{})}
	a.waiting = append(a.waiting, w)
	a.serve()
	a.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-w.served:
		return n, true
	case <-timer.C:
	case <-ctx.Done():
	}
	return n, a.giveUp(w)
}

// giveUp takes a waiter out of the queue. It reports true if the waiter was served just now.
func (a *admission) giveUp(w *waiter) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.Index(a.waiting, w)
	if i < 0 {
		return true
	}
	a.waiting = slices.Delete(a.waiting, i, i+1)
	a.serve() // those behind may be smaller
	return false
}

// count adds n bytes whatever the limits are, since they are in memory already. A negative n gives bytes back.
func (p *place) count(n int64) {
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	p.take(n)
	p.in.serve()
}

// giveBack gives back all bytes.
func (p *place) giveBack() {
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	p.take(-p.bytes)
	p.in.forget(p)
	p.in.serve()
}

// take adds n bytes to the accounts. The caller has to hold the lock.
func (p *place) take(n int64) {
	p.bytes += n
	for _, acc := range p.accounts {
		if acc != nil {
			acc.bytes += n
		}
	}
}

// serve admits waiting messages in turn. It passes over one whose own connection or caller has too much. It stops at one
// that the limit for all does not allow, or small messages would keep a large one out for ever.
func (a *admission) serve() {
	for i := 0; i < len(a.waiting); {
		w := a.waiting[i]
		if !fits(w.n, w.place.accounts[:1]) {
			return
		}
		if !fits(w.n, w.place.accounts[1:]) {
			i++
			continue
		}
		a.waiting = slices.Delete(a.waiting, i, i+1)
		w.place.take(w.n)
		close(w.served)
	}
}

// fits reports whether all of the accounts may have n bytes more.
func fits(n int64, accounts []*account) bool {
	return !slices.ContainsFunc(accounts, func(acc *account) bool { return acc != nil && acc.bytes+n > acc.mostBytes })
}

// inUse is how many bytes of messages are in memory.
func (a *admission) inUse() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.total.bytes
}

// overLimit counts a refusal, and logs it once a minute for each limit.
func (a *admission) overLimit(limit string) {
	a.metrics.refused.WithLabelValues(limit).Inc()
	if !a.logged.Allow(limit) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.log.Warn("callers are refused, since there is more to do than the limit allows", "limit", "limits."+limit, "connections", a.connections,
		"calls", a.total.calls, "long_polls", a.total.polls, "bytes", a.total.bytes)
}

// longPoll reports whether calls to a method wait at the server, other than those for tasks.
func longPoll(full string) bool {
	switch name := full[strings.LastIndexByte(full, '/')+1:]; name {
	case "GetWorkflowExecutionHistory", "UpdateWorkflowExecution", "ExecuteMultiOperation", "DescribeActivityExecution", "DescribeNexusOperationExecution":
		return true
	default:
		return strings.HasPrefix(name, "Poll")
	}
}

// tooManyCalls names the limit that a caller met, so that an operator can raise it.
func tooManyCalls(kind string, limit int) error {
	return &refusal{codes.ResourceExhausted, fmt.Sprintf("%d calls are being answered, all that `limits.%s` of the proxy's config allows: try again later, give the proxy more memory, or run more of them", limit, kind)}
}

// noBytes counts a message that the limit of bytes does not allow, and returns the error to answer with.
func (a *admission) noBytes(what string, n int64) error {
	a.overLimit("bytes")
	return &refusal{codes.ResourceExhausted, fmt.Sprintf("there is no room for %s of %d bytes beside the others: `limits.bytes` of the proxy's config allows %d; try again later, give the proxy more memory, or run more of them", what, n, a.limits.Bytes)}
}
