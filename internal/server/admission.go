package server

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/x/lograte"
)

// This file bounds what callers can make the proxy hold at once. The limits (`limits` of the config), and
// what happens to what is over one:
//
//	connections  callers' connections    The oldest on which no caller has proved an identity is closed. Where all
//	                                     have, the new one is.
//	calls        calls that the server   RESOURCE_EXHAUSTED at once, as a rule before there is a stream.
//	             answers at once
//	long_polls   polls, other calls      the same
//	             that wait, streams
//	bytes        messages in memory, a   A request waits for bytesWait, then gets RESOURCE_EXHAUSTED. An answer waits
//	             call's long headers,    answerTries times as long; then only that of a method that reads is refused,
//	             and what rewriting      since the others have changed something. Small messages never wait.
//	             takes beside them
//
// The refused caller gets the name of the limit and its value, and that it may try again later. Each refusal
// counts in temporal_seal_refused_total, and the log has one line a minute for each limit.
//
// Each limit holds for all together, and one connection or one caller gets a share of what is left of it
// (allows). A caller without an identity is the address that it calls from.
//
// There is no limit of rates: what is answered gives its place back, and how often a caller may call is for
// the Temporal server to say. Elsewhere: read.go bounds the size of one message and the time that it takes to
// arrive; server.go the streams and the headers; authenticate.go the calls that wait for an issuer's keys,
// and those that prove no identity; connections.go the answers that are not read.

// Limits bound what callers can make the proxy hold at once. What is over a limit is refused with
// RESOURCE_EXHAUSTED before anything of it was forwarded, which SDKs take as a sign to try again later.
type Limits struct {
	// Connections of callers. One more is closed as soon as it is accepted.
	Connections int
	// Calls are those that the server answers at once. LongPolls wait at the server: for tasks, and for the
	// end of a workflow or an update. They last a minute and need little, so they are counted on their own.
	Calls, LongPolls int
	// Bytes of messages in memory, each counted once. One message needs up to three times its size: as it
	// came, in one piece, and sealed or opened.
	Bytes int64
	// RequestBytes is how large one request may be, as it arrives and decompressed.
	RequestBytes int64
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

		RequestBytes: DefaultRequestBytes,
	}
}

const (
	// Upper bounds of the memory that each takes: the buffers and goroutines of a connection; a request's
	// first window and its copies; a long poll; and a byte of a message, of which there are up to three
	// copies, with those that the garbage collector has not found yet, in a third of the memory.
	perConnection = 64 << 10
	perCall       = 128 << 10
	perLongPoll   = 24 << 10
	perByte       = 16

	mostLimit = 1_000_000

	// MinBytes is enough for the largest message that a Temporal frontend accepts by default, beside others.
	MinBytes = 16 << 20

	// DefaultRequestBytes is twice the most that Temporal frontends take by default.
	DefaultRequestBytes = 8 << 20

	// MinRequestBytes is the most that Temporal frontends take by default.
	MinRequestBytes = 4 << 20

	// MinConnectionAge is the least age at which callers' connections may be closed: every such end costs
	// SDKs a new connection, and a load balancer that moves polls more often than they end only makes work.
	MinConnectionAge = 6 * time.Minute

	// copies is how many a message has at most: as it came, in one piece, and sealed or opened.
	copies = 3

	// unreserved is the size up to which a message never waits: the limit of calls bounds such messages well
	// enough.
	unreserved = 16 << 10
	// freeHeaders is the size of headers that the limit of calls allows for, and headerCost what each takes
	// beside its bytes.
	freeHeaders = 4 << 10
	headerCost  = 64
	// bytesWait is how long a request waits for the limit of bytes before it is refused. An answer waits
	// answerTries times as long, since it has cost the server work.
	bytesWait   = time.Second
	answerTries = 5

	// keptAccounts is how many accounts of callers are kept that nothing counts in any more.
	keptAccounts = 1000
)

// admission shares what the proxy may hold at once among connections, callers, and in all. Each call, and
// each byte of its messages, counts in three accounts.
type admission struct {
	limits  Limits
	metrics *Metrics
	log     *slog.Logger
	logged  lograte.Limiter

	most [len(limitNames)]int64 // limits, by what they are about

	mu      sync.Mutex
	unknown list.List // the connections, oldest first, on which no caller has proved an identity
	total   account
	callers map[callerKey]*account
	waiting []*waiter // for bytes, in the order in which they came
	reading list.List // of *reader: those whose request has not arrived yet, in the order in which they began
}

// resource is what a limit is about.
type resource int

const (
	calls resource = iota
	longPolls
	bytesHeld
	connected // counts in the account of all alone
)

// limitNames are the limits of the config, below `limits`, and the values of the label of refusals.
var limitNames = [...]string{calls: "calls", longPolls: "long_polls", bytesHeld: "bytes", connected: "connections"}

// account counts what one connection or one caller has, or all of them have.
type account struct {
	used [len(limitNames)]int64

	key callerKey // of a caller's account
}

// shareOfFree is how many times what is left of a limit one connection, or one caller, may have of it. So one
// alone gets three quarters of a limit, two get three sevenths each, and whoever comes next always finds
// something (dynamic queue length thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2),
// 1998).
const shareOfFree = 3

// allows reports whether a limit allows n more, where all of it and mine of it are taken by all and by one.
func allows(limit, all, mine, n int64) bool {
	free := limit - all - n
	return free >= 0 && mine+n <= shareOfFree*free
}

// callerKey identifies a caller across connections and tokens. The subject of an anonymous one is its address
// without the port.
type callerKey struct{ kind, subject, listener string }

// place is what one call takes of the limits. Its bytes may outlast it: they are given back when the answer
// is written.
type place struct {
	in       *admission
	accounts [3]*account // of all, of the connection, and of the caller; nil where there is none
	kind     resource    // of the call: calls or longPolls
	bytes    int64
}

// waiter is a message that waits for n bytes.
type waiter struct {
	place  *place
	n      int64
	reader *reader // of the request that needs them; nil: an answer
	served chan struct{}
}

// newAdmission returns an admission that nothing counts in yet.
func newAdmission(l Limits, m *Metrics, log *slog.Logger) *admission {
	return &admission{limits: l, metrics: m, log: log, callers: map[callerKey]*account{},
		most: [...]int64{calls: int64(l.Calls), longPolls: int64(l.LongPolls),
			bytesHeld: l.Bytes, connected: int64(l.Connections)}}
}

// connect counts a connection in. It reports false if it is one too many. Where the limit is reached, or
// where most of it is taken by connections on which no caller has proved an identity, the oldest of these
// is closed.
func (a *admission) connect() bool {
	a.mu.Lock()
	full := a.total.used[connected] >= a.most[connected]
	var oldest *connection
	if first := a.unknown.Front(); first != nil && (full || a.unknown.Len() >= max(a.limits.Connections/2, 1)) {
		oldest = a.unknown.Remove(first).(*connection)
		oldest.place = nil
		full = false
	}
	if !full {
		a.total.used[connected]++
	}
	a.mu.Unlock()
	if oldest != nil {
		_ = oldest.Close()
	}
	if full || oldest != nil {
		a.overLimit(connected)
	}
	return !full
}

// unproved notes a connection on which no caller has proved an identity yet.
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
	a.total.used[connected]--
}

// connected is the number of connections.
func (a *admission) connections() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return int(a.total.used[connected])
}

// admit counts the call in with its headers, or refuses it where it is one too many.
func (c *call) admit() error {
	place, err := c.server.admission.enter(connectionOf(c.ctx), c.id.Caller, c.method.longPoll)
	if err != nil {
		return err
	}
	c.lease = newLease(place)
	return c.lease.place.countHeaders(c.headers)
}

// countHeaders counts what a call's headers take, if that is more than the limit of calls has in mind.
func (p *place) countHeaders(headers metadata.MD) error {
	n := int64(0)
	for name, values := range headers {
		for _, v := range values {
			n += int64(len(name) + len(v) + headerCost)
		}
	}
	if n <= freeHeaders {
		return nil
	}
	if !p.takeIfFree(n, nil) {
		return answerFor(p.in.noBytes("the headers of a call", n)).Err()
	}
	return nil
}

// takeIfFree takes n bytes, if the limits allow them now.
func (p *place) takeIfFree(n int64, r *reader) bool {
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	fits := p.in.fits(p, n, r)
	if fits {
		p.take(n)
	}
	return fits
}

// Enter counts a request to the codec server in like a call of the caller at this host. take counts n bytes more. It does not
// wait, since calls would wait behind it. The request has to leave once it is answered.
func (s *Server) Enter(caller *policy.Caller, host string) (take func(n int64) error, leave func(), err error) {
	p, err := s.admission.enter(&connection{account: new(account), host: host}, caller, false)
	if err != nil {
		return nil, nil, errors.New(status.Convert(err).Message())
	}
	body := new(reader) // calls go before it
	take = func(n int64) error {
		if !p.takeIfFree(n, body) {
			return s.admission.noBytes("a request", n)
		}
		return nil
	}
	return take, func() { p.leave(); p.giveBack() }, nil
}

// enter counts a call in. The call has to leave when it ends. conn and caller may be nil. The error is the status to
// answer with.
func (a *admission) enter(conn *connection, caller *policy.Caller, longPoll bool) (place, error) {
	p := a.place(conn, longPoll)
	a.mu.Lock()
	p.accounts[2] = a.accountOf(caller, conn)
	full := p.full()
	if full {
		a.forget(&p)
	} else {
		p.add(p.kind, 1)
	}
	a.mu.Unlock()
	if full {
		return place{}, a.tooManyCalls(p.kind)
	}
	return p, nil
}

// check returns the error of enter where it would refuse a call now, and counts nothing in. It costs a call
// that is refused neither a stream nor a goroutine.
func (a *admission) check(conn *connection, caller *policy.Caller, longPoll bool) error {
	p := a.place(conn, longPoll)
	a.mu.Lock()
	p.accounts[2] = a.callers[keyOf(caller, conn)]
	full := p.full()
	a.mu.Unlock()
	if full {
		return a.tooManyCalls(p.kind)
	}
	return nil
}

// place returns the place of a call that does not count yet, without the account of its caller.
func (a *admission) place(conn *connection, longPoll bool) place {
	p := place{in: a, accounts: [3]*account{&a.total}}
	if longPoll {
		p.kind = longPolls
	}
	if conn != nil {
		p.accounts[1] = conn.account
	}
	return p
}

// full reports whether one call more would be too many. The caller holds the lock.
func (p *place) full() bool {
	limit := p.in.most[p.kind]
	// One more than the limit, so that one alone gets the whole of a very small limit.
	return p.in.total.used[p.kind] >= limit || !p.shares(p.kind, limit+1, 1)
}

// shares reports whether the call's connection and its caller may each have n more of a resource, where the
// limit for all is limit. The caller holds the lock.
func (p *place) shares(r resource, limit, n int64) bool {
	return !slices.ContainsFunc(p.accounts[1:], func(acc *account) bool {
		return acc != nil && !allows(limit, p.in.total.used[r], acc.used[r], n)
	})
}

// tooManyCalls counts a call that is refused, and returns the status to answer with. It names the limit that
// the caller met, so that an operator can raise it.
func (a *admission) tooManyCalls(kind resource) error {
	a.overLimit(kind)
	return answerFor(newRefusal(codes.ResourceExhausted, "%d calls are being answered, all that "+
		"`limits.%s` of the proxy's config allows: try again later, give the proxy more memory, or run more of them",
		a.most[kind], limitNames[kind])).Err()
}

// keyOf identifies a caller. The zero key stands for none.
func keyOf(caller *policy.Caller, conn *connection) callerKey {
	key := callerKey{kind: anonymous}
	if caller != nil {
		key = callerKey{caller.Kind, caller.Subject, caller.Listener}
	}
	if key.kind == anonymous {
		if conn == nil {
			return callerKey{}
		}
		key.subject = conn.host
	}
	return key
}

// accountOf returns a caller's account. Nil: none.
func (a *admission) accountOf(caller *policy.Caller, conn *connection) *account {
	key := keyOf(caller, conn)
	if key == (callerKey{}) {
		return nil
	}
	if acc := a.callers[key]; acc != nil {
		return acc
	}
	acc := &account{key: callerKey{strings.Clone(key.kind), strings.Clone(key.subject), strings.Clone(key.listener)}}
	a.callers[acc.key] = acc
	return acc
}

// anonymous is the kind of callers without an identity.
const anonymous = "anonymous"

// forget removes the account of a call's caller, if there are many and nothing counts in this one any more.
func (a *admission) forget(p *place) {
	acc := p.accounts[2]
	if acc != nil && len(a.callers) > keptAccounts && acc.used == [len(limitNames)]int64{} {
		delete(a.callers, acc.key)
	}
}

// add counts n more of a resource, or less, in each of the call's accounts. The caller holds the lock.
func (p *place) add(r resource, n int64) {
	for _, acc := range p.accounts {
		if acc != nil {
			acc.used[r] += n
		}
	}
}

// leave counts the call out.
func (p *place) leave() {
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	p.add(p.kind, -1)
	p.in.forget(p)
}

// reserve waits until the limits allow n bytes more, and reports false if that takes too long. A small
// message never waits. One that is larger than a limit takes all of it: taken is how much was reserved. r
// reads the request that needs the bytes; it is nil for an answer.
func (p *place) reserve(ctx context.Context, n int64, wait time.Duration, r *reader) (taken int64, ok bool) {
	if n <= unreserved && (r == nil || r.arrived.Load() <= unreserved) {
		p.count(n)
		return n, true
	}
	a := p.in
	n = min(n, a.limits.Bytes/2)
	a.mu.Lock()
	if len(a.waiting) == 0 && a.fits(p, n, r) {
		p.take(n)
		a.mu.Unlock()
		return n, true
	}
	w := &waiter{p, n, r, make(chan struct{})}
	a.waiting = append(a.waiting, w)
	a.serve()
	a.mu.Unlock()
	timer, tick := time.NewTimer(wait), time.NewTicker(stalledTime/4)
	defer timer.Stop()
	defer tick.Stop()
	for {
		select {
		case <-w.served:
			return n, true
		case now := <-tick.C:
			a.cutStalled(now)
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		return n, a.giveUp(w)
	}
}

// reads notes that a request begins to be read.
func (a *admission) reads(r *reader) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.turn = a.reading.PushBack(r)
}

// hasRead notes that a request was read, or will not be.
func (a *admission) hasRead(r *reader) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reading.Remove(r.turn)
	if len(a.waiting) > 0 {
		a.serve() // another one is the oldest now
	}
}

// cutStalled ends the calls whose requests do not arrive, because others wait for what they take.
func (a *admission) cutStalled(now time.Time) {
	var stalled []*reader
	a.mu.Lock()
	for e := a.reading.Front(); e != nil; e = e.Next() {
		r := e.Value.(*reader)
		if now.Sub(r.started) < stalledTime {
			break // so are all behind it
		}
		if r.lag(now) >= stalledTime && !r.waits(a) {
			stalled = append(stalled, r)
		}
	}
	a.mu.Unlock()
	for _, r := range stalled {
		r.cut(tooSlow())
	}
}

// waits reports whether the request does not arrive because it is not read. The caller holds the lock.
func (r *reader) waits(a *admission) bool {
	return slices.ContainsFunc(a.waiting, func(w *waiter) bool { return w.reader == r })
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

// count adds n bytes whatever the limits are, since they are in memory already. A negative n gives bytes
// back.
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

// charge counts n bytes of memory that a call's messages take beside their own bytes, if the limits allow it.
// A negative n gives them back. A byte of a message stands for all of its copies, so as many bytes of memory
// count as one.
func (p *place) charge(n int64) error {
	a := p.in
	n /= copies
	a.mu.Lock()
	fits := n <= 0 || a.fits(p, n, nil)
	if fits {
		p.take(n)
	}
	if n < 0 {
		a.serve()
	}
	alone := p.bytes + n
	a.mu.Unlock()
	switch {
	case fits:
		return nil
	case !allows(a.limits.Bytes, alone, alone, 0): // it would not fit without the others either
		return rewrite.ErrTooMuch
	}
	return a.noBytes("what a message is made of or opens to", n)
}

// take counts n bytes more. The caller holds the lock.
func (p *place) take(n int64) {
	p.bytes += n
	p.add(bytesHeld, n)
}

// serve admits waiting messages in turn. It passes over one whose own connection or caller has too much.
// Behind one that the limit for all does not allow it serves only requests of which a part is in memory
// already: small messages would keep a large one out for ever, and half a request in memory is of no use.
func (a *admission) serve() {
	full := false
	for i := 0; i < len(a.waiting); {
		w := a.waiting[i]
		begun := w.reader != nil && w.reader.arrived.Load() > readChunk
		if full && !begun || !a.fits(w.place, w.n, w.reader) {
			full = full || a.total.used[bytesHeld]+w.n > a.limits.Bytes
			i++
			continue
		}
		a.waiting = slices.Delete(a.waiting, i, i+1)
		w.place.take(w.n)
		close(w.served)
	}
}

// fits reports whether the limits allow n bytes more, of the request that r reads or of an answer. Requests
// that are read take bytes step by step; so that they do not all stop half way, a request's size of bytes is
// kept for the oldest of them. The caller holds the lock.
func (a *admission) fits(p *place, n int64, r *reader) bool {
	limit := a.limits.Bytes
	if oldest := a.reading.Front(); oldest != nil && r != nil && oldest.Value != r {
		limit -= min(a.limits.RequestBytes, limit/2)
	}
	return a.total.used[bytesHeld]+n <= limit && p.shares(bytesHeld, limit, n)
}

// inUse is how many bytes of messages are in memory.
func (a *admission) inUse() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.total.used[bytesHeld]
}

// overLimit counts a refusal, and logs it once a minute for each limit.
func (a *admission) overLimit(r resource) {
	name := limitNames[r]
	a.metrics.refused.WithLabelValues(name).Inc()
	if !a.logged.Allow(name) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	used := a.total.used
	a.log.Warn("callers are refused, since there is more to do than the limit allows", "limit", "limits."+name,
		"connections", used[connected], "calls", used[calls], "long_polls", used[longPolls], "bytes", used[bytesHeld])
}

// longPoll reports whether calls to a method wait at the server, other than those for tasks.
func longPoll(full string) bool {
	switch name := full[strings.LastIndexByte(full, '/')+1:]; name {
	case "GetWorkflowExecutionHistory", "UpdateWorkflowExecution", "ExecuteMultiOperation",
		"DescribeActivityExecution", "DescribeNexusOperationExecution":
		return true
	default:
		return strings.HasPrefix(name, "Poll")
	}
}

// tooSlow is the answer to a request that does not arrive while others wait.
func tooSlow() error {
	return newRefusal(codes.ResourceExhausted, "the request arrives too slowly while others wait: try again later")
}

// noBytes counts a message that the limit of bytes does not allow, and returns the error to answer with.
func (a *admission) noBytes(what string, n int64) error {
	a.overLimit(bytesHeld)
	return newRefusal(codes.ResourceExhausted, "there is no room for %s of %d bytes beside the others: "+
		"`limits.bytes` of the proxy's config allows %d; try again later, give the proxy more memory, or run more of them",
		what, n, a.limits.Bytes)
}
