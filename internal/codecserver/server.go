// Package codecserver answers /encode and /decode over HTTP, as Temporal's Web UI and command line ask for them. It owns the
// HTTP side: origins, limits, status codes, the JSON form of payloads. Who calls is found out by package caller, and what
// becomes of each payload is decided by the same policy as for gRPC; it never sees a key.
package codecserver

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

const (
	// maxBody bounds a request. The Web UI sends the payloads of one field at once, of which the server takes 2 MiB.
	maxBody = 8 << 20
	// maxPayloads bounds how many decisions one request costs.
	maxPayloads = 1000
	// maxAtOnce bounds the requests that are worked on at the same time, and so the memory that they take.
	maxAtOnce = 32
	// answerTime is how long a request may take, a key service's answers included.
	answerTime = 20 * time.Second
)

// Name is what policies see as input.caller.listener.
const Name = "codec_server"

// Options are all that a Server is made of.
type Options struct {
	Net net.Listener
	TLS *tls.Config // nil: plaintext
	// Identify finds out who calls.
	Identify auth.Identify
	// Origins are those of the web pages that may call, as browsers name them: "https://ui.example.com".
	Origins []string

	Rewriter *rewrite.Rewriter
	Audit    *audit.Log // nil: no records
	// Rewritten and Failed count what happened to one list of payloads.
	Rewritten func(policy.Direction, *rewrite.Stats, time.Duration, trace.Span)
	Failed    func(policy.Direction, error)
	Registry  prometheus.Registerer
	Tracer    trace.Tracer // nil: no spans
	Traces    propagation.TextMapPropagator
	Log       *slog.Logger
}

// Server answers requests. Its methods may be used by several goroutines.
type Server struct {
	Options
	origins map[string]bool
	http    *http.Server
	atOnce  chan struct{}
	metrics metrics
}

// New builds a server. It answers nothing yet.
func New(o Options) *Server {
	s := &Server{Options: o, origins: map[string]bool{}, atOnce: make(chan struct{}, maxAtOnce), metrics: newMetrics(o.Registry)}
	for _, origin := range o.Origins {
		s.origins[origin] = true
	}
	s.http = &http.Server{Handler: s, TLSConfig: o.TLS, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)}
	return s
}

// Serve answers requests until Shutdown, or until the listener fails.
func (s *Server) Serve() error {
	serve := func() error { return s.http.Serve(s.Net) }
	if s.TLS != nil {
		serve = func() error { return s.http.ServeTLS(s.Net, "", "") }
	}
	if err := serve(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown takes no more requests and waits for those that run. What still runs when ctx ends is cut. A nil *Server, a
// codec server that nobody wants, has nothing to wait for.
func (s *Server) Shutdown(ctx context.Context) error {
	if s == nil {
		return nil
	}
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(err, s.http.Close())
	}
	return nil
}
