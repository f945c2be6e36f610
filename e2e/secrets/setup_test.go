// Package secrets looks for keys, credentials and payloads in everything that the built proxy says: to its callers, in its
// log, spans, metrics and pages, on its command line, and when it crashes; and for ways to its memory.
package secrets

import (
	"context"
	"fmt"
	"os"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

var upstream string

func TestMain(m *testing.M) {
	server, err := harness.StartTemporal(context.Background(), peers.TemporalOptions{Namespaces: []string{"default", "other", "third"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	upstream = server.Address
	code := m.Run()
	_ = server.Stop() // it is not what is tested here
	harness.RemoveProxy()
	os.Exit(code)
}

func connect(t *testing.T, address string) workflowservice.WorkflowServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return workflowservice.NewWorkflowServiceClient(conn)
}

func payload(text string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"` + text + `"`)}
}

func start(ctx context.Context, c workflowservice.WorkflowServiceClient, namespace, id string, input, memo *commonpb.Payload) error {
	_, err := c.StartWorkflowExecution(ctx, &workflowservice.StartWorkflowExecutionRequest{
		Namespace: namespace, WorkflowId: id, RequestId: id, WorkflowType: &commonpb.WorkflowType{Name: "Stored"},
		TaskQueue: &taskqueuepb.TaskQueue{Name: "nobody"}, Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{input}},
		Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"m": memo}},
	})
	return err
}

func history(ctx context.Context, c workflowservice.WorkflowServiceClient, namespace, id string) (*workflowservice.GetWorkflowExecutionHistoryResponse, error) {
	return c.GetWorkflowExecutionHistory(ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{
		Namespace: namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: id}})
}

func input(h *workflowservice.GetWorkflowExecutionHistoryResponse) *commonpb.Payload {
	return h.History.Events[0].GetWorkflowExecutionStartedEventAttributes().Input.Payloads[0]
}
