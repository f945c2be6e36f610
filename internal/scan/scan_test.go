package scan

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	namespacepb "go.temporal.io/api/namespace/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// server answers a scan from a script: by method, what comes next.
type server struct {
	answers map[string][]any // proto.Message or error; the last one stays
	calls   map[string]int
}

func (s *server) Invoke(_ context.Context, method string, _, reply any, _ ...grpc.CallOption) error {
	name := method[strings.LastIndex(method, "/")+1:]
	s.calls[name]++
	list := s.answers[name]
	if len(list) == 0 {
		return status.Error(codes.Unimplemented, "not in the script")
	}
	if len(list) > 1 {
		s.answers[name] = list[1:]
	}
	if err, failed := list[0].(error); failed {
		return err
	}
	proto.Merge(reply.(proto.Message), list[0].(proto.Message))
	return nil
}

func (s *server) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("no streams here")
}

func execution(run string) *workflowpb.WorkflowExecutionInfo {
	return &workflowpb.WorkflowExecutionInfo{Execution: &commonpb.WorkflowExecution{WorkflowId: "w-" + run, RunId: run}}
}

func historyOf(payloads ...*commonpb.Payload) *workflowservice.GetWorkflowExecutionHistoryResponse {
	return &workflowservice.GetWorkflowExecutionHistoryResponse{History: &historypb.History{Events: []*historypb.HistoryEvent{{
		Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{
			Input: &commonpb.Payloads{Payloads: payloads}}}}}}}
}

func script(answers map[string][]any) *server {
	all := map[string][]any{
		"DescribeNamespace":         {&workflowservice.DescribeNamespaceResponse{}},
		"DescribeWorkflowExecution": {&workflowservice.DescribeWorkflowExecutionResponse{}},
		"ListWorkflowExecutions":    {&workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{execution("1")}}, &workflowservice.ListWorkflowExecutionsResponse{}},
	}
	for name, list := range answers {
		all[name] = list
	}
	return &server{all, map[string]int{}}
}

func scanner(t *testing.T, save func(*State) error) *Scanner {
	t.Helper()
	r, err := rewrite.New(rewrite.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return New(Options{Rewriter: r, Rate: 1e6, Save: save})
}

func run(t *testing.T, s *server) *Namespace {
	t.Helper()
	var state State
	if err := scanner(t, nil).Run(t.Context(), s, "ns", &state); err != nil {
		t.Fatal(err)
	}
	return state.Namespaces["ns"]
}

// sealedPayload seals a text, and gives the reference of its key.
func sealedPayload(t *testing.T, text string) (*commonpb.Payload, crypto.KEKRef) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "seal.key")
	if err := localkey.Create(file, time.Now()); err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.New(t.Context(), keyring.Options{Keys: []keyring.KeyConfig{{Name: "default", Active: "local:" + file}}, Open: localkey.Open})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	sealer, _, err := keys.Sealer(t.Context(), "ns", "default")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := sealer.AppendPayload(nil, []byte(text), false, new(envelope.Nonces))
	if err != nil {
		t.Fatal(err)
	}
	p := new(commonpb.Payload)
	if err := proto.Unmarshal(raw, p); err != nil {
		t.Fatal(err)
	}
	return p, keys.WorkingKeys()[0].KEK
}

func plain(data string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(data)}
}

func TestCounts(t *testing.T) {
	p, kek := sealedPayload(t, "x")
	whole, err := proto.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	inJSON := fmt.Sprintf(`{"a":[{"metadata":{"encoding":%q},"data":%q}]}`, base64.StdEncoding.EncodeToString(p.Metadata["encoding"]), base64.StdEncoding.EncodeToString(p.Data))
	foreign := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/encrypted")}, Data: []byte("z")}
	n := run(t, script(map[string][]any{"GetWorkflowExecutionHistory": {historyOf(p, p, plain("1"), foreign, plain("\x12"+string(whole)+string(whole)), plain(inJSON))}}))
	if n.Unread != 0 || !n.Done || n.Walked["workflows"] != 1 || len(n.Sealed) != 1 {
		t.Fatalf("%+v", n)
	}
	e := n.Sealed[0]
	if e.Count != 5 || e.KEK != kek.String() || e.Key != "default" || e.SealedFor != "ns" || len(e.DataKeys) != 1 || !strings.Contains(e.Example, "w-1") {
		t.Errorf("%+v", e)
	}
	if n.Clear["input"] != 3 || n.Foreign["binary/encrypted"] != 1 {
		t.Errorf("clear %v, foreign %v", n.Clear, n.Foreign)
	}
	r := Report{Namespaces: map[string]*Namespace{"ns": n}}
	if count, example := r.Under(kek); count != 5 || !strings.HasSuffix(example, "in namespace ns") || r.Unread() != 0 {
		t.Errorf("%d, %s", count, example)
	}
}

// TestWhatCannotBeReadIsTold: a scan that missed something must not look like one that found nothing.
// What key an envelope by reference depends on is not known here, so no key may be retired.
func TestEnvelopesByReferenceLeaveTheCountOpen(t *testing.T) {
	data := append([]byte{1, 0x10}, make([]byte, 16+12+16)...)
	p := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte(envelope.EncodingWhole)}, Data: data}
	whole, err := proto.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	n := run(t, script(map[string][]any{"GetWorkflowExecutionHistory": {historyOf(p, plain("\x12"+string(whole)))}}))
	if n.Unread != 2 || len(n.Sealed) != 0 || !strings.Contains(n.Reasons[0], "by reference") {
		t.Errorf("%+v; want two that could not be read", n)
	}
}

// TestEnvelopesByReferenceCountByTheirRows: with the key store, they count under the key that wrapped them; one without a row does
// not open, and the report says so.
func TestEnvelopesByReferenceCountByTheirRows(t *testing.T) {
	reference := func(id byte) *commonpb.Payload {
		data := append([]byte{1, 0x10, id}, make([]byte, 15+12+16)...)
		return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte(envelope.EncodingWhole)}, Data: data}
	}
	here := crypto.KeyRow{ID: crypto.KeyID{1}, KEK: crypto.KEKRef{9}, Context: crypto.KeyContext{Namespace: "ns", Key: "phi"}}
	var away error
	asked, found := 0, 0
	s := scanner(t, nil)
	s.options.Rows = func(_ context.Context, ids []crypto.KeyID) (map[crypto.KeyID]crypto.KeyRow, error) {
		asked += len(ids)
		return map[crypto.KeyID]crypto.KeyRow{here.ID: here}, away
	}
	s.options.Found = func(*envelope.Header, string) { found++ }
	walked := func() *Namespace {
		var state State
		if err := s.Run(t.Context(), script(map[string][]any{"GetWorkflowExecutionHistory": {historyOf(reference(1), reference(1), reference(2))}}), "ns", &state); err != nil {
			t.Fatal(err)
		}
		return state.Namespaces["ns"]
	}
	n := walked()
	if len(n.Sealed) != 1 || n.Sealed[0].Count != 2 || n.Sealed[0].KEK != here.KEK.String() || n.Sealed[0].Key != "phi" || n.Sealed[0].SealedFor != "ns" {
		t.Errorf("%+v", n.Sealed)
	}
	if n.Unread != 1 || !strings.Contains(n.Reasons[0], "no row for the data key 02") || asked != 2 || found != 3 {
		t.Errorf("unread %d %q, %d ids asked for, %d envelopes found", n.Unread, n.Reasons, asked, found)
	}
	away = errors.New("the key store does not answer")
	if n := walked(); n.Unread != 3 || len(n.Sealed) != 0 || !strings.Contains(n.Reasons[0], "does not answer") {
		t.Errorf("without an answer: %+v", n)
	}
}

func TestWhatCannotBeReadIsTold(t *testing.T) {
	p, _ := sealedPayload(t, "x")
	broken := proto.CloneOf(p)
	broken.Data = broken.Data[:70]
	unknown, err := proto.Marshal(historyOf(p))
	if err != nil {
		t.Fatal(err)
	}
	// A newer server's field, at a place that nothing here knows.
	elsewhere := new(workflowservice.GetWorkflowExecutionHistoryResponse)
	elsewhere.ProtoReflect().SetUnknown(binary.AppendUvarint(binary.AppendUvarint(nil, 999<<3|2), uint64(len(unknown))))
	elsewhere.ProtoReflect().SetUnknown(append(elsewhere.ProtoReflect().GetUnknown(), unknown...))
	for name, c := range map[string]struct {
		answers map[string][]any
		reason  string
	}{
		"an envelope is broken":       {map[string][]any{"GetWorkflowExecutionHistory": {historyOf(broken)}}, "cut off"},
		"in an unknown field":         {map[string][]any{"GetWorkflowExecutionHistory": {elsewhere}}, "does not look"},
		"a history is refused":        {map[string][]any{"GetWorkflowExecutionHistory": {status.Error(codes.PermissionDenied, "no")}}, "PermissionDenied"},
		"a list is refused":           {map[string][]any{"GetWorkflowExecutionHistory": {historyOf()}, "ListSchedules": {status.Error(codes.PermissionDenied, "no")}}, "schedules: PermissionDenied"},
		"histories are archived too":  {map[string][]any{"GetWorkflowExecutionHistory": {historyOf()}, "DescribeNamespace": {&workflowservice.DescribeNamespaceResponse{Config: &namespacepb.NamespaceConfig{HistoryArchivalState: enumspb.ARCHIVAL_STATE_ENABLED}}}}, "archive"},
		"half an envelope in another": {map[string][]any{"GetWorkflowExecutionHistory": {historyOf(plain(sealedStart + "\x7fxx"))}}, "cut off"},
	} {
		t.Run(name, func(t *testing.T) {
			n := run(t, script(c.answers))
			if n.Unread == 0 || !strings.Contains(strings.Join(n.Reasons, "\n"), c.reason) {
				t.Errorf("unread %d: %q", n.Unread, n.Reasons)
			}
		})
	}
}

func TestGoneAndBusy(t *testing.T) {
	p, _ := sealedPayload(t, "x")
	s := script(map[string][]any{
		"ListWorkflowExecutions": {
			&workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{execution("1"), execution("gone")}, NextPageToken: []byte("2")},
			&workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{execution("1")}}, // it closed, and is listed again
			&workflowservice.ListWorkflowExecutionsResponse{}},
		"DescribeWorkflowExecution":   {&workflowservice.DescribeWorkflowExecutionResponse{}, status.Error(codes.NotFound, "gone")},
		"GetWorkflowExecutionHistory": {status.Error(codes.ResourceExhausted, "slow down"), historyOf(p)},
	})
	n := run(t, s)
	if n.Unread != 0 || n.Walked["workflows"] != 1 || n.Sealed[0].Count != 1 || s.calls["GetWorkflowExecutionHistory"] != 2 {
		t.Errorf("%+v, calls %v", n, s.calls)
	}
}

func TestUnreachableServerIsAnError(t *testing.T) {
	var state State
	err := scanner(t, nil).Run(t.Context(), script(map[string][]any{"DescribeNamespace": {status.Error(codes.PermissionDenied, "no")}}), "ns", &state)
	if err == nil || !strings.Contains(err.Error(), "ns") {
		t.Error(err)
	}
}

// TestGoesOn: what is saved after each page is enough to go on from, and nothing counts twice.
func TestGoesOn(t *testing.T) {
	p, _ := sealedPayload(t, "x")
	pages := func() *server {
		return script(map[string][]any{"GetWorkflowExecutionHistory": {historyOf(p)}, "ListWorkflowExecutions": {
			&workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{execution("1")}, NextPageToken: []byte("2")},
			&workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{execution("2")}},
			&workflowservice.ListWorkflowExecutionsResponse{}}})
	}
	whole := run(t, pages())
	for stopAt := 1; stopAt <= len(steps); stopAt++ {
		s, saves := pages(), 0
		var saved []byte
		full := errors.New("the disk is full")
		save := func(state *State) (err error) {
			if saves++; saves > stopAt {
				return full
			}
			saved, err = json.Marshal(state)
			return err
		}
		if err := scanner(t, save).Run(t.Context(), s, "ns", new(State)); err != nil && !errors.Is(err, full) {
			t.Fatal(err)
		}
		// The script goes on at the page whose outcome was not saved.
		s = pages()
		if stopAt >= 2 {
			s.answers["ListWorkflowExecutions"] = s.answers["ListWorkflowExecutions"][min(stopAt-1, 2):]
		}
		state := new(State)
		if err := json.Unmarshal(saved, state); err != nil {
			t.Fatal(err)
		}
		if err := scanner(t, nil).Run(t.Context(), s, "ns", state); err != nil {
			t.Fatal(err)
		}
		if got := state.Namespaces["ns"]; got.Sealed[0].Count != whole.Sealed[0].Count || got.Walked["workflows"] != 2 || !got.Done {
			t.Errorf("stopped after page %d: %+v, want %+v", stopAt, got.Sealed[0], whole.Sealed[0])
		}
	}
}
