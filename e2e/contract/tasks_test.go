package contract

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	protocolpb "go.temporal.io/api/protocol/v1"
	querypb "go.temporal.io/api/query/v1"
	updatepb "go.temporal.io/api/update/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
)

// strangers gives a payload that never opens in the namespace "tasks": it was sealed in another one.
func strangers(t *testing.T, r *rig) *commonpb.Payload {
	t.Helper()
	return r.seal(t, "strangers", text("CANARY"))[0]
}

// names are the methods of the requests that reached the frontend, in their order.
func (e exchange) names() string {
	var names []string
	for _, q := range e.requests() {
		names = append(names, q.Name())
	}
	return strings.Join(names, " ")
}

func (e exchange) wantNames(t *testing.T, want string) {
	t.Helper()
	if got := e.names(); got != want {
		t.Errorf("the frontend received %q, want %q", got, want)
	}
}

func activityTask(token string, input ...*commonpb.Payload) *workflowservice.PollActivityTaskQueueResponse {
	return &workflowservice.PollActivityTaskQueueResponse{
		TaskToken:         []byte(token),
		WorkflowNamespace: "tasks",
		WorkflowExecution: execution("w"),
		ActivityId:        "a1",
		ActivityType:      &commonpb.ActivityType{Name: "A"},
		Input:             list(input...),
		Attempt:           1,
	}
}

func (r *rig) pollActivity(t *testing.T, namespace string, answers ...answer) exchange {
	t.Helper()
	return r.send(t, "PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: namespace}, answers...)
}

func (r *rig) pollWorkflow(t *testing.T, namespace string, answers ...answer) exchange {
	t.Helper()
	return r.send(t, "PollWorkflowTaskQueue", &workflowservice.PollWorkflowTaskQueueRequest{Namespace: namespace}, answers...)
}

// empty checks that a poll was answered without a task.
func (e exchange) empty(t *testing.T) {
	t.Helper()
	e.want(t, "OK")
	p := new(workflowservice.PollWorkflowTaskQueueResponse) // the token is the first field of every task
	if proto.Unmarshal(e.Body, p) == nil && len(p.TaskToken) > 0 || bytes.Contains(e.Body, []byte("sealed")) {
		t.Errorf("the worker was handed a task: %q", e.Body)
	}
}

func TestActivityThatNeverOpensIsPausedAndFailed(t *testing.T) {
	t.Parallel()
	r := plain(t)
	e := r.pollActivity(t, "tasks", reply("PollActivityTaskQueue", activityTask("activity-1", strangers(t, r))))
	e.empty(t)
	e.wantNames(t, "PollActivityTaskQueue PauseActivity RespondActivityTaskFailed")
	p := forwardedAs(t, e, "PauseActivity", new(workflowservice.PauseActivityRequest))
	if p.Namespace != "tasks" || p.GetId() != "a1" || !proto.Equal(p.Execution, execution("w")) || p.Reason == "" {
		t.Errorf("the activity was paused by %v", p)
	}
	f := forwardedAs(t, e, "RespondActivityTaskFailed", new(workflowservice.RespondActivityTaskFailedRequest))
	if string(f.TaskToken) != "activity-1" || f.Namespace != "tasks" ||
		!strings.Contains(f.Failure.GetMessage(), "temporal-seal") {
		t.Errorf("the task was failed by %v", f)
	}
	// Where it cannot be paused, the next attempt is put off.
	e = r.pollActivity(
		t,
		"tasks",
		reply("PollActivityTaskQueue", activityTask("activity-2", strangers(t, r))),
		failing("PauseActivity", 12, "unknown method"),
	)
	e.empty(t)
	f = forwardedAs(t, e, "RespondActivityTaskFailed", new(workflowservice.RespondActivityTaskFailedRequest))
	if f.Failure.GetApplicationFailureInfo().GetNextRetryDelay().AsDuration() < 5e9 ||
		f.Failure.GetApplicationFailureInfo().GetNonRetryable() {
		t.Errorf("without a pause the task was failed by %v", f)
	}
	standalone := activityTask("activity-3", strangers(t, r))
	standalone.WorkflowExecution = nil
	e = r.pollActivity(t, "tasks", reply("PollActivityTaskQueue", standalone))
	e.empty(t)
	e.wantNames(t, "PollActivityTaskQueue RespondActivityTaskFailed")
}

func TestWorkflowTaskThatNeverOpensFailsOnce(t *testing.T) {
	t.Parallel()
	r := plain(t)
	task := &workflowservice.PollWorkflowTaskQueueResponse{
		TaskToken:         []byte("workflow-1"),
		WorkflowExecution: execution("w"),
		Attempt:           1,
		History:           inputHistory(strangers(t, r)),
	}
	e := r.pollWorkflow(t, "tasks", reply("PollWorkflowTaskQueue", task))
	e.empty(t)
	e.wantNames(t, "PollWorkflowTaskQueue RespondWorkflowTaskFailed")
	f := forwardedAs(t, e, "RespondWorkflowTaskFailed", new(workflowservice.RespondWorkflowTaskFailedRequest))
	if string(f.TaskToken) != "workflow-1" ||
		f.Namespace != "tasks" ||
		!strings.Contains(f.Failure.GetMessage(), "temporal-seal") {
		t.Errorf("the task was failed by %v", f)
	}
	// The server hands a failed task out again at once, so later attempts are left to their timeout.
	task.Attempt, task.TaskToken = 2, []byte("workflow-2")
	e = r.pollWorkflow(t, "tasks", reply("PollWorkflowTaskQueue", task))
	e.empty(t)
	e.wantNames(t, "PollWorkflowTaskQueue")
}

func TestQueryThatNeverOpensIsAnswered(t *testing.T) {
	t.Parallel()
	r := plain(t)
	e := r.pollWorkflow(
		t,
		"tasks",
		reply(
			"PollWorkflowTaskQueue",
			&workflowservice.PollWorkflowTaskQueueResponse{TaskToken: []byte("query-1"), WorkflowExecution: execution("w"),
				Query: &querypb.WorkflowQuery{QueryType: "q", QueryArgs: list(strangers(t, r))}},
		),
	)
	e.empty(t)
	e.wantNames(t, "PollWorkflowTaskQueue RespondQueryTaskCompleted")
	q := forwardedAs(t, e, "RespondQueryTaskCompleted", new(workflowservice.RespondQueryTaskCompletedRequest))
	if string(q.TaskToken) != "query-1" ||
		q.CompletedType != enumspb.QUERY_RESULT_TYPE_FAILED ||
		q.ErrorMessage == "" {
		t.Errorf("the query was answered by %v", q)
	}
}

func TestNexusTaskThatNeverOpensIsAnswered(t *testing.T) {
	t.Parallel()
	r := plain(t)
	e := r.send(
		t,
		"PollNexusTaskQueue",
		&workflowservice.PollNexusTaskQueueRequest{Namespace: "tasks"},
		reply(
			"PollNexusTaskQueue",
			&workflowservice.PollNexusTaskQueueResponse{TaskToken: []byte("nexus-1"), Request: &nexuspb.Request{
				Variant: &nexuspb.Request_StartOperation{
					StartOperation: &nexuspb.StartOperationRequest{Service: "s", Operation: "o", Payload: strangers(t, r)},
				}}},
		),
	)
	e.empty(t)
	e.wantNames(t, "PollNexusTaskQueue RespondNexusTaskFailed")
	q := forwardedAs(t, e, "RespondNexusTaskFailed", new(workflowservice.RespondNexusTaskFailedRequest))
	if string(q.TaskToken) != "nexus-1" ||
		q.GetError().GetRetryBehavior() != enumspb.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE {
		t.Errorf("the task was answered by %v", q)
	}
}

// An update or a query that does not open is taken out of its workflow task alone.
func TestBadUpdatesAndQueriesAreTakenOut(t *testing.T) {
	t.Parallel()
	r := plain(t)
	good, bad := r.seal(t, "tasks", text("CANARY"))[0], strangers(t, r)
	update := func(id string, p *commonpb.Payload) *protocolpb.Message {
		return &protocolpb.Message{Id: id, Body: packed(t, &updatepb.Request{Input: &updatepb.Input{Name: "u", Args: list(p)}})}
	}
	e := r.pollWorkflow(
		t,
		"tasks",
		reply(
			"PollWorkflowTaskQueue",
			&workflowservice.PollWorkflowTaskQueueResponse{
				TaskToken:         []byte("mixed-1"),
				WorkflowExecution: execution("w"),
				Attempt:           1,
				History:           inputHistory(good),
				Messages:          []*protocolpb.Message{update("bad", bad), update("good", good)},
				Queries: map[string]*querypb.WorkflowQuery{
					"bad":  {QueryType: "q", QueryArgs: list(bad)},
					"good": {QueryType: "q", QueryArgs: list(good)},
				},
			},
		),
	)
	got := answered(t, e, new(workflowservice.PollWorkflowTaskQueueResponse))
	equal(t, "the history", got.History, inputHistory(text("CANARY")))
	if len(got.Messages) != 1 || got.Messages[0].Id != "good" || len(got.Queries) != 1 || got.Queries["good"] == nil {
		t.Errorf("the worker was handed %v", got)
	}
	e.wantNames(t, "PollWorkflowTaskQueue")
}

// Tasks that come in the answer to another call are taken out of it; the answer arrives.
func TestReturnedTasksThatNeverOpen(t *testing.T) {
	t.Parallel()
	r := plain(t)
	good, bad := r.seal(t, "tasks", text("CANARY"))[0], strangers(t, r)
	e := r.send(
		t,
		"RespondWorkflowTaskCompleted",
		&workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "tasks", TaskToken: []byte("x")},
		reply("RespondWorkflowTaskCompleted", &workflowservice.RespondWorkflowTaskCompletedResponse{ResetHistoryEventId: 7,
			WorkflowTask: &workflowservice.PollWorkflowTaskQueueResponse{
				TaskToken:         []byte("returned-1"),
				WorkflowExecution: execution("w"),
				Attempt:           1,
				History:           inputHistory(bad),
			},
			ActivityTasks: []*workflowservice.PollActivityTaskQueueResponse{
				activityTask("returned-2", bad),
				activityTask("returned-3", good),
			}}),
	)
	got := answered(t, e, new(workflowservice.RespondWorkflowTaskCompletedResponse))
	if got.ResetHistoryEventId != 7 || len(got.WorkflowTask.GetTaskToken()) > 0 || len(got.ActivityTasks) != 1 {
		t.Fatalf("the worker got %v", got)
	}
	equal(t, "the task that opens", got.ActivityTasks[0], activityTask("returned-3", text("CANARY")))
	e.wantNames(t, "RespondWorkflowTaskCompleted RespondWorkflowTaskFailed PauseActivity RespondActivityTaskFailed")

	e = r.send(
		t,
		"StartWorkflowExecution",
		&workflowservice.StartWorkflowExecutionRequest{Namespace: "tasks", WorkflowId: "w", RequestEagerExecution: true},
		reply("StartWorkflowExecution", &workflowservice.StartWorkflowExecutionResponse{RunId: "run", Started: true,
			EagerWorkflowTask: &workflowservice.PollWorkflowTaskQueueResponse{
				TaskToken: []byte("eager-1"),
				Attempt:   1,
				History:   inputHistory(bad),
			}}),
	)
	started := answered(t, e, new(workflowservice.StartWorkflowExecutionResponse))
	if started.RunId != "run" || len(started.EagerWorkflowTask.GetTaskToken()) > 0 {
		t.Errorf("the caller got %v", started)
	}
	e.wantNames(t, "StartWorkflowExecution RespondWorkflowTaskFailed")
}

// A worker gets a value or no task: what a policy keeps, redacts or denies is never handed over.
func TestTasksAreNotHandedOverRedacted(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	for _, key := range []string{"kept", "redacted", "denied"} {
		sealed := startedWith(t, r.startWorkflow(t, "readers", key, "W", text("CANARY")))
		e := r.pollActivity(t, "readers", reply("PollActivityTaskQueue", activityTask("policy-"+key, sealed)))
		e.empty(t)
		e.wantNames(t, "PollActivityTaskQueue PauseActivity RespondActivityTaskFailed")
	}
}

// An answer that the policy denies fails its task, with the reason sealed. The worker receives NotFound.
func TestDeniedAnswersFailTheirTask(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	for _, c := range []struct {
		method string
		answer proto.Message
		failed string
	}{
		{"RespondActivityTaskCompleted", &workflowservice.RespondActivityTaskCompletedRequest{Namespace: "results", TaskToken: []byte("r1"), Result: list(text("CANARY"))}, "RespondActivityTaskFailed"},
		{"RespondActivityTaskCompletedById", &workflowservice.RespondActivityTaskCompletedByIdRequest{Namespace: "results", WorkflowId: "w", ActivityId: "a", Result: list(text("CANARY"))}, "RespondActivityTaskFailedById"},
		{"RespondWorkflowTaskCompleted", &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "results", TaskToken: []byte("r2"), Commands: []*commandpb.Command{
			{CommandType: enumspb.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION, Attributes: &commandpb.Command_CompleteWorkflowExecutionCommandAttributes{
				CompleteWorkflowExecutionCommandAttributes: &commandpb.CompleteWorkflowExecutionCommandAttributes{Result: list(text("CANARY"))}}}}}, "RespondWorkflowTaskFailed"},
		{"RespondQueryTaskCompleted", &workflowservice.RespondQueryTaskCompletedRequest{Namespace: "results", TaskToken: []byte("r3"), QueryResult: list(text("CANARY"))}, "RespondQueryTaskCompleted"},
		{"RespondNexusTaskCompleted", &workflowservice.RespondNexusTaskCompletedRequest{Namespace: "results", TaskToken: []byte("r4"), Response: &nexuspb.Response{
			Variant: &nexuspb.Response_StartOperation{StartOperation: &nexuspb.StartOperationResponse{Variant: &nexuspb.StartOperationResponse_SyncSuccess{
				SyncSuccess: &nexuspb.StartOperationResponse_Sync{Payload: text("CANARY")}}}}}}, "RespondNexusTaskFailed"},
	} {
		e := r.send(t, c.method, c.answer)
		if e.Code() != "NotFound" {
			t.Errorf("%s: the worker got %s (%s), want NotFound", c.method, e.Code(), e.Status.GetMessage())
		}
		e.wantNames(t, c.failed)
		for _, q := range e.requests() {
			if bytes.Contains(q.Body, []byte("CANARY")) || bytes.Contains(q.Body, []byte("RULE-REASON")) {
				t.Errorf("%s: %s holds text in clear: %q", c.method, q.Name(), q.Body)
			}
		}
	}
	e := r.send(
		t,
		"RespondActivityTaskCompleted",
		&workflowservice.RespondActivityTaskCompletedRequest{
			Namespace: "results",
			TaskToken: []byte("r5"),
			Result:    list(text("CANARY")),
		},
	)
	f := forwardedAs(t, e, "RespondActivityTaskFailed", new(workflowservice.RespondActivityTaskFailedRequest))
	if info := f.Failure.GetApplicationFailureInfo(); string(f.TaskToken) != "r5" || !info.GetNonRetryable() ||
		info.GetType() != "PolicyDenied" {
		t.Errorf("the task was failed by %v", f)
	}
}

// A denied answer that names no task fails none: nothing is sent that the server could take for an answer to a task.
func TestDeniedAnswersWithoutATaskFailNone(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	complete := &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
		Attributes: &commandpb.Command_CompleteWorkflowExecutionCommandAttributes{
			CompleteWorkflowExecutionCommandAttributes: &commandpb.CompleteWorkflowExecutionCommandAttributes{Result: list(text("CANARY"))}}}
	for method, answer := range map[string]proto.Message{
		"RespondWorkflowTaskCompleted":     &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "results", Commands: []*commandpb.Command{complete}},
		"RespondActivityTaskCompleted":     &workflowservice.RespondActivityTaskCompletedRequest{Namespace: "results", Result: list(text("CANARY"))},
		"RespondActivityTaskCompletedById": &workflowservice.RespondActivityTaskCompletedByIdRequest{Namespace: "results", WorkflowId: "w", Result: list(text("CANARY"))},
		"RespondQueryTaskCompleted":        &workflowservice.RespondQueryTaskCompletedRequest{Namespace: "results", QueryResult: list(text("CANARY"))},
		"RespondNexusTaskCompleted": &workflowservice.RespondNexusTaskCompletedRequest{Namespace: "results", Response: &nexuspb.Response{
			Variant: &nexuspb.Response_StartOperation{StartOperation: &nexuspb.StartOperationResponse{
				Variant: &nexuspb.StartOperationResponse_SyncSuccess{
					SyncSuccess: &nexuspb.StartOperationResponse_Sync{Payload: text("CANARY")}}}}}},
	} {
		r.send(t, method, answer).refused(t, "PermissionDenied")
	}
}

// A task's answer is for the namespace that the task is of.
func TestTaskTokensOfAnotherNamespaceAreRefused(t *testing.T) {
	t.Parallel()
	r := plain(t)
	answered(
		t,
		r.pollActivity(
			t,
			"tasks",
			reply("PollActivityTaskQueue", activityTask("token-of-tasks", r.seal(t, "tasks", text("CANARY"))[0])),
		),
		new(workflowservice.PollActivityTaskQueueResponse),
	)
	complete := func(namespace string) exchange {
		return r.send(
			t,
			"RespondActivityTaskCompleted",
			&workflowservice.RespondActivityTaskCompletedRequest{
				Namespace: namespace,
				TaskToken: []byte("token-of-tasks"),
				Result:    list(text("CANARY")),
			},
		)
	}
	complete("strangers").refused(t, "PermissionDenied")
	for _, namespace := range []string{"tasks", ""} { // left empty, it is that of the task
		q := forwardedAs(
			t,
			complete(namespace),
			"RespondActivityTaskCompleted",
			new(workflowservice.RespondActivityTaskCompletedRequest),
		)
		r.isSealed(t, fmt.Sprintf("a result in namespace %q", namespace), "tasks", q.Result.Payloads[0], text("CANARY"))
	}
}

// Nexus failures are no payloads: their texts and details are sealed as the server will have them.
func TestNexusFailuresAreSealed(t *testing.T) {
	t.Parallel()
	r := plain(t)
	for _, f := range []*nexuspb.Failure{
		{Message: "CANARY"}, {Message: "m", Details: []byte(`{"x":"CANARY"}`)}, {Message: "m", Metadata: map[string]string{"k": "CANARY"}},
		{Message: "CANARY", Metadata: map[string]string{"type": "temporal.api.failure.v1.Failure"}, Details: []byte(`{"stackTrace":"CANARY","cause":{"message":"CANARY"}}`)},
		{Message: "m", Cause: &nexuspb.Failure{Message: "CANARY"}},
	} {
		for method, q := range map[string]proto.Message{
			"RespondNexusTaskFailed": &workflowservice.RespondNexusTaskFailedRequest{Namespace: "tasks", TaskToken: []byte("n"), Error: &nexuspb.HandlerError{ErrorType: "INTERNAL", Failure: f}},
			"RespondNexusTaskCompleted": &workflowservice.RespondNexusTaskCompletedRequest{Namespace: "tasks", TaskToken: []byte("n"), Response: &nexuspb.Response{
				Variant: &nexuspb.Response_StartOperation{StartOperation: &nexuspb.StartOperationResponse{Variant: &nexuspb.StartOperationResponse_OperationError{
					OperationError: &nexuspb.UnsuccessfulOperationError{OperationState: "failed", Failure: f}}}}}},
		} {
			if e := r.send(t, method, q); bytes.Contains(e.forwarded(t, method).Body, []byte("CANARY")) {
				t.Errorf("%s: a Nexus failure was forwarded in clear: %q", method, e.forwarded(t, method).Body)
			}
		}
	}
}

// Summaries of standalone activities have 400 bytes at the server.
func TestSummariesKeepToTheirLimit(t *testing.T) {
	t.Parallel()
	r := plain(t)
	for _, clear := range []string{"CANARY", strings.Repeat("CANARY", 40), strings.Repeat("CANARY ", 50)} {
		q := put(
			(&workflowservice.StartActivityExecutionRequest{}).ProtoReflect().Descriptor(),
			siteNamed(t, &workflowservice.StartActivityExecutionRequest{}, "user_metadata.summary"),
			func() proto.Message { return text(clear) },
		)
		e := r.send(t, "StartActivityExecution", q)
		got := forwardedAs(
			t,
			e,
			"StartActivityExecution",
			new(workflowservice.StartActivityExecutionRequest),
		).UserMetadata.Summary
		if n := proto.Size(got); n > 400 || bytes.Contains(blackbox.Marshal(got), []byte("CANARY")) {
			t.Errorf("a summary of %d bytes was forwarded with %d: %v", len(clear), n, got)
		}
	}
}

// What stands in an error answer's details is opened, and nothing takes the place of the real error.
func TestStatusDetailsAreOpened(t *testing.T) {
	t.Parallel()
	r := plain(t)
	e := r.send(
		t,
		"RespondActivityTaskFailed",
		&workflowservice.RespondActivityTaskFailedRequest{Namespace: "tasks", TaskToken: []byte("s"), Failure: spoken()},
	)
	sealed := forwardedAs(t, e, "RespondActivityTaskFailed", new(workflowservice.RespondActivityTaskFailedRequest)).Failure
	for name, c := range statusDetails(t, sealed) {
		want := statusDetails(t, spoken())[name]
		e := r.send(t, c.method, c.request, answer{c.method, blackbox.Answer{Status: c.status}})
		e.want(t, "InvalidArgument")
		equal(t, name, e.Status, want.status)
	}
	bad := proto.CloneOf(sealed)
	bad.EncodedAttributes.Data[len(bad.EncodedAttributes.Data)-1] ^= 1
	c := statusDetails(t, bad)["query"]
	e = r.send(t, c.method, c.request, answer{c.method, blackbox.Answer{Status: c.status}})
	equal(t, "an error whose details do not open", e.Status, c.status)
}
