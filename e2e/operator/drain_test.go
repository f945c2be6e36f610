package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

// replica is the config of a proxy with the default drain.
const replica = `
listeners: [{address: "127.0.0.1:0"}]
upstreams: [{address: "${temporal}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
`

func TestDrain(t *testing.T) {
	t.Parallel()
	scenario(t, "10.4", "SIGTERM turns /readyz and health at once, and calls are answered all the same", readinessTurns)
	scenario(t, "10.1", "whoever connects during a drain is served, until the last caller has left", drainAccepts)
	scenario(t, "10.2", "a caller that stays is served until drain.time ends, and its polls end empty", drainEnds)
	scenario(t, "10.2", "a poll that is held for its key ends empty when the drain begins", drainEndsHeldPolls)
	longScenario(t, "10.3", "workers and clients that use two replicas by turns", func(s *site) { oneReplicaDrains(s, "round_robin", 2) })
	longScenario(t, "10.3", "workers and clients that prefer the replica that drains", func(s *site) { oneReplicaDrains(s, "pick_first", 2) })
	longScenario(t, "10.3", "workers and clients that know only the replica that drains", func(s *site) { oneReplicaDrains(s, "pick_first", 1) })
}

func readinessTurns(s *site) {
	p := s.serve(replica)
	caller := s.dial(p.address)
	go keepPolling(s.Context(), caller, s.name) // without a caller the drain would be over at once
	s.within(5*time.Second, func() error { return heldBy(p, 1) })
	p.signal(syscall.SIGTERM)
	s.within(2*time.Second, func() error {
		if code, body := p.get("/readyz"); code != 503 {
			return fmt.Errorf("/readyz answers %d: %s", code, body)
		}
		return nil
	})
	s.ok(describe(s.Context(), s.dial(p.address)))
	check, err := healthpb.NewHealthClient(s.dial(p.address)).Check(s.Context(), &healthpb.HealthCheckRequest{})
	s.want(err == nil && check.GetStatus() == healthpb.HealthCheckResponse_NOT_SERVING, "health: %v, %v", check, err)
}

func drainAccepts(s *site) {
	p := s.serve(replica)
	ctx, leave := context.WithCancel(s.Context())
	left := make(chan error, 1)
	go func() { left <- keepPolling(ctx, s.dial(p.address), s.name) }()
	s.within(5*time.Second, func() error { return heldBy(p, 1) })
	p.signal(syscall.SIGTERM)
	began := time.Now()
	for time.Since(began) < 8*time.Second {
		conn := s.dial(p.address)
		if err := describe(s.Context(), conn); err != nil {
			s.Fatalf("a caller that connected %s after SIGTERM: %v", time.Since(began), err)
		}
		_ = conn.Close()
		time.Sleep(100 * time.Millisecond)
	}
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		s.Errorf("polls of the caller that stayed: %v", err)
	}
	s.ended(p, 4*time.Second)
	s.lacks("the log", p.log.String(), "were cut")
}

func drainEnds(s *site) {
	p := s.serve(replica + "drain: {time: 12s}\n")
	left := make(chan error, 1)
	go func() { left <- keepPolling(s.Context(), s.dial(p.address), s.name) }()
	s.within(5*time.Second, func() error { return heldBy(p, 1) })
	p.signal(syscall.SIGTERM)
	began := time.Now()
	for time.Since(began) < 11*time.Second {
		if err := describe(s.Context(), s.dial(p.address)); err != nil {
			s.Fatalf("a caller that connected %s after SIGTERM: %v", time.Since(began), err)
		}
		time.Sleep(500 * time.Millisecond)
	}
	s.ended(p, 4*time.Second)
	if took := time.Since(began); took < 11*time.Second {
		s.Errorf("the proxy ended after %s, while a caller was connected", took)
	}
	s.lacks("the log", p.log.String(), "were cut")
	// Only once the proxy is gone its caller fails.
	if err := <-left; !errors.Is(err, errNobodyListens) {
		s.Errorf("polls of the caller that stayed: %v", err)
	}
}

func drainEndsHeldPolls(s *site) {
	p := s.serve(replica)
	s.kms.Always("", kmsstub.Fault{Error: "KMSInternalException"})
	type outcome struct {
		answer *workflowservice.PollActivityTaskQueueResponse
		err    error
	}
	polled := make(chan outcome, 1)
	caller := workflowservice.NewWorkflowServiceClient(s.dial(p.address))
	go func() {
		ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
		defer cancel()
		a, err := caller.PollActivityTaskQueue(ctx, pollOf(s.name))
		polled <- outcome{a, err}
	}()
	s.within(10*time.Second, func() error { return heldBy(p, 1) })
	time.Sleep(2 * time.Second) // the first try of the key is over
	p.signal(syscall.SIGTERM)
	select {
	case o := <-polled:
		s.want(o.err == nil && len(o.answer.GetTaskToken()) == 0, "the poll got %v, %v", o.answer, o.err)
	case <-time.After(5 * time.Second):
		s.Error("the poll is still held 5 s after SIGTERM")
	}
	s.ended(p, 5*time.Second)
	s.lacks("the log", p.log.String(), "were cut")
}

// oneReplicaDrains runs workflows through so many replicas, of which the first one gets SIGTERM meanwhile. Workers and
// clients that know no other one leave before its drain.time ends.
func oneReplicaDrains(s *site, balancing string, replicas int) {
	var proxies []*proxy
	for range replicas {
		proxies = append(proxies, s.serve(replica))
	}
	serves, starts := s.clientOf(balancing, proxies...), s.clientOf(balancing, proxies...)
	w := worker.New(serves, s.name, worker.Options{})
	w.RegisterWorkflowWithOptions(twoSteps, workflow.RegisterOptions{Name: "TwoSteps"})
	w.RegisterActivityWithOptions(attempt, activity.RegisterOptions{Name: "Attempt"})
	s.ok(w.Start())

	const perSecond = 5
	seconds := 20 // 15 of them in the drain
	if replicas > 1 {
		seconds = 40 // 25 of them in the drain
	}
	var all sync.WaitGroup
	failed := make(chan error, perSecond*seconds)
	for i := range perSecond * seconds {
		if i == 5*perSecond {
			proxies[0].signal(syscall.SIGTERM)
		}
		all.Go(func() {
			if err := twoStepsOnce(s, starts, i); err != nil {
				failed <- fmt.Errorf("workflow %d: %w", i, err)
			}
		})
		time.Sleep(time.Second / perSecond)
	}
	all.Wait()
	s.Logf("%d replicas, %s: %d workflows, %d failed", replicas, balancing, perSecond*seconds, len(failed))
	for range len(failed) {
		s.Error(<-failed)
	}
	w.Stop()
	serves.Close()
	starts.Close()
	s.ended(proxies[0], 12*time.Second)
}

// twoStepsOnce runs one workflow. Its error says what the client saw, or that a task was lost.
func twoStepsOnce(s *site, c client.Client, i int) error {
	start := time.Now()
	run, err := c.ExecuteWorkflow(s.Context(),
		client.StartWorkflowOptions{ID: fmt.Sprint(s.name, "-", i), TaskQueue: s.name}, "TwoSteps")
	if err != nil {
		return fmt.Errorf("it could not be started: %w", err)
	}
	var attempts int32
	if err := run.Get(s.Context(), &attempts); err != nil {
		return err
	}
	if attempts != 2 {
		return fmt.Errorf("its 2 activities took %d attempts", attempts)
	}
	if took := time.Since(start); took > 9*time.Second { // a lost workflow task times out after 10 s
		return fmt.Errorf("it took %s", took)
	}
	return nil
}

// twoSteps returns how many attempts its two activities took.
func twoSteps(ctx workflow.Context) (int32, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: 5 * time.Second})
	sum := int32(0)
	for range 2 {
		n := int32(0)
		if err := workflow.ExecuteActivity(ctx, "Attempt").Get(ctx, &n); err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func attempt(ctx context.Context) (int32, error) { return activity.GetInfo(ctx).Attempt, nil }

// clientOf is an SDK's client with a list of proxies.
func (s *site) clientOf(balancing string, proxies ...*proxy) client.Client {
	s.Helper()
	r := manual.NewBuilderWithScheme("list")
	var list []resolver.Address
	for _, p := range proxies {
		list = append(list, resolver.Address{Addr: p.address})
	}
	r.InitialState(resolver.State{Addresses: list})
	c, err := client.NewLazyClient(client.Options{HostPort: "list:///proxies", Logger: sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler)),
		ConnectionOptions: client.ConnectionOptions{DialOptions: []grpc.DialOption{grpc.WithResolvers(r),
			grpc.WithDefaultServiceConfig(fmt.Sprintf(`{"loadBalancingConfig": [{%q: {}}]}`, balancing))}}})
	s.ok(err)
	s.Cleanup(c.Close)
	return c
}

// ended requires that a proxy ends by itself with 0.
func (s *site) ended(p *proxy, within time.Duration) {
	s.Helper()
	select {
	case <-p.Done():
		s.want(p.ExitCode() == 0, "the proxy ended with %d", p.ExitCode())
	case <-time.After(within):
		s.Errorf("the proxy has not ended within %s", within)
	}
}

func (s *site) dial(address string) *grpc.ClientConn {
	s.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	s.ok(err)
	s.Cleanup(func() { _ = conn.Close() })
	return conn
}

func describe(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := workflowservice.NewWorkflowServiceClient(conn).DescribeNamespace(ctx,
		&workflowservice.DescribeNamespaceRequest{Namespace: "default"})
	return err
}

func pollOf(queue string) *workflowservice.PollActivityTaskQueueRequest {
	return &workflowservice.PollActivityTaskQueueRequest{Namespace: "default", TaskQueue: &taskqueuepb.TaskQueue{Name: queue}}
}

// heldBy is an error unless a proxy has so many calls in flight.
func heldBy(p *proxy, calls float64) error {
	if n, _ := p.metric("temporal_seal_calls_in_flight"); n != calls {
		return fmt.Errorf("%v calls are in flight, want %v", n, calls)
	}
	return nil
}

var errNobodyListens = errors.New("nobody listens")

// keepPolling polls as a worker does, until the context ends or a poll fails.
func keepPolling(ctx context.Context, conn *grpc.ClientConn, queue string) error {
	c := workflowservice.NewWorkflowServiceClient(conn)
	for {
		poll, cancel := context.WithTimeout(ctx, 70*time.Second)
		_, err := c.PollActivityTaskQueue(poll, pollOf(queue))
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && isRefused(err):
			return errNobodyListens
		case err != nil:
			return err
		}
	}
}

// isRefused reports whether a call failed since it could not connect.
func isRefused(err error) bool { return strings.Contains(err.Error(), "connection refused") }
