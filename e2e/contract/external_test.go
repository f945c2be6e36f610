package contract

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
)

// The SDKs' external storage is past the proxy. What it seals of that are references; the server counts the values by their
// sizes, which stay readable.
func TestReferencesToExternalStorage(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	count := func() (n int) {
		_, page := r.admin(t, "/metrics")
		_, after, _ := strings.Cut(page, "\ntemporal_seal_external_payloads_total ")
		if _, err := fmt.Sscan(after, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count()
	reference := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/protobuf"),
		"messageType": []byte("temporal.api.sdk.v1.ExternalStorageReference")}, Data: []byte(`{"driverName":"CANARY"}`),
		ExternalPayloads: []*commonpb.Payload_ExternalPayloadDetails{{SizeBytes: 300_000}, {SizeBytes: 7}}}
	reference.ExternalPayloads[1].ProtoReflect().SetUnknown([]byte("\x12\x06CANARY"))
	stored := startedWith(t, r.startWorkflow(t, "references", "w", "W", reference))
	if n := stored.GetExternalPayloads(); len(n) != 2 || n[0].GetSizeBytes() != 300_000 || n[1].GetSizeBytes() != 7 ||
		string(stored.GetMetadata()["encoding"]) != "binary/sealed.v1" || bytes.Contains(blackbox.Marshal(stored), []byte("CANARY")) {
		t.Fatalf("a sealed reference is stored as %v", stored)
	}
	equal(t, "a sealed reference, opened", r.open(t, "references", stored)[0], reference)
	changed := proto.CloneOf(stored)
	changed.ExternalPayloads[0].SizeBytes = 1
	equal(t, "one whose size was changed at the server, opened", r.open(t, "references", changed)[0], reference)

	older := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/external-storage-reference")}, Data: []byte("CANARY")}
	for _, denied := range []*commonpb.Payload{reference, older, {ExternalPayloads: reference.ExternalPayloads[:1]}} {
		e := r.startWorkflow(t, "references", "deny", "W", denied)
		e.refused(t, "PermissionDenied")
	}
	other := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/protobuf"), "messageType": []byte("example.v1.Order")}, Data: []byte("{}")}
	r.startWorkflow(t, "references", "deny", "W", other).want(t, "OK")
	if n := count() - before; n != 4 {
		t.Errorf("%d references are counted, want 4", n)
	}
}
