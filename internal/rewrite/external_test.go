package rewrite

import (
	"bytes"
	"context"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
)

// external lets references pass by their name, denies them in signals, and seals the rest.
const external = `package temporal

request contains {"action": "pass"} if {
	input.payload.external
	input.payload.name == "pass"
}

request contains {"action": "deny", "reason": "no"} if {
	input.payload.external
	input.payload.kind == "signal"
}

request contains {"action": "seal", "compress": true} if input.payload.name == "compressed"

request contains {"action": "seal", "fields": ["/driverName"]} if input.payload.name == "in part"

response contains {"action": "open"}
`

// referenceOf is a reference as SDKs write it.
func referenceOf(sizes ...int64) *commonpb.Payload {
	p := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/protobuf"), "messageType": []byte("temporal.api.sdk.v1.ExternalStorageReference")},
		Data: []byte(`{"driverName":"SECRET","claimData":{"bucket":"b"}}`)}
	for _, n := range sizes {
		p.ExternalPayloads = append(p.ExternalPayloads, &commonpb.Payload_ExternalPayloadDetails{SizeBytes: n})
	}
	return p
}

// TestReferencesToExternalStorage: the server reads how many values a workflow has elsewhere and how large they are, and nothing
// else of a sealed reference. What is opened is the reference as it was.
func TestReferencesToExternalStorage(t *testing.T) {
	t.Parallel()
	r := newRewriter(t, external)
	clear := map[string]*commonpb.Payload{
		"one": referenceOf(300_000), "two": referenceOf(300_000, 0), "compressed": referenceOf(1 << 40), "in part": referenceOf(7), "pass": referenceOf(1),
		"no size": referenceOf(), "none": {Metadata: map[string][]byte{"encoding": []byte("json/protobuf"), "messageType": []byte("another")}, Data: []byte("SECRET")},
		"older": {Metadata: map[string][]byte{"encoding": []byte("json/external-storage-reference")}, Data: []byte("SECRET")},
	}
	hiding := referenceOf(5)
	hiding.ExternalPayloads[0].ProtoReflect().SetUnknown([]byte("\x12\x06SECRET"))
	clear["hiding a text"] = hiding
	q := &workflowservice.StartWorkflowExecutionRequest{Namespace: testNamespace, Memo: &commonpb.Memo{Fields: clear}}
	rpc := r.Method(service + "StartWorkflowExecution")
	c := r.call(rpc)
	defer c.Done()
	out, err := c.Request(context.Background(), bytesOf(t, q))
	if err != nil {
		t.Fatal(err)
	}
	if n := c.RequestStats().External; n != 8 {
		t.Errorf("%d references are counted, want 8", n)
	}
	stored := new(workflowservice.StartWorkflowExecutionRequest)
	if err := proto.Unmarshal(out, stored); err != nil {
		t.Fatal(err)
	}
	for name, p := range stored.Memo.Fields {
		if name == "pass" {
			if !proto.Equal(p, clear[name]) {
				t.Errorf("%s: %v", name, p)
			}
			continue
		}
		sizes := &commonpb.Payload{ExternalPayloads: p.ExternalPayloads}
		want := proto.CloneOf(&commonpb.Payload{ExternalPayloads: clear[name].ExternalPayloads})
		for _, e := range want.ExternalPayloads {
			e.ProtoReflect().SetUnknown(nil)
		}
		if bytes.Contains(bytesOf(t, p), []byte("SECRET")) || !strings.Contains(string(p.Metadata["encoding"]), "/sealed.v1") || !proto.Equal(sizes, want) {
			t.Errorf("%s: it becomes %v", name, p)
		}
	}
	opened, err := unsealed(t, r, rpc, stored.ProtoReflect().Descriptor(), out)
	if err != nil {
		t.Fatal(err)
	}
	restored := new(workflowservice.StartWorkflowExecutionRequest)
	if err := proto.Unmarshal(opened, restored); err != nil || !proto.Equal(restored, q) {
		t.Errorf("opened: %v, %v", restored, err)
	}
}

// A request that is refused for a reference counts it as well.
func TestRefusedReferencesAreCounted(t *testing.T) {
	t.Parallel()
	r := newRewriter(t, external)
	c := r.call(r.Method(service + "SignalWorkflowExecution"))
	defer c.Done()
	_, err := c.Request(context.Background(), bytesOf(t, &workflowservice.SignalWorkflowExecutionRequest{Namespace: testNamespace,
		Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{referenceOf(1)}}}))
	if err == nil || c.RequestStats().External != 1 {
		t.Errorf("%v, %d counted", err, c.RequestStats().External)
	}
}
