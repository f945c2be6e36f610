package tasks

import (
	"context"
	"log/slog"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	protocolpb "go.temporal.io/api/protocol/v1"
	querypb "go.temporal.io/api/query/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// workflowTask reports whether the task opens, if need be without some of its updates and queries.
// Otherwise it is failed.
func (o *opening) workflowTask(ctx context.Context, t *workflowTask) bool {
	timeout := workflowTaskTimeout(t.GetHistory())
	if t.GetQuery() != nil {
		timeout = queryTimeout
	}
	err := o.hold(ctx, t, timeout)
	if err == nil || o.withoutBadEntries(ctx, t, err) {
		return true
	}
	o.failWorkflowTask(ctx, t, err)
	return false
}

// workflowTaskTimeout is in the event that scheduled the task, the last of its kind.
func workflowTaskTimeout(h *historypb.History) time.Duration {
	events := h.GetEvents()
	for i := len(events) - 1; i >= 0; i-- {
		if a := events[i].GetWorkflowTaskScheduledEventAttributes(); a != nil && a.StartToCloseTimeout != nil {
			return a.StartToCloseTimeout.AsDuration()
		}
	}
	return unknownTimeout
}

// withoutBadEntries removes the updates and queries that will never open from a task whose history opens,
// and reports whether the task can be handed out then. The server rejects an update that the task's answer
// does not mention, and hands out a query again.
func (o *opening) withoutBadEntries(ctx context.Context, t *workflowTask, cause error) bool {
	if transient(cause) || len(t.Messages)+len(t.Queries) == 0 {
		return false
	}
	messages, queries := t.Messages, t.Queries
	t.Messages, t.Queries = nil, nil
	opens := func(part *workflowTask) bool {
		part.TaskToken = t.TaskToken
		_, err := o.open(ctx, o.answerWith(part))
		return err == nil
	}
	if !opens(t) {
		t.Messages, t.Queries = messages, queries
		return false
	}
	for _, m := range messages {
		if opens(&workflowTask{Messages: []*protocolpb.Message{m}}) {
			t.Messages = append(t.Messages, m)
		}
	}
	t.Queries = map[string]*querypb.WorkflowQuery{}
	for id, q := range queries {
		if opens(&workflowTask{Queries: map[string]*querypb.WorkflowQuery{id: q}}) {
			t.Queries[id] = q
		}
	}
	updates, lost := len(messages)-len(t.Messages), len(queries)-len(t.Queries)
	o.report(ctx, t.GetWorkflowExecution(), updates+lost, cause)
	o.tasks.log(ctx, slog.LevelError, o.call, t.GetWorkflowExecution(),
		"updates or queries of a workflow task cannot be opened; its worker gets the task without them",
		"updates", updates, "queries", lost, "error", cause)
	return true
}

// failWorkflowTask fails a workflow task once: the server hands a failed one out again at once, so later
// attempts are left to their timeout.
func (o *opening) failWorkflowTask(ctx context.Context, t *workflowTask, cause error) {
	if t.GetQuery() != nil {
		o.failQuery(ctx, t, cause)
		return
	}
	var standIn proto.Message
	if t.GetAttempt() <= 1 {
		standIn = &workflowservice.RespondWorkflowTaskFailedRequest{
			TaskToken: t.GetTaskToken(), Identity: identity,
			Cause:   enumspb.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE,
			Failure: unopenedFailure(unopenedText(cause, handedOutAgain), 0)}
		if t.GetPreviousStartedEventId() > 0 && !transient(cause) { // a worker has completed a task, and may have the workflow in memory
			o.tasks.resetSticky(ctx, o.call, t.GetWorkflowExecution())
		}
	}
	o.answer(ctx, "workflow", t.GetWorkflowExecution(), standIn, cause)
}

func (o *opening) failQuery(ctx context.Context, t *workflowTask, cause error) {
	text := unopenedText(cause, "ask again")
	if destroyed(cause) { // the run may have ended long ago, so there may be nothing to terminate
		text = from + "the workflow cannot be queried any more: " + crypto.ForCaller(cause) +
			"; a query needs the history, and nothing brings the value back"
	}
	q := &workflowservice.RespondQueryTaskCompletedRequest{
		TaskToken: t.GetTaskToken(), PollerGroupId: t.GetPollerGroupId(),
		CompletedType: enumspb.QUERY_RESULT_TYPE_FAILED, ErrorMessage: text, Failure: unopenedFailure(text, 0)}
	o.answer(ctx, "query", t.GetWorkflowExecution(), q, cause)
}

// resetSticky has the server forget which worker has a workflow in memory, before a task of it is failed for good. The server counts no
// attempt that fails on a sticky queue, so the task would come again from the normal queue as a first attempt, and fail a second time.
func (t *Tasks) resetSticky(out context.Context, call Call, e *commonpb.WorkflowExecution) {
	ctx, cancel := outlasting(out)
	defer cancel()
	if _, err := call.client().ResetStickyTaskQueue(ctx, &workflowservice.ResetStickyTaskQueueRequest{Namespace: call.namespace(), Execution: e}); err != nil {
		t.log(out, slog.LevelInfo, call, e, "the sticky task queue could not be reset, so the workflow task may fail twice", "error", err)
	}
}
