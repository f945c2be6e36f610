package server

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// A task that is handed out while no key is at hand is lost: its result could not be sealed. So polls wait for the keys
// of their namespace before they are forwarded. They end empty, as they do when there is no task: workers poll again at
// once then, while some give up after a minute of errors.

const (
	// brakeLimit is how long a poll is held whose caller would wait for ever.
	brakeLimit = time.Minute
	// brakeMargin is what is left of a caller's time for the empty answer.
	brakeMargin = time.Second
	// controlQueues are how the server tells workers what to do; no answer to these is sealed.
	controlQueues = "temporal-sys/worker-commands/"
)

// awaitKeys waits until a task's result could be sealed. ready is false when the poll is to end empty. out is ctx with
// the metadata to send.
func (c *call) awaitKeys(ctx, out context.Context) (ready bool, err error) {
	if c.isControl() {
		return true, nil
	}
	limit := time.Now().Add(brakeLimit)
	if deadline, ok := ctx.Deadline(); ok && deadline.Add(-brakeMargin).Before(limit) {
		limit = deadline.Add(-brakeMargin)
	}
	if err = c.ready(ctx); err == nil || !outOfReach(err) {
		return err == nil, err
	}
	c.server.aside.tellBrake(c.server.log, c.rewriting.Namespace(), err)
	held, letGo := c.server.held.hold(ctx, c.poller())
	defer letGo()
	c.autoscales(out) // the answer needs to know it, and is made in a hurry
	for outOfReach(err) {
		wait := min(time.Second, time.Until(limit))
		if wait <= 0 {
			return false, nil
		}
		select {
		case <-held.Done():
		case <-time.After(wait):
			err = c.ready(held)
		}
		switch {
		case err == nil:
			return true, nil
		case held.Err() != nil:
			return false, ctx.Err() // nil if its worker said goodbye
		}
	}
	return false, err
}

// brakeNews is how often the log tells of a namespace's held polls: there may be thousands.
const brakeNews = time.Minute

// maxBraked bounds the namespaces of which it is kept when the log last told of them.
const maxBraked = 1024

// tellBrake logs that polls of a namespace are held.
func (a *aside) tellBrake(log *slog.Logger, namespace string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.braked == nil {
		a.braked = map[string]time.Time{}
	}
	now := time.Now()
	if now.Sub(a.braked[namespace]) < brakeNews {
		return
	}
	if len(a.braked) >= maxBraked {
		clear(a.braked)
	}
	a.braked[strings.Clone(namespace)] = now
	log.Error("polls are held and end empty, since results could not be sealed: the tasks wait at the server until the key is back", "namespace", namespace, "error", err)
}

// ready asks for the keys for a short while: the worker may hang up or shut down meanwhile.
func (c *call) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, firstOpening)
	defer cancel()
	return c.server.keys.Ready(ctx, c.rewriting.Namespace(), c.rewriting.NamedKeys())
}

// outOfReach tells if keys may come back without a change of the configuration.
func outOfReach(err error) bool {
	kind := crypto.KindOf(err)
	return kind == crypto.KindUnavailable || kind == crypto.KindRevoked || errors.Is(err, context.DeadlineExceeded)
}

// isControl tells if the poll is for the commands that the server has for a worker itself. Nothing in their answers is
// sealed, so they need no key.
func (c *call) isControl() bool {
	if c.method.rewrite.Name() != "PollNexusTaskQueue" {
		return false
	}
	var q workflowservice.PollNexusTaskQueueRequest
	return proto.Unmarshal(c.in, &q) == nil && strings.HasPrefix(strings.TrimPrefix(q.GetTaskQueue().GetName(), "/"), controlQueues)
}

// noTask is the answer to a poll that was held in vain. out is the context to ask the server with.
func (c *call) noTask(out context.Context) (*frame, error) {
	group := c.pollRequest().GetPollerGroupId()
	var answer proto.Message
	switch c.method.rewrite.Name() {
	case "PollWorkflowTaskQueue":
		answer = &workflowservice.PollWorkflowTaskQueueResponse{PollerScalingDecision: c.unchanged(out, nil), PollerGroupId: group}
	case "PollNexusTaskQueue":
		answer = &workflowservice.PollNexusTaskQueueResponse{PollerScalingDecision: c.unchanged(out, nil), PollerGroupId: group}
	case "PollActivityTaskQueue":
		answer = &workflowservice.PollActivityTaskQueueResponse{PollerScalingDecision: c.unchanged(out, nil)}
	default:
		return new(frame), nil
	}
	b, err := proto.Marshal(answer)
	return &frame{data: mem.BufferSlice{mem.SliceBuffer(b)}}, err
}

// pollRequest is what the requests of all polls have in common.
type pollRequest interface {
	proto.Message
	GetNamespace() string
	GetWorkerInstanceKey() string
	GetIdentity() string
	GetTaskQueue() *taskqueuepb.TaskQueue
	GetPollerGroupId() string
}

// pollRequest reads the call's request; it is empty where that cannot be read.
func (c *call) pollRequest() pollRequest {
	switch c.method.rewrite.Name() {
	case "PollWorkflowTaskQueue":
		return read(new(workflowservice.PollWorkflowTaskQueueRequest), c.in)
	case "PollNexusTaskQueue":
		return read(new(workflowservice.PollNexusTaskQueueRequest), c.in)
	default:
		return read(new(workflowservice.PollActivityTaskQueueRequest), c.in)
	}
}
