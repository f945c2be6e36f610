package tasks

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
)

const (
	firstRetry   = 2 * time.Second
	longestRetry = time.Minute
	// maxFailures is how many activities of one namespace are tried in a row while its keys do not answer.
	maxFailures = 3
	// maxPaused bounds the activities that are watched, maxSealed the bytes that are kept of them to try, and
	// maxPausedBytes all that is kept of them.
	maxPaused      = 10_000
	maxSealed      = 48 << 20
	maxPausedBytes = 64 << 20
	pausedCost     = 512 // of each, beside its bytes
)

// pausedActivities are the activities that were paused since they could not be opened. Each waits without
// losing an attempt, people see that and why, and once its input opens it goes on from its first attempt.
type pausedActivities struct {
	mu       sync.Mutex
	waiting  map[activityKey]*pausedActivity
	bytes    int  // of all
	retrying bool // in the background
}

// pausedActivity is what it takes to try to open an activity's task again, and to let it go on.
type pausedActivity struct {
	key     activityKey
	worker  worker // the server lets the worker whose poll it was do this
	method  *rewrite.Method
	request []byte
	sealed  []byte // the answer; nil if it was one too many: then it goes on when another one of its namespace does
	size    int    // that counts
	found   bool   // at the server: the worker may be another one than its own
	pause   backoff.Backoff
	due     time.Time
}

// add keeps an activity until it is removed, and starts the retries where none go on. It returns false if
// there are too many already.
func (a *pausedActivities) add(p *pausedActivity, retry func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.waiting) >= maxPaused {
		return false
	}
	others := a.bytes
	old := a.waiting[p.key]
	if old != nil {
		others -= old.size
	}
	if others+len(p.sealed)+len(p.request) > maxSealed {
		p.sealed, p.request = nil, nil
	}
	if p.size = p.bytes(); others+p.size > maxPausedBytes {
		return false
	}
	if old != nil {
		old.worker.credentials.clear()
	}
	a.bytes = others + p.size
	p.pause = backoff.Backoff{First: firstRetry, Max: longestRetry}
	p.due = time.Now().Add(p.pause.Next())
	a.waiting[p.key] = p
	if !a.retrying {
		a.retrying = true
		go retry()
	}
	return true
}

// bytes is what an activity takes. Callers choose the size of all of it.
func (p *pausedActivity) bytes() int {
	k := &p.key
	return pausedCost + len(p.sealed) + len(p.request) + len(k.namespace) + len(k.workflow) + len(k.run) + len(k.activity) +
		p.worker.credentials.size()
}

// has reports whether an activity is watched.
func (a *pausedActivities) has(k activityKey) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.waiting[k] != nil
}

// takeDue returns what is to be tried now. left is false when nothing waits any more, which ends the
// retries.
func (a *pausedActivities) takeDue(now time.Time) (due []*pausedActivity, left bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.waiting {
		if p.due.Before(now) {
			p.due = now.Add(p.pause.Next())
			due = append(due, p)
		}
	}
	a.retrying = len(a.waiting) > 0
	return due, a.retrying
}

func (a *pausedActivities) remove(p *pausedActivity) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting[p.key] == p {
		delete(a.waiting, p.key)
		a.bytes -= p.size
		p.worker.credentials.clear()
	}
}

// clear clears the credentials of all, at the end.
func (a *pausedActivities) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.waiting {
		p.worker.credentials.clear()
	}
}

// withoutSealed returns the activities of a namespace that cannot be tried for themselves.
func (a *pausedActivities) withoutSealed(namespace string) (list []*pausedActivity) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.waiting {
		if p.sealed == nil && p.key.namespace == namespace {
			list = append(list, p)
		}
	}
	return list
}

// watch has an activity go on once it opens. It returns false if the proxy cannot do that.
func (t *Tasks) watch(p *pausedActivity) bool {
	if t.ctx.Err() == nil && t.paused.add(p, t.retryUntilNoneWaits) {
		return true
	}
	p.worker.credentials.clear()
	return false
}

func (t *Tasks) retryUntilNoneWaits() {
	tick := time.NewTicker(firstRetry / 4)
	defer tick.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case now := <-tick.C:
			due, left := t.paused.takeDue(now)
			if !left {
				return
			}
			t.retryPaused(due)
		}
	}
}

// retryPaused lets the activities go on that open now, and with each those of its namespace that cannot be
// tried for themselves. Where the keys of a namespace do not answer, a few failures are enough.
func (t *Tasks) retryPaused(due []*pausedActivity) {
	failures := map[string]int{}
	for _, p := range due {
		if p.sealed == nil || failures[p.key.namespace] >= maxFailures {
			continue
		}
		if err := t.tryOpen(p); err != nil {
			e, ok := errors.AsType[*rewrite.Error](err)
			switch {
			case transient(err):
				failures[p.key.namespace]++
			case p.found && ok && e.Kind == rewrite.KindDenied:
				t.paused.remove(p) // denied to this worker; the activity is found again for another one
			}
			continue
		}
		t.resume(p)
		for _, other := range t.paused.withoutSealed(p.key.namespace) {
			t.resume(other)
		}
	}
}

// tryOpen tries whether a task opens now. A panic ends this try alone: there is no call that could end with
// it.
func (t *Tasks) tryOpen(p *pausedActivity) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), FirstTry)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = t.options.Panicked("a paused activity", v)
		}
	}()
	session := t.options.Rewriter.Begin(p.method, p.worker.caller)
	memory, done := t.options.Memory()
	defer done()
	session.CountIn(memory)
	if err = session.Identify(p.request); err == nil {
		_, err = session.Response(ctx, p.sealed)
	}
	session.Done() // not deferred: what a panic left behind is not used again
	return err
}

// resume unpauses an activity that a proxy has paused.
func (t *Tasks) resume(p *pausedActivity) {
	k := p.key
	ctx, ok := p.worker.credentials.context(context.Background())
	if !ok {
		return // it was paused again, and waits anew
	}
	err := p.stillPaused(ctx)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		err = unpause(ctx, p.worker.client, k)
		cancel()
	}
	log := t.options.Log.With("namespace", k.namespace, "workflow_id", k.workflow, "run_id", k.run,
		"activity_id", k.activity)
	switch code := status.Code(err); {
	case err == nil:
		t.options.Answered("UnpauseActivity")
		log.Info("an activity that could not be opened opens now and goes on, from its first attempt")
	case err == errNotOurs:
		log.Info("an activity that could not be opened is no longer paused by a proxy, and is left alone")
	case code == codes.NotFound:
		log.Info("an activity that could not be opened is over")
	case code == codes.Unauthenticated || code == codes.PermissionDenied:
		// Those of another worker may be enough: its poll has the activity found at the server again.
		t.searches.hasten(k.namespace)
		log.Warn("an activity that was paused opens now, but the worker's credentials have expired "+
			"or do not let it go on; it is tried again with those of a later poll", "error", err)
	default:
		log.Warn("an activity that was paused opens now, but could not be resumed; it is tried again",
			"error", err)
		return
	}
	t.paused.remove(p)
}

// errNotOurs is why an activity is left alone.
var errNotOurs = errors.New("somebody else has let it go on, or paused it again")

// stillPaused asks the server whether it was a proxy that paused the activity. People pause activities too.
func (p *pausedActivity) stillPaused(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	d, err := p.worker.client.DescribeWorkflowExecution(ctx, &workflowservice.DescribeWorkflowExecutionRequest{
		Namespace: p.key.namespace, Execution: p.key.execution()})
	if err != nil {
		return err
	}
	for _, a := range d.GetPendingActivities() {
		if a.GetActivityId() == p.key.activity && pausedByProxy(a) {
			return nil
		}
	}
	return errNotOurs
}
