package server

import (
	"context"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	protocolpb "go.temporal.io/api/protocol/v1"
	querypb "go.temporal.io/api/query/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
)

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
