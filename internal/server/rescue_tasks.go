package server

import (
	"context"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	protocolpb "go.temporal.io/api/protocol/v1"
	querypb "go.temporal.io/api/query/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// unopened is the type of the failures that tell of a task that could not be opened.
const unopened = "TaskUnopened"

// workflowTask gives the task, or what opens of it; else what its poller gets in its place. wrap makes the message that
// the task stands in.
func (r *rescue) workflowTask(ctx context.Context, t *workflowservice.PollWorkflowTaskQueueResponse, wrap func(*workflowservice.PollWorkflowTaskQueueResponse) proto.Message) *workflowservice.PollWorkflowTaskQueueResponse {
	timeout := workflowTaskTimeout(t.GetHistory())
	if t.GetQuery() != nil {
		timeout = queryTimeout
	}
	err := r.hold(ctx, wrap(t), timeout)
	if err == nil || r.withoutBadEntries(ctx, t, err, wrap) {
		return t
	}
	if t.GetQuery() != nil {
		r.failQuery(ctx, t, err)
	} else {
		r.failWorkflowTask(ctx, t, err)
	}
	return &workflowservice.PollWorkflowTaskQueueResponse{PollerScalingDecision: r.call.unchanged(ctx, t.PollerScalingDecision), PollerGroupId: t.PollerGroupId,
		PollerGroupInfos: t.PollerGroupInfos, PollerGroupsInfo: t.PollerGroupsInfo}
}

// workflowTaskTimeout is in the event that scheduled the task, the last of its kind.
func workflowTaskTimeout(h *historypb.History) time.Duration {
	events := h.GetEvents()
	for i := len(events) - 1; i >= 0; i-- {
		if a := events[i].GetWorkflowTaskScheduledEventAttributes(); a != nil && a.StartToCloseTimeout != nil {
			return a.StartToCloseTimeout.AsDuration()
		}
	}
	return holdUntold
}

// withoutBadEntries takes the updates and queries that will never open out of a task whose history does. The server
// rejects an update that its task's answer passes over, and hands out a query again.
func (r *rescue) withoutBadEntries(ctx context.Context, t *workflowservice.PollWorkflowTaskQueueResponse, cause error, wrap func(*workflowservice.PollWorkflowTaskQueueResponse) proto.Message) bool {
	if transient(cause) || len(t.Messages)+len(t.Queries) == 0 {
		return false
	}
	messages, queries := t.Messages, t.Queries
	t.Messages, t.Queries = nil, nil
	opens := func(one *workflowservice.PollWorkflowTaskQueueResponse) bool {
		_, err := r.open(ctx, wrap(one))
		return err == nil
	}
	if !opens(t) {
		t.Messages, t.Queries = messages, queries
		return false
	}
	for _, m := range messages {
		if opens(&workflowservice.PollWorkflowTaskQueueResponse{TaskToken: t.TaskToken, Messages: []*protocolpb.Message{m}}) {
			t.Messages = append(t.Messages, m)
		}
	}
	t.Queries = map[string]*querypb.WorkflowQuery{}
	for id, q := range queries {
		if opens(&workflowservice.PollWorkflowTaskQueueResponse{TaskToken: t.TaskToken, Queries: map[string]*querypb.WorkflowQuery{id: q}}) {
			t.Queries[id] = q
		}
	}
	r.call.server.log.Error("updates or queries of a workflow task cannot be opened; its worker gets the task without them",
		"rpc", r.call.method.full, "namespace", r.call.rewriting.Namespace(), "workflow_id", t.GetWorkflowExecution().GetWorkflowId(),
		"updates", len(messages)-len(t.Messages), "queries", len(queries)-len(t.Queries), "error", cause)
	return true
}

// failWorkflowTask fails a workflow task once: the server hands a failed one out again at once, so later attempts are
// left to their timeout.
func (r *rescue) failWorkflowTask(ctx context.Context, t *workflowservice.PollWorkflowTaskQueueResponse, cause error) {
	var answer *standIn
	if t.GetAttempt() <= 1 {
		answer = &standIn{"RespondWorkflowTaskFailed", &workflowservice.RespondWorkflowTaskFailedRequest{TaskToken: t.GetTaskToken(), Identity: standInIdentity,
			Cause: enumspb.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE, Failure: unopenedFailure(unopenedText(cause, handedOutAgain), 0)}}
	}
	r.answer(ctx, "workflow", t.GetWorkflowExecution(), answer, cause)
}

func (r *rescue) failQuery(ctx context.Context, t *workflowservice.PollWorkflowTaskQueueResponse, cause error) {
	text := unopenedText(cause, "ask again")
	r.answer(ctx, "query", t.GetWorkflowExecution(), &standIn{"RespondQueryTaskCompleted", &workflowservice.RespondQueryTaskCompletedRequest{TaskToken: t.GetTaskToken(),
		CompletedType: enumspb.QUERY_RESULT_TYPE_FAILED, ErrorMessage: text, PollerGroupId: t.GetPollerGroupId(), Failure: unopenedFailure(text, 0)}}, cause)
}

// activityTask gives the task, or what its poller gets in its place.
func (r *rescue) activityTask(ctx context.Context, t *workflowservice.PollActivityTaskQueueResponse, wrap func(*workflowservice.PollActivityTaskQueueResponse) proto.Message) *workflowservice.PollActivityTaskQueueResponse {
	err := r.hold(ctx, wrap(t), t.GetHeartbeatTimeout().AsDuration(), t.GetStartToCloseTimeout().AsDuration(), t.GetScheduleToCloseTimeout().AsDuration())
	if err == nil {
		return t
	}
	r.setAside(ctx, t, wrap(t), err)
	return &workflowservice.PollActivityTaskQueueResponse{PollerScalingDecision: r.call.unchanged(ctx, t.PollerScalingDecision),
		PollerGroupInfos: t.PollerGroupInfos, PollerGroupsInfo: t.PollerGroupsInfo}
}

// nexusTask gives the task, or what its poller gets in its place. A few answers that ask for another try open the
// endpoint's circuit breaker, for all operations of that caller: where later will be no better the answer is final.
func (r *rescue) nexusTask(ctx context.Context, t *workflowservice.PollNexusTaskQueueResponse) *workflowservice.PollNexusTaskQueueResponse {
	err := r.hold(ctx, t, nexusTimeout(t.GetRequest()))
	if err == nil {
		return t
	}
	kind, retry := "INTERNAL", enumspb.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE
	if transient(err) || err == errCallerLeft {
		kind, retry = "UNAVAILABLE", enumspb.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE
	}
	q := &workflowservice.RespondNexusTaskFailedRequest{TaskToken: t.GetTaskToken(), Identity: standInIdentity, PollerGroupId: t.GetPollerGroupId()}
	if t.GetRequest().GetCapabilities().GetTemporalFailureResponses() {
		q.Failure = &failurepb.Failure{Message: unopenedText(err, handedOutAgain), Source: standInIdentity, FailureInfo: &failurepb.Failure_NexusHandlerFailureInfo{
			NexusHandlerFailureInfo: &failurepb.NexusHandlerFailureInfo{Type: kind, RetryBehavior: retry}}}
	} else {
		q.Error = &nexuspb.HandlerError{ErrorType: kind, Failure: &nexuspb.Failure{Message: unopenedText(err, handedOutAgain)}, RetryBehavior: retry}
	}
	r.answer(ctx, "nexus", nil, &standIn{"RespondNexusTaskFailed", q}, err)
	return &workflowservice.PollNexusTaskQueueResponse{PollerScalingDecision: r.call.unchanged(ctx, t.PollerScalingDecision), PollerGroupId: t.PollerGroupId,
		PollerGroupInfos: t.PollerGroupInfos, PollerGroupsInfo: t.PollerGroupsInfo}
}

// nexusTimeout is how long the server waits for the answer to a Nexus task.
func nexusTimeout(q *nexuspb.Request) time.Duration {
	for _, name := range []string{"request-timeout", "Request-Timeout"} {
		if t, err := time.ParseDuration(q.GetHeader()[name]); err == nil {
			return t
		}
	}
	return holdUntold
}

// answer answers a task in its worker's stead, and tells the operator. A nil one leaves the task to its timeout.
func (r *rescue) answer(ctx context.Context, kind string, e *commonpb.WorkflowExecution, answer *standIn, cause error) {
	answered := answer != nil && r.call.standFor(ctx, answer, cause) == nil
	r.call.server.log.Error("a task could not be opened; its worker gets none", "task", kind, "rpc", r.call.method.full, "namespace", r.call.rewriting.Namespace(),
		"workflow_id", e.GetWorkflowId(), "run_id", e.GetRunId(), "answered", answered, "held", time.Since(r.arrived).Round(time.Millisecond), "error", cause)
}

// handedOutAgain is what happens to most tasks.
const handedOutAgain = "it is handed out again"

// unopenedText says what happened, where, and what to do; next is what follows where the cause may pass. It holds no
// payload, so it goes out in clear.
func unopenedText(cause error, next string) string {
	advice := "; find the cause in the proxy's log, and restore the key or the permission to use it, or terminate the workflow"
	switch {
	case cause == errCallerLeft:
		advice = "; " + next
	case transient(cause):
		advice = "; " + next + ": it opens once the proxy reaches its keys"
	}
	return from + "the worker was not given this task: " + crypto.ForCaller(cause) + advice
}

func unopenedFailure(text string, delay time.Duration) *failurepb.Failure {
	info := &failurepb.ApplicationFailureInfo{Type: unopened}
	if delay > 0 {
		info.NextRetryDelay = durationpb.New(delay)
	}
	return &failurepb.Failure{Message: text, Source: standInIdentity, FailureInfo: &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: info}}
}
