package server

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/peer"
)

// A caller that does not read must not hold memory for ever, nor one that says nothing a connection.

const (
	// writeTime is how long a caller's end of the connection may take nothing at all.
	writeTime = time.Minute
	// answerTime is how long a caller may leave an answer unread, and slowestAnswer what it may take longer for its size.
	answerTime    = time.Minute
	slowestAnswer = 16 << 10 // bytes a second
	// sweepEvery is how often answers are looked at.
	sweepEvery = 5 * time.Second
	// deadlineStep saves setting the time limit of each write anew.
	deadlineStep = writeTime / 10
)

// callerListener keeps account of the connections of callers.
type callerListener struct {
	net.Listener
	server   *Server
	listener *listener
}

func (l *callerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.server.admitConn(conn, l.listener); c != nil {
			return c, nil
		}
		_ = conn.Close() // one too many, which its end tells
	}
}

// admitConn takes a connection in, unless there are too many.
func (s *Server) admitConn(conn net.Conn, l *listener) *callerConn {
	s.connsMu.Lock()
	defer s.connsMu.Unlock()
	if len(s.conns) >= s.limits.Connections {
		s.overLimit("connections")
		return nil
	}
	c := &callerConn{Conn: conn, server: s, listener: l}
	s.conns[c] = struct{}{}
	l.open.Add(1)
	s.metrics.open.Inc()
	return c
}

// sweep closes connections whose callers leave answers unread, until done is closed.
func (s *Server) sweep(done <-chan struct{}) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case now := <-tick.C:
			s.sweepAt(now)
		}
	}
}

func (s *Server) sweepAt(now time.Time) {
	s.connsMu.Lock()
	var unread []*callerConn
	for c := range s.conns {
		if c.unread(now) {
			unread = append(unread, c)
		}
	}
	s.connsMu.Unlock()
	for _, c := range unread {
		s.log.Warn("a caller does not read its answers; its connection is closed", "listener", c.listener.Name, "address", c.RemoteAddr().String())
		_ = c.Close() // what is still to be written cannot be
	}
}

// callerConn is a connection of a caller.
type callerConn struct {
	net.Conn
	server   *Server
	listener *listener
	once     sync.Once
	deadline atomic.Int64 // when the time limit of writes was set last, in Unix nanoseconds

	mu      sync.Mutex
	answers *release // that are on their way out, in no order
	closed  bool
}

func (c *callerConn) Write(b []byte) (int, error) {
	now := time.Now()
	if last := c.deadline.Load(); now.UnixNano()-last > int64(deadlineStep) {
		c.deadline.Store(now.UnixNano())
		if err := c.SetWriteDeadline(now.Add(writeTime)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}

func (c *callerConn) Close() error {
	c.once.Do(func() {
		c.listener.open.Add(-1)
		c.server.metrics.open.Dec()
		c.server.connsMu.Lock()
		delete(c.server.conns, c)
		c.server.connsMu.Unlock()
		c.drop()
	})
	return c.Conn.Close()
}

// RemoteAddr lets a call find its connection: it is all of it that gRPC hands through, TLS or not.
func (c *callerConn) RemoteAddr() net.Addr { return connAddr{c.Conn.RemoteAddr(), c} }

type connAddr struct {
	net.Addr
	conn *callerConn
}

// sends notes that the answer is on its way out. What the call takes of the room is given back when it is written, or
// cannot be any more.
func (r *release) sends(ctx context.Context, answer *frame) {
	c := callerOf(ctx)
	if c == nil || !r.answers {
		r.giveBack()
		return
	}
	n := answer.data.Len()
	r.conn, r.late = c, time.Now().Add(answerTime+time.Duration(n/slowestAnswer)*time.Second)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		r.giveBack()
		return
	}
	if r.next = c.answers; r.next != nil {
		r.next.before = r
	}
	c.answers = r
}

// callerOf finds the connection that a call came on.
func callerOf(ctx context.Context) *callerConn {
	if p, ok := peer.FromContext(ctx); ok {
		if addr, ok := p.Addr.(connAddr); ok {
			return addr.conn
		}
	}
	return nil
}

// written takes an answer off the list.
func (c *callerConn) written(r *release) {
	r.giveBack()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if r.before != nil {
		r.before.next = r.next
	} else {
		c.answers = r.next
	}
	if r.next != nil {
		r.next.before = r.before
	}
	r.next, r.before = nil, nil
}

// drop ends the account of the answers that were not written.
func (c *callerConn) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for r := c.answers; r != nil; r = r.next {
		r.giveBack()
	}
	c.answers = nil
}

// unread tells if an answer has been on its way out for too long.
func (c *callerConn) unread(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := c.answers; r != nil; r = r.next {
		if now.After(r.late) {
			return true
		}
	}
	return false
}
