package faults

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

func signal(t *testing.T, p *proxy, s os.Signal) {
	t.Helper()
	target, err := os.FindProcess(p.PID())
	if err == nil {
		err = target.Signal(s)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// ended waits for the proxy's end and gives its exit code.
func ended(t *testing.T, p *proxy, within time.Duration) int {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(within):
		t.Fatalf("the proxy has not ended within %s\n%s", within, p.Log)
	}
	return p.ExitCode()
}

// holding is a server whose polls end empty as the real one's do: shortly before their deadline.
func holding(t *testing.T) *server {
	s := startServer(t)
	s.poll = func(ctx context.Context) (*workflowservice.PollActivityTaskQueueResponse, error) {
		deadline, _ := ctx.Deadline()
		select {
		case <-time.After(time.Until(deadline) - time.Second):
			return &workflowservice.PollActivityTaskQueueResponse{}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return s
}

func (p *proxy) poll(ctx context.Context) (*workflowservice.PollActivityTaskQueueResponse, error) {
	return p.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: "default"})
}

// On SIGTERM the proxy says that it is not ready, says goodbye to its callers, lets what is under way end by itself,
// exports the last traces, and ends with 0.
func TestDrain(t *testing.T) {
	s := holding(t)
	slow := make(chan struct{})
	var entered atomic.Bool
	s.start = func(_ context.Context, q *workflowservice.StartWorkflowExecutionRequest) error {
		if q.GetWorkflowType().GetName() == "" && entered.Swap(true) {
			return nil
		}
		<-slow
		return nil
	}
	spans, err := harness.StartCollector()
	if err != nil {
		t.Fatal(err)
	}
	defer spans.Stop()
	p := startProxy(t, s.address, "drain: {time: 10s, delay: 1s}\n", spans.Env()...)
	type result struct {
		err   error
		after time.Duration
	}
	var told time.Time
	polls, call := make(chan result, 3), make(chan result, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range cap(polls) {
		go func() { _, err := p.poll(ctx); polls <- result{err, time.Since(told)} }()
	}
	go func() {
		_, err := p.StartWorkflowExecution(ctx, startRequest(10))
		call <- result{err, time.Since(told)}
	}()
	eventually(t, "calls are under way", func() bool { return s.polls.Load() == int64(cap(polls)) && entered.Load() })
	goodbye := watchGoAway(t, p.Address)

	told = time.Now()
	signal(t, p, syscall.SIGTERM)
	eventually(t, "/readyz says so", func() bool {
		code, _, err := p.Get("/readyz")
		return err == nil && code == http.StatusServiceUnavailable
	})
	check, err := healthpb.NewHealthClient(p.conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil || check.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health: %v, %v", check, err)
	}
	select {
	case <-goodbye:
		if since := time.Since(told); since < time.Second {
			t.Errorf("GOAWAY came %v after the signal, before drain.delay had passed", since)
		}
	case <-time.After(5 * time.Second):
		t.Error("callers got no GOAWAY")
	}
	close(slow)
	if r := <-call; r.err != nil {
		t.Errorf("a call that was under way: %v", r.err)
	}
	for range cap(polls) {
		if r := <-polls; r.err != nil {
			t.Errorf("a poll that was under way: %v", r.err)
		}
	}
	if code := ended(t, p, 15*time.Second); code != 0 {
		t.Errorf("exit code %d\n%s", code, p.Log)
	}
	if log := p.Log.String(); strings.Contains(log, "were cut") || !strings.Contains(log, `"msg":"stopped"`) {
		t.Errorf("the log reports calls that were cut, or does not report the end:\n%s", log)
	}
	if !strings.Contains(strings.Join(names(spans), " "), "StartWorkflowExecution") {
		t.Errorf("the last call's span was not exported: %v", names(spans))
	}
}

func names(c *harness.Collector) (names []string) {
	for _, s := range c.Spans() {
		names = append(names, s.GetName())
	}
	return names
}

// watchGoAway connects, and reports when the proxy sends GOAWAY.
func watchGoAway(t *testing.T, address string) <-chan struct{} {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	framer := http2.NewFramer(conn, bufio.NewReader(conn))
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	seen := make(chan struct{})
	go func() {
		for {
			switch f, err := framer.ReadFrame(); f := f.(type) {
			case *http2.GoAwayFrame:
				close(seen)
				conn.Close() // or the drain would wait for us
				return
			case *http2.PingFrame:
				if !f.IsAck() {
					_ = framer.WritePing(true, f.Data) // a connection that broke shows at the next read
				}
			default:
				if err != nil {
					return
				}
			}
		}
	}()
	return seen
}

// A second signal ends the proxy at once.
func TestSecondSignal(t *testing.T) {
	s := holding(t)
	p := startProxy(t, s.address, "drain: {time: 60s}\n")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cut := make(chan error, 1)
	go func() { _, err := p.poll(ctx); cut <- err }()
	eventually(t, "a poll is held", func() bool { return s.polls.Load() == 1 })
	signal(t, p, syscall.SIGTERM)
	eventually(t, "the drain began", func() bool { return strings.Contains(p.Log.String(), "shutting down") })
	signal(t, p, syscall.SIGTERM)
	if code := ended(t, p, 3*time.Second); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if err := <-cut; status.Code(err) != codes.Unavailable {
		t.Errorf("the poll: %v", err)
	}
}

// A poll whose worker has hung up is given up at the frontend too, or it would be handed a task that nobody gets.
func TestPollEndsWithItsCaller(t *testing.T) {
	s := holding(t)
	p := startProxy(t, s.address, "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { _, _ = p.poll(ctx); close(done) }() // is cut
	eventually(t, "the poll is held", func() bool { return s.polls.Load() == 1 })
	cancel()
	<-done
	start := time.Now()
	eventually(t, "the frontend has no poll", func() bool { return s.polls.Load() == 0 })
	if took := time.Since(start); took > slack {
		t.Errorf("the poll ended %v after its caller left", took)
	}
	p.well(t)
}

// A proxy that receives SIGTERM while its key service and its frontend are silent still ends, within drain.time.
func TestDrainWithASilentFrontend(t *testing.T) {
	f := startFrontend(t)
	p := startProxy(t, f.address, "drain: {time: 2s}\n")
	p.well(t)
	f.setMute(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cut := make(chan error, 1)
	go func() { _, err := p.StartWorkflowExecution(ctx, startRequest(10)); cut <- err }()
	eventually(t, "a call is under way", func() bool { return p.metric(t, "temporal_seal_calls_in_flight") == "1" })
	signal(t, p, syscall.SIGTERM)
	if code := ended(t, p, 2*time.Second+slack); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if err := <-cut; status.Code(err) != codes.Unavailable {
		t.Errorf("the call: %v", err)
	}
	if !strings.Contains(p.Log.String(), "were cut") {
		t.Error("the log does not tell that calls were cut")
	}
}
