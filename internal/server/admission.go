package server

import (
	"container/list"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
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
//	calls        calls that the server   RESOURCE_EXHAUSTED at once, before anything of the request is read.
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

// admission shares what the proxy may hold at once among connections, callers, and in all. Each call, and
// each byte of its messages, counts in three accounts.
type admission struct {
	limits  Limits
	metrics *Metrics
	log     *slog.Logger
	logged  lograte.Limiter
	turns   turns // of connections that are read later

	most [len(limitNames)]int64 // limits, by what they are about

	// held are the calls and the long polls of total, to be read without the lock.
	held [bytesHeld]atomic.Int64

	mu      sync.Mutex
	unknown list.List // the connections, oldest first, on which no caller has proved an identity
	total   account
	own     account // of what the proxy does by itself
	callers map[callerKey]*account
	waiting []*waiter // for bytes, in the order in which they came
	reading list.List // of *reader: those whose request has not arrived yet, in the order in which they came
	begun   list.List // of *reader: those of them of whose request a part is in memory
}

// resource is what a limit is about.
type resource int

const (
	calls resource = iota
	longPolls
	bytesHeld
	connected // counts in the account of all alone

	none resource = -1
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
	later    int64 // bytes of a small answer, which count when the call ends and the answer is on its way
	closed   bool  // all bytes were given back, and none count any more
}

// newAdmission returns an admission that nothing counts in yet.
func newAdmission(l Limits, m *Metrics, log *slog.Logger) *admission {
	return &admission{limits: l, metrics: m, log: log, callers: map[callerKey]*account{},
		most: [...]int64{calls: int64(l.Calls), longPolls: int64(l.LongPolls),
			bytesHeld: l.Bytes, connected: int64(l.Connections)}}
}

// admit counts the call in with its headers, or refuses it where it is one too many.
func (c *call) admit() error {
	reader, err := newReader(c.ctx, c.server.admission.limits.RequestBytes, c.server.requestTime)
	if err != nil {
		return err
	}
	place, err := c.server.admission.enter(connectionOf(c.ctx), c.id.Caller, c.method.longPoll, headersSize(c.headers), reader)
	if err == nil {
		c.lease, c.reader = newLease(place), reader
		reader.place = &c.lease.place
	}
	return err
}

// Enter counts a request to the codec server in like a call of the caller at this host. take counts n bytes more, and memory what
// rewriting takes. Neither waits, since calls would wait behind it. The request has to leave once it is answered.
func (s *Server) Enter(caller *policy.Caller, host string) (take func(n int64) error, memory rewrite.Memory, leave func(), err error) {
	p, err := s.admission.enter(&connection{account: new(account), host: host}, caller, false, 0, nil)
	if err != nil {
		return nil, nil, nil, errors.New(status.Convert(err).Message())
	}
	l, body := newLease(p), new(reader) // calls go before it
	take = func(n int64) error {
		if !l.place.takeIfFree(n, body) {
			return s.admission.noBytes("a request", n)
		}
		return nil
	}
	return take, l, func() { l.place.leave(false) }, nil
}

// enter counts a call in, with what its headers take. The call has to leave when it ends. conn and caller may be nil. r, if it is
// not nil, begins to read the call's request, and has to be closed. The error is the status to answer with.
func (a *admission) enter(conn *connection, caller *policy.Caller, longPoll bool, headers int64, r *reader) (place, error) {
	p := a.place(conn, longPoll)
	a.mu.Lock()
	p.accounts[2] = a.accountOf(caller, conn)
	over := p.over(headers)
	if over == none {
		p.add(p.kind, 1)
		p.take(headers)
		if r != nil {
			r.turn = a.reading.PushBack(r)
		}
	} else {
		a.forget(&p)
	}
	a.mu.Unlock()
	return p, a.refuse(over, headers)
}

// check returns the error of enter where it would refuse a call now, and counts nothing in. It costs a call
// that is refused neither a stream nor a goroutine.
func (a *admission) check(conn *connection, caller *policy.Caller, longPoll bool, headers int64) error {
	p := a.place(conn, longPoll)
	if headers == 0 && a.held[p.kind].Load() < a.most[p.kind]/2 {
		return nil // then nobody's share is used up either, whatever part of it one has (allows)
	}
	a.mu.Lock()
	p.accounts[2] = a.callers[keyOf(caller, conn)]
	over := p.over(headers)
	a.mu.Unlock()
	return a.refuse(over, headers)
}

// over returns the limit that one call more would exceed, with what its headers take. The caller holds the lock.
func (p *place) over(headers int64) resource {
	switch {
	case p.full():
		return p.kind
	case headers > 0 && !p.in.fits(p, headers, nil):
		return bytesHeld
	}
	return none
}

// refuse counts a call that is over a limit, and returns the status to answer with.
func (a *admission) refuse(over resource, headers int64) error {
	switch over {
	case none:
		return nil
	case bytesHeld:
		return answerFor(a.noBytes("the headers of a call", headers)).Err()
	}
	return a.tooManyCalls(over)
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
	if acc != nil && len(a.callers) > keptAccounts && a.callers[acc.key] == acc && acc.used == [len(limitNames)]int64{} {
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
	if r < bytesHeld {
		p.in.held[r].Store(p.in.total.used[r])
	}
}

// leave counts the call out. Its bytes go on counting if an answer is on its way; otherwise they are given back.
func (p *place) leave(onItsWay bool) {
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	p.add(p.kind, -1)
	if onItsWay {
		p.take(p.later)
	} else {
		p.close()
	}
	p.in.forget(p)
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
