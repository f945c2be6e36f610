package scan

import (
	"errors"
	"strings"
	"testing"

	activitypb "go.temporal.io/api/activity/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// TestRunning: each kind of what runs is found by the key of its payloads, and what holds others, or has ended, is not.
func TestRunning(t *testing.T) {
	p, _ := sealedPayload(t, "x")
	other, _ := sealedPayload(t, "x")
	raw, err := proto.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	sealed, _, err := envelope.ParsePayload(raw)
	if err != nil {
		t.Fatal(err)
	}
	input := func(p *commonpb.Payload) *commonpb.Payloads {
		return &commonpb.Payloads{Payloads: []*commonpb.Payload{p}}
	}
	started := func(p *commonpb.Payload) *workflowservice.GetWorkflowExecutionHistoryResponse {
		h := historyOf(p)
		a := h.GetHistory().GetEvents()[0].GetWorkflowExecutionStartedEventAttributes()
		a.CronSchedule, a.RetryPolicy = "@daily", &commonpb.RetryPolicy{}
		return h
	}
	more := started(p)
	more.NextPageToken = []byte("more")
	s := script(map[string][]any{
		"ListWorkflowExecutions": {status.Error(codes.InvalidArgument, "invalid ExecutionStatus value 'Paused'"), &workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{
			execution("1"), execution("2"), execution("3"), execution("4")}}, &workflowservice.ListWorkflowExecutionsResponse{}},
		"DescribeWorkflowExecution": {&workflowservice.DescribeWorkflowExecutionResponse{PendingActivities: []*workflowpb.PendingActivityInfo{
			{ActivityId: "5", Attempt: 3}, {ActivityId: "6", Attempt: 1}},
			PendingChildren: []*workflowpb.PendingChildExecutionInfo{{}, {}}}, &workflowservice.DescribeWorkflowExecutionResponse{}},
		"GetWorkflowExecutionHistory": {more, &workflowservice.GetWorkflowExecutionHistoryResponse{History: &historypb.History{}}, historyOf(other),
			historyOf(&commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/sealed.v1")}, Data: []byte("damaged")})},
		"ListSchedules": {&workflowservice.ListSchedulesResponse{Schedules: []*schedulepb.ScheduleListEntry{{ScheduleId: "nightly"}}}},
		"DescribeSchedule": {&workflowservice.DescribeScheduleResponse{Schedule: &schedulepb.Schedule{Action: &schedulepb.ScheduleAction{
			Action: &schedulepb.ScheduleAction_StartWorkflow{StartWorkflow: &workflowpb.NewWorkflowExecutionInfo{Input: input(p)}}}}}},
		"ListActivityExecutions": {&workflowservice.ListActivityExecutionsResponse{Executions: []*activitypb.ActivityExecutionListInfo{{}, {}, {}}}},
		"DescribeActivityExecution": {
			&workflowservice.DescribeActivityExecutionResponse{Input: input(p),
				Info: &activitypb.ActivityExecutionInfo{ActivityId: "alone", RunId: "a", Status: enumspb.ACTIVITY_EXECUTION_STATUS_RUNNING}},
			&workflowservice.DescribeActivityExecutionResponse{Input: input(p),
				Info: &activitypb.ActivityExecutionInfo{ActivityId: "over", Status: enumspb.ACTIVITY_EXECUTION_STATUS_COMPLETED}},
			&workflowservice.DescribeActivityExecutionResponse{Input: input(p),
				Info: &activitypb.ActivityExecutionInfo{ActivityId: "paused", RunId: "b", Status: enumspb.ACTIVITY_EXECUTION_STATUS_PAUSED}}},
		"ListNexusOperationExecutions": {&workflowservice.ListNexusOperationExecutionsResponse{Operations: []*nexuspb.NexusOperationExecutionListInfo{{}}}},
		"DescribeNexusOperationExecution": {&workflowservice.DescribeNexusOperationExecutionResponse{Input: p,
			Info: &nexuspb.NexusOperationExecutionInfo{OperationId: "op", RunId: "n", Status: enumspb.NEXUS_OPERATION_EXECUTION_STATUS_RUNNING}}},
		"ListWorkerDeployments": {errors.New("deployments do not run")},
	})
	running := Running{Rewriter: scanner(t, nil).options.Rewriter, Keys: map[crypto.KeyID]bool{sealed.Header.ID: true}, Most: 3}
	options := running.Options("A = 1")
	if want := "ExecutionStatus IN ('Running', 'Paused') AND (A = 1)"; options.Query != want {
		t.Errorf("the query is %q", options.Query)
	}
	options.Rate = 1e6
	var state State
	if err := New(options).Run(t.Context(), s, "ns", &state); err != nil {
		t.Fatal(err)
	}
	if n := s.calls["ListWorkflowExecutions"]; n != 2 {
		t.Errorf("workflows are listed %d times: a server that does not know the status Paused is asked for what runs", n)
	}
	if n := state.Namespaces["ns"]; n.Unread != 0 || len(running.Unread) != 1 || running.Beyond != 1 {
		t.Errorf("unread: %v and %v, and %d workflows", n.Reasons, running.Unread, running.Beyond)
	}
	want := []Holder{{Kind: "workflow", ID: "w-1", RunID: "1", Cron: "@daily", Retries: true, Retrying: []string{"5"}, Children: 2}, {Kind: "schedule", ID: "nightly"},
		{Kind: "activity", ID: "alone", RunID: "a"}, {Kind: "activity", ID: "paused", RunID: "b"}, {Kind: "nexus operation", ID: "op", RunID: "n"}}
	if len(running.Holders) != len(want) {
		t.Fatalf("%d holders: %+v", len(running.Holders), running.Holders)
	}
	for i, h := range running.Holders {
		if h.Kind != want[i].Kind || h.ID != want[i].ID || h.RunID != want[i].RunID || h.Cron != want[i].Cron || h.Retries != want[i].Retries ||
			len(h.Retrying) != len(want[i].Retrying) || h.Children != want[i].Children {
			t.Errorf("got %+v, want %+v", h, want[i])
		}
	}
	ends := &workflowservice.TerminateWorkflowExecutionResponse{}
	s.answers["TerminateWorkflowExecution"] = []any{status.Error(codes.PermissionDenied, "w-1"), status.Error(codes.NotFound, "w-1"), ends}
	for _, want := range []string{"the run 1 was not terminated: PermissionDenied", "search again", ""} {
		failed := strings.Join(running.Terminate(t.Context(), s, "ns", "why", 1e6), "")
		if !strings.Contains(failed, want) || (failed == "") != running.Holders[0].Terminated {
			t.Errorf("terminated %t, with %q", running.Holders[0].Terminated, failed)
		}
	}
	if n := s.calls["TerminateWorkflowExecution"]; n != 3 || running.Holders[1].Terminated {
		t.Errorf("%d calls: schedules cannot be terminated", n)
	}
}
