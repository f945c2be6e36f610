package rewrite

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"go.opentelemetry.io/otel/trace"
	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
)

// accounted seals memos with phi and the rest with default, and lets the caller have a part of it.
const accounted = `package temporal

request contains {"action": "seal", "key": "phi"} if input.payload.kind == "memo"

request contains {"action": "seal", "key": "default"} if input.payload.kind != "memo"

response contains {"action": "open"} if input.payload.kind in {"input", "memo"}

response contains {"action": "redact"} if input.payload.name == "redacted"

response contains {"action": "keep"} if input.payload.name == "kept"

response contains {"action": "deny", "reason": "no"} if input.payload.name == "denied"
`

func memoOf(names ...string) *commonpb.Memo {
	m := &commonpb.Memo{Fields: map[string]*commonpb.Payload{}}
	for _, name := range names {
		m.Fields[name] = payloadOf(20)
	}
	return m
}

// answer seals a message as a request's, and opens it as the answer to a method.
func answer(t *testing.T, r *Rewriter, method string, m proto.Message) (*Session, error) {
	t.Helper()
	rpc := r.Method(service + method)
	raw, err := sealed(t, r, rpc, m.ProtoReflect().Descriptor(), bytesOf(t, m))
	if err != nil {
		t.Fatal(err)
	}
	c := r.call(rpc)
	_, err = c.Response(context.Background(), raw)
	return c, err
}

func wantAccount(t *testing.T, c *Session, want ...Handled) {
	t.Helper()
	got := slices.SortedFunc(slices.Values(c.Account()), func(a, b Handled) int { return bytes.Compare([]byte(a.Outcome), []byte(b.Outcome)) })
	if !slices.Equal(got, want) {
		t.Errorf("account\n%+v, want\n%+v", got, want)
	}
}

func TestAccountOfAList(t *testing.T) {
	r := newRewriter(t, accounted)
	r.accounts = true
	list := &workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{
		{Memo: memoOf("a", "b", "redacted")}, {Memo: memoOf("kept", "denied", "c")}}}
	c, err := answer(t, r, "ListWorkflowExecutions", list)
	if err != nil {
		t.Fatal(err)
	}
	all := []Handled{{"memo", testNamespace, "phi", Denied, 1, ""}, {"memo", testNamespace, "phi", Kept, 1, ""},
		{"memo", testNamespace, "phi", Opened, 3, ""}, {"memo", testNamespace, "phi", Redacted, 1, ""}}
	wantAccount(t, c, all...)
	c.Done()
	for range 2 { // a call's buffers serve the next one
		c, err = answer(t, r, "ListWorkflowExecutions", list)
		if err != nil {
			t.Fatal(err)
		}
		wantAccount(t, c, all...)
		c.Done()
	}
}

// TestAccountOfAFailure: where an answer is refused as a whole, nothing stands in the account as opened.
func TestAccountOfAFailure(t *testing.T) {
	r := newRewriter(t, accounted)
	r.accounts = true
	started := &historypb.WorkflowExecutionStartedEventAttributes{Input: payloadsOf(20), Memo: memoOf("denied")}
	c, err := answer(t, r, "GetWorkflowExecutionHistory", &workflowservice.GetWorkflowExecutionHistoryResponse{History: &historypb.History{Events: []*historypb.HistoryEvent{
		{Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{WorkflowExecutionStartedEventAttributes: started}}}}})
	if !isDenied(err) {
		t.Fatal(err)
	}
	wantAccount(t, c, Handled{"memo", testNamespace, "phi", Denied, 1, ""})
	c.Done()
}

// TestAccountOfWhatFails: another namespace's envelope is on record as one that did not open.
func TestAccountOfWhatFails(t *testing.T) {
	r := newRewriter(t, accounted)
	r.accounts = true
	m := r.Method(service + "DescribeWorkflowExecution")
	info := &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{Memo: memoOf("a")}}
	raw, err := sealed(t, r, m, info.ProtoReflect().Descriptor(), bytesOf(t, info))
	if err != nil {
		t.Fatal(err)
	}
	c := r.call(m)
	c.call.namespace = "another"
	out, err := c.Response(context.Background(), raw)
	if err != nil || !bytes.Equal(out, raw) {
		t.Fatalf("%v, changed %v", err, !bytes.Equal(out, raw))
	}
	wantAccount(t, c, Handled{"memo", testNamespace, "phi", Failed, 1, "grant"})
	c.Done()
}

// TestAccountIsBounded: the names in planted envelopes cannot make an account grow.
func TestAccountIsBounded(t *testing.T) {
	r := newRewriter(t, accounted)
	r.accounts = true
	c := r.call(r.Method(service + "ListWorkflowExecutions"))
	defer c.Done()
	for i := range 10_000 {
		c.opening().account.enter(Handled{"memo", testNamespace, fmt.Sprint("key ", i), Kept, 1, ""})
	}
	total := 0
	for _, a := range c.Account() {
		total += a.Count
	}
	if len(c.Account()) != maxHandled+1 || total != 10_000 {
		t.Errorf("%d entries for %d payloads", len(c.Account()), total)
	}
}

func TestNoAccountUnlessWanted(t *testing.T) {
	r := newRewriter(t, accounted)
	c, err := answer(t, r, "ListWorkflowExecutions", &workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{{Memo: memoOf("a")}}})
	if err != nil || len(c.Account()) > 0 {
		t.Errorf("%v, %+v", err, c.Account())
	}
	c.Done()
}

// TestLogFieldsNameTheTrace: by its trace a log line is found in the collector.
func TestLogFieldsNameTheTrace(t *testing.T) {
	r := newRewriter(t, sealAll)
	s := r.call(r.Method(service + "StartWorkflowExecution"))
	defer s.Done()
	if fields := s.LogFields(t.Context()); slices.Contains(fields, any("trace_id")) {
		t.Errorf("a call without a trace has one: %v", fields)
	}
	id := trace.TraceID{0: 0xab, 15: 1}
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: id}))
	fields := s.LogFields(ctx)
	i := slices.Index(fields, any("trace_id"))
	if i < 0 || fields[i+1] != "ab000000000000000000000000000001" {
		t.Errorf("the trace is missing: %v", fields)
	}
}

// TestOpenedEnvelopesAreCounted: each envelope that a message holds is counted for its key, also those after the first.
func TestOpenedEnvelopesAreCounted(t *testing.T) {
	r := newRewriter(t, accounted)
	list := &workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{
		{Memo: memoOf("a", "b", "c")}, {Memo: memoOf("d")}, {Memo: memoOf("e")}}}
	for calls := range uint64(3) {
		c, err := answer(t, r, "ListWorkflowExecutions", list)
		if err != nil {
			t.Fatal(err)
		}
		var opened uint64
		for _, use := range r.state.Load().Keys.Uses() {
			if use.Entry == "phi" {
				opened += use.Opened
			}
		}
		if want := 5 * (calls + 1); opened != want {
			t.Errorf("%d envelopes count as opened after call %d, want %d", opened, calls+1, want)
		}
		c.Done()
	}
}
