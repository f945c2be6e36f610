package tasks

import (
	"context"
	"errors"

	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// FailRefused fails the task of a worker's answer that can never be forwarded, with the reason, and reports
// whether its task is over: a worker that gets only an error would run the task again, or let it time out
// without a reason. It returns false where the call answers no task, or the cause may pass.
func (t *Tasks) FailRefused(out context.Context, call Call, cause error) bool {
	e, ok := errors.AsType[*rewrite.Error](cause)
	if !ok || e.Kind != rewrite.KindDenied && e.Kind != rewrite.KindTooLarge {
		return false
	}
	s, ok := refusedAnswer(call, e.Kind, cause)
	if !ok || s == nil {
		return ok
	}
	if err := t.seal(out, call, s); err != nil {
		// A rule may build its reason from the payload, so without a seal it stays here.
		t.options.Log.Warn("the reason for a refused answer could not be sealed, so the server is not told",
			"rpc", s.method, "error", err, "cause", cause)
		s, _ = refusedAnswer(call, e.Kind, &rewrite.Error{Kind: e.Kind, RPC: e.RPC, Path: e.Path,
			Err: errors.New("the reason is in the log of the proxy")})
	}
	return t.deliver(out, call, s, cause) == nil
}

// refusedAnswer returns the failure that takes the place of a worker's answer. ok reports whether the call
// answers a task that is to fail; the failure is nil where the task is left to its timeout.
func refusedAnswer(call Call, kind rewrite.Kind, cause error) (s *standIn, ok bool) {
	text := from + "the worker's answer was not sent to the server: " + cause.Error()
	info := &failurepb.ApplicationFailureInfo{Type: "PolicyDenied", NonRetryable: true}
	why := enumspb.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE
	if kind == rewrite.KindTooLarge {
		info.Type, why = "PayloadsTooLarge", enumspb.WORKFLOW_TASK_FAILED_CAUSE_PAYLOADS_TOO_LARGE
	}
	failure := applicationFailure(text, info)
	in := call.Request
	switch call.Method.Name() {
	case "RespondActivityTaskCompleted":
		return failedActivity(read(new(workflowservice.RespondActivityTaskCompletedRequest), in), failure)
	case "RespondActivityTaskFailed":
		return failedActivity(read(new(workflowservice.RespondActivityTaskFailedRequest), in), failure)
	case "RespondActivityTaskCompletedById":
		return failedActivityByID(read(new(workflowservice.RespondActivityTaskCompletedByIdRequest), in), failure)
	case "RespondActivityTaskFailedById":
		return failedActivityByID(read(new(workflowservice.RespondActivityTaskFailedByIdRequest), in), failure)
	case "RespondWorkflowTaskCompleted":
		q := read(new(workflowservice.RespondWorkflowTaskCompletedRequest), in)
		if attemptOf(q.GetTaskToken()) > 1 {
			return nil, true // for the reason that failWorkflowTask gives
		}
		return &standIn{"RespondWorkflowTaskFailed", &workflowservice.RespondWorkflowTaskFailedRequest{
			TaskToken: q.GetTaskToken(), Identity: q.GetIdentity(), Cause: why, Failure: failure,
			DeploymentOptions: q.GetDeploymentOptions()}}, len(q.GetTaskToken()) > 0
	case "RespondQueryTaskCompleted":
		q := read(new(workflowservice.RespondQueryTaskCompletedRequest), in)
		return &standIn{"RespondQueryTaskCompleted", &workflowservice.RespondQueryTaskCompletedRequest{
			TaskToken: q.GetTaskToken(), PollerGroupId: q.GetPollerGroupId(),
			CompletedType: enumspb.QUERY_RESULT_TYPE_FAILED, ErrorMessage: text, Failure: failure, Cause: why,
		}}, len(q.GetTaskToken()) > 0
	case "RespondNexusTaskCompleted":
		q := read(new(workflowservice.RespondNexusTaskCompletedRequest), in)
		return &standIn{"RespondNexusTaskFailed", &workflowservice.RespondNexusTaskFailedRequest{
			TaskToken: q.GetTaskToken(), Identity: identity, PollerGroupId: q.GetPollerGroupId(),
			Error: &nexuspb.HandlerError{ErrorType: "INTERNAL", Failure: &nexuspb.Failure{Message: text},
				RetryBehavior: enumspb.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE}}}, len(q.GetTaskToken()) > 0
	}
	return nil, false
}

// read parses a message that the rewriter has walked. One that cannot be parsed stays empty, and then has
// no task token.
func read[M proto.Message](m M, in []byte) M {
	if proto.Unmarshal(in, m) != nil {
		proto.Reset(m)
	}
	return m
}

func failedActivity(q interface {
	GetTaskToken() []byte
	GetIdentity() string
}, f *failurepb.Failure) (*standIn, bool) {
	return &standIn{"RespondActivityTaskFailed", &workflowservice.RespondActivityTaskFailedRequest{
		TaskToken: q.GetTaskToken(), Identity: q.GetIdentity(), Failure: f}}, len(q.GetTaskToken()) > 0
}

func failedActivityByID(q interface {
	GetWorkflowId() string
	GetRunId() string
	GetActivityId() string
	GetIdentity() string
}, f *failurepb.Failure) (*standIn, bool) {
	return &standIn{"RespondActivityTaskFailedById", &workflowservice.RespondActivityTaskFailedByIdRequest{
		WorkflowId: q.GetWorkflowId(), RunId: q.GetRunId(), ActivityId: q.GetActivityId(),
		Identity: q.GetIdentity(), Failure: f,
	}}, q.GetActivityId() != ""
}

// attemptOf returns the attempt that a task token names. The token is internal to the server: where it
// cannot be read, 1 is assumed.
func attemptOf(token []byte) uint64 {
	const attempt = 5
	for r := wire.Read(token); r.Next(); {
		if r.Number() == attempt && r.Type() == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(r.Value())
			return v
		}
	}
	return 1
}

// seal seals the texts of an answer as those of any worker.
func (t *Tasks) seal(ctx context.Context, call Call, s *standIn) error {
	s.inNamespace(call.namespace())
	in, err := proto.Marshal(s.request)
	if err != nil {
		return err
	}
	session := t.options.Rewriter.Begin(t.options.Rewriter.Method(service+s.method), call.Caller)
	defer session.Done()
	if err := session.Identify(in); err != nil {
		return err
	}
	sealed, err := session.Request(ctx, in)
	if err != nil {
		return err
	}
	return proto.Unmarshal(sealed, s.request)
}
