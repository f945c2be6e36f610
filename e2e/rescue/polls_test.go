package rescue

import (
	"context"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

var polls = []scenario{
	{"any, before it is handed out", outage, true, "", pollsHeld},
	{"any, before it is handed out", "one of the namespace's keys out of reach, after something has used it", true, "", oneKeyHeld},
	{"any, with autoscaled pollers", outage, true, "", pollersStay},
	{"any, before it is handed out", "keys out of reach, and its worker shuts down", true, "", pollsReleased},
	{"workflow task, each attempt", "the token contains the attempt", false, "", tokenHasAttempt},
}

// pollsHeld polls in a namespace of which the proxy has no key yet.
func pollsHeld(s *site) string {
	s.kms.Always("", kmsstub.Fault{Reset: true})
	c := s.raw(s.proxy.Address)
	ctx, cancel := context.WithTimeout(s.Context(), 4*time.Second)
	defer cancel()
	began := time.Now()
	got, err := c.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: elsewhere, TaskQueue: &taskqueuepb.TaskQueue{Name: s.queue}})
	s.want(err == nil && len(got.GetTaskToken()) == 0 && time.Since(began) > 2*time.Second, "after %s: %v, %v", time.Since(began), got, err)
	decision := got.GetPollerScalingDecision()
	s.want(decision != nil && decision.GetPollRequestDeltaSuggestion() == 0, "an autoscaled worker would lose a poller: %v", got)
	s.kms.Heal()
	other := s.dial(s.proxy.Address, elsewhere)
	s.work(other, s.queue, register("Echo", echo))
	s.returns(s.start(other, "Echo", "x"), "x")
	return "polls are held, and end empty before their deadline; the tasks wait at the server"
}

// oneKeyHeld: the key of one kind of workflow is gone, in the one namespace that has such workflows.
func oneKeyHeld(s *site) string {
	second, err := newKMS()
	s.ok(err)
	s.Cleanup(second.Close)
	proxy := s.startProxy(func(o *harness.ProxyOptions) {
		o.Keys = append([]harness.KeyOption{{Name: "phi", Namespaces: []string{namespace}, Active: keyIn(second)}}, o.Keys...)
		o.Policy += `
request contains {"action": "seal", "key": concat("", ["p", "hi"])} if input.workflow.type == "Phi"
`
	})
	c, other := s.dial(proxy.Address, namespace), s.dial(proxy.Address, elsewhere)
	second.Always("", kmsstub.Fault{Reset: true})
	s.work(other, s.queue, register("Echo", echo))
	ctx, cancel := context.WithTimeout(s.Context(), 2*time.Second)
	defer cancel()
	_, err = c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: s.queue}, "Phi", "x")
	s.want(err != nil, "it was sealed with a key that is out of reach")
	s.work(c, s.queue, register("Echo", echo), register("Phi", echo))
	run := s.start(c, "Echo", "x")
	s.returns(s.start(other, "Echo", "y"), "y")
	time.Sleep(3 * time.Second)
	s.want(s.describe().GetPendingWorkflowTask().GetState() == enumspb.PENDING_WORKFLOW_TASK_STATE_SCHEDULED, "the task was handed out: %v", s.describe())
	second.Heal()
	s.returns(run, "x")
	return "the namespace's polls are held until the key is back; other namespaces go on"
}

// pollersStay: a worker with autoscaled pollers goes on after an outage.
func pollersStay(s *site) string {
	s.kms.Always("", kmsstub.Fault{Reset: true})
	other := s.dial(s.proxy.Address, elsewhere)
	scaled := func() worker.PollerBehavior {
		return worker.NewPollerBehaviorAutoscaling(worker.PollerBehaviorAutoscalingOptions{InitialNumberOfPollers: 4, MinimumNumberOfPollers: 1, MaximumNumberOfPollers: 8})
	}
	w := worker.New(other, s.queue, worker.Options{WorkflowTaskPollerBehavior: scaled(), ActivityTaskPollerBehavior: scaled(), NexusTaskPollerBehavior: scaled()})
	register("Echo", echo)(w)
	s.ok(w.Start())
	s.Cleanup(w.Stop)
	time.Sleep(3 * time.Second)
	s.kms.Heal()
	for i := range 20 {
		s.id = fmt.Sprint(s.queue, i)
		s.returns(s.start(other, "Echo", "x"), "x")
	}
	return "polls are held; their empty answers leave the number of pollers as it is"
}

// pollsReleased: SDKs wait for the end of their polls when they shut down, and the server does not know of those that
// the proxy holds.
func pollsReleased(s *site) string {
	s.kms.Always("", kmsstub.Fault{Reset: true})
	c := s.raw(s.proxy.Address)
	ctx, cancel := context.WithTimeout(s.Context(), 40*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := c.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: elsewhere, WorkerInstanceKey: s.id, TaskQueue: &taskqueuepb.TaskQueue{Name: s.queue}})
		done <- err
	}()
	time.Sleep(4 * time.Second)
	select {
	case err := <-done:
		s.Fatalf("the poll was not held: %v", err)
	default:
	}
	_, err := c.ShutdownWorker(ctx, &workflowservice.ShutdownWorkerRequest{Namespace: elsewhere, WorkerInstanceKey: s.id, TaskQueue: s.queue})
	s.ok(err)
	select {
	case err := <-done:
		s.ok(err)
	case <-time.After(10 * time.Second):
		s.Errorf("the poll is still held")
	}
	return "ShutdownWorker ends the worker's held polls at once"
}

// tokenHasAttempt: the proxy reads the attempt of a worker's answer from there.
func tokenHasAttempt(s *site) string {
	s.begin(s.client)
	c := s.raw(s.proxy.Address)
	last := int32(0)
	for range 3 {
		t := s.poll(c)
		s.want(attemptIn(t.GetTaskToken()) == uint64(t.GetAttempt()) && t.GetAttempt() > last, "the token has attempt %d, the task %d, after attempt %d", attemptIn(t.GetTaskToken()), t.GetAttempt(), last)
		last = t.GetAttempt()
		_, err := c.RespondWorkflowTaskFailed(s.Context(), &workflowservice.RespondWorkflowTaskFailedRequest{Namespace: namespace, TaskToken: t.GetTaskToken(), Cause: enumspb.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE})
		s.ok(err)
	}
	return "as the task itself"
}

func attemptIn(token []byte) (attempt uint64) {
	for len(token) > 0 {
		number, kind, n := protowire.ConsumeTag(token)
		if n < 0 {
			return 0
		}
		if number == 5 && kind == protowire.VarintType {
			attempt, _ = protowire.ConsumeVarint(token[n:])
		}
		m := protowire.ConsumeFieldValue(number, kind, token[n:])
		if m < 0 {
			return 0
		}
		token = token[n+m:]
	}
	return attempt
}
