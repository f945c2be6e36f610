package formats

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/proto"
)

// TestOffTheProxy: a workflow that began through the proxy is finished by a worker that speaks to the server itself.
func TestOffTheProxy(t *testing.T) {
	s := newSite(t, "", "", "")
	through := s.dial(s.proxy.Address, "")
	stop := s.work(through)
	s.admit(through)

	c := s.codec()
	direct := s.dial(server.Address, "", c)
	_, err := direct.QueryWorkflow(t.Context(), t.Name(), "", "chart")
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Fatalf("a query that fails told %v at the server", err)
	}
	if text, err := c.OpenText(t.Context(), err.Error()); err != nil || text != "no chart of "+secret {
		t.Errorf("its text opened to %q, %v", text, err)
	}
	stop()
	stop = s.work(direct) // replays what the proxy sealed
	s.discharge(direct)
	s.result(through) // what the codec sealed opens in the proxy
	s.hidden()
	stop()
}

// TestBesideTheProxy: a worker with the codec behind the proxy, whose payloads the policy accepts, finishes what one past
// the proxy began. Nothing is sealed twice.
func TestBesideTheProxy(t *testing.T) {
	s := newSite(t, `package temporal

request contains {"action": "accept"} if {
	input.payload.encoding == "binary/sealed.v1"
	input.caller.kind == "token"
}

response contains {"action": "open"} if input.sealed.namespace == input.namespace
`, "", `listeners:
  - address: 127.0.0.1:0
    callers: {token: {tokens: [{subject: worker, file: "{dir}/token", namespaces: [default]}]}}
upstreams: [{address: "{server}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "local:{dir}/default.key"}]
policy: {file: "{dir}/policy.rego"}
`)
	c := s.codec()
	direct := s.dial(server.Address, "", c)
	stop := s.work(direct)
	s.admit(direct)
	stop()
	through := s.dial(s.proxy.Address, "a-worker", c)
	stop = s.work(through)
	s.discharge(through)
	s.result(direct)
	s.hidden()
	stop()
	for _, e := range s.history() {
		var sealed *commonpb.Payloads
		switch e.EventType {
		case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
			sealed = e.GetWorkflowExecutionSignaledEventAttributes().Input
		case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
			sealed = e.GetWorkflowExecutionCompletedEventAttributes().Result
		default:
			continue
		}
		got, err := c.Decode(sealed.Payloads)
		if err != nil || string(got[0].Metadata["encoding"]) != "json/plain" {
			t.Errorf("%s holds %v under one layer, %v", e.EventType, got, err)
		}
	}
}

// sample is the codec of the SDKs' encryption samples, for workers that have not moved.
type sample struct{ gcm cipher.AEAD }

func newSample(t *testing.T) sample {
	t.Helper()
	block, err := aes.NewCipher([]byte("test-key-test-key-test-key-test!"))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return sample{gcm}
}

func (s sample) Encode(in []*commonpb.Payload) (out []*commonpb.Payload, _ error) {
	for _, p := range in {
		raw, err := proto.Marshal(p)
		if err != nil {
			return nil, err
		}
		nonce := make([]byte, s.gcm.NonceSize())
		rand.Read(nonce)
		out = append(out, &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/encrypted"), "encryption-key-id": []byte("test")},
			Data: s.gcm.Seal(nonce, nonce, raw, nil)})
	}
	return out, nil
}

func (s sample) Decode(in []*commonpb.Payload) (out []*commonpb.Payload, _ error) {
	for _, p := range in {
		if string(p.Metadata["encoding"]) == "binary/encrypted" {
			n := s.gcm.NonceSize()
			raw, err := s.gcm.Open(nil, p.Data[:n], p.Data[n:], nil)
			if err != nil {
				return nil, err
			}
			p = new(commonpb.Payload)
			if err := proto.Unmarshal(raw, p); err != nil {
				return nil, err
			}
		}
		out = append(out, p)
	}
	return out, nil
}

const readsSamples = `foreign:
  - {namespaces: [default], format: samples, keys: [{id: test, file: "{dir}/codec.key"}]}
  - {namespaces: [default], format: zlib}
`

// TestOntoTheProxy: a workflow of workers with a codec of their own, compression and encryption, is finished by a worker
// behind the proxy that has none.
func TestOntoTheProxy(t *testing.T) {
	s := newSite(t, "", readsSamples, "")
	legacy := s.dial(server.Address, "", newSample(t), converter.NewZlibCodec(converter.ZlibCodecOptions{AlwaysEncode: true}))
	stop := s.work(legacy)
	s.admit(legacy)
	stop()
	through := s.dial(s.proxy.Address, "")
	stop = s.work(through)
	s.discharge(through)
	s.hidden()
	stop()
	for _, e := range s.history() {
		if a := e.GetWorkflowExecutionCompletedEventAttributes(); a != nil && string(a.Result.Payloads[0].Metadata["encoding"]) != "binary/sealed.v1" {
			t.Errorf("the result is stored as %v", a.Result)
		}
	}
}

// TestNoOracle: whoever copies a ciphertext of the old codec into an input gets it back as it is, whatever the policy says.
func TestNoOracle(t *testing.T) {
	s := newSite(t, `package temporal

request contains {"action": "pass"}

response contains {"action": "open"}
`, readsSamples, "")
	stolen, err := newSample(t).Encode([]*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"` + secret + `"`)}})
	s.ok(err)
	through := s.dial(s.proxy.Address, "")
	_, err = through.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: t.Name(), TaskQueue: s.queue}, "Admission", converter.NewRawValue(stolen[0]))
	s.ok(err)
	stored := s.history()[0].GetWorkflowExecutionStartedEventAttributes().Input.Payloads[0]
	if got := string(stored.Metadata["encoding"]); got != "binary/sealed.v1" {
		t.Errorf("stored as %s", got)
	}
	events := through.GetWorkflowHistory(t.Context(), t.Name(), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	e, err := events.Next()
	s.ok(err)
	if got := e.GetWorkflowExecutionStartedEventAttributes().Input.Payloads[0]; !proto.Equal(got, stolen[0]) {
		t.Errorf("came back as %v", got)
	}
}

// TestHalfMoved: some workers behind the proxy still have their codec, and others have none. All of them read everything.
func TestHalfMoved(t *testing.T) {
	s := newSite(t, `package temporal

request contains {"action": "accept"} if input.payload.encoding == "binary/encrypted"

response contains {"action": "open"} if input.sealed.namespace == input.namespace
`, "", `listeners:
  - address: 127.0.0.1:0
    callers: {token: {tokens: [{subject: worker, file: "{dir}/token", namespaces: [default]}]}}
upstreams: [{address: "{server}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "local:{dir}/default.key"}]
policy: {file: "{dir}/policy.rego"}
`+readsSamples)
	moved := s.dial(s.proxy.Address, "a-worker")
	legacy := s.dialWith(client.Options{HostPort: s.proxy.Address, HeadersProvider: header{"authorization": "Bearer a-worker"},
		DataConverter: converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), newSample(t))})
	stop := s.work(legacy)
	s.admit(legacy)
	stop()
	stop = s.work(moved)
	s.discharge(legacy)
	s.result(moved)
	s.hidden()
	stop()
	kinds := map[string]int{}
	for _, e := range s.history() {
		for _, p := range append(e.GetActivityTaskCompletedEventAttributes().GetResult().GetPayloads(), e.GetWorkflowExecutionSignaledEventAttributes().GetInput().GetPayloads()...) {
			kinds[string(p.Metadata["encoding"])]++
		}
	}
	if kinds["binary/encrypted"] != 2 || kinds["binary/sealed.v1"] != 1 {
		t.Errorf("stored as %v; want what the codec wrote as it was, and the rest sealed", kinds)
	}
}
