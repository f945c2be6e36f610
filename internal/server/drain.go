package server

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A drain moves callers to other replicas and fails no call. Each listener has two gRPC servers, since gRPC closes the
// listener of a server before that asks its callers to leave. The first one serves until the drain begins. Then it asks
// its callers to leave (GOAWAY), and the second one serves whoever connects from then on: a caller that knows no other
// replica, or whose load balancer has not noticed yet. The second one asks its callers to leave every few seconds, so
// that they find a replica that stays. The listener closes when no caller is left, or when the time is over.
//
// The whole order of what ends after a signal is in app/run.go.
//
// Polls are not cut, since a poll that is cut just when its task arrives loses the task. One that arrives during the
// drain gets a short time, and one that arrives too late to be forwarded ends empty after a moment, so that its worker
// polls by another replica if it knows one.

const (
	// drainPoll is how long a poll that arrives during a drain may take. Its worker polls again then, perhaps by another
	// replica.
	drainPoll = 5 * time.Second
	// shortestPoll is the least time that a poll is forwarded with. Frontends refuse polls with less than 2 s.
	shortestPoll = 2500 * time.Millisecond
	// latePoll is how long a poll takes that arrives too late to be forwarded.
	latePoll = 250 * time.Millisecond
	// drainMargin is the part of a drain's time that is kept for the answers to polls.
	drainMargin = 500 * time.Millisecond
	// drainAge is about how long a connection that was made during a drain gets new calls.
	drainAge = 5 * time.Second
	// LastCalls is how long the calls may take that are under way when the time of a drain is over.
	LastCalls = time.Second
	// turnTime is how long gRPC may take to begin with a connection that it has accepted. One that it has not begun with is
	// cut when its server ends.
	turnTime = 50 * time.Millisecond
	// noCallers is how long there has to be no caller until the listeners close: one that was asked to leave connects anew
	// only after its old connection has ended.
	noCallers = 500 * time.Millisecond
)

// drain is the state of a server's end.
type drain struct {
	ends      atomic.Int64  // when, in Unix nanoseconds; 0: it has not begun
	pollLimit time.Duration // that holds without a drain too; see Options.PollLimit
}

// begin notes when the drain's time is over: in an hour, if ctx has no deadline.
func (d *drain) begin(ctx context.Context) {
	end, ok := ctx.Deadline()
	if !ok {
		end = time.Now().Add(time.Hour)
	}
	d.ends.Store(end.UnixNano())
}

// poll returns how long a poll may take that is forwarded now; 0: as long as its caller allows. forward reports whether
// that is long enough to forward it.
func (d *drain) poll() (_ time.Duration, forward bool) {
	ends := d.ends.Load()
	if ends == 0 {
		return d.pollLimit, true
	}
	left := min(time.Until(time.Unix(0, ends))-drainMargin, drainPoll)
	if d.pollLimit > 0 {
		left = min(left, d.pollLimit)
	}
	return max(left, 1), left >= shortestPoll
}

// Drain has all callers leave, and gives them and their calls the time left in ctx. It reports whether all calls have
// ended by themselves.
func (s *Server) Drain(ctx context.Context) bool {
	s.health.drain()
	s.drain.begin(ctx)
	for _, l := range s.listeners {
		l.intake.turn()
	}
	time.Sleep(turnTime)
	var all sync.WaitGroup
	for _, l := range s.listeners {
		all.Go(l.server.GracefulStop)
	}
	s.tasks.EndAllPolls(drainPoll)
	s.waitForCallers(ctx, noCallers)
	for _, l := range s.listeners {
		all.Go(l.late.GracefulStop)
	}
	time.Sleep(turnTime) // callers are asked to leave before their polls end, or they would poll here again
	s.tasks.EndAllPolls(0)
	ended := make(chan struct{})
	go func() { all.Wait(); close(ended) }()
	select {
	case <-ended:
		return true
	case <-time.After(LastCalls):
		s.stop()
		<-ended
		return false
	}
}

// WaitForCallers waits until no caller is connected: a sidecar ends after its worker.
func (s *Server) WaitForCallers(ctx context.Context) { s.waitForCallers(ctx, 0) }

// waitForCallers waits until no caller has been connected for a while. Where none is connected now, it returns at once.
func (s *Server) waitForCallers(ctx context.Context, quiet time.Duration) {
	if s.Connections() == 0 {
		return
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if s.Connections() > 0 {
			last = time.Now()
		} else if time.Since(last) >= quiet {
			return
		}
	}
}

// stop cuts all calls.
func (s *Server) stop() {
	for _, l := range s.listeners {
		l.server.Stop()
		l.late.Stop()
	}
}
