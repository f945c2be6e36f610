package server

import (
	"context"
	"strings"
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

	rewriting *rewrite.Call
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

// confirm asks the upstream if the call's namespace exists, unless that is known. out is ctx with the metadata to send.
func (c *call) confirm(ctx, out context.Context) {
	if namespace := c.rewriting.Namespace(); namespace != "" && !c.server.keys.Confirmed(namespace) {
		c.server.confirmations.Confirm(ctx, out, c.route, namespace)
	}
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

// seal gives the frame to forward: the one that came, if nothing in it changes.
func (c *call) seal(ctx context.Context, in *frame) (*frame, error) {
	if c.method.rewrite.RequestTouched() {
		start := time.Now()
		out, err := c.rewriting.Request(ctx, c.in)
		if err != nil {
			c.server.metrics.failed(directionRequest, err)
			return nil, err
		}
		stats := c.rewriting.RequestStats()
		c.server.metrics.rewritten(directionRequest, stats, time.Since(start), c.span)
		describeRewriting(c.span, directionRequest, stats)
		if !same(out, c.in) {
			return c.release.lend(out), nil
		}
	}
	in.data.Ref() // one reference goes to gRPC, the other stays until the call's end: names alias the request
	return &frame{data: in.data}, nil
}

// same tells if two slices are the same bytes in memory.
func same(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// forward sends the request and makes the answer. out is ctx with the metadata to send.
func (c *call) forward(ctx, out context.Context, request *frame) (*frame, error) {
	m := c.method
	if m.rewrite.IsPoll() && c.server.pollLimit > 0 {
		var cancel context.CancelFunc
		out, cancel = context.WithTimeout(out, c.server.pollLimit)
		defer cancel()
	}

	var header, trailer metadata.MD
	answer := new(frame)
	c.sent = request.data.Len()
	sent := time.Now()
	err := c.invoke(out, request, answer, &header, &trailer)
	request.free() // a call that never got as far as a connection leaves it unsent
	if e := grpc.SetHeader(ctx, answered(header)); e != nil && err == nil {
		err = status.Error(codes.Internal, from+"the upstream's headers cannot be forwarded: "+e.Error())
	}
	if e := grpc.SetTrailer(ctx, answered(trailer)); e != nil && err == nil {
		err = status.Error(codes.Internal, from+"the upstream's trailers cannot be forwarded: "+e.Error())
	}
	if err != nil {
		answer.free()
		if m.rewrite.IsPoll() && status.Code(err) == codes.DeadlineExceeded && ctx.Err() == nil && shortened(ctx, out) {
			c.end(codes.OK)
			return c.endPoll(out) // it is the proxy that did not want to wait longer
		}
		return nil, c.failed(ctx, err)
	}
	if namespace := c.rewriting.Namespace(); namespace != "" {
		c.server.keys.Confirm(namespace)
	}
	if m.rewrite.IsPoll() && !emptyPoll(answer) {
		ctx = c.traceTask(ctx, sent)
	}
	return c.open(ctx, out, answer)
}

// shortened tells if a poll had less time upstream than its caller gave it.
func shortened(ctx, out context.Context) bool {
	limit, _ := out.Deadline()
	deadline, limited := ctx.Deadline()
	return !limit.IsZero() && (!limited || limit.Before(deadline))
}

// invoke makes the call. An answer that may be large, as those before it were, is read once there is room for it. A task
// is not kept waiting: it is lost if the worker's time runs out.
func (c *call) invoke(ctx context.Context, request, answer *frame, header, trailer *metadata.MD) (err error) {
	m := c.method
	reserved := int64(0)
	if size := m.answer.Load(); size > 0 && size < largeAnswer || m.rewrite.IsPoll() {
		err = c.route.Invoke(ctx, m.full, request, answer, grpc.Header(header), grpc.Trailer(trailer))
	} else {
		*header, *trailer, err = c.route.InvokeGated(ctx, m.full, request, answer, func() (err error) {
			reserved, err = c.roomForAnswer(ctx)
			return err
		})
	}
	n := int64(answer.data.Len())
	if err == nil {
		m.answer.Store(max(n, m.answer.Load()/16*15, 1))
	}
	c.release.count(n - min(reserved, c.server.room.size))
	return err
}

// roomForAnswer waits for room for as much as the method answered lately, and reserves it. The first answer of all tells
// the others how much that is.
func (c *call) roomForAnswer(ctx context.Context) (reserved int64, err error) {
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
		if c.release.reserve(ctx, expected, roomWait) {
			return expected, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	if m.answer.Load() > 0 && m.reads() {
		c.server.overLimit("bytes")
		return 0, answerFor(noRoom("an answer", expected, c.server.room.size)).Err()
	}
	return 0, nil // what it tells has happened: it must arrive
}

const (
	// largeAnswer is the size from which on an answer has to wait for room.
	largeAnswer = 256 << 10
	// unknownAnswer is expected of a method that has not answered yet: about the most that a frontend sends.
	unknownAnswer = 4 << 20
)

// reads tells if calling the method once more changes nothing.
func (m *method) reads() bool {
	for _, verb := range []string{"Get", "List", "Describe", "Query", "Count", "Scan"} {
		if strings.HasPrefix(m.rewrite.Name(), verb) {
			return true
		}
	}
	return false
}

// open gives the frame to answer with. It owns answer. out is what a call in the worker's stead is made with.
func (c *call) open(ctx, out context.Context, answer *frame) (*frame, error) {
	answer, err := c.onlyReached(answer)
	if err != nil {
		return nil, c.refuse(err)
	}
	if !c.method.rewrite.ResponseTouched() {
		c.end(codes.OK)
		return c.release.lendFrame(answer), nil
	}
	start := time.Now()
	sealed := answer.bytesIn(upstreamBuffers)
	plain, err := c.openAnswer(ctx, out, sealed)
	if err != nil {
		answer.free()
		c.recordRefused(ctx, err)
		return nil, c.refuse(ofAnswer(err))
	}
	stats := c.rewriting.ResponseStats()
	span := trace.SpanFromContext(ctx)
	c.server.metrics.rewritten(directionResponse, stats, time.Since(start), span)
	describeRewriting(span, directionResponse, stats)
	c.end(codes.OK)
	if same(plain, sealed) {
		return c.release.lendFrame(answer), nil
	}
	answer.free()
	return c.release.lendAnswer(plain), nil
}

// failed makes the answer from an error that came from the upstream or from the way there.
func (c *call) failed(ctx context.Context, err error) error {
	st := status.Convert(err).Proto()
	if other, grown := grownTooLarge(st, len(c.in), c.sent); grown {
		st = other
	} else if c.method.rewrite.StatusTouched() {
		opened := c.rewriting.Status(ctx, st)
		if refused := c.record(ctx, codes.Code(st.GetCode())); refused != nil {
			return c.refuse(refused)
		}
		st = opened
	}
	upstreamSpoke(ctx)
	c.end(codes.Code(st.GetCode()))
	return status.FromProto(st).Err()
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

// emptyPoll tells if the answer to a poll holds no task. Each kind of task has its token as first field, and answers
// without one may still hold hints for autoscaling.
func emptyPoll(answer *frame) bool {
	for _, b := range answer.data {
		if data := b.ReadOnlyData(); len(data) > 0 {
			return data[0] != 0x0a
		}
	}
	return true
}

// serviceOf splits "/package.Service/Method".
func serviceOf(fullMethod string) string {
	name := strings.TrimPrefix(fullMethod, "/")
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return name
}
