package rewrite

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// tracerName is the instrumentation scope of this package's spans.
const tracerName = "github.com/temporal-seal/temporal-seal/internal/rewrite"

// startSpan starts a child of the call's span; nil if that is not recorded. There is
// one span for the decisions about a message and one for its payloads, never one per
// payload: a span costs more than sealing one.
func (c *call) startSpan(ctx context.Context, name string) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, nil
	}
	ctx, s := parent.TracerProvider().Tracer(tracerName).Start(ctx, name)
	s.SetAttributes(attribute.String("temporal.namespace", c.namespace), attribute.String("rpc.method", c.method.full[1:]))
	return ctx, s
}

// endSpan ends the span of a message's decisions.
func (d *decider) endSpan(s trace.Span, err error) {
	if s == nil {
		return
	}
	s.SetAttributes(
		attribute.Int("policy.payloads", len(d.message.walk.slots)),
		attribute.String("policy.revision", d.call.policy.Revision()))
	finish(s, err)
}

// endSpan ends the span in which payloads were sealed or opened.
func endSpan(s trace.Span, err error, stats *Stats) {
	if s == nil {
		return
	}
	s.SetAttributes(
		attribute.StringSlice("seal.key", stats.Keys),
		attribute.Int("seal.payloads", stats.Payloads),
		attribute.Int("seal.bytes", stats.Bytes),
		attribute.Bool("seal.cache_hit", stats.CacheHit),
	)
	if stats.Unopened > 0 {
		s.SetAttributes(attribute.Int("seal.unopened", stats.Unopened))
	}
	finish(s, err)
}

// finish records the kind of an error only. Its text may quote what a rule says about
// a caller, and belongs in the log.
func finish(s trace.Span, err error) {
	if err != nil {
		kind := "failed"
		var e *Error
		if errors.As(err, &e) {
			kind = e.Kind.String()
		}
		s.SetStatus(codes.Error, kind)
	}
	s.End()
}
