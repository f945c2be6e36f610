package server

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

// Tracing is where spans go. A nil *Tracing makes none, at no cost.
type Tracing struct {
	Provider   trace.TracerProvider
	Propagator propagation.TextMapPropagator
	// SamplesRoot reports whether the provider samples a trace that begins with a call to the proxy. Calls of the others get no
	// span, and cost next to nothing. The provider has to take the ids of traces from [RootTraceID]. Nil: each call gets its span.
	SamplesRoot func(trace.TraceID) bool

	tracer         trace.Tracer
	server, client stats.Handler
}

type rootKey struct{}

// RootTraceID returns the id that was drawn for the trace that begins in ctx, if one was.
func RootTraceID(ctx context.Context) (trace.TraceID, bool) {
	id, ok := ctx.Value(rootKey{}).(trace.TraceID)
	return id, ok
}

// NewTraceID draws the id of a trace.
func NewTraceID() (id trace.TraceID) {
	binary.BigEndian.PutUint64(id[:8], rand.Uint64())
	binary.BigEndian.PutUint64(id[8:], rand.Uint64()|1) // no id is all zeros, and samplers do not look at the last bit
	return id
}

// root draws the id of a trace that begins with this call, and reports whether it is sampled. If not, the returned context has the
// id alone, for logs. Calls that continue a trace of their caller are the provider's to decide.
func (t *Tracing) root(ctx context.Context) (context.Context, bool) {
	if t.SamplesRoot == nil || len(metadata.ValueFromIncomingContext(ctx, "traceparent")) > 0 {
		return ctx, true
	}
	id := NewTraceID()
	if !t.SamplesRoot(id) {
		return trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: id})), false
	}
	return context.WithValue(ctx, rootKey{}, id), true
}

// scope names the spans that this package makes itself.
const scope = "github.com/temporal-seal/temporal-seal/internal/server"

// start makes t ready, and returns it as what makes the spans of calls to upstreams; see [New].
//
// OpenTelemetry makes spans of the statistics that gRPC has about calls. gRPC collects them for all calls once a handler is
// registered, which takes a tenth of a small call's CPU time. So t calls the handlers itself, and only for calls that get spans.
func (t *Tracing) start() upstream.Spans {
	if t == nil {
		return nil
	}
	t.tracer = t.Provider.Tracer(scope)
	options := []otelgrpc.Option{
		otelgrpc.WithTracerProvider(t.Provider),
		otelgrpc.WithPropagators(t.Propagator),
		otelgrpc.WithMeterProvider(noop.NewMeterProvider()), // metrics.go counts calls
	}
	t.server, t.client = otelgrpc.NewServerHandler(options...), otelgrpc.NewClientHandler(options...)
	return t
}

// begin begins the server span of a call, if its trace is sampled: then end has to be called with the returned context.
func (t *Tracing) begin(ctx context.Context, fullMethod string) (_ context.Context, begun bool) {
	ctx, sampled := t.root(ctx)
	if !sampled {
		return ctx, false
	}
	ctx = t.server.TagRPC(ctx, &stats.RPCTagInfo{FullMethodName: fullMethod})
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, false
	}
	if p, ok := peer.FromContext(ctx); ok {
		t.server.HandleRPC(ctx, &stats.InHeader{LocalAddr: p.LocalAddr})
	}
	return context.WithValue(ctx, spokenKey{}, new(bool)), true
}

// end ends a server span. Texts of upstream errors stay out of spans: they may quote a payload, as the message of a failed query
// does.
func (t *Tracing) end(ctx context.Context, err error) {
	if err != nil && spoke(ctx) {
		err = withoutText(err)
	}
	t.server.HandleRPC(ctx, &stats.End{Error: err})
}

// withoutText returns an error of a call to an upstream with its code alone.
func withoutText(err error) error {
	return status.Error(status.Code(err), "failed at the upstream or on the way there")
}

// Begin begins the span of a call to an upstream, as [upstream.Spans] requires. Below a call that is not sampled there
// is none, and the caller's own traceparent goes on.
func (t *Tracing) Begin(ctx context.Context, fullMethod string) (_ context.Context, begun bool) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, false
	}
	return t.client.TagRPC(ctx, &stats.RPCTagInfo{FullMethodName: fullMethod}), true
}

// End ends a span that Begin began. address is that of the upstream; nil: unknown. A call that the proxy gave up counts
// as canceled.
func (t *Tracing) End(ctx context.Context, address net.Addr, err error) {
	t.client.HandleRPC(ctx, &stats.OutHeader{Client: true, RemoteAddr: address})
	if _, answered := status.FromError(err); !answered {
		err = status.Error(codes.Canceled, "given up by the proxy")
	} else if err != nil {
		err = withoutText(err)
	}
	t.client.HandleRPC(ctx, &stats.End{Client: true, Error: err})
}

// tracedStream is a stream below a span.
type tracedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s tracedStream) Context() context.Context { return s.ctx }

type spokenKey struct{}

// spoke reports whether the text of the call's error came from the upstream.
func spoke(ctx context.Context) bool {
	spoken, ok := ctx.Value(spokenKey{}).(*bool)
	return ok && *spoken
}

// upstreamSpoke notes that the error that this call ends with has its text from the upstream.
func upstreamSpoke(ctx context.Context) {
	if spoken, ok := ctx.Value(spokenKey{}).(*bool); ok {
		*spoken = true
	}
}

// describeSpan sets attributes for what the call is about. Span attributes outlive the request, whose bytes
// the names may alias.
func describeSpan(span trace.Span, session *rewrite.Session) {
	attributes := make([]attribute.KeyValue, 0, 4)
	add := func(key, value string) {
		if value != "" {
			attributes = append(attributes, attribute.String(key, strings.Clone(value)))
		}
	}
	add("temporal.namespace", session.Namespace())
	add("temporal.workflow_id", session.WorkflowID())
	add("temporal.workflow_type", session.WorkflowType())
	add("policy.revision", session.Revision())
	span.SetAttributes(attributes...)
}

// traceTask makes the two spans of a poll that brought a task, after the fact.
func (c *call) traceTask(ctx context.Context, sent time.Time) context.Context {
	name := strings.TrimPrefix(c.method.full, "/")
	attributes := trace.WithAttributes(attribute.String("rpc.system.name", "grpc"), attribute.String("rpc.method", name))
	tracer := c.server.tracing.tracer
	ctx, c.task = tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(c.start), attributes)
	describeSpan(c.task, c.session)
	_, client := tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(sent), attributes)
	client.SetAttributes(statusAttribute(codes.OK))
	client.End()
	return ctx
}

// endTask ends the span that traceTask began.
func endTask(task trace.Span, session *rewrite.Session, code codes.Code) {
	describeSpan(task, session) // again: by now the workflow of the task is known
	task.SetAttributes(statusAttribute(code))
	if code != codes.OK {
		task.SetStatus(otelcodes.Error, "the task could not be handed over")
	}
	task.End()
}

func statusAttribute(code codes.Code) attribute.KeyValue {
	return attribute.String("rpc.response.status_code", codeName(code))
}

// describeRewriting puts the sum of a message's rewriting on the span of its call, where a reader of the
// trace looks first.
func describeRewriting(span trace.Span, d policy.Direction, s *rewrite.Stats) {
	if s.Payloads == 0 {
		return
	}
	prefix := "seal." + d.String()
	span.SetAttributes(attribute.Int(prefix+".payloads", s.Payloads), attribute.Int(prefix+".bytes", s.Bytes))
}
