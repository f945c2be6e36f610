package main

import (
	"context"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
)

// activities are what workers run. finish completes an activity from outside of its worker.
type activities struct {
	finish func(token []byte, result doc)
}

func (a *activities) register(w worker.Registry) {
	for name, f := range map[string]any{"Add": a.add, "Fail": a.fail, "Count": a.count, "Later": a.later, "Invert": a.invert} {
		w.RegisterActivityWithOptions(f, activity.RegisterOptions{Name: name})
	}
}

// add is the plain case.
func (a *activities) add(ctx context.Context, in, more doc) (doc, error) {
	if more.Secret != in.Secret {
		return doc{}, wrong("the second argument arrived as %v", more)
	}
	return doc{Secret: in.Secret, N: step(in.N, more.N)}, headed(ctx, in)
}

// fail fails as often as its input says, and then adds.
func (a *activities) fail(ctx context.Context, in, more doc, times int32) (doc, error) {
	if n := activity.GetInfo(ctx).Attempt; n <= times {
		return doc{}, failure(doc{Secret: in.Secret, N: int64(n)}, true)
	}
	return a.add(ctx, in, more)
}

// count counts with a heartbeat each time, fails half-way, and goes on from its last heartbeat.
func (a *activities) count(ctx context.Context, in doc, to int64) (doc, error) {
	var last doc
	if activity.HasHeartbeatDetails(ctx) {
		if err := activity.GetHeartbeatDetails(ctx, &last); err != nil || last.Secret != in.Secret {
			return doc{}, wrong("heartbeat details arrived as %v, %v", last, err)
		}
	}
	for n := last.N + 1; n <= to; n++ {
		activity.RecordHeartbeat(ctx, doc{Secret: in.Secret, N: n})
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return doc{}, ctx.Err()
		}
		if activity.GetInfo(ctx).Attempt == 1 && n == to/2 {
			return doc{}, failure(doc{Secret: in.Secret, N: n}, true)
		}
	}
	return doc{Secret: in.Secret, N: step(in.N, to)}, headed(ctx, in)
}

// later is completed by its task token, after it has returned.
func (a *activities) later(ctx context.Context, in, more doc) (doc, error) {
	out, err := a.add(ctx, in, more)
	if err != nil {
		return doc{}, err
	}
	go a.finish(activity.GetInfo(ctx).TaskToken, out)
	return doc{}, activity.ErrResultPending
}

// invert gives back a document of the same size.
func (a *activities) invert(ctx context.Context, in doc) (doc, error) {
	fill := []byte(in.Fill)
	for i, j := 0, len(fill)-1; i < j; i, j = i+1, j-1 {
		fill[i], fill[j] = fill[j], fill[i]
	}
	return doc{Secret: in.Secret, N: in.N + 1, Fill: string(fill)}, headed(ctx, in)
}

// finisher completes activities through a client, as whatever works outside of workers does.
func finisher(ctx context.Context, c client.Client) func([]byte, doc) {
	return func(token []byte, result doc) {
		// Gone is what a task is whose attempt is over: another one was handed out meanwhile.
		_ = persist(ctx, nil, func(ctx context.Context) error {
			err := c.CompleteActivity(ctx, token, result, nil)
			if isNotFound(err) {
				return nil
			}
			return err
		})
	}
}
