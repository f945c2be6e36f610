package server

import (
	"context"
	"errors"
	"sync"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

// An activity that cannot be opened is paused: it waits without losing an attempt, people see that and why, and once its
// input opens the proxy lets it go on from its first attempt.

const (
	firstRetry   = 2 * time.Second
	longestRetry = time.Minute
	triesInVain  = 3
	// maxAside bounds the activities that are looked after, maxSamples the bytes that are kept of them to try.
	maxAside   = 10_000
	maxSamples = 64 << 20
)

// aside are the activities that were paused. The zero value is ready.
type aside struct {
	mu      sync.Mutex
	waiting map[activityKey]*paused
	bytes   int
	running bool
	closed  bool
	stop    chan struct{}
	braked  map[string]time.Time // when the log last told of a namespace's held polls
}

// activityKey is an activity of one run.
type activityKey struct{ namespace, workflow, run, activity string }

// paused is what it takes to try to open an activity's task again, and to let it go on.
type paused struct {
	key     activityKey
	route   *upstream.Pool
	md      metadata.MD // of the poll: the upstream lets the worker do this
	method  *rewrite.Method
	caller  *policy.Caller
	request []byte
	sample  []byte // nil if there was no room: then it goes on when another one of its namespace does
	found   bool   // at the server: the caller may be another worker than its own
	wait    time.Duration
	due     time.Time
}

// add looks after an activity until it opens. It reports false if there are too many already.
func (a *aside) add(s *Server, p *paused) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || len(a.waiting) >= maxAside {
		return false
	}
	if a.waiting == nil {
		a.waiting, a.stop = map[activityKey]*paused{}, make(chan struct{})
	}
	if old := a.waiting[p.key]; old != nil {
		a.bytes -= len(old.sample)
	}
	if a.bytes+len(p.sample) > maxSamples {
		p.sample = nil
	}
	p.wait, p.due = firstRetry, time.Now().Add(firstRetry)
	a.bytes += len(p.sample)
	a.waiting[p.key] = p
	if !a.running {
		a.running = true
		go a.run(s)
	}
	return true
}

// has tells if an activity is looked after.
func (a *aside) has(k activityKey) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.waiting[k] != nil
}

// run tries until nothing is left.
func (a *aside) run(s *Server) {
	tick := time.NewTicker(firstRetry / 4)
	defer tick.Stop()
	for {
		select {
		case <-a.stop:
			return
		case now := <-tick.C:
			due := a.takeDue(now)
			if due == nil {
				return
			}
			s.retryAside(due)
		}
	}
}

// takeDue gives what is to be tried now. It is nil when nothing waits any more, which ends run.
func (a *aside) takeDue(now time.Time) []*paused {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.waiting) == 0 {
		a.running = false
		return nil
	}
	due := []*paused{}
	for _, p := range a.waiting {
		if p.due.Before(now) {
			p.wait = min(2*p.wait, longestRetry)
			p.due = now.Add(p.wait)
			due = append(due, p)
		}
	}
	return due
}

func (a *aside) forget(p *paused) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting[p.key] == p {
		delete(a.waiting, p.key)
		a.bytes -= len(p.sample)
	}
}

func (a *aside) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed = true; a.running {
		a.running = false
		close(a.stop)
	}
}

// retryAside lets the activities go on that open now, and with each those of its namespace of which there is nothing to
// try. Where the key service does not answer, a few tries are enough for one namespace.
func (s *Server) retryAside(due []*paused) {
	inVain := map[string]int{}
	for _, p := range due {
		if p.sample == nil || inVain[p.key.namespace] >= triesInVain {
			continue
		}
		if err := s.opens(p); err != nil {
			var e *rewrite.Error
			switch {
			case transient(err):
				inVain[p.key.namespace]++
			case p.found && errors.As(err, &e) && e.Kind == rewrite.KindDenied:
				s.aside.forget(p) // not to this worker; it is found again for another one
			}
			continue
		}
		s.goOn(p)
		for _, other := range s.aside.untried(p.key.namespace) {
			s.goOn(other)
		}
	}
}

// untried gives the activities of a namespace of which there is nothing to try.
func (a *aside) untried(namespace string) (untried []*paused) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.waiting {
		if p.sample == nil && p.key.namespace == namespace {
			untried = append(untried, p)
		}
	}
	return untried
}

// opens tries if a task opens now. A panic ends this try alone: no call is there to end with it.
func (s *Server) opens(p *paused) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), firstOpening)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = s.panicked("a paused activity", v)
		}
	}()
	c := s.rewriter.Begin(p.method, p.caller)
	if err = c.Identify(p.request); err == nil {
		_, err = c.Response(ctx, p.sample)
	}
	c.Done() // not deferred: what a panic left behind is not used again
	return err
}

// errOthers is why an activity is left alone.
var errOthers = errors.New("somebody else has let it go on, or paused it again")

// goOn unpauses an activity.
func (s *Server) goOn(p *paused) {
	ctx := metadata.NewOutgoingContext(context.Background(), p.md.Copy())
	err := s.stillOurs(ctx, p)
	if err == nil {
		err = s.unpause(ctx, p.route, p.key)
	}
	log := s.log.With("namespace", p.key.namespace, "workflow_id", p.key.workflow, "run_id", p.key.run, "activity_id", p.key.activity)
	switch code := status.Code(err); {
	case err == nil:
		s.metrics.standIns.WithLabelValues("UnpauseActivity").Inc()
		log.Info("an activity that could not be opened opens now and goes on, from its first attempt")
	case err == errOthers:
		log.Info("an activity that could not be opened is no longer paused by a proxy, and is left alone")
	case code == codes.NotFound:
		log.Info("an activity that could not be opened is over")
	case code == codes.Unauthenticated || code == codes.PermissionDenied:
		// Another worker's may: a poll finds the activity at the server again.
		s.looks.soon(p.key.namespace)
		log.Warn("an activity that was paused opens now, but the worker's credentials have expired or do not let it go on; it is tried again with those of a later poll", "error", err)
	default:
		log.Warn("an activity that was paused opens now, but could not be told to go on; it is tried again", "error", err)
		return
	}
	s.aside.forget(p)
}

// stillOurs asks the server if it was a proxy that paused the activity. People pause activities too.
func (s *Server) stillOurs(ctx context.Context, p *paused) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	d := new(workflowservice.DescribeWorkflowExecutionResponse)
	if err := s.fetch(ctx, p.route, "DescribeWorkflowExecution", &workflowservice.DescribeWorkflowExecutionRequest{Namespace: p.key.namespace,
		Execution: &commonpb.WorkflowExecution{WorkflowId: p.key.workflow, RunId: p.key.run}}, d); err != nil {
		return err
	}
	for _, a := range d.GetPendingActivities() {
		if a.GetActivityId() == p.key.activity && pausedByUs(a) {
			return nil
		}
	}
	return errOthers
}
