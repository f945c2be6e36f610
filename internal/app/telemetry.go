package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/server"
	"github.com/temporal-seal/temporal-seal/internal/x/lograte"
)

// newLogger returns a logger for the flags --log-format and --log-level.
func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level: %q is not one of debug, info, warn, error", level)
	}
	options := &slog.HandlerOptions{Level: least}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("--log-format: %q is not one of text, json", format)
}

// exporterChosen reports whether the OTEL_* variables ask for traces at all. Without any the
// specification's default would try to reach a collector on this machine for ever.
func exporterChosen() bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	switch os.Getenv("OTEL_TRACES_EXPORTER") {
	case "":
		return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
	case "none":
		return false
	}
	return true
}

// checkEndpoints refuses an endpoint of a collector without a scheme: the OpenTelemetry SDK would leave it out, and send to
// a collector on this machine.
func checkEndpoints() error {
	for name, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT":        os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"),
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
		"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT":   os.Getenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"),
	} {
		if value != "" && !strings.Contains(value, "://") {
			return fmt.Errorf("%s: %q has no scheme; write http://%s, or https://%s for TLS", name, value, value, value)
		}
	}
	return nil
}

// telemetry is by what the parts of the proxy report what they do.
type telemetry struct {
	log      *slog.Logger
	registry *prometheus.Registry
	tracing  *server.Tracing          // nil: no exporter is chosen
	spans    *sdktrace.TracerProvider // the provider of tracing
}

// newTelemetry sets up metrics, and traces as the OTEL_* variables say. Spans wait for their export in
// a bounded queue: a collector that is down costs spans, never a call.
func newTelemetry(ctx context.Context, version string, log *slog.Logger) (*telemetry, error) {
	t := &telemetry{log: log, registry: prometheus.NewRegistry()}
	t.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	t.registry.MustRegister(buildInfo(version))
	if !exporterChosen() {
		return t, nil
	}
	if err := checkEndpoints(); err != nil {
		return nil, err
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("traces cannot be set up: %w; check the OTEL_* variables, or set OTEL_TRACES_EXPORTER=none", err)
	}
	about, err := aboutProxy(ctx, version)
	if err != nil {
		return nil, fmt.Errorf("traces cannot be set up: %w", err)
	}
	var failures lograte.Limiter // a collector that is down fails every batch
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		if failures.Allow("") {
			log.Warn("traces cannot be exported; calls are not affected", "error", err)
		}
	}))
	sampler, err := newSampler()
	if err != nil {
		return nil, err
	}
	t.spans = sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(newSpanQueue(exporter, t.registry)), sdktrace.WithResource(about),
		sdktrace.WithSampler(sampler), sdktrace.WithIDGenerator(traceIDs{}))
	otel.SetTracerProvider(t.spans) // for libraries that look for it
	t.tracing = &server.Tracing{Provider: t.spans, Propagator: propagation.TraceContext{}, SamplesRoot: samplesRoot(sampler)}
	otel.SetTextMapPropagator(t.tracing.Propagator)
	return t, nil
}

// buildInfo is the metric that shows which build runs. The Go toolchain notes the commit, where the build had a repository.
func buildInfo(version string) prometheus.Collector {
	commit := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value
			}
		}
	}
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "temporal_seal_build_info", Help: "1 for the build that runs.",
		ConstLabels: prometheus.Labels{"version": version, "commit": commit}})
	g.Set(1)
	return g
}

// aboutProxy describes this process in what spans and audit records are sent with.
func aboutProxy(ctx context.Context, version string) (*resource.Resource, error) {
	about, err := resource.New(ctx,
		resource.WithAttributes(
			attribute.String("service.name", "temporal-seal"), attribute.String("service.version", version)),
		resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("%w; check OTEL_RESOURCE_ATTRIBUTES", err)
	}
	return about, nil
}

// count registers a counter whose value another part keeps.
func (t *telemetry) count(name, help string, labels prometheus.Labels, value func() uint64) {
	t.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels},
		func() float64 { return float64(value()) }))
}

// kmsWatch counts and traces the calls to key services.
type kmsWatch struct {
	tracer   trace.Tracer
	duration *prometheus.HistogramVec
}

// newKMSWatch registers the metric. Spans go to the provider that newTelemetry has set.
func newKMSWatch(r prometheus.Registerer) *kmsWatch {
	w := &kmsWatch{
		tracer: otel.Tracer("github.com/temporal-seal/temporal-seal/cmd/proxy"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "temporal_seal_kms_call_duration_seconds", Help: "Calls to key services, by operation and outcome.",
			Buckets: []float64{.0001, .001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"operation", "outcome"}),
	}
	r.MustRegister(w.duration)
	for _, op := range []string{"kms.generate_data_key", "kms.decrypt"} { // an alert needs the zero before the first failure
		w.duration.WithLabelValues(op, "ok")
		for _, kind := range append(crypto.Kinds(), crypto.KindDenied) {
			w.duration.WithLabelValues(op, kind.String())
		}
	}
	return w
}

// around is crypto's hook for one call. Calls that no traced request waits for get no span.
func (w *kmsWatch) around(ctx context.Context, op string, kc crypto.KeyContext) (context.Context, func(error)) {
	start := time.Now()
	var span trace.Span
	if trace.SpanFromContext(ctx).IsRecording() {
		ctx, span = w.tracer.Start(ctx, op, trace.WithSpanKind(trace.SpanKindClient),
			trace.WithAttributes( // the texts may be parts of a message, which would stay in memory
				attribute.String("temporal.namespace", strings.Clone(kc.Namespace)),
				attribute.String("seal.key", strings.Clone(kc.Key))))
	}
	return ctx, func(err error) {
		outcome := "ok"
		if err != nil {
			outcome = crypto.KindOf(err).String()
		}
		took, o := time.Since(start).Seconds(), w.duration.WithLabelValues(op, outcome)
		if span == nil {
			o.Observe(took)
			return
		}
		o.(prometheus.ExemplarObserver).ObserveWithExemplar(took,
			prometheus.Labels{"trace_id": span.SpanContext().TraceID().String()})
		if err != nil {
			span.SetStatus(otelcodes.Error, outcome)
		}
		span.End()
	}
}
