package server

import (
	"container/list"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/x/lograte"
)

// A caller that stops reading must not keep memory for ever, and a silent one must not keep a connection.

const (
	// writeTime is how long a caller's end of the connection may take nothing at all.
	writeTime = time.Minute
	// answerTime is how long a caller may leave an answer unread, and slowestAnswer what it may take longer
	// for its size.
	answerTime    = time.Minute
	slowestAnswer = 16 << 10 // bytes a second
	// forgiven are the bytes of unread answers of a connection that are passed over.
	forgiven = 64 << 10
	// unreadEvery is how often connections with unread answers are looked for.
	unreadEvery = 5 * time.Second
	// deadlineStep saves setting the time limit of each write anew.
	deadlineStep = writeTime / 10
	// mostStatuses is how many answers that are a status alone may wait for a write. HTTP/2 does not hold them
	// back for a caller that reads nothing, and gRPC queues any number.
	mostStatuses = streamsPerCaller
	// longestPause bounds how long nothing is read for calls that were refused, and longestUnproved the same on a connection on
	// which no caller has proved an identity. Others' calls wait there only if they come behind a balancer's first ones.
	longestPause    = 500 * time.Millisecond
	longestUnproved = 2 * time.Second
	// slowRead is how much is read at once from the latter, so that few calls arrive between two pauses.
	slowRead = 2 << 10
)

// connections are those of the callers of one listener.
type connections struct {
	net.Listener
	name      string // of the listener
	admission *admission
	metrics   *Metrics
	unread    lograte.Limiter // of lines about answers that are not read, by host

	mu  sync.Mutex
	all map[*connection]struct{}
}

// Accept returns the next connection that the limit allows. Where it is reached, the oldest connection ends
// on which no caller has proved an identity: connections that say nothing do not keep callers out.
func (s *connections) Accept() (net.Conn, error) {
	for {
		conn, err := s.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if s.admission.connect() {
			return s.add(conn), nil
		}
		_ = conn.Close() // one too many
	}
}

// add begins the account of a connection.
func (s *connections) add(conn net.Conn) *connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &connection{Conn: conn, of: s, account: new(account), host: hostOf(conn.RemoteAddr()),
		gone: make(chan struct{}), answers: map[*lease]struct{}{}}
	s.all[c] = struct{}{}
	s.admission.unproved(c)
	s.metrics.open.Inc()
	return c
}

// hostOf is an address without its port.
func hostOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

// remove ends it.
func (s *connections) remove(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, c)
	s.metrics.open.Dec()
	s.admission.disconnect(c)
}

// closeUnread closes connections whose callers leave answers unread.
func (s *connections) closeUnread(now time.Time, log *slog.Logger) {
	s.mu.Lock()
	var unread []*connection
	for c := range s.all {
		if c.unread(now) {
			unread = append(unread, c)
		}
	}
	s.mu.Unlock()
	for _, c := range unread {
		_ = c.Close() // what is still to be written cannot be
		if leftOut, ok := s.unread.Next(c.host); ok {
			log.Warn("a caller does not read its answers; its connection is closed",
				withLeftOut([]any{"listener", s.name, "address", c.RemoteAddr().String()}, leftOut)...)
		}
	}
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

// connection is one of a caller.
type connection struct {
	net.Conn
	of      *connections
	account *account
	host    string // the caller's address without the port
	once    sync.Once
	gone    chan struct{} // closed once the connection is
	// deadline is when the time limit of writes was set last, in Unix nanoseconds.
	deadline atomic.Int64
	// proved is set once a caller has proved an identity, and refused counts the calls before that were
	// refused.
	proved  atomic.Bool
	refused atomic.Int32
	// statuses counts answers since the last write, and pause is how long the next read waits, in nanoseconds.
	statuses atomic.Int32
	pause    atomic.Int64
	// place in the admission's list of those without an identity; nil: not in it. The admission's lock guards
	// it.
	place *list.Element

	mu         sync.Mutex
	answers    map[*lease]struct{} // that are on their way out
	passedOver int                 // bytes of those that were not written in time
	closed     bool
}

// known notes whether a call has proved an identity. It closes a connection that makes nothing but calls that
// prove none. One on which a caller has proved an identity stays: behind a balancer it may carry the polls of
// others, and a poll that is cut may lose its task. A nil connection is one that no listener of the proxy
// accepted.
func (c *connection) known(proved bool) {
	switch {
	case c == nil || c.proved.Load():
	case proved:
		if !c.proved.Swap(true) {
			c.of.admission.proved(c)
		}
	case c.refused.Add(1) == mostRefused:
		_ = c.Close()
	}
}

// slow has the connection read later by d, so that calls that are refused leave the time to others. Where no caller has proved an
// identity, it also waits for its turn: a flood may come on any number of connections.
func (c *connection) slow(d time.Duration) {
	if c == nil {
		return
	}
	c.pause.Add(int64(d))
	if !c.proved.Load() {
		c.inTurn(d)
	}
}

// inTurn has the connection read no earlier than those that were to be slowed before it.
func (c *connection) inTurn(d time.Duration) {
	wait := int64(c.of.admission.turns.take(time.Now(), d))
	for was := c.pause.Load(); was < wait && !c.pause.CompareAndSwap(was, wait); was = c.pause.Load() {
	}
}

// turns are the pauses of all connections that wait one after the other. The zero value is ready.
type turns struct{ until atomic.Int64 } // Unix nanoseconds

// take adds a pause, and returns how long it is until it is over.
func (t *turns) take(now time.Time, d time.Duration) time.Duration {
	for {
		was := t.until.Load()
		over := min(max(was, now.UnixNano())+int64(d), now.Add(longestUnproved).UnixNano())
		if t.until.CompareAndSwap(was, over) {
			return time.Duration(over - now.UnixNano())
		}
	}
}

// answersStatus notes that a call is answered by a status alone. It closes a connection that does not take them.
func (c *connection) answersStatus() {
	if c != nil && c.statuses.Add(1) == mostStatuses {
		_ = c.Close()
	}
}

// Read waits for what was refused before.
func (c *connection) Read(b []byte) (int, error) {
	proved := c.proved.Load()
	if c.pause.Load() > 0 {
		longest := longestUnproved
		if proved {
			longest = longestPause
		}
		c.wait(min(time.Duration(c.pause.Swap(0)), longest))
	}
	if !proved {
		b = b[:min(len(b), slowRead)]
	}
	return c.Conn.Read(b)
}

// wait ends early where the connection does: what it takes in memory is no longer counted then.
func (c *connection) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.gone:
	}
}

// Write gives each write a time limit, which is set anew only now and then.
func (c *connection) Write(b []byte) (int, error) {
	now := time.Now()
	if last := c.deadline.Load(); now.UnixNano()-last > int64(deadlineStep) {
		c.deadline.Store(now.UnixNano())
		if err := c.SetWriteDeadline(now.Add(writeTime)); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Write(b)
	if err == nil {
		c.statuses.Store(0)
	}
	return n, err
}

// Close also ends the account of what the caller has not read. gRPC may close a connection twice.
func (c *connection) Close() error {
	c.once.Do(func() {
		close(c.gone)
		c.of.remove(c)
		c.drop()
	})
	return c.Conn.Close()
}

// sends notes that an answer is on its way out.
func (c *connection) sends(l *lease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		l.giveBack()
		return
	}
	c.answers[l] = struct{}{}
}

// written notes that an answer is out.
func (c *connection) written(l *lease) {
	l.giveBack()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.answers, l)
}

// drop ends the account of the answers that were not written.
func (c *connection) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for l := range c.answers {
		l.giveBack()
	}
	c.answers = nil
}

// unread reports whether an answer has been on its way out for too long. Small ones are passed over, up to forgiven in all: gRPC drops
// an answer and does not give its buffer back if the call is reset at the moment when the answer is handed over (preprocessData in its
// internal/transport/controlbuf.go, 1.85), and no other call of the connection may suffer from that.
func (c *connection) unread(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.answers {
		if !now.After(l.late) {
			continue
		}
		if c.passedOver += l.size; c.passedOver > forgiven {
			return true
		}
		delete(c.answers, l)
		l.giveBack()
	}
	return false
}
