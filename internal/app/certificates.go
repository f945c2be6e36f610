package app

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/codecserver"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
	"github.com/temporal-seal/temporal-seal/internal/x/handshake"
	"github.com/temporal-seal/temporal-seal/internal/x/lograte"
)

// adminName names the admin listener in logs and metrics.
const adminName = "admin"

// handshakes counts and logs TLS handshakes of callers that fail.
type handshakes struct {
	log    *slog.Logger
	failed *prometheus.CounterVec
	lines  lograte.Limiter // by listener, cause and the caller's host
}

// newHandshakes registers the counter, with a zero for each cause that a listener can have: an alert needs it before the
// first failure.
func newHandshakes(c *config.Config, t *telemetry) *handshakes {
	h := &handshakes{log: t.log, failed: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "temporal_seal_tls_handshakes_failed_total", Help: "TLS handshakes of callers that failed, by listener and cause.",
	}, []string{"listener", "cause"})}
	t.registry.MustRegister(h.failed)
	h.zero(adminName, false)
	for i := range c.Listeners {
		h.zero(c.Listeners[i].Name, c.Listeners[i].TLS != nil)
	}
	if c.CodecServer != nil {
		h.zero(codecserver.Name, c.CodecServer.TLS != nil)
	}
	return h
}

func (h *handshakes) zero(listener string, withTLS bool) {
	for _, cause := range handshake.Causes() {
		if withTLS == (cause != handshake.ToPlaintext) {
			h.failed.WithLabelValues(listener, string(cause))
		}
	}
}

// of returns what is called for each failure at a listener. A caller that only connects and leaves, as load balancers do that
// look whether the port is open, is counted and not logged.
func (h *handshakes) of(listener string) handshake.Failed {
	return func(address string, cause handshake.Cause) {
		defer h.failed.WithLabelValues(listener, string(cause)).Inc()
		level := slog.LevelWarn
		if cause == handshake.Closed {
			level = slog.LevelDebug
		}
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			host = address
		}
		if h.log.Enabled(context.Background(), level) && h.lines.Allow(listener+" "+string(cause)+" "+host) {
			h.log.Log(context.Background(), level, "a TLS handshake failed",
				"listener", listener, "address", address, "cause", string(cause), "reason", cause.Text())
		}
	}
}

// watch has failed handshakes at all ends counted.
func (e *Ends) watch(h *handshakes) {
	for i := range e.listeners {
		e.listeners[i].HandshakeFailed = h.of(e.listeners[i].Name)
	}
	if e.codec != nil {
		e.codec.HandshakeFailed = h.of(codecserver.Name)
	}
}

// certificate is one that the proxy shows, or that an upstream shows to it.
type certificate struct {
	role, name string
	expires    func() time.Time // zero: not known yet
}

// certificates lists those of all listeners and upstreams.
func (e *Ends) certificates() (all []certificate) {
	add := func(role, name string, c *tls.Config) {
		if c != nil {
			all = append(all, certificate{role, name, func() time.Time { return expiryOf(c.GetCertificate(new(tls.ClientHelloInfo))) }})
		}
	}
	for i := range e.listeners {
		add("listener", e.listeners[i].Name, e.listeners[i].TLS)
	}
	if e.codec != nil {
		add("listener", codecserver.Name, e.codec.TLS)
	}
	for _, u := range e.upstreams {
		if c, ok := u.TLS.(*upstream.Credentials); ok {
			all = append(all, certificate{"upstream", u.Address, c.ServerExpiry}, certificate{"upstream_client", u.Address, c.ClientExpiry})
		}
	}
	return all
}

func expiryOf(c *tls.Certificate, err error) time.Time {
	if err != nil || c == nil || c.Leaf == nil {
		return time.Time{}
	}
	return c.Leaf.NotAfter
}

// certificateMetrics shows how long certificates are valid. Its labels come from the config.
type certificateMetrics []certificate

var certExpiry = prometheus.NewDesc("temporal_seal_cert_expiry_seconds",
	"Seconds until a certificate expires, below 0 after that: the listeners' own, those that upstreams have shown last, "+
		"and those that the proxy shows to upstreams.", []string{"role", "name"}, nil)

// Describe is part of prometheus.Collector.
func (m certificateMetrics) Describe(ch chan<- *prometheus.Desc) { ch <- certExpiry }

// Collect is part of prometheus.Collector. Of certificates with the same labels it shows the one that expires first.
func (m certificateMetrics) Collect(ch chan<- prometheus.Metric) {
	type labels struct{ role, name string }
	first := map[labels]time.Time{}
	for _, c := range m {
		l, expires := labels{c.role, c.name}, c.expires()
		if before, ok := first[l]; !expires.IsZero() && (!ok || expires.Before(before)) {
			first[l] = expires
		}
	}
	for l, expires := range first {
		ch <- prometheus.MustNewConstMetric(certExpiry, prometheus.GaugeValue, time.Until(expires).Seconds(), l.role, l.name)
	}
}
