package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// document has a value of each kind that JSON knows.
type document struct {
	None    *string        `json:"none"`
	Yes     bool           `json:"yes"`
	Large   int64          `json:"large"`
	Small   float64        `json:"small"`
	Text    string         `json:"text"`
	Nested  map[string]any `json:"nested"`
	Nothing []string       `json:"nothing"`
}

func register(r worker.Registry) {
	registerActivities(r)
	for name, fn := range map[string]any{
		"Document": func(ctx workflow.Context, d document) (out document, err error) {
			return out, once(ctx, "EchoDocument", &out, d)
		},
		"Bytes": func(ctx workflow.Context, b []byte) (out []byte, err error) {
			return out, once(ctx, "EchoBytes", &out, b)
		},
		"Text": func(ctx workflow.Context, text string) (out string, err error) {
			return out, once(ctx, "Echo", &out, text)
		},
		"Null": func(_ workflow.Context, none *string) (*string, error) { return none, nil },

		"Failing":  failing,
		"Crashing": func(ctx workflow.Context) error { return once(ctx, "Crash", nil) },
		"Stopping": func(ctx workflow.Context) error { return retried(ctx, "Fatal", nil) },
		"Retrying": func(ctx workflow.Context) (out string, err error) { return out, retried(ctx, "Flaky", &out) },
		"Beating":  func(ctx workflow.Context) (out string, err error) { return out, retried(ctx, "Beat", &out) },
		"Cleaning": cleaning,
		"Waiting":  func(ctx workflow.Context) error { return workflow.Sleep(ctx, time.Hour) },
		"Noting":   noting,
		"Poking":   poking,
		"Asked":    asked,
		"Updated":  updated,
		"Parent":   parent,
		"Child":    child,
		"Orphan": func(ctx workflow.Context) error {
			return temporal.NewApplicationError("child says "+hereIn(ctx, "children/failure"), "Orphan")
		},
		"Again":     again,
		"Memo":      memo,
		"Header":    header,
		"HeaderOf":  func(ctx workflow.Context) (string, error) { return userOfWorkflow(ctx), nil },
		"Local":     local,
		"Markers":   markers,
		"Scheduled": func(ctx workflow.Context, text string) (string, error) { return "ran with " + text, nil },
		"Async":     async,
		"Replayed":  replayed,
		"Cross":     cross,
	} {
		r.RegisterWorkflowWithOptions(fn, workflow.RegisterOptions{Name: name})
	}
}

// hereIn is a secret of the place that a workflow stands for.
func hereIn(ctx workflow.Context, place string) string {
	return secret(workflow.GetInfo(ctx).TaskQueueName, place)
}

// once runs an activity that is not to be tried again.
func once(ctx workflow.Context, name string, to any, args ...any) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: time.Minute, HeartbeatTimeout: 10 * time.Second, WaitForCancellation: true,
		RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1},
	})
	return workflow.ExecuteActivity(ctx, name, args...).Get(ctx, to)
}

// retried runs an activity that may be tried five times, but not after a failure of the type Fatal.
func retried(ctx workflow.Context, name string, to any, args ...any) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: time.Minute,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: 200 * time.Millisecond, BackoffCoefficient: 1, MaximumAttempts: 5, NonRetryableErrorTypes: []string{"Fatal"},
		},
	})
	return workflow.ExecuteActivity(ctx, name, args...).Get(ctx, to)
}

func failing(ctx workflow.Context) error {
	err := once(ctx, "Fail", nil, "failures")
	var application *temporal.ApplicationError
	if !errors.As(err, &application) {
		return err
	}
	return temporal.NewApplicationErrorWithCause("gave up, "+hereIn(ctx, "failures/workflow"), "GaveUp", err)
}

// cleaning does its last work after it was cancelled.
func cleaning(ctx workflow.Context) (string, error) {
	err := once(ctx, "UntilCancel", nil)
	if !temporal.IsCanceledError(err) {
		return "", fmt.Errorf("the activity was not cancelled: %w", err)
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	var out string
	err = once(ctx, "Make", &out, "cancellation/cleanup", "cancel")
	return out, err
}

// noting collects three notes.
func noting(ctx workflow.Context) (string, error) {
	var notes []string
	for range 3 {
		var note map[string]string
		workflow.GetSignalChannel(ctx, "note").Receive(ctx, &note)
		notes = append(notes, note["text"])
	}
	return strings.Join(notes, " "), nil
}

func poking(ctx workflow.Context, id string) error {
	note := map[string]string{"text": hereIn(ctx, "signals/external")}
	return workflow.SignalExternalWorkflow(ctx, id, "", "note", note).Get(ctx, nil)
}

func asked(ctx workflow.Context) error {
	if err := workflow.SetQueryHandler(ctx, "read", func(question string) (string, error) {
		return hereIn(ctx, "queries/answer") + " to " + question, nil
	}); err != nil {
		return err
	}
	if err := workflow.SetQueryHandler(ctx, "broken", func() (string, error) {
		return "", errors.New("cannot tell " + hereIn(ctx, "queries/broken"))
	}); err != nil {
		return err
	}
	workflow.GetSignalChannel(ctx, "end").Receive(ctx, nil)
	return nil
}

func updated(ctx workflow.Context) (string, error) {
	var all []string
	err := workflow.SetUpdateHandlerWithOptions(ctx, "add", func(ctx workflow.Context, text string) (string, error) {
		if strings.HasPrefix(text, "fail") {
			return "", temporal.NewApplicationError("cannot add "+hereIn(ctx, "updates/failed"), "Full", hereIn(ctx, "updates/details"))
		}
		all = append(all, text)
		return hereIn(ctx, "updates/result") + " for " + text, nil
	}, workflow.UpdateHandlerOptions{Validator: func(ctx workflow.Context, text string) error {
		if strings.HasPrefix(text, "bad") {
			return errors.New("will not have " + hereIn(ctx, "updates/rejected"))
		}
		return nil
	}})
	if err != nil {
		return "", err
	}
	workflow.GetSignalChannel(ctx, "end").Receive(ctx, nil)
	return strings.Join(all, " "), nil
}

func parent(ctx workflow.Context) (string, error) {
	var out string
	if err := workflow.ExecuteChildWorkflow(ctx, "Child", hereIn(ctx, "children/input")).Get(ctx, &out); err != nil {
		return "", err
	}
	err := workflow.ExecuteChildWorkflow(ctx, "Orphan").Get(ctx, nil)
	var application *temporal.ApplicationError
	if !errors.As(err, &application) {
		return "", fmt.Errorf("the other child did not fail as it should: %w", err)
	}
	return out + "; " + application.Message(), nil
}

func child(ctx workflow.Context, told string) (string, error) {
	return hereIn(ctx, "children/result") + " for " + told, nil
}

func again(ctx workflow.Context, n int, carried string) (string, error) {
	if n == 0 {
		return carried, nil
	}
	return "", workflow.NewContinueAsNewError(ctx, "Again", n-1, carried+" "+hereIn(ctx, fmt.Sprint("continue/carry ", n)))
}

func memo(ctx workflow.Context) error {
	if err := workflow.UpsertMemo(ctx, map[string]any{"ward": hereIn(ctx, "memo/upsert")}); err != nil {
		return err
	}
	err := workflow.UpsertTypedSearchAttributes(ctx, region.ValueSet("north-"+workflow.GetInfo(ctx).TaskQueueName))
	if err != nil {
		return err
	}
	workflow.GetSignalChannel(ctx, "end").Receive(ctx, nil)
	return nil
}

func header(ctx workflow.Context) (string, error) {
	var activity, child string
	if err := once(ctx, "Header", &activity); err != nil {
		return "", err
	}
	if err := workflow.ExecuteChildWorkflow(ctx, "HeaderOf").Get(ctx, &child); err != nil {
		return "", err
	}
	return fmt.Sprintf("workflow %s activity %s child %s", userOfWorkflow(ctx), activity, child), nil
}

func local(ctx workflow.Context) (string, error) {
	ctx = workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
		StartToCloseTimeout: time.Minute, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1},
	})
	var out string
	if err := workflow.ExecuteLocalActivity(ctx, "Make", "local/result", hereIn(ctx, "local/input")).Get(ctx, &out); err != nil {
		return "", err
	}
	err := workflow.ExecuteLocalActivity(ctx, "Fail", "local").Get(ctx, nil)
	var application *temporal.ApplicationError
	if !errors.As(err, &application) {
		return "", fmt.Errorf("the other activity did not fail as it should: %w", err)
	}
	return out + "; " + application.Message(), nil
}

// markers has recorded what is not the same at each replay.
func markers(ctx workflow.Context) (string, error) {
	version := workflow.GetVersion(ctx, "change", workflow.DefaultVersion, 1)
	var effect, mutable string
	if err := workflow.SideEffect(ctx, func(ctx workflow.Context) any { return hereIn(ctx, "markers/side effect") }).Get(&effect); err != nil {
		return "", err
	}
	same := func(a, b any) bool { return a == b }
	err := workflow.MutableSideEffect(ctx, "m", func(ctx workflow.Context) any { return hereIn(ctx, "markers/mutable side effect") }, same).Get(&mutable)
	if err != nil {
		return "", err
	}
	err = workflow.Sleep(ctx, 100*time.Millisecond)
	return fmt.Sprintf("version %d %s %s", version, effect, mutable), err
}

// async awaits an activity that somebody else completes by its token, one by its id, and one that they fail.
func async(ctx workflow.Context) (string, error) {
	var texts []string
	for _, id := range []string{"by-token", "by-id", "failed"} {
		ctx := workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			ActivityID: id, StartToCloseTimeout: time.Minute, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1},
		})
		var text string
		err := workflow.ExecuteActivity(ctx, "Later").Get(ctx, &text)
		var application *temporal.ApplicationError
		if errors.As(err, &application) {
			text = application.Message()
		} else if err != nil {
			return "", err
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "; "), nil
}

// replayed works before and after a signal, between which its worker goes away.
func replayed(ctx workflow.Context) (string, error) {
	var before, after string
	if err := once(ctx, "Make", &before, "replay/before", hereIn(ctx, "replay/input")); err != nil {
		return "", err
	}
	if err := workflow.SetQueryHandler(ctx, "before", func() (string, error) { return before, nil }); err != nil {
		return "", err
	}
	var note string
	workflow.GetSignalChannel(ctx, "go on").Receive(ctx, &note)
	err := once(ctx, "Make", &after, "replay/after", note)
	return before + "; " + after, err
}

// cross runs an activity of another program's, which is written in another language.
func cross(ctx workflow.Context, queue, text string) (string, error) {
	var out string
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{TaskQueue: queue, StartToCloseTimeout: time.Minute})
	err := workflow.ExecuteActivity(ctx, "Make", "cross/result", text).Get(ctx, &out)
	return out, err
}
