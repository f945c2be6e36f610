package rescue

import (
	"context"
	"fmt"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

var returned = []scenario{
	{"workflow task in the answer to another", outage, true, "", returnedHeld},
	{"workflow task in the answer to another", never, false, "", returnedNever},
	{"eager workflow task", denied, false, "", eagerWorkflow},
	{"eager activity", denied, false, "", eagerActivity},
}

// poll gives the site's next workflow task.
func (s *site) poll(c workflowservice.WorkflowServiceClient) (t *workflowservice.PollWorkflowTaskQueueResponse) {
	s.Helper()
	for range 3 {
		ctx, cancel := context.WithTimeout(s.Context(), 30*time.Second)
		defer cancel()
		var err error
		t, err = c.PollWorkflowTaskQueue(ctx, &workflowservice.PollWorkflowTaskQueueRequest{Namespace: namespace, Identity: "raw", TaskQueue: &taskqueuepb.TaskQueue{Name: s.queue}})
		s.ok(err)
		if len(t.GetTaskToken()) > 0 {
			break // else the poll ended by itself, as they do
		}
	}
	return t
}

// returned completes a workflow task while a signal waits, which the answer brings in a new workflow task.
func (s *site) returned(address string, signal func()) *workflowservice.RespondWorkflowTaskCompletedResponse {
	s.Helper()
	c := s.raw(address)
	t := s.poll(c)
	signal()
	a, err := c.RespondWorkflowTaskCompleted(s.Context(), &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: namespace, Identity: "raw", TaskToken: t.GetTaskToken(), ReturnNewWorkflowTask: true})
	s.ok(err)
	return a
}

func (s *site) begin(c client.Client) {
	s.Helper()
	_, err := c.ExecuteWorkflow(s.Context(), client.StartWorkflowOptions{ID: s.id, TaskQueue: s.queue}, "Asking")
	s.ok(err)
}

func returnedHeld(s *site) string {
	proxy := s.startProxy()
	s.begin(s.warm(proxy))
	a := s.returned(proxy.Address, func() {
		s.outage(time.Second)
		s.ok(s.client.SignalWorkflow(s.Context(), s.id, "", "end", "ended"))
	})
	s.want(len(a.GetWorkflowTask().GetTaskToken()) > 0, "the answer brings no task: %v", a)
	return "held for up to 3 s; the answer brings the task"
}

func returnedNever(s *site) string {
	s.begin(s.client)
	bad := s.bad()
	a := s.returned(s.proxy.Address, func() { s.ok(s.direct.SignalWorkflow(s.Context(), s.id, "", "end", bad)) })
	s.want(a.GetWorkflowTask() == nil, "the answer brings a task that cannot be opened")
	s.want(s.failedTasks() == 1 && len(s.happened(enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)) == 1, "%d failed", s.failedTasks())
	return "the answer arrives without it, its commands are taken; one WorkflowTaskFailed with the reason"
}

func eagerWorkflow(s *site) string {
	a, err := s.raw(s.proxy.Address).StartWorkflowExecution(s.Context(), &workflowservice.StartWorkflowExecutionRequest{Namespace: namespace, WorkflowId: s.id, RequestId: s.id,
		WorkflowType: &commonpb.WorkflowType{Name: "Echo"}, TaskQueue: &taskqueuepb.TaskQueue{Name: s.queue}, RequestEagerExecution: true,
		Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"hello"`)}}}})
	s.ok(err)
	s.want(a.GetRunId() != "" && a.GetEagerWorkflowTask() == nil, "the answer to the start: %v", a)
	failed := s.failedTasks()
	s.want(failed == 1, "%d failed workflow tasks: was the task eager?", failed)
	s.work(s.client, s.queue, register("Echo", echo))
	s.returns(s.client.GetWorkflow(s.Context(), s.id, ""), "hello")
	return "the start succeeds without it; one WorkflowTaskFailed with the reason, and the next poll gets the task"
}

func eagerActivity(s *site) string {
	s.work(s.client, s.queue, register("Eager", func(ctx workflow.Context) (string, error) {
		ctx = workflow.WithActivityOptions(ctx, once(10*time.Second))
		var out string
		err := workflow.ExecuteActivity(ctx, "EagerAct", "in").Get(ctx, &out)
		return out, err
	}), func(r worker.Registry) {
		r.RegisterActivityWithOptions(func(_ context.Context, in string) (string, error) { return in, nil }, activity.RegisterOptions{Name: "EagerAct"})
	})
	s.start(s.client, "Eager")
	s.paused()
	s.eventually(func() error {
		for _, line := range s.proxy.Log.Lines() {
			if line["workflow_id"] == s.id && line["task"] == "activity" && line["method"] == workflowservice.WorkflowService_RespondWorkflowTaskCompleted_FullMethodName[1:] {
				return nil
			}
		}
		return fmt.Errorf("the task did not come in the answer to a workflow task")
	})
	s.want(len(s.happened(enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)) == 1 && s.failedTasks() == 0, "the workflow's commands were not taken")
	return "the answer arrives without it, its commands are taken; the activity is Paused, with the reason"
}
