package leaks

import (
	"time"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	namespacepb "go.temporal.io/api/namespace/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Texts that are no payloads: notes, descriptions, comments, headers of Nexus operations. They cannot be sealed; the policy
// of these runs has them redacted, denied or dropped.

func init() {
	scenarios["Notes"] = notes
	scenarios["NexusHeaders"] = nexusHeaders
	scenarios["FailureSource"] = failureSource
	scenarios["NamespaceTexts"] = namespaceTexts
	scenarios["DroppedSearchAttributes"] = droppedSearchAttributes
}

// readableTexts are rules about texts that stay readable.
const readableTexts = `
request contains {"action": "redact"} if input.payload.kind in {"reason", "text"}

request contains {"action": "drop"} if {
	input.payload.kind == "search_attribute"
	input.payload.name == "Owner"
}
`

// notes are what people write when they end, reset, pause or schedule something.
func notes(e *env) {
	s := e.client.WorkflowService()
	waiting := func() *commonpb.WorkflowExecution {
		run := e.start(client.StartWorkflowOptions{}, "Waiting")
		return &commonpb.WorkflowExecution{WorkflowId: run.GetID(), RunId: run.GetRunID()}
	}
	e.worker(flow("Waiting", func(ctx workflow.Context) error { return workflow.Sleep(ctx, time.Hour) }))
	_, err := s.TerminateWorkflowExecution(e.ctx, &workflowservice.TerminateWorkflowExecutionRequest{Namespace: namespace,
		WorkflowExecution: waiting(), Reason: e.secret("why it is terminated")})
	e.ok(err, "terminate")
	_, err = s.RequestCancelWorkflowExecution(e.ctx, &workflowservice.RequestCancelWorkflowExecutionRequest{Namespace: namespace,
		WorkflowExecution: waiting(), Reason: e.secret("why it is canceled")})
	e.ok(err, "cancel")

	handle, err := e.client.ScheduleClient().Create(e.ctx, client.ScheduleOptions{
		ID: "noted", Note: e.secret("a note about a schedule"),
		Spec: client.ScheduleSpec{Calendars: []client.ScheduleCalendarSpec{{Comment: e.secret("a comment on a calendar"),
			Month: []client.ScheduleRange{{Start: 1}}, DayOfMonth: []client.ScheduleRange{{Start: 1}}}}},
		Action: &client.ScheduleWorkflowAction{ID: e.id(), Workflow: "Waiting", TaskQueue: e.queue()},
	})
	e.ok(err, "create schedule")
	e.ok(handle.Pause(e.ctx, client.SchedulePauseOptions{Note: e.secret("why a schedule is paused")}), "pause")
	e.eventually("the pause", func() error { // the note is in the history of the schedule's own workflow
		_, err := handle.Describe(e.ctx)
		return err
	})
	e.ok(handle.Unpause(e.ctx, client.ScheduleUnpauseOptions{Note: e.secret("why a schedule goes on")}), "unpause")
}

// nexusHeaders are stored in the caller's history. The policy redacts one; the shipped rule denies credentials.
func nexusHeaders(e *env) {
	endpoint := e.endpoint()
	start := func(name, value string) error {
		_, err := e.client.WorkflowService().StartNexusOperationExecution(e.ctx, &workflowservice.StartNexusOperationExecutionRequest{
			Namespace: namespace, OperationId: e.id(), RequestId: e.id(), Endpoint: endpoint, Service: "service", Operation: "none",
			NexusHeader: map[string]string{name: value},
		})
		return err
	}
	context, credential := e.secret("a header of a Nexus operation"), e.secret("a credential in such a header")
	e.eventually("start operation", func() error { return start("x-patient", context) }) // a new endpoint is known after a moment
	err := start("Authorization", credential)
	if e.proxy == nil {
		e.ok(err, "start with a credential")
	} else if err == nil {
		e.Error("a credential in a header of a Nexus operation was not refused")
	}
}

// failureSource is set by SDKs, to their name; a worker may write something else.
func failureSource(e *env) {
	id := e.id()
	_, err := e.client.WorkflowService().StartActivityExecution(e.ctx, &workflowservice.StartActivityExecutionRequest{
		Namespace: namespace, ActivityId: id, ActivityType: &commonpb.ActivityType{Name: "None"}, RequestId: id,
		TaskQueue:              &taskqueuepb.TaskQueue{Name: e.queue()},
		ScheduleToCloseTimeout: durationpb.New(time.Minute), StartToCloseTimeout: durationpb.New(time.Minute), RetryPolicy: &commonpb.RetryPolicy{MaximumAttempts: 1},
	})
	e.ok(err, "start activity")
	task, err := e.client.WorkflowService().PollActivityTaskQueue(e.ctx, &workflowservice.PollActivityTaskQueueRequest{
		Namespace: namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: e.queue()}, Identity: "by hand"})
	e.ok(err, "poll")
	refused := &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{Type: "Refused"}}
	_, err = e.client.WorkflowService().RespondActivityTaskFailed(e.ctx, &workflowservice.RespondActivityTaskFailedRequest{
		Namespace: namespace, TaskToken: task.TaskToken, Failure: &failurepb.Failure{Message: e.secret("a message"), Source: e.secret("the source of a failure"), FailureInfo: refused,
			Cause: &failurepb.Failure{Message: e.secret("a cause"), Source: e.secret("the source of a cause")}}})
	e.ok(err, "fail")
}

// namespaceTexts are what a namespace says about itself.
func namespaceTexts(e *env) {
	_, err := e.client.WorkflowService().UpdateNamespace(e.ctx, &workflowservice.UpdateNamespaceRequest{Namespace: namespace,
		UpdateInfo: &namespacepb.UpdateNamespaceInfo{Description: e.secret("a description"), OwnerEmail: e.secret("an owner"),
			Data: map[string]string{"contact": e.secret("data of a namespace")}}})
	e.ok(err, "update namespace")
}

// droppedSearchAttributes reach the server without a value, at the start of a workflow and in an upsert; both go on.
func droppedSearchAttributes(e *env) {
	owner := temporal.NewSearchAttributeKeyKeyword("Owner")
	first, later := e.secret("a search attribute"), e.secret("an upserted search attribute")
	e.worker(flow("Owned", func(ctx workflow.Context) error {
		if err := workflow.UpsertTypedSearchAttributes(ctx, owner.ValueSet(later)); err != nil {
			return err
		}
		return workflow.Sleep(ctx, time.Millisecond)
	}))
	run := e.start(client.StartWorkflowOptions{TypedSearchAttributes: temporal.NewSearchAttributes(owner.ValueSet(first))}, "Owned")
	e.ok(run.Get(e.ctx, nil), "run")
	if e.proxy == nil {
		return
	}
	d, err := e.client.DescribeWorkflowExecution(e.ctx, run.GetID(), run.GetRunID())
	e.ok(err, "describe")
	if p := d.WorkflowExecutionInfo.SearchAttributes.GetIndexedFields()["Owner"]; p != nil && len(p.Data) > 0 {
		e.Errorf("a dropped search attribute has the value %s", p.Data)
	}
}
