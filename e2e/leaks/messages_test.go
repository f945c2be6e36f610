package leaks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	taskqueue "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

// What is sent to running workflows: signals, queries, updates.

func init() {
	scenarios["Signal"] = signals
	scenarios["Query"] = queries
	scenarios["Update"] = updates
	scenarios["UpdateWithStart"] = updateWithStart
}

func signals(e *env) {
	first, started, passedOn := e.secret("signal"), e.secret("signal with start"), e.secret("signal from a workflow")
	e.worker(
		flow("Listen", func(ctx workflow.Context, n int) ([]string, error) {
			var got []string
			for range n {
				var s string
				workflow.GetSignalChannel(ctx, "say").Receive(ctx, &s)
				got = append(got, s)
			}
			return got, nil
		}),
		flow("Tell", func(ctx workflow.Context, id string) error {
			return workflow.SignalExternalWorkflow(ctx, id, "", "say", passedOn).Get(ctx, nil)
		}),
	)
	id := e.id()
	run, err := e.client.SignalWithStartWorkflow(e.ctx, id, "say", started, client.StartWorkflowOptions{TaskQueue: e.queue()}, "Listen", 3)
	e.ok(err, "signal with start")
	e.ok(e.client.SignalWorkflow(e.ctx, id, "", "say", first), "signal")
	e.ok(e.start(client.StartWorkflowOptions{}, "Tell", id).Get(e.ctx, nil), "signal from a workflow")
	e.returns(run, []string{started, first, passedOn})
}

func queries(e *env) {
	arg, answer, failure := e.secret("argument"), e.secret("answer"), e.secret("error message")
	w := e.workerOn(e.queue(), flow("Ask", func(ctx workflow.Context) error {
		if err := workflow.SetQueryHandler(ctx, "ok", func(s string) (string, error) {
			if s != "plain" { // the query past the proxy below, whose argument can't be a secret
				e.same("query argument", s, arg)
			}
			return answer, nil
		}); err != nil {
			return err
		}
		if err := workflow.SetQueryHandler(ctx, "fail", func() (string, error) { return "", errors.New(failure) }); err != nil {
			return err
		}
		untilSignal(ctx, "finish")
		return nil
	}))
	run := e.start(client.StartWorkflowOptions{}, "Ask", e.secret("unused input"))
	ask := func() {
		e.Helper()
		got, err := e.client.QueryWorkflow(e.ctx, run.GetID(), "", "ok", arg)
		e.ok(err, "query")
		var text string
		e.ok(got.Get(&text), "answer")
		e.same("answer", text, answer)

		_, err = e.client.QueryWorkflow(e.ctx, run.GetID(), "", "fail")
		var failed *serviceerror.QueryFailed
		if !errors.As(err, &failed) || failed.Error() != failure {
			e.Errorf("failing query: %v, want QueryFailed %q", err, failure)
		}
		got, err = e.client.QueryWorkflow(e.ctx, run.GetID(), "", "__stack_trace")
		e.ok(err, "stack trace")
		e.ok(got.Get(&text), "stack trace")
		if !strings.Contains(text, "coroutine") {
			e.Errorf("stack trace arrived as %q", text)
		}
		// Past the proxy the worker still answers, but in ciphertext: the recorder of this client searches it.
		_, err = e.direct.QueryWorkflow(e.ctx, run.GetID(), "", "ok", "plain")
		e.ok(err, "direct query")
		if _, err = e.direct.QueryWorkflow(e.ctx, run.GetID(), "", "fail"); !errors.As(err, &failed) {
			e.Errorf("failing direct query: %v", err)
		}
	}
	ask()
	// Queries that come while a workflow task is under way are answered with the task's completion.
	for range 5 {
		e.ok(e.client.SignalWorkflow(e.ctx, run.GetID(), "", "noise", nil), "signal")
		ask2(e, run, failure)
	}
	e.ok(e.client.SignalWorkflow(e.ctx, run.GetID(), "", "finish", nil), "signal")
	e.ok(run.Get(e.ctx, nil), "run")
	got, err := e.client.QueryWorkflow(e.ctx, run.GetID(), "", "ok", arg)
	e.ok(err, "query of a closed workflow")
	var text string
	e.ok(got.Get(&text), "answer")
	e.same("answer of a closed workflow", text, answer)

	// An argument is stored nowhere and answered to workers alone: with the worker gone, take its task directly.
	w.Stop()
	e.takeQueryDirectly(run.GetID(), arg)
}

func (e *env) takeQueryDirectly(id, arg string) {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.ctx, 30*time.Second)
	defer cancel()
	taken := make(chan error, 1)
	go func() {
		task, err := e.direct.WorkflowService().PollWorkflowTaskQueue(ctx, &workflowservice.PollWorkflowTaskQueueRequest{
			Namespace: namespace, TaskQueue: &taskqueue.TaskQueue{Name: e.queue(), Kind: enumspb.TASK_QUEUE_KIND_NORMAL}, Identity: "direct",
		})
		if err == nil && len(task.GetQuery().GetQueryArgs().GetPayloads()) != 1 {
			err = errors.New("the direct poll got no query")
		}
		if err == nil {
			_, err = e.direct.WorkflowService().RespondQueryTaskCompleted(ctx, &workflowservice.RespondQueryTaskCompletedRequest{
				Namespace: namespace, TaskToken: task.TaskToken, CompletedType: enumspb.QUERY_RESULT_TYPE_FAILED, ErrorMessage: "taken",
			})
		}
		taken <- err
	}()
	e.eventually("query without a worker", func() error {
		_, err := e.client.QueryWorkflow(ctx, id, "", "ok", arg)
		var failed *serviceerror.QueryFailed
		if !errors.As(err, &failed) || failed.Error() != "taken" {
			return fmt.Errorf("%w, want the answer given directly", err)
		}
		return nil
	})
	e.ok(<-taken, "take the query's task")
}

func ask2(e *env, run client.WorkflowRun, failure string) {
	e.Helper()
	_, err := e.client.QueryWorkflow(e.ctx, run.GetID(), "", "fail")
	var failed *serviceerror.QueryFailed
	if !errors.As(err, &failed) || failed.Error() != failure {
		e.Errorf("failing query beside a task: %v, want QueryFailed %q", err, failure)
	}
}

func updates(e *env) {
	arg, answer := e.secret("argument"), e.secret("answer")
	rejection, failure, detail := e.secret("rejection"), e.secret("failure"), e.secret("failure's details")
	e.worker(flow("Update", func(ctx workflow.Context) error {
		if err := workflow.SetUpdateHandlerWithOptions(ctx, "update", func(_ workflow.Context, what, s string) (string, error) {
			if what == "fail" {
				return "", temporal.NewApplicationError(failure, "Refused", detail)
			}
			e.same("update argument", s, arg)
			return answer, nil
		}, workflow.UpdateHandlerOptions{Validator: func(what, _ string) error {
			if what == "reject" {
				return errors.New(rejection)
			}
			return nil
		}}); err != nil {
			return err
		}
		untilSignal(ctx, "finish")
		return nil
	}))
	run := e.start(client.StartWorkflowOptions{}, "Update")
	update := func(c client.Client, what, s string) (client.WorkflowUpdateHandle, error) {
		return c.UpdateWorkflow(e.ctx, client.UpdateWorkflowOptions{
			WorkflowID: run.GetID(), UpdateName: "update", Args: []any{what, s}, WaitForStage: client.WorkflowUpdateStageCompleted,
		})
	}
	handle, err := update(e.client, "ok", arg)
	e.ok(err, "update")
	var got string
	e.ok(handle.Get(e.ctx, &got), "update's result")
	e.same("update's result", got, answer)

	handle, err = update(e.client, "reject", arg)
	if err == nil {
		err = handle.Get(e.ctx, nil)
	}
	e.same("rejection", chain(err), []string{`application  "` + rejection + `" details ""`})

	handle, err = update(e.client, "fail", arg)
	if err == nil {
		err = handle.Get(e.ctx, nil)
	}
	e.same("failure", chain(err), []string{`application Refused "` + failure + `" details "` + detail + `"`})

	// Outcomes can be asked for later, and past the proxy; a rejection is in no history, only in such an answer.
	later := e.client.GetWorkflowUpdateHandle(client.GetWorkflowUpdateHandleOptions{WorkflowID: run.GetID(), UpdateID: handle.UpdateID()})
	e.same("failure asked for later", chain(later.Get(e.ctx, nil)), []string{`application Refused "` + failure + `" details "` + detail + `"`})
	if direct, err := update(e.direct, "reject", "plain"); err == nil {
		err = direct.Get(e.ctx, nil)
		if err == nil {
			e.Error("a direct update that is to be rejected was not")
		}
	}
	e.ok(e.client.SignalWorkflow(e.ctx, run.GetID(), "", "finish", nil), "signal")
	e.ok(run.Get(e.ctx, nil), "run")
}

func updateWithStart(e *env) {
	in, arg, answer, failure := e.secret("input"), e.secret("argument"), e.secret("answer"), e.secret("failure")
	e.worker(flow("Lazy", func(ctx workflow.Context, s string) (string, error) {
		if err := workflow.SetUpdateHandler(ctx, "update", func(_ workflow.Context, a string) (string, error) {
			if a == "fail" {
				return "", errors.New(failure)
			}
			e.same("update argument", a, arg)
			return answer, nil
		}); err != nil {
			return "", err
		}
		untilSignal(ctx, "finish")
		return s, nil
	}))
	for _, a := range []string{arg, "fail"} {
		start := e.client.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
			ID: e.id(), TaskQueue: e.queue(), WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		}, "Lazy", in)
		handle, err := e.client.UpdateWithStartWorkflow(e.ctx, client.UpdateWithStartWorkflowOptions{
			StartWorkflowOperation: start,
			UpdateOptions:          client.UpdateWorkflowOptions{UpdateName: "update", Args: []any{a}, WaitForStage: client.WorkflowUpdateStageCompleted},
		})
		e.ok(err, "update with start")
		var got string
		err = handle.Get(e.ctx, &got)
		if a == "fail" {
			e.same("failure", chain(err), []string{`application  "` + failure + `" details ""`})
		} else {
			e.ok(err, "update's result")
			e.same("update's result", got, answer)
		}
		run, err := start.Get(e.ctx)
		e.ok(err, "start")
		e.ok(e.client.SignalWorkflow(e.ctx, run.GetID(), "", "finish", nil), "signal")
		e.returns(run, in)
	}
}
