package codecserver

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// metrics count requests by route and status, both from closed sets.
type metrics struct {
	requests *prometheus.HistogramVec
	panics   prometheus.Counter
}

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

func (m *metrics) observe(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Observe(took.Seconds())
}

// span is that of a request; one of nothing is made where there is no tracer.
type span struct{ trace.Span }

// begin starts the request's span, below the caller's if it sent one. Preflights make none.
func (e *exchange) begin(ctx context.Context) context.Context {
	e.span = span{trace.SpanFromContext(ctx)}
	if e.Tracer == nil || e.route == otherRoute || e.request.Method == http.MethodOptions {
		return ctx
	}
	ctx = e.Traces.Extract(ctx, propagation.HeaderCarrier(e.request.Header))
	ctx, e.span.Span = e.Tracer.Start(ctx, "POST "+e.route, trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("http.request.method", "POST"), attribute.String("http.route", e.route)))
	return ctx
}

func (e *exchange) end(status int) {
	if !e.span.IsRecording() {
		return
	}
	e.span.SetAttributes(attribute.Int("http.response.status_code", status))
	if status >= http.StatusInternalServerError {
		e.span.SetStatus(codes.Error, "")
	}
	e.span.End()
}

// about says what the request is about, once its caller is known to reach it.
func (s span) about(c *rewrite.Session) {
	if s.IsRecording() {
		s.SetAttributes(attribute.String("temporal.namespace", strings.Clone(c.Namespace())), attribute.String("policy.revision", c.Revision()))
	}
}

func (s span) rewrote(d policy.Direction, stats *rewrite.Stats) {
	if !s.IsRecording() || stats.Payloads == 0 {
		return
	}
	s.SetAttributes(attribute.Int("seal."+d.String()+".payloads", stats.Payloads), attribute.Int("seal."+d.String()+".bytes", stats.Bytes))
}
