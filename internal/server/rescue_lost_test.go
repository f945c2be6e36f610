package server

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	activitypb "go.temporal.io/api/activity/v1"
	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// pausedFrontend has a workflow with paused activities.
type pausedFrontend struct {
	frontend
	input *commonpb.Payloads // of all of them

	mu       sync.Mutex
	pending  []*workflowpb.PendingActivityInfo
	listed   []string // the credentials of those who asked
	refuse   string   // credentials that may not list
	unpaused []string
}

func (f *pausedFrontend) ListWorkflowExecutions(ctx context.Context, q *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	token := strings.Join(md["authorization"], "")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listed = append(f.listed, token)
	if token == f.refuse && token != "" {
		return nil, status.Error(codes.PermissionDenied, "not you")
	}
	return &workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{{Execution: &commonpb.WorkflowExecution{WorkflowId: "w", RunId: "r"}}}}, nil
}

func (f *pausedFrontend) DescribeWorkflowExecution(context.Context, *workflowservice.DescribeWorkflowExecutionRequest) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := &workflowservice.DescribeWorkflowExecutionResponse{}
	for _, p := range f.pending {
		a.PendingActivities = append(a.PendingActivities, proto.CloneOf(p))
	}
	return a, nil
}

func (f *pausedFrontend) GetWorkflowExecutionHistory(_ context.Context, q *workflowservice.GetWorkflowExecutionHistoryRequest) (*workflowservice.GetWorkflowExecutionHistoryResponse, error) {
	h := new(historypb.History)
	for _, a := range f.pending {
		h.Events = append(h.Events, &historypb.HistoryEvent{Attributes: &historypb.HistoryEvent_ActivityTaskScheduledEventAttributes{
			ActivityTaskScheduledEventAttributes: &historypb.ActivityTaskScheduledEventAttributes{ActivityId: a.GetActivityId(), Input: f.input}}})
	}
	if len(q.GetNextPageToken()) > 0 { // as of a server that sends histories as they are stored
		raw, _ := proto.Marshal(h)
		return &workflowservice.GetWorkflowExecutionHistoryResponse{RawHistory: []*commonpb.DataBlob{{Data: raw}}}, nil
	}
	return &workflowservice.GetWorkflowExecutionHistoryResponse{NextPageToken: []byte("more")}, nil
}

func (f *pausedFrontend) UnpauseActivity(_ context.Context, q *workflowservice.UnpauseActivityRequest) (*workflowservice.UnpauseActivityResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unpaused = append(f.unpaused, q.GetId())
	for _, a := range f.pending {
		if a.GetActivityId() == q.GetId() {
			a.Paused = false
		}
	}
	return &workflowservice.UnpauseActivityResponse{}, nil
}

func (f *pausedFrontend) goneOn() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(slices.Values(f.unpaused))
}

func pausedBy(id, identity, reason string) *workflowpb.PendingActivityInfo {
	return &workflowpb.PendingActivityInfo{ActivityId: id, Paused: true, ActivityOptions: &activitypb.ActivityOptions{},
		PauseInfo: &workflowpb.PendingActivityInfo_PauseInfo{PausedBy: &workflowpb.PendingActivityInfo_PauseInfo_Manual_{
			Manual: &workflowpb.PendingActivityInfo_PauseInfo_Manual{Identity: identity, Reason: reason}}}}
}

// sealedBy seals an input as a proxy did that is gone.
func sealedBy(t *testing.T, file string) *commonpb.Payloads {
	t.Helper()
	var kept *commonpb.Payloads
	f := &frontend{start: func(_ context.Context, q *workflowservice.StartWorkflowExecutionRequest) (*workflowservice.StartWorkflowExecutionResponse, error) {
		kept = q.GetInput()
		return &workflowservice.StartWorkflowExecutionResponse{}, nil
	}}
	startFrontend(t, f)
	if _, err := startProxy(t, f, switchable(t, file, new(atomic.Bool))).client(t).StartWorkflowExecution(testContext(t), startRequest([]byte(`"x"`))); err != nil {
		t.Fatal(err)
	}
	return kept
}

// TestPausedActivitiesAreFoundAgain: a proxy that has just started knows of none. What a person paused stays paused.
func TestPausedActivitiesAreFoundAgain(t *testing.T) {
	t.Parallel()
	file := keyFile(t)
	f := &pausedFrontend{input: sealedBy(t, file), refuse: "others", pending: []*workflowpb.PendingActivityInfo{
		pausedBy("ours", standInIdentity, from+"no key"), pausedBy("theirs", "a person", "maintenance"), pausedBy("unclear", standInIdentity, "by hand")}}
	startService(t, &f.frontend, f)
	p := startProxy(t, &f.frontend, switchable(t, file, new(atomic.Bool)))
	c := p.client(t)
	poll := func(token string) {
		if _, err := c.PollActivityTaskQueue(callWith(testContext(t), "authorization", token), &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"}); err != nil {
			t.Error(err)
		}
	}
	poll("others") // confirms the namespace by its answer
	poll("others")
	eventually(t, func() bool { return strings.Contains(p.log.String(), "unpause by hand") })
	p.looks.mu.Lock()
	p.looks.next["clinic"] = time.Time{} // as if the time until the next look were over
	p.looks.mu.Unlock()
	for range 3 {
		poll("workers")
	}
	eventually(t, func() bool { return len(f.goneOn()) > 0 })
	time.Sleep(2 * firstRetry)
	if got := f.goneOn(); !slices.Equal(got, []string{"ours"}) {
		t.Errorf("let go on: %v", got)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if got := []string{"others", "workers"}; !slices.Equal(f.listed, got) {
		t.Errorf("asked as %v, want %v", f.listed, got)
	}
}

// TestWhatAPersonPausedStaysPaused: also if it was a proxy that had paused it first.
func TestWhatAPersonPausedStaysPaused(t *testing.T) {
	t.Parallel()
	file := keyFile(t)
	off := new(atomic.Bool)
	f := &pausedFrontend{input: sealedBy(t, file), pending: []*workflowpb.PendingActivityInfo{pausedBy("a", standInIdentity, from+"no key")}}
	startService(t, &f.frontend, f)
	p := startProxy(t, &f.frontend, switchable(t, file, off))
	p.keys.Confirm("clinic")
	ctx := testContext(t)
	poll := func() {
		if _, err := p.client(t).PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"}); err != nil {
			t.Error(err)
		}
	}
	if err := p.keys.Ready(ctx, "clinic", nil); err != nil {
		t.Fatal(err)
	}
	off.Store(true) // the input needs another data key than the one that is at hand
	poll()
	eventually(t, func() bool {
		return p.aside.has(activityKey{"clinic", "w", "r", "a"})
	})
	f.mu.Lock()
	f.pending[0] = pausedBy("a", "a person", "not yet")
	f.mu.Unlock()
	off.Store(false)
	eventually(t, func() bool { return !p.aside.has(activityKey{"clinic", "w", "r", "a"}) })
	if got := f.goneOn(); len(got) > 0 {
		t.Errorf("let go on: %v", got)
	}
}

// TestWhatOneWorkerMayNotOpenIsFoundForAnother: the rules may let only some callers open it.
func TestWhatOneWorkerMayNotOpenIsFoundForAnother(t *testing.T) {
	t.Parallel()
	file := keyFile(t)
	f := &pausedFrontend{input: sealedBy(t, file), pending: []*workflowpb.PendingActivityInfo{pausedBy("a", standInIdentity, from+"no key")}}
	startService(t, &f.frontend, f)
	p := startProxy(t, &f.frontend, switchable(t, file, new(atomic.Bool)), func(o *Options) {
		engine, err := policy.NewEngine(t.Context(), policy.Options{KeyRank: o.Keys.Rank, DefaultKey: o.Keys.DefaultKey, Log: o.Log,
			Shipped: []byte("package temporal\n\nresponse contains {\"action\": \"deny\"} if input.payload.kind == \"input\"\n")})
		if err != nil {
			t.Fatal(err)
		}
		if o.Rewriter, err = rewrite.New(rewrite.Options{Keys: o.Keys, Policy: engine, Log: o.Log}); err != nil {
			t.Fatal(err)
		}
	})
	p.keys.Confirm("clinic")
	if _, err := p.client(t).PollActivityTaskQueue(testContext(t), &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"}); err != nil {
		t.Fatal(err)
	}
	key := activityKey{"clinic", "w", "r", "a"}
	eventually(t, func() bool { return p.aside.has(key) })
	eventually(t, func() bool { return !p.aside.has(key) })
	if got := f.goneOn(); len(got) > 0 {
		t.Errorf("let go on: %v", got)
	}
}
