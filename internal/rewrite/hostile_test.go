package rewrite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	commandpb "go.temporal.io/api/command/v1"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

func secret(text string) *commonpb.Payloads {
	return &commonpb.Payloads{Payloads: []*commonpb.Payload{{
		Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"` + text + `"`)}}}
}

func bytesOf(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wireField(num protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), content)
}

const inputField = 5 // StartWorkflowExecutionRequest.input

// request sends bytes through the sealing of a RPC.
func request(t testing.TB, r *Rewriter, method string, in []byte) ([]byte, error) {
	t.Helper()
	c := r.call(r.Method(service + method))
	defer c.Done()
	out, err := c.Request(context.Background(), in)
	return bytes.Clone(out), err
}

// TestSecondPayloadBehindTheFirst hides payloads where a decoder merges or
// replaces: whatever the server will read must be sealed.
func TestSecondPayloadBehindTheFirst(t *testing.T) {
	r := newRewriter(t, sealAll)
	one := bytesOf(t, &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace, WorkflowId: "w", Input: secret("CANARY-first")})
	two := bytesOf(t, secret("CANARY-second"))
	payload := bytesOf(t, secret("CANARY-third").Payloads[0])
	entry := func(key, value []byte) []byte { return append(key, value...) }
	mapKey, mapValue := wireField(1, []byte("k")), wireField(2, payload)
	memo := func(e []byte) []byte { return wireField(16, wireField(1, e)) }
	for name, in := range map[string][]byte{
		"a field that counts once, twice": append(bytes.Clone(one), wireField(inputField, two)...),
		"before everything else":          append(wireField(inputField, two), one...),
		"a list in two parts":             append(bytes.Clone(one), wireField(inputField, append(two, two...))...),
		"data twice in one payload":       append(bytes.Clone(one), wireField(inputField, wireField(1, append(bytes.Clone(payload), wireField(2, []byte("CANARY-4"))...)))...),
		"a map's value before its key":    append(bytes.Clone(one), memo(entry(mapValue, mapKey))...),
		"a map's value twice":             append(bytes.Clone(one), memo(entry(entry(mapKey, mapValue), mapValue))...),
		"a map's key twice":               append(bytes.Clone(one), memo(entry(entry(mapKey, mapKey), mapValue))...),
		"a map's value without a key":     append(bytes.Clone(one), memo(mapValue)...),
		"an over-long length":             append(bytes.Clone(one), append([]byte{0x2a, byte(0x80 | len(two)), 0x80, 0x80, 0x00}, two...)...),
		"an over-long tag":                append(bytes.Clone(one), append([]byte{0xaa, 0x80, 0x00, byte(len(two))}, two...)...),
	} {
		t.Run(name, func(t *testing.T) {
			want := new(workflowpb.StartWorkflowExecutionRequest)
			if err := proto.Unmarshal(in, want); err != nil {
				t.Fatalf("the message is not a legal one: %v", err)
			}
			out, err := request(t, r, "StartWorkflowExecution", in)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(out, []byte(canaryMark)) {
				t.Error("clear text is left")
			}
			m := r.Method(service + "StartWorkflowExecution")
			back, err := unsealed(t, r, m, m.request.desc, out)
			if err != nil {
				t.Fatal(err)
			}
			got := new(workflowpb.StartWorkflowExecutionRequest)
			if err := proto.Unmarshal(back, got); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got, want) {
				t.Errorf("opened, it means something else:\n%v\n%v", got, want)
			}
		})
	}
}

// TestMalformedIsRefused: what is no protobuf is refused, and nothing of it
// comes out.
func TestMalformedIsRefused(t *testing.T) {
	r := newRewriter(t, sealAll)
	deep := []byte{}
	for range wire.MaxDepth + 10 { // causes of causes, RespondActivityTaskFailedRequest.failure.cause
		deep = wireField(4, deep)
	}
	for name, in := range map[string][]byte{
		"a length past the end":        {0x2a, 0x7f, 0x00},
		"a huge length":                append([]byte{0x2a}, protowire.AppendVarint(nil, 1<<63)...),
		"a varint of 11 bytes":         append([]byte{0x08}, bytes.Repeat([]byte{0xff}, 11)...),
		"an undefined wire type":       {0x2f},
		"field number 0":               {0x02, 0x00},
		"a group that never ends":      {0x2b, 0x08, 0x01},
		"a group's end without start":  {0x2c},
		"a group that ends as another": {0x2b, 0x34},
		"a fixed64 cut off":            {0x29, 1, 2, 3},
		"text":                         []byte("GET / HTTP/1.1\r\n\r\n"),
		"a payload that is none":       wireField(inputField, wireField(1, []byte{0x0a, 0x05, 0x01})),
	} {
		t.Run(name, func(t *testing.T) {
			out, err := request(t, r, "StartWorkflowExecution", in)
			var e *Error
			if !errors.As(err, &e) || e.Kind != KindMalformed || len(out) > 0 {
				t.Errorf("got %d bytes and %v", len(out), err)
			}
		})
	}
	t.Run("nested too deep", func(t *testing.T) {
		if _, err := request(t, r, "RespondActivityTaskFailed", wireField(2, deep)); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("groups nested too deep", func(t *testing.T) {
		if _, err := request(t, r, "StartWorkflowExecution", bytes.Repeat([]byte{0x2b}, 2*wire.MaxDepth)); err == nil {
			t.Error("accepted")
		}
	})
}

// TestWrongWireTypes: a payload's field in a wire type that it does not have
// is an unknown field to the server. It passes unless it could hold a payload.
func TestWrongWireTypes(t *testing.T) {
	r := newRewriter(t, sealAll)
	payloads := bytesOf(t, secret("CANARY-1"))
	group := append(append([]byte{0x2b}, payloads...), 0x2c)
	_, err := request(t, r, "StartWorkflowExecution", group)
	var e *Error
	if !errors.As(err, &e) || e.Kind != KindUnknownField {
		t.Errorf("a payload within a group: %v", err)
	}
	harmless := append([]byte{0x2b, 0x08, 0x01}, 0x2c)
	if out, err := request(t, r, "StartWorkflowExecution", harmless); err != nil || !bytes.Equal(out, harmless) {
		t.Errorf("a harmless group: %v", err)
	}
}

// TestKeysOfAnotherType: a key of a map that comes a second time with another wire type ends no call by a panic, and hides no
// field that this build does not know.
func TestKeysOfAnotherType(t *testing.T) {
	r := newRewriter(t, sealAll)
	number := func(m proto.Message, name protoreflect.Name) protowire.Number {
		return m.ProtoReflect().Descriptor().Fields().ByName(name).Number()
	}
	twice := slices.Concat(wireField(1, []byte("encoding")), wireField(2, []byte("json/plain")), protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 7))
	namespace, payload := wireField(1, []byte(testNamespace)), wireField(1, twice)
	input := wireField(inputField, wireField(1, payload))
	system := nexusCommand(systemEndpoint, systemInput(t, "binary/protobuf"))
	system.Commands[0].GetScheduleNexusOperationCommandAttributes().Input.Data = slices.Concat(namespace,
		wireField(number(&workflowpb.SignalWithStartWorkflowExecutionRequest{}, "input"), wireField(1, payload)))
	info := slices.Concat(wireField(number(&commonpb.Callback_Nexus{}, "header"), twice), wireField(1999, payload))
	for name, test := range map[string]struct {
		method string
		in     []byte
	}{
		"in the regular form": {"StartWorkflowExecution", slices.Concat(namespace, input, input)},
		"in a system's input": {"RespondWorkflowTaskCompleted", bytesOf(t, system)},
		"beside what is not known": {"StartWorkflowExecution", slices.Concat(namespace,
			wireField(number(&workflowpb.StartWorkflowExecutionRequest{}, "completion_callbacks"), wireField(number(&commonpb.Callback{}, "nexus"), info)))},
	} {
		var e *Error
		if _, err := request(t, r, test.method, test.in); !errors.As(err, &e) || e.Kind != KindMalformed && e.Kind != KindUnknownField {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUnknownFields: a newer SDK's field passes, unless its bytes could hold
// a payload, at whatever depth.
func TestUnknownFields(t *testing.T) {
	r := newRewriter(t, sealAll)
	payloads := bytesOf(t, secret("CANARY-1"))
	newer := wireField(3000, []byte("a text of some newer release"))
	bare := wireField(2, []byte("CANARY-1"))
	// The length of the key takes two bytes where one is enough, which every decoder accepts.
	entry := slices.Concat([]byte{0x0a, 0x88, 0x00}, []byte("encoding"), wireField(2, []byte("json/plain")))
	long := slices.Concat(wireField(1, entry), bare)
	queue := func(extra []byte) []byte {
		return append(bytesOf(t, &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace}),
			wireField(4, append(bytesOf(t, &taskqueuepb.TaskQueue{Name: "q"}), extra...))...)
	}
	for name, test := range map[string]struct {
		in   []byte
		pass bool
	}{
		"harmless":                          {newer, true},
		"a payload":                         {wireField(3000, payloads), false},
		"harmless in a message below":       {queue(newer), true},
		"a payload in a message below":      {queue(wireField(3000, payloads)), false},
		"a payload without metadata":        {wireField(3000, bare), false},
		"and in a list in a message":        {queue(wireField(3000, wireField(7, wireField(1, bare)))), false},
		"a payload with a long length":      {wireField(3000, long), false},
		"and in a message below":            {queue(wireField(3000, long)), false},
		"a payload with metadata only":      {wireField(3000, wireField(1, slices.Concat(wireField(1, []byte("k")), wireField(2, []byte("CANARY-1"))))), false},
		"numbers and a name":                {wireField(3000, slices.Concat([]byte{0x08, 0x07}, wireField(2, []byte("a name")))), true},
		"a workflow's id and run":           {wireField(3000, bytesOf(t, &commonpb.WorkflowExecution{WorkflowId: "an-id", RunId: "a-run"})), true},
		"numbers in a message below":        {queue(wireField(3000, []byte{0x08, 0x07, 0x10, 0x09})), true},
		"a payload's bytes in a known text": {queue(wireField(1, payloads)), true},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := request(t, r, "StartWorkflowExecution", test.in)
			if test.pass && (err != nil || !bytes.Equal(out, test.in)) {
				t.Errorf("refused or changed: %v", err)
			}
			var e *Error
			if !test.pass && (!errors.As(err, &e) || e.Kind != KindUnknownField) {
				t.Errorf("not refused: %v", err)
			}
		})
	}
	strict := newRewriter(t, sealAll)
	strict.strict = true
	if _, err := request(t, strict, "StartWorkflowExecution", newer); err == nil {
		t.Error("strict lets an unknown field pass")
	}
	if _, err := request(t, strict, "StartWorkflowExecution", queue(newer)); err == nil {
		t.Error("strict lets an unknown field pass in a message below")
	}
}

// TestDeepCauses restores a long chain of failures, also when it comes back
// within another one.
func TestDeepCauses(t *testing.T) {
	r := newRewriter(t, sealAll)
	var f *failurepb.Failure
	for i := range 300 {
		f = &failurepb.Failure{Message: strings.Repeat("CANARY-m ", i%3), StackTrace: "CANARY-s", Source: "GoSDK", Cause: f}
	}
	in := bytesOf(t, &workflowpb.RespondActivityTaskFailedRequest{Namespace: testNamespace, Failure: f})
	out, err := request(t, r, "RespondActivityTaskFailed", in)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(out, []byte(canaryMark)) {
		t.Fatal("clear text is left")
	}
	if n := bytes.Count(out, []byte("binary/sealed.v1")); n != 1 {
		t.Errorf("%d envelopes for one chain", n)
	}
	m := r.Method(service + "RespondActivityTaskFailed")
	back, err := unsealed(t, r, m, m.request.desc, out)
	if err != nil || !bytes.Equal(back, in) {
		t.Fatalf("not restored: %v", err)
	}
	again, err := request(t, r, "RespondActivityTaskFailed", back)
	if err != nil || bytes.Contains(again, []byte(canaryMark)) {
		t.Fatalf("a restored failure that comes back is not sealed again: %v", err)
	}
	// What a client pastes into an input is sealed once more, and one layer comes off.
	sent := new(workflowpb.RespondActivityTaskFailedRequest)
	if err := proto.Unmarshal(out, sent); err != nil {
		t.Fatal(err)
	}
	wrapped := bytesOf(t, &workflowpb.RespondActivityTaskFailedRequest{Namespace: testNamespace, Failure: &failurepb.Failure{Message: "outer", Cause: sent.Failure}})
	twice, err := request(t, r, "RespondActivityTaskFailed", wrapped)
	if err != nil {
		t.Fatal(err)
	}
	if once, err := unsealed(t, r, m, m.request.desc, twice); err != nil || !bytes.Equal(once, wrapped) {
		t.Errorf("opening took off more or less than one layer: %v", err)
	}
}

// TestMarkNeverPasses: a stolen ciphertext is sealed once more even where
// the policy lets things pass, and refused where nothing is ever sealed.
func TestMarkNeverPasses(t *testing.T) {
	sealing, passing := newRewriter(t, sealAll), newRewriter(t, sealAll+"\nrequest contains {\"action\": \"pass\"}\n")
	start := &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace, Input: secret("CANARY-1")}
	out, err := request(t, sealing, "StartWorkflowExecution", bytesOf(t, start))
	if err != nil {
		t.Fatal(err)
	}
	again, err := request(t, passing, "StartWorkflowExecution", out)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(again, out) {
		t.Error("a sealed payload passed")
	}
	stolen := new(workflowpb.StartWorkflowExecutionRequest)
	if err := proto.Unmarshal(out, stolen); err != nil {
		t.Fatal(err)
	}
	_, err = request(t, passing, "StartWorkflowExecution", bytesOf(t, &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace,
		SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{"x": stolen.Input.Payloads[0]}}}))
	var e *Error
	if !errors.As(err, &e) || e.Kind != KindDenied {
		t.Errorf("a sealed payload in a search attribute: %v", err)
	}
}

// TestNothingIsForwardedWithoutANamespace: without one there is no key.
func TestNothingIsForwardedWithoutANamespace(t *testing.T) {
	r := newRewriter(t, sealAll)
	c := r.Begin(r.Method(service+"StartWorkflowExecution"), nil)
	defer c.Done()
	out, err := c.Request(context.Background(), bytesOf(t, &workflowpb.StartWorkflowExecutionRequest{Input: secret("x")}))
	if err == nil || out != nil {
		t.Errorf("got %d bytes and %v", len(out), err)
	}
}

// TestRandomBytes: no bytes make the walk panic or let a canary through.
func TestRandomBytes(t *testing.T) {
	r := newRewriter(t, sealAll)
	rnd := rand.New(rand.NewPCG(1, 2))
	seed := bytesOf(t, &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace, WorkflowId: "w", Input: secret("x")})
	for range 20_000 {
		in := bytes.Clone(seed)
		for range 1 + rnd.IntN(4) {
			in[rnd.IntN(len(in))] = byte(rnd.Uint32())
		}
		_, _ = request(t, r, "StartWorkflowExecution", in)
	}
}

// TestTooManyPayloads: a message of a few MB can hold millions of empty payloads. It is refused before they are all
// remembered; one with as many as a message may hold is not.
func TestTooManyPayloads(t *testing.T) {
	r := newRewriter(t, sealAll)
	list := func(n int) []byte {
		payloads := bytes.Repeat([]byte{0x0a, 0}, n)
		var in []byte
		in = protowire.AppendTag(in, 1, protowire.BytesType)
		in = protowire.AppendString(in, testNamespace)
		in = protowire.AppendTag(in, 5, protowire.BytesType) // input
		return protowire.AppendBytes(in, payloads)
	}
	_, err := request(t, r, "StartWorkflowExecution", list(2_000_000))
	var e *Error
	if !errors.As(err, &e) || e.Kind != KindTooLarge {
		t.Fatalf("not refused as too large: %v", err)
	}
	if grown := cap(r.sealerOf(r.Begin(r.Method(service+"StartWorkflowExecution"), nil)).message.walk.slots); grown > 2*maxSlots {
		t.Errorf("room for %d slots was made", grown)
	}
	c := walk{plan: r.plan.Load()}
	c.reset(list(maxSlots))
	if err := c.run(r.Method(service + "StartWorkflowExecution").request); err != nil || len(c.slots) != maxSlots {
		t.Errorf("%d payloads: %d found, %v", maxSlots, len(c.slots), err)
	}
}

// TestTooManyEvaluations: a request whose payloads have to be looked into one by one is refused when they are too many,
// and in words that say so.
func TestTooManyEvaluations(t *testing.T) {
	r := newRewriter(t, "package temporal\n\nrequest contains {\"action\": \"pass\"} if input.content.json == 1\n")
	list := &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace, WorkflowId: "w", Input: &commonpb.Payloads{}}
	for i := range 10_001 {
		list.Input.Payloads = append(list.Input.Payloads, &commonpb.Payload{
			Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: fmt.Append(nil, i)})
	}
	_, err := request(t, r, "StartWorkflowExecution", bytesOf(t, list))
	var e *Error
	if !errors.As(err, &e) || e.Kind != KindTooLarge || !strings.Contains(err.Error(), "split it") {
		t.Errorf("got %v", err)
	}
}

// TestMemoDeletions: a value that deletes a field of the memo reaches the server in clear, and nothing else with it.
func TestMemoDeletions(t *testing.T) {
	r := newRewriter(t, sealAll)
	upsert := func(p *commonpb.Payload) *commonpb.Payload {
		t.Helper()
		out, err := request(t, r, "RespondWorkflowTaskCompleted", bytesOf(t, &workflowpb.RespondWorkflowTaskCompletedRequest{Namespace: testNamespace,
			Commands: []*commandpb.Command{{Attributes: &commandpb.Command_ModifyWorkflowPropertiesCommandAttributes{
				ModifyWorkflowPropertiesCommandAttributes: &commandpb.ModifyWorkflowPropertiesCommandAttributes{
					UpsertedMemo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"k": p}}}}}}}))
		if err != nil {
			t.Fatal(err)
		}
		got := new(workflowpb.RespondWorkflowTaskCompletedRequest)
		if err := proto.Unmarshal(out, got); err != nil || bytes.Contains(out, []byte(canaryMark)) {
			t.Fatalf("%v, or clear text in %q", err, out)
		}
		return got.Commands[0].GetModifyWorkflowPropertiesCommandAttributes().UpsertedMemo.Fields["k"]
	}
	encoded := func(encoding, data string) *commonpb.Payload {
		return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte(encoding)}, Data: []byte(data)}
	}
	null := encoded("binary/null", "")
	for _, p := range []*commonpb.Payload{null, encoded("json/plain", "null"), encoded("json/plain", "[]"), {}} {
		if got := upsert(p); !proto.Equal(got, p) {
			t.Errorf("%v became %v", p, got)
		}
	}
	more := encoded("binary/null", "")
	more.Metadata["note"] = []byte("CANARY-1")
	external := encoded("binary/null", "")
	external.ExternalPayloads = []*commonpb.Payload_ExternalPayloadDetails{{SizeBytes: 7}}
	for _, p := range []*commonpb.Payload{more, external, encoded("CANARY-1", ""), encoded("CANARY-1", "[]")} {
		if got := upsert(p); !proto.Equal(got, null) {
			t.Errorf("%v became %v, not the empty value", p, got)
		}
	}
}
