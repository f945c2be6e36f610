package tasks

import (
	"context"
	"errors"
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
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// pausedFrontend has a workflow with paused activities.
type pausedFrontend struct {
	workflowservice.UnimplementedWorkflowServiceServer
	input *commonpb.Payloads                                   // of all of them
	page  *workflowservice.GetWorkflowExecutionHistoryResponse // the whole history; nil: made from pending

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
	if f.page != nil {
		return f.page, nil
	}
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

// spacious is a Memory that notes the most that was taken at once. It refuses what goes beyond a limit.
type spacious struct {
	mu             sync.Mutex
	n, most, limit int64 // limit 0: none
	tooMuch        bool  // what it refuses is refused for good
}

func (s *spacious) Charge(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case n <= 0 || s.limit == 0 || s.n+n <= s.limit:
	case s.tooMuch:
		return rewrite.ErrTooMuch
	default:
		return errors.New("others use it")
	}
	s.n += n
	s.most = max(s.most, s.n)
	return nil
}

func (s *spacious) figures() (left, most int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n, s.most
}

// manyEvents is a page of a history that takes far more memory than it has bytes.
func manyEvents(id string, input *commonpb.Payloads) *historypb.History {
	h := &historypb.History{Events: []*historypb.HistoryEvent{{
		Attributes: &historypb.HistoryEvent_ActivityTaskScheduledEventAttributes{
			ActivityTaskScheduledEventAttributes: &historypb.ActivityTaskScheduledEventAttributes{ActivityId: id, Input: input}}}}}
	for range 20_000 {
		h.Events = append(h.Events, new(historypb.HistoryEvent))
	}
	return h
}

// TestSearchesAreCounted: what the search for paused activities decodes counts before it takes memory, in whatever form
// a server sends histories, and no longer than it is in use.
func TestSearchesAreCounted(t *testing.T) {
	t.Parallel()
	file := keyFile(t)
	h := manyEvents("a", seal(t, file))
	raw, err := proto.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	for form, page := range map[string]*workflowservice.GetWorkflowExecutionHistoryResponse{
		"decoded": {History: h},
		"stored":  {RawHistory: []*commonpb.DataBlob{{Data: raw}}},
	} {
		search := func(memory *spacious) (g *guarded, again time.Duration) {
			f := &pausedFrontend{pending: []*workflowpb.PendingActivityInfo{pausedBy("a", identity, from+"no key")}, page: page}
			g = guard(t, f, opensAll, file, new(atomic.Bool))
			s := &search{tasks: g.Tasks, worker: worker{client: workflowservice.NewWorkflowServiceClient(g.upstream), credentials: new(credentials)},
				upstream: g.upstream, limit: rate.NewLimiter(rate.Inf, 1), memory: memory, namespace: "clinic"}
			return g, s.run(t.Context())
		}
		watched := func(g *guarded) bool { return g.paused.has(activityKey{"clinic", "w", "r", "a"}) }
		all := new(spacious)
		g, again := search(all)
		left, most := all.figures()
		if left != 0 || most < 4*int64(len(raw)) || again != searchEvery || !watched(g) {
			t.Errorf("%s: a page of %d bytes takes %d, %d are left, searched again after %s: %s", form, len(raw), most, left, again, g.log)
		}
		little := &spacious{limit: most / 2}
		g, again = search(little)
		if left, _ := little.figures(); left != 0 || again != longestRetry || watched(g) || !strings.Contains(g.log.String(), "others use the memory") {
			t.Errorf("%s: with half of it: %d left, searched again after %s: %s", form, left, again, g.log)
		}
		never := &spacious{limit: most / 2, tooMuch: true}
		g, again = search(never) // the other workflows are searched all the same
		if left, _ := never.figures(); left != 0 || again != searchEvery || watched(g) || !strings.Contains(g.log.String(), "unpause it by hand") {
			t.Errorf("%s: more than one message may take: %d left, searched again after %s: %s", form, left, again, g.log)
		}
	}
}
