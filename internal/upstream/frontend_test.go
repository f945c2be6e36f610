package upstream

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
)

// frontend is an upstream that counts its calls. poll, if it is not nil, answers polls.
type frontend struct {
	workflowservice.UnimplementedWorkflowServiceServer
	operator operatorservice.OperatorServiceServer // nil: none
	address  string
	poll     func(context.Context, *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error)

	mu   sync.Mutex
	seen []string // methods called
}

func (f *frontend) GetSystemInfo(context.Context, *workflowservice.GetSystemInfoRequest) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{ServerVersion: "1.2.3"}, nil
}

func (f *frontend) PollActivityTaskQueue(ctx context.Context, q *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
	return f.poll(ctx, q)
}

func (f *frontend) calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.seen...)
}

// startFrontend serves f on loopback.
func startFrontend(t testing.TB, f *frontend, options ...grpc.ServerOption) {
	t.Helper()
	server := grpc.NewServer(append([]grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, q any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			f.mu.Lock()
			f.seen = append(f.seen, info.FullMethod)
			f.mu.Unlock()
			return h(ctx, q)
		}),
	}, options...)...)
	workflowservice.RegisterWorkflowServiceServer(server, f)
	if f.operator != nil {
		operatorservice.RegisterOperatorServiceServer(server, f.operator)
	}
	reflection.Register(server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.address = l.Addr().String()
	go server.Serve(l)
	t.Cleanup(server.Stop)
}

// poolTo gives the pool of a router that has one upstream.
func poolTo(t testing.TB, f *frontend) *Pool {
	t.Helper()
	router := NewRouter([]Config{{Address: f.address}}, nil)
	t.Cleanup(router.Close)
	pool, err := router.Route("clinic")
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
