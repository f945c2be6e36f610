package rewrite

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// rows is a key store in memory.
type rows struct {
	mu   sync.Mutex
	rows map[crypto.KeyID]crypto.KeyRow
}

func (r *rows) Get(_ context.Context, ids []crypto.KeyID) (found []crypto.KeyRow, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if row, ok := r.rows[id]; ok {
			found = append(found, row)
		}
	}
	return found, nil
}

func (r *rows) Put(_ context.Context, row crypto.KeyRow) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows[row.ID] = row
	return nil
}

func (*rows) All(context.Context, func(crypto.KeyRow) error) error { return nil }
func (*rows) Ping(context.Context) error                           { return nil }
func (*rows) Close() error                                         { return nil }

// referring returns a rewriter whose envelopes are by reference.
func referring(t *testing.T, file string, store crypto.KeyStore) *Rewriter {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	keys, err := keyring.New(t.Context(), keyring.Options{Open: localkey.Open, Log: quiet, Store: store,
		Keys: []keyring.KeyConfig{{Name: "default", Active: "local:" + file, Reference: true}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	keys.Confirm(testNamespace)
	engine, err := policy.NewEngine(t.Context(), policy.Options{Shipped: []byte(sealAll), KeyRank: keys.Rank, DefaultKey: keys.DefaultKey})
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(Options{Keys: keys, Policy: engine, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestResponsesWithReferences: what was sealed by reference opens in another process by its row. Without the row a list keeps it
// sealed, and a history is an error.
func TestResponsesWithReferences(t *testing.T) {
	file := filepath.Join(t.TempDir(), "seal.key")
	if err := localkey.Create(file, time.Now()); err != nil {
		t.Fatal(err)
	}
	store := &rows{rows: map[crypto.KeyID]crypto.KeyRow{}}
	input := new(commonpb.Payloads)
	for range 10 { // the first ones carry their keys
		input.Payloads = append(input.Payloads, secret("CANARY-1").Payloads...)
	}
	out, err := request(t, referring(t, file, store), "StartWorkflowExecution",
		bytesOf(t, &workflowservice.StartWorkflowExecutionRequest{Namespace: testNamespace, WorkflowId: "w", Input: input}))
	if err != nil {
		t.Fatal(err)
	}
	var started workflowservice.StartWorkflowExecutionRequest
	if err := proto.Unmarshal(out, &started); err != nil {
		t.Fatal(err)
	}
	last := started.GetInput().GetPayloads()[9]
	s, marked, err := envelope.ParsePayload(bytesOf(t, last))
	if err != nil || !marked || !s.Header.Reference() {
		t.Fatalf("the last payload is not by reference: %v, %v", marked, err)
	}
	history := bytesOf(t, &workflowservice.GetWorkflowExecutionHistoryResponse{History: &historypb.History{Events: []*historypb.HistoryEvent{{
		EventId: 1, Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
			WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{Input: started.GetInput()}}}}}})
	list := bytesOf(t, &workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{{
		Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"m": last}}}}})
	text := envelope.TextPrefix + "not an envelope"
	answer := func(r *Rewriter, method string, in []byte) (string, error) {
		c := r.call(r.Method(service + method))
		defer c.Done()
		if _, changed := c.Text(t.Context(), []byte(text)); changed {
			t.Error("a text that is no envelope was opened")
		}
		out, err := c.Response(t.Context(), in)
		return string(out), err
	}
	for _, there := range []bool{true, false} {
		if !there {
			clear(store.rows)
		}
		cold := referring(t, file, store)
		got, err := answer(cold, "ListWorkflowExecutions", list)
		if err != nil || strings.Contains(got, "CANARY-1") != there {
			t.Errorf("the row is there: %v; a list is opened: %v, %v", there, strings.Contains(got, "CANARY-1"), err)
		}
		got, err = answer(cold, "GetWorkflowExecutionHistory", history)
		if opened := strings.Count(got, "CANARY-1") == 10; opened != there || (err == nil) != there {
			t.Errorf("the row is there: %v; a history is opened: %v, %v", there, opened, err)
		}
	}
}
