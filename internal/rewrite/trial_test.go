package rewrite

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	commonpb "go.temporal.io/api/common/v1"
	workflowpb "go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// TestCandidateDecidesNothing: with a candidate that leaves everything readable, and opens nothing, calls are as without one.
func TestCandidateDecidesNothing(t *testing.T) {
	r := newRewriter(t, sealAll)
	candidate, err := policy.Load(t.Context(), policy.Options{Shipped: []byte(`package temporal

request contains {"action": "pass"}

response contains {"action": "deny"}
`)})
	if err != nil {
		t.Fatal(err)
	}
	differences := map[string]int{}
	r.trial = policy.NewTrial(func(d *policy.Difference) {
		differences[d.Kind+" "+d.From.Action+" "+d.To.Action]++
	})
	r.trial.Try(candidate)
	one, two := secret("CANARY-one").Payloads[0], secret("CANARY-two").Payloads[0]
	raw, err := request(t, r, "StartWorkflowExecution", bytesOf(t, &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace,
		WorkflowId: "w", Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{one, two, one}}}))
	if err != nil || bytes.Contains(raw, []byte("CANARY")) {
		t.Errorf("the request fails, or holds clear text: %v", err)
	}
	sent := new(workflowpb.StartWorkflowExecutionRequest)
	if err := proto.Unmarshal(raw, sent); err != nil {
		t.Fatal(err)
	}
	got := new(workflowpb.GetWorkflowExecutionHistoryResponse)
	if err := answerTo(t, r, nil, "GetWorkflowExecutionHistory", history(sent.Input.Payloads[0], nil), got); err != nil {
		t.Fatal(err)
	}
	if back := got.History.Events[0].GetWorkflowExecutionStartedEventAttributes().Input.Payloads[0]; !proto.Equal(back, one) {
		t.Errorf("the payload came back as %v", back)
	}
	// Each payload is compared, also those which share the verdict of the policy in force.
	if differences["input seal pass"] != 3 || differences["input open deny"] != 1 || len(differences) != 2 {
		t.Errorf("differences: %v", differences)
	}
}
