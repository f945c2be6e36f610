package server

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

const sealAll = `package temporal

response contains {"action": "open"}
`

// frontend is an upstream whose answers the tests write. A nil function answers with an empty message.
type frontend struct {
	workflowservice.UnimplementedWorkflowServiceServer
	address string
	server  *grpc.Server
	health  *grpchealth.Server

	start    func(context.Context, *workflowservice.StartWorkflowExecutionRequest) (*workflowservice.StartWorkflowExecutionResponse, error)
	describe func(context.Context, *workflowservice.DescribeWorkflowExecutionRequest) (*workflowservice.DescribeWorkflowExecutionResponse, error)
	history  func(context.Context, *workflowservice.GetWorkflowExecutionHistoryRequest) (*workflowservice.GetWorkflowExecutionHistoryResponse, error)
	poll     func(context.Context, *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error)
	query    func(context.Context, *workflowservice.QueryWorkflowRequest) (*workflowservice.QueryWorkflowResponse, error)
	complete func(context.Context, *workflowservice.RespondActivityTaskCompletedRequest) (*workflowservice.RespondActivityTaskCompletedResponse, error)

	mu    sync.Mutex
	seen  []string // methods called
	heads []metadata.MD
}

func answer[Q, A any](f func(context.Context, *Q) (*A, error), ctx context.Context, q *Q) (*A, error) {
	if f == nil {
		return new(A), nil
	}
	return f(ctx, q)
}

func (f *frontend) GetSystemInfo(context.Context, *workflowservice.GetSystemInfoRequest) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{ServerVersion: "1.2.3"}, nil
}

func (f *frontend) StartWorkflowExecution(ctx context.Context, q *workflowservice.StartWorkflowExecutionRequest) (*workflowservice.StartWorkflowExecutionResponse, error) {
	return answer(f.start, ctx, q)
}

func (f *frontend) DescribeWorkflowExecution(ctx context.Context, q *workflowservice.DescribeWorkflowExecutionRequest) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	return answer(f.describe, ctx, q)
}

func (f *frontend) GetWorkflowExecutionHistory(ctx context.Context, q *workflowservice.GetWorkflowExecutionHistoryRequest) (*workflowservice.GetWorkflowExecutionHistoryResponse, error) {
	return answer(f.history, ctx, q)
}

func (f *frontend) PollActivityTaskQueue(ctx context.Context, q *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
	return answer(f.poll, ctx, q)
}

func (f *frontend) QueryWorkflow(ctx context.Context, q *workflowservice.QueryWorkflowRequest) (*workflowservice.QueryWorkflowResponse, error) {
	return answer(f.query, ctx, q)
}

func (f *frontend) RespondActivityTaskCompleted(ctx context.Context, q *workflowservice.RespondActivityTaskCompletedRequest) (*workflowservice.RespondActivityTaskCompletedResponse, error) {
	return answer(f.complete, ctx, q)
}

func (f *frontend) calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.seen...)
}

func (f *frontend) lastMetadata(t testing.TB) metadata.MD {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.heads) == 0 {
		t.Fatal("no call has reached the upstream")
	}
	return f.heads[len(f.heads)-1]
}

// startFrontend serves f on loopback.
func startFrontend(t testing.TB, f *frontend, options ...grpc.ServerOption) {
	t.Helper()
	startService(t, f, f, options...)
}

// startService serves a service that embeds f.
func startService(t testing.TB, f *frontend, service workflowservice.WorkflowServiceServer, options ...grpc.ServerOption) {
	t.Helper()
	note := func(ctx context.Context, method string) {
		md, _ := metadata.FromIncomingContext(ctx)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.seen = append(f.seen, method)
		f.heads = append(f.heads, md)
	}
	f.server = grpc.NewServer(append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(upstream.MaxMessage),
		grpc.UnaryInterceptor(func(ctx context.Context, q any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			note(ctx, info.FullMethod)
			return h(ctx, q)
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			note(s.Context(), info.FullMethod)
			return h(srv, s)
		}),
	}, options...)...)
	workflowservice.RegisterWorkflowServiceServer(f.server, service)
	f.health = grpchealth.NewServer()
	healthpb.RegisterHealthServer(f.server, f.health)
	reflection.Register(f.server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.address = l.Addr().String()
	go f.server.Serve(l)
	t.Cleanup(f.server.Stop)
}

// proxied is a proxy under test.
type proxied struct {
	*Server
	address  string
	log      *lockedBuffer
	registry *prometheus.Registry
}

// startProxy serves a proxy with a local key and a policy that seals everything. adjust may change its options.
func startProxy(t testing.TB, f *frontend, adjust ...func(*Options)) *proxied {
	t.Helper()
	return startProxyWithin(t, f, requestTime, adjust...)
}

// startProxyWithin is startProxy with another time for requests to arrive.
func startProxyWithin(t testing.TB, f *frontend, within time.Duration, adjust ...func(*Options)) *proxied {
	t.Helper()
	ctx := context.Background()
	file := filepath.Join(t.TempDir(), "seal.key")
	if err := localkey.Create(file, time.Now()); err != nil {
		t.Fatal(err)
	}
	logged := new(lockedBuffer)
	log := slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	keys, err := keyring.New(ctx, keyring.Options{
		Keys: []keyring.KeyConfig{{Name: "default", Active: "local:" + file}}, Open: localkey.Open, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	engine, err := policy.NewEngine(ctx, policy.Options{Shipped: []byte(sealAll), KeyRank: keys.Rank, DefaultKey: keys.DefaultKey})
	if err != nil {
		t.Fatal(err)
	}
	rewriter, err := rewrite.New(rewrite.Options{Keys: keys, Policy: engine, Accounts: true, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Listeners: []Listener{{Name: "default", Net: l, Identify: auth.Anonymous("default", nil)}},
		Upstreams: []upstream.Config{{Address: f.address}},
		Limits:    LimitsFor(1 << 30),
		Rewriter:  rewriter, Keys: keys, Metrics: NewMetrics(registry), Log: log,
	}
	for _, a := range adjust {
		a(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	s.requestTime = within
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	s.SetReady(true)
	t.Cleanup(func() {
		s.stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return &proxied{Server: s, address: l.Addr().String(), log: logged, registry: registry}
}

// dial connects as a caller would.
func (p *proxied) dial(t testing.TB, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	return dial(t, p.address, options...)
}

func dial(t testing.TB, address string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(address, append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(upstream.MaxMessage))}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

func (p *proxied) client(t testing.TB, options ...grpc.DialOption) workflowservice.WorkflowServiceClient {
	t.Helper()
	return workflowservice.NewWorkflowServiceClient(p.dial(t, options...))
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func payloads(data []byte) *commonpb.Payloads {
	return &commonpb.Payloads{Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: data}}}
}

func startRequest(data []byte) *workflowservice.StartWorkflowExecutionRequest {
	return &workflowservice.StartWorkflowExecutionRequest{Namespace: "clinic", WorkflowId: "w-1",
		WorkflowType: &commonpb.WorkflowType{Name: "Admission"}, Input: payloads(data)}
}

// lockedBuffer is a log that a test may read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

var _ io.Writer = (*lockedBuffer)(nil)

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func callWith(ctx context.Context, pairs ...string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}

// holding is a frontend that holds polls until release is closed.
type holding struct {
	*frontend
	held    atomic.Int32
	release chan struct{}
}

func startHolding(t *testing.T, options ...grpc.ServerOption) *holding {
	t.Helper()
	h := &holding{frontend: new(frontend), release: make(chan struct{})}
	h.poll = func(ctx context.Context, _ *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
		h.held.Add(1)
		defer h.held.Add(-1)
		select {
		case <-h.release:
		case <-ctx.Done():
		}
		return &workflowservice.PollActivityTaskQueueResponse{}, nil
	}
	startFrontend(t, h.frontend, options...)
	return h
}

// polls has n polls held, and gives a function that waits for their end.
func (h *holding) polls(t *testing.T, c workflowservice.WorkflowServiceClient, n int) (wait func()) {
	t.Helper()
	ctx := testContext(t)
	var ended sync.WaitGroup
	for range n {
		ended.Go(func() {
			if _, err := c.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"}); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, func() bool { return int(h.held.Load()) == n })
	return ended.Wait
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("this did not come about within 10 s")
}
