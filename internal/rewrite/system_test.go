package rewrite

import (
	"bytes"
	"errors"
	"testing"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

func nexusCommand(endpoint string, input *commonpb.Payload) *workflowpb.RespondWorkflowTaskCompletedRequest {
	return &workflowpb.RespondWorkflowTaskCompletedRequest{Namespace: testNamespace, Commands: []*commandpb.Command{{
		Attributes: &commandpb.Command_ScheduleNexusOperationCommandAttributes{ScheduleNexusOperationCommandAttributes: &commandpb.ScheduleNexusOperationCommandAttributes{
			Endpoint: endpoint, Service: "WorkflowService", Operation: "SignalWithStartWorkflowExecution", Input: input}}}}}
}

func systemInput(t *testing.T, encoding string) *commonpb.Payload {
	t.Helper()
	m := &workflowpb.SignalWithStartWorkflowExecutionRequest{Namespace: testNamespace, WorkflowId: "w", SignalName: "s",
		Input: secret("CANARY-input"), SignalInput: secret("CANARY-signal"),
		SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{"a": secret("readable").Payloads[0]}}}
	data, err := proto.Marshal(m)
	if encoding == "json/protobuf" {
		data, err = protojson.Marshal(m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &commonpb.Payload{Data: data, Metadata: map[string][]byte{"encoding": []byte(encoding),
		"messageType": []byte("temporal.api.workflowservice.v1.SignalWithStartWorkflowExecutionRequest"), "__temporal_system_payload": []byte("true")}}
}

// TestSystemInputs: the input of an operation that the server runs itself
// stays a request that it can read, with sealed payloads in it. The same
// payload for any other endpoint is sealed whole, whatever it says of itself.
func TestSystemInputs(t *testing.T) {
	r := newRewriter(t, sealAll)
	m := r.Method(service + "RespondWorkflowTaskCompleted")
	for _, encoding := range []string{"binary/protobuf", "json/protobuf"} {
		t.Run(encoding, func(t *testing.T) {
			in := nexusCommand(systemEndpoint, systemInput(t, encoding))
			out, err := request(t, r, m.name, bytesOf(t, in))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(out, []byte(canaryMark)) {
				t.Fatal("clear text is left")
			}
			sent := new(workflowpb.RespondWorkflowTaskCompletedRequest)
			if err := proto.Unmarshal(out, sent); err != nil {
				t.Fatal(err)
			}
			input := sent.Commands[0].GetScheduleNexusOperationCommandAttributes().Input
			read := new(workflowpb.SignalWithStartWorkflowExecutionRequest)
			if encoding == "json/protobuf" {
				err = protojson.Unmarshal(input.Data, read)
			} else {
				err = proto.Unmarshal(input.Data, read)
			}
			if err != nil || string(input.Metadata["encoding"]) != encoding {
				t.Fatalf("the server could not read the input: %v", err)
			}
			if e := string(read.SignalInput.Payloads[0].Metadata["encoding"]); e != "binary/sealed.v1" {
				t.Errorf("the signal's input has the encoding %q", e)
			}
			if e := string(read.SearchAttributes.IndexedFields["a"].Metadata["encoding"]); e != "json/plain" {
				t.Errorf("the search attribute has the encoding %q", e)
			}
			back, err := unsealed(t, r, m, m.request.desc, out)
			if err != nil {
				t.Fatal(err)
			}
			restored := new(workflowpb.RespondWorkflowTaskCompletedRequest)
			if err := proto.Unmarshal(back, restored); err != nil {
				t.Fatal(err)
			}
			data := restored.Commands[0].GetScheduleNexusOperationCommandAttributes().Input.Data
			if encoding == "json/protobuf" { // its payloads are in base64
				read := new(workflowpb.SignalWithStartWorkflowExecutionRequest)
				if err := protojson.Unmarshal(data, read); err != nil {
					t.Fatal(err)
				}
				data = bytesOf(t, read)
			}
			if bytes.Count(data, []byte(canaryMark)) != 2 {
				t.Error("not restored")
			}
		})
	}
	t.Run("another endpoint", func(t *testing.T) {
		out, err := request(t, r, m.name, bytesOf(t, nexusCommand("billing", systemInput(t, "binary/protobuf"))))
		if err != nil || bytes.Contains(out, []byte("SignalWithStartWorkflowExecutionRequest")) {
			t.Errorf("not sealed whole: %v", err)
		}
	})
	t.Run("what is no request", func(t *testing.T) {
		input := systemInput(t, "binary/protobuf")
		input.Metadata["messageType"] = []byte("no.such.Message")
		_, err := request(t, r, m.name, bytesOf(t, nexusCommand(systemEndpoint, input)))
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("accepted: %v", err)
		}
	})
}
