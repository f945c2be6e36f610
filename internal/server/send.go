package server

import (
	"bytes"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"

	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/x/frame"
)

// gRPC does not report when a message has been written, and goes on using the message's buffers until then,
// after the call has ended. It reports it only to the pool that a buffer came from, by giving the buffer
// back. So the buffers of sealed requests and of answers go to gRPC with a pool that notes their return.
// TestACallerThatDoesNotReadIsCutOff fails where a later gRPC copies messages or frees buffers earlier.

// send hands the answer over to gRPC. Its bytes are given back once it is written, or cannot be any more.
func (c *call) send() error {
	c.end(codes.OK)
	l := c.lease
	if !l.answers && !mem.IsBelowBufferPoolingThreshold(c.answer.Len()) { // it goes out unchanged
		l.kept, c.answer = c.answer, frame.Frame{}
		c.answer = l.lendAnswer(l.kept.Bytes())
	}
	conn := connectionOf(c.ctx)
	if conn == nil || !l.answers {
		return nil // the call gives its bytes back when it ends
	}
	n := c.answer.Len()
	l.conn, l.size, l.late = conn, n, time.Now().Add(answerTime+time.Duration(n/slowestAnswer)*time.Second)
	conn.sends(l)
	return nil
}

// lease keeps what a call has in memory. It ends when the call has ended and gRPC has given back all of the
// buffers that were lent to it.
type lease struct {
	place   place
	holders atomic.Int32
	session *rewrite.Session // whose buffers are lent
	kept    frame.Frame      // an answer that is sent unchanged

	// Of an answer that is on its way out:
	answers bool
	conn    *connection // nil: there is none
	size    int         // bytes of the answer
	late    time.Time   // when conn is closed if it is not written
}

// newLease returns the lease of a call, which the call has to drop.
func newLease(p place) *lease {
	l := &lease{place: p}
	l.holders.Store(1)
	return l
}

// lend wraps bytes that belong to the call as a frame.
func (l *lease) lend(b []byte) frame.Frame { return l.lendTo(b, lent{l}) }

// lendAnswer is lend for what the caller gets.
func (l *lease) lendAnswer(b []byte) frame.Frame {
	l.answers = !mem.IsBelowBufferPoolingThreshold(cap(b))
	return l.lendTo(b, lentAnswer{l})
}

// lendTo wraps bytes as a frame whose buffer gRPC gives back to the pool.
func (l *lease) lendTo(b []byte, pool mem.BufferPool) frame.Frame {
	if mem.IsBelowBufferPoolingThreshold(cap(b)) {
		// gRPC does not count references to small buffers: give it a copy of its own.
		return frame.New(mem.SliceBuffer(bytes.Clone(b)))
	}
	l.holders.Add(1)
	return frame.New(mem.NewBuffer(&b, pool))
}

// drop gives up the lease of the call, or of a buffer. The last one ends it.
func (l *lease) drop() {
	if l.holders.Add(-1) > 0 {
		return
	}
	l.kept.Free()
	if l.session != nil {
		l.session.Done()
	}
}

// Charge counts memory that the rewriting of the call's messages takes. It is a rewrite.Memory.
func (l *lease) Charge(n int64) error { return l.place.charge(n) }

// giveBack ends what the call takes of the limit of bytes. gRPC never frees what it could not write to a
// connection that broke: then the garbage collector gets it, and the limit must not wait for that.
func (l *lease) giveBack() { l.place.giveBack() }

// lent is the pool to which gRPC returns a lent buffer.
type lent struct{ lease *lease }

func (p lent) Get(length int) *[]byte { return frame.Clear.Get(length) }
func (p lent) Put(*[]byte)            { p.lease.drop() }

// lentAnswer is the same for an answer.
type lentAnswer struct{ lease *lease }

func (p lentAnswer) Get(length int) *[]byte { return frame.Clear.Get(length) }

func (p lentAnswer) Put(*[]byte) {
	if p.lease.conn != nil {
		p.lease.conn.written(p.lease)
	}
	p.lease.drop()
}
