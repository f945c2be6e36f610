package contract

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"testing"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	"go.temporal.io/api/operatorservice/v1"
	protocolpb "go.temporal.io/api/protocol/v1"
	updatepb "go.temporal.io/api/update/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	spb "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
)

func statusOf(code int32, message string) *spb.Status {
	return &spb.Status{Code: code, Message: message}
}

// What bears the marker of a sealed payload is sealed once more in requests, whatever the policy says, and opening takes
// off one layer: a stolen ciphertext that somebody pastes into an input comes back as ciphertext.
func TestMarkedPayloadsAreSealedAgain(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	for _, namespace := range []string{"passing", "sealing", "parts", "clearing"} {
		for _, clear := range []*commonpb.Payload{document(`{"token":"CANARY","ward":"A7"}`), {Data: []byte("CANARY")}} {
			own := r.sealIn(t, namespace, clear)
			again := signaled(t, r.signal(t, namespace, "w", own))
			if len(again) != 1 || proto.Equal(again[0], own) || bytes.Equal(again[0].Data, own.Data) {
				t.Errorf("%s: a sealed payload was forwarded unchanged", namespace)
				continue
			}
			if bytes.Contains(blackbox.Marshal(again[0]), []byte(`"A7"`)) {
				t.Errorf("%s: a sealed payload was sealed in part: %v", namespace, again[0])
			}
			equal(t, namespace+": opened once", r.open(t, namespace, again...)[0], own)
			equal(t, namespace+": opened twice", r.open(t, namespace, r.open(t, namespace, again...)...)[0], clear)
		}
	}
	// A readable document that bears the marker in another entry than its encoding is sealed whole too.
	inPart := signaled(t, r.signal(t, "parts", "w", document(`{"token":"CANARY","ward":"A7"}`)))[0]
	if len(inPart.Metadata) > 1 {
		inPart.Metadata["encoding"] = []byte("json/plain")
		again := signaled(t, r.signal(t, "parts", "w", inPart))
		if bytes.Contains(blackbox.Marshal(again[0]), []byte(`"A7"`)) {
			t.Errorf("a document that bears the marker was sealed in part: %v", again[0])
		}
		equal(t, "a document that bears the marker, opened once", r.open(t, "parts", again...)[0], inPart)
	}
	// The marker alone is enough, in any field of the payload that bears it.
	own := r.sealIn(t, "passing", text("CANARY"))
	for _, odd := range []*commonpb.Payload{
		{Metadata: own.Metadata}, {Metadata: own.Metadata, Data: []byte("nothing")},
		{Metadata: map[string][]byte{"encoding": own.Metadata["encoding"], "x": []byte("y")}, Data: own.Data},
	} {
		if got := signaled(t, r.signal(t, "passing", "w", odd)); proto.Equal(got[0], odd) {
			t.Errorf("a payload with the marker passed: %v", odd)
		}
	}
}

// sealIn seals a payload in a namespace of the rig whose rules may let it pass: by a workflow whose id says so.
func (r *rig) sealIn(t *testing.T, namespace string, clear *commonpb.Payload) *commonpb.Payload {
	t.Helper()
	got := signaled(t, r.signal(t, namespace, "must-seal", clear))
	if len(got) != 1 || proto.Equal(got[0], clear) {
		t.Fatalf("%s: not sealed: %v", namespace, got)
	}
	return got[0]
}

// The same holds for memo values that look like a deletion, and in Any.
func TestMarkedPayloadsElsewhere(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	own := r.sealIn(t, "passing", text("CANARY"))
	empty := &commonpb.Payload{Metadata: own.Metadata}
	e := r.send(t, "StartWorkflowExecution", &workflowservice.StartWorkflowExecutionRequest{Namespace: "passing", WorkflowId: "w",
		Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"empty": empty, "own": own}}, Input: list(own),
		Header: &commonpb.Header{Fields: map[string]*commonpb.Payload{"h": own}}})
	q := forwardedAs(t, e, "StartWorkflowExecution", new(workflowservice.StartWorkflowExecutionRequest))
	for what, c := range map[string][2]*commonpb.Payload{"empty memo": {q.Memo.Fields["empty"], empty}, "memo": {q.Memo.Fields["own"], own},
		"input": {q.Input.Payloads[0], own}, "header": {q.Header.Fields["h"], own}} {
		if proto.Equal(c[0], c[1]) {
			t.Errorf("%s: a payload with the marker passed", what)
		}
	}
	e = r.send(
		t,
		"RespondWorkflowTaskCompleted",
		&workflowservice.RespondWorkflowTaskCompletedRequest{
			Namespace: "wideopen",
			TaskToken: []byte("t"),
			Commands: []*commandpb.Command{
				{
					CommandType: enumspb.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES,
					Attributes: &commandpb.Command_ModifyWorkflowPropertiesCommandAttributes{
						ModifyWorkflowPropertiesCommandAttributes: &commandpb.ModifyWorkflowPropertiesCommandAttributes{
							UpsertedMemo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"m": empty}},
						}},
				}},
		},
	)
	upsert := forwardedAs(t, e, "RespondWorkflowTaskCompleted", new(workflowservice.RespondWorkflowTaskCompletedRequest))
	if m := upsert.Commands[0].GetModifyWorkflowPropertiesCommandAttributes().UpsertedMemo.Fields["m"]; proto.Equal(m, empty) || len(m.GetData()) == 0 {
		t.Errorf("a memo value with the marker and without data passed as a deletion: %v", m)
	}
	e = r.send(
		t,
		"RespondWorkflowTaskCompleted",
		&workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "wideopen", TaskToken: []byte("t"),
			Messages: []*protocolpb.Message{
				{
					Id: "m",
					Body: packed(
						t,
						&updatepb.Response{Outcome: &updatepb.Outcome{Value: &updatepb.Outcome_Success{Success: list(own)}}},
					),
				},
			}},
	)
	done := forwardedAs(t, e, "RespondWorkflowTaskCompleted", new(workflowservice.RespondWorkflowTaskCompletedRequest))
	if bytes.Contains(blackbox.Marshal(done), blackbox.Marshal(own)) {
		t.Error("an update's result with the marker passed")
	}
}

func TestMarkedTextsAreSealedAgain(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	plainRig := plain(t)
	e := plainRig.send(
		t,
		"RespondQueryTaskCompleted",
		&workflowservice.RespondQueryTaskCompletedRequest{Namespace: "wideopen", TaskToken: []byte("t"), ErrorMessage: "CANARY"},
	)
	sealed := forwardedAs(t, e, "RespondQueryTaskCompleted", new(workflowservice.RespondQueryTaskCompletedRequest)).ErrorMessage
	e = r.send(
		t,
		"RespondQueryTaskCompleted",
		&workflowservice.RespondQueryTaskCompletedRequest{Namespace: "wideopen", TaskToken: []byte("t"), ErrorMessage: sealed},
	)
	if got := forwardedAs(t, e, "RespondQueryTaskCompleted", new(workflowservice.RespondQueryTaskCompletedRequest)).ErrorMessage; got == sealed {
		t.Error("a sealed text was forwarded unchanged")
	}
	e = r.send(
		t,
		"RespondQueryTaskCompleted",
		&workflowservice.RespondQueryTaskCompletedRequest{
			Namespace:    "wideopen",
			TaskToken:    []byte("t"),
			ErrorMessage: "readable",
		},
	)
	if got := forwardedAs(t, e, "RespondQueryTaskCompleted", new(workflowservice.RespondQueryTaskCompletedRequest)).ErrorMessage; got != "readable" {
		t.Errorf("the rule lets texts pass, and it was forwarded as %q", got)
	}
}

func TestMarkedFailuresAreSealedAgain(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	fail := func(f *failurepb.Failure) *failurepb.Failure {
		e := r.send(
			t,
			"RespondActivityTaskFailed",
			&workflowservice.RespondActivityTaskFailedRequest{Namespace: "wideopen", TaskToken: []byte("t"), Failure: f},
		)
		return forwardedAs(t, e, "RespondActivityTaskFailed", new(workflowservice.RespondActivityTaskFailedRequest)).Failure
	}
	own := r.seal(t, "sealing", text("CANARY"))[0]
	for _, f := range []*failurepb.Failure{{Message: "m", EncodedAttributes: own}, {Message: "m", Cause: &failurepb.Failure{Message: "c", EncodedAttributes: own}}} {
		if got := fail(proto.CloneOf(f)); bytes.Contains(blackbox.Marshal(got), blackbox.Marshal(own)) {
			t.Errorf("a failure that bears a sealed payload passed: %v", got)
		}
	}
	open := &failurepb.Failure{Message: "readable"}
	equal(t, "a failure that the rule lets pass", fail(proto.CloneOf(open)), open)
}

// In what stays readable a sealed value is refused, and nothing is opened there in answers.
func TestMarkedValuesAreRefusedWhereNothingIsSealed(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	own := r.sealIn(t, "passing", text("CANARY"))
	attributes := &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{"Field": own}}
	r.send(
		t,
		"StartWorkflowExecution",
		&workflowservice.StartWorkflowExecutionRequest{Namespace: "passing", WorkflowId: "w", SearchAttributes: attributes},
	).refused(
		t,
		"PermissionDenied",
	)
	r.do(t, blackbox.Request{Method: blackbox.OperatorService + "CreateNexusEndpoint", Body: blackbox.Marshal(
		&operatorservice.CreateNexusEndpointRequest{
			Spec: &nexuspb.EndpointSpec{Name: "n", Description: own},
		},
	)}).refused(t, "PermissionDenied")

	e := plain(
		t,
	).send(
		t,
		"RespondQueryTaskCompleted",
		&workflowservice.RespondQueryTaskCompletedRequest{Namespace: "passing", TaskToken: []byte("t"), ErrorMessage: "CANARY"},
	)
	sealed := forwardedAs(t, e, "RespondQueryTaskCompleted", new(workflowservice.RespondQueryTaskCompletedRequest)).ErrorMessage
	r.send(t, "TerminateWorkflowExecution", &workflowservice.TerminateWorkflowExecutionRequest{Namespace: "passing",
		WorkflowExecution: execution("w"), Reason: sealed}).refused(t, "PermissionDenied")

	e = r.send(
		t,
		"DescribeWorkflowExecution",
		&workflowservice.DescribeWorkflowExecutionRequest{Namespace: "passing", Execution: execution("w")},
		reply("DescribeWorkflowExecution", put(
			(&workflowservice.DescribeWorkflowExecutionResponse{}).ProtoReflect().Descriptor(),
			siteNamed(
				t,
				(&workflowservice.DescribeWorkflowExecutionResponse{}),
				"workflow_execution_info.search_attributes.indexed_fields",
			),
			func() proto.Message { return proto.CloneOf(own) },
		)),
	)
	got := answered(t, e, new(workflowservice.DescribeWorkflowExecutionResponse))
	equal(
		t,
		"a search attribute that holds a sealed value",
		got.WorkflowExecutionInfo.SearchAttributes.IndexedFields["name"],
		own,
	)
}

func siteNamed(t *testing.T, m proto.Message, name string) site {
	t.Helper()
	for _, way := range sitesOf(m.ProtoReflect().Descriptor(), payloadName) {
		if way.String() == name {
			return way
		}
	}
	t.Fatalf("%T has no payload at %s", m, name)
	return nil
}

// The marker of the server's own operations counts by the endpoint alone: set elsewhere it is a bypass.
func TestSystemEndpoints(t *testing.T) {
	t.Parallel()
	r := plain(t)
	inner := &workflowservice.SignalWithStartWorkflowExecutionRequest{
		Namespace:   "system",
		WorkflowId:  "w",
		Input:       list(text("CANARY")),
		SignalName:  "s",
		SignalInput: list(text("CANARY")),
	}
	input := func() *commonpb.Payload {
		return &commonpb.Payload{
			Metadata: map[string][]byte{
				"encoding":                  []byte("binary/protobuf"),
				"messageType":               []byte(inner.ProtoReflect().Descriptor().FullName()),
				"__temporal_system_payload": []byte("true"),
			},
			Data: blackbox.Marshal(inner),
		}
	}
	schedule := func(endpoint string, p *commonpb.Payload) exchange {
		return r.send(
			t,
			"RespondWorkflowTaskCompleted",
			&workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "system", TaskToken: []byte("t"),
				Commands: []*commandpb.Command{
					{
						CommandType: enumspb.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION,
						Attributes: &commandpb.Command_ScheduleNexusOperationCommandAttributes{
							ScheduleNexusOperationCommandAttributes: &commandpb.ScheduleNexusOperationCommandAttributes{
								Endpoint:  endpoint,
								Service:   "s",
								Operation: "o",
								Input:     p,
							}},
					},
				}},
		)
	}
	inputOf := func(e exchange) *commonpb.Payload {
		q := forwardedAs(t, e, "RespondWorkflowTaskCompleted", new(workflowservice.RespondWorkflowTaskCompletedRequest))
		return q.Commands[0].GetScheduleNexusOperationCommandAttributes().Input
	}
	got := inputOf(schedule("__temporal_system", input()))
	read := new(workflowservice.SignalWithStartWorkflowExecutionRequest)
	if string(got.Metadata["messageType"]) != string(inner.ProtoReflect().Descriptor().FullName()) ||
		proto.Unmarshal(got.Data, read) != nil ||
		read.WorkflowId != "w" {
		t.Fatalf("the server cannot read what it is to run: %v", got)
	}
	if bytes.Contains(got.Data, []byte("CANARY")) {
		t.Error("a payload within an input that the server reads was forwarded in clear")
	} else {
		r.isSealed(t, "the input within", "system", read.Input.Payloads[0], text("CANARY"))
		r.isSealed(t, "the signal within", "system", read.SignalInput.Payloads[0], text("CANARY"))
	}
	r.isSealed(t, "an input for another endpoint", "system", inputOf(schedule("my-endpoint", input())), input())
	unreadable := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"CANARY"`)}
	schedule("__temporal_system", unreadable).refused(t, "InvalidArgument")
	// A sealed one is refused, which fails the workflow task.
	e := schedule("__temporal_system", r.seal(t, "system", text("CANARY"))[0])
	forwardedAs(t, e, "RespondWorkflowTaskFailed", new(workflowservice.RespondWorkflowTaskFailedRequest))
	if n := len(e.requests()); n != 1 {
		t.Errorf("%d requests reached the frontend, want only the failure", n)
	}
}

// codecKey is the key of a codec that the config of the rules' rig reads.
var codecKey = []byte("0123456789abcdef0123456789abcdef")

// encoded is what a codec made after the SDKs' samples wrote.
func encoded(t *testing.T, clear *commonpb.Payload) *commonpb.Payload {
	t.Helper()
	block, err := aes.NewCipher(codecKey)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := make([]byte, gcm.NonceSize())
	rand.Read(nonce)
	return &commonpb.Payload{
		Metadata: map[string][]byte{"encoding": []byte("binary/encrypted"), "encryption-key-id": []byte("test")},
		Data:     gcm.Seal(nonce, nonce, blackbox.Marshal(clear), nil),
	}
}

// What another tool's codec wrote opens where the config says, and in requests it is treated as what bears the marker.
func TestForeignPayloads(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	clear := text("CANARY")
	theirs := encoded(t, clear)
	equal(t, "a codec's payload in its namespace", r.open(t, "foreign", theirs)[0], clear)
	equal(t, "a codec's payload elsewhere", r.open(t, "sealing", theirs)[0], theirs)
	changed := proto.CloneOf(theirs)
	changed.Data[len(changed.Data)-1] ^= 1
	equal(t, "a changed one", r.open(t, "foreign", changed)[0], changed)
	for _, namespace := range []string{"foreign", "wideopen", "sealing", "parts"} {
		sealed := signaled(t, r.signal(t, namespace, "w", theirs))
		if proto.Equal(sealed[0], theirs) {
			t.Errorf("%s: a codec's payload passed", namespace)
			continue
		}
		equal(t, namespace+": opened once", r.open(t, namespace, sealed...)[0], theirs)
	}
}
