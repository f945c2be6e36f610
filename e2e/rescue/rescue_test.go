package rescue

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

const (
	never     = "never opens (another namespace's envelope)"
	outage    = "KMS out of reach for a while"
	forbidden = "result denied by policy"
)

var unreachable = kmsstub.Fault{Reset: true}

func echo(_ workflow.Context, s string) (string, error) { return s, nil }

func register(name string, fn any) func(worker.Registry) {
	return func(r worker.Registry) {
		r.RegisterWorkflowWithOptions(fn, workflow.RegisterOptions{Name: name})
	}
}

// TestWorkflowTaskThatNeverOpens: one failure in the history tells why, and the server is not kept busy.
func TestWorkflowTaskThatNeverOpens(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	id := "wf-" + t.Name()
	s.work(s.client, s.queue, register("Echo", echo))
	_, err := s.direct.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: s.queue}, "Echo", converter.NewRawValue(s.foreign()))
	s.ok(err)
	time.Sleep(25 * time.Second)
	events := history(s, s.direct, id)
	d, err := s.direct.DescribeWorkflowExecution(t.Context(), id, "")
	s.ok(err)
	failed, attempt := count(events, enumspb.EVENT_TYPE_WORKFLOW_TASK_FAILED), d.GetPendingWorkflowTask().GetAttempt()
	if failed != 1 || attempt < 2 || attempt > 6 {
		t.Errorf("%d failed workflow tasks, attempt %d after 25 s; want 1 and a few", failed, attempt)
	}
	for _, e := range events {
		if a := e.GetWorkflowTaskFailedEventAttributes(); a != nil && !strings.Contains(a.GetFailure().GetMessage(), "temporal-seal: ") {
			t.Errorf("the history does not tell why: %v", a.GetFailure())
		}
	}
	shows("workflow task", never, fmt.Sprintf("Running; %d WorkflowTaskFailed with the reason, then an attempt per workflow task timeout (attempt %d after 25 s)", failed, attempt))
}

// TestWorkflowTaskInAnOutage: the task is held and nobody notices.
func TestWorkflowTaskInAnOutage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	id := "wf-" + t.Name()
	cold := s.cold()
	run, err := s.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: s.queue}, "Echo", "hello")
	s.ok(err)
	s.kms.Always("", unreachable)
	s.work(cold, s.queue, register("Echo", echo))
	time.Sleep(4 * time.Second)
	s.kms.Heal()
	var got string
	if err := run.Get(t.Context(), &got); err != nil || got != "hello" {
		t.Errorf("result %q, %v", got, err)
	}
	failed := count(history(s, s.direct, id), enumspb.EVENT_TYPE_WORKFLOW_TASK_FAILED)
	if failed != 0 {
		t.Errorf("%d failed workflow tasks", failed)
	}
	shows("workflow task", outage+", 4 s", fmt.Sprintf("Completed, %d WorkflowTaskFailed: the task was held", failed))
}

// oneActivity runs one activity that may be tried once.
func oneActivity(queue string, in any) func(workflow.Context) (string, error) {
	return func(ctx workflow.Context) (string, error) {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{TaskQueue: queue, StartToCloseTimeout: 4 * time.Second,
			RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1}})
		var out string
		err := workflow.ExecuteActivity(ctx, "Act", in).Get(ctx, &out)
		return out, err
	}
}

func act(result string) func(worker.Registry) {
	return func(r worker.Registry) {
		r.RegisterActivityWithOptions(func(_ context.Context, in string) (string, error) { return result + in, nil }, activity.RegisterOptions{Name: "Act"})
	}
}

// TestActivityThatNeverOpens: it is paused, with the reason, and keeps its only attempt.
func TestActivityThatNeverOpens(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	id := "wf-" + t.Name()
	s.work(s.direct, s.queue, register("One", oneActivity(s.queue+"-act", converter.NewRawValue(s.foreign()))))
	s.work(s.client, s.queue+"-act", act("done "))
	_, err := s.direct.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: s.queue}, "One")
	s.ok(err)
	a := s.pending(id, func(a *workflowpb.PendingActivityInfo) bool {
		return a.GetState() == enumspb.PENDING_ACTIVITY_STATE_PAUSED
	})
	if by := a.GetPauseInfo().GetManual(); by.GetIdentity() != "temporal-seal" || !strings.Contains(by.GetReason(), "restore the key") {
		t.Errorf("paused by %v", by)
	}
	time.Sleep(5 * time.Second)
	a = s.pending(id, func(*workflowpb.PendingActivityInfo) bool { return true })
	if a.GetState() != enumspb.PENDING_ACTIVITY_STATE_PAUSED {
		t.Errorf("the activity did not stay paused: %v", a)
	}
	shows("activity, 1 attempt at most", never, fmt.Sprintf("Running; the activity is %s at attempt %d, with the reason", a.GetState(), a.GetAttempt()))
}

// TestActivityInAnOutage: longer than the activity's timeout. It is paused, and goes on by itself.
func TestActivityInAnOutage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	id := "wf-" + t.Name()
	cold := s.cold()
	s.work(s.client, s.queue, register("One", oneActivity(s.queue+"-act", "in")))
	run, err := s.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: s.queue}, "One")
	s.ok(err)
	s.pending(id, func(*workflowpb.PendingActivityInfo) bool { return true })
	s.kms.Always("", unreachable)
	s.work(cold, s.queue+"-act", act("done "))
	a := s.pending(id, func(a *workflowpb.PendingActivityInfo) bool {
		return a.GetState() == enumspb.PENDING_ACTIVITY_STATE_PAUSED
	})
	s.kms.Heal()
	healed := time.Now()
	var got string
	if err := run.Get(t.Context(), &got); err != nil || got != "done in" {
		t.Errorf("result %q, %v", got, err)
	}
	shows("activity, 1 attempt at most", outage+", longer than its timeout", fmt.Sprintf("%s, then Completed %.0f s after KMS was back, from attempt 1", a.GetState(), time.Since(healed).Seconds()))
}

// TestDeniedResult: the workflow learns the reason at once, and the activity is not run again.
func TestDeniedResult(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.work(s.client, s.queue, func(r worker.Registry) {
		register("One", oneActivity(s.queue, ""))(r)
		act("forbidden")(r)
	})
	started := time.Now()
	run, err := s.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "wf-" + t.Name(), TaskQueue: s.queue}, "One")
	s.ok(err)
	err = run.Get(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "PolicyDenied") || !strings.Contains(err.Error(), "stay where they are") || time.Since(started) > 4*time.Second {
		t.Errorf("after %s: %v", time.Since(started), err)
	}
	shows("activity", forbidden, "ActivityTaskFailed at once, type PolicyDenied, not retryable, with the rule's reason")
}

// TestDeniedWorkflowResult: a workflow task whose commands are denied fails once with the reason.
func TestDeniedWorkflowResult(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	id := "wf-" + t.Name()
	s.work(s.client, s.queue, register("Forbidden", func(workflow.Context) (string, error) { return "forbidden", nil }))
	_, err := s.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: s.queue}, "Forbidden")
	s.ok(err)
	time.Sleep(15 * time.Second)
	d, err := s.direct.DescribeWorkflowExecution(t.Context(), id, "")
	s.ok(err)
	failed, attempt := count(history(s, s.direct, id), enumspb.EVENT_TYPE_WORKFLOW_TASK_FAILED), d.GetPendingWorkflowTask().GetAttempt()
	if failed != 1 || attempt > 4 {
		t.Errorf("%d failed workflow tasks, attempt %d after 15 s", failed, attempt)
	}
	shows("workflow task", forbidden, fmt.Sprintf("Running; %d WorkflowTaskFailed with the rule's reason, attempt %d after 15 s", failed, attempt))
}

// TestBadQueriesAndUpdates: they fail, and the workflow goes on.
func TestBadQueriesAndUpdates(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	id := "wf-" + t.Name()
	s.work(s.client, s.queue, register("Asked", func(ctx workflow.Context) (string, error) {
		for _, err := range []error{
			workflow.SetQueryHandler(ctx, "q", func(in string) (string, error) { return in, nil }),
			workflow.SetUpdateHandler(ctx, "u", func(_ workflow.Context, in string) (string, error) { return in, nil }),
		} {
			if err != nil {
				return "", err
			}
		}
		workflow.GetSignalChannel(ctx, "end").Receive(ctx, nil)
		return "ended", nil
	}))
	run, err := s.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: s.queue}, "Asked")
	s.ok(err)
	bad := converter.NewRawValue(s.foreign())
	_, err = s.direct.QueryWorkflow(t.Context(), id, "", "q", bad)
	if err == nil || !strings.Contains(err.Error(), "temporal-seal: the worker was not given this task") {
		t.Errorf("query: %v", err)
	}
	shows("query", never, "the caller's query fails with the reason")
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	u, err := s.direct.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{WorkflowID: id, UpdateName: "u", Args: []any{bad}, WaitForStage: client.WorkflowUpdateStageCompleted})
	if err == nil {
		err = u.Get(ctx, nil)
	}
	if err == nil || ctx.Err() != nil {
		t.Errorf("update: %v", err)
	}
	shows("update in a workflow task", never, "the update alone is rejected: "+short(err))
	s.ok(s.client.SignalWorkflow(t.Context(), id, "", "end", nil))
	var got string
	if err := run.Get(t.Context(), &got); err != nil || got != "ended" {
		t.Errorf("result %q, %v", got, err)
	}
}

func short(err error) string {
	text := fmt.Sprint(err)
	return text[:min(len(text), 90)]
}

// TestBrake: polls of a namespace without a key are held, end empty in time, and go on once KMS is back.
func TestBrake(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.kms.Always("", unreachable)
	c := workflowservice.NewWorkflowServiceClient(s.conn(s.proxy.Address))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	started := time.Now()
	got, err := c.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: elsewhere, TaskQueue: &taskqueuepb.TaskQueue{Name: s.queue}})
	if err != nil || len(got.GetTaskToken()) > 0 || time.Since(started) < 3*time.Second {
		t.Errorf("after %s: %v, %v", time.Since(started), got, err)
	}
	s.kms.Heal()
	other := s.dial(s.proxy.Address, elsewhere)
	s.work(other, s.queue, register("Echo", echo))
	run, err := other.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "wf-" + t.Name(), TaskQueue: s.queue}, "Echo", "x")
	s.ok(err)
	s.ok(run.Get(t.Context(), nil))
	shows("any, before it is handed out", outage, "polls are held and end empty before their deadline; the tasks wait at the server")
}
