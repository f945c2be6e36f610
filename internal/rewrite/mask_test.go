package rewrite

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	protocolpb "go.temporal.io/api/protocol/v1"
	updatepb "go.temporal.io/api/update/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
)

const masking = `package temporal

request contains {"action": "mask", "fields": ["/ssn"]} if input.payload.kind == "input"

request contains {"action": "mask", "fields": ["/ssn", "/cards/*/number"], "missing": "pass"} if input.payload.kind == "signal"

request contains {"action": "seal", "key": "phi", "fields": ["/name"]} if input.payload.kind == "signal"

request contains {"action": "mask", "fields": ["/ssn"]} if {
	input.payload.kind in {"memo", "update"}
	not contains(input.payload.path, "accepted_request")
	not contains(input.payload.path, "upserted_memo")
}

response contains {"action": "open"}
`

// opensTo opens a sealed payload.
func opensTo(t *testing.T, r *Rewriter, p *commonpb.Payload) string {
	t.Helper()
	raw := bytesOf(t, p)
	s, marked, err := envelope.ParsePayload(raw)
	if err != nil || !marked {
		t.Fatalf("not sealed: %v, error %v", p, err)
	}
	out, _, err := r.state.Load().Keys.Open(t.Context(), nil, &s, testNamespace, new(keyring.Run))
	if err != nil {
		t.Fatal(err)
	}
	clear := new(commonpb.Payload)
	if err := proto.Unmarshal(out, clear); err != nil {
		t.Fatal(err)
	}
	return string(clear.Data)
}

// TestMasked: of what rules mask, nothing is in the envelope either.
func TestMasked(t *testing.T) {
	r := newRewriter(t, masking)
	sealed, err := starting(t, r, `{"ssn":"CANARY","x":1}`, `{"ssn":{"a":["CANARY"]},"x":2}`)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{`{"ssn":"***","x":1}`, `{"ssn":{},"x":2}`} {
		if got := opensTo(t, r, sealed[i]); got != want {
			t.Errorf("opens to %s; want %s", got, want)
		}
	}
	for _, document := range []string{`{"SSN":"CANARY"}`, `"CANARY"`, `not JSON, CANARY`, `{"ssn":"CANARY","ssn":1}`} {
		_, err := starting(t, r, `{"ssn":1}`, document)
		if err == nil || err.(*Error).Kind != KindDenied || !strings.Contains(err.Error(), "cannot be masked") || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: %v", document, err)
		}
	}
}

// signaling sends documents by one signal, and returns what the server gets, and what is counted.
func signaling(t *testing.T, r *Rewriter, payloads ...*commonpb.Payload) ([]*commonpb.Payload, Outcomes) {
	t.Helper()
	c := r.call(r.Method(service + "SignalWorkflowExecution"))
	defer c.Done()
	out, err := c.Request(context.Background(), bytesOf(t, &workflowservice.SignalWorkflowExecutionRequest{Namespace: testNamespace,
		WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: "w"}, Input: &commonpb.Payloads{Payloads: payloads}}))
	if err != nil {
		t.Fatal(err)
	}
	q := new(workflowservice.SignalWorkflowExecutionRequest)
	if err := proto.Unmarshal(out, q); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(out, []byte("CANARY")) {
		t.Errorf("in clear: %q", out)
	}
	return q.Input.Payloads, slices.Clone(c.RequestStats().Outcomes)
}

// TestMaskedAndSealedInParts: masking comes before what else rules do, and only what was masked counts as such.
func TestMaskedAndSealedInParts(t *testing.T) {
	r := newRewriter(t, masking)
	got, counted := signaling(t, r, jsonOf(`{"name":"CANARY","cards":[{"number":"CANARY"},{}],"x":1}`), jsonOf(`{"name":"CANARY","y":2}`),
		&commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/null")}})
	if view := string(got[0].Data); view != `{"name":"[sealed]","cards":[{"number":"***"},{}],"x":1}` {
		t.Errorf("readable: %s", view)
	}
	if document := opensTo(t, r, got[0]); document != `{"name":"CANARY","cards":[{"number":"***"},{}],"x":1}` {
		t.Errorf("opens to %s", document)
	}
	if view := string(got[1].Data); view != `{"name":"[sealed]","y":2}` {
		t.Errorf("readable: %s", view)
	}
	if document := opensTo(t, r, got[2]); document != "" {
		t.Errorf("an empty value opens to %s", document)
	}
	counts := map[Outcome]int{}
	for _, c := range counted {
		counts[c.Outcome] += c.N
	}
	if counts[Masked] != 1 || counts[Sealed] != 2 {
		t.Errorf("counted %v", counts)
	}
}

// TestSealedWithinMasked: a member that rules seal, and that was within one that is masked, is not missing: the document stays readable.
func TestSealedWithinMasked(t *testing.T) {
	r := newRewriter(t, `package temporal

request contains {"action": "mask", "fields": ["/patient"]} if input.payload.kind == "signal"

request contains {"action": "seal", "fields": ["/patient/ssn", "/name"]} if input.payload.kind == "signal"
`)
	got, _ := signaling(t, r, jsonOf(`{"patient":{"ssn":"CANARY"},"name":"CANARY","y":2}`), jsonOf(`{"patient":{"ssn":1},"NAME":"CANARY"}`))
	if view := string(got[0].Data); view != `{"patient":{},"name":"[sealed]","y":2}` {
		t.Errorf("readable: %s", view)
	}
	if bytes.Contains(got[1].Data, []byte("patient")) {
		t.Error("a document without another member is readable")
	}
}

// TestMaskOfReferences: what an SDK has put into external storage is there unmasked, so a reference to it is refused.
func TestMaskOfReferences(t *testing.T) {
	r := newRewriter(t, masking)
	reference := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/protobuf"),
		"messageType": []byte("temporal.api.sdk.v1.ExternalStorageReference")}, Data: []byte(`{"claim":"CANARY"}`),
		ExternalPayloads: []*commonpb.Payload_ExternalPayloadDetails{{SizeBytes: 300_000}}}
	_, err := request(t, r, "SignalWorkflowExecution", bytesOf(t, &workflowservice.SignalWorkflowExecutionRequest{Namespace: testNamespace,
		Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{reference}}}))
	if err == nil || err.(*Error).Kind != KindDenied || !strings.Contains(err.Error(), "external storage") {
		t.Errorf("error %v", err)
	}
}

// TestMaskedLengthIsNotTold: the size of what the server gets does not depend on masked values, not even where sealing
// exceeds a limit.
func TestMaskedLengthIsNotTold(t *testing.T) {
	r := newRewriter(t, masking)
	filler := strings.Repeat("0123456789abcdef", maxField/16-8)
	size := func(ssn string) int {
		got, err := starting(t, r, `{"ssn":"`+ssn+`","x":"`+filler+`"}`)
		if err != nil {
			t.Fatal(err)
		}
		return proto.Size(got[0])
	}
	if a, b := size("C"), size("CANARY CANARY CANARY"); a != b {
		t.Errorf("%d and %d bytes", a, b)
	}
}

// TestMasksLongerThanTheValues: a document that exceeds a limit since the masks are longer than the values is compressed to fit it.
func TestMasksLongerThanTheValues(t *testing.T) {
	r := newRewriter(t, `package temporal

request contains {"action": "mask", "fields": ["/*"]} if input.payload.kind == "input"
`)
	document := "[" + strings.Repeat(`"",`, maxField/4) + `""]`
	got, err := starting(t, r, document)
	if err != nil {
		t.Fatal(err)
	}
	if n := proto.Size(got[0]); n > maxField {
		t.Errorf("%d bytes; the server takes %d", n, maxField)
	}
	if opened := opensTo(t, r, got[0]); !strings.HasPrefix(opened, `["***","***",`) || len(opened) <= maxField {
		t.Errorf("opens to %d bytes", len(opened))
	}
}

// completes is the completion of a workflow task that accepts an update, completes it, starts a child and upserts a memo.
func completes(t *testing.T) *workflowservice.RespondWorkflowTaskCompletedRequest {
	t.Helper()
	pack := func(m proto.Message) *protocolpb.Message {
		body, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return &protocolpb.Message{Body: body}
	}
	one := func() *commonpb.Payloads {
		return &commonpb.Payloads{Payloads: []*commonpb.Payload{jsonOf(`{"ssn":"CANARY"}`)}}
	}
	memo := func() *commonpb.Memo {
		return &commonpb.Memo{Fields: map[string]*commonpb.Payload{"m": jsonOf(`{"ssn":"CANARY"}`)}}
	}
	return &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: testNamespace,
		Messages: []*protocolpb.Message{
			pack(&updatepb.Acceptance{AcceptedRequest: &updatepb.Request{Input: &updatepb.Input{Name: "u", Args: one()}}}),
			pack(&updatepb.Response{Outcome: &updatepb.Outcome{Value: &updatepb.Outcome_Success{Success: one()}}}),
		},
		Commands: []*commandpb.Command{
			{Attributes: &commandpb.Command_StartChildWorkflowExecutionCommandAttributes{StartChildWorkflowExecutionCommandAttributes: &commandpb.StartChildWorkflowExecutionCommandAttributes{Memo: memo()}}},
			{Attributes: &commandpb.Command_ModifyWorkflowPropertiesCommandAttributes{ModifyWorkflowPropertiesCommandAttributes: &commandpb.ModifyWorkflowPropertiesCommandAttributes{UpsertedMemo: memo()}}},
		}}
}

// TestMaskOfWhatAWorkerHas: what a worker has seen in clear is sealed as it is, since a replay has to see the same.
func TestMaskOfWhatAWorkerHas(t *testing.T) {
	r := newRewriter(t, masking)
	raw, err := request(t, r, "RespondWorkflowTaskCompleted", bytesOf(t, completes(t)))
	if err != nil {
		t.Fatal(err)
	}
	q := new(workflowservice.RespondWorkflowTaskCompletedRequest)
	if err := proto.Unmarshal(raw, q); err != nil {
		t.Fatal(err)
	}
	acceptance, response := new(updatepb.Acceptance), new(updatepb.Response)
	for i, m := range []proto.Message{acceptance, response} {
		if err := q.Messages[i].Body.UnmarshalTo(m); err != nil {
			t.Fatal(err)
		}
	}
	const clear, masked = `{"ssn":"CANARY"}`, `{"ssn":"***"}`
	for name, c := range map[string]struct {
		p    *commonpb.Payload
		want string
	}{
		"the copy of an update's arguments": {acceptance.AcceptedRequest.Input.Args.Payloads[0], clear},
		"an update's outcome":               {response.Outcome.GetSuccess().Payloads[0], masked},
		"the memo of a child":               {q.Commands[0].GetStartChildWorkflowExecutionCommandAttributes().Memo.Fields["m"], masked},
		"an upserted memo":                  {q.Commands[1].GetModifyWorkflowPropertiesCommandAttributes().UpsertedMemo.Fields["m"], clear},
	} {
		if got := opensTo(t, r, c.p); got != c.want {
			t.Errorf("%s opens to %s; want %s", name, got, c.want)
		}
	}
}

// TestComputedMaskOfWhatAWorkerHas: a verdict that a rule computes, and that would mask such a payload, ends the call for good.
func TestComputedMaskOfWhatAWorkerHas(t *testing.T) {
	for _, kind := range []string{"memo", "update"} {
		r := newRewriter(t, "package temporal\n\nrequest contains v if {\n\tinput.payload.kind == \""+kind+"\"\n\tinput.rpc == \"RespondWorkflowTaskCompleted\"\n\t"+
			"v := {\"action\": \"mask\", \"fields\": [\"/ssn\"]}\n}\n")
		for _, from := range []string{"the rules", "the cache"} {
			_, err := request(t, r, "RespondWorkflowTaskCompleted", bytesOf(t, completes(t)))
			if err == nil || err.(*Error).Kind != KindDenied || !strings.Contains(err.Error(), "would replay it masked") || strings.Contains(err.Error(), "CANARY") {
				t.Errorf("%s, by a verdict of %s: %v", kind, from, err)
			}
		}
	}
}

// TestMaskAddressedElsewhere: what the namespace masks to which a command is addressed is masked before it leaves.
func TestMaskAddressedElsewhere(t *testing.T) {
	mask := func(namespace, field string) string {
		return "\nrequest contains {\"action\": \"mask\", \"fields\": [\"/" + field + "\"]} if {\n\tinput.namespace == \"" + namespace +
			"\"\n\tinput.payload.kind in {\"input\", \"signal\"}\n}\n"
	}
	in := crossing("billing", testNamespace)
	for _, input := range []*commonpb.Payloads{in.Commands[0].GetStartChildWorkflowExecutionCommandAttributes().Input,
		in.Commands[1].GetSignalExternalWorkflowExecutionCommandAttributes().Input} {
		input.Payloads[0].Metadata = map[string][]byte{"encoding": []byte("json/plain")}
		input.Payloads[0].Data = []byte(`{"a":"CANARY","b":"CANARY"}`)
	}
	for rego, want := range map[string][2]string{
		passHere + mask("billing", "a"):                            {`{"a":"***","b":"CANARY"}`, ""},
		passHere + mask("billing", "a") + mask(testNamespace, "b"): {`{"a":"***","b":"***"}`, `{"a":"CANARY","b":"***"}`},
		passHere + mask(testNamespace, "b"):                        {`{"a":"CANARY","b":"***"}`, `{"a":"CANARY","b":"***"}`},
	} {
		r := newRewriter(t, rego)
		raw, err := request(t, r, "RespondWorkflowTaskCompleted", bytesOf(t, in))
		if err != nil {
			t.Fatal(err)
		}
		out := new(workflowservice.RespondWorkflowTaskCompletedRequest)
		if err := proto.Unmarshal(raw, out); err != nil {
			t.Fatal(err)
		}
		child := out.Commands[0].GetStartChildWorkflowExecutionCommandAttributes().Input.Payloads[0]
		signal := out.Commands[1].GetSignalExternalWorkflowExecutionCommandAttributes().Input.Payloads[0]
		if got := opensTo(t, r, child); got != want[0] {
			t.Errorf("the child gets %s; want %s", got, want[0])
		}
		if want[1] == "" {
			if isSealed(signal) {
				t.Error("the signal stays at home and is sealed")
			}
		} else if got := opensTo(t, r, signal); got != want[1] {
			t.Errorf("the signal has %s; want %s", got, want[1])
		}
	}
}

// TestComputedPointersAreNotRepeated: a pointer that a rule computed from the payload stands in no error.
func TestComputedPointersAreNotRepeated(t *testing.T) {
	r := newRewriter(t, `package temporal

request contains {"action": "mask", "fields": [concat("/", ["", input.content.json.of])]} if input.payload.kind == "input"
`)
	_, err := starting(t, r, `{"of":"CANARY"}`)
	if err == nil || err.(*Error).Kind != KindDenied || strings.Contains(err.Error(), "CANARY") {
		t.Errorf("error %v", err)
	}
}
