package codecserver

import (
	"context"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// metrics count requests. The labels, route and status, have few values.
type metrics struct {
	requests *prometheus.HistogramVec
	panics   prometheus.Counter
}

// newMetrics registers the metrics. Their buckets reach beyond answerTime, the bound of a request.
func newMetrics(r prometheus.Registerer) metrics {
	m := metrics{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_server_request_duration_seconds", Help: "Time from a codec server request's arrival to its answer, by route and status.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"http_route", "http_response_status_code"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{Name: "temporal_seal_codec_server_panics_total", Help: "Requests that a fault in the codec server ended. Please report them."}),
	}
	r.MustRegister(m.requests, m.panics)
	return m
}

// startSpan starts the request's span, below the caller's if it sent one. Preflights and other paths have
// none.
func (e *exchange) startSpan(ctx context.Context) context.Context {
	o := &e.server.options
	if o.Tracer == nil || e.route == routeOther || e.r.Method == http.MethodOptions {
		e.span = trace.SpanFromContext(ctx)
		return ctx
	}
	ctx = o.Traces.Extract(ctx, propagation.HeaderCarrier(e.r.Header))
	ctx, e.span = o.Tracer.Start(ctx, "POST "+e.route, trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("http.request.method", "POST"), attribute.String("http.route", e.route)))
	return ctx
}

// endSpan ends the span with the status of the answer. By the OpenTelemetry conventions for HTTP servers
// only a 5xx makes it an error.
func (e *exchange) endSpan(status int) {
	if !e.span.IsRecording() {
		return
	}
	e.span.SetAttributes(attribute.Int("http.response.status_code", status))
	if status >= http.StatusInternalServerError {
		e.span.SetStatus(codes.Error, "")
	}
	e.span.End()
}

// describeSession adds what the request is about to its span, once its caller is known to reach that.
func (e *exchange) describeSession(session *rewrite.Session) {
	if e.span.IsRecording() {
		e.span.SetAttributes(attribute.String("temporal.namespace", strings.Clone(session.Namespace())),
			attribute.String("policy.revision", session.Revision()))
	}
}

// describeStats adds the sums of the payloads to the span.
func (e *exchange) describeStats(d policy.Direction, stats *rewrite.Stats) {
	if e.span.IsRecording() && stats.Payloads > 0 {
		e.span.SetAttributes(attribute.Int("seal."+d.String()+".payloads", stats.Payloads),
			attribute.Int("seal."+d.String()+".bytes", stats.Bytes))
	}
}
