package tasks

import (
	"context"
	"math/rand/v2"
	"path"
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

	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/x/frame"
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
	upstream  grpc.ClientConnInterface
	limit     *rate.Limiter  // of requests, which can wait
	memory    rewrite.Memory // counts what the answers take
	namespace string
	found     int
}

// FindPaused searches the call's namespace, now and then, for activities that were paused by a proxy which
// may no longer remember them: a proxy keeps them in memory, and the server records who paused what and
// why. out has the metadata to send.
func (t *Tasks) FindPaused(out context.Context, call Call) {
	namespace := call.namespace()
	if t.ctx.Err() != nil || !t.options.Keys.Confirmed(namespace) || !t.searches.begin(namespace, time.Now()) {
		return
	}
	s := &search{tasks: t, worker: call.worker(out), upstream: call.Upstream,
		limit: rate.NewLimiter(searchRate, 1), namespace: strings.Clone(namespace)}
	go func() {
		defer s.worker.credentials.clear()
		ctx, _ := s.worker.credentials.context(t.ctx)
		ctx, cancel := context.WithTimeout(ctx, searchLimit)
		defer cancel()
		memory, done := t.options.Memory()
		defer done()
		s.memory = memory
		t.searches.end(s.namespace, s.run(ctx))
	}()
}

// ask makes a request once its turn has come. What its answer takes counts until done is called.
func (s *search) ask(ctx context.Context, method string, request, answer proto.Message) (done func(), err error) {
	if err := s.limit.Wait(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var raw frame.Frame
	if err := s.upstream.Invoke(ctx, method, request, &raw); err != nil {
		return nil, err
	}
	defer raw.Free()
	return s.decode(path.Base(method), raw.BytesIn(frame.Sealed), answer)
}

// decode decodes what a method has answered, which counts until done is called.
func (s *search) decode(method string, in []byte, message proto.Message) (done func(), err error) {
	done, err = rewrite.CountAnswer(s.memory, method, message.ProtoReflect().Descriptor(), in)
	if err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(in, message); err != nil {
		done()
		return nil, err
	}
	return done, nil
}

// run searches the namespace, and returns when to do so again.
func (s *search) run(ctx context.Context) (again time.Duration) {
	q := &workflowservice.ListWorkflowExecutionsRequest{Namespace: s.namespace, Query: pausedQuery, PageSize: 100}
	for seen := 0; seen < maxFound; {
		n, err := s.page(ctx, q)
		if err != nil {
			return s.failed(err)
		}
		if seen += n; len(q.NextPageToken) == 0 {
			break
		}
	}
	if s.found > 0 {
		s.tasks.options.Log.Info("activities were found that a proxy has paused since they could not be opened; "+
			"they go on once they can be", "namespace", s.namespace, "activities", s.found)
	}
	return searchEvery
}

// page searches one page of the list of workflows, and makes q the request for the next one.
func (s *search) page(ctx context.Context, q *workflowservice.ListWorkflowExecutionsRequest) (workflows int, err error) {
	page := new(workflowservice.ListWorkflowExecutionsResponse)
	done, err := s.ask(ctx, workflowservice.WorkflowService_ListWorkflowExecutions_FullMethodName, q, page)
	if err != nil {
		return 0, err
	}
	defer done()
	for _, w := range page.GetExecutions() {
		err := s.workflow(ctx, w.GetExecution())
		switch {
		case err == nil || status.Code(err) == codes.NotFound:
		case tooLarge(err):
			s.tasks.options.Log.Warn("a workflow takes more memory than one message may; what a proxy has paused in it "+
				"is not found: unpause it by hand", "namespace", s.namespace,
				"workflow_id", w.GetExecution().GetWorkflowId(), "run_id", w.GetExecution().GetRunId(), "error", err)
		default:
			return 0, err
		}
	}
	q.NextPageToken = page.GetNextPageToken()
	return len(page.GetExecutions()), nil
}

// failed logs why a search ended early, and returns when to search again.
func (s *search) failed(err error) (again time.Duration) {
	log := s.tasks.options.Log
	if beyondMemory(err) {
		log.Warn("the search for paused activities waits, since others use the memory that it takes",
			"namespace", s.namespace, "error", err)
		return longestRetry
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.Unimplemented:
		log.Debug("the server does not list paused activities", "namespace", s.namespace, "error", err)
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
	d := new(workflowservice.DescribeWorkflowExecutionResponse)
	done, err := s.ask(ctx, workflowservice.WorkflowService_DescribeWorkflowExecution_FullMethodName,
		&workflowservice.DescribeWorkflowExecutionRequest{Namespace: s.namespace, Execution: w}, d)
	if err != nil {
		return err
	}
	defer done()
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
		page := new(workflowservice.GetWorkflowExecutionHistoryResponse)
		done, err := s.ask(ctx, historyMethod, q, page)
		if err != nil {
			return err
		}
		err = s.events(page, each)
		q.NextPageToken = page.GetNextPageToken()
		done()
		if err != nil || len(q.NextPageToken) == 0 {
			return err
		}
	}
}

const historyMethod = workflowservice.WorkflowService_GetWorkflowExecutionHistory_FullMethodName

// events calls each for every activity in a page of a history, which may come as it is stored.
func (s *search) events(page *workflowservice.GetWorkflowExecutionHistoryResponse, each func(*scheduledEvent) error) error {
	if err := inHistory(page.GetHistory(), each); err != nil {
		return err
	}
	for _, blob := range page.GetRawHistory() {
		h := new(historypb.History)
		done, err := s.decode(path.Base(historyMethod), blob.GetData(), h)
		if err != nil {
			return err
		}
		err = inHistory(h, each)
		done()
		if err != nil {
			return err
		}
	}
	return nil
}

func inHistory(h *historypb.History, each func(*scheduledEvent) error) error {
	for _, e := range h.GetEvents() {
		if a := e.GetActivityTaskScheduledEventAttributes(); a != nil {
			if err := each(a); err != nil {
				return err
			}
		}
	}
	return nil
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
	own := s.worker // is cleared on its own
	own.credentials = own.credentials.clone()
	p := &pausedActivity{key: s.key(task.GetWorkflowExecution(), task.GetActivityId()), worker: own,
		method:  s.tasks.options.Rewriter.Method(workflowservice.WorkflowService_PollActivityTaskQueue_FullMethodName),
		request: request, sealed: sealed, found: true}
	if s.tasks.watch(p) {
		s.found++
	}
	return nil
}
