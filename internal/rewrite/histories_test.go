package rewrite

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
)

// historyMaker makes histories as the server may hold them, and with each what a reader of it should get: payloads
// sealed in every form, some clear, some broken; chains of failures; lengths that are written longer than they need.
type historyMaker struct {
	*rand.Rand
	t      *testing.T
	r      *Rewriter
	sealer *keyring.Sealer
}

// TestAnyHistoryOpensToWhatWasSealed reads many of them.
func TestAnyHistoryOpensToWhatWasSealed(t *testing.T) {
	r := newRewriter(t, `package temporal
request contains {"action": "seal", "key": "default"}
response contains {"action": "open"}
`)
	sealer, _, err := r.state.Load().Keys.Sealer(t.Context(), testNamespace, "default")
	if err != nil {
		t.Fatal(err)
	}
	m := &historyMaker{rand.New(rand.NewPCG(7, 9)), t, r, sealer}
	for round := range 500 {
		m.round(round)
	}
}

func (m *historyMaker) round(round int) {
	t := m.t
	in, want := new(workflowpb.GetWorkflowExecutionHistoryResponse), new(workflowpb.GetWorkflowExecutionHistoryResponse)
	in.History, want.History = m.history()
	var blobs []*historypb.History
	for range m.IntN(3) {
		held, read := m.history()
		in.RawHistory = append(in.RawHistory, &commonpb.DataBlob{EncodingType: enumspb.ENCODING_TYPE_PROTO3, Data: bytesOf(t, held)})
		blobs = append(blobs, read)
	}
	raw := m.fatten(in.ProtoReflect().Descriptor(), bytesOf(t, in))
	before := bytes.Clone(raw)
	c := m.r.Begin(m.r.Method(service+"GetWorkflowExecutionHistory"), nil)
	c.call.namespace = testNamespace
	out, err := c.opening().open(context.Background(), c.call.method.response, raw, false)
	if err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	got := new(workflowpb.GetWorkflowExecutionHistoryResponse)
	if err := proto.Unmarshal(out, got); err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	for i, blob := range got.RawHistory {
		h := new(historypb.History)
		if err := proto.Unmarshal(blob.Data, h); err != nil || !proto.Equal(h, blobs[i]) {
			t.Fatalf("round %d: blob %d: %v, error %v, want %v", round, i, h, err, blobs[i])
		}
	}
	got.RawHistory = nil
	if !proto.Equal(got, want) {
		t.Fatalf("round %d:\n%v, want\n%v", round, got, want)
	}
	if !bytes.Equal(raw, before) {
		t.Fatalf("round %d: what came was changed", round)
	}
	opened := c.opener.message.out.buf
	c.Done()
	if len(bytes.Trim(opened, "\x00")) != 0 {
		t.Fatalf("round %d: clear text was left in memory", round)
	}
}

func (m *historyMaker) history() (held, read *historypb.History) {
	held, read = new(historypb.History), new(historypb.History)
	for i := range m.IntN(6) {
		a, b := &historypb.HistoryEvent{EventId: int64(i)}, &historypb.HistoryEvent{EventId: int64(i)}
		if m.IntN(3) == 0 {
			x, y := m.failure()
			a.Attributes, b.Attributes = activityFailed(x), activityFailed(y)
		} else {
			x, y := new(historypb.WorkflowExecutionStartedEventAttributes), new(historypb.WorkflowExecutionStartedEventAttributes)
			x.Input, y.Input = new(commonpb.Payloads), new(commonpb.Payloads)
			x.Memo, y.Memo = &commonpb.Memo{Fields: map[string]*commonpb.Payload{}}, &commonpb.Memo{Fields: map[string]*commonpb.Payload{}}
			for j := range m.IntN(4) {
				p, q := m.payload()
				x.Input.Payloads, y.Input.Payloads = append(x.Input.Payloads, p), append(y.Input.Payloads, q)
				x.Memo.Fields[fmt.Sprint(j)], y.Memo.Fields[fmt.Sprint(j)] = m.payload()
			}
			a.Attributes = &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{WorkflowExecutionStartedEventAttributes: x}
			b.Attributes = &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{WorkflowExecutionStartedEventAttributes: y}
		}
		held.Events, read.Events = append(held.Events, a), append(read.Events, b)
	}
	return held, read
}

func activityFailed(f *failurepb.Failure) *historypb.HistoryEvent_ActivityTaskFailedEventAttributes {
	return &historypb.HistoryEvent_ActivityTaskFailedEventAttributes{
		ActivityTaskFailedEventAttributes: &historypb.ActivityTaskFailedEventAttributes{Failure: f, Identity: "worker"}}
}

// payload gives one as it is held, and as it is read.
func (m *historyMaker) payload() (held, read *commonpb.Payload) {
	read = m.clear()
	raw := bytesOf(m.t, read)
	var carrier []byte
	var err error
	switch m.IntN(6) {
	case 0:
		return read, read
	case 1:
		carrier, err = m.sealer.AppendPayload(nil, raw, true, new(envelope.Nonces))
	case 2:
		carrier, _, err = m.sealer.Envelope().AppendView(nil, raw, envelope.Selection{Fields: []string{"/a", "/b/2"}}, new(envelope.Nonces))
	case 3: // broken: it stays as it is
		carrier, err = m.sealer.AppendPayload(nil, raw, false, new(envelope.Nonces))
		carrier[len(carrier)-1-m.IntN(40)] ^= 1
		read = nil
	default:
		carrier, err = m.sealer.AppendPayload(nil, raw, false, new(envelope.Nonces))
	}
	held = new(commonpb.Payload)
	if err != nil || proto.Unmarshal(carrier, held) != nil {
		m.t.Fatal("a payload cannot be sealed", err)
	}
	if read == nil {
		read = held
	}
	return held, read
}

func (m *historyMaker) clear() *commonpb.Payload {
	json := map[string][]byte{"encoding": []byte("json/plain")}
	switch m.IntN(6) {
	case 0:
		return new(commonpb.Payload)
	case 1:
		return &commonpb.Payload{Metadata: json, Data: fmt.Appendf(nil, `{"a":%q,"b":[1,2,%q]}`, m.text("x", 40), m.text("y", 3000))}
	case 2: // opens to much more than it is when it was compressed
		return &commonpb.Payload{Metadata: json, Data: fmt.Appendf(nil, "%q", m.text("zip", 20_000))}
	}
	b := make([]byte, m.IntN(700))
	for i := range b {
		b[i] = byte(m.Uint32())
	}
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/plain")}, Data: b}
}

func (m *historyMaker) text(of string, most int) string { return strings.Repeat(of, m.IntN(most)) }

// failure gives a chain as it is held, sealed as a worker's is, and as it is read.
func (m *historyMaker) failure() (held, read *failurepb.Failure) {
	for range 1 + m.IntN(4) {
		read = &failurepb.Failure{Cause: read}
		if m.IntN(2) == 0 {
			read.Message = m.text("m", 300)
		}
		if m.IntN(2) == 0 {
			read.StackTrace = m.text("s", 300)
		}
		if m.IntN(2) == 0 {
			read.Source = "GoSDK"
		}
		if m.IntN(3) == 0 {
			read.EncodedAttributes = m.clear()
		}
		if m.IntN(2) == 0 {
			info := &failurepb.ApplicationFailureInfo{Type: m.text("T", 4), Details: new(commonpb.Payloads)}
			for range m.IntN(3) {
				info.Details.Payloads = append(info.Details.Payloads, m.clear())
			}
			read.FailureInfo = &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: info}
		}
	}
	raw, err := request(m.t, m.r, "RespondActivityTaskFailed", bytesOf(m.t, &workflowpb.RespondActivityTaskFailedRequest{Namespace: testNamespace, Failure: read}))
	if err != nil {
		m.t.Fatal(err)
	}
	sent := new(workflowpb.RespondActivityTaskFailedRequest)
	if err := proto.Unmarshal(raw, sent); err != nil {
		m.t.Fatal(err)
	}
	return sent.Failure, read
}

// fatten writes some lengths with more bytes than they need, which decoders take.
func (m *historyMaker) fatten(d protoreflect.MessageDescriptor, in []byte) (out []byte) {
	for len(in) > 0 {
		num, wire, n := protowire.ConsumeTag(in)
		if wire != protowire.BytesType {
			n += protowire.ConsumeFieldValue(num, wire, in[n:])
			out, in = append(out, in[:n]...), in[n:]
			continue
		}
		value, size := protowire.ConsumeBytes(in[n:])
		switch fd := d.Fields().ByNumber(num); {
		case fd.Message() != nil && fd.Message().Name() != "Payload":
			value = m.fatten(fd.Message(), value)
		case d.Name() == "DataBlob":
			value = m.fatten(new(historypb.History).ProtoReflect().Descriptor(), value)
		}
		out = append(out, in[:n]...)
		length := protowire.AppendVarint(nil, uint64(len(value)))
		for range m.IntN(3) {
			length[len(length)-1] |= 0x80
			length = append(length, 0)
		}
		out, in = append(append(out, length...), value...), in[n+size:]
	}
	return out
}
