package snapshots

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	namespacepb "go.temporal.io/api/namespace/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Names that make the upstream behave in a special way.
const (
	hangingWorkflow     = "hangs"      // a start of this workflow never ends
	unreadableNamespace = "unreadable" // nothing in it can be described
	endlessNamespace    = "endless"    // its second page of workflows never comes
	taskQueue           = "tasks"      // a poll gets a task of the workflow in its identity; other queues are empty
)

// upstream is a frontend that answers from a script: it keeps what was started, in memory, and shows it in a history.
// A workflow that was started in one namespace is found in every other one too, as in a database that somebody changed.
type upstream struct {
	workflowservice.UnimplementedWorkflowServiceServer
	address string

	hanging atomic.Int64 // calls that never end

	mu      sync.Mutex
	started map[string]*workflowservice.StartWorkflowExecutionRequest // by workflow id
}

func startUpstream(t *testing.T) *upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{address: l.Addr().String(), started: map[string]*workflowservice.StartWorkflowExecutionRequest{}}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	workflowservice.RegisterWorkflowServiceServer(s, u)
	go func() { _ = s.Serve(l) }() // ends with Stop
	t.Cleanup(s.Stop)
	return u
}

func (u *upstream) GetSystemInfo(
	context.Context, *workflowservice.GetSystemInfoRequest,
) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{}, nil
}

func (u *upstream) ListNamespaces(
	context.Context, *workflowservice.ListNamespacesRequest,
) (*workflowservice.ListNamespacesResponse, error) {
	return &workflowservice.ListNamespacesResponse{Namespaces: []*workflowservice.DescribeNamespaceResponse{
		{NamespaceInfo: &namespacepb.NamespaceInfo{Name: "default"}}}}, nil
}

func (u *upstream) DescribeNamespace(
	context.Context, *workflowservice.DescribeNamespaceRequest,
) (*workflowservice.DescribeNamespaceResponse, error) {
	return &workflowservice.DescribeNamespaceResponse{}, nil
}

func (u *upstream) StartWorkflowExecution(
	ctx context.Context, r *workflowservice.StartWorkflowExecutionRequest,
) (*workflowservice.StartWorkflowExecutionResponse, error) {
	if r.WorkflowId == hangingWorkflow {
		return nil, u.hang(ctx)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.started[r.WorkflowId] = r
	return &workflowservice.StartWorkflowExecutionResponse{RunId: "run"}, nil
}

func (u *upstream) hang(ctx context.Context) error {
	u.hanging.Add(1)
	<-ctx.Done()
	return status.FromContextError(ctx.Err()).Err()
}

func (u *upstream) PollWorkflowTaskQueue(
	ctx context.Context, r *workflowservice.PollWorkflowTaskQueueRequest,
) (*workflowservice.PollWorkflowTaskQueueResponse, error) {
	if r.GetTaskQueue().GetName() != taskQueue {
		return nil, u.hang(ctx)
	}
	history, err := u.history(r.Identity)
	if err != nil {
		return nil, err
	}
	return &workflowservice.PollWorkflowTaskQueueResponse{
		TaskToken: []byte("token"), History: history, StartedEventId: 3, Attempt: 1,
		WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: r.Identity, RunId: "run"},
		WorkflowType:      &commonpb.WorkflowType{Name: "Any"},
	}, nil
}

func (u *upstream) ListWorkflowExecutions(
	ctx context.Context, r *workflowservice.ListWorkflowExecutionsRequest,
) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	if len(r.NextPageToken) > 0 {
		return nil, u.hang(ctx)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	a := &workflowservice.ListWorkflowExecutionsResponse{}
	if r.Namespace == endlessNamespace {
		a.NextPageToken = []byte("more")
	}
	add := func(id string) {
		run := &commonpb.WorkflowExecution{WorkflowId: id, RunId: "run-" + id}
		a.Executions = append(a.Executions, &workflowpb.WorkflowExecutionInfo{Execution: run})
	}
	switch {
	case strings.HasPrefix(r.Query, "ExecutionStatus IN ('Running', 'Paused')"):
		add("person")
		add("another")
	case r.Query != "": // the server's own workflows
	default:
		for id := range u.started {
			add(id)
		}
	}
	return a, nil
}

func (u *upstream) DescribeWorkflowExecution(
	_ context.Context, r *workflowservice.DescribeWorkflowExecutionRequest,
) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	if r.Namespace == unreadableNamespace {
		return nil, status.Error(codes.PermissionDenied, "not for you")
	}
	return &workflowservice.DescribeWorkflowExecutionResponse{PendingActivities: []*workflowpb.PendingActivityInfo{{ActivityId: "1", Attempt: 2}},
		PendingChildren: []*workflowpb.PendingChildExecutionInfo{{}}}, nil
}

func (u *upstream) TerminateWorkflowExecution(
	context.Context, *workflowservice.TerminateWorkflowExecutionRequest,
) (*workflowservice.TerminateWorkflowExecutionResponse, error) {
	return &workflowservice.TerminateWorkflowExecutionResponse{}, nil
}

func (u *upstream) GetWorkflowExecutionHistory(
	_ context.Context, r *workflowservice.GetWorkflowExecutionHistoryRequest,
) (*workflowservice.GetWorkflowExecutionHistoryResponse, error) {
	history, err := u.history(r.GetExecution().GetWorkflowId())
	return &workflowservice.GetWorkflowExecutionHistoryResponse{History: history}, err
}

func (u *upstream) history(id string) (*historypb.History, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.started[id]
	if s == nil {
		return nil, status.Error(codes.NotFound, "no such workflow")
	}
	return &historypb.History{Events: []*historypb.HistoryEvent{{
		EventId: 1, EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED,
		Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
			WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{
				WorkflowType: s.WorkflowType, Input: s.Input, Memo: s.Memo, Header: s.Header,
				CronSchedule: "@daily", RetryPolicy: &commonpb.RetryPolicy{}}},
	}}}, nil
}

// text is a payload as SDKs make it from a string.
func text(value string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"` + value + `"`)}
}

// startRequest starts a workflow with one input.
func startRequest(namespace, id string) *workflowservice.StartWorkflowExecutionRequest {
	return &workflowservice.StartWorkflowExecutionRequest{Namespace: namespace, WorkflowId: id, RequestId: id,
		WorkflowType: &commonpb.WorkflowType{Name: "Any"},
		Input:        &commonpb.Payloads{Payloads: []*commonpb.Payload{text("value")}}}
}

func historyRequest(namespace, id string) *workflowservice.GetWorkflowExecutionHistoryRequest {
	return &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: namespace,
		Execution: &commonpb.WorkflowExecution{WorkflowId: id}}
}
