package server

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

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

// setAside fails an activity's attempt in a way that loses nothing: a paused activity is not tried again, nor does it
// run out of attempts. Where that cannot be, the next attempt is put off. sealed makes the answer that the task came in.
func (r *rescue) setAside(ctx context.Context, t *workflowservice.PollActivityTaskQueueResponse, sealed proto.Message, cause error) {
	key := activityKey{strings.Clone(r.call.rewriting.Namespace()), t.GetWorkflowExecution().GetWorkflowId(), t.GetWorkflowExecution().GetRunId(), t.GetActivityId()}
	pausing := r.pause(ctx, key, cause)
	already := status.Code(pausing) == codes.FailedPrecondition // perhaps by a person, whose it stays
	if status.Code(pausing) == codes.NotFound {
		r.answer(ctx, "activity", t.GetWorkflowExecution(), nil, cause)
		return
	}
	delay := time.Duration(0)
	if pausing != nil && !already {
		r.call.server.log.Warn("an activity could not be paused, so the next try costs one of its attempts", "namespace", key.namespace,
			"workflow_id", key.workflow, "activity_id", key.activity, "error", pausing)
		delay = retryTask
	}
	r.answer(ctx, "activity", t.GetWorkflowExecution(), &standIn{"RespondActivityTaskFailed", &workflowservice.RespondActivityTaskFailedRequest{
		TaskToken: t.GetTaskToken(), Identity: standInIdentity, Failure: unopenedFailure(unopenedText(cause, handedOutAgain), delay)}}, cause)
	switch {
	case already:
		r.lookAfter(ctx, key, sealed)
	case pausing != nil:
	case errors.Is(cause, errCallerLeft):
		if err := r.call.server.unpause(ctx, r.call.route, key); err != nil {
			r.call.server.log.Error("an activity was paused for a worker that hung up, and could not be told to go on: unpause it by hand",
				"namespace", key.namespace, "workflow_id", key.workflow, "activity_id", key.activity, "error", err)
		}
	default:
		r.lookAfter(ctx, key, sealed)
	}
}

// errNoPause is why a standalone activity is not paused.
var errNoPause = errors.New("it belongs to no workflow")

func (r *rescue) pause(ctx context.Context, k activityKey, cause error) error {
	if k.workflow == "" {
		return errNoPause
	}
	err := r.call.server.send(ctx, r.call.route, "PauseActivity", &workflowservice.PauseActivityRequest{
		Namespace: k.namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: k.workflow, RunId: k.run}, Identity: standInIdentity,
		Activity: &workflowservice.PauseActivityRequest_Id{Id: k.activity}, Reason: unopenedText(cause, handedOutAgain)})
	if err == nil {
		r.call.server.metrics.standIns.WithLabelValues("PauseActivity").Inc()
	}
	return err
}

func (s *Server) unpause(ctx context.Context, r *upstream.Pool, k activityKey) error {
	return s.send(ctx, r, "UnpauseActivity", &workflowservice.UnpauseActivityRequest{
		Namespace: k.namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: k.workflow, RunId: k.run}, Identity: standInIdentity,
		Activity: &workflowservice.UnpauseActivityRequest_Id{Id: k.activity}, ResetAttempts: true})
}

// lookAfter has an activity go on once it opens.
func (r *rescue) lookAfter(ctx context.Context, key activityKey, m proto.Message) {
	sealed, err := proto.Marshal(m)
	md, _ := metadata.FromOutgoingContext(ctx)
	if err != nil || !r.call.server.aside.add(r.call.server, &paused{key: key, route: r.call.route, md: md.Copy(), method: r.call.method.rewrite, caller: r.call.id.Caller,
		request: bytes.Clone(r.call.in), sample: sealed}) {
		r.call.server.log.Error("too many activities are paused to look after this one: unpause it by hand once it can be opened", "namespace", key.namespace,
			"workflow_id", key.workflow, "activity_id", key.activity)
	}
}
