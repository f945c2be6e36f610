package server

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// A worker must never see a task that is sealed still, nor may such a task just vanish: it would be lost until its
// timeout, or for ever. This file holds on to it while the cause may pass; tasks.go answers it if it does not.

const (
	// firstOpening is how long an answer may take to open before it is asked how long its tasks can wait.
	firstOpening = time.Second
	// longestHold is how long a task is held that could wait longer.
	longestHold = time.Minute
	// holdReturned is how long tasks are held that came in the answer to another call, which waits for it.
	holdReturned = 3 * time.Second
	// holdUntold is for tasks that do not tell their timeout: those of workflows have 10 s by default.
	holdUntold = 10 * time.Second
	// queryTimeout is how long a query waits on a sticky queue by default, before it is handed to another worker. Its
	// caller is told nothing but that it took too long then.
	queryTimeout = 5 * time.Second
)

// errCallerLeft is why a task is answered that could be opened.
var errCallerLeft = errors.New("the worker hung up before it got the task")

// rescue is what becomes of one answer with tasks that could not be opened.
type rescue struct {
	call    *call
	arrived time.Time
	longest time.Duration
}

// handsOut tells if the answer to a method may hold tasks.
func handsOut(m *rewrite.Method) bool {
	return m.IsPoll() || m.Name() == "RespondWorkflowTaskCompleted" || m.Name() == "StartWorkflowExecution"
}

// openAnswer opens an answer. What comes with it of tasks that cannot be opened is answered in their workers' stead,
// and left out. out has the metadata to answer with.
func (c *call) openAnswer(ctx, out context.Context, sealed []byte) ([]byte, error) {
	if !handsOut(c.method.rewrite) {
		plain, err := c.rewriting.Response(ctx, sealed)
		if err != nil {
			c.server.metrics.failed(directionResponse, err)
			return nil, err
		}
		return plain, c.record(ctx, codes.OK)
	}
	r := &rescue{call: c, arrived: time.Now(), longest: longestHold}
	first, cancel := context.WithTimeout(ctx, firstOpening)
	plain, err := c.rewriting.Response(first, sealed)
	cancel()
	if err == nil {
		if err = c.record(ctx, codes.OK); err == nil {
			return plain, nil
		}
	}
	c.server.metrics.failed(directionResponse, err)
	c.withhold()
	md, _ := metadata.FromOutgoingContext(out)
	if plain, err = r.run(metadata.NewOutgoingContext(ctx, md), sealed, err); err != nil {
		return nil, err
	}
	return plain, c.record(ctx, codes.OK)
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

// hold tries to open m for as long as its worker and the server wait for it: the shortest of the timeouts, less a margin
// in which the task is answered, or still reaches the worker.
func (r *rescue) hold(ctx context.Context, m proto.Message, timeouts ...time.Duration) error {
	limit := r.limit(ctx, timeouts)
	held, cancel := context.WithDeadline(ctx, limit)
	defer cancel()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		_, err := r.open(held, m)
		if err == nil {
			err = r.call.server.audit.Ready() // a task that cannot be put on record is as good as one that does not open
		}
		switch {
		case ctx.Err() != nil:
			return errCallerLeft
		case err == nil || !transient(err) || !time.Now().Add(wait).Before(limit):
			return err
		}
		select {
		case <-held.Done():
		case <-time.After(wait):
		}
	}
}

// limit is when a task can be held no longer.
func (r *rescue) limit(ctx context.Context, timeouts []time.Duration) time.Time {
	least := r.longest
	for _, t := range timeouts {
		if t > 0 {
			least = min(least, t-margin(t))
		}
	}
	limit := r.arrived.Add(least)
	if deadline, ok := ctx.Deadline(); ok {
		if end := deadline.Add(-margin(time.Until(deadline))); end.Before(limit) {
			return end
		}
	}
	return limit
}

// margin is what is kept of a timeout for the answer. That takes two calls, on a machine that may be busy.
func margin(timeout time.Duration) time.Duration {
	return min(max(timeout/4, time.Second), timeout/2, 2*time.Second)
}
