package rewrite

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
	querypb "go.temporal.io/api/query/v1"
	updatepb "go.temporal.io/api/update/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

const patients = `package temporal

request contains {"action": "seal", "subject": {"pointer": "/patient"}} if input.payload.kind in {"input", "result"}
request contains {"action": "seal", "subject": {"fact": "workflow.id"}} if input.payload.kind == "signal"
request contains {"action": "seal", "subject": {"pointer": "/patient"}, "default_subject": "nobody"} if input.payload.kind == "memo"
request contains {"action": "seal", "key": "strict"} if input.payload.kind == "query"
request contains {"action": "seal", "key": "brief"} if input.payload.kind == "header"
request contains {"action": "seal", "subject": {"pointer": "/patient"}, "fields": ["/patient"]} if input.payload.kind == "update"
response contains {"action": "open"}
`

// TestMissingSubject: what explain and the cases say about a document's subject is what the sealer does with it.
func TestMissingSubject(t *testing.T) {
	own, orNobody := policy.Subject{Pointer: "/patient"}, policy.Subject{Pointer: "/patient", Default: "nobody"}
	for _, c := range []struct {
		encoding, document string
		at                 policy.Subject
		missing            bool
	}{
		{"json/plain", `{"patient": "P-1"}`, own, false},
		{"json/plain", `{"patient": 7}`, own, false},
		{"json/plain", `{"ward": "4B"}`, own, true},
		{"json/plain", `{"ward": "4B"}`, orNobody, false},
		{"json/plain", `{"patient": {}}`, orNobody, true},
		{"json/plain", `{"patient": "a", "patient": "b"}`, orNobody, true},
		{"binary/plain", "P-1", own, true},
		{"binary/plain", "P-1", orNobody, false},
		{"", "a text", own, true},
	} {
		if why := MissingSubject(c.encoding, []byte(c.document), c.at); (why != "") != c.missing {
			t.Errorf("%s of %q with %+v: %q", c.document, c.encoding, c.at, why)
		}
	}
}

// withSubjects returns a rewriter that seals for subjects.
func withSubjects(t *testing.T) (*Rewriter, *keyring.Keyring) {
	t.Helper()
	dir, quiet := t.TempDir(), slog.New(slog.DiscardHandler)
	file := filepath.Join(dir, "seal.key")
	if err := localkey.Create(file, time.Now()); err != nil {
		t.Fatal(err)
	}
	id, _, err := keystore.Init(t.Context(), "sqlite:"+filepath.Join(dir, "keys.db"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := keystore.New("sqlite:"+filepath.Join(dir, "keys.db"), id)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.New(t.Context(), keyring.Options{Open: localkey.Open, Log: quiet, Store: store, Replica: true,
		Keys: []keyring.KeyConfig{{Name: "default", Active: "local:" + file}, {Name: "strict", Active: "local:" + file, SubjectRequired: true},
			{Name: "brief", Active: "local:" + file, Reference: true, Life: time.Second}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	keys.Confirm(testNamespace)
	engine, err := policy.NewEngine(t.Context(), policy.Options{Shipped: []byte(patients), KeyRank: keys.Rank, DefaultKey: keys.DefaultKey})
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(Options{Keys: keys, Policy: engine, Log: quiet, Accounts: true})
	if err != nil {
		t.Fatal(err)
	}
	return r, keys
}

func jsonOf(document string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(document)}
}

// starting seals the inputs of a start.
func starting(t *testing.T, r *Rewriter, documents ...string) ([]*commonpb.Payload, error) {
	t.Helper()
	input := new(commonpb.Payloads)
	for _, d := range documents {
		input.Payloads = append(input.Payloads, jsonOf(d))
	}
	out, err := request(t, r, "StartWorkflowExecution", bytesOf(t, &workflowservice.StartWorkflowExecutionRequest{Namespace: testNamespace, WorkflowId: "w", Input: input}))
	if err != nil {
		return nil, err
	}
	sealed := new(workflowservice.StartWorkflowExecutionRequest)
	if err := proto.Unmarshal(out, sealed); err != nil {
		t.Fatal(err)
	}
	return sealed.Input.Payloads, nil
}

// keyOf returns the id of the data key of a sealed payload, which has to be one of a subject.
func keyOf(t *testing.T, p *commonpb.Payload) crypto.KeyID {
	t.Helper()
	s, marked, err := envelope.ParsePayload(bytesOf(t, p))
	if err != nil || !marked || !s.Header.Subject() {
		t.Fatalf("not sealed for a subject: %v, error %v", p, err)
	}
	return s.Header.ID
}

func TestPayloadsAreSealedForTheirSubjects(t *testing.T) {
	r, _ := withSubjects(t)
	sealed, err := starting(t, r, `{"patient":"P-1","x":1}`, `{"patient":"P-2"}`, `{"patient":"P-1"}`, `{"patient":7}`)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[crypto.KeyID]bool{}
	for _, p := range sealed {
		ids[keyOf(t, p)] = true
	}
	if len(ids) != 3 || keyOf(t, sealed[0]) != keyOf(t, sealed[2]) {
		t.Errorf("three subjects have %d keys", len(ids))
	}
	for document, want := range map[string]string{
		`{"other":"P-1"}`:     "has nothing at the place",
		`{"patient":""}`:      "is empty",
		`{"patient":1.5}`:     "neither a string nor an integer",
		`not JSON, about P-1`: "cannot be read",
	} {
		_, err := starting(t, r, document)
		if err == nil || err.(*Error).Kind != KindDenied || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "/patient") ||
			strings.Contains(err.Error(), "P-1") {
			t.Errorf("%s: %v", document, err)
		}
	}
}

func TestSubjectByFactAndDefault(t *testing.T) {
	r, _ := withSubjects(t)
	signal := func(workflow string) crypto.KeyID {
		out, err := request(t, r, "SignalWorkflowExecution", bytesOf(t, &workflowservice.SignalWorkflowExecutionRequest{Namespace: testNamespace,
			WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: workflow}, Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{jsonOf(`1`)}}}))
		if err != nil {
			t.Fatal(err)
		}
		q := new(workflowservice.SignalWorkflowExecutionRequest)
		if err := proto.Unmarshal(out, q); err != nil {
			t.Fatal(err)
		}
		return keyOf(t, q.Input.Payloads[0])
	}
	if first, again := signal("a"), signal("a"); first != again || first == signal("b") {
		t.Error("signals are not sealed for their workflow")
	}
	memo := map[string]*commonpb.Payload{"a": jsonOf(`{"patient":"nobody"}`), "b": jsonOf(`{}`)}
	out, err := request(t, r, "StartWorkflowExecution", bytesOf(t, &workflowservice.StartWorkflowExecutionRequest{Namespace: testNamespace, WorkflowId: "w",
		Memo: &commonpb.Memo{Fields: memo}}))
	q := new(workflowservice.StartWorkflowExecutionRequest)
	if err != nil || proto.Unmarshal(out, q) != nil {
		t.Fatal(err)
	}
	if keyOf(t, q.Memo.Fields["a"]) != keyOf(t, q.Memo.Fields["b"]) {
		t.Error("a payload without a subject is not sealed for the default one")
	}
	for _, document := range []string{`{"patient":[]}`, `{"patient":"P-7","patient":"P-8"}`, `{"patient":"P-7","note":"\ud83d"}`} {
		memo["b"] = jsonOf(document) // no default for what is no subject, or may name one
		if _, err := request(t, r, "StartWorkflowExecution", bytesOf(t, &workflowservice.StartWorkflowExecutionRequest{Namespace: testNamespace, WorkflowId: "w",
			Memo: &commonpb.Memo{Fields: memo}})); err == nil || err.(*Error).Kind != KindDenied {
			t.Errorf("%s: %v", document, err)
		}
	}
}

func TestSubjectIsRequired(t *testing.T) {
	r, _ := withSubjects(t)
	_, err := request(t, r, "QueryWorkflow", bytesOf(t, &workflowservice.QueryWorkflowRequest{Namespace: testNamespace,
		Query: &querypb.WorkflowQuery{QueryType: "q", QueryArgs: &commonpb.Payloads{Payloads: []*commonpb.Payload{jsonOf(`{"patient":"P-1"}`)}}}}))
	if err == nil || err.(*Error).Kind != KindDenied || !strings.Contains(err.Error(), "requires a subject") {
		t.Errorf("error %v", err)
	}
}

func TestErasedPayloads(t *testing.T) {
	r, keys := withSubjects(t)
	sealed, err := starting(t, r, `{"patient":"P-1"}`, `{"patient":"P-2"}`)
	if err != nil {
		t.Fatal(err)
	}
	update, err := request(t, r, "UpdateWorkflowExecution", bytesOf(t, &workflowservice.UpdateWorkflowExecutionRequest{Namespace: testNamespace,
		Request: &updatepb.Request{Input: &updatepb.Input{Name: "u", Args: &commonpb.Payloads{Payloads: []*commonpb.Payload{jsonOf(`{"patient":"P-1","ward":"4B"}`)}}}}}))
	if err != nil {
		t.Fatal(err)
	}
	view := decode(t, update, new(workflowservice.UpdateWorkflowExecutionRequest)).Request.Input.Args.Payloads[0]
	if got := string(view.Data); got != `{"patient":"[sealed]","ward":"4B"}` {
		t.Fatalf("the server gets %s", got)
	}
	sealed = append(sealed, view)
	found, err := keys.Subjects().Find(t.Context(), testNamespace, "", []byte("P-1"))
	if err == nil {
		_, err = keys.Subjects().Erase(t.Context(), found, "dpo", "ticket 7")
	}
	if err != nil {
		t.Fatal(err)
	}
	for last := int64(0); last < 1; last = keys.Subjects().LastErasure() {
		time.Sleep(50 * time.Millisecond) // it polls every 5 s
	}
	history := bytesOf(t, &workflowservice.GetWorkflowExecutionHistoryResponse{History: &historypb.History{Events: []*historypb.HistoryEvent{
		{EventId: 1, Attributes: &historypb.HistoryEvent_WorkflowExecutionSignaledEventAttributes{
			WorkflowExecutionSignaledEventAttributes: &historypb.WorkflowExecutionSignaledEventAttributes{Input: &commonpb.Payloads{Payloads: sealed}}}}}}})
	for _, reader := range []bool{false, true} {
		s := r.call(r.Method(service + "GetWorkflowExecutionHistory"))
		if reader {
			ShowErased(s)
		}
		out, err := s.Response(t.Context(), history)
		if !reader {
			if crypto.KindOf(err) != crypto.KindErased || err.(*Error).Transient() {
				t.Errorf("a history for a worker: %v", err)
			}
			s.Done()
			continue
		}
		got := new(workflowservice.GetWorkflowExecutionHistoryResponse)
		if err != nil || proto.Unmarshal(out, got) != nil {
			t.Fatal(err)
		}
		input := got.History.Events[0].GetWorkflowExecutionSignaledEventAttributes().Input.Payloads
		if want := `"[erased on ` + time.Now().UTC().Format(time.DateOnly) + `]"`; string(input[0].Data) != want || string(input[1].Data) != `{"patient":"P-2"}` ||
			string(input[2].Data) != want { // the whole document, and not its sealed members alone
			t.Errorf("a reader got %s, %s and %s", input[0].Data, input[1].Data, input[2].Data)
		}
		outcomes := map[Outcome]int{}
		for _, h := range s.Account() {
			outcomes[h.Outcome] += h.Count
		}
		if outcomes[Erased] != 2 || outcomes[Opened] != 1 {
			t.Errorf("account %+v", s.Account())
		}
		s.Done()
	}
	// In a list nobody replays anything.
	s := r.call(r.Method(service + "ListWorkflowExecutions"))
	defer s.Done()
	out, err := s.Response(t.Context(), bytesOf(t, &workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{
		{Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"a": sealed[0]}}}}}))
	if err != nil || !strings.Contains(string(out), "[erased on ") {
		t.Errorf("a list: %q, error %v", out, err)
	}
	if _, err := starting(t, r, `{"patient":"P-1"}`); err == nil || err.(*Error).Kind != KindDenied || crypto.KindOf(err) != crypto.KindErased {
		t.Errorf("sealing for an erased subject: %v", err)
	}
}

// TestExpiredPayloads: readers get a placeholder once the key has expired, and what a worker replays fails for good.
func TestExpiredPayloads(t *testing.T) {
	r, _ := withSubjects(t)
	out, err := request(t, r, "StartWorkflowExecution", bytesOf(t, &workflowservice.StartWorkflowExecutionRequest{Namespace: testNamespace, WorkflowId: "w",
		Header: &commonpb.Header{Fields: map[string]*commonpb.Payload{"a": jsonOf(`"secret"`)}}}))
	q := new(workflowservice.StartWorkflowExecutionRequest)
	if err != nil || proto.Unmarshal(out, q) != nil {
		t.Fatal(err)
	}
	history := bytesOf(t, &workflowservice.GetWorkflowExecutionHistoryResponse{History: &historypb.History{Events: []*historypb.HistoryEvent{
		{EventId: 1, Attributes: &historypb.HistoryEvent_WorkflowExecutionSignaledEventAttributes{
			WorkflowExecutionSignaledEventAttributes: &historypb.WorkflowExecutionSignaledEventAttributes{Input: &commonpb.Payloads{
				Payloads: []*commonpb.Payload{q.Header.Fields["a"]}}}}}}}})
	read := func() (got string, expired int) {
		s := r.call(r.Method(service + "GetWorkflowExecutionHistory"))
		defer s.Done()
		ShowErased(s)
		out, err := s.Response(t.Context(), history)
		h := new(workflowservice.GetWorkflowExecutionHistoryResponse)
		if err != nil || proto.Unmarshal(out, h) != nil {
			t.Fatal(err)
		}
		for _, h := range s.Account() {
			if h.Outcome == Expired {
				expired += h.Count
			}
		}
		return string(h.History.Events[0].GetWorkflowExecutionSignaledEventAttributes().Input.Payloads[0].Data), expired
	}
	got, expired := read()
	if got != `"secret"` {
		t.Fatalf("before its end, a reader got %s", got)
	}
	for deadline := time.Now().Add(time.Minute); got == `"secret"` && time.Now().Before(deadline); got, expired = read() {
		time.Sleep(50 * time.Millisecond)
	}
	if !strings.HasPrefix(got, `"[expired on 20`) || expired != 1 {
		t.Errorf("a reader got %s, %d expired", got, expired)
	}
	s := r.call(r.Method(service + "GetWorkflowExecutionHistory"))
	defer s.Done()
	if _, err := s.Response(t.Context(), history); crypto.KindOf(err) != crypto.KindExpired || err.(*Error).Transient() {
		t.Errorf("a history for a worker: %v", err)
	}
}

// TestSubjectOfTheTarget: a subject that the policy of the target namespace names is kept, whatever the own policy lets pass.
func TestSubjectOfTheTarget(t *testing.T) {
	r, _ := withSubjects(t)
	s := r.call(r.Method(service + "StartWorkflowExecution"))
	defer s.Done()
	d := decider{call: &s.call}
	for _, own := range []policy.Action{policy.Pass, policy.Accept, policy.Seal} {
		got, err := d.stricter(policy.Verdict{Action: own, Key: "default"},
			policy.Verdict{Action: policy.Seal, Key: "theirs", Subject: policy.Subject{Pointer: "/patient"}}, "other", &slot{f: new(field)})
		if err != nil || got.Action != policy.Seal || got.Subject.Pointer != "/patient" || got.Key != "default" {
			t.Errorf("own %s: %+v, error %v", own, got, err)
		}
	}
}
