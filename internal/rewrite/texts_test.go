package rewrite

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/errordetails/v1"
	failurepb "go.temporal.io/api/failure/v1"
	sdkpb "go.temporal.io/api/sdk/v1"
	"go.temporal.io/api/workflow/v1"
	workflowpb "go.temporal.io/api/workflowservice/v1"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// TestReasons: a note that the server keeps as text passes, is refused or is
// redacted as the policy says, and never sealed.
func TestReasons(t *testing.T) {
	r := newRewriter(t, sealAll+`
request contains {"action": "redact"} if {
	input.payload.kind == "reason"
	contains(input.content.json, "insurer")
}

request contains {"action": "deny", "reason": "a token in a note"} if {
	input.payload.kind == "reason"
	startswith(input.content.json, "eyJ")
}
`)
	terminate := func(reason string) (*workflowpb.TerminateWorkflowExecutionRequest, error) {
		out, err := request(t, r, "TerminateWorkflowExecution", bytesOf(t, &workflowpb.TerminateWorkflowExecutionRequest{
			Namespace: testNamespace, Reason: reason, Details: secret("CANARY-details")}))
		got := new(workflowpb.TerminateWorkflowExecutionRequest)
		if err == nil {
			err = proto.Unmarshal(out, got)
		}
		return got, err
	}
	if got, err := terminate("no longer needed"); err != nil || got.Reason != "no longer needed" {
		t.Errorf("a plain note: %q, %v", got.Reason, err)
	}
	if got, err := terminate("the insurer of Maren said no"); err != nil || got.Reason != redactedReason {
		t.Errorf("a note to redact: %q, %v", got.Reason, err)
	}
	var e *Error
	if _, err := terminate("eyJh.eyJi.c"); !errors.As(err, &e) || e.Kind != KindDenied || strings.Contains(err.Error(), "eyJ") {
		t.Errorf("a note to refuse: %v", err)
	}
	if _, err := terminate("sealed.v1:AQEB"); !errors.As(err, &e) || e.Kind != KindDenied {
		t.Errorf("a note that bears the mark: %v", err)
	}
}

// TestErrorsOfQueries: the text of a failed query comes back to the caller as
// the status message, and its failure in the details; a detail whose type
// is not known changes nothing.
func TestErrorsOfQueries(t *testing.T) {
	r := newRewriter(t, sealAll)
	ctx := context.Background()
	out, err := request(t, r, "RespondQueryTaskCompleted", bytesOf(t, &workflowpb.RespondQueryTaskCompletedRequest{
		Namespace: testNamespace, ErrorMessage: "CANARY-text", Failure: &failurepb.Failure{Message: "CANARY-message", StackTrace: "CANARY-stack"}}))
	if err != nil || bytes.Contains(out, []byte(canaryMark)) {
		t.Fatalf("not sealed: %v", err)
	}
	sent := new(workflowpb.RespondQueryTaskCompletedRequest)
	if err := proto.Unmarshal(out, sent); err != nil {
		t.Fatal(err)
	}
	detail, err := anypb.New(&errordetails.QueryFailedFailure{Failure: sent.Failure})
	if err != nil {
		t.Fatal(err)
	}
	unknown := &anypb.Any{TypeUrl: "type.googleapis.com/of.some.newer.Release", Value: []byte{0xff, 0xff}}
	nested, err := anypb.New(&errordetails.MultiOperationExecutionFailure{Statuses: []*errordetails.MultiOperationExecutionFailure_OperationStatus{
		{Code: 3, Details: []*anypb.Any{detail, unknown}}}})
	if err != nil {
		t.Fatal(err)
	}
	c := r.call(r.Method(service + "QueryWorkflow"))
	defer c.Done()
	st := c.Status(ctx, &spb.Status{Code: int32(codes.InvalidArgument), Message: sent.ErrorMessage, Details: []*anypb.Any{detail, unknown, nested}})
	if st.Code != int32(codes.InvalidArgument) || st.Message != "CANARY-text" || len(st.Details) != 3 {
		t.Errorf("code %d, message %q, %d details", st.Code, st.Message, len(st.Details))
	}
	got := new(errordetails.QueryFailedFailure)
	if err := st.Details[0].UnmarshalTo(got); err != nil || got.Failure.Message != "CANARY-message" || got.Failure.StackTrace != "CANARY-stack" {
		t.Errorf("the failure: %v, %v", got, err)
	}
	if !proto.Equal(st.Details[1], unknown) {
		t.Error("the unknown detail was changed")
	}
	if inner, err := proto.Marshal(st.Details[2]); err != nil || !bytes.Contains(inner, []byte("CANARY-message")) {
		t.Errorf("the nested failure was not opened: %v", err)
	}
}

// TestQuotedTextsStaySealed: a text that opens on its own does not where an error quotes it. Callers choose the names that errors
// quote, and what a query's text says around it.
func TestQuotedTextsStaySealed(t *testing.T) {
	r := newRewriter(t, sealAll)
	out, err := request(t, r, "RespondQueryTaskCompleted", bytesOf(t, &workflowpb.RespondQueryTaskCompletedRequest{Namespace: testNamespace, ErrorMessage: "CANARY-text"}))
	if err != nil {
		t.Fatal(err)
	}
	var sent workflowpb.RespondQueryTaskCompletedRequest
	if err := proto.Unmarshal(out, &sent); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, message string
		opens           bool
	}{
		{"QueryWorkflow", sent.ErrorMessage, true},
		{"QueryWorkflow", "workflow not found for ID: " + sent.ErrorMessage, false},
		{"QueryWorkflow", sent.ErrorMessage + " is unknown", false},
		{"UpdateWorkflowExecution", sent.ErrorMessage, false},
		{"ExecuteMultiOperation", "no such workflow: " + sent.ErrorMessage + ".", false},
	} {
		call := r.call(r.Method(service + c.method))
		st := call.Status(context.Background(), &spb.Status{Code: int32(codes.NotFound), Message: c.message})
		call.Done()
		if opened := strings.Contains(st.Message, "CANARY"); opened != c.opens || !opened && st.Message != c.message {
			t.Errorf("%s, %q: %q", c.method, c.message, st.Message)
		}
	}
}

// TestSummariesThatCannotFit: the server refuses long summaries of standalone
// activities, so one that only fits in clear gives way to a placeholder.
func TestSummariesThatCannotFit(t *testing.T) {
	r := newRewriter(t, sealAll)
	start := func(size int) *commonpb.Payload {
		summary := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: noise(size)}
		out, err := request(t, r, "StartActivityExecution", bytesOf(t, &workflowpb.StartActivityExecutionRequest{
			Namespace: testNamespace, UserMetadata: &sdkpb.UserMetadata{Summary: summary}}))
		if err != nil {
			t.Fatal(err)
		}
		got := new(workflowpb.StartActivityExecutionRequest)
		if err := proto.Unmarshal(out, got); err != nil {
			t.Fatal(err)
		}
		return got.UserMetadata.Summary
	}
	if short := start(60); string(short.Metadata["encoding"]) != "binary/sealed.v1" || proto.Size(short) > maxSummary {
		t.Errorf("a short summary: %d bytes", proto.Size(short))
	}
	if long := start(maxSummary - 40); string(long.Data) != `"[sealed]"` {
		t.Errorf("a long summary: %d bytes", proto.Size(long))
	}
}

// TestHistoriesForReaders: a policy may redact what a reader sees of a
// history. In a task the same verdict refuses the whole: a worker must not
// replay placeholders.
func TestHistoriesForReaders(t *testing.T) {
	r := newRewriter(t, "package temporal\n\nresponse contains {\"action\": \"redact\"}\n")
	history := &workflowpb.GetWorkflowExecutionHistoryResponse{History: historyOf(2, 50)}
	m := r.Method(service + "GetWorkflowExecutionHistory")
	sealedHistory, err := sealed(t, r, m, history.ProtoReflect().Descriptor(), bytesOf(t, history))
	if err != nil {
		t.Fatal(err)
	}
	c := r.call(m)
	out, err := c.Response(context.Background(), sealedHistory)
	if err != nil || bytes.Count(out, []byte(redactedText)) != 2 || bytes.Contains(out, []byte("patient")) {
		t.Errorf("a reader gets %q, %v", out, err)
	}
	c.Done()
	task := &workflowpb.PollWorkflowTaskQueueResponse{TaskToken: []byte("t"), History: history.History}
	m = r.Method(service + "PollWorkflowTaskQueue")
	sealedTask, err := sealed(t, r, m, task.ProtoReflect().Descriptor(), bytesOf(t, task))
	if err != nil {
		t.Fatal(err)
	}
	c = r.call(m)
	defer c.Done()
	if _, err := c.Response(context.Background(), sealedTask); !isDenied(err) {
		t.Errorf("a worker gets %v", err)
	}
}

// TestDocumentsForReaders: of a document with sealed members, `redact` replaces all, and `keep` shows the others.
func TestDocumentsForReaders(t *testing.T) {
	for action, want := range map[string]string{"redact": `"[sealed]"`, "keep": `{"patient":"[sealed]","ward":"4B"}`} {
		r := newRewriter(t, "package temporal\n\nrequest contains {\"action\": \"seal\", \"fields\": [\"/patient\"]}\n\nresponse contains {\"action\": \""+action+"\"}\n")
		inputs, err := starting(t, r, `{"patient":"P-1","ward":"4B"}`)
		if err != nil {
			t.Fatal(err)
		}
		s := r.call(r.Method(service + "ListWorkflowExecutions"))
		out, err := s.Response(t.Context(), bytesOf(t, &workflowpb.ListWorkflowExecutionsResponse{Executions: []*workflow.WorkflowExecutionInfo{
			{Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"a": inputs[0]}}}}}))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(decode(t, out, new(workflowpb.ListWorkflowExecutionsResponse)).Executions[0].Memo.Fields["a"].Data); got != want {
			t.Errorf("%s: a reader gets %s", action, got)
		}
		s.Done()
	}
}

// TestShadow: shadow mode counts what would be sealed apart, and neither changes nor refuses anything, but for what bears the
// marker. It opens answers.
func TestShadow(t *testing.T) {
	r := newRewriter(t, sealAll+"\nrequest contains {\"action\": \"deny\"} if input.payload.kind == \"memo\"\n"+
		"request contains {\"action\": \"pass\"} if input.payload.kind == \"header\"\n")
	raw, err := request(t, r, "StartWorkflowExecution", bytesOf(t, &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace, Input: secret("stolen")}))
	sent := new(workflowpb.StartWorkflowExecutionRequest)
	if err != nil || proto.Unmarshal(raw, sent) != nil {
		t.Fatal(err)
	}
	sealed := sent.Input.Payloads[0]
	r.shadow = true
	for name, c := range map[string]struct {
		request *workflowpb.StartWorkflowExecutionRequest
		want    Stats
	}{
		"sealed": {&workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace, Input: secret("x")}, Stats{Shadow: 1}},
		"denied": {&workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace, Input: secret("x"),
			Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"m": secret("y").Payloads[0]}}}, Stats{Shadow: 2}},
		"marked": {&workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace, Identity: "clear",
			Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{sealed, secret("x").Payloads[0]}}}, Stats{Shadow: 1, Payloads: 1}},
	} {
		call := r.call(r.Method(service + "StartWorkflowExecution"))
		in := bytesOf(t, c.request)
		out, err := call.Request(context.Background(), in)
		if err != nil || bytes.Equal(out, in) != (c.want.Payloads == 0) {
			t.Errorf("%s: %v, changed %v", name, err, !bytes.Equal(out, in))
		}
		if got := call.RequestStats(); got.Shadow != c.want.Shadow || got.Payloads != c.want.Payloads || got.Passed != 0 {
			t.Errorf("%s: counted %+v", name, *got)
		}
		call.Done()
	}
	got := new(workflowpb.GetWorkflowExecutionHistoryResponse)
	if err := answerTo(t, r, nil, "GetWorkflowExecutionHistory", history(sealed, nil), got); err != nil {
		t.Fatal(err)
	}
	if text := got.String(); !strings.Contains(text, "stolen") {
		t.Errorf("the answer was not opened: %s", text)
	}
}

// A failure without a message, as some workers send it, has its sealed attributes where a redacted message belongs.
func TestRedactedFailureGetsAMessage(t *testing.T) {
	r := newRewriter(t, `package temporal
request contains {"action": "seal", "key": "default"}
response contains {"action": "redact"}
`)
	raw, err := request(t, r, "RespondActivityTaskFailed", bytesOf(t, &workflowpb.RespondActivityTaskFailedRequest{Namespace: testNamespace, TaskToken: []byte("t"),
		Failure: &failurepb.Failure{EncodedAttributes: secret("Ada").Payloads[0]}}))
	if err != nil {
		t.Fatal(err)
	}
	sent := new(workflowpb.RespondActivityTaskFailedRequest)
	if err := proto.Unmarshal(raw, sent); err != nil {
		t.Fatal(err)
	}
	got := new(workflowpb.GetWorkflowExecutionHistoryResponse)
	if err := answerTo(t, r, nil, "GetWorkflowExecutionHistory", history(secret("Ada").Payloads[0], sent.Failure), got); err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, e := range got.History.Events {
		if f := e.GetWorkflowExecutionFailedEventAttributes().GetFailure(); f != nil {
			found++
			if f.Message != redactedText || f.EncodedAttributes != nil {
				t.Errorf("the reader gets %v", f)
			}
		}
	}
	if found != 1 {
		t.Errorf("%d failures in %v", found, got)
	}
}

// isDenied reports whether the policy refused something in a message.
func isDenied(err error) bool {
	var d *DeniedError
	return errors.As(err, &d)
}

// TestShadowOfFailures: in shadow mode a failure passes in clear unless a part of it bears the marker, and bytes that are no message pass.
func TestShadowOfFailures(t *testing.T) {
	r := newRewriter(t, sealAll)
	failed := func(f *failurepb.Failure) []byte {
		return bytesOf(t, &workflowpb.RespondActivityTaskFailedRequest{Namespace: testNamespace, Failure: f})
	}
	whole, err := request(t, r, "RespondActivityTaskFailed", failed(&failurepb.Failure{Message: "CANARY-1"}))
	if err != nil {
		t.Fatal(err)
	}
	var stored workflowpb.RespondActivityTaskFailedRequest
	if err := proto.Unmarshal(whole, &stored); err != nil {
		t.Fatal(err)
	}
	r.shadow = true
	for name, c := range map[string]struct {
		in    []byte
		clear bool
	}{
		"in clear":                   {failed(&failurepb.Failure{Message: "CANARY-2"}), true},
		"sealed before":              {failed(stored.GetFailure()), false},
		"the cause is sealed before": {failed(&failurepb.Failure{Message: "CANARY-2", Cause: stored.GetFailure()}), false},
		"no message":                 {[]byte("CANARY-2"), true},
	} {
		out, err := request(t, r, "RespondActivityTaskFailed", c.in)
		if err != nil || bytes.Equal(out, c.in) != c.clear || !c.clear && bytes.Contains(out, []byte("CANARY")) {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
}
