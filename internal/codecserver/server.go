// Package codecserver answers /encode and /decode over HTTP for Temporal's Web UI and command line. It owns
// the HTTP side: origins, limits, status codes, the JSON form of payloads. Package auth finds out who calls,
// and the policy decides about each payload, which here comes without its message: see policy/apart.go. This package
// never sees a key. Answers are on record where `audit` is set and something sealed was in them; a request that is
// refused leaves a line in the log and no record.
//
// What is where:
//
//   - server.go: what it consists of, its bounds, how it starts and ends
//   - handler.go: the steps of one request
//   - payloads.go: the JSON form of payloads, and sealing or opening a list of them
//   - errors.go: the status of every error of other packages; cors.go: which web pages may call; telemetry.go: metrics and spans
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
	"golang.org/x/net/netutil"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/x/handshake"
	"github.com/temporal-seal/temporal-seal/internal/x/lograte"
)

const (
	// A body has bodyTime to arrive, plus one second for each slowestRate bytes that arrived.
	bodyTime    = 5 * time.Second
	slowestRate = 64 << 10 // bytes a second
	// bodyCost is how often a body's bytes count: there are twice as many copies of them as of a gRPC message's.
	bodyCost = 2
	// maxElements bounds the objects and members in a body, and elementCost is what each takes in memory.
	maxElements = 64 * maxPayloads
	elementCost = 200
	// maxConnections bounds the connections. One more waits until another one ends.
	maxConnections = 512
	// maxPayloads bounds the decisions that one request costs.
	maxPayloads = 1000
	// maxAtOnce bounds the requests that are rewritten at the same time, and so the memory that they take.
	maxAtOnce = 32
	// answerTime bounds a request, a key service's answers included.
	answerTime = 20 * time.Second
)

// Name is what policies see as input.caller.listener.
const Name = "codec_server"

// Options are what a Server consists of. All fields are required, unless a comment says otherwise.
type Options struct {
	Net net.Listener
	TLS *tls.Config // nil: plaintext
	// Identify finds out who calls.
	Identify auth.Identify
	// Enter counts a request of a caller at this host in, before its body is read. take counts n bytes more, or returns why there
	// is no room for them, and memory what rewriting takes. leave ends all three.
	Enter func(caller *policy.Caller, host string) (take func(n int64) error, memory rewrite.Memory, leave func(), err error)
	// RequestBytes bounds a body.
	RequestBytes int64
	// Origins are those of the web pages that may call, as browsers name them: "https://ui.example.com".
	// Empty: none.
	Origins []string

	Rewriter *rewrite.Rewriter
	Audit    *audit.Log // nil: no records
	// Rewritten and Failed count what happened to a list of payloads.
	Rewritten func(policy.Direction, *rewrite.Stats, time.Duration, trace.Span)
	Failed    func(policy.Direction, error)
	// Count counts what became of the payloads of a message in a namespace; known reports whether that is one of the config.
	Count func(namespace, workflowType string, outcomes rewrite.Outcomes, known bool)
	// Unopened reports the sealed values of a session's answer that did not open.
	Unopened func(context.Context, *rewrite.Session)
	Registry prometheus.Registerer
	Tracer   trace.Tracer                  // nil: no spans
	Traces   propagation.TextMapPropagator // required with Tracer
	// HandshakeFailed is called for each TLS handshake that fails; nil: nothing is.
	HandshakeFailed handshake.Failed
	Log             *slog.Logger
}

// Server answers requests. Its methods may be called concurrently.
type Server struct {
	options Options
	origins map[string]bool
	http    *http.Server
	// running holds an element for each request that is rewritten now.
	running  chan struct{}
	bodyTime time.Duration
	metrics  metrics
	refusals lograte.Limiter // of lines about refused requests
	faults   lograte.Limiter // of lines about panics, by route
}

// New returns a server that answers nothing yet.
func New(o Options) *Server {
	s := &Server{options: o, origins: map[string]bool{}, running: make(chan struct{}, maxAtOnce),
		bodyTime: bodyTime, metrics: newMetrics(o.Registry)}
	for _, origin := range o.Origins {
		s.origins[origin] = true
	}
	s.http = &http.Server{
		Handler: s, TLSConfig: o.TLS, MaxHeaderBytes: 64 << 10,
		// What a connection receives before it is read is not counted, so it is little. A body has time limits of its own;
		// WriteTimeout has room for answerTime.
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 32, MaxReceiveBufferPerConnection: 128 << 10, MaxReceiveBufferPerStream: 64 << 10},
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: time.Minute, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	if o.HandshakeFailed == nil {
		return s
	}
	if o.TLS == nil {
		s.options.Net = handshake.Plain(o.Net, o.HandshakeFailed)
	} else {
		s.http.ErrorLog = handshake.ErrorLog(o.HandshakeFailed, s.http.ErrorLog)
	}
	return s
}

// Addr returns the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.options.Net.Addr() }

// Serve answers requests until Shutdown, or until the listener fails.
func (s *Server) Serve() error {
	serve := s.http.Serve
	if s.options.TLS != nil {
		serve = func(l net.Listener) error { return s.http.ServeTLS(l, "", "") }
	}
	if err := serve(netutil.LimitListener(s.options.Net, maxConnections)); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Leave has callers make a connection anew for each request, so that they reach replicas that stay. It does nothing for a
// nil *Server.
func (s *Server) Leave() {
	if s != nil {
		s.http.SetKeepAlivesEnabled(false)
	}
}

// Shutdown accepts no more requests and waits for those that run, which end with ctx at the latest. It does
// nothing for a nil *Server.
func (s *Server) Shutdown(ctx context.Context) error {
	if s == nil {
		return nil
	}
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(err, s.http.Close())
	}
	return nil
}
