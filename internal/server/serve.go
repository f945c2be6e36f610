package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// Serve answers calls until Drain has ended, or a listener fails.
func (s *Server) Serve() error {
	failed := make(chan error, len(s.listeners))
	for _, l := range s.listeners {
		go func() { failed <- l.server.Serve(&callerListener{Listener: l.Net, server: s, listener: l}) }()
	}
	done := make(chan struct{})
	defer close(done)
	go s.sweep(done)
	var first error
	for range s.listeners {
		if err := <-failed; err != nil && !errors.Is(err, grpc.ErrServerStopped) && first == nil {
			first = err
			s.stop()
		}
	}
	s.tasks.Close()
	s.upstreams.Close()
	return first
}

// SetReady changes what health checks tell.
func (s *Server) SetReady(ready bool) { s.health.set(ready) }

// Drain says goodbye to all callers and gives their calls the time left in ctx. Polls end by themselves: a poll that is
// cut just when its task arrives loses the task. It reports whether all calls have ended by themselves.
func (s *Server) Drain(ctx context.Context) bool {
	s.health.drain()
	done := make(chan struct{})
	go func() {
		var all sync.WaitGroup
		for _, l := range s.listeners {
			all.Go(l.server.GracefulStop)
		}
		all.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		s.stop()
		<-done
		return false
	}
}

// WaitForCallers waits until no caller is connected: a sidecar ends after its worker.
func (s *Server) WaitForCallers(ctx context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for s.Connections() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Connections is the number of callers' connections that are open now.
func (s *Server) Connections() int {
	n := 0
	for _, l := range s.listeners {
		n += int(l.open.Load())
	}
	return n
}

func (s *Server) stop() {
	for _, l := range s.listeners {
		l.server.Stop()
	}
}
