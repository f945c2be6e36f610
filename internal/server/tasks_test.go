package server

import (
	"context"
	"fmt"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	querypb "go.temporal.io/api/query/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// taskFrontend hands out tasks and keeps what is answered to them.
type taskFrontend struct {
	frontend
	workflowTask   *workflowservice.PollWorkflowTaskQueueResponse
	activityFailed []*workflowservice.RespondActivityTaskFailedRequest
	workflowFailed []*workflowservice.RespondWorkflowTaskFailedRequest
	queryDone      []*workflowservice.RespondQueryTaskCompletedRequest
}

func (f *taskFrontend) PollWorkflowTaskQueue(context.Context, *workflowservice.PollWorkflowTaskQueueRequest) (*workflowservice.PollWorkflowTaskQueueResponse, error) {
	return f.workflowTask, nil
}

func (f *taskFrontend) RespondActivityTaskFailed(_ context.Context, q *workflowservice.RespondActivityTaskFailedRequest) (*workflowservice.RespondActivityTaskFailedResponse, error) {
	f.activityFailed = append(f.activityFailed, q)
	return &workflowservice.RespondActivityTaskFailedResponse{}, nil
}

func (f *taskFrontend) RespondWorkflowTaskFailed(_ context.Context, q *workflowservice.RespondWorkflowTaskFailedRequest) (*workflowservice.RespondWorkflowTaskFailedResponse, error) {
	f.workflowFailed = append(f.workflowFailed, q)
	return &workflowservice.RespondWorkflowTaskFailedResponse{}, nil
}

func (f *taskFrontend) RespondQueryTaskCompleted(_ context.Context, q *workflowservice.RespondQueryTaskCompletedRequest) (*workflowservice.RespondQueryTaskCompletedResponse, error) {
	f.queryDone = append(f.queryDone, q)
	return &workflowservice.RespondQueryTaskCompletedResponse{}, nil
}

// startTasks serves f, with a proxy whose policy denies results with the word forbidden in them.
func startTasks(t *testing.T, f *taskFrontend) workflowservice.WorkflowServiceClient {
	t.Helper()
	startService(t, &f.frontend, f)
	const rego = `package temporal

request contains {"action": "deny", "reason": "no such results"} if {
	input.payload.kind in {"result", "input", "query"}
	input.content.json == "forbidden"
}

response contains {"action": "open"}
`
	return startProxy(t, &f.frontend, func(o *Options) {
		engine, err := policy.NewEngine(context.Background(), policy.Options{Shipped: []byte(rego), KeyRank: o.Keys.Rank, DefaultKey: o.Keys.DefaultKey})
		if err != nil {
			t.Fatal(err)
		}
		if o.Rewriter, err = rewrite.New(rewrite.Options{Keys: o.Keys, Policy: engine, Log: o.Log}); err != nil {
			t.Fatal(err)
		}
	}).client(t)
}

// damaged is an envelope of ours that cannot be opened by anyone.
func damaged() *commonpb.Payloads {
	return &commonpb.Payloads{Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("binary/sealed.v1")}, Data: []byte("damaged")}}}
}

func historyWith(input *commonpb.Payloads) *historypb.History {
	return &historypb.History{Events: []*historypb.HistoryEvent{{EventId: 1, Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
		WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{Input: input}}}}}
}

func TestActivityThatCannotBeOpenedFailsWithAReason(t *testing.T) {
	f := &taskFrontend{}
	scaling := &taskqueuepb.PollerScalingDecision{PollRequestDeltaSuggestion: 2}
	f.poll = func(context.Context, *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
		return &workflowservice.PollActivityTaskQueueResponse{TaskToken: []byte("token"), Input: damaged(), PollerScalingDecision: scaling}, nil
	}
	c := startTasks(t, f)
	got, err := c.PollActivityTaskQueue(testContext(t), &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"})
	if err != nil || len(got.GetTaskToken()) > 0 || got.GetInput() != nil {
		t.Errorf("the worker got %v, %v; want an empty poll", got, err)
	}
	if got.GetPollerScalingDecision().GetPollRequestDeltaSuggestion() != 2 {
		t.Error("the hint for autoscaling is gone, so the worker would take a poller away")
	}
	if len(f.activityFailed) != 1 {
		t.Fatalf("%d tasks were failed", len(f.activityFailed))
	}
	q := f.activityFailed[0]
	info := q.GetFailure().GetApplicationFailureInfo()
	if string(q.GetTaskToken()) != "token" || q.GetNamespace() != "clinic" || info == nil || info.GetNonRetryable() || !strings.Contains(q.GetFailure().GetMessage(), "not given this task") {
		t.Errorf("the task was failed with %v", q)
	}
}

func TestWorkflowTaskThatCannotBeOpenedFailsOnce(t *testing.T) {
	for attempt, want := range map[int32]int{1: 1, 2: 0, 7: 0} {
		f := &taskFrontend{workflowTask: &workflowservice.PollWorkflowTaskQueueResponse{TaskToken: []byte("token"), Attempt: attempt, History: historyWith(damaged())}}
		c := startTasks(t, f)
		got, err := c.PollWorkflowTaskQueue(testContext(t), &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "clinic"})
		if err != nil || len(got.GetTaskToken()) > 0 || got.GetHistory() != nil {
			t.Errorf("attempt %d: the worker got %v, %v; want an empty poll", attempt, got, err)
		}
		if len(f.workflowFailed) != want {
			t.Errorf("attempt %d: failed %d times, want %d", attempt, len(f.workflowFailed), want)
		}
	}
}

func TestQueryTaskThatCannotBeOpenedIsAnswered(t *testing.T) {
	f := &taskFrontend{workflowTask: &workflowservice.PollWorkflowTaskQueueResponse{TaskToken: []byte("token"), Query: &querypb.WorkflowQuery{QueryType: "q", QueryArgs: damaged()}, PollerGroupId: "g"}}
	c := startTasks(t, f)
	if got, err := c.PollWorkflowTaskQueue(testContext(t), &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "clinic"}); err != nil || len(got.GetTaskToken()) > 0 {
		t.Errorf("the worker got %v, %v", got, err)
	}
	if len(f.queryDone) != 1 || f.queryDone[0].GetCompletedType() != enumspb.QUERY_RESULT_TYPE_FAILED || f.queryDone[0].GetPollerGroupId() != "g" {
		t.Errorf("the query was answered with %v", f.queryDone)
	}
}

func TestResultThatThePolicyDeniesFailsItsTask(t *testing.T) {
	f := &taskFrontend{}
	c := startTasks(t, f)
	ctx := testContext(t)
	_, err := c.RespondActivityTaskCompleted(ctx, &workflowservice.RespondActivityTaskCompletedRequest{Namespace: "clinic", TaskToken: []byte("token"), Identity: "w", Result: payloads([]byte(`"forbidden"`))})
	if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "no such results") {
		t.Errorf("the worker got %v", err)
	}
	if len(f.activityFailed) != 1 {
		t.Fatalf("%d tasks were failed: %v", len(f.activityFailed), f.calls())
	}
	q := f.activityFailed[0]
	if info := q.GetFailure().GetApplicationFailureInfo(); info.GetType() != "PolicyDenied" || !info.GetNonRetryable() || q.GetIdentity() != "w" || strings.Contains(fmt.Sprint(q), "forbidden") {
		t.Errorf("failed with %v", q)
	}
	_, err = c.RespondActivityTaskFailed(ctx, &workflowservice.RespondActivityTaskFailedRequest{Namespace: "clinic", TaskToken: []byte("token"), Failure: &failurepb.Failure{Message: "ordinary"}})
	if err != nil || len(f.activityFailed) != 2 {
		t.Errorf("an ordinary failure: %v", err)
	}
	_, err = c.RespondQueryTaskCompleted(ctx, &workflowservice.RespondQueryTaskCompletedRequest{Namespace: "clinic", TaskToken: []byte("token"), QueryResult: payloads([]byte(`"forbidden"`))})
	if status.Code(err) != codes.NotFound || len(f.queryDone) != 1 || f.queryDone[0].GetCompletedType() != enumspb.QUERY_RESULT_TYPE_FAILED {
		t.Errorf("a query's answer: %v, %v", err, f.queryDone)
	}
	// What answers no task is just refused.
	if _, err = c.StartWorkflowExecution(ctx, startRequest([]byte(`"forbidden"`))); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a start: %v", err)
	}
}

// Every kind of error has a code of its own choosing: Internal would say that the proxy is at fault.
func TestEveryKindOfRewritingErrorHasACode(t *testing.T) {
	for kind := rewrite.Kind(1); kind.String() != "unknown"; kind++ {
		if got := codeOf(&rewrite.Error{Kind: kind, RPC: "X", Err: fmt.Errorf("x")}); got == codes.Internal {
			t.Errorf("%v: %v", kind, got)
		}
	}
}
