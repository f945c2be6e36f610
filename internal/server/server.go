package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // SDKs compress their requests
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/tasks"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
	"github.com/temporal-seal/temporal-seal/internal/x/frame"
	"github.com/temporal-seal/temporal-seal/internal/x/handshake"
	"github.com/temporal-seal/temporal-seal/internal/x/lograte"
)

// Options are all that a Server is made of.
type Options struct {
	Listeners []Listener
	Upstreams []upstream.Config
	// Services are forwarded without being looked at, besides health and reflection.
	Services []string
	// NexusEndpoints are the namespaces to which Nexus endpoints lead that their upstream does not list.
	NexusEndpoints map[string]string

	Rewriter *rewrite.Rewriter
	Keys     *keyring.Keyring

	// Audit keeps record of what is opened. Nil: no record.
	Audit *audit.Log

	// PollLimit shortens the polls that are forwarded, so that all of them end by themselves within a short
	// drain. 0: as long as the caller allows.
	PollLimit time.Duration

	Limits Limits

	Metrics *Metrics
	Tracing *Tracing // nil: no spans
	Log     *slog.Logger
}

// Listener is one address and the callers it is for.
type Listener struct {
	Name     string
	Net      net.Listener
	TLS      *tls.Config // nil: plaintext
	Identify auth.Identify
	// Credential is the header that Identify reads, which is not forwarded. "": none.
	Credential string
	// HandshakeFailed is called for each TLS handshake that fails; nil: nothing is.
	HandshakeFailed handshake.Failed
}

// Server forwards calls. Its methods may be used by several goroutines.
type Server struct {
	rewriter *rewrite.Rewriter
	keys     *keyring.Keyring
	audit    *audit.Log
	metrics  *Metrics
	log      *slog.Logger

	listeners []*listener
	upstreams *upstream.Router
	tracing   *Tracing
	methods   methods
	learned   sync.Map // full name -> *method, for those that only the upstream's reflection describes
	passed    map[string]bool
	health    *health
	tasks     *tasks.Tasks

	confirmations *upstream.Confirmations
	endpoints     *upstream.Endpoints
	unopened      *unopened

	admission   *admission
	requestTime time.Duration // that a request may take to arrive
	waiting     chan struct{} // calls that wait for an issuer's keys
	drain       drain
}

// listener is a [Listener] that is served.
type listener struct {
	Listener
	server      *grpc.Server
	late        *grpc.Server // of callers that connect during a drain; see drain.go
	intake      *intake
	connections *connections
	refusals    lograte.Limiter
}

// rewritten are the services whose messages carry payloads.
var rewritten = []*grpc.ServiceDesc{
	&workflowservice.WorkflowService_ServiceDesc, &operatorservice.OperatorService_ServiceDesc}

// CheckService returns an error if a service may not be forwarded unread, or if its name is not written in full.
func CheckService(name string) error {
	for _, desc := range rewritten {
		if name == desc.ServiceName {
			return fmt.Errorf("%s carries payloads, it is always rewritten and cannot be passed on as it is", name)
		}
	}
	if name == adminService {
		return fmt.Errorf("%s reads and writes the server's own state past every check, it is never forwarded", name)
	}
	if !strings.Contains(name, ".") || strings.ContainsAny(name, "/*: ") {
		return fmt.Errorf("%q is not the full name of a gRPC service, such as temporal.api.cloud.cloudservice.v1.CloudService", name)
	}
	return nil
}

// New builds a server. It answers nothing yet.
func New(o Options) (*Server, error) {
	if o.Limits.Connections <= 0 || o.Limits.Calls <= 0 || o.Limits.LongPolls <= 0 ||
		o.Limits.Bytes < MinBytes || o.Limits.RequestBytes < MinRequestBytes {
		return nil, fmt.Errorf("limits: %+v would refuse every call", o.Limits)
	}
	s := &Server{rewriter: o.Rewriter, keys: o.Keys, audit: o.Audit, drain: drain{pollLimit: o.PollLimit}, metrics: o.Metrics, log: o.Log,
		tracing: o.Tracing, methods: map[string]*method{}, passed: map[string]bool{},
		health: newHealth(), admission: newAdmission(o.Limits, o.Metrics, o.Log),
		requestTime: requestTime, waiting: make(chan struct{}, mostWaiting)}
	for _, service := range o.Services {
		if err := CheckService(service); err != nil {
			return nil, fmt.Errorf("services: %w", err)
		}
	}
	for _, service := range append(alwaysPassed, o.Services...) {
		s.passed[service] = true
	}
	for _, desc := range rewritten {
		for _, md := range desc.Methods {
			full := "/" + desc.ServiceName + "/" + md.MethodName
			if m := s.newMethod(full); m != nil {
				s.methods[full] = m
			}
		}
	}
	s.upstreams = upstream.NewRouter(o.Upstreams, o.Tracing.start())
	o.Metrics.hold(&o.Limits)
	for _, l := range o.Listeners {
		s.listeners = append(s.listeners, s.newListener(l))
	}
	s.unopened = &unopened{counts: o.Metrics.unopened, log: o.Log}
	var err error
	if s.confirmations, err = upstream.NewConfirmations(o.Keys.Confirm, o.Log); err != nil {
		return nil, err
	}
	if s.endpoints, err = upstream.NewEndpoints(o.NexusEndpoints, o.Log); err != nil {
		return nil, err
	}
	s.tasks, err = tasks.New(tasks.Options{Rewriter: o.Rewriter, Keys: o.Keys, Audit: o.Audit,
		Answered: o.Metrics.answered, Unopened: s.unopened.task, Memory: s.admission.background, Panicked: s.panicked, Log: o.Log})
	if err != nil {
		return nil, err
	}
	o.Metrics.watch(s.upstreams.Count, s.admission.inUse, s.tasks.PollsHeld)
	return s, nil
}

const (
	// streamsPerCaller is how many calls a connection may have at once. Many workers may share one behind a
	// proxy of their own; without a limit one connection could have calls without end that it never reads the
	// answers of.
	streamsPerCaller = 10_000
	// streamWorkers is how many goroutines take one call after the other, so that their stacks are large enough already. A call that
	// finds none free gets a goroutine of its own: most do where so many polls are held. With more workers each is idle for longer,
	// and its stack shrinks.
	streamWorkers = 64
	// maxHeaders bounds the headers of a call, in bytes as HTTP/2 counts them: 32 more than its name and
	// value for each.
	maxHeaders = 64 << 10
	// connectionIdle is when a connection without calls is closed. Those of workers always have polls.
	connectionIdle = 15 * time.Minute
	// connectionGrace is how long the calls of a connection that is closed for its age may take: longer than
	// any poll, and not for ever, as the watch of a health check might.
	connectionGrace = 5 * time.Minute
)

// connectionAge makes up for gRPC's jitter, which takes a tenth off or adds it.
func connectionAge(age time.Duration) time.Duration { return age + age/9 }

// newListener prepares the gRPC servers of one listener.
func (s *Server) newListener(config Listener) *listener {
	if config.HandshakeFailed == nil {
		config.HandshakeFailed = func(string, handshake.Cause) {}
	}
	l := &listener{Listener: config, connections: &connections{Listener: config.Net, name: config.Name,
		admission: s.admission, metrics: s.metrics, all: map[*connection]struct{}{}}}
	l.intake = newIntake(l.connections)
	l.server = s.newServer(l, s.admission.limits.ConnectionAge)
	l.late = s.newServer(l, drainAge)
	return l
}

// newServer returns a gRPC server for a listener, whose connections get new calls up to an age. Its limits hold for
// each connection.
func (s *Server) newServer(l *listener, age time.Duration) *grpc.Server {
	protection := insecure.NewCredentials()
	if l.TLS != nil {
		protection = credentials.NewTLS(l.TLS)
	}
	options := []grpc.ServerOption{
		grpc.Creds(connectionCredentials{protection, l.HandshakeFailed}),
		grpc.ForceServerCodecV2(frame.Codec{}),
		experimental.BufferPool(frame.Clear),
		grpc.WriteBufferSize(upstream.WriteBuffer),
		grpc.SharedWriteBuffer(true),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.MaxRecvMsgSize(int(s.admission.limits.RequestBytes)),
		grpc.MaxConcurrentStreams(streamsPerCaller),
		// No more of a request arrives before the limit of bytes allows it.
		grpc.StaticStreamWindowSize(upstream.StreamWindow),
		grpc.StaticConnWindowSize(upstream.ConnWindow),
		// SDKs ping every 30 s, also without calls; gRPC's default would cut them off.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: time.Minute, Timeout: 20 * time.Second,
			MaxConnectionIdle:     connectionIdle,
			MaxConnectionAge:      connectionAge(age),
			MaxConnectionAgeGrace: connectionGrace,
		}),
		grpc.ConnectionTimeout(20 * time.Second),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.InTapHandle(s.tap(l)),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error { return s.other(l, stream) }),
	}
	server := grpc.NewServer(options...)
	for _, desc := range rewritten {
		server.RegisterService(s.handlers(desc, l), s)
	}
	return server
}

// Serve answers calls until Drain has ended, or a listener fails. Then it ends what tasks do in the background, and closes the
// connections to upstreams.
func (s *Server) Serve() error {
	failed := make(chan error, 2*len(s.listeners))
	for _, l := range s.listeners {
		go func() { failed <- l.server.Serve(l.intake.first) }()
		go func() { failed <- l.late.Serve(l.intake.second) }()
		go l.intake.run()
	}
	done := make(chan struct{})
	defer close(done)
	go s.closeUnread(done)
	go s.cutLate(done)
	var first error
	for range cap(failed) {
		if err := <-failed; err != nil && !errors.Is(err, grpc.ErrServerStopped) && first == nil {
			first = err
			s.stop()
		}
	}
	s.tasks.Close()
	s.upstreams.Close()
	return first
}

// SetReady changes what health checks report.
func (s *Server) SetReady(ready bool) { s.health.set(ready) }

// PollsHeld is the number of polls that are held: see tasks/poll.go.
func (s *Server) PollsHeld() int { return s.tasks.PollsHeld() }

// Connections is the number of callers' connections that are open now.
func (s *Server) Connections() int { return s.admission.connections() }

// cutLate ends calls whose requests do not arrive, until done is closed. One timer for all saves one for each call.
func (s *Server) cutLate(done <-chan struct{}) {
	tick := time.NewTicker(min(s.requestTime/10, lateEvery))
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case now := <-tick.C:
			s.admission.cutLate(now)
		}
	}
}

// closeUnread closes connections whose callers leave answers unread, until done is closed.
func (s *Server) closeUnread(done <-chan struct{}) {
	tick := time.NewTicker(unreadEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case now := <-tick.C:
			for _, l := range s.listeners {
				l.connections.closeUnread(now, s.log)
			}
		}
	}
}
