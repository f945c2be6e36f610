package rewrite

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
)

// TestFieldsAndCompress: a verdict that asks for both seals the whole payload, compressed; nothing of it stays readable.
func TestFieldsAndCompress(t *testing.T) {
	r := newRewriter(t, sealAll+`
request contains {"action": "seal", "key": "phi", "fields": ["/patient"], "compress": true}
`)
	text := `{"patient":"P-1","note":"` + strings.Repeat("CANARY ", 200) + `"}`
	in := &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace, WorkflowId: "w", Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{{
		Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(text)}}}}
	out, err := request(t, r, "StartWorkflowExecution", bytesOf(t, in))
	if err != nil {
		t.Fatal(err)
	}
	var sent workflowpb.StartWorkflowExecutionRequest
	if err := proto.Unmarshal(out, &sent); err != nil {
		t.Fatal(err)
	}
	p := sent.Input.Payloads[0]
	if string(p.Metadata["encoding"]) != "binary/sealed.v1" || strings.Contains(string(out), "CANARY") {
		t.Errorf("stored as %s, %d bytes", p.Metadata["encoding"], len(p.Data))
	}
	if len(p.Data) > len(text)/2 {
		t.Errorf("%d bytes of %d: not compressed", len(p.Data), len(text))
	}
	back, err := unsealed(t, r, r.Method(service+"StartWorkflowExecution"), in.ProtoReflect().Descriptor(), out)
	if err != nil {
		t.Fatal(err)
	}
	var got workflowpb.StartWorkflowExecutionRequest
	if err := proto.Unmarshal(back, &got); err != nil || !proto.Equal(&got, in) {
		t.Errorf("came back as %v, %v", &got, err)
	}
}

// TestVisitShowsEveryPayload: sealed and clear ones, those in failures and in raw histories, without a key or a policy.
func TestVisitShowsEveryPayload(t *testing.T) {
	r := newRewriter(t, sealAll)
	m := r.Method(service + "GetWorkflowExecutionHistory")
	event := &historypb.HistoryEvent{Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
		WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{
			Input: secret("input"), Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"m": secret("memo").Payloads[0]}},
			ContinuedFailure: &failurepb.Failure{Message: "it failed", Cause: &failurepb.Failure{Message: "deep"}}}}}
	history := &historypb.History{Events: []*historypb.HistoryEvent{event}}
	raw, err := sealed(t, r, m, history.ProtoReflect().Descriptor(), bytesOf(t, history))
	if err != nil {
		t.Fatal(err)
	}
	stored := new(historypb.History)
	if err := proto.Unmarshal(raw, stored); err != nil {
		t.Fatal(err)
	}
	stored.Events = append(stored.Events, &historypb.HistoryEvent{Attributes: &historypb.HistoryEvent_WorkflowExecutionSignaledEventAttributes{
		WorkflowExecutionSignaledEventAttributes: &historypb.WorkflowExecutionSignaledEventAttributes{Input: secret("clear")}}})
	keyless, err := New(Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string]*workflowpb.GetWorkflowExecutionHistoryResponse{
		"events":      {History: stored},
		"raw history": {RawHistory: []*commonpb.DataBlob{{EncodingType: 1, Data: bytesOf(t, stored)}}},
	} {
		t.Run(name, func(t *testing.T) {
			var seen []string
			err := keyless.Visit(keyless.Method(service+"GetWorkflowExecutionHistory"), bytesOf(t, answer), func(f Found) {
				key := "clear"
				if f.Marked && f.Err == nil {
					key = f.Sealed.Header.Key + " of " + f.Sealed.Header.Namespace
				}
				seen = append(seen, fmt.Sprint(f.Kind, " ", key, " ", f.Err))
			})
			slices.Sort(seen)
			want := []string{"failure default of clinic-prod <nil>", "input default of clinic-prod <nil>", "memo default of clinic-prod <nil>", "signal clear <nil>"}
			if err != nil || !slices.Equal(seen, want) {
				t.Errorf("%q, %v; want %q", seen, err, want)
			}
		})
	}
	if err := keyless.Visit(m, []byte("\xff\xff"), func(Found) { t.Error("something is seen in noise") }); err == nil {
		t.Error("noise is no error")
	}
}
