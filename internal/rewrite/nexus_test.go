package rewrite

import (
	"bytes"
	"context"
	"testing"

	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	namespacepb "go.temporal.io/api/namespace/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// TestNexusFailures seals Nexus failures of each type that handlers send and
// reads the details as the server does: it must find a sealed Temporal
// failure that opens to what the server makes of the plain one.
func TestNexusFailures(t *testing.T) {
	r := newRewriter(t, sealAll)
	inner, err := protojson.Marshal(&failurepb.Failure{EncodedAttributes: secret("CANARY-attributes").Payloads[0],
		FailureInfo: &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{
			Type: "Broken", Details: secret("CANARY-details")}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]*nexuspb.Failure{
		"a Temporal failure": {Message: "CANARY-m", StackTrace: "CANARY-s", Metadata: map[string]string{"type": nexusTypeTemporal}, Details: inner},
		"an operation error": {Message: "CANARY-m", Metadata: map[string]string{"type": nexusTypeOperation}, Details: []byte(`{"state":"failed"}`),
			Cause: &nexuspb.Failure{Message: "CANARY-cause"}},
		"a handler error": {Message: "CANARY-m", Metadata: map[string]string{"type": nexusTypeHandler}, Details: []byte(`{"type":"INTERNAL","retryableOverride":false}`)},
		"another type":    {Message: "CANARY-m", Metadata: map[string]string{"type": "x", "k": "CANARY-k"}, Details: []byte(`{"v":"CANARY-d"}`)},
		"no type":         {Message: "CANARY-m"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := request(t, r, "RespondNexusTaskFailed", bytesOf(t, &workflowpb.RespondNexusTaskFailedRequest{Namespace: testNamespace,
				Error: &nexuspb.HandlerError{ErrorType: "INTERNAL", Failure: f, RetryBehavior: enumspb.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE}}))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(out, []byte(canaryMark)) {
				t.Fatal("clear text is left")
			}
			sent := new(workflowpb.RespondNexusTaskFailedRequest)
			if err := proto.Unmarshal(out, sent); err != nil {
				t.Fatal(err)
			}
			stored, err := temporalFailure(sent.Error.Failure, nil)
			if err != nil {
				t.Fatalf("the server would refuse the details: %v", err)
			}
			m := r.Method(service + "RespondActivityTaskFailed")
			back, err := unsealed(t, r, m, m.request.desc, bytesOf(t, &workflowpb.RespondActivityTaskFailedRequest{Failure: stored}))
			if err != nil {
				t.Fatal(err)
			}
			got := new(workflowpb.RespondActivityTaskFailedRequest)
			if err := proto.Unmarshal(back, got); err != nil {
				t.Fatal(err)
			}
			want, err := temporalFailure(f, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got.Failure, want) {
				t.Errorf("got  %v\nwant %v", got.Failure, want)
			}
		})
	}
	if _, err := request(t, r, "RespondNexusTaskFailed", bytesOf(t, &workflowpb.RespondNexusTaskFailedRequest{Namespace: testNamespace,
		Error: &nexuspb.HandlerError{Failure: &nexuspb.Failure{Details: []byte("no JSON")}}})); err == nil {
		t.Error("details that are no JSON were accepted")
	}
}

// TestNamespaceLimitsLeaveRoom: a worker that asks how large a payload may be
// gets the size that is left for the clear one.
func TestNamespaceLimitsLeaveRoom(t *testing.T) {
	r := newRewriter(t, sealAll)
	m := r.Method(service + "DescribeNamespace")
	in := &workflowpb.DescribeNamespaceResponse{NamespaceInfo: &namespacepb.NamespaceInfo{Name: testNamespace,
		Limits: &namespacepb.NamespaceInfo_Limits{BlobSizeLimitError: 2 << 20, MemoSizeLimitError: 2 << 20}}}
	c := r.call(m)
	defer c.Done()
	if !m.ResponseTouched() {
		t.Fatal("the answer would pass unseen")
	}
	out, err := c.Response(context.Background(), bytesOf(t, in))
	if err != nil {
		t.Fatal(err)
	}
	got := new(workflowpb.DescribeNamespaceResponse)
	if err := proto.Unmarshal(out, got); err != nil {
		t.Fatal(err)
	}
	plain := got.NamespaceInfo.Limits.BlobSizeLimitError
	sealer, _, err := r.state.Load().Keys.Sealer(context.Background(), testNamespace, "default")
	if err != nil {
		t.Fatal(err)
	}
	if sealedSize := int64(sealer.PayloadSize(int(plain))); plain >= 2<<20 || sealedSize > 2<<20 {
		t.Errorf("a payload of %d bytes is allowed and takes %d when sealed", plain, sealedSize)
	}
}
