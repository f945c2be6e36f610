package leaks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

// What activities report while they run and when they end, and what workflows note down without one.

func init() {
	scenarios["Heartbeat"] = heartbeat
	scenarios["HeartbeatTimeout"] = heartbeatTimeout
	scenarios["AsyncActivity"] = asyncActivity
	scenarios["ActivityCancel"] = activityCancel
	scenarios["LocalActivity"] = localActivity
	scenarios["SideEffect"] = sideEffect
	scenarios["StandaloneActivity"] = standaloneActivity
}

// heartbeat looks at a first attempt's details and error while the second one waits, which then gets the details.
func heartbeat(e *env) {
	progress, reason := e.secret("details"), e.secret("failure of the first attempt")
	e.worker(
		flow("Steps", func(ctx workflow.Context) (string, error) {
			var got string
			err := workflow.ExecuteActivity(retried(ctx), "Step").Get(ctx, &got)
			return got, err
		}),
		act("Step", func(ctx context.Context) (string, error) {
			if activity.GetInfo(ctx).Attempt == 1 {
				activity.RecordHeartbeat(ctx, progress)
				return "", errors.New(reason)
			}
			var got string
			err := activity.GetHeartbeatDetails(ctx, &got)
			return got, err
		}),
	)
	run := e.start(client.StartWorkflowOptions{}, "Steps")
	e.eventually("pending activity", func() error {
		e.describe(run)
		d, err := e.client.DescribeWorkflowExecution(e.ctx, run.GetID(), "")
		if err != nil || len(d.PendingActivities) != 1 || d.PendingActivities[0].LastFailure == nil {
			return fmt.Errorf("%d pending activities, %v", len(d.GetPendingActivities()), err)
		}
		p := d.PendingActivities[0]
		var details string
		e.ok(converter.GetDefaultDataConverter().FromPayloads(p.HeartbeatDetails, &details), "heartbeat details")
		e.same("heartbeat details", details, progress)
		e.same("last failure", p.LastFailure.Message, reason)
		return nil
	})
	e.returns(run, progress)
}

// heartbeatTimeout: the last details come back within the timeout's error.
func heartbeatTimeout(e *env) {
	progress := e.secret("details")
	e.worker(
		flow("Hang", func(ctx workflow.Context) error {
			ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
				StartToCloseTimeout: 30 * time.Second, HeartbeatTimeout: time.Second, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1},
			})
			err := workflow.ExecuteActivity(ctx, "Hang").Get(ctx, nil)
			var timeout *temporal.TimeoutError
			if !errors.As(err, &timeout) {
				return err
			}
			e.same("error", chain(err), []string{"*internal.ActivityError", `timeout "activity Heartbeat timeout" heartbeat "` + progress + `"`})
			return err
		}),
		act("Hang", func(ctx context.Context) error {
			activity.RecordHeartbeat(ctx, progress)
			time.Sleep(4 * time.Second) // not a single sign of life
			return nil
		}),
	)
	e.fails(e.start(client.StartWorkflowOptions{}, "Hang"), "*internal.ActivityError", `timeout "activity Heartbeat timeout" heartbeat "`+progress+`"`)
}

// asyncActivity is completed from outside, by token and by id.
func asyncActivity(e *env) {
	byToken, byID, failure, detail := e.secret("result by token"), e.secret("result by id"), e.secret("failure by id"), e.secret("its details")
	beatByToken, beatByID := e.secret("heartbeat by token"), e.secret("heartbeat by id")
	tokens := make(chan []byte, 1)
	e.worker(
		flow("Async", func(ctx workflow.Context) ([]string, error) {
			var got []string
			for _, id := range []string{"token", "id", "failure", "canceled"} {
				o := workflow.GetActivityOptions(retried(ctx))
				o.ActivityID, o.RetryPolicy, o.HeartbeatTimeout = id, &temporal.RetryPolicy{MaximumAttempts: 1}, 20*time.Second
				var s string
				if err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), "Later").Get(ctx, &s); err != nil {
					s = fmt.Sprint(chain(err))
				}
				got = append(got, s)
			}
			return got, nil
		}),
		act("Later", func(ctx context.Context) (string, error) {
			tokens <- activity.GetInfo(ctx).TaskToken
			return "", activity.ErrResultPending
		}),
	)
	run := e.start(client.StartWorkflowOptions{}, "Async")
	token := <-tokens
	e.ok(e.client.RecordActivityHeartbeat(e.ctx, token, beatByToken), "heartbeat by token")
	e.pending(run, beatByToken)
	e.ok(e.client.CompleteActivity(e.ctx, token, byToken, nil), "complete by token")
	<-tokens
	e.eventually("heartbeat by id", func() error {
		return e.client.RecordActivityHeartbeatByID(e.ctx, namespace, run.GetID(), "", "id", beatByID)
	})
	e.pending(run, beatByID)
	e.ok(e.client.CompleteActivityByID(e.ctx, namespace, run.GetID(), "", "id", byID, nil), "complete by id")
	<-tokens
	err := temporal.NewNonRetryableApplicationError(failure, "Refused", nil, detail)
	e.eventually("fail by id", func() error {
		return e.client.CompleteActivityByID(e.ctx, namespace, run.GetID(), "", "failure", nil, err)
	})
	token = <-tokens
	e.ok(e.client.CompleteActivity(e.ctx, token, nil, err), "fail by token")
	failed := fmt.Sprint([]string{"*internal.ActivityError", `application Refused "` + failure + `" details "` + detail + `"`})
	e.returns(run, []string{byToken, byID, failed, failed})
}

// pending waits until the only pending activity shows these heartbeat details, to users.
func (e *env) pending(run client.WorkflowRun, want string) {
	e.Helper()
	e.eventually("heartbeat details", func() error {
		e.describe(run)
		d, err := e.client.DescribeWorkflowExecution(e.ctx, run.GetID(), "")
		if err != nil || len(d.PendingActivities) != 1 {
			return fmt.Errorf("%d pending activities, %v", len(d.GetPendingActivities()), err)
		}
		var got string
		if p := d.PendingActivities[0].HeartbeatDetails; p != nil {
			err = converter.GetDefaultDataConverter().FromPayloads(p, &got)
		}
		if got != want {
			return fmt.Errorf("%q, %v, want %q", got, err, want)
		}
		return nil
	})
}

func activityCancel(e *env) {
	detail, result := e.secret("details of the cancellation"), e.secret("details of the workflow's cancellation")
	e.worker(
		flow("Wait", func(ctx workflow.Context) error {
			o := workflow.GetActivityOptions(retried(ctx))
			o.WaitForCancellation = true
			err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), "Wait").Get(ctx, nil)
			e.same("error of a canceled activity", chain(err), []string{"*internal.ActivityError", `canceled details "` + detail + `"`})
			return temporal.NewCanceledError(result)
		}),
		act("Wait", func(ctx context.Context) error {
			for ctx.Err() == nil {
				activity.RecordHeartbeat(ctx, "alive")
				time.Sleep(50 * time.Millisecond)
			}
			return temporal.NewCanceledError(detail)
		}),
	)
	run := e.start(client.StartWorkflowOptions{}, "Wait")
	e.pending(run, "alive")
	e.ok(e.client.CancelWorkflow(e.ctx, run.GetID(), ""), "cancel")
	e.fails(run, `canceled details "`+result+`"`)
}

func localActivity(e *env) {
	in, out, failure, detail := e.secret("input kept in the marker"), e.secret("result"), e.secret("failure"), e.secret("its details")
	e.worker(
		flow("Local", func(ctx workflow.Context) (string, error) {
			ctx = workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
				StartToCloseTimeout: 5 * time.Second, RetryPolicy: &temporal.RetryPolicy{InitialInterval: 10 * time.Millisecond, MaximumAttempts: 2},
			})
			var got string
			if err := workflow.ExecuteLocalActivity(ctx, "Local", in).Get(ctx, &got); err != nil {
				return "", err
			}
			return got, workflow.ExecuteLocalActivity(ctx, "LocalFails").Get(ctx, nil)
		}),
		act("Local", func(_ context.Context, s string) (string, error) { return out + s, nil }),
		act("LocalFails", func(context.Context) error { return temporal.NewApplicationError(failure, "Refused", detail) }),
	)
	e.fails(e.start(client.StartWorkflowOptions{}, "Local"), `application Refused "`+failure+`" details "`+detail+`"`)
}

func sideEffect(e *env) {
	once, mutable, changed := e.secret("side effect"), e.secret("mutable side effect"), e.secret("changed side effect")
	e.worker(flow("Effects", func(ctx workflow.Context) ([]string, error) {
		got := make([]string, 3)
		equal := func(a, b any) bool { return a == b }
		if err := workflow.SideEffect(ctx, func(workflow.Context) any { return once }).Get(&got[0]); err != nil {
			return nil, err
		}
		if err := workflow.MutableSideEffect(ctx, "m", func(workflow.Context) any { return mutable }, equal).Get(&got[1]); err != nil {
			return nil, err
		}
		workflow.GetVersion(ctx, "change", workflow.DefaultVersion, 3)
		untilSignal(ctx, "go on")
		err := workflow.MutableSideEffect(ctx, "m", func(workflow.Context) any { return changed }, equal).Get(&got[2])
		return got, err
	}))
	run := e.start(client.StartWorkflowOptions{}, "Effects")
	e.ok(e.client.SignalWorkflow(e.ctx, run.GetID(), "", "go on", nil), "signal")
	e.returns(run, []string{once, mutable, changed})
}

// standaloneActivity runs without a workflow.
func standaloneActivity(e *env) {
	in, out, failure, detail := e.secret("input"), e.secret("result"), e.secret("failure"), e.secret("its details")
	beat, summary, details := e.secret("heartbeat"), e.secret("s"), e.secret("static details")
	e.worker(act("Alone", func(ctx context.Context, s string) (string, error) {
		if s == "fail" {
			return "", temporal.NewNonRetryableApplicationError(failure, "Refused", nil, detail)
		}
		e.same("input", s, in)
		if activity.GetInfo(ctx).Attempt == 1 {
			activity.RecordHeartbeat(ctx, beat)
			return "", errors.New(failure)
		}
		var got string
		if err := activity.GetHeartbeatDetails(ctx, &got); err != nil {
			return "", err
		}
		e.same("heartbeat details", got, beat)
		return out, nil
	}))
	options := func() client.StartActivityOptions {
		return client.StartActivityOptions{
			ID: e.id(), TaskQueue: e.queue(), StartToCloseTimeout: 20 * time.Second, StaticDetails: details, Summary: summary,
			RetryPolicy: &temporal.RetryPolicy{InitialInterval: 2 * time.Second},
		}
	}
	handle, err := e.client.ExecuteActivity(e.ctx, options(), "Alone", in)
	e.ok(err, "start activity")
	e.eventually("heartbeat past the proxy", func() error {
		d, err := e.direct.WorkflowService().DescribeActivityExecution(e.ctx, &workflowservice.DescribeActivityExecutionRequest{
			Namespace: namespace, ActivityId: handle.GetID(), IncludeInput: true, IncludeOutcome: true, IncludeLastFailure: true, IncludeHeartbeatDetails: true,
		})
		if err != nil || d.GetInfo().GetLastFailure() == nil {
			return fmt.Errorf("no failure yet: %v", err)
		}
		return nil
	})
	d, err := handle.Describe(e.ctx, client.DescribeActivityOptions{})
	e.ok(err, "describe activity")
	got, err := d.GetStaticDetails()
	e.ok(err, "details")
	e.same("details", got, details)
	e.ok(handle.Get(e.ctx, &got), "result")
	e.same("result", got, out)

	handle, err = e.client.ExecuteActivity(e.ctx, options(), "Alone", "fail")
	e.ok(err, "start activity")
	err = handle.Get(e.ctx, nil)
	e.same("failure", chain(err), []string{`application Refused "` + failure + `" details "` + detail + `"`})
}
