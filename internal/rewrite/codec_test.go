package rewrite

import (
	"bytes"
	"context"
	"errors"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// asCodecServer runs payloads through the rewriter as a codec server does.
func asCodecServer(t *testing.T, r *Rewriter, rpc, namespace string, caller *policy.Caller, in ...*commonpb.Payload) ([]*commonpb.Payload, *Stats, error) {
	t.Helper()
	c := r.BeginCodec(rpc, namespace, caller)
	defer c.Done()
	raw := bytesOf(t, &commonpb.Payloads{Payloads: in})
	run := c.Request
	stats := c.RequestStats()
	if rpc == RPCDecode {
		run, stats = c.Response, c.ResponseStats()
	}
	raw, err := run(context.Background(), raw)
	if err != nil {
		return nil, nil, err
	}
	out := new(commonpb.Payloads)
	if err := proto.Unmarshal(raw, out); err != nil {
		t.Fatal(err)
	}
	told := *stats
	return out.Payloads, &told, nil
}

func jsonPayload(text string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(text)}
}

// TestApartIsNeverLaxer: what rules say by kind, name, workflow or activity cannot be checked for a payload on its own, so
// it gets the strictest verdict that it could have met.
func TestApartIsNeverLaxer(t *testing.T) {
	ctx := context.Background()
	r := newRewriter(t, `package temporal

request contains {"action": "pass"} if input.workflow.type == "Public"

response contains {"action": "open"}

response contains {"action": "redact"} if {
	input.caller.subject == "by kind"
	input.payload.kind == "result"
}

response contains {"action": "deny"} if {
	input.caller.subject == "by name"
	input.payload.name == "ssn"
}

response contains {"action": "redact"} if {
	input.caller.subject == "by workflow"
	input.workflow.type == "Secret"
}

response contains {"action": "keep"} if input.caller.subject == "keep"

response contains {"action": "deny", "reason": "no"} if input.caller.subject == "deny"
`)
	as := func(subject string) *policy.Caller { return policy.NewCaller("jwt", subject, "codec_server", nil) }
	one, two := jsonPayload(`"CANARY one"`), jsonPayload(`{"a":"CANARY two"}`)
	sealed, stats, err := asCodecServer(t, r, RPCEncode, testNamespace, as("ann"), one, two)
	if err != nil || stats.Payloads != 2 {
		t.Fatalf("encode: %+v, %v", stats, err)
	}
	if bytes.Contains(bytesOf(t, &commonpb.Payloads{Payloads: sealed}), []byte(canaryMark)) {
		t.Fatal("not sealed")
	}
	placeholder := new(commonpb.Payload)
	if err := proto.Unmarshal([]byte(redactedPayload), placeholder); err != nil {
		t.Fatal(err)
	}
	plain := []*commonpb.Payload{one, two}
	gone := []*commonpb.Payload{placeholder, placeholder}
	for subject, want := range map[string][]*commonpb.Payload{
		"ann": plain, "by kind": gone, "by name": sealed, "by workflow": sealed, "keep": sealed, "deny": sealed,
	} {
		got, _, err := asCodecServer(t, r, RPCDecode, testNamespace, as(subject), sealed...)
		if err != nil || len(got) != 2 {
			t.Fatalf("%s: %d payloads, %v", subject, len(got), err)
		}
		for i := range got {
			if !proto.Equal(got[i], want[i]) {
				t.Errorf("%s: payload %d came as %v", subject, i, got[i])
			}
		}
	}
	got, stats, err := asCodecServer(t, r, RPCDecode, "other", as("ann"), sealed[0])
	if err != nil || !proto.Equal(got[0], sealed[0]) || stats.Unopened != 1 {
		t.Errorf("in another namespace: %v, %+v, %v", got, stats, err)
	}
	again, _, err := asCodecServer(t, r, RPCEncode, testNamespace, as("ann"), sealed[0])
	if err != nil || proto.Equal(again[0], sealed[0]) {
		t.Errorf("what is sealed is sealed once more: %v", err)
	}
	if back, _, err := asCodecServer(t, r, RPCDecode, testNamespace, as("ann"), again[0]); err != nil || !proto.Equal(back[0], sealed[0]) {
		t.Errorf("one layer at a time: %v, %v", back, err)
	}
	c := r.BeginCodec(RPCDecode, testNamespace, as("ann"))
	defer c.Done()
	if text, ok := c.Text(ctx, []byte("no sealed text")); ok || string(text) != "no sealed text" {
		t.Errorf("%q, %v", text, ok)
	}
}

// TestApartDamaged: one payload that does not open hides no other.
func TestApartDamaged(t *testing.T) {
	r := newRewriter(t, sealAll)
	sealed, _, err := asCodecServer(t, r, RPCEncode, testNamespace, nil, jsonPayload(`1`), jsonPayload(`2`), jsonPayload(`3`))
	if err != nil {
		t.Fatal(err)
	}
	sealed[1].Data[len(sealed[1].Data)-1] ^= 1
	clear := &commonpb.Payload{}
	got, stats, err := asCodecServer(t, r, RPCDecode, testNamespace, nil, append(sealed, clear)...)
	if err != nil || len(got) != 4 {
		t.Fatalf("%d payloads, %v", len(got), err)
	}
	if string(got[0].Data) != "1" || !proto.Equal(got[1], sealed[1]) || string(got[2].Data) != "3" || !proto.Equal(got[3], clear) {
		t.Errorf("got %v", got)
	}
	if stats.Unopened != 1 || stats.Later != 0 || stats.Payloads != 2 {
		t.Errorf("stats %+v", stats)
	}
}

// TestApartDenied: a rule that refuses any kind of payload refuses what may be of that kind.
func TestApartDenied(t *testing.T) {
	r := newRewriter(t, sealAll+"\nrequest contains {\"action\": \"deny\", \"reason\": \"no memos\"} if input.payload.kind == \"memo\"\n")
	_, _, err := asCodecServer(t, r, RPCEncode, testNamespace, nil, jsonPayload(`1`))
	var e *Error
	if !errors.As(err, &e) || e.Kind != KindDenied {
		t.Errorf("got %v", err)
	}
}
