package tasks

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

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

// Open returns the answer that the caller gets. A worker must never get a task that is still sealed, so a
// task that does not open is held, then answered in its worker's place and left out. Open fails if the
// answer contains no such task. ctx is the caller's, with the metadata that its call is forwarded with.
func (t *Tasks) Open(ctx context.Context, call Call, u Unopened) ([]byte, error) {
	o := &opening{tasks: t, call: call, arrived: u.Arrived, longest: longestHold}
	switch call.Method.Name() {
	case "RespondWorkflowTaskCompleted":
		return o.returnedTasks(ctx, u)
	case "StartWorkflowExecution":
		return o.eagerTask(ctx, u)
	}
	_, answer := call.poll()
	if proto.Unmarshal(u.Sealed, answer) != nil {
		// This is no message at all. The worker gets no task, since an error could end it.
		t.log(ctx, slog.LevelError, call, nil, "the server's answer to a poll cannot be read; its worker gets no task", "error", u.Cause)
		return nil, nil
	}
	o.keepTask(ctx, answer)
	return o.finish(ctx, answer)
}

// returnedTasks leaves out of the answer to a completed workflow task the tasks that do not open. The
// answer itself must arrive: the server has accepted the worker's commands.
func (o *opening) returnedTasks(ctx context.Context, u Unopened) ([]byte, error) {
	a := new(workflowservice.RespondWorkflowTaskCompletedResponse)
	if proto.Unmarshal(u.Sealed, a) != nil {
		return nil, u.Cause
	}
	o.longest = longestHoldReturned
	if a.WorkflowTask != nil && !o.keepTask(ctx, a.WorkflowTask) {
		a.WorkflowTask = nil
	}
	a.ActivityTasks = slices.DeleteFunc(a.ActivityTasks, func(t *activityTask) bool { return !o.keepTask(ctx, t) })
	return o.finish(ctx, a)
}

// eagerTask leaves a workflow task that does not open out of the answer to the start of its workflow: the
// server hands it to another worker.
func (o *opening) eagerTask(ctx context.Context, u Unopened) ([]byte, error) {
	a := new(workflowservice.StartWorkflowExecutionResponse)
	if proto.Unmarshal(u.Sealed, a) != nil || a.EagerWorkflowTask == nil {
		return nil, u.Cause
	}
	o.longest = longestHoldReturned
	if !o.keepTask(ctx, a.EagerWorkflowTask) {
		a.EagerWorkflowTask = nil
	}
	return o.finish(ctx, a)
}

// keepTask leaves in a task as much as opens, and reports whether it is still a task. One that does not
// open is answered, and only what is for its poller stays.
func (o *opening) keepTask(ctx context.Context, task task) bool {
	opens := false
	switch t := task.(type) {
	case *workflowTask:
		opens = o.workflowTask(ctx, t)
	case *activityTask:
		opens = o.activityTask(ctx, t)
	case *nexusTask:
		opens = o.nexusTask(ctx, t)
	}
	if !opens {
		m := task.ProtoReflect()
		m.SetUnknown(nil)
		m.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			if !strings.HasPrefix(string(f.Name()), "poller_") {
				m.Clear(f)
			}
			return true
		})
		o.tasks.keepPollers(ctx, o.call, m)
	}
	return len(task.GetTaskToken()) > 0
}

// answerWith returns an answer to the call with nothing but this task in it.
func (o *opening) answerWith(task task) proto.Message {
	switch t := task.(type) {
	case *workflowTask:
		switch o.call.Method.Name() {
		case "RespondWorkflowTaskCompleted":
			return &workflowservice.RespondWorkflowTaskCompletedResponse{WorkflowTask: t}
		case "StartWorkflowExecution":
			return &workflowservice.StartWorkflowExecutionResponse{EagerWorkflowTask: t}
		}
	case *activityTask:
		if o.call.Method.Name() == "RespondWorkflowTaskCompleted" {
			return &workflowservice.RespondWorkflowTaskCompletedResponse{ActivityTasks: []*activityTask{t}}
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
