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
	"google.golang.org/grpc/keepalive"
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
func (h *holding) polls(t *testing.T, pool *Pool, n int) (wait func()) {
	t.Helper()
	c := workflowservice.NewWorkflowServiceClient(pool)
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

// A frontend's connection takes a limited number of streams, and polls hold theirs for a minute. What is
// allowed is read from the frontend's settings.
func TestPoolGrowsWithHeldPolls(t *testing.T) {
	for _, c := range []struct{ allowed, polls, least, most int }{
		{100, 300, 4, 4}, {10, 200, 20, 21}, {1, 20, 20, 21}, {0, 1000, 12, 12},
	} {
		options := []grpc.ServerOption{}
		if c.allowed > 0 {
			options = append(options, grpc.MaxConcurrentStreams(uint32(c.allowed)))
		}
		h := startHolding(t, options...)
		pool := poolTo(t, h.frontend)
		wait := h.polls(t, pool, c.polls)
		start := time.Now()
		if err := systemInfo(pool); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 500*time.Millisecond {
			t.Errorf("a short call took %v beside %d held polls", took, c.polls)
		}
		if n := pool.open(); n < c.least || n > c.most {
			t.Errorf("%d streams allowed: %d connections for %d polls, want %d to %d", c.allowed, n, c.polls, c.least, c.most)
		}
		close(h.release)
		wait()
		if n := pool.calls.Load(); n != 0 {
			t.Errorf("%d calls are left", n)
		}
	}
}

// Connections beyond the need get no new calls. They keep those that they have, and are closed when idle.
func TestPoolShrinksWithoutCuttingACall(t *testing.T) {
	few, many := startHolding(t, grpc.MaxConcurrentStreams(100)), 3*callsPerConnection
	addresses := manual.NewBuilderWithScheme("test")
	addresses.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: few.address}}})
	pool := resolved(t, addresses, grpc.WithIdleTimeout(time.Second))
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	hold := func(ctx context.Context, n int) {
		for range n {
			ended.Go(func() {
				_, err := workflowservice.NewWorkflowServiceClient(pool).PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{})
				if _, ends := ctx.Deadline(); err != nil && ctx.Err() == nil && !ends {
					t.Error(err)
				}
			})
		}
	}
	hold(ctx, many-callsPerConnection/2)
	eventually(t, func() bool { return int(few.held.Load()) == many-callsPerConnection/2 })
	hold(t.Context(), 1) // on the least busy connection, the last
	eventually(t, func() bool { return int(few.held.Load()) == many-callsPerConnection/2+1 })
	if n := pool.open(); n != 3 {
		t.Fatalf("%d connections, want 3", n)
	}
	cancel()
	eventually(t, func() bool { return few.held.Load() == 1 })
	end := time.Now().Add(3 * time.Second)
	for time.Now().Before(end) {
		if err := systemInfo(pool); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		hold(short, 5)
		<-short.Done()
		cancel()
	}
	if n := pool.open(); n > 2 {
		t.Errorf("%d connections are open, want the first one and the one with the poll", n)
	}
	time.Sleep(100 * time.Millisecond) // the last short polls end
	if few.held.Load() != 1 {
		t.Error("the poll was cut")
	}
	close(few.release)
	ended.Wait()
}

// A frontend that ends connections by GOAWAY gets the end of their calls, and new calls go on.
func TestPoolKeepsCallsWhenAFrontendEndsConnections(t *testing.T) {
	h := startHolding(t, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 200 * time.Millisecond, MaxConnectionAgeGrace: time.Minute}))
	pool := poolTo(t, h.frontend)
	wait := h.polls(t, pool, 5)
	end := time.Now().Add(time.Second)
	for time.Now().Before(end) {
		if err := systemInfo(pool); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if h.held.Load() != 5 {
		t.Errorf("%d polls are held, want all 5", h.held.Load())
	}
	close(h.release)
	wait()
}

// resolved is a pool whose address a test resolves.
func resolved(t *testing.T, addresses *manual.Resolver, options ...grpc.DialOption) *Pool {
	t.Helper()
	pool := &Pool{address: "test:///frontend", spans: noSpans{}, config: new(Config)}
	pool.options = append(append(pool.dialOptions(), grpc.WithResolvers(addresses)), options...)
	first, err := pool.dial()
	if err != nil {
		t.Fatal(err)
	}
	pool.all.Store(&[]*connection{first})
	t.Cleanup(pool.close)
	return pool
}

func systemInfo(pool *Pool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := workflowservice.NewWorkflowServiceClient(pool).GetSystemInfo(ctx, new(workflowservice.GetSystemInfoRequest))
	return err
}

// Frontends that are added to a name get work when those that were there end their connections.
func TestAddedFrontendsGetWork(t *testing.T) {
	age := grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 100 * time.Millisecond})
	first, second := startHolding(t, age), startHolding(t, age)
	addresses := manual.NewBuilderWithScheme("test")
	addresses.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: first.address}}})
	addresses.ResolveNowCallback = func(resolver.ResolveNowOptions) {
		go addresses.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: first.address}, {Addr: second.address}}})
	}
	pool := resolved(t, addresses)
	eventually(t, func() bool { // each connection goes to one of them by chance
		if err := systemInfo(pool); err != nil {
			t.Fatal(err)
		}
		return len(second.calls()) > 0
	})
}

// Calls, growth, and connections that the frontend ends at once: no call is lost.
func TestNoCallIsLostToAClosingConnection(t *testing.T) {
	h := startHolding(t, grpc.MaxConcurrentStreams(4), grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 50 * time.Millisecond}))
	pool := poolTo(t, h.frontend)
	end := time.Now().Add(1500 * time.Millisecond)
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			for time.Now().Before(end) {
				if err := systemInfo(pool); err != nil {
					t.Error(err)
				}
				time.Sleep(rand.N(3 * time.Millisecond))
			}
		})
	}
	callers.Wait()
}

// TestADisconnectedPoolConnectsAnew: what is done for a worker after its call finds the upstream, also if the router has given
// the pool's place to another one.
func TestADisconnectedPoolConnectsAnew(t *testing.T) {
	f := new(frontend)
	startFrontend(t, f)
	pool := poolTo(t, f)
	for range 2 {
		if err := systemInfo(pool); err != nil {
			t.Fatal(err)
		}
		pool.disconnect()
		if n := pool.open(); n != 0 {
			t.Errorf("%d connections are open", n)
		}
	}
}
