package tasks

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// activityTask reports whether the task opens. Otherwise it is failed.
func (o *opening) activityTask(ctx context.Context, t *activityTask) bool {
	err := o.hold(ctx, t, t.GetHeartbeatTimeout().AsDuration(), t.GetStartToCloseTimeout().AsDuration(),
		t.GetScheduleToCloseTimeout().AsDuration())
	if err != nil {
		o.failActivity(ctx, t, err)
	}
	return err == nil
}

// failActivity fails an activity's attempt in a way that loses nothing: it pauses the activity before, and the server does not retry a
// paused one and does not let it run out of attempts. If that is not possible, the next attempt is put off. An activity that is too
// large for good, or whose value was erased or has expired, fails for good.
func (o *opening) failActivity(ctx context.Context, t *activityTask, cause error) {
	e := t.GetWorkflowExecution()
	if tooLarge(cause) || destroyed(cause) { // it would be paused again after each retry
		why := tooLargeType
		if destroyed(cause) {
			why = typeOfDestroyed(cause)
		}
		o.answer(ctx, "activity", e, &workflowservice.RespondActivityTaskFailedRequest{TaskToken: t.GetTaskToken(), Identity: identity,
			Failure: applicationFailure(unopenedText(cause, ""), &failurepb.ApplicationFailureInfo{Type: why, NonRetryable: true})}, cause)
		return
	}
	key := activityKey{strings.Clone(o.call.namespace()), e.GetWorkflowId(), e.GetRunId(), t.GetActivityId()}
	pausing := o.pause(ctx, key, cause)
	already := status.Code(pausing) == codes.FailedPrecondition // perhaps by a person: then it stays paused
	if status.Code(pausing) == codes.NotFound {
		o.answer(ctx, "activity", e, nil, cause)
		return
	}
	delay := time.Duration(0)
	if pausing != nil && !already {
		o.tasks.log(ctx, slog.LevelWarn, o.call, e, "an activity could not be paused, so the next try costs one of its attempts",
			"activity_id", key.activity, "error", pausing)
		delay = retryTask
	}
	q := &workflowservice.RespondActivityTaskFailedRequest{TaskToken: t.GetTaskToken(), Identity: identity,
		Failure: unopenedFailure(unopenedText(cause, handedOutAgain), delay)}
	o.answer(ctx, "activity", e, q, cause)
	switch {
	case already:
		o.watch(ctx, key, t)
	case pausing != nil:
	case errors.Is(cause, errCallerLeft):
		ctx, cancel := outlasting(ctx)
		defer cancel()
		if err := unpause(ctx, o.call.client(), key); err != nil {
			o.tasks.log(ctx, slog.LevelError, o.call, e, "an activity was paused for a worker that hung up, and could not be resumed: "+
				"unpause it by hand", "activity_id", key.activity, "error", err)
		}
	default:
		o.watch(ctx, key, t)
	}
}

// errNoWorkflow is why a standalone activity is not paused.
var errNoWorkflow = errors.New("it belongs to no workflow")

func (o *opening) pause(ctx context.Context, k activityKey, cause error) error {
	if k.workflow == "" {
		return errNoWorkflow
	}
	ctx, cancel := outlasting(ctx)
	defer cancel()
	_, err := o.call.client().PauseActivity(ctx, &workflowservice.PauseActivityRequest{
		Namespace: k.namespace, Execution: k.execution(), Identity: identity,
		Activity: &workflowservice.PauseActivityRequest_Id{Id: k.activity},
		Reason:   unopenedText(cause, handedOutAgain)})
	if err == nil {
		o.tasks.options.Answered("PauseActivity")
	}
	return err
}

// unpause lets an activity go on from its first attempt.
func unpause(ctx context.Context, client workflowservice.WorkflowServiceClient, k activityKey) error {
	_, err := client.UnpauseActivity(ctx, &workflowservice.UnpauseActivityRequest{
		Namespace: k.namespace, Execution: k.execution(), Identity: identity,
		Activity: &workflowservice.UnpauseActivityRequest_Id{Id: k.activity}, ResetAttempts: true})
	return err
}

// watch has a paused activity go on once it opens.
func (o *opening) watch(ctx context.Context, key activityKey, t *activityTask) {
	sealed, err := proto.Marshal(o.answerWith(t))
	p := &pausedActivity{key: key, worker: o.call.worker(ctx), method: o.call.Method,
		request: bytes.Clone(o.call.Request), sealed: sealed}
	if err != nil || !o.tasks.watch(p) {
		o.tasks.log(ctx, slog.LevelError, o.call, key.execution(), "too many activities are paused to look after this one: "+
			"unpause it by hand once it can be opened", "activity_id", key.activity)
	}
}

// activityKey names an activity of one run.
type activityKey struct{ namespace, workflow, run, activity string }

func (k activityKey) execution() *commonpb.WorkflowExecution {
	return &commonpb.WorkflowExecution{WorkflowId: k.workflow, RunId: k.run}
}
