package tasks

import (
	"context"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	"go.temporal.io/api/workflowservice/v1"
)

// nexusTask returns the task, or what its poller gets in its place. A few answers that ask for another try open the
// endpoint's circuit breaker for all operations of that caller, so where a later try would fail too the answer is final.
func (o *opening) nexusTask(ctx context.Context, t *workflowservice.PollNexusTaskQueueResponse) *workflowservice.PollNexusTaskQueueResponse {
	err := o.hold(ctx, t, nexusTimeout(t.GetRequest()))
	if err == nil {
		return t
	}
	kind, retry := "INTERNAL", enumspb.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE
	if transient(err) || err == errCallerLeft {
		kind, retry = "UNAVAILABLE", enumspb.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE
	}
	text := unopenedText(err, handedOutAgain)
	q := &workflowservice.RespondNexusTaskFailedRequest{TaskToken: t.GetTaskToken(), Identity: identity, PollerGroupId: t.GetPollerGroupId()}
	if t.GetRequest().GetCapabilities().GetTemporalFailureResponses() {
		q.Failure = &failurepb.Failure{Message: text, Source: identity, FailureInfo: &failurepb.Failure_NexusHandlerFailureInfo{
			NexusHandlerFailureInfo: &failurepb.NexusHandlerFailureInfo{Type: kind, RetryBehavior: retry}}}
	} else {
		q.Error = &nexuspb.HandlerError{ErrorType: kind, Failure: &nexuspb.Failure{Message: text}, RetryBehavior: retry}
	}
	o.answer(ctx, "nexus", nil, &standIn{"RespondNexusTaskFailed", q}, err)
	return &workflowservice.PollNexusTaskQueueResponse{
		PollerScalingDecision: o.tasks.keepPollers(ctx, o.call, t.PollerScalingDecision), PollerGroupId: t.PollerGroupId,
		PollerGroupInfos: t.PollerGroupInfos, PollerGroupsInfo: t.PollerGroupsInfo}
}

// nexusTimeout is how long the server waits for the answer to a Nexus task.
func nexusTimeout(q *nexuspb.Request) time.Duration {
	for _, name := range []string{"request-timeout", "Request-Timeout"} {
		if t, err := time.ParseDuration(q.GetHeader()[name]); err == nil {
			return t
		}
	}
	return unknownTimeout
}
