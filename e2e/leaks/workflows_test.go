package leaks

import (
	"errors"
	"fmt"
	"time"

	batchpb "go.temporal.io/api/batch/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// What the server hands on by itself: to children, next runs, scheduled and reset ones, whole batches.

func init() {
	scenarios["Child"] = child
	scenarios["ContinueAsNew"] = continueAsNew
	scenarios["Cron"] = cron
	scenarios["Schedule"] = schedule
	scenarios["Batch"] = batch
	scenarios["Reset"] = reset
	scenarios["Replay"] = replay
}

func child(e *env) {
	in, out, note, summary := e.secret("input"), e.secret("result"), e.secret("memo"), e.secret("summary")
	e.worker(
		flow("Parent", func(ctx workflow.Context) (string, error) {
			ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
				WorkflowID: e.name + "-child", Memo: map[string]any{"note": note}, StaticSummary: summary,
			})
			var got string
			err := workflow.ExecuteChildWorkflow(ctx, "Child", in).Get(ctx, &got)
			return got, err
		}),
		flow("Child", func(_ workflow.Context, s string) (string, error) {
			e.same("child's input", s, in)
			return out, nil
		}),
	)
	e.returns(e.start(client.StartWorkflowOptions{}, "Parent"), out)
	d := e.describe(e.client.GetWorkflow(e.ctx, e.name+"-child", ""))
	var got string
	e.ok(d.GetMemoValue("note", &got), "memo")
	e.same("child's memo", got, note)
	gotSummary, err := d.GetStaticSummary()
	e.ok(err, "summary")
	e.same("child's summary", gotSummary, summary)
}

func continueAsNew(e *env) {
	first, second, note := e.secret("input"), e.secret("input of the next run"), e.secret("memo")
	e.worker(flow("Runs", func(ctx workflow.Context, s string) (string, error) {
		if s == first {
			return "", workflow.NewContinueAsNewError(ctx, "Runs", second)
		}
		return s, nil
	}))
	run := e.start(client.StartWorkflowOptions{Memo: map[string]any{"note": note}}, "Runs", first)
	e.returns(run, second)
	var got string
	e.ok(e.describe(e.client.GetWorkflow(e.ctx, run.GetID(), "")).GetMemoValue("note", &got), "memo")
	e.same("memo of the next run", got, note)
}

// cron: each run receives the last result, and after a failure that one too.
func cron(e *env) {
	result, message := e.secret("result"), e.secret("failure")
	seen := make(chan string, 100)
	e.worker(flow("Tick", func(ctx workflow.Context) (string, error) {
		if !workflow.HasLastCompletionResult(ctx) {
			return result, nil
		}
		var last string
		if err := workflow.GetLastCompletionResult(ctx, &last); err != nil {
			return "", err
		}
		if err := workflow.GetLastError(ctx); err != nil {
			seen <- fmt.Sprint(last, chain(err))
			return "", temporal.NewApplicationError(message, "Refused")
		}
		return "", temporal.NewApplicationError(message, "Refused")
	}))
	run := e.start(client.StartWorkflowOptions{CronSchedule: "@every 1s"}, "Tick")
	select {
	case got := <-seen:
		e.same("last result and failure", got, fmt.Sprint(result, []string{`application Refused "` + message + `" details ""`}))
	case <-e.ctx.Done():
		e.Fatal("no third run")
	}
	e.ok(e.client.TerminateWorkflow(e.ctx, run.GetID(), "", "enough"), "terminate")
}

func schedule(e *env) {
	in, note, own, summary, changed := e.secret("input"), e.secret("memo of its workflows"), e.secret("memo of the schedule"), e.secret("summary"), e.secret("changed input")
	seen := make(chan string, 10)
	e.worker(flow("Scheduled", func(_ workflow.Context, s string) error {
		seen <- s
		return nil
	}))
	action := func(s string) *client.ScheduleWorkflowAction {
		return &client.ScheduleWorkflowAction{
			ID: e.id(), Workflow: "Scheduled", Args: []any{s}, TaskQueue: e.queue(), Memo: map[string]any{"note": note}, StaticSummary: summary,
		}
	}
	handle, err := e.client.ScheduleClient().Create(e.ctx, client.ScheduleOptions{
		ID: "schedule", Spec: client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: time.Hour}}},
		Action: action(in), Memo: map[string]any{"note": own},
	})
	e.ok(err, "create")
	arrives := func(want string) {
		e.Helper()
		e.ok(handle.Trigger(e.ctx, client.ScheduleTriggerOptions{Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL}), "trigger")
		select {
		case got := <-seen:
			e.same("input of a scheduled workflow", got, want)
		case <-e.ctx.Done():
			e.Fatal("no scheduled workflow")
		}
	}
	argument := func(a client.ScheduleAction) (s string) {
		e.Helper()
		p, ok := a.(*client.ScheduleWorkflowAction).Args[0].(*commonpb.Payload)
		if !ok {
			e.Fatalf("argument is a %T", a.(*client.ScheduleWorkflowAction).Args[0])
		}
		e.ok(converter.GetDefaultDataConverter().FromPayload(p, &s), "argument")
		return s
	}
	arrives(in)
	d, err := handle.Describe(e.ctx)
	e.ok(err, "describe")
	e.same("argument in the description", argument(d.Schedule.Action), in)
	var got string
	e.ok(converter.GetDefaultDataConverter().FromPayload(d.Memo.Fields["note"], &got), "memo")
	e.same("memo in the description", got, own)
	// An update writes back what it read, as the SDK does it.
	e.ok(handle.Update(e.ctx, client.ScheduleUpdateOptions{DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
		in.Description.Schedule.Spec.Jitter = time.Second
		return &client.ScheduleUpdate{Schedule: &in.Description.Schedule}, nil
	}}), "update")
	arrives(in)
	e.ok(handle.Update(e.ctx, client.ScheduleUpdateOptions{DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
		in.Description.Schedule.Action = action(changed)
		return &client.ScheduleUpdate{Schedule: &in.Description.Schedule}, nil
	}}), "update")
	arrives(changed)
	e.eventually("schedule in a list", func() error {
		list, err := e.client.ScheduleClient().List(e.ctx, client.ScheduleListOptions{})
		if err != nil || !list.HasNext() {
			return fmt.Errorf("empty list, %v", err)
		}
		entry, err := list.Next()
		e.ok(err, "list")
		e.ok(converter.GetDefaultDataConverter().FromPayload(entry.Memo.Fields["note"], &got), "memo")
		e.same("memo in the list", got, own)
		return nil
	})
}

func batch(e *env) {
	sent, detail := e.secret("signal"), e.secret("details of the termination")
	e.worker(flow("Member", func(ctx workflow.Context) (string, error) {
		var s string
		workflow.GetSignalChannel(ctx, "batch").Receive(ctx, &s)
		return s, nil
	}), flow("Victim", func(ctx workflow.Context) error {
		untilSignal(ctx, "never")
		return nil
	}))
	payload, err := converter.GetDefaultDataConverter().ToPayloads(sent)
	e.ok(err, "payload")
	details, err := converter.GetDefaultDataConverter().ToPayloads(detail)
	e.ok(err, "payload")
	member, victim := e.start(client.StartWorkflowOptions{}, "Member"), e.start(client.StartWorkflowOptions{}, "Victim")
	_, err = e.client.WorkflowService().StartBatchOperation(e.ctx, &workflowservice.StartBatchOperationRequest{
		Namespace: namespace, JobId: e.name + "-signal", Reason: "test", Executions: []*commonpb.WorkflowExecution{{WorkflowId: member.GetID()}},
		Operation: &workflowservice.StartBatchOperationRequest_SignalOperation{SignalOperation: &batchpb.BatchOperationSignal{Signal: "batch", Input: payload}},
	})
	e.ok(err, "batch signal")
	e.returns(member, sent)
	e.eventually("batch termination", func() error {
		_, err := e.client.WorkflowService().StartBatchOperation(e.ctx, &workflowservice.StartBatchOperationRequest{
			Namespace: namespace, JobId: e.name + "-terminate", Reason: "test", Executions: []*commonpb.WorkflowExecution{{WorkflowId: victim.GetID()}},
			Operation: &workflowservice.StartBatchOperationRequest_TerminationOperation{TerminationOperation: &batchpb.BatchOperationTermination{Details: details}},
		})
		if busy := new(serviceerror.ResourceExhausted); errors.As(err, &busy) {
			return err // the server runs one batch at a time, and the first has just ended
		}
		e.ok(err, "batch termination")
		return nil
	})
	var terminated *temporal.TerminatedError
	if err := victim.Get(e.ctx, nil); !errors.As(err, &terminated) {
		e.Errorf("terminated workflow: %v", err)
	}
}

// reset copies a history, and signals that came after it, into a new run.
func reset(e *env) {
	in, sent := e.secret("input"), e.secret("signal")
	e.worker(flow("Reset", func(ctx workflow.Context, s string) ([]string, error) {
		got := []string{s, ""}
		if err := workflow.Sleep(ctx, 10*time.Millisecond); err != nil {
			return nil, err
		}
		workflow.GetSignalChannel(ctx, "say").Receive(ctx, &got[1])
		return got, nil
	}))
	run := e.start(client.StartWorkflowOptions{}, "Reset", in)
	e.ok(e.client.SignalWorkflow(e.ctx, run.GetID(), "", "say", sent), "signal")
	e.returns(run, []string{in, sent})
	again, err := e.client.ResetWorkflowExecution(e.ctx, &workflowservice.ResetWorkflowExecutionRequest{
		Namespace: namespace, WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: run.GetID(), RunId: run.GetRunID()},
		WorkflowTaskFinishEventId: 4, RequestId: "reset", Reason: "test",
	})
	e.ok(err, "reset")
	e.returns(e.client.GetWorkflow(e.ctx, run.GetID(), again.RunId), []string{in, sent})
}

// replay runs a history again: in a new worker that fetches it through the proxy page by page, and in the SDK's
// replayer, from a download and from the server.
func replay(e *env) {
	in, noted := e.secret("input"), e.secret("side effect")
	long := func(ctx workflow.Context, s string) (int, error) {
		e.same("input", s, in)
		for range 5 {
			for range 150 {
				var got string
				if err := workflow.SideEffect(ctx, func(workflow.Context) any { return noted }).Get(&got); err != nil || got != noted {
					return 0, fmt.Errorf("side effect arrived as %q, %w", got, err)
				}
			}
			if err := workflow.Sleep(ctx, time.Millisecond); err != nil {
				return 0, err
			}
		}
		var got string
		workflow.GetSignalChannel(ctx, "say").Receive(ctx, &got)
		e.same("signal", got, in)
		return 150, nil
	}
	first := e.workerOn(e.queue(), flow("Long", long))
	run := e.start(client.StartWorkflowOptions{}, "Long", in)
	e.eventually("long history", func() error {
		d, err := e.client.DescribeWorkflow(e.ctx, run.GetID(), "")
		if err != nil || d.HistoryLength < 700 {
			return fmt.Errorf("%d events, %v", d.HistoryLength, err)
		}
		return nil
	})
	first.Stop()
	worker.PurgeStickyWorkflowCache()
	e.workerOn(e.queue(), flow("Long", long))
	e.ok(e.client.SignalWorkflow(e.ctx, run.GetID(), "", "say", in), "signal")
	e.returns(run, 150)

	replayer := worker.NewWorkflowReplayer()
	replayer.RegisterWorkflowWithOptions(long, workflow.RegisterOptions{Name: "Long"})
	var history historypb.History
	for events := e.client.GetWorkflowHistory(e.ctx, run.GetID(), run.GetRunID(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
		event, err := events.Next()
		e.ok(err, "download")
		history.Events = append(history.Events, event)
	}
	e.ok(replayer.ReplayWorkflowHistory(nil, &history), "replay of the download")
	e.ok(replayer.ReplayWorkflowExecution(e.ctx, e.client.WorkflowService(), nil, namespace, workflow.Execution{ID: run.GetID(), RunID: run.GetRunID()}), "replay from the server")
}
