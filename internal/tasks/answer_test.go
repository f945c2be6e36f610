package tasks

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// recorder is a frontend that keeps the answers in workers' places.
type recorder struct {
	workflowservice.UnimplementedWorkflowServiceServer
	pausing  codes.Code // of the answer to PauseActivity
	nexus    []*workflowservice.RespondNexusTaskFailedRequest
	activity []*workflowservice.RespondActivityTaskFailedRequest
	byID     []*workflowservice.RespondActivityTaskFailedByIdRequest
	workflow []*workflowservice.RespondWorkflowTaskFailedRequest
	query    []*workflowservice.RespondQueryTaskCompletedRequest
	reset    []*workflowservice.ResetStickyTaskQueueRequest
	unpaused []*workflowservice.UnpauseActivityRequest
}

func (r *recorder) RespondQueryTaskCompleted(_ context.Context, q *workflowservice.RespondQueryTaskCompletedRequest) (*workflowservice.RespondQueryTaskCompletedResponse, error) {
	r.query = append(r.query, q)
	return new(workflowservice.RespondQueryTaskCompletedResponse), nil
}

func (r *recorder) PauseActivity(context.Context, *workflowservice.PauseActivityRequest) (*workflowservice.PauseActivityResponse, error) {
	return &workflowservice.PauseActivityResponse{}, status.Error(r.pausing, "as the test requires")
}

func (r *recorder) UnpauseActivity(_ context.Context, q *workflowservice.UnpauseActivityRequest) (*workflowservice.UnpauseActivityResponse, error) {
	r.unpaused = append(r.unpaused, q)
	return &workflowservice.UnpauseActivityResponse{}, nil
}

func (r *recorder) RespondNexusTaskFailed(_ context.Context, q *workflowservice.RespondNexusTaskFailedRequest) (*workflowservice.RespondNexusTaskFailedResponse, error) {
	r.nexus = append(r.nexus, q)
	return &workflowservice.RespondNexusTaskFailedResponse{}, nil
}

func (r *recorder) RespondActivityTaskFailed(_ context.Context, q *workflowservice.RespondActivityTaskFailedRequest) (*workflowservice.RespondActivityTaskFailedResponse, error) {
	r.activity = append(r.activity, q)
	return &workflowservice.RespondActivityTaskFailedResponse{}, nil
}

func (r *recorder) RespondActivityTaskFailedById(_ context.Context, q *workflowservice.RespondActivityTaskFailedByIdRequest) (*workflowservice.RespondActivityTaskFailedByIdResponse, error) {
	r.byID = append(r.byID, q)
	return &workflowservice.RespondActivityTaskFailedByIdResponse{}, nil
}

func (r *recorder) ResetStickyTaskQueue(_ context.Context, q *workflowservice.ResetStickyTaskQueueRequest) (*workflowservice.ResetStickyTaskQueueResponse, error) {
	if len(r.workflow) > 0 {
		return nil, status.Error(codes.FailedPrecondition, "the task has failed already")
	}
	r.reset = append(r.reset, q)
	return &workflowservice.ResetStickyTaskQueueResponse{}, nil
}

func (r *recorder) RespondWorkflowTaskFailed(_ context.Context, q *workflowservice.RespondWorkflowTaskFailedRequest) (*workflowservice.RespondWorkflowTaskFailedResponse, error) {
	r.workflow = append(r.workflow, q)
	return &workflowservice.RespondWorkflowTaskFailedResponse{}, nil
}

// damaged is a payload with our marker that nobody can open.
func damaged() *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/sealed.v1")}, Data: []byte("damaged")}
}

// open returns what a worker gets of a task that does not open.
func open[A proto.Message](t *testing.T, ctx context.Context, g *guarded, call Call, task, answer A) A {
	t.Helper()
	sealed, err := proto.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	_, cause := call.Session.Response(ctx, sealed)
	if cause == nil && ctx.Err() == nil {
		t.Fatal("the task opens")
	}
	plain, err := g.Open(ctx, call, Unopened{Sealed: sealed, Arrived: time.Now(), Cause: cause})
	if err != nil {
		t.Fatal(err)
	}
	return read(answer, plain)
}

// TestNexusTaskThatDoesNotOpen: its answer is final, in the form that the server understands.
func TestNexusTaskThatDoesNotOpen(t *testing.T) {
	t.Parallel()
	f := new(recorder)
	g := guard(t, f, opensAll, keyFile(t), new(atomic.Bool))
	for _, newer := range []bool{false, true} {
		call := g.call(t, "PollNexusTaskQueue", &workflowservice.PollNexusTaskQueueRequest{Namespace: "clinic", PollerGroupId: "g"})
		got := open(t, t.Context(), g, call, &workflowservice.PollNexusTaskQueueResponse{TaskToken: []byte("token"), PollerGroupId: "g",
			Request: &nexuspb.Request{Header: map[string]string{"request-timeout": "10s"},
				Capabilities: &nexuspb.Request_Capabilities{TemporalFailureResponses: newer},
				Variant:      &nexuspb.Request_StartOperation{StartOperation: &nexuspb.StartOperationRequest{Payload: damaged()}}}},
			new(workflowservice.PollNexusTaskQueueResponse))
		if want := (&workflowservice.PollNexusTaskQueueResponse{PollerGroupId: "g"}); !proto.Equal(got, want) {
			t.Errorf("the worker got %v", got)
		}
	}
	if len(f.nexus) != 2 {
		t.Fatalf("answered %v", f.nexus)
	}
	const final = enumspb.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE
	if e := f.nexus[0].GetError(); e.GetErrorType() != "INTERNAL" || e.GetRetryBehavior() != final || !strings.Contains(e.GetFailure().GetMessage(), "not given this task") {
		t.Errorf("an older server got %v", f.nexus[0])
	}
	if info := f.nexus[1].GetFailure().GetNexusHandlerFailureInfo(); info.GetType() != "INTERNAL" || info.GetRetryBehavior() != final || f.nexus[1].GetError() != nil {
		t.Errorf("a newer server got %v", f.nexus[1])
	}
}

// TestPausing: what follows from the server's answer to PauseActivity.
func TestPausing(t *testing.T) {
	t.Parallel()
	task := &workflowservice.PollActivityTaskQueueResponse{TaskToken: []byte("token"), ActivityId: "a",
		WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: "w", RunId: "r"}, Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{damaged()}}}
	standalone := proto.CloneOf(task)
	standalone.WorkflowExecution = nil
	for name, c := range map[string]struct {
		task    *workflowservice.PollActivityTaskQueueResponse
		pausing codes.Code
		left    bool // the worker hangs up
		failed  int
		delay   time.Duration
		watched bool
		goesOn  int // times
	}{
		"paused":                      {task: task, failed: 1, watched: true},
		"paused already":              {task: task, pausing: codes.FailedPrecondition, failed: 1, watched: true},
		"over":                        {task: task, pausing: codes.NotFound},
		"a server without pauses":     {task: task, pausing: codes.Unimplemented, failed: 1, delay: retryTask},
		"an activity of no workflow":  {task: standalone, failed: 1, delay: retryTask},
		"a worker that hung up":       {task: task, left: true, failed: 1, goesOn: 1},
		"no pause and nobody to wait": {task: task, pausing: codes.Unavailable, left: true, failed: 1, delay: retryTask},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &recorder{pausing: c.pausing}
			g := guard(t, f, opensAll, keyFile(t), new(atomic.Bool))
			ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(t.Context(), metadata.MD{}))
			defer cancel()
			if c.left {
				cancel()
			}
			call := g.call(t, "PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"})
			if got := open(t, ctx, g, call, c.task, new(workflowservice.PollActivityTaskQueueResponse)); !proto.Equal(got, new(workflowservice.PollActivityTaskQueueResponse)) {
				t.Errorf("the worker got %v", got)
			}
			if len(f.activity) != c.failed || len(f.unpaused) != c.goesOn {
				t.Fatalf("failed %v, let go on %v", f.activity, f.unpaused)
			}
			if c.failed > 0 {
				if got := f.activity[0].GetFailure().GetApplicationFailureInfo(); got.GetNextRetryDelay().AsDuration() != c.delay || got.GetNonRetryable() {
					t.Errorf("failed with %v", got)
				}
			}
			if got := g.paused.has(activityKey{"clinic", "w", "r", "a"}); got != c.watched {
				t.Errorf("watched: %v", got)
			}
		})
	}
}

// TestRefusedAnswers: each kind of answer that is denied, or too large once it is sealed, fails its task.
func TestRefusedAnswers(t *testing.T) {
	t.Parallel()
	denied := &rewrite.Error{Kind: rewrite.KindDenied, RPC: "X", Err: errCut}
	large := &rewrite.Error{Kind: rewrite.KindTooLarge, RPC: "X", Err: errCut}
	token := []byte("token")
	for name, c := range map[string]struct {
		request proto.Message
		cause   error
		want    string // the method that is called in the worker's place
		over    bool
	}{
		"an activity's result":     {&workflowservice.RespondActivityTaskCompletedRequest{TaskToken: token, Identity: "w"}, denied, "RespondActivityTaskFailed", true},
		"an activity's failure":    {&workflowservice.RespondActivityTaskFailedRequest{TaskToken: token, Identity: "w"}, large, "RespondActivityTaskFailed", true},
		"a result by id":           {&workflowservice.RespondActivityTaskCompletedByIdRequest{ActivityId: "a", Identity: "w"}, denied, "RespondActivityTaskFailedById", true},
		"a failure by id":          {&workflowservice.RespondActivityTaskFailedByIdRequest{ActivityId: "a", Identity: "w"}, large, "RespondActivityTaskFailedById", true},
		"a workflow task":          {&workflowservice.RespondWorkflowTaskCompletedRequest{TaskToken: token, Identity: "w"}, large, "RespondWorkflowTaskFailed", true},
		"its second attempt":       {&workflowservice.RespondWorkflowTaskCompletedRequest{TaskToken: []byte{5 << 3, 2}}, large, "", true},
		"a Nexus operation":        {&workflowservice.RespondNexusTaskCompletedRequest{TaskToken: token}, denied, "RespondNexusTaskFailed", true},
		"a result without a token": {&workflowservice.RespondActivityTaskCompletedRequest{}, denied, "", false},
		"no task":                  {&workflowservice.StartWorkflowExecutionRequest{}, denied, "", false},
		"a cause that may pass":    {&workflowservice.RespondActivityTaskCompletedRequest{TaskToken: token}, &rewrite.Error{Kind: rewrite.KindSealing, RPC: "X", Err: errCut}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := new(recorder)
			g := guard(t, f, opensAll, keyFile(t), new(atomic.Bool))
			m := c.request.ProtoReflect()
			m.Set(m.Descriptor().Fields().ByName("namespace"), protoreflect.ValueOfString("clinic"))
			method := strings.TrimSuffix(string(m.Descriptor().Name()), "Request")
			if got := g.FailRefused(t.Context(), g.call(t, method, c.request), c.cause); got != c.over {
				t.Errorf("the task is over: %v", got)
			}
			got := ""
			if len(g.answered) > 0 {
				got = <-g.answered
			}
			if got != c.want {
				t.Fatalf("answered by %q", got)
			}
			kind := "PolicyDenied"
			if c.cause == error(large) {
				kind = "PayloadsTooLarge"
			}
			for _, q := range f.activity {
				if q.GetIdentity() != "w" || q.GetFailure().GetApplicationFailureInfo().GetType() != kind {
					t.Errorf("answered with %v", q)
				}
			}
			for _, q := range f.byID {
				if q.GetActivityId() != "a" || q.GetIdentity() != "w" || q.GetFailure().GetApplicationFailureInfo().GetType() != kind {
					t.Errorf("answered with %v", q)
				}
			}
			for _, q := range f.workflow {
				if q.GetIdentity() != "w" || q.GetCause() != enumspb.WORKFLOW_TASK_FAILED_CAUSE_PAYLOADS_TOO_LARGE {
					t.Errorf("answered with %v", q)
				}
			}
			for _, q := range f.nexus {
				if q.GetError().GetErrorType() != "INTERNAL" || q.GetError().GetRetryBehavior() != enumspb.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE {
					t.Errorf("answered with %v", q)
				}
			}
		})
	}
}

// TestReasonThatCannotBeSealed: without a key the task still fails, but the server does not learn why.
func TestReasonThatCannotBeSealed(t *testing.T) {
	t.Parallel()
	off := new(atomic.Bool)
	off.Store(true)
	f := new(recorder)
	g := guard(t, f, opensAll, keyFile(t), off)
	call := g.call(t, "RespondActivityTaskCompleted", &workflowservice.RespondActivityTaskCompletedRequest{Namespace: "clinic", TaskToken: []byte("token")})
	out, cancel := context.WithTimeout(t.Context(), time.Second) // in which sealing is tried
	defer cancel()
	if !g.FailRefused(out, call, &rewrite.Error{Kind: rewrite.KindDenied, RPC: "X", Err: errCut}) || len(f.activity) != 1 {
		t.Fatalf("answered %v", f.activity)
	}
	if text := f.activity[0].GetFailure().GetMessage(); strings.Contains(text, errCut.Error()) || !strings.Contains(text, "the reason is in the log of the proxy") {
		t.Errorf("the server reads %q", text)
	}
}

// scarce is a Memory that refuses a number of times.
type scarce struct {
	refusals int
	tooMuch  bool
}

func (s *scarce) Charge(n int64) error {
	if s.tooMuch && n > 0 {
		return rewrite.ErrTooMuch
	}
	if s.refusals > 0 {
		s.refusals--
		return errors.New("others use it")
	}
	return nil
}

// TestATaskWaitsForMemory: a task that takes memory which others use is held until it is free, and is neither failed nor paused.
func TestATaskWaitsForMemory(t *testing.T) {
	t.Parallel()
	f := new(recorder)
	file := keyFile(t)
	g := guard(t, f, opensAll, file, new(atomic.Bool))
	call := g.call(t, "PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"})
	call.Session.CountIn(&scarce{refusals: 3})
	input := manySealed(t, file)
	task := &workflowservice.PollActivityTaskQueueResponse{TaskToken: []byte("token"), ActivityId: "a", Input: input,
		WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: "w", RunId: "r"}}
	got := open(t, t.Context(), g, call, task, new(workflowservice.PollActivityTaskQueueResponse))
	if of := got.GetInput().GetPayloads(); len(of) != len(input.Payloads) || string(of[0].GetData()) != `"x"` || got.GetActivityId() != "a" {
		t.Errorf("the worker got the task of activity %q with %d payloads", got.GetActivityId(), len(of))
	}
}

// manySealed returns so many sealed payloads that opening them takes memory beside their size.
func manySealed(t *testing.T, file string) *commonpb.Payloads {
	t.Helper()
	return &commonpb.Payloads{Payloads: slices.Repeat(seal(t, file).Payloads, 20_000)}
}

// TestATooLargeTaskFailsForGood: an activity that takes more memory than there is for one would be paused again after each
// retry, so it fails once and says why. Nothing of it is decoded but its head.
func TestATooLargeTaskFailsForGood(t *testing.T) {
	t.Parallel()
	input := &commonpb.Payloads{Payloads: []*commonpb.Payload{damaged()}}
	for range 20_000 {
		input.Payloads = append(input.Payloads, new(commonpb.Payload))
	}
	execution := &commonpb.WorkflowExecution{WorkflowId: "w", RunId: "r"}
	f := new(recorder)
	g := guard(t, f, opensAll, keyFile(t), new(atomic.Bool))
	ctx := metadata.NewOutgoingContext(t.Context(), metadata.MD{})
	call := g.call(t, "PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"})
	call.Session.CountIn(&scarce{tooMuch: true})
	task := &workflowservice.PollActivityTaskQueueResponse{TaskToken: []byte("token"), ActivityId: "a", Input: input, WorkflowExecution: execution}
	if got := open(t, ctx, g, call, task, new(workflowservice.PollActivityTaskQueueResponse)); len(got.GetTaskToken()) > 0 || got.GetInput() != nil {
		t.Errorf("the worker got a task with the token %q", got.GetTaskToken())
	}
	if len(f.activity) != 1 {
		t.Fatalf("failed %d times", len(f.activity))
	}
	info := f.activity[0].GetFailure().GetApplicationFailureInfo()
	if !info.GetNonRetryable() || info.GetType() != tooLargeType || string(f.activity[0].GetTaskToken()) != "token" ||
		!strings.Contains(f.activity[0].GetFailure().GetMessage(), "limits.bytes") {
		t.Errorf("failed with %v", f.activity[0])
	}
	if len(g.answered) != 1 || g.paused.has(activityKey{"clinic", "w", "r", "a"}) {
		t.Errorf("it is paused, or watched")
	}
	events := &historypb.History{Events: []*historypb.HistoryEvent{{Attributes: &historypb.HistoryEvent_WorkflowExecutionSignaledEventAttributes{
		WorkflowExecutionSignaledEventAttributes: &historypb.WorkflowExecutionSignaledEventAttributes{Input: input}}}}}
	call = g.call(t, "PollWorkflowTaskQueue", &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "clinic"})
	call.Session.CountIn(&scarce{tooMuch: true})
	open(t, ctx, g, call, &workflowservice.PollWorkflowTaskQueueResponse{TaskToken: []byte("token"), WorkflowExecution: execution, History: events},
		new(workflowservice.PollWorkflowTaskQueueResponse))
	if len(f.workflow) != 1 || !strings.Contains(f.workflow[0].GetFailure().GetMessage(), "limits.bytes") {
		t.Errorf("workflow tasks failed: %v", f.workflow)
	}
	call = g.call(t, "RespondWorkflowTaskCompleted", &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "clinic"})
	call.Session.CountIn(&scarce{tooMuch: true})
	got := open(t, ctx, g, call, &workflowservice.RespondWorkflowTaskCompletedResponse{ResetHistoryEventId: 7,
		ActivityTasks: []*workflowservice.PollActivityTaskQueueResponse{task}}, new(workflowservice.RespondWorkflowTaskCompletedResponse))
	if got.GetResetHistoryEventId() != 7 || len(got.GetActivityTasks()) > 0 {
		t.Errorf("the answer to a completed task is %v", got)
	}
}

// TestADestroyedInputFailsForGood: nothing brings back a value whose key was destroyed on purpose, so its activity is not paused, and the
// failure says which of both it was.
func TestADestroyedInputFailsForGood(t *testing.T) {
	t.Parallel()
	for kind, want := range map[crypto.Kind]string{crypto.KindErased: erasedType, crypto.KindExpired: expiredType} {
		f := new(recorder)
		g := guard(t, f, opensAll, keyFile(t), new(atomic.Bool))
		o := &opening{tasks: g.Tasks, call: g.call(t, "PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"})}
		task := &workflowservice.PollActivityTaskQueueResponse{TaskToken: []byte("token"), ActivityId: "a",
			WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: "w", RunId: "r"}}
		cause := &rewrite.Error{Kind: rewrite.KindOpening, RPC: "PollActivityTaskQueue", Path: "input", Err: crypto.Errorf(kind, "open", "on 2026-11-29")}
		o.failActivity(metadata.NewOutgoingContext(t.Context(), metadata.MD{}), task, cause)
		if len(f.activity) != 1 {
			t.Fatalf("%v: failed %d times", kind, len(f.activity))
		}
		failure := f.activity[0].GetFailure()
		if info := failure.GetApplicationFailureInfo(); !info.GetNonRetryable() || info.GetType() != want ||
			!strings.Contains(failure.GetMessage(), "terminate the workflow") || g.paused.has(activityKey{"clinic", "w", "r", "a"}) {
			t.Errorf("%v: failed with %v", kind, failure)
		}
	}
}

// TestQueryOfADestroyedValue: who queries a run that needs a destroyed value gets the reason, and no advice to end a run that may have ended.
func TestQueryOfADestroyedValue(t *testing.T) {
	t.Parallel()
	f := new(recorder)
	g := guard(t, f, opensAll, keyFile(t), new(atomic.Bool))
	o := &opening{tasks: g.Tasks, call: g.call(t, "PollWorkflowTaskQueue", &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "clinic"})}
	cause := &rewrite.Error{Kind: rewrite.KindOpening, RPC: "PollWorkflowTaskQueue", Path: "input", Err: crypto.Errorf(crypto.KindErased, "open", "on 2026-11-29")}
	o.failQuery(metadata.NewOutgoingContext(t.Context(), metadata.MD{}), &workflowTask{TaskToken: []byte("token")}, cause)
	if len(f.query) != 1 {
		t.Fatalf("answered %d times", len(f.query))
	}
	if text := f.query[0].GetErrorMessage(); !strings.Contains(text, "on 2026-11-29") || strings.Contains(text, "terminate") || strings.Contains(text, "ask again") {
		t.Errorf("answered with %q", text)
	}
}

// TestHeadsOfRequests: of a refused answer no list is decoded, which may have any number of elements.
func TestHeadsOfRequests(t *testing.T) {
	in := []byte("\x0a\x05token")
	in = append(in, bytes.Repeat([]byte{0x12, 0}, 1000)...) // commands
	q := readHead(new(workflowservice.RespondWorkflowTaskCompletedRequest), in)
	if string(q.GetTaskToken()) != "token" || len(q.GetCommands()) > 0 {
		t.Errorf("token %q and %d commands", q.GetTaskToken(), len(q.GetCommands()))
	}
}

// TestWorkflowTasksFailOnce: the server counts no attempt that fails on a sticky queue, so the queue is reset before the task is failed.
func TestWorkflowTasksFailOnce(t *testing.T) {
	t.Parallel()
	e := &commonpb.WorkflowExecution{WorkflowId: "w", RunId: "r"}
	for name, c := range map[string]struct {
		attempt       int32
		started       int64
		reset, failed int
	}{
		"the first task":   {1, 0, 0, 1},
		"a later one":      {1, 3, 1, 1},
		"a second attempt": {2, 3, 0, 0},
	} {
		f := new(recorder)
		g := guard(t, f, opensAll, keyFile(t), new(atomic.Bool))
		call := g.call(t, "PollWorkflowTaskQueue", &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "clinic"})
		open(t, t.Context(), g, call, &workflowservice.PollWorkflowTaskQueueResponse{TaskToken: []byte("token"), WorkflowExecution: e,
			Attempt: c.attempt, PreviousStartedEventId: c.started, History: &historypb.History{Events: []*historypb.HistoryEvent{{
				Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{
					Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{damaged()}}}}}}}}, new(workflowservice.PollWorkflowTaskQueueResponse))
		if len(f.reset) != c.reset || len(f.workflow) != c.failed || len(f.reset) > 0 && !proto.Equal(f.reset[0].GetExecution(), e) {
			t.Errorf("%s: reset %v, failed %v", name, f.reset, f.workflow)
		}
	}
	// A worker's answer that is refused fails its task the same way; the workflow stands in the token.
	f := new(recorder)
	g := guard(t, f, opensAll, keyFile(t), new(atomic.Bool))
	call := g.call(t, "RespondWorkflowTaskCompleted", &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "clinic", TaskToken: []byte("\x12\x01w\x1a\x01r")})
	if !g.FailRefused(t.Context(), call, &rewrite.Error{Kind: rewrite.KindDenied, RPC: "X", Err: errCut}) || len(f.reset) != 1 ||
		len(f.workflow) != 1 || !proto.Equal(f.reset[0].GetExecution(), e) {
		t.Errorf("a refused answer: reset %v, failed %v", f.reset, f.workflow)
	}
}
