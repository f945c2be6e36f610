package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Probe waits until each upstream with a fixed address has answered GetSystemInfo.
func Probe(ctx context.Context, configs []UpstreamConfig) error {
	u := newUpstreams(configs, upstreamOptions{})
	defer u.close()
	fixed, err := u.fixed()
	if err != nil {
		return err
	}
	for _, conns := range fixed {
		if err := conns.probe(ctx); err != nil {
			return fmt.Errorf("upstream %s does not answer: %w; start the Temporal server, or correct the address or its TLS settings", conns.config.Address, err)
		}
	}
	return nil
}

func (c *connections) probe(ctx context.Context) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "client-name", "temporal-seal", "client-version", "1.0.0")
	_, err := workflowservice.NewWorkflowServiceClient(c).GetSystemInfo(ctx, new(workflowservice.GetSystemInfoRequest), grpc.WaitForReady(true))
	switch st := status.Convert(err); st.Code() {
	case codes.OK, codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated:
		return nil // it is there; whom it lets in, the callers' own credentials decide
	case codes.DeadlineExceeded:
		return errors.New(lastConnectionError(st.Message()))
	default:
		return errors.New(st.Message())
	}
}

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
	s.looks.close()
	s.aside.close()
	s.upstreams.close()
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
