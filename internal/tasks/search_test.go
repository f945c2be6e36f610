package tasks

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
)

// pausedFrontend has a workflow with paused activities.
type pausedFrontend struct {
	workflowservice.UnimplementedWorkflowServiceServer
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
	f.mu.Lock()
	defer f.mu.Unlock()
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

func (f *pausedFrontend) PollActivityTaskQueue(context.Context, *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
	return &workflowservice.PollActivityTaskQueueResponse{}, nil
}

func pausedBy(id, identity, reason string) *workflowpb.PendingActivityInfo {
	return &workflowpb.PendingActivityInfo{ActivityId: id, Paused: true, ActivityOptions: &activitypb.ActivityOptions{},
		PauseInfo: &workflowpb.PendingActivityInfo_PauseInfo{PausedBy: &workflowpb.PendingActivityInfo_PauseInfo_Manual_{
			Manual: &workflowpb.PendingActivityInfo_PauseInfo_Manual{Identity: identity, Reason: reason}}}}
}

// TestPausedActivitiesAreFoundAgain: a proxy that has just started knows of none. What a person paused stays paused.
func TestPausedActivitiesAreFoundAgain(t *testing.T) {
	t.Parallel()
	file := keyFile(t)
	f := &pausedFrontend{input: seal(t, file), refuse: "others", pending: []*workflowpb.PendingActivityInfo{
		pausedBy("ours", identity, from+"no key"), pausedBy("theirs", "a person", "maintenance"), pausedBy("unclear", identity, "by hand")}}
	g := guard(t, f, opensAll, file, new(atomic.Bool))
	g.poll(t, "others") // confirms the namespace by its answer
	g.poll(t, "others")
	eventually(t, func() bool { return strings.Contains(g.log.String(), "unpause by hand") })
	g.searches.mu.Lock()
	g.searches.next.Add("clinic", time.Time{}) // as if the time until the next search were over
	g.searches.mu.Unlock()
	for range 3 {
		g.poll(t, "workers")
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
	f := &pausedFrontend{input: seal(t, file), pending: []*workflowpb.PendingActivityInfo{pausedBy("a", identity, from+"no key")}}
	g := guard(t, f, opensAll, file, off)
	g.keys.Confirm("clinic")
	if err := g.keys.Ready(t.Context(), "clinic", nil); err != nil {
		t.Fatal(err)
	}
	off.Store(true) // the input needs another data key than the one that is at hand
	g.poll(t, "workers")
	eventually(t, func() bool { return g.paused.has(activityKey{"clinic", "w", "r", "a"}) })
	f.mu.Lock()
	f.pending[0] = pausedBy("a", "a person", "not yet")
	f.mu.Unlock()
	off.Store(false)
	eventually(t, func() bool { return !g.paused.has(activityKey{"clinic", "w", "r", "a"}) })
	if got := f.goneOn(); len(got) > 0 {
		t.Errorf("let go on: %v", got)
	}
}

// TestWhatOneWorkerMayNotOpenIsFoundForAnother: the rules may let only some callers open it.
func TestWhatOneWorkerMayNotOpenIsFoundForAnother(t *testing.T) {
	t.Parallel()
	file := keyFile(t)
	f := &pausedFrontend{input: seal(t, file), pending: []*workflowpb.PendingActivityInfo{pausedBy("a", identity, from+"no key")}}
	const denies = "package temporal\n\nresponse contains {\"action\": \"deny\"} if input.payload.kind == \"input\"\n"
	g := guard(t, f, denies, file, new(atomic.Bool))
	g.keys.Confirm("clinic")
	g.poll(t, "workers")
	key := activityKey{"clinic", "w", "r", "a"}
	eventually(t, func() bool { return g.paused.has(key) })
	eventually(t, func() bool { return !g.paused.has(key) })
	if got := f.goneOn(); len(got) > 0 {
		t.Errorf("let go on: %v", got)
	}
}
