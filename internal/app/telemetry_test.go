package app

import (
	"log/slog"
	"strings"
	"testing"
)

// TestEndpointsNeedAScheme: without one the SDK would send to a collector on this machine.
func TestEndpointsNeedAScheme(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	t.Setenv("OTEL_TRACES_EXPORTER", "")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")
	const want = `OTEL_EXPORTER_OTLP_ENDPOINT: "collector:4317" has no scheme; write http://collector:4317, or https://collector:4317 for TLS`
	if _, err := newTelemetry(t.Context(), "test", quiet); err == nil || err.Error() != want {
		t.Errorf("traces: %v, want %q", err, want)
	}
	if _, err := newOTLPSink(t.Context(), "test"); err == nil || err.Error() != want {
		t.Errorf("audit: %v, want %q", err, want)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4317")
	if _, err := newTelemetry(t.Context(), "test", quiet); err == nil || !strings.HasPrefix(err.Error(), "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: ") {
		t.Errorf("traces alone: %v", err)
	}
}
