package server

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

// call is the walk of one unary call: identify, authorise, seal, forward, open, answer.
type call struct {
	server   *Server
	listener *listener
	method   *method
	id       *auth.Identity
	route    *upstream.Pool

	rewriting *rewrite.Session
	release   *release
	withheld  []rewrite.Handled // what could not be opened of the tasks in the answer

	in    []byte // the request as it came; nil where nobody needs to look at it
	sent  int    // bytes of the request that was forwarded
	start time.Time
	span  trace.Span // the server span that gRPC's stats handler began; polls have none
	task  trace.Span // the server span of a poll that brought a task
}

// walk answers one call to a service that is rewritten. It owns in. What the call holds is noted in held.
func (s *Server) walk(ctx context.Context, l *listener, m *method, held *release, in *frame) (*frame, error) {
	defer in.free()
	c := &call{server: s, listener: l, method: m, release: held, start: time.Now(), span: trace.SpanFromContext(ctx)}
	md, _ := metadata.FromIncomingContext(ctx)
	var err error
	if c.id, err = l.Identify(shown(ctx, md)); err != nil {
		return nil, c.refuse(err)
	}
	c.rewriting = s.rewriter.Begin(m.rewrite, c.id.Caller)
	held.done = c.rewriting.Done
	return c.run(ctx, md, in)
}

// run goes the way of the call from the point where its caller is known.
func (c *call) run(ctx context.Context, md metadata.MD, in *frame) (*frame, error) {
	if err := c.admit(in); err != nil {
		return nil, c.refuse(err)
	}
	if err := c.recordable(); err != nil {
		return nil, c.refuse(err)
	}
	c.describeSpan(c.span)
	out := outgoing(ctx, md, c.listener.Credential, c.route.Config(), c.rewriting.Namespace())
	if c.method.rewrite.IsPoll() || c.method.rewrite.RequestTouched() {
		c.confirm(ctx, out)
	}
	if c.method.rewrite.IsPoll() {
		ready, err := c.server.tasks.AwaitKeys(ctx, out, c.taskCall())
		if err != nil {
			return nil, c.refuse(err)
		}
		if !ready {
			c.end(codes.OK)
			return c.endPoll(out)
		}
		c.server.tasks.FindPaused(out, c.taskCall())
	}
	if c.method.full == workflowservice.WorkflowService_ShutdownWorker_FullMethodName {
		c.server.tasks.EndPolls(in.bytes())
	}
	request, err := c.seal(ctx, in)
	if err != nil {
		return nil, c.refuse(c.failRefused(out, err))
	}
	return c.forward(ctx, out, request)
}

// admit finds out which namespace the call is for, if the caller reaches it, and where it goes.
func (c *call) admit(in *frame) error {
	m := c.method
	if m.rewrite.RequestTouched() || m.rewrite.ResponseTouched() || m.rewrite.IsPoll() ||
		c.id.Namespaces != nil || c.server.upstreams.ByNamespace() || c.span.IsRecording() {
		c.in = in.bytes()
		if err := c.rewriting.Identify(c.in); err != nil {
			return err
		}
	}
	if err := c.authorise(); err != nil {
		return err
	}
	var err error
	c.route, err = c.server.upstreams.Route(c.rewriting.Namespace())
	return err
}

// refuse answers with an error of the proxy's own.
func (c *call) refuse(err error) error {
	st := answerFor(err)
	c.end(st.Code())
	c.server.logRefusal(c.method.full, c.listener.Name, st, err)
	return st.Err()
}

// end counts the call and closes the span that is the proxy's to close.
func (c *call) end(code codes.Code) {
	span := c.span
	if c.task != nil {
		span = c.task
	}
	c.method.metrics.observe(code, time.Since(c.start), span)
	c.endTask(code)
}

// stackNeeded is about how deep the stack of a call gets in its handler and in gRPC below it.
const stackNeeded = 10 << 10

// deepen makes the stack of a call's goroutine large enough at once. It starts with 2 KiB and is doubled whenever it is
// full, which moves all of its frames: deep in a handler that is a tenth of a small call's CPU time, at its start there
// are few. Calls that wait are left with what they need: they are held by the thousand.
//
//go:noinline
func deepen(n int) byte {
	var room [stackNeeded]byte
	return room[n]
}

// unary answers one call with raw frames. A panic ends this call alone.
func (s *Server) unary(ctx context.Context, l *listener, m *method, receive func(any) error) (answer any, err error) {
	gate, err := s.enter(m.waits)
	if err != nil {
		return nil, s.refuseUnread(ctx, l, m, err)
	}
	defer gate.leave()
	s.metrics.inFlight.Inc()
	defer s.metrics.inFlight.Dec()
	if !m.waits {
		deepen(0)
	}
	held := newRelease(s.room)
	defer func() {
		if p := recover(); p != nil {
			held.giveBack()
			answer, err = nil, s.panicked(m.full, p)
		}
	}()
	in, err := s.receive(ctx, held, receive)
	if err != nil {
		held.giveBack()
		return nil, s.refuseUnread(ctx, l, m, err)
	}
	// Left to itself gRPC compresses the answer to a compressed request, at eight times the cost of the call.
	if err := grpc.SetSendCompressor(ctx, "identity"); err != nil {
		in.free()
		held.giveBack()
		return nil, status.Error(codes.Internal, from+err.Error())
	}
	out, err := s.walk(ctx, l, m, held, in)
	if err != nil {
		held.giveBack()
	} else {
		held.sends(ctx, out)
	}
	held.drop() // not deferred: what a panic left behind is not used again
	if err != nil {
		return nil, err
	}
	return out, nil
}

// method is what the walk needs to know of one method.
type method struct {
	full    string
	rewrite *rewrite.Method
	// waits: it is counted among the calls that wait at the server.
	waits   bool
	metrics *methodMetrics
	// answer is the size that its answers had lately, or more. 0: there was none.
	answer atomic.Int64
	first  atomic.Bool // an answer was let in to tell the size of others
}
