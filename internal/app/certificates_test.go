package app

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/x/handshake"
)

// TestFailedHandshakesAreCounted: each one, while the log has a line for each caller and cause, and none for port checks.
func TestFailedHandshakesAreCounted(t *testing.T) {
	var log bytes.Buffer
	telemetry := &telemetry{log: slog.New(slog.NewTextHandler(&log, nil)), registry: prometheus.NewRegistry()}
	c := &config.Config{Listeners: []config.Listener{{Name: "people"}}, CodecServer: &config.CodecServer{}}
	h := newHandshakes(c, telemetry)
	if got := gathered(t, telemetry.registry)["temporal_seal_tls_handshakes_failed_total"]; got != 0 {
		t.Errorf("%v are counted at first", got)
	}
	failed := h.of("people")
	for _, port := range []string{"1", "2", "3"} {
		failed("10.0.0.7:"+port, handshake.Expired)
	}
	failed("10.0.0.8:1", handshake.Expired)
	failed("10.0.0.8:2", handshake.Closed)
	failed("a pipe", handshake.Plaintext)
	if got := gathered(t, telemetry.registry)["temporal_seal_tls_handshakes_failed_total"]; got != 6 {
		t.Errorf("%v are counted, want 6", got)
	}
	if got := strings.Count(log.String(), "a TLS handshake failed"); got != 3 || !strings.Contains(log.String(), "address=10.0.0.7:1 ") {
		t.Errorf("%d lines, want 3:\n%s", got, &log)
	}
}
