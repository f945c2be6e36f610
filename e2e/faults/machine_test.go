package faults

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// server is a frontend that does what a test says, and holds what tests of the machine need to know.
type server struct {
	workflowservice.UnimplementedWorkflowServiceServer
	address string

	start func(context.Context, *workflowservice.StartWorkflowExecutionRequest) error
	poll  func(context.Context) (*workflowservice.PollActivityTaskQueueResponse, error)
	query []byte // what a query gives

	polls atomic.Int64 // held now
}

func startServer(t *testing.T) *server {
	t.Helper()
	s := new(server)
	g := grpc.NewServer(grpc.MaxRecvMsgSize(16 << 20))
	workflowservice.RegisterWorkflowServiceServer(g, s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	go g.Serve(l)
	t.Cleanup(g.Stop)
	return s
}

func (s *server) GetSystemInfo(context.Context, *workflowservice.GetSystemInfoRequest) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{}, nil
}

func (s *server) DescribeNamespace(context.Context, *workflowservice.DescribeNamespaceRequest) (*workflowservice.DescribeNamespaceResponse, error) {
	return &workflowservice.DescribeNamespaceResponse{}, nil
}

func (s *server) StartWorkflowExecution(ctx context.Context, q *workflowservice.StartWorkflowExecutionRequest) (*workflowservice.StartWorkflowExecutionResponse, error) {
	if s.start != nil {
		if err := s.start(ctx, q); err != nil {
			return nil, err
		}
	}
	return &workflowservice.StartWorkflowExecutionResponse{RunId: "r"}, nil
}

func (s *server) QueryWorkflow(context.Context, *workflowservice.QueryWorkflowRequest) (*workflowservice.QueryWorkflowResponse, error) {
	return &workflowservice.QueryWorkflowResponse{QueryResult: &commonpb.Payloads{Payloads: []*commonpb.Payload{{Data: s.query}}}}, nil
}

func (s *server) PollActivityTaskQueue(ctx context.Context, _ *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
	s.polls.Add(1)
	defer s.polls.Add(-1)
	return s.poll(ctx)
}

func (s *server) RespondActivityTaskFailed(context.Context, *workflowservice.RespondActivityTaskFailedRequest) (*workflowservice.RespondActivityTaskFailedResponse, error) {
	return &workflowservice.RespondActivityTaskFailedResponse{}, nil
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 400 {
		if ok() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("did not come about within 20 s: %s", what)
}

// Without file descriptors new connections wait, those that there are go on, and all is well when there are some again.
func TestNoFileDescriptors(t *testing.T) {
	s := startServer(t)
	p := startProxy(t, s.address, "")
	p.well(t)
	var before unix.Rlimit
	few := unix.Rlimit{Cur: 8, Max: 20_000} // fewer than are open: there is no next one
	if err := unix.Prlimit(p.PID(), unix.RLIMIT_NOFILE, nil, &before); err != nil {
		t.Skip("the limit of another process cannot be set here: ", err)
	}
	few.Max = before.Max
	if err := unix.Prlimit(p.PID(), unix.RLIMIT_NOFILE, &few, nil); err != nil {
		t.Fatal(err)
	}
	late := workflowservice.NewWorkflowServiceClient(dial(t, p.Address))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := late.StartWorkflowExecution(ctx, startRequest(10)); err == nil {
		t.Error("a connection was accepted without a file descriptor")
	}
	if err := p.start(t, 10); err != nil {
		t.Errorf("a call on a connection that was there: %v", err)
	}
	if err := unix.Prlimit(p.PID(), unix.RLIMIT_NOFILE, &before, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new connection is accepted", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := late.StartWorkflowExecution(ctx, startRequest(10))
		return err == nil
	})
	p.well(t)
}

// memory is what the flooded proxy may use, by GOMEMLIMIT, and most what it may really use at any time: the limit of a
// container of which the former is nine tenths, as it is set by default.
const (
	memory = 230 << 20
	most   = 256 << 20
)

// A flood of large calls is refused as far as there is no room for it, and the proxy lives.
func TestFloodOfLargeCalls(t *testing.T) {
	s := startServer(t)
	s.query = make([]byte, 3<<20)
	if _, err := rand.Read(s.query); err != nil {
		t.Fatal(err)
	}
	var started atomic.Int64
	s.start = func(context.Context, *workflowservice.StartWorkflowExecutionRequest) error {
		started.Add(1)
		time.Sleep(100 * time.Millisecond)
		return nil
	}
	p := startProxy(t, s.address, "", fmt.Sprintf("GOMEMLIMIT=%d", memory))
	p.well(t)
	before := started.Load()
	clients := make([]workflowservice.WorkflowServiceClient, 10)
	for i := range clients {
		clients[i] = workflowservice.NewWorkflowServiceClient(dial(t, p.Address))
	}
	var done, refused, answered atomic.Int64
	var flood sync.WaitGroup
	sizes := []int{100 << 10, 1 << 20, 2 << 20, 3_900_000}
	for i := range 200 {
		flood.Go(func() {
			for n := range 4 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				var err error
				if c := clients[i%len(clients)]; i%4 == 3 {
					_, err = c.QueryWorkflow(ctx, &workflowservice.QueryWorkflowRequest{Namespace: "default"})
					if err == nil {
						answered.Add(1)
					}
				} else {
					_, err = c.StartWorkflowExecution(ctx, startRequest(sizes[(i+n)%len(sizes)]))
					if err == nil {
						done.Add(1)
					}
				}
				cancel()
				switch {
				case status.Code(err) == codes.ResourceExhausted:
					refused.Add(1)
				case err != nil:
					t.Errorf("a call of the flood: %v", err)
				}
			}
		})
	}
	peak := p.peak(t, flood.Wait)
	t.Logf("calls done: %d, queries answered: %d, refused: %d, peak %d MiB", done.Load(), answered.Load(), refused.Load(), peak>>20)
	if done.Load() == 0 || refused.Load() == 0 {
		t.Error("some should have been done and some refused")
	}
	if n := started.Load() - before; n != done.Load() {
		t.Errorf("%d calls were done, %d reached the frontend", done.Load(), n)
	}
	if peak > most {
		t.Errorf("the proxy used %d MiB, in a container of %d it would have been killed", peak>>20, most>>20)
	}
	p.well(t)
}

// peak is the most memory that the proxy had while do ran: what it holds itself, which a container is killed for, and not
// the pages of its binary, which the kernel drops before.
func (p *proxy) peak(t *testing.T, do func()) (most int) {
	t.Helper()
	done := make(chan struct{})
	go func() { do(); close(done) }()
	for {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
		if errors.Is(err, os.ErrNotExist) {
			<-done
			p.well(t) // fails if it has died
			t.Skip("there is no /proc here")
		}
		for line := range bytes.Lines(text) {
			var kb int
			if _, err := fmt.Sscanf(string(line), "RssAnon: %d kB", &kb); err == nil {
				most = max(most, kb<<10)
			}
		}
		select {
		case <-done:
			return most
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Thousands of connections that say nothing are closed when there are too many, and leave room for those that speak.
func TestIdleConnections(t *testing.T) {
	s := startServer(t)
	p := startProxy(t, s.address, "limits: {connections: 500}\n")
	p.well(t)
	var idle []net.Conn
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	for range 2000 {
		c, err := net.Dial("tcp", p.Address)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, c)
	}
	if err := p.start(t, 10); err != nil {
		t.Errorf("a call on a connection that was there: %v", err)
	}
	eventually(t, "the refusals are counted", func() bool {
		return p.metric(t, `temporal_seal_refused_total{limit="connections"}`) >= "1"
	})
	for _, c := range idle {
		c.Close()
	}
	late := workflowservice.NewWorkflowServiceClient(dial(t, p.Address))
	eventually(t, "a new caller is let in", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := late.StartWorkflowExecution(ctx, startRequest(10))
		return err == nil
	})
}
