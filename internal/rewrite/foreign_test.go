package rewrite

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/foreign"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

var codecKey = []byte("test-key-test-key-test-key-test!")

// passAll lets everything pass, and opens all but what auditors may not see.
const passAll = `package temporal

request contains {"action": "pass"}

response contains {"action": "open"} if input.sealed.namespace == input.namespace

response contains {"action": "keep"} if {
	input.sealed.key == "foreign:legacy"
	input.caller.subject == "auditor"
}
`

// acceptOthers takes what workers with a codec encode, of callers with an identity.
const acceptOthers = `package temporal

request contains {"action": "accept"} if input.payload.encoding == "binary/encrypted"

response contains {"action": "open"}
`

func newForeignRewriter(t testing.TB, rego string) *Rewriter {
	t.Helper()
	r := newRewriter(t, rego)
	others, err := foreign.New([]foreign.Source{
		{Name: "legacy", Namespaces: []string{testNamespace}, Format: foreign.Samples, Keys: map[string][]byte{"test": codecKey}},
		{Namespaces: []string{testNamespace}, Format: foreign.Zlib},
	})
	if err != nil {
		t.Fatal(err)
	}
	state := *r.state.Load()
	state.Foreign = others
	r.Apply(state)
	return r
}

// encrypted is a payload as the SDKs' encryption samples write it.
func encrypted(t testing.TB, p *commonpb.Payload, keyID string) *commonpb.Payload {
	t.Helper()
	block, err := aes.NewCipher(codecKey)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := []byte("twelve bytes")
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/encrypted"), "encryption-key-id": []byte(keyID)},
		Data: gcm.Seal(nonce, nonce, bytesOf(t, p), nil)}
}

func zlibbed(t testing.TB, p *commonpb.Payload) *commonpb.Payload {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	_, _ = w.Write(bytesOf(t, p))
	_ = w.Close()
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/zlib")}, Data: b.Bytes()}
}

func history(input *commonpb.Payload, failure *failurepb.Failure) *workflowpb.GetWorkflowExecutionHistoryResponse {
	return &workflowpb.GetWorkflowExecutionHistoryResponse{History: &historypb.History{Events: []*historypb.HistoryEvent{
		{EventId: 1, Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
			WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{
				Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{input}}}}},
		{EventId: 2, Attributes: &historypb.HistoryEvent_WorkflowExecutionFailedEventAttributes{
			WorkflowExecutionFailedEventAttributes: &historypb.WorkflowExecutionFailedEventAttributes{Failure: failure}}},
	}}}
}

// answerTo sends a message through the opening of a RPC.
func answerTo(t testing.TB, r *Rewriter, caller *policy.Caller, method string, in, out proto.Message) error {
	t.Helper()
	c := r.Begin(r.Method(service+method), caller)
	c.call.namespace = testNamespace
	defer c.Done()
	raw, err := c.Response(context.Background(), bytesOf(t, in))
	if err != nil {
		return err
	}
	return proto.Unmarshal(raw, out)
}

// TestForeignPayloadsAreOpened: in a history, also where a codec encoded a failure's texts, for whom the policy says so.
func TestForeignPayloadsAreOpened(t *testing.T) {
	r := newForeignRewriter(t, passAll)
	plain := secret("Ada").Payloads[0]
	texts := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`{"message":"no bed for Ada","stack_trace":""}`)}
	in := history(zlibbed(t, encrypted(t, plain, "test")), &failurepb.Failure{Message: encodedFailure, EncodedAttributes: encrypted(t, texts, "test"),
		Cause: &failurepb.Failure{Message: encodedFailure, EncodedAttributes: encrypted(t, texts, "test")}})
	want := history(plain, &failurepb.Failure{Message: encodedFailure, EncodedAttributes: texts,
		Cause: &failurepb.Failure{Message: encodedFailure, EncodedAttributes: texts}})
	got := new(workflowpb.GetWorkflowExecutionHistoryResponse)
	if err := answerTo(t, r, nil, "GetWorkflowExecutionHistory", in, got); err != nil || !proto.Equal(got, want) {
		t.Errorf("opened to %v, %v", got, err)
	}
	got.Reset()
	if err := answerTo(t, r, &policy.Caller{Kind: "jwt", Subject: "auditor"}, "GetWorkflowExecutionHistory", in, got); err != nil || !proto.Equal(got, in) {
		t.Errorf("an auditor, who gets ciphertext, got %v, %v", got, err)
	}
	err := answerTo(t, r, nil, "GetWorkflowExecutionHistory", history(encrypted(t, plain, "lost"), nil), got)
	if err == nil || !strings.Contains(err.Error(), "foreign") || strings.Contains(err.Error(), "lost") {
		t.Errorf("a key id that nobody configured: %v", err)
	}
}

// TestForeignMarkNeverPasses: a ciphertext of another tool's that somebody copied into a request comes back as it was sent,
// not as clear text, though every verdict is a pass.
func TestForeignMarkNeverPasses(t *testing.T) {
	r := newForeignRewriter(t, passAll)
	stolen := encrypted(t, secret("Ada").Payloads[0], "test")
	for name, p := range map[string]*commonpb.Payload{
		"encrypted": stolen, "within zlib": zlibbed(t, stolen), "zlib alone": zlibbed(t, secret("Ada").Payloads[0]),
		"with a key id that is not configured": encrypted(t, secret("Ada").Payloads[0], "other"),
	} {
		in := &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace, WorkflowId: "w",
			Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{p, secret("clear").Payloads[0]}}}
		raw, err := request(t, r, "StartWorkflowExecution", bytesOf(t, in))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sent := new(workflowpb.StartWorkflowExecutionRequest)
		if err := proto.Unmarshal(raw, sent); err != nil {
			t.Fatal(err)
		}
		if got := sent.Input.Payloads; string(got[0].Metadata["encoding"]) != "binary/sealed.v1" || string(got[1].Metadata["encoding"]) != "json/plain" {
			t.Errorf("%s was forwarded as %q, a clear payload beside it as %q", name, got[0].Metadata["encoding"], got[1].Metadata["encoding"])
		}
		got := new(workflowpb.GetWorkflowExecutionHistoryResponse)
		if err := answerTo(t, r, nil, "GetWorkflowExecutionHistory", history(sent.Input.Payloads[0], nil), got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if back := got.History.Events[0].GetWorkflowExecutionStartedEventAttributes().Input.Payloads[0]; !proto.Equal(back, p) {
			t.Errorf("%s came back as %v", name, back)
		}
	}
}

// TestForeignMarkHoldsEverywhere: payloads travel between namespaces, so the mark counts also where nothing foreign is read.
func TestForeignMarkHoldsEverywhere(t *testing.T) {
	r := newForeignRewriter(t, passAll)
	c := r.Begin(r.Method(service+"StartWorkflowExecution"), nil)
	c.call.namespace = "billing"
	defer c.Done()
	raw, err := c.Request(context.Background(), bytesOf(t, &workflowpb.StartWorkflowExecutionRequest{Namespace: "billing",
		Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{encrypted(t, secret("Ada").Payloads[0], "test")}}}))
	if err != nil || !bytes.Contains(raw, []byte("binary/sealed.v1")) || bytes.Contains(raw, []byte("binary/encrypted")) {
		t.Errorf("forwarded as %q, %v", raw, err)
	}
	in := bytesOf(t, history(encrypted(t, secret("Ada").Payloads[0], "test"), nil)) // once: maps have no order
	a := r.Begin(r.Method(service+"GetWorkflowExecutionHistory"), nil)
	a.call.namespace = "billing"
	defer a.Done()
	if out, err := a.Response(context.Background(), bytes.Clone(in)); err != nil || !bytes.Equal(out, in) {
		t.Errorf("answered %q, %v", out, err)
	}
}

// TestForeignFailureNeverPasses: the same for the place where codecs put a failure's texts.
func TestForeignFailureNeverPasses(t *testing.T) {
	r := newForeignRewriter(t, passAll)
	stolen := encrypted(t, secret("Ada").Payloads[0], "test")
	in := &workflowpb.RespondActivityTaskFailedRequest{Namespace: testNamespace, TaskToken: []byte("token"),
		Failure: &failurepb.Failure{Message: encodedFailure, EncodedAttributes: stolen}}
	raw, err := request(t, r, "RespondActivityTaskFailed", bytesOf(t, in))
	if err != nil {
		t.Fatal(err)
	}
	sent := new(workflowpb.RespondActivityTaskFailedRequest)
	if err := proto.Unmarshal(raw, sent); err != nil {
		t.Fatal(err)
	}
	if got := string(sent.Failure.EncodedAttributes.GetMetadata()["encoding"]); got != "binary/sealed.v1" {
		t.Fatalf("forwarded as %q", got)
	}
	got := new(workflowpb.GetWorkflowExecutionHistoryResponse)
	if err := answerTo(t, r, nil, "GetWorkflowExecutionHistory", history(secret("x").Payloads[0], sent.Failure), got); err != nil {
		t.Fatal(err)
	}
	if back := got.History.Events[1].GetWorkflowExecutionFailedEventAttributes().Failure; !proto.Equal(back, in.Failure) {
		t.Errorf("came back as %v", back)
	}
}

// TestAcceptedForeignPayloads: a worker that still has its codec may go through the proxy if the policy accepts what it
// encodes, and if it is somebody.
func TestAcceptedForeignPayloads(t *testing.T) {
	r := newForeignRewriter(t, acceptOthers)
	known := &policy.Caller{Kind: "mtls", Subject: "worker"}
	good := encrypted(t, secret("Ada").Payloads[0], "test")
	bad := proto.Clone(good).(*commonpb.Payload)
	bad.Data[len(bad.Data)-1] ^= 1
	for _, c := range []struct {
		name   string
		caller *policy.Caller
		p      *commonpb.Payload
		want   string
	}{
		{"a worker that is known", known, good, "binary/encrypted"},
		{"nobody", nil, good, "binary/sealed.v1"},
		{"anybody", &policy.Caller{Kind: "anonymous"}, good, "binary/sealed.v1"},
		{"what does not open", known, bad, "binary/sealed.v1"},
		{"a key that is not configured", known, encrypted(t, secret("Ada").Payloads[0], "other"), "binary/sealed.v1"},
	} {
		call := r.Begin(r.Method(service+"StartWorkflowExecution"), c.caller)
		call.call.namespace = testNamespace
		raw, err := call.Request(context.Background(), bytesOf(t, &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace,
			Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{c.p}}}))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		sent := new(workflowpb.StartWorkflowExecutionRequest)
		if err := proto.Unmarshal(raw, sent); err != nil {
			t.Fatal(err)
		}
		if got := string(sent.Input.Payloads[0].Metadata["encoding"]); got != c.want {
			t.Errorf("%s: forwarded as %q, want %q", c.name, got, c.want)
		}
		call.Done()
	}
}

// What another tool wrote and nobody can read is accounted for like any other payload that does not open.
func TestForeignPayloadsThatDoNotOpenStandInTheAccount(t *testing.T) {
	r := newForeignRewriter(t, passAll)
	r.accounts = true
	for name, p := range map[string]*commonpb.Payload{
		"not compressed": {Metadata: map[string][]byte{"encoding": []byte("binary/zlib")}, Data: []byte("clear")},
		"key not known":  encrypted(t, secret("Ada").Payloads[0], "lost"),
	} {
		for method, answer := range map[string]proto.Message{
			"GetWorkflowExecutionHistory": history(p, nil),
			"PollActivityTaskQueue":       &workflowpb.PollActivityTaskQueueResponse{TaskToken: []byte("t"), Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{p}}},
		} {
			c := r.Begin(r.Method(service+method), nil)
			c.call.namespace = testNamespace
			_, err := c.Response(t.Context(), bytesOf(t, answer))
			var refused *Error
			if !errors.As(err, &refused) || refused.Kind != KindOpening {
				t.Errorf("%s, %s: %v", name, method, err)
			}
			if a := c.Account(); len(a) != 1 || a[0].Outcome != Failed || a[0].Count != 1 {
				t.Errorf("%s, %s: the account is %+v", name, method, a)
			}
			c.Done()
		}
	}
}
