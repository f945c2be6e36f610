package upstream

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

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
func (h *holding) polls(t *testing.T, conns *Pool, n int) (wait func()) {
	t.Helper()
	c := workflowservice.NewWorkflowServiceClient(conns)
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

// A frontend's connection takes a limited number of streams, and polls hold theirs for a minute. What is allowed is
// learnt from the frontend.
func TestConnectionsGrowWithHeldPolls(t *testing.T) {
	for _, c := range []struct{ allowed, polls, least, most int }{
		{100, 300, 4, 5}, {10, 200, 20, 23}, {1, 20, 20, 23}, {0, 1000, 4, 6},
	} {
		options := []grpc.ServerOption{}
		if c.allowed > 0 {
			options = append(options, grpc.MaxConcurrentStreams(uint32(c.allowed)))
		}
		h := startHolding(t, options...)
		conns := poolTo(t, h.frontend)
		if err := systemInfo(conns); err != nil { // now it is known what is allowed
			t.Fatal(err)
		}
		wait := h.polls(t, conns, c.polls)
		start := time.Now()
		if err := systemInfo(conns); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 500*time.Millisecond {
			t.Errorf("a short call took %v beside %d held polls", took, c.polls)
		}
		if n := conns.count(); n < c.least || n > c.most {
			t.Errorf("%d streams allowed: %d connections for %d polls, want %d to %d", c.allowed, n, c.polls, c.least, c.most)
		}
		close(h.release)
		wait()
	}
}

func TestConnectionsShrinkWithoutCuttingACall(t *testing.T) {
	h := startHolding(t, grpc.MaxConcurrentStreams(100))
	conns := poolTo(t, h.frontend)
	wait := h.polls(t, conns, 400)
	many := conns.count()
	for range 3 * idleTends {
		conns.tend(time.Now())
	}
	if n := conns.count(); n != many {
		t.Errorf("%d connections with %d polls, %d before: those in use stay", n, 400, many)
	}
	close(h.release)
	wait()
	for range 5 {
		conns.tend(time.Now())
	}
	if n := conns.count(); n != many {
		t.Errorf("%d connections a moment after the polls, %d before: the next ones may come at once", n, many)
	}
	for range 3 * idleTends {
		conns.tend(time.Now())
	}
	if n := conns.count(); n != 1 {
		t.Errorf("%d connections are kept without calls", n)
	}
	if err := systemInfo(conns); err != nil {
		t.Error(err)
	}
}

// A connection that is replaced for its age keeps the calls that it has.
func TestOldConnectionsAreReplaced(t *testing.T) {
	h := startHolding(t)
	conns := poolTo(t, h.frontend)
	wait := h.polls(t, conns, 5)
	old := (*conns.all.Load())[0]
	later := time.Now().Add(2 * connectionLife)
	eventually(t, func() bool {
		conns.tend(later)
		return (*conns.all.Load())[0] != old
	})
	if err := systemInfo(conns); err != nil {
		t.Error(err)
	}
	if old.active.Load() != 5 || h.held.Load() != 5 {
		t.Errorf("the old connection has %d calls, the frontend %d: want all 5", old.active.Load(), h.held.Load())
	}
	close(h.release)
	wait()
	conns.tend(time.Now())
	if n := conns.count(); n != 1 {
		t.Errorf("%d connections after the old one's calls ended", n)
	}
}

// An old connection stays while its successor does not come about.
func TestOldConnectionsOutliveAnUpstreamOutOfReach(t *testing.T) {
	addresses := manual.NewBuilderWithScheme("test")
	h := startHolding(t)
	addresses.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: h.address}}})
	conns := resolved(t, addresses)
	if err := systemInfo(conns); err != nil {
		t.Fatal(err)
	}
	old := (*conns.all.Load())[0]
	addresses.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "127.0.0.1:1"}}})
	for range 5 {
		conns.tend(time.Now().Add(2 * connectionLife))
		time.Sleep(50 * time.Millisecond)
	}
	if now := (*conns.all.Load())[0]; now != old {
		t.Error("a connection that works was given up for one that does not")
	}
	if err := systemInfo(conns); err != nil {
		t.Error(err)
	}
}

// resolved are connections whose address a test resolves.
func resolved(t *testing.T, addresses *manual.Resolver) *Pool {
	t.Helper()
	conns := &Pool{address: "test:///frontend", config: new(Config)}
	conns.options = append(conns.dialOptions(Options{}), grpc.WithResolvers(addresses))
	first, err := conns.dial()
	if err != nil {
		t.Fatal(err)
	}
	conns.store([]*connection{first})
	t.Cleanup(conns.close)
	return conns
}

func systemInfo(conns *Pool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := workflowservice.NewWorkflowServiceClient(conns).GetSystemInfo(ctx, new(workflowservice.GetSystemInfoRequest))
	return err
}

// Frontends that are added to a name get work, without a restart of those that were there.
func TestAddedFrontendsGetWork(t *testing.T) {
	first, second := startHolding(t), startHolding(t)
	addresses := manual.NewBuilderWithScheme("test")
	addresses.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: first.address}}})
	conns := resolved(t, addresses)
	for range 20 {
		if err := systemInfo(conns); err != nil {
			t.Fatal(err)
		}
	}
	addresses.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: first.address}, {Addr: second.address}}})
	eventually(t, func() bool { // each successor goes to one of them by chance
		if err := systemInfo(conns); err != nil {
			t.Fatal(err)
		}
		conns.tend(time.Now().Add(2 * connectionLife))
		return len(second.calls()) > 0
	})
}

// Calls, growth, replacement and shrinking at once: no call is lost to a connection that is closed beneath it.
func TestNoCallIsLostToAClosingConnection(t *testing.T) {
	h := startHolding(t, grpc.MaxConcurrentStreams(4))
	addresses := manual.NewBuilderWithScheme("test")
	addresses.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: h.address}}})
	conns := resolved(t, addresses)
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := systemInfo(conns); err != nil {
					t.Error(err)
				}
				time.Sleep(rand.N(3 * time.Millisecond))
			}
		})
	}
	for range 300 {
		conns.tend(time.Now().Add(2 * connectionLife))
		time.Sleep(5 * time.Millisecond)
	}
	close(stop)
	callers.Wait()
}
