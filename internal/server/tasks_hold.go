package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"
)

const (
	// firstOpening is how long an answer may take to open before it is asked how long its tasks can wait.
	firstOpening = time.Second
	// longestHold is how long a task is held that could wait longer.
	longestHold = time.Minute
	// holdReturned is how long tasks are held that came in the answer to another call, which waits for it.
	holdReturned = 3 * time.Second
	// holdUntold is for tasks that do not tell their timeout: those of workflows have 10 s by default.
	holdUntold = 10 * time.Second
	// queryTimeout is how long a query waits on a sticky queue by default, before it is handed to another worker. Its
	// caller is told nothing but that it took too long then.
	queryTimeout = 5 * time.Second
)

// errCallerLeft is why a task is answered that could be opened.
var errCallerLeft = errors.New("the worker hung up before it got the task")

// hold tries to open m for as long as its worker and the server wait for it: the shortest of the timeouts, less a margin
// in which the task is answered, or still reaches the worker.
func (r *rescue) hold(ctx context.Context, m proto.Message, timeouts ...time.Duration) error {
	limit := r.limit(ctx, timeouts)
	held, cancel := context.WithDeadline(ctx, limit)
	defer cancel()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		_, err := r.open(held, m)
		if err == nil {
			err = r.call.server.audit.Ready() // a task that cannot be put on record is as good as one that does not open
		}
		switch {
		case ctx.Err() != nil:
			return errCallerLeft
		case err == nil || !transient(err) || !time.Now().Add(wait).Before(limit):
			return err
		}
		select {
		case <-held.Done():
		case <-time.After(wait):
		}
	}
}

// limit is when a task can be held no longer.
func (r *rescue) limit(ctx context.Context, timeouts []time.Duration) time.Time {
	least := r.longest
	for _, t := range timeouts {
		if t > 0 {
			least = min(least, t-margin(t))
		}
	}
	limit := r.arrived.Add(least)
	if deadline, ok := ctx.Deadline(); ok {
		if end := deadline.Add(-margin(time.Until(deadline))); end.Before(limit) {
			return end
		}
	}
	return limit
}

// margin is what is kept of a timeout for the answer. That takes two calls, on a machine that may be busy.
func margin(timeout time.Duration) time.Duration {
	return min(max(timeout/4, time.Second), timeout/2, 2*time.Second)
}
