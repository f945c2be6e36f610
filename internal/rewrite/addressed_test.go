package rewrite

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// crossing starts a child and signals a workflow, in the given namespaces.
func crossing(child, signal string) *workflowpb.RespondWorkflowTaskCompletedRequest {
	return &workflowpb.RespondWorkflowTaskCompletedRequest{Namespace: testNamespace, Commands: []*commandpb.Command{
		{Attributes: &commandpb.Command_StartChildWorkflowExecutionCommandAttributes{StartChildWorkflowExecutionCommandAttributes: &commandpb.StartChildWorkflowExecutionCommandAttributes{
			Namespace: child, WorkflowId: "c", Input: secret("CANARY-child")}}},
		{Attributes: &commandpb.Command_SignalExternalWorkflowExecutionCommandAttributes{SignalExternalWorkflowExecutionCommandAttributes: &commandpb.SignalExternalWorkflowExecutionCommandAttributes{
			Namespace: signal, Execution: &commonpb.WorkflowExecution{WorkflowId: "s"}, Input: secret("CANARY-signal")}}},
	}}
}

func crossed(t *testing.T, rego string, in proto.Message) (child, signal *commonpb.Payload, err error) {
	t.Helper()
	r := newRewriter(t, rego)
	raw, err := request(t, r, "RespondWorkflowTaskCompleted", bytesOf(t, in))
	if err != nil {
		return nil, nil, err
	}
	out := new(workflowpb.RespondWorkflowTaskCompletedRequest)
	if err := proto.Unmarshal(raw, out); err != nil {
		t.Fatal(err)
	}
	return out.Commands[0].GetStartChildWorkflowExecutionCommandAttributes().Input.Payloads[0],
		out.Commands[1].GetSignalExternalWorkflowExecutionCommandAttributes().Input.Payloads[0], nil
}

func isSealed(p *commonpb.Payload) bool {
	return bytes.HasPrefix(p.Metadata["encoding"], []byte("binary/sealed")) && !bytes.Contains(p.Data, []byte(canaryMark))
}

// passHere lets this namespace's payloads pass. What other namespaces have to say comes behind.
const passHere = `package temporal

response contains {"action": "open"}

request contains {"action": "pass"} if input.namespace == "` + testNamespace + `"
`

// TestAddressedElsewhere: a command to another namespace satisfies the policy of that one too, and neighbours that stay
// in their own namespace are not concerned.
func TestAddressedElsewhere(t *testing.T) {
	t.Run("the target seals", func(t *testing.T) {
		child, signal, err := crossed(t, passHere, crossing("billing", testNamespace))
		if err != nil {
			t.Fatal(err)
		}
		if !isSealed(child) {
			t.Error("the child's input went in clear to a namespace whose policy seals it")
		}
		if isSealed(signal) {
			t.Error("a signal within the namespace was sealed, which its policy does not ask for")
		}
		raw := bytesOf(t, child)
		if s, marked, err := envelope.ParsePayload(raw); err != nil || !marked || s.Header.Namespace != testNamespace {
			t.Errorf("sealed in %q (%v), it should be in the request's namespace", s.Header.Namespace, err)
		}
	})
	t.Run("the target passes", func(t *testing.T) {
		rego := passHere + "\nrequest contains {\"action\": \"pass\"} if input.namespace == \"billing\"\n"
		child, signal, err := crossed(t, rego, crossing("billing", "billing"))
		if err != nil {
			t.Fatal(err)
		}
		if isSealed(child) || isSealed(signal) {
			t.Error("sealed, though both policies let it pass")
		}
	})
	t.Run("the target denies", func(t *testing.T) {
		rego := passHere + "\nrequest contains {\"action\": \"deny\", \"reason\": \"no mail\"} if input.namespace == \"billing\"\n"
		_, _, err := crossed(t, rego, crossing(testNamespace, "billing"))
		var e *Error
		if !errors.As(err, &e) || e.Kind != KindDenied || !strings.Contains(err.Error(), "no mail") || !strings.Contains(err.Error(), `"billing"`) {
			t.Errorf("not denied by the target's policy: %v", err)
		}
	})
	t.Run("the target accepts", func(t *testing.T) {
		r := newRewriter(t, passHere+"\nrequest contains {\"action\": \"accept\"} if input.namespace == \"billing\"\n")
		s := r.Begin(r.Method(service+"RespondWorkflowTaskCompleted"), &policy.Caller{Kind: "mtls", Subject: "worker"})
		defer s.Done()
		s.call.namespace = testNamespace
		raw, err := s.Request(t.Context(), bytesOf(t, crossing("billing", testNamespace)))
		if err != nil {
			t.Fatal(err)
		}
		out := new(workflowpb.RespondWorkflowTaskCompletedRequest)
		if err := proto.Unmarshal(raw, out); err != nil {
			t.Fatal(err)
		}
		if !isSealed(out.Commands[0].GetStartChildWorkflowExecutionCommandAttributes().Input.Payloads[0]) {
			t.Error("the child's input went in clear to a namespace whose policy takes only what is sealed already as it is")
		}
		if isSealed(out.Commands[1].GetSignalExternalWorkflowExecutionCommandAttributes().Input.Payloads[0]) {
			t.Error("a signal within the namespace was sealed, which its policy does not ask for")
		}
	})
	t.Run("members here, the whole there", func(t *testing.T) {
		rego := strings.Replace(passHere, `{"action": "pass"}`, `{"action": "seal", "key": "default", "fields": ["/v"]}`, 1)
		in, object := crossing("billing", testNamespace), secret("CANARY-1")
		object.Payloads[0].Data = []byte(`{"v": "CANARY-1"}`)
		in.Commands[0].GetStartChildWorkflowExecutionCommandAttributes().Input = object
		in.Commands[1].GetSignalExternalWorkflowExecutionCommandAttributes().Input = object
		child, signal, err := crossed(t, rego, in)
		if err != nil {
			t.Fatal(err)
		}
		if !isSealed(child) {
			t.Errorf("a part of the child's input is readable in a namespace that seals the whole: %s", child.Metadata["encoding"])
		}
		if string(signal.Metadata["encoding"]) != "json/sealed.v1" {
			t.Errorf("the signal stays at home and was sealed as %s, not by members", signal.Metadata["encoding"])
		}
	})
	t.Run("compressed here, not there", func(t *testing.T) {
		rego := strings.Replace(passHere, `{"action": "pass"}`, `{"action": "seal", "key": "default", "compress": true}`, 1)
		in, long := crossing("billing", testNamespace), secret(strings.Repeat("CANARY-", 500)) // shorter ones are not worth it
		in.Commands[0].GetStartChildWorkflowExecutionCommandAttributes().Input = long
		in.Commands[1].GetSignalExternalWorkflowExecutionCommandAttributes().Input = long
		child, signal, err := crossed(t, rego, in)
		if err != nil {
			t.Fatal(err)
		}
		for name, p := range map[string]*commonpb.Payload{"child": child, "signal": signal} {
			s, _, err := envelope.ParsePayload(bytesOf(t, p))
			if err != nil {
				t.Fatal(err)
			}
			if compressed := s.PlainSize() < 500; compressed != (name == "signal") {
				t.Errorf("%s: compressed is %v", name, compressed)
			}
		}
	})
}
