package tasks

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// searchEvery is how often one namespace is searched. It also bounds how often two replicas can
	// disagree, of which one can open what the other has paused.
	searchEvery = 5 * time.Minute
	// searchSeldom is for servers that do not support the search.
	searchSeldom = 24 * time.Hour
	// searchLimit, searchRate, maxSearches and maxFound bound the work: its length, its requests per
	// second, how many namespaces are searched at once, and how many workflows of one.
	searchLimit = 10 * time.Minute
	searchRate  = 20
	maxSearches = 4
	maxFound    = maxPaused
	// pausedQuery lists the workflows with an activity that somebody has paused.
	pausedQuery = "TemporalPauseInfo IS NOT NULL AND ExecutionStatus = 'Running'"
)

// searches are the times at which each namespace is searched next.
type searches struct {
	mu      sync.Mutex
	next    *simplelru.LRU[string, time.Time] // a namespace that it has forgotten is searched early
	running int
}

func newSearches() (*searches, error) {
	next, err := simplelru.NewLRU[string, time.Time](maxNamespaces, nil)
	return &searches{next: next}, err
}

// begin reports whether the namespace is to be searched now. If so, the caller has to call end.
func (s *searches) begin(namespace string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if next, ok := s.next.Get(namespace); s.running >= maxSearches || ok && now.Before(next) {
		return false
	}
	s.running++
	s.next.Add(strings.Clone(namespace), now.Add(searchLimit))
	return true
}

func (s *searches) end(namespace string, again time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	s.next.Add(namespace, time.Now().Add(again+time.Duration(rand.Int64N(int64(again/5)))))
}

// hasten has a namespace searched again before its time.
func (s *searches) hasten(namespace string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if next, ok := s.next.Get(namespace); ok {
		if soon := time.Now().Add(longestRetry); soon.Before(next) {
			s.next.Add(namespace, soon)
		}
	}
}

// search is one search of a namespace, with the credentials of a worker that polls there.
type search struct {
	tasks     *Tasks
	worker    worker
	server    workflowservice.WorkflowServiceClient // paced
	namespace string
	found     int
}

// paced is a connection for requests that can wait.
type paced struct {
	grpc.ClientConnInterface // for streams, of which WorkflowService has none
	limit                    *rate.Limiter
}

// Invoke makes a request once its turn has come.
func (p paced) Invoke(ctx context.Context, method string, in, out any, options ...grpc.CallOption) error {
	if err := p.limit.Wait(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return p.ClientConnInterface.Invoke(ctx, method, in, out, options...)
}

// FindPaused searches the call's namespace, now and then, for activities that were paused by a proxy which
// may no longer remember them: a proxy keeps them in memory, and the server records who paused what and
// why. out has the metadata to send.
func (t *Tasks) FindPaused(out context.Context, call Call) {
	namespace := call.namespace()
	if t.ctx.Err() != nil || !t.options.Keys.Confirmed(namespace) || !t.searches.begin(namespace, time.Now()) {
		return
	}
	s := &search{tasks: t, worker: call.worker(out), namespace: strings.Clone(namespace),
		server: workflowservice.NewWorkflowServiceClient(paced{call.Upstream, rate.NewLimiter(searchRate, 1)})}
	go func() {
		ctx, cancel := context.WithTimeout(s.worker.context(t.ctx), searchLimit)
		defer cancel()
		t.searches.end(s.namespace, s.run(ctx))
	}()
}

// run searches the namespace, and returns when to do so again.
func (s *search) run(ctx context.Context) (again time.Duration) {
	q := &workflowservice.ListWorkflowExecutionsRequest{Namespace: s.namespace, Query: pausedQuery, PageSize: 100}
	for seen := 0; seen < maxFound; {
		page, err := s.server.ListWorkflowExecutions(ctx, q)
		if err != nil {
			return s.failed(err)
		}
		for _, w := range page.GetExecutions() {
			if err := s.workflow(ctx, w.GetExecution()); err != nil && status.Code(err) != codes.NotFound {
				return s.failed(err)
			}
		}
		seen += len(page.GetExecutions())
		if q.NextPageToken = page.GetNextPageToken(); len(q.NextPageToken) == 0 {
			break
		}
	}
	if s.found > 0 {
		s.tasks.options.Log.Info("activities were found that a proxy has paused since they could not be opened; "+
			"they go on once they can be", "namespace", s.namespace, "activities", s.found)
	}
	return searchEvery
}

// failed logs why a search ended early, and returns when to search again.
func (s *search) failed(err error) (again time.Duration) {
	log := s.tasks.options.Log
	switch status.Code(err) {
	case codes.InvalidArgument, codes.Unimplemented:
		log.Debug("the server cannot be asked for paused activities", "namespace", s.namespace, "error", err)
		return searchSeldom
	case codes.PermissionDenied, codes.Unauthenticated:
		log.Warn("activities that a proxy has paused before it was restarted cannot be found "+
			"with the credentials of the namespace's workers: let them list and describe workflows, "+
			"or unpause by hand what temporal-seal has paused", "namespace", s.namespace, "error", err)
	default:
		log.Debug("the search for paused activities did not end", "namespace", s.namespace, "error", err)
	}
	return searchEvery
}

// workflow watches the activities of one run that a proxy has paused.
func (s *search) workflow(ctx context.Context, w *commonpb.WorkflowExecution) error {
	d, err := s.server.DescribeWorkflowExecution(ctx, &workflowservice.DescribeWorkflowExecutionRequest{
		Namespace: s.namespace, Execution: w})
	if err != nil {
		return err
	}
	ours := map[string]*workflowpb.PendingActivityInfo{}
	for _, a := range d.GetPendingActivities() {
		if pausedByProxy(a) && !s.tasks.paused.has(s.key(w, a.GetActivityId())) {
			ours[a.GetActivityId()] = a
		}
	}
	if len(ours) == 0 {
		return nil
	}
	return s.scheduled(ctx, w, func(e *scheduledEvent) error {
		a := ours[e.GetActivityId()]
		if a == nil {
			return nil
		}
		return s.watch(&activityTask{
			WorkflowNamespace: s.namespace, WorkflowExecution: w, WorkflowType: d.GetWorkflowExecutionInfo().GetType(),
			ActivityId: e.GetActivityId(), ActivityType: e.GetActivityType(),
			Header: e.GetHeader(), Input: e.GetInput(), HeartbeatDetails: a.GetHeartbeatDetails(),
		}, e.GetTaskQueue().GetName())
	})
}

func (s *search) key(w *commonpb.WorkflowExecution, activity string) activityKey {
	return activityKey{s.namespace, w.GetWorkflowId(), w.GetRunId(), activity}
}

// pausedByProxy reports whether an activity was paused by a proxy.
func pausedByProxy(a *workflowpb.PendingActivityInfo) bool {
	by := a.GetPauseInfo().GetManual()
	return a.GetPaused() && by.GetIdentity() == identity && strings.HasPrefix(by.GetReason(), from)
}

// scheduledEvent is how an activity was scheduled. It contains the activity's input.
type scheduledEvent = historypb.ActivityTaskScheduledEventAttributes

// scheduled reads a history and calls each for every activity in it.
func (s *search) scheduled(ctx context.Context, w *commonpb.WorkflowExecution, each func(*scheduledEvent) error) error {
	q := &workflowservice.GetWorkflowExecutionHistoryRequest{
		Namespace: s.namespace, Execution: w, MaximumPageSize: 1000}
	for {
		page, err := s.server.GetWorkflowExecutionHistory(ctx, q)
		if err != nil {
			return err
		}
		events := page.GetHistory().GetEvents()
		for _, blob := range page.GetRawHistory() {
			h := new(historypb.History)
			if err := proto.Unmarshal(blob.GetData(), h); err != nil {
				return err
			}
			events = append(events, h.GetEvents()...)
		}
		for _, e := range events {
			if a := e.GetActivityTaskScheduledEventAttributes(); a != nil {
				if err := each(a); err != nil {
					return err
				}
			}
		}
		if q.NextPageToken = page.GetNextPageToken(); len(q.NextPageToken) == 0 {
			return nil
		}
	}
}

// watch has an activity go on once it opens. task is put together from what the server shows, to try
// whether it opens.
func (s *search) watch(task *activityTask, queue string) error {
	request, err := proto.Marshal(&workflowservice.PollActivityTaskQueueRequest{
		Namespace: s.namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: queue}})
	if err != nil {
		return err
	}
	sealed, err := proto.Marshal(task)
	if err != nil {
		return err
	}
	p := &pausedActivity{key: s.key(task.GetWorkflowExecution(), task.GetActivityId()), worker: s.worker,
		method:  s.tasks.options.Rewriter.Method(workflowservice.WorkflowService_PollActivityTaskQueue_FullMethodName),
		request: request, sealed: sealed, found: true}
	if s.tasks.watch(p) {
		s.found++
	}
	return nil
}
