package contract

import (
	"strings"
	"testing"

	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
)

// TestValuesThatDoNotOpenAreReported: a call that succeeds although a value in it does not open leaves a count and a line in the
// log, as does one that fails: an alert for changed data must see both.
func TestValuesThatDoNotOpenAreReported(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	sealed := r.seal(t, "orders", text("CANARY"))[0]
	sealed = proto.CloneOf(sealed)
	sealed.Data[len(sealed.Data)-1] ^= 1
	query := &workflowservice.QueryWorkflowRequest{Namespace: "orders", Execution: execution("w")}
	r.send(t, "QueryWorkflow", query,
		reply("QueryWorkflow", &workflowservice.QueryWorkflowResponse{QueryResult: list(sealed)})).want(t, "OK")
	history := &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "orders", Execution: execution("w")}
	r.send(t, "GetWorkflowExecutionHistory", history,
		reply("GetWorkflowExecutionHistory", &workflowservice.GetWorkflowExecutionHistoryResponse{
			History: &historypb.History{Events: []*historypb.HistoryEvent{{EventId: 1,
				Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
					WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{Input: list(sealed)}}}}}})).want(t, "DataLoss")
	_, page := r.admin(t, "/metrics")
	if !strings.Contains(page, `temporal_seal_unopened_total{reason="tampered"} 2`+"\n") {
		t.Error("2 values did not open, and the metric does not say so")
	}
	lines := 0
	for _, line := range r.proxy.Log.Lines() {
		if line["msg"] == "a sealed value does not open" && line["reason"] == "tampered" && line["workflow_id"] == "w" {
			lines++
		}
	}
	if lines != 2 {
		t.Errorf("%d lines in the log, want one for each method", lines)
	}
}
