package tasks

import (
	"context"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	"go.temporal.io/api/workflowservice/v1"
)

// nexusTask reports whether the task opens. Otherwise it is failed.
func (o *opening) nexusTask(ctx context.Context, t *nexusTask) bool {
	err := o.hold(ctx, t, nexusTimeout(t.GetRequest()))
	if err != nil {
		o.failNexusTask(ctx, t, err)
	}
	return err == nil
}

// failNexusTask fails a task with a final answer where a later try would fail too, since a few answers that
// ask for another try open the endpoint's circuit breaker for all operations of that caller.
func (o *opening) failNexusTask(ctx context.Context, t *nexusTask, err error) {
	kind, retry := "INTERNAL", enumspb.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE
	if transient(err) || err == errCallerLeft {
		kind, retry = "UNAVAILABLE", enumspb.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE
	}
	text := unopenedText(err, handedOutAgain)
	q := &workflowservice.RespondNexusTaskFailedRequest{
		TaskToken: t.GetTaskToken(), Identity: identity, PollerGroupId: t.GetPollerGroupId()}
	if t.GetRequest().GetCapabilities().GetTemporalFailureResponses() {
		info := &failurepb.NexusHandlerFailureInfo{Type: kind, RetryBehavior: retry}
		q.Failure = &failurepb.Failure{Message: text, Source: identity,
			FailureInfo: &failurepb.Failure_NexusHandlerFailureInfo{NexusHandlerFailureInfo: info}}
	} else {
		q.Error = &nexuspb.HandlerError{ErrorType: kind, RetryBehavior: retry, Failure: &nexuspb.Failure{Message: text}}
	}
	o.answer(ctx, "nexus", nil, q, err)
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
