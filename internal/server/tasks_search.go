package server

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

// What was paused stands in the memory of the proxy that paused it. After a restart, or by another replica, it is found
// again at the server, which knows who paused what and why.

const (
	// lookEvery is how often one namespace is looked through. It also bounds how often two replicas can disagree, of
	// which one can open what the other has paused.
	lookEvery = 5 * time.Minute
	// lookSeldom is for servers that cannot be asked.
	lookSeldom = 24 * time.Hour
	// lookLimit, lookRate, maxLooks and maxFound bound the work: its length, its calls per second, how many namespaces are
	// looked through at once, and how many workflows of one.
	lookLimit = 10 * time.Minute
	lookRate  = 20
	maxLooks  = 4
	maxFound  = maxAside
	// pausedQuery lists the workflows with an activity that somebody has paused.
	pausedQuery = "TemporalPauseInfo IS NOT NULL AND ExecutionStatus = 'Running'"
)

// looks are when each namespace is to be looked through next. The zero value is ready.
type looks struct {
	mu      sync.Mutex
	next    map[string]time.Time
	running int
	closed  bool
	stop    context.CancelFunc
	base    context.Context
}

// begin tells if the namespace is to be looked through now. The caller has to call end.
func (l *looks) begin(namespace string, now time.Time) (ctx context.Context, due bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.running >= maxLooks || now.Before(l.next[namespace]) {
		return nil, false
	}
	if l.next == nil {
		l.next = map[string]time.Time{}
		l.base, l.stop = context.WithCancel(context.Background())
	}
	l.running++
	l.next[strings.Clone(namespace)] = now.Add(lookLimit)
	return l.base, true
}

func (l *looks) end(namespace string, again time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	l.next[namespace] = time.Now().Add(again + time.Duration(rand.Int64N(int64(again/5))))
}

// soon has a namespace looked through again before its time.
func (l *looks) soon(namespace string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if next, ok := l.next[namespace]; ok {
		if soon := time.Now().Add(longestRetry); soon.Before(next) {
			l.next[namespace] = soon
		}
	}
}

func (l *looks) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed = true; l.stop != nil {
		l.stop()
	}
}

// look is one search of a namespace, with the credentials of a worker that polls there.
type look struct {
	server    *Server
	route     *upstream.Pool
	namespace string
	caller    *policy.Caller
	md        metadata.MD
	limit     *rate.Limiter
	found     int
}

// findPaused looks, now and then, for activities of the call's namespace that were paused by a proxy which may no longer
// know of it. out has the metadata to send.
func (c *call) findPaused(out context.Context) {
	namespace := c.rewriting.Namespace()
	if !c.server.keys.Confirmed(namespace) {
		return
	}
	base, due := c.server.looks.begin(namespace, time.Now())
	if !due {
		return
	}
	md, _ := metadata.FromOutgoingContext(out)
	l := &look{server: c.server, route: c.route, namespace: strings.Clone(namespace), caller: c.id.Caller, md: md.Copy(), limit: rate.NewLimiter(lookRate, 1)}
	go func() {
		ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(base, l.md.Copy()), lookLimit)
		defer cancel()
		l.server.looks.end(l.namespace, l.run(ctx))
	}()
}

// run looks through the namespace, and tells when to do so again.
func (l *look) run(ctx context.Context) (again time.Duration) {
	q := &workflowservice.ListWorkflowExecutionsRequest{Namespace: l.namespace, Query: pausedQuery, PageSize: 100}
	for seen := 0; seen < maxFound; {
		page := new(workflowservice.ListWorkflowExecutionsResponse)
		if err := l.ask(ctx, "ListWorkflowExecutions", q, page); err != nil {
			return l.failed(err)
		}
		for _, w := range page.GetExecutions() {
			if err := l.workflow(ctx, w.GetExecution()); err != nil && status.Code(err) != codes.NotFound {
				return l.failed(err)
			}
		}
		seen += len(page.GetExecutions())
		if q.NextPageToken = page.GetNextPageToken(); len(q.NextPageToken) == 0 {
			break
		}
	}
	if l.found > 0 {
		l.server.log.Info("activities were found that a proxy has paused since they could not be opened; they go on once they can be", "namespace", l.namespace, "activities", l.found)
	}
	return lookEvery
}

// failed says why a look ended early, and when to look again.
func (l *look) failed(err error) (again time.Duration) {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.Unimplemented:
		l.server.log.Debug("the server cannot be asked for paused activities", "namespace", l.namespace, "error", err)
		return lookSeldom
	case codes.PermissionDenied, codes.Unauthenticated:
		l.server.log.Warn("activities that a proxy has paused before it was restarted cannot be found with the credentials of the namespace's workers: "+
			"let them list and describe workflows, or unpause by hand what temporal-seal has paused", "namespace", l.namespace, "error", err)
	default:
		l.server.log.Debug("the search for paused activities did not end", "namespace", l.namespace, "error", err)
	}
	return lookEvery
}

func (l *look) ask(ctx context.Context, method string, request, reply proto.Message) error {
	if err := l.limit.Wait(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return l.server.fetch(ctx, l.route, method, request, reply)
}

// workflow has the proxy look after the activities of one run that a proxy has paused.
func (l *look) workflow(ctx context.Context, w *commonpb.WorkflowExecution) error {
	d := new(workflowservice.DescribeWorkflowExecutionResponse)
	if err := l.ask(ctx, "DescribeWorkflowExecution", &workflowservice.DescribeWorkflowExecutionRequest{Namespace: l.namespace, Execution: w}, d); err != nil {
		return err
	}
	ours := map[string]*workflowpb.PendingActivityInfo{}
	for _, a := range d.GetPendingActivities() {
		if pausedByUs(a) && !l.server.aside.has(activityKey{l.namespace, w.GetWorkflowId(), w.GetRunId(), a.GetActivityId()}) {
			ours[a.GetActivityId()] = a
		}
	}
	if len(ours) == 0 {
		return nil
	}
	return l.scheduled(ctx, w, func(e *historypb.ActivityTaskScheduledEventAttributes) error {
		a := ours[e.GetActivityId()]
		if a == nil {
			return nil
		}
		return l.lookAfter(w, d.GetWorkflowExecutionInfo().GetType(), a, e)
	})
}

// pausedByUs tells if an activity was paused by a proxy.
func pausedByUs(a *workflowpb.PendingActivityInfo) bool {
	by := a.GetPauseInfo().GetManual()
	return a.GetPaused() && by.GetIdentity() == standInIdentity && strings.HasPrefix(by.GetReason(), from)
}

// scheduled reads a history and hands over how each activity was scheduled: that holds its input.
func (l *look) scheduled(ctx context.Context, w *commonpb.WorkflowExecution, each func(*historypb.ActivityTaskScheduledEventAttributes) error) error {
	q := &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: l.namespace, Execution: w, MaximumPageSize: 1000}
	for {
		page := new(workflowservice.GetWorkflowExecutionHistoryResponse)
		if err := l.ask(ctx, "GetWorkflowExecutionHistory", q, page); err != nil {
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

// lookAfter puts a task together from what the server tells, to try if it opens.
func (l *look) lookAfter(w *commonpb.WorkflowExecution, kind *commonpb.WorkflowType, a *workflowpb.PendingActivityInfo, e *historypb.ActivityTaskScheduledEventAttributes) error {
	request, err := proto.Marshal(&workflowservice.PollActivityTaskQueueRequest{Namespace: l.namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: e.GetTaskQueue().GetName()}})
	if err != nil {
		return err
	}
	sample, err := proto.Marshal(&workflowservice.PollActivityTaskQueueResponse{WorkflowNamespace: l.namespace, WorkflowExecution: w, WorkflowType: kind,
		ActivityId: e.GetActivityId(), ActivityType: e.GetActivityType(), Header: e.GetHeader(), Input: e.GetInput(), HeartbeatDetails: a.GetHeartbeatDetails()})
	if err != nil {
		return err
	}
	method := l.server.methods[workflowservice.WorkflowService_PollActivityTaskQueue_FullMethodName].rewrite
	key := activityKey{l.namespace, w.GetWorkflowId(), w.GetRunId(), e.GetActivityId()}
	if l.server.aside.add(l.server, &paused{key: key, route: l.route, md: l.md, method: method, caller: l.caller, request: request, sample: sample, found: true}) {
		l.found++
	}
	return nil
}
