package leaks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// What goes wrong: messages, details, stack traces, whole chains of causes.

func init() {
	scenarios["Failure"] = failure
	scenarios["Panic"] = panics
	scenarios["FailureAcrossWorkflows"] = failureAcrossWorkflows
	scenarios["FailedTask"] = failedTask
	scenarios["WorkflowRetry"] = workflowRetry
	scenarios["EncodedFailure"] = encodedFailure
	scenarios["LongFailure"] = longFailure
}

func failure(e *env) {
	top, middle, root := e.secret("message"), e.secret("message of a cause"), e.secret("message of the root")
	detail, rootDetail := e.secret("details"), e.secret("details of the root")
	e.worker(
		flow("Fail", func(ctx workflow.Context) error {
			err := workflow.ExecuteActivity(activityOptions(ctx), "Fail").Get(ctx, nil)
			e.same("error in the workflow", chain(err), []string{
				"*internal.ActivityError", `application Refused "` + top + `" details "` + detail + `"`,
				`application wrapError "` + middle + `: ` + root + ` (type: Root, retryable: true)" details ""`, `application Root "` + root + `" details "` + rootDetail + `"`,
			})
			return err
		}),
		act("Fail", func(context.Context) error {
			inner := temporal.NewApplicationError(root, "Root", rootDetail)
			return temporal.NewNonRetryableApplicationError(top, "Refused", fmt.Errorf("%s: %w", middle, inner), detail)
		}),
	)
	err := e.fails(e.start(client.StartWorkflowOptions{}, "Fail"),
		"*internal.ActivityError", `application Refused "`+top+`" details "`+detail+`"`,
		`application wrapError "`+middle+`: `+root+` (type: Root, retryable: true)" details ""`, `application Root "`+root+`" details "`+rootDetail+`"`)
	for _, s := range []string{top, middle, root} {
		if !strings.Contains(err.Error(), s) {
			e.Errorf("the caller's error lacks a message: %v", err)
		}
	}
}

// panics leave a stack trace, whose text names functions and their arguments.
func panics(e *env) {
	message := e.secret("panic")
	e.worker(
		flow("Panic", func(ctx workflow.Context) error {
			return workflow.ExecuteActivity(activityOptions(ctx), "Panic").Get(ctx, nil)
		}),
		act("Panic", func(context.Context) error { panic(message) }),
	)
	run := e.start(client.StartWorkflowOptions{}, "Panic")
	e.fails(run, "*internal.ActivityError", `panic "`+message+`"`)
	e.everyFailure(run, e.client, func(f *failurepb.Failure) {
		if f.GetApplicationFailureInfo() != nil && !strings.Contains(f.StackTrace, "panics") {
			e.Errorf("stack trace arrived as %q", f.StackTrace)
		}
	})
	e.everyFailure(run, e.direct, func(f *failurepb.Failure) {
		if e.proxy != nil && strings.Contains(f.StackTrace, "panics") {
			e.Errorf("the server holds the stack trace %q", f.StackTrace)
		}
	})
}

// everyFailure visits the failures of a history as one client sees it.
func (e *env) everyFailure(run client.WorkflowRun, c client.Client, visit func(*failurepb.Failure)) {
	e.Helper()
	n := 0
	for events := c.GetWorkflowHistory(e.ctx, run.GetID(), run.GetRunID(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
		event, err := events.Next()
		e.ok(err, "history")
		for f := failureOf(event); f != nil; f = f.Cause {
			n++
			visit(f)
		}
	}
	if n == 0 {
		e.Error("the history holds no failure")
	}
}

func failureOf(event *historypb.HistoryEvent) *failurepb.Failure {
	switch a := event.Attributes.(type) {
	case *historypb.HistoryEvent_ActivityTaskFailedEventAttributes:
		return a.ActivityTaskFailedEventAttributes.Failure
	case *historypb.HistoryEvent_WorkflowExecutionFailedEventAttributes:
		return a.WorkflowExecutionFailedEventAttributes.Failure
	case *historypb.HistoryEvent_WorkflowTaskFailedEventAttributes:
		return a.WorkflowTaskFailedEventAttributes.Failure
	}
	return nil
}

// failureAcrossWorkflows: a failure that was restored for a worker is sent back by it, twice.
func failureAcrossWorkflows(e *env) {
	message, detail, own := e.secret("message"), e.secret("details"), e.secret("message of the parent")
	e.worker(
		flow("Grandparent", func(ctx workflow.Context) error {
			return workflow.ExecuteChildWorkflow(ctx, "Parent").Get(ctx, nil)
		}),
		flow("Parent", func(ctx workflow.Context) error {
			err := workflow.ExecuteChildWorkflow(ctx, "Child").Get(ctx, nil)
			return temporal.NewApplicationErrorWithCause(own, "Parent", err)
		}),
		flow("Child", func(ctx workflow.Context) error {
			return workflow.ExecuteActivity(activityOptions(ctx), "Fail").Get(ctx, nil)
		}),
		act("Fail", func(context.Context) error { return temporal.NewApplicationError(message, "Refused", detail) }),
	)
	e.fails(e.start(client.StartWorkflowOptions{}, "Grandparent"),
		"*internal.ChildWorkflowExecutionError", `application Parent "`+own+`" details ""`,
		"*internal.ChildWorkflowExecutionError", "*internal.ActivityError", `application Refused "`+message+`" details "`+detail+`"`)
}

// failedTask: a workflow's code panics, which fails its task and not the workflow.
func failedTask(e *env) {
	message := e.secret("panic in workflow code")
	e.worker(flow("Broken", func(workflow.Context) error { panic(message) }))
	run := e.start(client.StartWorkflowOptions{}, "Broken")
	e.eventually("failed task", func() error {
		seen := false
		for events := e.client.GetWorkflowHistory(e.ctx, run.GetID(), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
			event, err := events.Next()
			e.ok(err, "history")
			if f := event.GetWorkflowTaskFailedEventAttributes().GetFailure(); f != nil {
				seen = true
				e.same("message of the failed task", f.Message, message)
			}
		}
		if !seen {
			return errors.New("no failed task yet")
		}
		return nil
	})
	detail := e.secret("details of the termination")
	e.ok(e.client.TerminateWorkflow(e.ctx, run.GetID(), "", "test", detail), "terminate")
	var terminated *temporal.TerminatedError
	if err := run.Get(e.ctx, nil); !errors.As(err, &terminated) {
		e.Errorf("terminated workflow: %v", err)
	}
	for events := e.client.GetWorkflowHistory(e.ctx, run.GetID(), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT); events.HasNext(); {
		event, err := events.Next()
		e.ok(err, "history")
		e.same("details of the termination", string(event.GetWorkflowExecutionTerminatedEventAttributes().GetDetails().GetPayloads()[0].Data), `"`+detail+`"`)
	}
}

// workflowRetry: the next attempt of a workflow receives the last one's failure.
func workflowRetry(e *env) {
	message, detail := e.secret("failure of the first attempt"), e.secret("its details")
	e.worker(flow("Again", func(ctx workflow.Context) ([]string, error) {
		if workflow.GetInfo(ctx).Attempt == 1 {
			return nil, temporal.NewApplicationError(message, "Refused", detail)
		}
		return chain(workflow.GetLastError(ctx)), nil
	}))
	run := e.start(client.StartWorkflowOptions{RetryPolicy: &temporal.RetryPolicy{InitialInterval: 100 * time.Millisecond, MaximumAttempts: 2}}, "Again")
	e.returns(run, []string{`application Refused "` + message + `" details "` + detail + `"`})
}

// encodedFailure: applications that encode failures themselves, by the SDK's option, keep what they encoded.
func encodedFailure(e *env) {
	message, detail := e.secret("message"), e.secret("details")
	o := e.options(e.address, client.ConnectionOptions{})
	o.FailureConverter = temporal.NewDefaultFailureConverter(temporal.DefaultFailureConverterOptions{EncodeCommonAttributes: true})
	c, err := client.DialContext(e.ctx, o)
	e.ok(err, "connect")
	e.Cleanup(c.Close)
	w := worker.New(c, e.queue(), worker.Options{})
	flow("Fail", func(workflow.Context) error { return temporal.NewApplicationError(message, "Refused", detail) })(w)
	e.ok(w.Start(), "start worker")
	e.Cleanup(w.Stop)
	run := e.start(client.StartWorkflowOptions{}, "Fail")
	e.fails(run, `application Refused "`+message+`" details "`+detail+`"`)
	e.same("error for a client with the option", chain(c.GetWorkflow(e.ctx, run.GetID(), "").Get(e.ctx, nil)),
		[]string{"*internal.WorkflowExecutionError", `application Refused "` + message + `" details "` + detail + `"`})
	e.everyFailure(run, e.client, func(f *failurepb.Failure) {
		if f.EncodedAttributes == nil || f.Message != "Encoded failure" {
			e.Errorf("what the application encoded arrived as %q", f.Message)
		}
	})
}

// longFailure: the server cuts the failure of an attempt that is retried to 4 KB, and drops what was encoded then. What
// describes the pending activity must still tell the message.
func longFailure(e *env) {
	message, root := e.secret("message"), e.secret("message of the root")
	e.worker(
		flow("Long", func(ctx workflow.Context) error {
			return workflow.ExecuteActivity(retried(ctx), "Long").Get(ctx, nil)
		}),
		act("Long", func(ctx context.Context) error {
			if activity.GetInfo(ctx).Attempt > 1 {
				return nil
			}
			err := errors.New(root)
			for i := range 12 {
				err = temporal.NewApplicationErrorWithCause(fmt.Sprintf("layer %d of the application", i), "Layer", err)
			}
			return temporal.NewApplicationErrorWithCause(message, "Top", err)
		}),
	)
	run := e.start(client.StartWorkflowOptions{}, "Long")
	e.eventually("pending activity", func() error {
		e.describe(run)
		d, err := e.client.DescribeWorkflowExecution(e.ctx, run.GetID(), "")
		if err != nil || len(d.PendingActivities) != 1 || d.PendingActivities[0].LastFailure == nil {
			return fmt.Errorf("%d pending activities, %v", len(d.GetPendingActivities()), err)
		}
		f := d.PendingActivities[0].LastFailure
		e.same("last failure", f.Message, message)
		return nil
	})
	e.ok(run.Get(e.ctx, nil), "run")
}
