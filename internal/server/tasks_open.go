package server

import (
	"context"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
)

// A worker must never see a task that is sealed still, nor may such a task just vanish: it would be lost until its
// timeout, or for ever. This file holds on to it while the cause may pass; tasks.go answers it if it does not.

// rescue is what becomes of one answer with tasks that could not be opened.
type rescue struct {
	call    *call
	arrived time.Time
	longest time.Duration
}

// run gives what the caller gets. It is an error where the answer holds no task that could be answered.
func (r *rescue) run(ctx context.Context, sealed []byte, cause error) ([]byte, error) {
	switch r.call.method.rewrite.Name() {
	case "PollWorkflowTaskQueue":
		t := new(workflowservice.PollWorkflowTaskQueueResponse)
		if proto.Unmarshal(sealed, t) != nil {
			return r.unreadable(cause)
		}
		return r.give(ctx, r.workflowTask(ctx, t, func(t *workflowservice.PollWorkflowTaskQueueResponse) proto.Message { return t }))
	case "PollActivityTaskQueue":
		t := new(workflowservice.PollActivityTaskQueueResponse)
		if proto.Unmarshal(sealed, t) != nil {
			return r.unreadable(cause)
		}
		return r.give(ctx, r.activityTask(ctx, t, func(t *workflowservice.PollActivityTaskQueueResponse) proto.Message { return t }))
	case "PollNexusTaskQueue":
		t := new(workflowservice.PollNexusTaskQueueResponse)
		if proto.Unmarshal(sealed, t) != nil {
			return r.unreadable(cause)
		}
		return r.give(ctx, r.nexusTask(ctx, t))
	case "RespondWorkflowTaskCompleted":
		return r.returned(ctx, sealed, cause)
	case "StartWorkflowExecution":
		return r.eager(ctx, sealed, cause)
	}
	return nil, cause
}

// unreadable is for an answer to a poll that is no message at all: an error could end the worker.
func (r *rescue) unreadable(cause error) ([]byte, error) {
	r.call.server.log.Error("the server's answer to a poll cannot be read; its worker gets no task", "rpc", r.call.method.full, "namespace", r.call.rewriting.Namespace(), "error", cause)
	return nil, nil
}

// returned takes out of the answer to a workflow task the tasks that cannot be opened. The answer itself must arrive:
// the worker's commands have been taken.
func (r *rescue) returned(ctx context.Context, sealed []byte, cause error) ([]byte, error) {
	a := new(workflowservice.RespondWorkflowTaskCompletedResponse)
	if proto.Unmarshal(sealed, a) != nil {
		return nil, cause
	}
	r.longest = holdReturned
	if a.WorkflowTask != nil {
		a.WorkflowTask = r.workflowTask(ctx, a.WorkflowTask, func(t *workflowservice.PollWorkflowTaskQueueResponse) proto.Message {
			return &workflowservice.RespondWorkflowTaskCompletedResponse{WorkflowTask: t}
		})
		if len(a.WorkflowTask.GetTaskToken()) == 0 {
			a.WorkflowTask = nil
		}
	}
	opened := a.ActivityTasks[:0]
	for _, t := range a.ActivityTasks {
		t = r.activityTask(ctx, t, func(t *workflowservice.PollActivityTaskQueueResponse) proto.Message {
			return &workflowservice.RespondWorkflowTaskCompletedResponse{ActivityTasks: []*workflowservice.PollActivityTaskQueueResponse{t}}
		})
		if len(t.GetTaskToken()) > 0 {
			opened = append(opened, t)
		}
	}
	a.ActivityTasks = opened
	return r.give(ctx, a)
}

// eager takes a workflow task that cannot be opened out of the answer to the start of its workflow: the server hands it
// to any other worker.
func (r *rescue) eager(ctx context.Context, sealed []byte, cause error) ([]byte, error) {
	a := new(workflowservice.StartWorkflowExecutionResponse)
	if proto.Unmarshal(sealed, a) != nil || a.EagerWorkflowTask == nil {
		return nil, cause
	}
	r.longest = holdReturned
	a.EagerWorkflowTask = r.workflowTask(ctx, a.EagerWorkflowTask, func(t *workflowservice.PollWorkflowTaskQueueResponse) proto.Message {
		return &workflowservice.StartWorkflowExecutionResponse{EagerWorkflowTask: t}
	})
	if len(a.EagerWorkflowTask.GetTaskToken()) == 0 {
		a.EagerWorkflowTask = nil
	}
	return r.give(ctx, a)
}

// give opens what is left of an answer.
func (r *rescue) give(ctx context.Context, m proto.Message) ([]byte, error) {
	return r.open(context.WithoutCancel(ctx), m)
}

func (r *rescue) open(ctx context.Context, m proto.Message) ([]byte, error) {
	sealed, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	return r.call.rewriting.Response(ctx, sealed)
}
