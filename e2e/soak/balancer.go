package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// lookEvery is how often the balancer asks its backends if they are ready.
const lookEvery = 200 * time.Millisecond

// balancer hands TCP connections to backends in turn, as a load balancer of layer 4 does: it does not know what they
// carry. A backend that is not ready gets no new ones, and keeps those it has.
type balancer struct {
	listener net.Listener
	backends []*backend
	next     atomic.Uint32
	stop     context.CancelFunc
	all      sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]bool
	closed bool
}

// backend is one that connections are handed to.
type backend struct {
	address string
	ready   func(context.Context) bool
	isReady atomic.Bool
}

// newBalancer listens on a free port of loopback.
func newBalancer(backends ...*backend) (*balancer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	b := &balancer{listener: l, backends: backends, stop: stop, open: map[net.Conn]bool{}}
	for _, to := range backends {
		b.all.Go(func() { to.look(ctx) })
	}
	b.all.Go(b.accept)
	return b, nil
}

func (b *balancer) address() string { return b.listener.Addr().String() }

func (b *balancer) close() {
	b.stop()
	_ = b.listener.Close()
	b.mu.Lock()
	b.closed = true
	for conn := range b.open {
		_ = conn.Close()
	}
	b.mu.Unlock()
	b.all.Wait()
}

// look keeps the backend's state up to date.
func (to *backend) look(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		to.isReady.Store(to.ready(ctx))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// readyz asks a proxy's admin address, as Kubernetes does before it sends a pod connections.
func readyz(admin string) func(context.Context) bool {
	c := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return func(ctx context.Context) bool {
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/readyz", nil)
		if err != nil {
			return false
		}
		a, err := c.Do(q)
		if err != nil {
			return false
		}
		_ = a.Body.Close()
		return a.StatusCode == http.StatusOK
	}
}

func (b *balancer) accept() {
	for {
		conn, err := b.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			b.all.Go(func() { b.serve(conn) })
		}
	}
}

// serve joins a connection with one to a backend until either side ends.
func (b *balancer) serve(caller net.Conn) {
	defer func() { _ = caller.Close() }()
	served, ok := b.dial()
	if !ok {
		return
	}
	defer func() { _ = served.Close() }()
	if !b.keep(caller, served) {
		return
	}
	defer b.forget(caller, served)
	done := make(chan struct{})
	go func() {
		pipe(served, caller)
		close(done)
	}()
	pipe(caller, served)
	<-done
}

// pipe copies until its source ends, and ends the other side. A connection that broke ends both ways.
func pipe(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.Close()
		_ = from.Close()
		return
	}
	_ = to.(*net.TCPConn).CloseWrite()
}

// dial connects to the next backend that is ready and takes the connection.
func (b *balancer) dial() (net.Conn, bool) {
	for range b.backends {
		to := b.backends[int(b.next.Add(1))%len(b.backends)]
		if !to.isReady.Load() {
			continue
		}
		if conn, err := net.DialTimeout("tcp", to.address, time.Second); err == nil {
			return conn, true
		}
	}
	return nil, false
}

func (b *balancer) keep(conns ...net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	for _, c := range conns {
		b.open[c] = true
	}
	return true
}

func (b *balancer) forget(conns ...net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range conns {
		delete(b.open, c)
	}
}
