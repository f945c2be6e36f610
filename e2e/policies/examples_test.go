package policies

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"

func TestExamples(t *testing.T) {
	server, err := harness.StartTemporal(t.Context(), peers.TemporalOptions{
		DBFile: filepath.Join(t.TempDir(), "temporal.db"),
		Namespaces: []string{"seal-all", "only-headers", "billing", "portal", "hospital", "saas", "search-attributes",
			"vault", "claims", "rebel", "clinic-prod", "orders", "support"},
		SearchAttributes: map[string]string{"Note": "Keyword", "Ward": "Keyword"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() }) // the server is not what is tested here

	for _, x := range []struct {
		folder, namespace string
		keys              []string // the most sensitive first, as in the example's cases
		run               func(*example)
	}{
		{"seal-all", "seal-all", []string{"default"}, sealAll},
		{"only-headers", "only-headers", []string{"default"}, onlyHeaders},
		{"by-type", "billing", []string{"cards", "default"}, byType},
		{"token-anywhere", "portal", []string{"tokens", "default"}, tokenAnywhere},
		{"phi-by-pointer", "hospital", []string{"phi", "default"}, phiByPointer},
		{"per-tenant", "saas", []string{"tenant/*", "default"}, perTenant},
		{"search-attributes", "search-attributes", []string{"default"}, searchAttributes},
		{"external-storage", "orders", []string{"default"}, externalStorage},
		{"mask", "support", []string{"default"}, masked},
		{"floor", "rebel", []string{"floor", "default", "loose"}, floor},
		{"clinic", "clinic-prod", []string{"phi", "jwt", "default"}, clinic},
	} {
		t.Run(x.folder, func(t *testing.T) {
			x.run(start(t, server, x.folder, x.namespace, x.keys, ""))
		})
	}
	t.Run("accept-sealed", func(t *testing.T) { acceptSealed(t, server) })
	t.Run("readers", func(t *testing.T) { readers(t, server) })
}

func sealAll(e *example) {
	input, given, result := value("in"), value("given"), value(map[string]int{"n": 1})
	e.start("all", "Any", input)
	got := e.activity("all", "Any", given, result)
	stored, read := e.stored("all"), e.read("all")
	e.is("the input", stored.input, "sealed with default", read.input, input)
	e.is("the activity's input", stored.activityInput, "sealed with default", got, given)
	e.is("the result", stored.result, "sealed with default", read.result, result)

	// The server counts values in external storage, of a sealed reference too.
	reference := externalReference()
	e.start("external", "Any", reference)
	e.is("a reference", e.stored("external").input, "sealed with default", e.read("external").input, reference)
	d, err := e.direct.DescribeWorkflowExecution(e.context(), &workflowservice.DescribeWorkflowExecutionRequest{
		Namespace: e.namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: "external"}})
	if err != nil {
		e.Fatal(err)
	}
	if i := d.GetWorkflowExecutionInfo(); i.GetExternalPayloadCount() != 1 || i.GetExternalPayloadSizeBytes() != 300_000 {
		e.Errorf("the server counts %d external values of %d bytes, want 1 of 300000", i.GetExternalPayloadCount(), i.GetExternalPayloadSizeBytes())
	}
}

// externalReference is what an SDK sends of a value that it has put into a bucket.
func externalReference() *commonpb.Payload {
	return &commonpb.Payload{
		Metadata:         map[string][]byte{"encoding": []byte("json/protobuf"), "messageType": []byte("temporal.api.sdk.v1.ExternalStorageReference")},
		Data:             []byte(`{"driverName":"s3","claimData":{"bucket":"orders","key":"7"}}`),
		ExternalPayloads: []*commonpb.Payload_ExternalPayloadDetails{{SizeBytes: 300_000}},
	}
}

func externalStorage(e *example) {
	_, err := e.through.StartWorkflowExecution(e.context(), e.request("external", "Any", externalReference()))
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "values in external storage are not encrypted") {
		e.Errorf("a reference: %v", err)
	}
	if _, err := e.history(e.direct, e.context(), "external"); status.Code(err) != codes.NotFound {
		e.Errorf("a denied reference reached the server: %v", err)
	}
	in := value("order")
	e.start("small", "Any", in)
	e.is("a value that is small", e.stored("small").input, "sealed with default", e.read("small").input, in)
}

// masked values are in nothing that the server has, and a workflow's next task has the result as the server does.
func masked(e *example) {
	const ssn, card = "078-05-1120", "4111111111111111"
	customer := func(ssn, card any) *commonpb.Payload {
		return value(map[string]any{"name": "Jane Roe", "ssn": ssn, "cards": []any{map[string]any{"number": card, "until": "12/30"}}})
	}
	ticket := func(card any) *commonpb.Payload { return value(map[string]any{"text": "call back", "card": card}) }
	e.start("customer", "Any", ticket(411111))
	e.activity("customer", "FetchCustomer", value(map[string]any{"id": 7}), customer(ssn, card))
	e.signal("customer", ticket(card))
	stored, read := e.stored("customer"), e.read("customer")
	e.is("the input", stored.input, "sealed with default", read.input, ticket(0))
	e.is("the activity's input", stored.activityInput, "sealed with default", read.activityInput, value(map[string]any{"id": 7}))
	e.is("the result", stored.result, "sealed with default", read.result, customer("***", "***"))
	e.is("the signal", stored.signal, "sealed with default", read.signal, ticket("***"))

	twice := value(nil)
	twice.Data = []byte(`{"card":"` + card + `","card":1}`)
	_, err := e.through.StartWorkflowExecution(e.context(), e.request("twice", "Any", twice))
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "cannot be masked") || strings.Contains(err.Error(), card) {
		e.Errorf("a name twice: %v", err)
	}
	if _, err := e.history(e.direct, e.context(), "twice"); status.Code(err) != codes.NotFound {
		e.Errorf("what cannot be masked reached the server: %v", err)
	}
}

func onlyHeaders(e *example) {
	input, user := value("in"), value("ann")
	request := e.request("headers", "Any", input)
	request.Header = &commonpb.Header{Fields: map[string]*commonpb.Payload{"user": proto.Clone(user).(*commonpb.Payload)}}
	if _, err := e.through.StartWorkflowExecution(e.context(), request); err != nil {
		e.Fatal(err)
	}
	stored, read := e.stored("headers"), e.read("headers")
	e.is("the input", stored.input, "clear", read.input, input)
	e.is("the header", stored.header, "sealed with default", read.header, user)
}

func byType(e *example) {
	in, out := value("in"), value("out")
	e.start("payroll", "Payroll", in)
	e.is("payroll's input", e.stored("payroll").input, "sealed with default", e.read("payroll").input, in)

	for activity, want := range map[string]string{"ChargeCard": "sealed with cards", "SendMail": "clear"} {
		id := "dunning-" + activity
		e.start(id, "Dunning", in)
		got := e.activity(id, activity, in, out)
		stored, read := e.stored(id), e.read(id)
		e.is("the reminder's input", stored.input, "clear", read.input, in)
		e.is("what "+activity+" gets", stored.activityInput, want, got, in)
		e.is("what "+activity+" gives", stored.result, want, read.result, out)
	}

	e.signal("dunning-SendMail", in)
	e.is("a signal, whose workflow's type is not known", e.stored("dunning-SendMail").signal, "sealed with default", e.read("dunning-SendMail").signal, in)
}

func (e *example) signal(id string, p *commonpb.Payload) {
	e.Helper()
	if _, err := e.through.SignalWorkflowExecution(e.context(), &workflowservice.SignalWorkflowExecutionRequest{
		Namespace: e.namespace, WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: id}, SignalName: "note", Input: list(p),
	}); err != nil {
		e.Fatalf("signal %s: %v", id, err)
	}
}

// view checks what stays readable of a payload that is sealed in place.
func (e *example) view(what string, stored *commonpb.Payload, readable string, sealed ...string) {
	e.Helper()
	text := string(stored.GetData())
	if !strings.Contains(text, readable) || !strings.Contains(text, `"[sealed]"`) {
		e.Errorf("%s should show %q, it is stored as %s", what, readable, text)
	}
	for _, s := range sealed {
		if strings.Contains(fmt.Sprint(stored), s) {
			e.Errorf("%s shows %q: %s", what, s, text)
		}
	}
}

func tokenAnywhere(e *example) {
	input := value(map[string]any{"cart": []int{1, 2}, "user": map[string]any{"name": "ann", "token": token}})
	e.start("token", "Any", input)
	stored := e.stored("token").input
	e.is("an input with a token", stored, "in place with tokens", e.read("token").input, input)
	e.view("an input with a token", stored, `"name":"ann"`, token)

	e.signal("token", value(token))
	e.is("a token as a signal", e.stored("token").signal, "sealed with tokens", e.read("token").signal, value(token))

	plain := value(map[string]any{"cart": []int{1, 2}})
	e.start("plain", "Any", plain)
	e.is("an input without one", e.stored("plain").input, "clear", e.read("plain").input, plain)

	twice := value(nil)
	twice.Data = []byte(`{"t":"` + token + `","t":1}`)
	e.start("twice", "Any", twice)
	e.is("a name twice", e.stored("twice").input, "sealed with default", e.read("twice").input, twice)
}

func phiByPointer(e *example) {
	in := value(map[string]any{"record": 7})
	lab := value(map[string]any{"record": 7, "patient": "Jane Roe", "values": []any{map[string]any{"name": "hb", "result": 13.5}}, "notes": "fasting"})
	e.start("lab", "Any", in)
	e.activity("lab", "FetchLab", in, lab)
	stored := e.stored("lab")
	e.is("the lab record", stored.result, "in place with phi", e.read("lab").result, lab)
	e.view("the lab record", stored.result, `"name":"hb"`, "Jane Roe", "13.5", "fasting")

	appointment := value(map[string]any{"ward": "B", "patient": "Jane Roe", "slot": map[string]any{"start": "10:00", "end": "10:30", "reason": "mri"}})
	e.start("book", "Any", in)
	got := e.activity("book", "BookAppointment", appointment, value(true))
	stored = e.stored("book")
	e.is("the appointment", stored.activityInput, "in place with phi", got, appointment)
	e.view("the appointment", stored.activityInput, `"ward":"B"`, "Jane Roe", "mri")
	e.is("what started it", stored.input, "clear", e.read("book").input, in)
}

func perTenant(e *example) {
	e.newKey("tenant-acme")
	e.newKey("tenant-umbrella")
	in := value("order")
	for id, key := range map[string]string{"acme/1": "tenant/acme", "umbrella/1": "tenant/umbrella", "nobody": "default"} {
		e.start(id, "Order", in)
		e.activity(id, "Ship", in, in)
		stored, read := e.stored(id), e.read(id)
		e.is("the input of "+id, stored.input, "sealed with "+key, read.input, in)
		e.is("the result of "+id, stored.result, "sealed with "+key, read.result, in)
	}
}

func searchAttributes(e *example) {
	for text, want := range map[string]codes.Code{"ward B": codes.OK, "see " + token: codes.PermissionDenied} {
		id := "attribute-" + want.String()
		request := e.request(id, "Any", value("in"))
		note := value(text)
		note.Metadata["type"] = []byte("Keyword")
		request.SearchAttributes = &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{"Note": note}}
		_, err := e.through.StartWorkflowExecution(e.context(), request)
		if status.Code(err) != want {
			e.Errorf("%s: %v", id, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "a search attribute must not hold a token") || strings.Contains(err.Error(), token)) {
			e.Errorf("the caller receives %v", err)
		}
		_, err = e.history(e.direct, e.context(), id)
		if forwarded := status.Code(err) != codes.NotFound; forwarded != (want == codes.OK) {
			e.Errorf("%s reached the server: %v (%v)", id, forwarded, err)
		}
	}
}

func floor(e *example) {
	input, user := value("in"), value("ann")
	request := e.request("rebel", "Any", input)
	request.Header = &commonpb.Header{Fields: map[string]*commonpb.Payload{"user": proto.Clone(user).(*commonpb.Payload)}}
	if _, err := e.through.StartWorkflowExecution(e.context(), request); err != nil {
		e.Fatal(err)
	}
	stored, read := e.stored("rebel"), e.read("rebel")
	e.is("the header", stored.header, "sealed with default", read.header, user)
	// The team's `accept` says that it is sealed already, and this caller is nobody that could say so.
	e.is("the input", stored.input, "sealed with default", read.input, input)

	task, err := e.through.PollWorkflowTaskQueue(e.context(), &workflowservice.PollWorkflowTaskQueueRequest{
		Namespace: e.namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: queue("rebel")},
	})
	if err != nil {
		e.Fatal(err)
	}
	if _, err := e.through.RespondWorkflowTaskFailed(e.context(), &workflowservice.RespondWorkflowTaskFailedRequest{
		Namespace: e.namespace, TaskToken: task.TaskToken, Failure: &failurepb.Failure{Message: "Jane Roe is missing"},
	}); err != nil {
		e.Fatal(err)
	}
	all, err := e.direct.GetWorkflowExecutionHistory(e.context(), &workflowservice.GetWorkflowExecutionHistoryRequest{
		Namespace: e.namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: "rebel"},
	})
	if err != nil {
		e.Fatal(err)
	}
	if text := fmt.Sprint(all); strings.Contains(text, "Jane Roe") {
		e.Error("the failure is stored in clear")
	}
	_, err = e.through.TerminateWorkflowExecution(e.context(), &workflowservice.TerminateWorkflowExecutionRequest{
		Namespace: e.namespace, WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: "rebel"}, Reason: "P-17 was discharged",
	})
	if status.Code(err) != codes.PermissionDenied {
		e.Errorf("a reason that names a patient: %v", err)
	}
}

func clinic(e *example) {
	admit := value(map[string]any{"patient_id": "P-1", "ward": "B", "token": token})
	lab := value(map[string]any{"patient": "Jane Roe", "diagnosis": "none"})
	e.start("admission", "Admission", admit)
	behalf := value(map[string]any{"token": token, "patient_id": "P-1"})
	got := e.activity("admission", "FetchLabResults", behalf, lab)
	stored, read := e.stored("admission"), e.read("admission")
	e.is("the token", stored.input, "sealed with jwt", read.input, admit)
	e.is("what the lab is given", stored.activityInput, "sealed with phi", got, behalf)
	e.is("the lab's results", stored.result, "sealed with phi", read.result, lab)

	ward, bed := value("B"), value(map[string]any{"ward": "B", "bed": 7})
	e.start("rounds", "Rounds", ward)
	got = e.activity("rounds", "AssignBed", ward, bed)
	stored, read = e.stored("rounds"), e.read("rounds")
	e.is("a ward", stored.input, "clear", read.input, ward)
	e.is("a ward for an activity", stored.activityInput, "clear", got, ward)
	e.is("a bed", stored.result, "clear", read.result, bed)
}
