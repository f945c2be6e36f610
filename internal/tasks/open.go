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
	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
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
// task that does not open is held, then answered in its worker's place and left out. A poll whose answer cannot be decoded
// ends empty. The answer to another call fails with Cause if it cannot be decoded, or contains no task. ctx is the caller's, with the metadata that its call is forwarded with.
func (t *Tasks) Open(ctx context.Context, call Call, u Unopened) ([]byte, error) {
	o := &opening{tasks: t, call: call, arrived: u.Arrived, longest: longestHold}
	switch call.Method.Name() {
	case "RespondWorkflowTaskCompleted":
		return o.returnedTasks(ctx, u)
	case "StartWorkflowExecution":
		return o.eagerTask(ctx, u)
	}
	_, answer := call.poll()
	done, err := o.decode(ctx, answer, u.Sealed)
	defer done()
	switch {
	case err == nil:
		o.keepTask(ctx, answer)
	case beyondMemory(err) || tooLarge(err):
		head := readHead(answer, u.Sealed)
		o.fail(ctx, head, err)
		o.clear(ctx, head)
	default:
		// This is no message at all. The worker gets no task, since an error could end it.
		t.log(ctx, slog.LevelError, call, nil, "the server's answer to a poll cannot be read; its worker gets no task", "error", u.Cause)
		return nil, nil
	}
	return o.finish(ctx, answer)
}

// decode decodes an answer once there is memory for it, and waits for that as long as a task is held. Its
// memory counts until done is called. Without an error the answer is whole.
func (o *opening) decode(ctx context.Context, answer proto.Message, sealed []byte) (done func(), err error) {
	limit := o.holdUntil(ctx, []time.Duration{unknownTimeout})
	pause := backoff.Backoff{First: 100 * time.Millisecond, Max: time.Second}
	for {
		done, err = o.call.Session.Decodes(answer.ProtoReflect().Descriptor(), sealed)
		wait := pause.Next()
		if !beyondMemory(err) || ctx.Err() != nil || !time.Now().Add(wait).Before(limit) {
			break
		}
		_ = backoff.Sleep(ctx, wait) // the next attempt finds out that the caller has left
	}
	if err == nil {
		err = proto.Unmarshal(sealed, answer)
	}
	return done, err
}

// lacksMemory reports whether there is no memory to decode an answer whose tasks are returned beside what
// the caller has done. It must arrive all the same: head is made what it says beside them, and they are left
// to their timeouts.
func (o *opening) lacksMemory(ctx context.Context, head proto.Message, sealed []byte, err error) bool {
	if !beyondMemory(err) && !tooLarge(err) {
		return false
	}
	readHead(head, sealed)
	o.tasks.log(ctx, slog.LevelError, o.call, nil,
		"returned tasks take more memory than there is; they are left to their timeouts", "error", err)
	return true
}

// returnedTasks leaves out of the answer to a completed workflow task the tasks that do not open. The
// answer itself must arrive: the server has accepted the worker's commands.
func (o *opening) returnedTasks(ctx context.Context, u Unopened) ([]byte, error) {
	a := new(workflowservice.RespondWorkflowTaskCompletedResponse)
	o.longest = longestHoldReturned
	done, err := o.decode(ctx, a, u.Sealed)
	defer done()
	switch {
	case o.lacksMemory(ctx, a, u.Sealed, err):
		return proto.Marshal(a)
	case err != nil:
		return nil, u.Cause
	}
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
	o.longest = longestHoldReturned
	done, err := o.decode(ctx, a, u.Sealed)
	defer done()
	switch {
	case o.lacksMemory(ctx, a, u.Sealed, err):
		return proto.Marshal(a)
	case err != nil || a.EagerWorkflowTask == nil:
		return nil, u.Cause
	}
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
		o.clear(ctx, task)
	}
	return len(task.GetTaskToken()) > 0
}

// fail answers a task in its worker's place without another try to open it.
func (o *opening) fail(ctx context.Context, task task, cause error) {
	switch t := task.(type) {
	case *workflowTask:
		o.failWorkflowTask(ctx, t, cause)
	case *activityTask:
		o.failActivity(ctx, t, cause)
	case *nexusTask:
		o.failNexusTask(ctx, t, cause)
	}
}

// clear leaves of a task what is for its poller.
func (o *opening) clear(ctx context.Context, task task) {
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
