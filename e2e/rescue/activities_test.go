package rescue

import (
	"context"
	"fmt"
	"strings"
	"time"

	activitypb "go.temporal.io/api/activity/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

var activities = []scenario{
	{"activity", outage, true, "", activityHeld},
	{"activity, maximum attempts 1", long, true, "", activityLong},
	{"activity, maximum attempts 1", never, false, "", activityNever},
	{"heartbeating activity", long, true, "", heartbeatLong},
	{"heartbeating activity", "its heartbeat's details " + never, false, "", heartbeatNever},
	{"activity, paused", "the proxy is killed; two new ones; keys back", true, "", pausedAcrossRestart},
	{"standalone activity", never, false, "1.32", standaloneNever},
}

// scheduled is a workflow with one activity on a queue of its own.
func scheduled(queue string, in any, o workflow.ActivityOptions) func(workflow.Context) (string, error) {
	return func(ctx workflow.Context) (string, error) {
		o.TaskQueue, o.DisableEagerExecution = queue, true
		var out string
		err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), "Act", in).Get(ctx, &out)
		return out, err
	}
}

func once(timeout time.Duration) workflow.ActivityOptions {
	return workflow.ActivityOptions{StartToCloseTimeout: timeout, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1}}
}

// act registers an activity that returns its attempt.
func act(fn any) func(worker.Registry) {
	return func(r worker.Registry) { r.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: "Act"}) }
}

func attempt(ctx context.Context, in string) (string, error) {
	return in + " at attempt " + string('0'+activity.GetInfo(ctx).Attempt), nil
}

// waiting starts a workflow whose activity waits for a worker.
func (s *site) waiting(o workflow.ActivityOptions) {
	s.Helper()
	s.work(s.client, s.queue, register("One", scheduled(s.queue+"-act", "done", o)))
	s.start(s.client, "One")
	s.pending(func(*workflowpb.PendingActivityInfo) bool { return true })
}

func activityHeld(s *site) string {
	cold := s.cold()
	s.waiting(workflow.ActivityOptions{StartToCloseTimeout: 30 * time.Second})
	s.kms.Always("", kmsstub.Fault{Reset: true})
	s.work(cold, s.queue+"-act", act(attempt))
	started := func(a *workflowpb.PendingActivityInfo) bool {
		return a.GetState() == enumspb.PENDING_ACTIVITY_STATE_STARTED
	}
	s.pending(started)
	time.Sleep(2 * time.Second)
	s.pending(started)
	s.kms.Heal()
	s.returns(s.client.GetWorkflow(s.Context(), s.id, ""), "done at attempt 1")
	return "Completed at attempt 1: the task was held"
}

func activityLong(s *site) string {
	cold := s.cold()
	s.waiting(once(6 * time.Second))
	s.kms.Always("", kmsstub.Fault{Reset: true})
	s.work(cold, s.queue+"-act", act(attempt))
	s.paused()
	s.kms.Heal()
	s.returns(s.client.GetWorkflow(s.Context(), s.id, ""), "done at attempt 1")
	return "Paused, with the reason; Completed by itself at attempt 1 once the keys were back"
}

func activityNever(s *site) string {
	s.work(s.direct, s.queue, register("One", scheduled(s.queue+"-act", s.bad(), once(6*time.Second))))
	s.work(s.client, s.queue+"-act", act(attempt))
	s.start(s.direct, "One")
	s.paused()
	time.Sleep(7 * time.Second) // longer than its timeout
	a := s.paused()
	s.want(a.GetAttempt() <= 2, "%v", a)
	return "Running; the activity is Paused, with the reason, and keeps its only attempt"
}

func heartbeatLong(s *site) string {
	cold := s.cold()
	s.waiting(workflow.ActivityOptions{StartToCloseTimeout: time.Minute, HeartbeatTimeout: 6 * time.Second, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1}})
	s.kms.Always("", kmsstub.Fault{Reset: true})
	s.work(cold, s.queue+"-act", act(attempt))
	a := s.paused()
	s.want(a.GetLastFailure().GetTimeoutFailureInfo() == nil, "the heartbeat timed out: %v", a.GetLastFailure())
	s.kms.Heal()
	s.returns(s.client.GetWorkflow(s.Context(), s.id, ""), "done at attempt 1")
	return "Paused before its heartbeat times out; Completed by itself at attempt 1 once the keys were back"
}

// heartbeatNever: somebody who can write to the server leaves details behind that no worker can be given.
func heartbeatNever(s *site) string {
	s.work(s.client, s.queue, register("One", scheduled(s.queue+"-act", "done", workflow.ActivityOptions{StartToCloseTimeout: time.Minute})))
	s.start(s.client, "One")
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	server := s.raw(s.server.Address)
	t, err := server.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: s.queue + "-act"}})
	s.ok(err)
	_, err = server.RecordActivityTaskHeartbeat(ctx, &workflowservice.RecordActivityTaskHeartbeatRequest{Namespace: namespace, TaskToken: t.GetTaskToken(),
		Details: &commonpb.Payloads{Payloads: []*commonpb.Payload{s.foreign()}}})
	s.ok(err)
	_, err = server.RespondActivityTaskFailed(ctx, &workflowservice.RespondActivityTaskFailedRequest{Namespace: namespace, TaskToken: t.GetTaskToken(),
		Failure: &failurepb.Failure{Message: "again", FailureInfo: &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{}}}})
	s.ok(err)
	s.work(s.client, s.queue+"-act", act(attempt))
	s.paused()
	return "Running; the activity is Paused, with the reason"
}

// pausedAcrossRestart: what one proxy has paused others let go on, which know of it from the server alone. The activity
// is run once.
func pausedAcrossRestart(s *site) string {
	doomed := s.startProxy()
	c := s.warm(doomed)
	s.waiting(once(6 * time.Second))
	s.kms.Always("", kmsstub.Fault{Reset: true})
	s.work(c, s.queue+"-act", act(attempt))
	s.paused()
	doomed.Kill()
	ran := make(chan string, 10)
	s.kms.Heal()
	for range 2 {
		fresh := s.cold()
		s.work(fresh, s.queue+"-act", act(func(ctx context.Context, in string) (string, error) {
			out, err := attempt(ctx, in)
			ran <- out
			return out, err
		}))
	}
	s.returns(s.client.GetWorkflow(s.Context(), s.id, ""), "done at attempt 1")
	time.Sleep(3 * time.Second)
	s.want(len(ran) == 1, "the activity ran %d times", len(ran))
	return "found again at the server; Completed by itself at attempt 1, run once"
}

func standaloneNever(s *site) string {
	ctx := s.Context()
	server := s.raw(s.server.Address)
	_, err := server.StartActivityExecution(ctx, &workflowservice.StartActivityExecutionRequest{Namespace: namespace, ActivityId: s.id, RequestId: s.id,
		ActivityType: &commonpb.ActivityType{Name: "Act"}, TaskQueue: &taskqueuepb.TaskQueue{Name: s.queue}, StartToCloseTimeout: durationpb.New(time.Minute),
		Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{s.foreign()}}})
	s.ok(err)
	s.work(s.client, s.queue, act(attempt))
	var info *activitypb.ActivityExecutionInfo
	s.eventually(func() error {
		d, err := server.DescribeActivityExecution(ctx, &workflowservice.DescribeActivityExecutionRequest{Namespace: namespace, ActivityId: s.id, IncludeLastFailure: true})
		if err != nil {
			return err
		}
		if info = d.GetInfo(); info.GetLastFailure() == nil {
			return fmt.Errorf("no attempt has failed: %v", info)
		}
		return nil
	})
	delay := info.GetCurrentRetryInterval().AsDuration()
	s.want(delay > 25*time.Second && delay < 35*time.Second && strings.Contains(info.GetLastFailure().GetMessage(), "temporal-seal: "), "next attempt after %s; %v", delay, info.GetLastFailure())
	return "Running; an attempt failed with the reason, and the next one follows after 30 s, since what belongs to no workflow cannot be paused"
}
