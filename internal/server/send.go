package server

import (
	"bytes"
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/mem"
)

// release is what a call holds in memory. It ends when all of the buffers that were lent to gRPC have been written and
// freed: a message can still be on its way out when the call that sent it has ended, so the call's buffers must not be
// reused by the call's end alone.
type release struct {
	holders atomic.Int32
	done    func()
	kept    frame // an answer that is sent as it came

	room  *room
	taken atomic.Int64 // of room

	// Of an answer that is on its way out:
	answers      bool
	conn         *callerConn
	late         time.Time // when conn is closed if it is not written
	next, before *release  // in conn's list
}

func newRelease(r *room) *release {
	held := &release{room: r}
	held.holders.Store(1)
	return held
}

// reserve waits for room for n more bytes. Little is let in anyway.
func (r *release) reserve(ctx context.Context, n int64, wait time.Duration) bool {
	if n <= unreserved {
		r.count(n)
		return true
	}
	if !r.room.take(ctx, n, wait) {
		return false
	}
	r.taken.Add(min(n, r.room.size))
	return true
}

// count notes n bytes that are in memory already, or, if n is negative, that are not.
func (r *release) count(n int64) {
	r.room.add(n)
	r.taken.Add(n)
}

// lend wraps bytes that belong to the call as a frame.
func (r *release) lend(b []byte) *frame { return r.lendTo(b, lent{r}) }

// lendAnswer is lend for what the caller gets.
func (r *release) lendAnswer(b []byte) *frame {
	r.answers = !mem.IsBelowBufferPoolingThreshold(cap(b))
	return r.lendTo(b, lentAnswer{r})
}

// lendFrame is lendAnswer for an answer that is sent as it came.
func (r *release) lendFrame(f *frame) *frame {
	if f.data.Len() <= unreserved {
		return f
	}
	r.kept.data, f.data = f.data, nil
	return r.lendAnswer(r.kept.bytes())
}

func (r *release) lendTo(b []byte, pool mem.BufferPool) *frame {
	if mem.IsBelowBufferPoolingThreshold(cap(b)) {
		// gRPC does not count references to small buffers: give it a copy of its own.
		return &frame{data: mem.BufferSlice{mem.SliceBuffer(bytes.Clone(b))}}
	}
	r.holders.Add(1)
	return &frame{data: mem.BufferSlice{mem.NewBuffer(&b, pool)}}
}

// drop gives up the call's own hold.
func (r *release) drop() {
	if r.holders.Add(-1) > 0 {
		return
	}
	r.kept.free()
	if r.done != nil {
		r.done()
	}
}

// giveBack ends what the call takes of the room. gRPC never frees what it could not write to a connection that broke: then
// the garbage collector gets it, and the room must not wait for that.
func (r *release) giveBack() { r.room.add(-r.taken.Swap(0)) }

// lent is the pool to which gRPC returns a lent buffer.
type lent struct{ *release }

func (l lent) Get(length int) *[]byte { return buffers.Get(length) }
func (l lent) Put(*[]byte)            { l.drop() }

// lentAnswer is the same for an answer.
type lentAnswer struct{ *release }

func (l lentAnswer) Get(length int) *[]byte { return buffers.Get(length) }

func (l lentAnswer) Put(*[]byte) {
	if l.conn != nil {
		l.conn.written(l.release)
	}
	l.drop()
}
