package tasks

import (
	"context"
	"errors"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
)

const (
	// longestHold is the longest hold, even if the task's timeouts allow more.
	longestHold = time.Minute
	// longestHoldReturned is the same for tasks that came in the answer to another call, whose caller waits
	// for it.
	longestHoldReturned = 3 * time.Second
	// unknownTimeout is assumed for tasks without a timeout: workflow tasks have 10 s by default.
	unknownTimeout = 10 * time.Second
	// queryTimeout is how long by default a query waits on a sticky queue before the server gives it to
	// another worker. Its caller would only learn then that it took too long.
	queryTimeout = 5 * time.Second
)

// errCallerLeft is why a task is answered that could have been opened.
var errCallerLeft = errors.New("the worker hung up before it got the task")

// hold tries to open a task for as long as its worker and the server wait for it: the shortest of the
// timeouts, less a margin in which the task is answered, or still reaches the worker.
func (o *opening) hold(ctx context.Context, task task, timeouts ...time.Duration) error {
	answer, limit := o.answerWith(task), o.holdUntil(ctx, timeouts)
	held, cancel := context.WithDeadline(ctx, limit)
	defer cancel()
	pause := backoff.Backoff{First: 100 * time.Millisecond, Max: time.Second}
	for {
		_, err := o.open(held, answer)
		if err == nil {
			err = o.tasks.options.Audit.Ready() // a task that cannot be recorded must not reach its worker either
		}
		wait := pause.Next()
		switch {
		case ctx.Err() != nil:
			return errCallerLeft
		case err == nil || !transient(err) || !time.Now().Add(wait).Before(limit):
			return err
		}
		_ = backoff.Sleep(held, wait) // the next attempt finds out that the caller has left
	}
}

// holdUntil returns the time at which a task with these timeouts can be held no longer. A timeout of 0 is
// none.
func (o *opening) holdUntil(ctx context.Context, timeouts []time.Duration) time.Time {
	least := o.longest
	for _, t := range timeouts {
		if t > 0 {
			least = min(least, t-margin(t))
		}
	}
	limit := o.arrived.Add(least)
	if deadline, ok := ctx.Deadline(); ok {
		if end := deadline.Add(-margin(time.Until(deadline))); end.Before(limit) {
			return end
		}
	}
	return limit
}

// margin is the part of a timeout that is kept for the answer. That takes two calls, on a machine that may
// be busy.
func margin(timeout time.Duration) time.Duration {
	return min(max(timeout/4, time.Second), timeout/2, 2*time.Second)
}
