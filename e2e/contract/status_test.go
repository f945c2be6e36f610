package contract

import (
	"testing"

	"go.temporal.io/api/errordetails/v1"
	failurepb "go.temporal.io/api/failure/v1"
	querypb "go.temporal.io/api/query/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	spb "google.golang.org/genproto/googleapis/rpc/status"
)

type errorAnswer struct {
	method  string
	request proto.Message
	status  *spb.Status
}

// statusDetails are error answers that hold a failure in their details.
func statusDetails(t *testing.T, f *failurepb.Failure) map[string]errorAnswer {
	t.Helper()
	inner := packed(t, &errordetails.QueryFailedFailure{Failure: f})
	unknown := &anypb.Any{TypeUrl: "type.googleapis.com/example.Unknown", Value: []byte{8, 1}}
	return map[string]errorAnswer{
		"query": {
			"QueryWorkflow",
			&workflowservice.QueryWorkflowRequest{
				Namespace: "tasks",
				Execution: execution("w"),
				Query:     &querypb.WorkflowQuery{QueryType: "q"},
			},
			&spb.Status{Code: 3, Message: "query failed", Details: []*anypb.Any{unknown, inner}},
		},
		"multi-operation": {"ExecuteMultiOperation", &workflowservice.ExecuteMultiOperationRequest{Namespace: "tasks"},
			&spb.Status{Code: 3, Message: "multi", Details: []*anypb.Any{packed(t, &errordetails.MultiOperationExecutionFailure{
				Statuses: []*errordetails.MultiOperationExecutionFailure_OperationStatus{
					{Code: 3, Message: "one", Details: []*anypb.Any{inner, unknown}},
				}})}}},
	}
}
