package server

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/x/frame"
)

// Timeouts towards upstreams: there is none of the proxy's own. A call has the time that its caller gave it:
// the deadline and the cancellation of the caller's context go along, and a call without a deadline ends when its caller
// cancels or its connection ends: at the end of a drain, or connectionGrace (server.go) after the connection got too old.
// Only polls are shortened, by the deadline that goes along (shorter, below): to Options.PollLimit where drain.time of the
// config is shorter than a poll (the app derives it: pollLimit in app/serve.go), and during a drain (drain.go). What the
// proxy asks for by itself has its timeouts where it is asked: confirm.go, reflection.go and endpoints.go of upstream;
// tasks.go, poll.go, resume.go, scaling.go and search.go of tasks; dependencies.go of app at the start. Those of connecting
// and of keepalive are in upstream/pool.go.

// forward sends the request and takes in the answer.
func (c *call) forward() error {
	out, isPoll := c.out, c.method.rewrite.IsPoll()
	if isPoll {
		if limit, _ := c.server.drain.poll(); limit > 0 {
			out = shorter(out, limit)
		}
	}
	size, sent := c.sealed.Len(), time.Now()
	err := c.invoke(out)
	c.sealed.Free() // a call that never got as far as a connection leaves it unsent
	if e := grpc.SetHeader(c.ctx, answered(c.arrived.header)); e != nil && err == nil {
		err = newRefusal(codes.Internal, "the upstream's headers cannot be forwarded: %v", e)
	}
	if e := grpc.SetTrailer(c.ctx, answered(c.arrived.trailer)); e != nil && err == nil {
		err = newRefusal(codes.Internal, "the upstream's trailers cannot be forwarded: %v", e)
	}
	if err != nil {
		c.answer.Free()
		if own, ok := err.(*refusal); ok { // the proxy's own, such as for want of bytes: nothing of it is the upstream's
			return answerFor(own).Err()
		}
		if isPoll && status.Code(err) == codes.DeadlineExceeded && c.ctx.Err() == nil && shortened(c.ctx, out) {
			return c.endPoll() // the proxy shortened it
		}
		return c.openStatus(err, size)
	}
	if namespace := c.session.Namespace(); namespace != "" {
		c.server.keys.Confirm(namespace)
	}
	if isPoll && c.server.tracing != nil && !emptyPoll(&c.answer) {
		c.ctx = c.traceTask(c.ctx, sent)
	}
	return nil
}

// sooner is a context with an earlier deadline that no timer watches.
type sooner struct {
	of       context.Context
	deadline time.Time
}

func (s *sooner) Deadline() (time.Time, bool) { return s.deadline, true }
func (s *sooner) Done() <-chan struct{}       { return s.of.Done() }
func (s *sooner) Err() error                  { return s.of.Err() }
func (s *sooner) Value(key any) any           { return s.of.Value(key) }

// shorter returns a context whose deadline is not later than limit from now. gRPC sends it along and the upstream keeps it; a
// timer of the proxy's own for each of thousands of polls, and a context that can be cancelled, would take half a kilobyte each. A
// poll whose upstream does not keep it has its caller's deadline.
func shorter(ctx context.Context, limit time.Duration) context.Context {
	at := time.Now().Add(limit)
	if d, limited := ctx.Deadline(); limited && d.Before(at) {
		return ctx
	}
	return &sooner{ctx, at}
}

// shortened reports whether a poll had less time upstream than its caller gave it.
func shortened(ctx, out context.Context) bool {
	limit, _ := out.Deadline()
	deadline, limited := ctx.Deadline()
	return !limit.IsZero() && (!limited || limit.Before(deadline))
}

// invoke makes the call. An answer that may be large, as those before it were, is read once the limit of
// bytes allows it. A task never waits: it would be lost if the worker's time ran out.
func (c *call) invoke(ctx context.Context) (err error) {
	m, with := c.method, &c.arrived
	reserved := int64(0)
	if size := m.answer.Load(); size > 0 && size < largeAnswer || m.rewrite.IsPoll() {
		err = c.upstream.Invoke(ctx, m.full, &c.sealed, &c.answer, grpc.Header(&with.header), grpc.Trailer(&with.trailer))
	} else {
		with.header, with.trailer, err = c.upstream.InvokeGated(ctx, m.full, &c.sealed, &c.answer, func() (err error) {
			reserved, err = c.reserveAnswer(ctx)
			return err
		})
	}
	n := int64(c.answer.Len())
	if err == nil {
		// One small answer among large ones must not have the next large one arrive without a reservation. So
		// the expected size falls by a sixteenth with each: after 11 small answers it is half.
		m.answer.Store(max(n, m.answer.Load()/16*15, 1))
	}
	c.lease.place.countAnswer(n, reserved)
	return err
}

// reserveAnswer reserves as many bytes as the method's answers had lately. The first answer of all shows how
// many that is. An error is a refusal of the proxy's own.
func (c *call) reserveAnswer(ctx context.Context) (reserved int64, err error) {
	m := c.method
	expected := int64(0)
	for range answerTries {
		expected = m.answer.Load()
		switch {
		case expected == 0 && m.first.CompareAndSwap(false, true), expected > 0 && expected < largeAnswer:
			return 0, nil
		case expected == 0:
			expected = unknownAnswer
		}
		if taken, ok := c.lease.place.reserve(ctx, expected, bytesWait, nil); ok {
			return taken, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	if m.answer.Load() > 0 && m.reads() {
		return 0, c.server.admission.noBytes("an answer", expected)
	}
	return 0, nil // the call has changed something: its answer must arrive
}

const (
	// largeAnswer is the size from which on an answer waits for the limit of bytes.
	largeAnswer = 256 << 10
	// unknownAnswer is expected of a method that has not answered yet: about the most that a frontend sends.
	unknownAnswer = 4 << 20
)

// reads reports whether the method only reads, so that it may be called again.
func (m *method) reads() bool {
	for _, verb := range []string{"Get", "List", "Describe", "Query", "Count", "Scan"} {
		if strings.HasPrefix(m.rewrite.Name(), verb) {
			return true
		}
	}
	return false
}

// emptyPoll reports whether the answer to a poll contains no task. Each kind of task has its token as first
// field, and answers without one may still hold hints for autoscaling.
func emptyPoll(answer *frame.Frame) bool {
	data := answer.BytesIn(frame.Sealed)
	return len(data) == 0 || data[0] != 0x0a
}

// answered strips from an answer's headers or trailers what gRPC writes itself.
func answered(md metadata.MD) metadata.MD {
	for _, h := range hopHeaders {
		delete(md, h)
	}
	delete(md, "grpc-status-details-bin") // the status, perhaps rewritten, brings its own
	return md
}
