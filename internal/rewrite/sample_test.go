package rewrite

import (
	"bytes"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// startWith is a request with one input.
func startWith(input *commonpb.Payload) *workflowservice.StartWorkflowExecutionRequest {
	return &workflowservice.StartWorkflowExecutionRequest{Namespace: testNamespace, WorkflowId: "w", WorkflowType: &commonpb.WorkflowType{Name: "Order"},
		Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{input}}}
}

// taken returns the sample that was taken, if one was.
func taken(s *Sampler) (Sample, bool) {
	select {
	case one := <-s.Samples():
		return one, true
	default:
		return Sample{}, false
	}
}

// TestSamples: a request and an answer give the payload in clear, once for each that was asked for, and never change for it.
func TestSamples(t *testing.T) {
	r, input := newRewriter(t, sealAll), secret("CANARY").Payloads[0]
	r.sampler = NewSampler()
	send := func(in *commonpb.Payload) *commonpb.Payload {
		t.Helper()
		raw, err := request(t, r, "StartWorkflowExecution", bytesOf(t, startWith(in)))
		if err != nil || bytes.Contains(raw, []byte("CANARY")) {
			t.Fatalf("the request fails, or holds clear text: %v", err)
		}
		sent := new(workflowservice.StartWorkflowExecutionRequest)
		if err := proto.Unmarshal(raw, sent); err != nil {
			t.Fatal(err)
		}
		return sent.Input.Payloads[0]
	}
	sealed := send(input)
	if _, ok := taken(r.sampler); ok {
		t.Error("a sample that nobody asked for")
	}
	r.sampler.Want()
	send(input)
	send(input)
	got, ok := taken(r.sampler)
	if !ok || !bytes.Equal(got.Value, bytesOf(t, input)) || got.WorkflowType != "Order" || got.Kind != policy.KindInput || got.Namespace != testNamespace ||
		got.Direction != policy.Request || got.Verdict.Action != policy.Seal || got.Shadowed {
		t.Errorf("%v %+v", ok, got)
	}
	if _, again := taken(r.sampler); again {
		t.Error("two samples, and one was asked for")
	}
	r.sampler.Want()
	back := new(workflowservice.GetWorkflowExecutionHistoryResponse)
	if err := answerTo(t, r, nil, "GetWorkflowExecutionHistory", history(sealed, nil), back); err != nil {
		t.Fatal(err)
	}
	if got, ok = taken(r.sampler); !ok || got.Direction != policy.Response || !bytes.Equal(got.Value, bytesOf(t, input)) {
		t.Errorf("%v %+v", ok, got)
	}
	r.sampler.Want()
	send(&commonpb.Payload{Data: make([]byte, MaxSample)})
	if _, ok := taken(r.sampler); ok || r.sampler.TooLarge() != 1 {
		t.Errorf("a sample of more than %d bytes", MaxSample)
	}
	if r.sampler.Seen() != 5 {
		t.Errorf("%d payloads seen", r.sampler.Seen())
	}
}

// TestSamplesOfTexts: failures are samples too. What the codec server reads is none, and neither is a refused request.
func TestSamplesOfTexts(t *testing.T) {
	r := newRewriter(t, sealAll)
	r.sampler = NewSampler()
	r.sampler.Want()
	if _, err := request(t, r, "RespondActivityTaskFailed", bytesOf(t, &workflowservice.RespondActivityTaskFailedRequest{Namespace: testNamespace,
		Failure: &failurepb.Failure{Message: "CANARY"}})); err != nil {
		t.Fatal(err)
	}
	var f failurepb.Failure
	if got, ok := taken(r.sampler); !ok || got.Form != SampleFailure || proto.Unmarshal(got.Value, &f) != nil || f.Message != "CANARY" {
		t.Errorf("%v %+v", ok, got)
	}
	denying := newRewriter(t, `package temporal

request contains {"action": "deny", "reason": "none"}
`)
	denying.sampler = NewSampler()
	denying.sampler.Want()
	if _, err := request(t, denying, "StartWorkflowExecution", bytesOf(t, startWith(secret("CANARY").Payloads[0]))); err == nil {
		t.Error("the request is not denied")
	}
	if _, ok := taken(denying.sampler); ok {
		t.Error("a denied payload is a sample")
	}
	r.sampler.Want()
	if _, _, err := asCodecServer(t, r, RPCEncode, testNamespace, nil, secret("CANARY").Payloads[0]); err != nil {
		t.Fatal(err)
	}
	if _, ok := taken(r.sampler); ok {
		t.Error("a payload of the codec server is a sample")
	}
}

// TestShadowSamples: shadow mode is said with the sample.
func TestShadowSamples(t *testing.T) {
	r := newRewriter(t, sealAll)
	r.shadow, r.sampler = true, NewSampler()
	r.sampler.Want()
	if _, err := request(t, r, "StartWorkflowExecution", bytesOf(t, startWith(secret("x").Payloads[0]))); err != nil {
		t.Fatal(err)
	}
	if got, ok := taken(r.sampler); !ok || !got.Shadowed {
		t.Errorf("%v %+v", ok, got)
	}
}
