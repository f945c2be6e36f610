package codecserver

import (
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// TestTelemetry: one span per request below the page's own, with those of decisions and openings below it,
// and nothing of a payload in any; metrics by route and status.
func TestTelemetry(t *testing.T) {
	u := start(t)
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	u.options.Tracer, u.options.Traces = provider.Tracer("test"), propagation.TraceContext{}
	sealed := u.payloads(t, "/encode", "open", jsonPayload(`"`+canary+`"`))
	const trace = "0af7651916cd43dd8448eb211c80319c"
	if got := u.ask(t, http.MethodPost, "/decode", "open", toJSON(t, sealed...), "Traceparent", "00-"+trace+"-b7ad6b7169203331-01"); got.status != http.StatusOK {
		t.Fatal(got)
	}
	if got := u.ask(t, http.MethodPost, "/nowhere", "open", ``); got.status != http.StatusNotFound {
		t.Fatal(got)
	}
	seen := map[string]int{}
	for _, s := range spans.Ended() {
		seen[s.Name()]++
		if s.SpanContext().TraceID().String() == trace {
			seen["in the page's trace"]++
		}
		for _, a := range s.Attributes() {
			if strings.Contains(a.Value.String(), canary) || strings.Contains(a.Value.String(), "token-of") {
				t.Errorf("%s of span %s is %s", a.Key, s.Name(), a.Value.String())
			}
			if s.Name() == "POST /decode" && (a.Key == "temporal.namespace" && a.Value.AsString() == namespace || a.Key == "seal.response.payloads" && a.Value.AsInt64() == 1) {
				seen[string(a.Key)]++
			}
		}
	}
	for name, want := range map[string]int{"POST /encode": 1, "POST /decode": 1, "policy.decide": 2, "payload.seal": 1, "payload.open": 1,
		"in the page's trace": 3, "temporal.namespace": 1, "seal.response.payloads": 1} {
		if seen[name] != want {
			t.Errorf("%d times %s, want %d", seen[name], name, want)
		}
	}
	families, err := u.options.Registry.(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "http_server_request_duration_seconds" && len(f.Metric) != 3 {
			t.Errorf("%d series of requests, want one for each route and status", len(f.Metric))
		}
	}
}
