package server

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// waiter is a message that waits for n bytes.
type waiter struct {
	place  *place
	n      int64
	reader *reader // of the request that needs them; nil: an answer
	served chan struct{}
}

// headersSize is what a call's headers take, if that is more than the limit of calls allows for.
func headersSize(headers metadata.MD) int64 {
	n := int64(0)
	for name, values := range headers {
		for _, v := range values {
			n += int64(len(name) + len(v) + headerCost)
		}
	}
	if n <= freeHeaders {
		return 0
	}
	return n
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

// reserve waits until the limits allow n bytes more, and reports false if that takes too long. A small
// message never waits. It reserves half of limits.bytes at most: taken is how much it was. r
// reads the request that needs the bytes; it is nil for an answer.
func (p *place) reserve(ctx context.Context, n int64, wait time.Duration, r *reader) (taken int64, ok bool) {
	if n <= unreserved && (r == nil || r.arrived.Load() <= unreserved) {
		if r != nil && r.small+n <= unreserved {
			r.small += n // counts once the request was read, which takes the lock anyway
		} else {
			p.count(n)
		}
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

// reads notes that a request begins to be read, of a call that entered before.
func (a *admission) reads(r *reader) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.turn = a.reading.PushBack(r)
}

// begins notes that a part of the request is in memory, and that it may have so many bytes in all.
func (r *reader) begins(most int64) {
	a := r.place.in
	a.mu.Lock()
	defer a.mu.Unlock()
	r.most = most
	if r.begun == nil {
		r.begun = a.begun.PushBack(r)
	}
}

// hasRead notes that a request was read, or will not be.
func (a *admission) hasRead(r *reader) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reading.Remove(r.turn)
	if r.begun != nil {
		a.begun.Remove(r.begun)
	}
	r.place.take(r.small)
	r.small = 0
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

// cutLate ends the calls whose requests have not arrived in time.
func (a *admission) cutLate(now time.Time) {
	var late []*reader
	a.mu.Lock()
	for e := a.reading.Front(); e != nil; e = e.Next() {
		if r := e.Value.(*reader); r.lag(now) >= r.time {
			late = append(late, r)
		}
	}
	a.mu.Unlock()
	for _, r := range late {
		r.cut(tooLate(r.time))
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

// countAnswer counts an answer of n bytes, of which some were reserved. A small one counts once the call has ended, which takes the
// lock anyway: until then the limit of calls bounds such messages well enough. What a poll brings may be held until keys answer, and
// counts at once.
func (p *place) countAnswer(n, reserved int64) {
	if n <= unreserved && reserved == 0 && p.kind == calls {
		p.later = n
		return
	}
	p.count(n - reserved)
}

// count adds n bytes whatever the limits are, since they are in memory already. A negative n gives bytes
// back.
func (p *place) count(n int64) {
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	p.take(n)
	p.in.serve()
}

// giveBack gives back all bytes, for good: of a stream, another goroutine may still take some.
func (p *place) giveBack() {
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	p.close()
	p.in.forget(p)
}

// close gives back all bytes, after which none count any more. The caller holds the lock.
func (p *place) close() {
	p.take(-p.bytes)
	p.closed = true
	p.in.serve()
}

// giveBackTo gives back all bytes but so many.
func (p *place) giveBackTo(left int64) {
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	p.take(left - p.bytes)
	p.in.forget(p)
	p.in.serve()
}

// charge counts n bytes of memory that a call's messages take beside their own bytes, if the limits allow it.
// A negative n gives them back. limits.bytes counts bytes of messages, each of which may be in memory several times (copies);
// so n bytes of memory count as n/copies.
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

// background counts what the proxy does by itself, like a caller of its own, until done is called.
func (a *admission) background() (memory rewrite.Memory, done func()) {
	l := newLease(place{in: a, accounts: [3]*account{&a.total, nil, &a.own}})
	return l, l.giveBack
}

// take counts n bytes more. The caller holds the lock.
func (p *place) take(n int64) {
	if p.closed {
		return
	}
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
// that are read take bytes step by step; so that they do not all stop half way, what the oldest of those may
// still need of which a part is in memory is kept for it. The caller holds the lock.
func (a *admission) fits(p *place, n int64, r *reader) bool {
	limit := a.limits.Bytes
	if first := a.begun.Front(); first != nil && r != nil && first.Value != r {
		oldest := first.Value.(*reader)
		limit -= min(max(oldest.most-oldest.arrived.Load(), 0), a.limits.RequestBytes, limit/2)
	}
	return a.total.used[bytesHeld]+n <= limit && p.shares(bytesHeld, limit, n)
}

// inUse is how many bytes of messages are in memory.
func (a *admission) inUse() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.total.used[bytesHeld]
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
