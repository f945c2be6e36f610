package tasks

import (
	"context"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// HandsOut reports whether the answer to a method may contain tasks.
func HandsOut(m *rewrite.Method) bool {
	return m.IsPoll() || m.Name() == "RespondWorkflowTaskCompleted" || m.Name() == "StartWorkflowExecution"
}

// Unopened is an answer that did not open at the first attempt.
type Unopened struct {
	Sealed  []byte
	Arrived time.Time
	Cause   error
}

// opening is an answer whose tasks did not open at the first attempt.
type opening struct {
	tasks   *Tasks
	call    Call
	arrived time.Time
	longest time.Duration // that a task is held
}

// Open returns the answer that the caller gets. A worker must never get a task that is still sealed, so a task that does
// not open is held, then answered in its worker's place and left out. Open fails if the answer contains no such task.
// ctx is the caller's, with the metadata that its call is forwarded with.
func (t *Tasks) Open(ctx context.Context, call Call, u Unopened) ([]byte, error) {
	o := &opening{tasks: t, call: call, arrived: u.Arrived, longest: longestHold}
	switch call.Method.Name() {
	case "PollWorkflowTaskQueue":
		t := new(workflowservice.PollWorkflowTaskQueueResponse)
		if proto.Unmarshal(u.Sealed, t) != nil {
			return o.unreadable(u.Cause)
		}
		return o.finish(ctx, o.workflowTask(ctx, t))
	case "PollActivityTaskQueue":
		t := new(workflowservice.PollActivityTaskQueueResponse)
		if proto.Unmarshal(u.Sealed, t) != nil {
			return o.unreadable(u.Cause)
		}
		return o.finish(ctx, o.activityTask(ctx, t))
	case "PollNexusTaskQueue":
		t := new(workflowservice.PollNexusTaskQueueResponse)
		if proto.Unmarshal(u.Sealed, t) != nil {
			return o.unreadable(u.Cause)
		}
		return o.finish(ctx, o.nexusTask(ctx, t))
	case "RespondWorkflowTaskCompleted":
		return o.returnedTasks(ctx, u)
	case "StartWorkflowExecution":
		return o.eagerTask(ctx, u)
	}
	return nil, u.Cause
}

// unreadable answers a poll with no task where the server's answer is no message at all: an error could end the worker.
func (o *opening) unreadable(cause error) ([]byte, error) {
	o.tasks.options.Log.Error("the server's answer to a poll cannot be read; its worker gets no task",
		"rpc", o.call.rpc(), "namespace", o.call.namespace(), "error", cause)
	return nil, nil
}

// returnedTasks leaves out of the answer to a completed workflow task the tasks that do not open. The answer itself must
// arrive: the server has accepted the worker's commands.
func (o *opening) returnedTasks(ctx context.Context, u Unopened) ([]byte, error) {
	a := new(workflowservice.RespondWorkflowTaskCompletedResponse)
	if proto.Unmarshal(u.Sealed, a) != nil {
		return nil, u.Cause
	}
	o.longest = longestHoldReturned
	a.WorkflowTask = o.besides(ctx, a.WorkflowTask)
	opened := a.ActivityTasks[:0]
	for _, t := range a.ActivityTasks {
		if t = o.activityTask(ctx, t); len(t.GetTaskToken()) > 0 {
			opened = append(opened, t)
		}
	}
	a.ActivityTasks = opened
	return o.finish(ctx, a)
}

// eagerTask leaves a workflow task that does not open out of the answer to the start of its workflow: the server hands it
// to another worker.
func (o *opening) eagerTask(ctx context.Context, u Unopened) ([]byte, error) {
	a := new(workflowservice.StartWorkflowExecutionResponse)
	if proto.Unmarshal(u.Sealed, a) != nil || a.EagerWorkflowTask == nil {
		return nil, u.Cause
	}
	o.longest = longestHoldReturned
	a.EagerWorkflowTask = o.besides(ctx, a.EagerWorkflowTask)
	return o.finish(ctx, a)
}

// besides returns a workflow task that came besides something else; nil if there is none, or it does not open.
func (o *opening) besides(ctx context.Context, t *workflowservice.PollWorkflowTaskQueueResponse) *workflowservice.PollWorkflowTaskQueueResponse {
	if t == nil {
		return nil
	}
	if t = o.workflowTask(ctx, t); len(t.GetTaskToken()) == 0 {
		return nil
	}
	return t
}

// answerWith returns an answer to the call with nothing but this task in it.
func (o *opening) answerWith(task proto.Message) proto.Message {
	switch t := task.(type) {
	case *workflowservice.PollWorkflowTaskQueueResponse:
		switch o.call.Method.Name() {
		case "RespondWorkflowTaskCompleted":
			return &workflowservice.RespondWorkflowTaskCompletedResponse{WorkflowTask: t}
		case "StartWorkflowExecution":
			return &workflowservice.StartWorkflowExecutionResponse{EagerWorkflowTask: t}
		}
	case *workflowservice.PollActivityTaskQueueResponse:
		if o.call.Method.Name() == "RespondWorkflowTaskCompleted" {
			return &workflowservice.RespondWorkflowTaskCompletedResponse{
				ActivityTasks: []*workflowservice.PollActivityTaskQueueResponse{t}}
		}
	}
	return task
}

// finish opens what is left of an answer, for a caller who may be gone.
func (o *opening) finish(ctx context.Context, answer proto.Message) ([]byte, error) {
	return o.open(context.WithoutCancel(ctx), answer)
}

func (o *opening) open(ctx context.Context, answer proto.Message) ([]byte, error) {
	sealed, err := proto.Marshal(answer)
	if err != nil {
		return nil, err
	}
	return o.call.Session.Response(ctx, sealed)
}
