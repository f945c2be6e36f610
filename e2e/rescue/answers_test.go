package rescue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var answers = []scenario{
	{"activity", forbidden, false, "", activityForbidden},
	{"activity that is completed by id", forbidden, false, "", byIDForbidden},
	{"workflow task", forbidden, false, "", workflowForbidden},
	{"query", forbidden, false, "", queryForbidden},
	{"activity", tooLarge, false, "", activityTooLarge},
	{"workflow task", tooLarge, false, "", workflowTooLarge},
}

// refused checks how an activity failed whose answer was not sent.
func (s *site) refused(err error, kind, reason string) {
	s.Helper()
	var failed *temporal.ApplicationError
	s.want(errors.As(err, &failed) && failed.Type() == kind && failed.NonRetryable() && strings.Contains(failed.Error(), reason), "the activity failed with %v", err)
}

func (s *site) run(kind string, fn any) error {
	s.Helper()
	s.work(s.client, s.queue, register(kind, fn))
	return s.start(s.client, kind).Get(s.Context(), nil)
}

func activityForbidden(s *site) string {
	ran := 0
	s.work(s.client, s.queue+"-act", act(func(context.Context, string) (string, error) { ran++; return "forbidden", nil }))
	err := s.run("One", scheduled(s.queue+"-act", "", workflow.ActivityOptions{StartToCloseTimeout: 10 * time.Second}))
	s.refused(err, "PolicyDenied", "stay where they are")
	s.want(ran == 1, "the activity ran %d times", ran)
	return "ActivityTaskFailed at once: type PolicyDenied, not retryable, with the rule's reason for whoever may open it"
}

func byIDForbidden(s *site) string {
	s.work(s.client, s.queue+"-act", act(func(ctx context.Context, _ string) (string, error) {
		info := activity.GetInfo(ctx)
		go func() {
			time.Sleep(500 * time.Millisecond)
			_ = s.client.CompleteActivityByID(s.Context(), namespace, info.WorkflowExecution.ID, info.WorkflowExecution.RunID, info.ActivityID, "forbidden", nil)
		}()
		return "", activity.ErrResultPending
	}))
	err := s.run("One", scheduled(s.queue+"-act", "", workflow.ActivityOptions{StartToCloseTimeout: 10 * time.Second}))
	s.refused(err, "PolicyDenied", "stay where they are")
	return "ActivityTaskFailed at once: type PolicyDenied, not retryable, with the rule's reason for whoever may open it"
}

func workflowForbidden(s *site) string {
	s.work(s.client, s.queue, register("Forbidden", func(workflow.Context) (string, error) { return "forbidden", nil }))
	s.start(s.client, "Forbidden")
	return s.givenUp()
}

func queryForbidden(s *site) string {
	s.work(s.client, s.queue, register("Telling", func(ctx workflow.Context) (string, error) {
		if err := workflow.SetQueryHandler(ctx, "q", func(string) (string, error) { return "forbidden", nil }); err != nil {
			return "", err
		}
		return "", workflow.Sleep(ctx, time.Minute)
	}))
	s.start(s.client, "Telling")
	s.idle()
	_, err := s.query(s.client, "asked")
	s.want(err != nil && strings.Contains(err.Error(), "stay where they are"), "the query: %v", err)
	return "the caller's query fails at once, with the rule's reason"
}

// random cannot be compressed.
func random(size int) *commonpb.Payload {
	p := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/plain")}, Data: make([]byte, size)}
	_, _ = rand.Read(p.Data) // never fails
	return p
}

func activityTooLarge(s *site) string {
	failed := make(chan error, 1)
	s.work(s.client, s.queue, register("One", scheduled(s.queue+"-act", "", workflow.ActivityOptions{StartToCloseTimeout: 30 * time.Second})))
	run := s.start(s.client, "One")
	go func() { failed <- run.Get(s.Context(), nil) }()
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	c := s.raw(s.proxy.Address) // SDKs know the namespace's limits, and would not send it
	t, err := c.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: s.queue + "-act"}})
	s.ok(err)
	_, err = c.RespondActivityTaskCompleted(ctx, &workflowservice.RespondActivityTaskCompletedRequest{Namespace: namespace, TaskToken: t.GetTaskToken(),
		Result: &commonpb.Payloads{Payloads: []*commonpb.Payload{random(2<<20 - 64)}}})
	s.want(status.Code(err) == codes.NotFound, "the worker gets %v", err)
	s.refused(<-failed, "PayloadsTooLarge", "make the payload smaller")
	return "ActivityTaskFailed at once: type PayloadsTooLarge, not retryable; what is no larger in clear than the server takes"
}

// workflowTooLarge has a workflow schedule so much at once that it fits a message in clear, and not sealed.
func workflowTooLarge(s *site) string {
	s.work(s.client, s.queue, register("Many", func(ctx workflow.Context) (string, error) {
		ctx = workflow.WithActivityOptions(ctx, once(time.Minute))
		for range 1000 {
			workflow.ExecuteActivity(ctx, "Act", random(3950).GetData())
		}
		return "", workflow.Sleep(ctx, time.Minute)
	}))
	s.limit = 6 * time.Second // the worker needs some of it
	s.start(s.client, "Many")
	shown := s.givenUp()
	if shown == again {
		return again
	}
	for _, e := range s.happened(enumspb.EVENT_TYPE_WORKFLOW_TASK_FAILED) {
		a := e.GetWorkflowTaskFailedEventAttributes()
		s.want(a.GetCause() == enumspb.WORKFLOW_TASK_FAILED_CAUSE_PAYLOADS_TOO_LARGE, "cause %v", a.GetCause())
		shown = fmt.Sprintf("%s; its cause is %s, and the workflow is not terminated", shown, "PayloadsTooLarge")
	}
	return shown
}
