package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// book is a sink that a test reads, and that can be made to fail.
type book struct {
	mu   sync.Mutex
	err  error
	text bytes.Buffer
}

func (b *book) Write(_ context.Context, lines [][]byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	for _, l := range lines {
		b.text.Write(l)
	}
	return len(lines), nil
}

func (b *book) Close() error { return nil }

func (b *book) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

func (b *book) records(t *testing.T) []audit.Record {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []audit.Record
	for text := range strings.Lines(b.text.String()) {
		var r audit.Record
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// audited starts a proxy whose calls are recorded; each of them waits for its record, so that a test need not.
func audited(t *testing.T, f *frontend, wait time.Duration) (*proxied, *book) {
	t.Helper()
	b := new(book)
	p := startProxy(t, f, func(o *Options) {
		o.Audit = audit.New(audit.Options{Sink: b, Required: true, Wait: wait, Log: o.Log})
	})
	t.Cleanup(func() { _ = p.audit.Close(context.Background()) })
	return p, b
}

// stored has the frontend answer with what it was given to keep.
func stored(t *testing.T, c workflowservice.WorkflowServiceClient, f *frontend, secret string) *commonpb.Payloads {
	t.Helper()
	var kept *commonpb.Payloads
	f.start = func(_ context.Context, q *workflowservice.StartWorkflowExecutionRequest) (*workflowservice.StartWorkflowExecutionResponse, error) {
		kept = q.Input
		return new(workflowservice.StartWorkflowExecutionResponse), nil
	}
	if _, err := c.StartWorkflowExecution(testContext(t), startRequest([]byte(secret))); err != nil {
		t.Fatal(err)
	}
	return kept
}

func historyRequest() *workflowservice.GetWorkflowExecutionHistoryRequest {
	return &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "clinic", Execution: &commonpb.WorkflowExecution{WorkflowId: "w-1", RunId: "run-1"}}
}

func TestOneRecordPerReading(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	p, b := audited(t, f, 10*time.Second)
	c := p.client(t)
	input := stored(t, c, f, `"the secret"`)
	if got := b.records(t); len(got) != 0 {
		t.Errorf("a call that opened nothing is on record: %+v", got)
	}
	f.history = func(context.Context, *workflowservice.GetWorkflowExecutionHistoryRequest) (*workflowservice.GetWorkflowExecutionHistoryResponse, error) {
		return &workflowservice.GetWorkflowExecutionHistoryResponse{History: historyWith(input)}, nil
	}
	f.poll = func(context.Context, *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
		return &workflowservice.PollActivityTaskQueueResponse{TaskToken: []byte("t"), ActivityId: "a", Input: input,
			WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: "w-9", RunId: "r"}, WorkflowType: &commonpb.WorkflowType{Name: "Visit"}}, nil
	}
	if _, err := c.GetWorkflowExecutionHistory(testContext(t), historyRequest()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.PollActivityTaskQueue(testContext(t), &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"}); err != nil {
		t.Fatal(err)
	}
	got := b.records(t)
	if len(got) != 2 {
		t.Fatalf("%d records for two calls: %+v", len(got), got)
	}
	opened := rewrite.Handled{Kind: "input", Namespace: "clinic", Key: "default", Outcome: "opened", Count: 1}
	for i, want := range []audit.Record{
		{RPC: "GetWorkflowExecutionHistory", Workflow: audit.Workflow{ID: "w-1", Run: "run-1"}},
		{RPC: "PollActivityTaskQueue", Workflow: audit.Workflow{ID: "w-9", Type: "Visit"}},
	} {
		r := got[i]
		if r.RPC != want.RPC || r.Workflow != want.Workflow || r.Namespace != "clinic" || r.Code != "OK" || r.Policy == "" ||
			r.Caller != (audit.Caller{Kind: "anonymous", Listener: "default"}) || len(r.Payloads) != 1 || r.Payloads[0] != opened || time.Since(r.Time) > time.Minute {
			t.Errorf("record %+v", r)
		}
	}
	if strings.Contains(b.text.String(), "secret") {
		t.Error("a payload stands in the record")
	}
}

// TestUnopenedIsOnRecord: what does not open is on record too, whether its reader gets it sealed or its worker gets no task.
func TestUnopenedIsOnRecord(t *testing.T) {
	f := &pausingFrontend{}
	f.history = func(context.Context, *workflowservice.GetWorkflowExecutionHistoryRequest) (*workflowservice.GetWorkflowExecutionHistoryResponse, error) {
		return &workflowservice.GetWorkflowExecutionHistoryResponse{History: historyWith(damaged())}, nil
	}
	f.poll = func(context.Context, *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
		return badActivity("token"), nil
	}
	startService(t, &f.frontend, f)
	p, b := audited(t, &f.frontend, 10*time.Second)
	c := p.client(t)
	if _, err := c.GetWorkflowExecutionHistory(testContext(t), historyRequest()); status.Code(err) != codes.DataLoss {
		t.Fatal(err)
	}
	if got, err := c.PollActivityTaskQueue(testContext(t), &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"}); err != nil || len(got.TaskToken) > 0 {
		t.Fatalf("%v, %v", got, err)
	}
	got := b.records(t)
	if len(got) != 2 || got[0].Code != "DATA_LOSS" || got[1].Code != "OK" {
		t.Fatalf("%+v", got)
	}
	for _, r := range got {
		if len(r.Payloads) != 1 || r.Payloads[0].Outcome != "failed" {
			t.Errorf("%+v", r)
		}
	}
}

// TestRequiredRecord: a reader gets no answer that cannot be put on record, and the next call is not even forwarded.
func TestRequiredRecord(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	p, b := audited(t, f, 50*time.Millisecond)
	c := p.client(t)
	input := stored(t, c, f, `"the secret"`)
	f.history = func(context.Context, *workflowservice.GetWorkflowExecutionHistoryRequest) (*workflowservice.GetWorkflowExecutionHistoryResponse, error) {
		return &workflowservice.GetWorkflowExecutionHistoryResponse{History: historyWith(input)}, nil
	}
	b.fail(errors.New("no space left"))
	if _, err := c.GetWorkflowExecutionHistory(testContext(t), historyRequest()); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "audit.required") {
		t.Fatalf("%v", err)
	}
	before := len(f.calls())
	if _, err := c.PollActivityTaskQueue(testContext(t), &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"}); status.Code(err) != codes.Unavailable {
		t.Errorf("a poll for a task that could not be put on record: %v", err)
	}
	if _, err := c.GetSystemInfo(testContext(t), &workflowservice.GetSystemInfoRequest{}); err != nil {
		t.Errorf("a call that opens nothing: %v", err)
	}
	for _, call := range f.calls()[before:] {
		if strings.HasSuffix(call, "PollActivityTaskQueue") {
			t.Error("the poll was forwarded: its task would be lost")
		}
	}
	b.fail(nil)
	for end := time.Now().Add(10 * time.Second); p.audit.Ready() != nil && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	if _, err := c.GetWorkflowExecutionHistory(testContext(t), historyRequest()); err != nil {
		t.Errorf("once records can be kept again: %v", err)
	}
	if got := b.records(t); len(got) != 1 {
		t.Errorf("%d records for one answer", len(got))
	}
}

// TestTaskWaitsForItsRecord: a task that is there already when records fail is held, and not lost.
func TestTaskWaitsForItsRecord(t *testing.T) {
	f := &pausingFrontend{}
	startService(t, &f.frontend, f)
	p, b := audited(t, &f.frontend, 50*time.Millisecond)
	c := p.client(t)
	input := stored(t, c, &f.frontend, `"the secret"`)
	f.poll = func(context.Context, *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
		b.fail(errors.New("no space left"))
		time.AfterFunc(500*time.Millisecond, func() { b.fail(nil) })
		return &workflowservice.PollActivityTaskQueueResponse{TaskToken: []byte("t"), ActivityId: "a", Input: input}, nil
	}
	got, err := c.PollActivityTaskQueue(testContext(t), &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"})
	if err != nil || string(got.GetTaskToken()) != "t" || string(got.GetInput().GetPayloads()[0].GetData()) != `"the secret"` {
		t.Fatalf("the worker got %v, %v", got, err)
	}
	if r := b.records(t); len(r) != 1 || len(f.paused)+len(f.activityFailed) > 0 {
		t.Errorf("%d records; paused %d times, failed %d times", len(r), len(f.paused), len(f.activityFailed))
	}
}
