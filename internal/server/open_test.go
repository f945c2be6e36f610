package server

import (
	"context"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	protocolpb "go.temporal.io/api/protocol/v1"
	querypb "go.temporal.io/api/query/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// pausingFrontend knows PauseActivity, as newer servers do.
type pausingFrontend struct {
	taskFrontend
	paused   []*workflowservice.PauseActivityRequest
	returned *workflowservice.RespondWorkflowTaskCompletedResponse
}

func (f *pausingFrontend) PauseActivity(_ context.Context, q *workflowservice.PauseActivityRequest) (*workflowservice.PauseActivityResponse, error) {
	f.paused = append(f.paused, q)
	return &workflowservice.PauseActivityResponse{}, nil
}

func (f *pausingFrontend) RespondWorkflowTaskCompleted(context.Context, *workflowservice.RespondWorkflowTaskCompletedRequest) (*workflowservice.RespondWorkflowTaskCompletedResponse, error) {
	return f.returned, nil
}

func startPausing(t *testing.T, f *pausingFrontend) workflowservice.WorkflowServiceClient {
	t.Helper()
	startService(t, &f.frontend, f)
	return startProxy(t, &f.frontend).client(t)
}

func badActivity(token string) *workflowservice.PollActivityTaskQueueResponse {
	return &workflowservice.PollActivityTaskQueueResponse{TaskToken: []byte(token), ActivityId: "a", Input: damaged(),
		WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: "w", RunId: "r"}}
}

func TestActivityIsPausedBeforeItFails(t *testing.T) {
	f := &pausingFrontend{}
	f.poll = func(context.Context, *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
		return badActivity("token"), nil
	}
	got, err := startPausing(t, f).PollActivityTaskQueue(testContext(t), &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"})
	if err != nil || len(got.GetTaskToken()) > 0 {
		t.Errorf("the worker got %v, %v", got, err)
	}
	if len(f.paused) != 1 || len(f.activityFailed) != 1 {
		t.Fatalf("paused %d times, failed %d times", len(f.paused), len(f.activityFailed))
	}
	if q := f.paused[0]; q.GetId() != "a" || q.GetExecution().GetRunId() != "r" || q.GetNamespace() != "clinic" || !strings.Contains(q.GetReason(), "restore the key") {
		t.Errorf("paused with %v", q)
	}
	if info := f.activityFailed[0].GetFailure().GetApplicationFailureInfo(); info == nil || info.GetNonRetryable() || info.GetNextRetryDelay() != nil {
		t.Errorf("failed with %v", f.activityFailed[0])
	}
}

// TestReturnedTasks: the good ones arrive, the bad ones are answered, and the worker learns that its commands were taken.
func TestReturnedTasks(t *testing.T) {
	good := &workflowservice.PollActivityTaskQueueResponse{TaskToken: []byte("good"), Input: payloads([]byte(`"x"`))}
	f := &pausingFrontend{returned: &workflowservice.RespondWorkflowTaskCompletedResponse{ResetHistoryEventId: 7,
		WorkflowTask:  &workflowservice.PollWorkflowTaskQueueResponse{TaskToken: []byte("bad"), Attempt: 1, History: historyWith(damaged())},
		ActivityTasks: []*workflowservice.PollActivityTaskQueueResponse{badActivity("bad"), good}}}
	got, err := startPausing(t, f).RespondWorkflowTaskCompleted(testContext(t), &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "clinic", TaskToken: []byte("token")})
	if err != nil || got.GetWorkflowTask() != nil || len(got.GetActivityTasks()) != 1 || string(got.GetActivityTasks()[0].GetTaskToken()) != "good" || got.GetResetHistoryEventId() != 7 {
		t.Errorf("the worker got %v, %v", got, err)
	}
	if len(f.workflowFailed) != 1 || len(f.activityFailed) != 1 {
		t.Errorf("failed %d workflow tasks, %d activities", len(f.workflowFailed), len(f.activityFailed))
	}
}

func TestEagerTaskIsLeftOut(t *testing.T) {
	f := &pausingFrontend{}
	f.start = func(context.Context, *workflowservice.StartWorkflowExecutionRequest) (*workflowservice.StartWorkflowExecutionResponse, error) {
		return &workflowservice.StartWorkflowExecutionResponse{RunId: "run", EagerWorkflowTask: &workflowservice.PollWorkflowTaskQueueResponse{
			TaskToken: []byte("bad"), Attempt: 1, History: historyWith(damaged())}}, nil
	}
	got, err := startPausing(t, f).StartWorkflowExecution(testContext(t), startRequest([]byte(`"x"`)))
	if err != nil || got.GetRunId() != "run" || got.GetEagerWorkflowTask() != nil || len(f.workflowFailed) != 1 {
		t.Errorf("the starter got %v, %v; %d tasks were failed", got, err, len(f.workflowFailed))
	}
}

func TestBadQueryIsTakenOutAlone(t *testing.T) {
	f := &taskFrontend{workflowTask: &workflowservice.PollWorkflowTaskQueueResponse{TaskToken: []byte("token"), Attempt: 1, History: historyWith(payloads([]byte(`"x"`))),
		Messages: []*protocolpb.Message{{Id: "m"}},
		Queries:  map[string]*querypb.WorkflowQuery{"bad": {QueryArgs: damaged()}, "good": {QueryArgs: payloads([]byte(`"y"`))}}}}
	got, err := startTasks(t, f).PollWorkflowTaskQueue(testContext(t), &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "clinic"})
	if err != nil || string(got.GetTaskToken()) != "token" || len(got.GetQueries()) != 1 || got.GetQueries()["good"] == nil || len(got.GetMessages()) != 1 {
		t.Errorf("the worker got %v, %v", got, err)
	}
	if len(f.workflowFailed) != 0 {
		t.Error("the whole task was failed")
	}
}

// TestReasonIsSealed: a rule may build its reason from the payload, so the server must not read it.
func TestReasonIsSealed(t *testing.T) {
	f := &taskFrontend{}
	_, err := startTasks(t, f).RespondActivityTaskCompleted(testContext(t), &workflowservice.RespondActivityTaskCompletedRequest{Namespace: "clinic", TaskToken: []byte("token"), Result: payloads([]byte(`"forbidden"`))})
	if status.Code(err) != codes.NotFound || len(f.activityFailed) != 1 {
		t.Fatalf("the worker got %v", err)
	}
	if text := f.activityFailed[0].GetFailure().String(); strings.Contains(text, "no such results") || !strings.Contains(text, "sealed.v1") {
		t.Errorf("the server reads %s", text)
	}
}
