package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/config"
)

// newAudit opens the place where records go. Without a config it returns nil, which stores nothing.
func newAudit(ctx context.Context, a *config.Audit, version string, t *telemetry) (*audit.Log, error) {
	if a == nil {
		return nil, nil
	}
	var sink audit.Sink
	var err error
	if a.OTLP {
		sink, err = newOTLPSink(ctx, version)
	} else {
		sink, err = audit.OpenFile(a.File, t.log)
	}
	if err != nil {
		return nil, fmt.Errorf("audit: records cannot be kept: %w", err)
	}
	records := audit.New(audit.Options{Sink: sink, Required: a.Required, Wait: a.Wait, Log: t.log})
	for outcome, count := range map[string]func() uint64{
		"kept":    func() uint64 { n, _, _ := records.Counts(); return n },
		"dropped": func() uint64 { _, n, _ := records.Counts(); return n },
		"refused": func() uint64 { _, _, n := records.Counts(); return n },
	} {
		t.count("temporal_seal_audit_records_total",
			"Audit records by outcome: kept, dropped since they could not be kept, refused with their call for that reason.",
			prometheus.Labels{"outcome": outcome}, count)
	}
	t.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "temporal_seal_audit_failing",
		Help: "1 while audit records cannot be kept. They wait in a queue, and are dropped once it is full; with audit.required, " +
			"calls are refused after audit.wait, and polls at once."},
		func() float64 { return oneIf(records.Failing()) }))
	return records, nil
}

// otlpSink sends records as OpenTelemetry log records, with the exporter that the OTEL_* variables
// choose. The SDK makes a record only for a processor, and its own batching would drop records without
// a word: so each record goes through the SDK into batch, and Write exports the batch and returns its
// error.
type otlpSink struct {
	provider *sdklog.LoggerProvider
	logger   log.Logger
	batch    batch
}

// batch takes records in place of the exporter, until Write exports them.
type batch struct {
	sdklog.Exporter
	records []sdklog.Record
}

// Export is part of sdklog.Exporter. The caller uses its records again, so they are copied.
func (b *batch) Export(_ context.Context, records []sdklog.Record) error {
	for i := range records {
		b.records = append(b.records, records[i].Clone())
	}
	return nil
}

// exportTimeout bounds one try: a collector that hangs is tried again.
const exportTimeout = 10 * time.Second

func newOTLPSink(ctx context.Context, version string) (*otlpSink, error) {
	if os.Getenv("OTEL_LOGS_EXPORTER") == "" && os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" &&
		os.Getenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT") == "" {
		return nil, errors.New("otlp: no endpoint is set; set OTEL_EXPORTER_OTLP_ENDPOINT, or OTEL_EXPORTER_OTLP_LOGS_ENDPOINT")
	}
	if err := checkEndpoints(); err != nil {
		return nil, err
	}
	exporter, err := autoexport.NewLogExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("otlp: %w; check the OTEL_* variables", err)
	}
	if autoexport.IsNoneLogExporter(exporter) {
		return nil, errors.New("otlp: OTEL_LOGS_EXPORTER=none would discard the records; remove it, or remove `audit`")
	}
	about, err := aboutProxy(ctx, version)
	if err != nil {
		return nil, err
	}
	s := &otlpSink{batch: batch{Exporter: exporter}}
	s.provider = sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewSimpleProcessor(&s.batch)), sdklog.WithResource(about))
	s.logger = s.provider.Logger("github.com/temporal-seal/temporal-seal/audit")
	return s, nil
}

// Write sends the lines as one batch. The collector takes all of it, or none.
func (s *otlpSink) Write(ctx context.Context, lines [][]byte) (int, error) {
	s.batch.records = s.batch.records[:0]
	for _, text := range lines {
		if err := s.add(ctx, text); err != nil {
			return 0, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, exportTimeout)
	defer cancel()
	if err := s.batch.Exporter.Export(ctx, s.batch.records); err != nil {
		return 0, err
	}
	return len(lines), nil
}

// add turns a line into a log record whose body has the line's fields.
func (s *otlpSink) add(ctx context.Context, text []byte) error {
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		return err
	}
	var r log.Record
	r.SetEventName("temporal_seal.audit")
	r.SetSeverity(log.SeverityInfo)
	if at, ok := fields["time"].(string); ok {
		if t, err := time.Parse(time.RFC3339Nano, at); err == nil {
			r.SetTimestamp(t)
		}
	}
	r.SetBody(logValue(fields))
	if id, ok := fields["trace_id"].(string); ok {
		if traceID, err := trace.TraceIDFromHex(id); err == nil {
			ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID}))
		}
	}
	s.logger.Emit(ctx, r)
	return nil
}

// logValue is a JSON value in the form of OpenTelemetry.
func logValue(v any) attribute.Value {
	switch v := v.(type) {
	case map[string]any:
		pairs := make([]attribute.KeyValue, 0, len(v))
		for key, item := range v {
			pairs = append(pairs, attribute.KeyValue{Key: attribute.Key(key), Value: logValue(item)})
		}
		return attribute.MapValue(pairs...)
	case []any:
		items := make([]attribute.Value, len(v))
		for i, item := range v {
			items[i] = logValue(item)
		}
		return attribute.SliceValue(items...)
	case float64: // as encoding/json reads numbers
		return attribute.Int64Value(int64(v)) // records hold counts only
	case string:
		return attribute.StringValue(v)
	}
	return attribute.Value{}
}

// Close ends the exporter with its provider.
func (s *otlpSink) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return s.provider.Shutdown(ctx)
}
