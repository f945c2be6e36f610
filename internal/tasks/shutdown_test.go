package tasks

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
)

// TestShutdownEndsHeldPolls: of the worker that shuts down, and of no other.
func TestShutdownEndsHeldPolls(t *testing.T) {
	t.Parallel()
	off := new(atomic.Bool)
	off.Store(true)
	g := guard(t, workflowservice.UnimplementedWorkflowServiceServer{}, opensAll, keyFile(t), off)
	poll := func(instance string) <-chan error {
		call := g.call(t, "PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{
			Namespace: "clinic", WorkerInstanceKey: instance, TaskQueue: &taskqueuepb.TaskQueue{Name: "q"}})
		done := make(chan error, 1)
		go func() {
			ready, err := g.AwaitKeys(t.Context(), t.Context(), call)
			if ready {
				err = errors.New("the poll is forwarded")
			}
			done <- err
		}()
		return done
	}
	leaving, staying := poll("a"), poll("b")
	for held := 0; held < 2; time.Sleep(10 * time.Millisecond) {
		g.polls.mu.Lock()
		held = len(g.polls.polls)
		g.polls.mu.Unlock()
	}
	request, err := proto.Marshal(&workflowservice.ShutdownWorkerRequest{Namespace: "clinic", WorkerInstanceKey: "a", TaskQueue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	g.EndPolls(request)
	for _, done := range []<-chan error{leaving, poll("a")} { // one that was on its way too
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("a poll of the worker that shuts down is still held")
		}
	}
	select {
	case err := <-staying:
		t.Errorf("another worker's poll was ended: %v", err)
	default:
	}
}

func TestPolledBy(t *testing.T) {
	p := &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "n", WorkerInstanceKey: "k", Identity: "i", TaskQueue: &taskqueuepb.TaskQueue{Name: "q"}}
	sticky := &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "n", Identity: "i", TaskQueue: &taskqueuepb.TaskQueue{Name: "host:uuid", NormalName: "q"}}
	for name, c := range map[string]struct {
		poll pollRequest
		q    *workflowservice.ShutdownWorkerRequest
		want bool
	}{
		"its key":           {p, &workflowservice.ShutdownWorkerRequest{Namespace: "n", WorkerInstanceKey: "k"}, true},
		"another key":       {p, &workflowservice.ShutdownWorkerRequest{Namespace: "n", WorkerInstanceKey: "l", Identity: "i", TaskQueue: "q"}, false},
		"another namespace": {p, &workflowservice.ShutdownWorkerRequest{Namespace: "m", WorkerInstanceKey: "k"}, false},
		"identity alone":    {p, &workflowservice.ShutdownWorkerRequest{Namespace: "n", Identity: "i"}, true},
		"another queue":     {p, &workflowservice.ShutdownWorkerRequest{Namespace: "n", Identity: "i", TaskQueue: "r"}, false},
		"nothing":           {&workflowservice.PollActivityTaskQueueRequest{Namespace: "n"}, &workflowservice.ShutdownWorkerRequest{Namespace: "n"}, false},
		"sticky":            {sticky, &workflowservice.ShutdownWorkerRequest{Namespace: "n", StickyTaskQueue: "host:uuid"}, true},
		"sticky's normal":   {sticky, &workflowservice.ShutdownWorkerRequest{Namespace: "n", Identity: "i", TaskQueue: "q"}, true},
	} {
		if got := polledBy(c.poll, c.q); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
