package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
)

func registerActivities(r worker.Registry) {
	for name, fn := range map[string]any{
		"EchoDocument": func(_ context.Context, d document) (document, error) { return d, nil },
		"EchoBytes":    func(_ context.Context, b []byte) ([]byte, error) { return b, nil },
		"Echo":         func(_ context.Context, text string) (string, error) { return text, nil },
		"Make":         makeSecret,
		"Fail":         fail,
		"Crash":        func(ctx context.Context) error { return deepInTheClinic(ctx) },
		"Fatal":        fatalActivity,
		"Flaky":        flaky,
		"Beat":         beat,
		"UntilCancel":  untilCancel,
		"Header":       func(ctx context.Context) (string, error) { return userOf(ctx), nil },
		"Later":        later,
	} {
		r.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
	}
}

// here is a secret of the place that an activity stands for.
func here(ctx context.Context, place string) string {
	return secret(activity.GetInfo(ctx).TaskQueue, place)
}

// makeSecret returns data of its own, and what it received.
func makeSecret(ctx context.Context, place, told string) (string, error) {
	return here(ctx, place) + " after " + told, nil
}

func fail(ctx context.Context, scenario string) error {
	cause := temporal.NewApplicationError("because of "+here(ctx, scenario+"/cause"), "Insurer")
	return temporal.NewApplicationErrorWithOptions("refused: "+here(ctx, scenario+"/message"), "OutOfCover", temporal.ApplicationErrorOptions{
		NonRetryable: true, Cause: cause, Details: []any{here(ctx, scenario+"/details"), 7},
	})
}

func deepInTheClinic(ctx context.Context) error {
	panic("crashed on " + here(ctx, "failures/crash"))
}

func fatalActivity(ctx context.Context) error {
	return temporal.NewApplicationError(fmt.Sprintf("attempt %d: %s", activity.GetInfo(ctx).Attempt, here(ctx, "failures/fatal")), "Fatal")
}

func flaky(ctx context.Context) (string, error) {
	if n := activity.GetInfo(ctx).Attempt; n < 3 {
		return "", errors.New("not yet: " + here(ctx, "retries/message"))
	}
	return "third time: " + here(ctx, "retries/result"), nil
}

func beat(ctx context.Context) (string, error) {
	if !activity.HasHeartbeatDetails(ctx) {
		activity.RecordHeartbeat(ctx, map[string]string{"page": here(ctx, "heartbeats/details")})
		return "", errors.New("begin again")
	}
	var details map[string]string
	err := activity.GetHeartbeatDetails(ctx, &details)
	return fmt.Sprintf("attempt %d goes on at %s", activity.GetInfo(ctx).Attempt, details["page"]), err
}

func untilCancel(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
			activity.RecordHeartbeat(ctx, here(ctx, "cancellation/heartbeat"))
		}
	}
}

// tokens are of activities that somebody else completes.
var tokens = make(chan []byte, 10)

func later(ctx context.Context) (string, error) {
	tokens <- activity.GetInfo(ctx).TaskToken
	return "", activity.ErrResultPending
}
