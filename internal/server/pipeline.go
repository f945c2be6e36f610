package server

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
	"github.com/temporal-seal/temporal-seal/internal/x/frame"
)

// steps are what each call to a rewritten service goes through, in this order. Package rewrite finds the
// payloads of the request and the answer, decides about each, and seals or opens it, in the steps seal and
// open. open records what it opened, before the answer leaves.
var steps = [...]func(*call) error{
	(*call).authenticate, // authenticate.go: who calls, by the connection and the headers alone
	(*call).admit,        // admission.go: limits of calls, per connection, per caller and in all
	(*call).read,         // read.go: the request, within the limits of bytes
	(*call).identify,     // identify.go: the namespace and the names that the request is about
	(*call).authorize,    // authorize.go: whether the caller reaches the namespace
	(*call).route,        // route.go: the upstream, and the metadata for it
	(*call).awaitKeys,    // route.go: polls wait until a result of their task could be sealed
	(*call).seal,         // seal.go
	(*call).forward,      // forward.go: the request goes to the upstream, its answer comes back
	(*call).open,         // open.go: the answer for the caller, on record before it leaves
	(*call).send,         // send.go: the answer goes to gRPC, its memory is given back when it is written
}

// errAnswered ends a call that has its answer before the last step.
var errAnswered = errors.New("the call has its answer")

// call is one unary call to a service that is rewritten, on its way through the steps.
type call struct {
	server   *Server
	listener *listener
	method   *method
	start    time.Time

	ctx      context.Context // the caller's
	headers  metadata.MD
	id       *auth.Identity
	out      context.Context // ctx with the headers for the upstream
	upstream *upstream.Pool
	session  *rewrite.Session
	lease    *lease
	reader   *reader // of the request; nil before the call was admitted

	in       frame.Frame // the request as received
	request  []byte      // the bytes of in; nil where they need not be read
	sealed   frame.Frame // the request as it is forwarded
	answer   frame.Frame
	arrived  arrived           // with the answer
	withheld []rewrite.Handled // what could not be opened of the tasks in the answer

	span trace.Span // the server span; polls have none yet
	task trace.Span // the server span of a poll that brought a task
}

// arrived is what comes with an answer.
type arrived struct{ header, trailer metadata.MD }

// method is one method of a rewritten service.
type method struct {
	full    string
	rewrite *rewrite.Method
	// longPoll: its calls wait at the server, and have a limit of their own.
	longPoll bool
	metrics  *methodMetrics
	// answer is the size that its answers had lately, or more. 0: there was none.
	answer atomic.Int64
	first  atomic.Bool // an answer was admitted to find out the size of others
}

// newMethod returns nil where the rewriter has no such method.
func (s *Server) newMethod(full string) *method {
	m := s.rewriter.Method(full)
	if m == nil {
		return nil
	}
	return &method{full: full, rewrite: m, longPoll: m.IsPoll() || longPoll(full), metrics: s.metrics.method(full)}
}

// methods are those of the services that are rewritten, by their full names.
type methods map[string]*method

// isLongPoll reports whether calls may wait for long.
func (all methods) isLongPoll(full string) bool {
	m, ok := all[full]
	return !ok || m.longPoll
}

// handlers describes a service to gRPC with one handler behind all of its methods.
func (s *Server) handlers(desc *grpc.ServiceDesc, l *listener) *grpc.ServiceDesc {
	raw := &grpc.ServiceDesc{ServiceName: desc.ServiceName, HandlerType: (*any)(nil)}
	for _, md := range desc.Methods {
		m, ok := s.methods["/"+desc.ServiceName+"/"+md.MethodName]
		if !ok {
			continue // falls to other, which refuses it
		}
		raw.Methods = append(raw.Methods, grpc.MethodDesc{MethodName: md.MethodName,
			Handler: func(_ any, ctx context.Context, _ func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				return s.answer(ctx, l, m)
			}})
	}
	return raw
}

// answer runs one call through the steps. A panic ends this call alone.
func (s *Server) answer(ctx context.Context, l *listener, m *method) (answer any, err error) {
	if err := refusedBefore(ctx); err != nil { // without a span: callers without a token could fill the queue of spans
		connectionOf(ctx).answersStatus()
		return nil, err
	}
	if !m.longPoll {
		deepen(0)
	}
	if s.tracing != nil && !m.rewrite.IsPoll() { // polls that bring a task have traceTask
		traced, begun := s.tracing.begin(ctx, m.full)
		if ctx = traced; begun {
			defer func() { s.tracing.end(traced, err) }()
		}
	}
	s.metrics.inFlight.Inc()
	c := &call{server: s, listener: l, method: m, start: time.Now(), ctx: ctx, span: trace.SpanFromContext(ctx)}
	defer func() {
		p := recover()
		if p != nil {
			answer, err = nil, s.panicked(m.full, p)
		}
		c.leave(err != nil, p != nil)
		if err != nil {
			connectionOf(ctx).answersStatus()
		}
		s.metrics.inFlight.Dec()
	}()
	for _, step := range steps {
		if err = step(c); err != nil {
			break
		}
	}
	if err == errAnswered {
		err = c.send()
	}
	if err != nil {
		return nil, c.refuse(err)
	}
	return &c.answer, nil
}

// leave gives up what the call holds. What a panic left behind is not used again.
func (c *call) leave(failed, panicked bool) {
	c.in.Free()
	if c.upstream != nil {
		c.upstream.Release()
	}
	if c.lease == nil {
		return
	}
	c.lease.place.leave(!failed && c.lease.conn != nil)
	if !panicked {
		c.lease.drop()
	}
}

// rewritten counts one message whose payloads were sealed or opened.
func (c *call) rewritten(d policy.Direction, stats *rewrite.Stats, start time.Time, span trace.Span) {
	c.server.metrics.Rewritten(d, stats, time.Since(start), span)
	if span.IsRecording() {
		describeRewriting(span, d, stats)
	}
}

// end counts the call and closes the span of a task.
func (c *call) end(code codes.Code) {
	span := c.span
	if c.task != nil {
		span = c.task
		endTask(c.task, c.session, code)
	}
	c.method.metrics.observe(code, time.Since(c.start), span)
	if c.session != nil {
		countOutcomes(c, c.session.RequestStats(), code == codes.OK)
		countOutcomes(c, c.session.ResponseStats(), code == codes.OK)
	}
}

// countOutcomes counts what became of the payloads of a message. What was sealed counts once the server has taken it, and what
// was opened once the caller gets it.
func countOutcomes(c *call, stats *rewrite.Stats, answered bool) {
	if !answered {
		stats.Outcomes.Withhold()
	}
	c.server.metrics.Traffic.Add(c.session.Namespace(), c.session.WorkflowType(), stats.Outcomes, answered)
}

// stackNeeded is about how deep the stack of a call gets in its handler and in gRPC below it.
const stackNeeded = 10 << 10

// deepen makes the stack of a call's goroutine large enough at once. It starts with 2 KiB and is doubled
// whenever it is full, which moves all of its frames: deep in a handler that is a tenth of a small call's CPU
// time, at its start there are few. Long polls keep the stack that they need: there are thousands of them.
//
//go:noinline
func deepen(n int) byte {
	if n == 0 { // the room is not used, so it is not cleared either
		return 0
	}
	var room [stackNeeded]byte
	return room[n]
}

// serviceOf splits "/package.Service/Method".
func serviceOf(fullMethod string) string {
	name := strings.TrimPrefix(fullMethod, "/")
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return name
}
