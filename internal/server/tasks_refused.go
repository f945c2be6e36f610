package server

import (
	"bytes"
	"context"
	"errors"
	"strings"

	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// refusedAnswer turns a worker's answer that cannot be forwarded, ever, into the failure of its task: a worker that is
// told an error only would run the task again, or let it time out without a reason. ok is false where there is no task.
func refusedAnswer(method string, in []byte, cause error) (answer *standIn, ok bool) {
	var e *rewrite.Error
	if !errors.As(cause, &e) || e.Kind != rewrite.KindDenied && e.Kind != rewrite.KindTooLarge || !strings.HasPrefix(method, service) {
		return nil, false
	}
	text := from + "the worker's answer was not sent to the server: " + cause.Error()
	kind, why := "PolicyDenied", enumspb.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE
	if e.Kind == rewrite.KindTooLarge {
		kind, why = "PayloadsTooLarge", enumspb.WORKFLOW_TASK_FAILED_CAUSE_PAYLOADS_TOO_LARGE
	}
	failure := failureFor(text, kind, cause)
	switch method[len(service):] {
	case "RespondActivityTaskCompleted":
		var q workflowservice.RespondActivityTaskCompletedRequest
		return &standIn{"RespondActivityTaskFailed", failedActivity(&q, in, failure)}, q.GetTaskToken() != nil
	case "RespondActivityTaskFailed":
		var q workflowservice.RespondActivityTaskFailedRequest
		return &standIn{"RespondActivityTaskFailed", failedActivity(&q, in, failure)}, q.GetTaskToken() != nil
	case "RespondActivityTaskCompletedById":
		var q workflowservice.RespondActivityTaskCompletedByIdRequest
		return &standIn{"RespondActivityTaskFailedById", failedActivityByID(&q, in, failure)}, q.GetActivityId() != ""
	case "RespondActivityTaskFailedById":
		var q workflowservice.RespondActivityTaskFailedByIdRequest
		return &standIn{"RespondActivityTaskFailedById", failedActivityByID(&q, in, failure)}, q.GetActivityId() != ""
	case "RespondWorkflowTaskCompleted":
		var q workflowservice.RespondWorkflowTaskCompletedRequest
		if proto.Unmarshal(in, &q) != nil {
			return nil, false
		}
		if attemptOf(q.GetTaskToken()) > 1 {
			return nil, true // see rescue.failWorkflowTask
		}
		return &standIn{"RespondWorkflowTaskFailed", &workflowservice.RespondWorkflowTaskFailedRequest{TaskToken: q.GetTaskToken(), Identity: q.GetIdentity(),
			Cause: why, Failure: failure, DeploymentOptions: q.GetDeploymentOptions()}}, true
	case "RespondQueryTaskCompleted":
		var q workflowservice.RespondQueryTaskCompletedRequest
		return &standIn{"RespondQueryTaskCompleted", &workflowservice.RespondQueryTaskCompletedRequest{CompletedType: enumspb.QUERY_RESULT_TYPE_FAILED, ErrorMessage: text,
			Failure: failure, Cause: why, TaskToken: read(&q, in).GetTaskToken(), PollerGroupId: q.GetPollerGroupId()}}, q.GetTaskToken() != nil
	case "RespondNexusTaskCompleted":
		var q workflowservice.RespondNexusTaskCompletedRequest
		return nexusFailure(read(&q, in).GetTaskToken(), q.GetPollerGroupId(), text), q.GetTaskToken() != nil
	}
	return nil, false
}

// read parses a message that the rewriter has walked. What it cannot read stays empty, and then has no task token.
func read[M proto.Message](m M, in []byte) M {
	if proto.Unmarshal(in, m) != nil {
		proto.Reset(m)
	}
	return m
}

func failedActivity[M interface {
	proto.Message
	GetTaskToken() []byte
	GetIdentity() string
}](m M, in []byte, f *failurepb.Failure) proto.Message {
	read(m, in)
	return &workflowservice.RespondActivityTaskFailedRequest{TaskToken: m.GetTaskToken(), Identity: m.GetIdentity(), Failure: f}
}

func failedActivityByID[M interface {
	proto.Message
	GetWorkflowId() string
	GetRunId() string
	GetActivityId() string
	GetIdentity() string
}](m M, in []byte, f *failurepb.Failure) proto.Message {
	read(m, in)
	return &workflowservice.RespondActivityTaskFailedByIdRequest{WorkflowId: m.GetWorkflowId(), RunId: m.GetRunId(), ActivityId: m.GetActivityId(), Identity: m.GetIdentity(), Failure: f}
}

func nexusFailure(token []byte, group, text string) *standIn {
	return &standIn{"RespondNexusTaskFailed", &workflowservice.RespondNexusTaskFailedRequest{TaskToken: token, Identity: standInIdentity, PollerGroupId: group,
		Error: &nexuspb.HandlerError{ErrorType: "INTERNAL", Failure: &nexuspb.Failure{Message: text},
			RetryBehavior: enumspb.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE}}}
}

// failureFor is what a person reads in the workflow's history.
func failureFor(text, kind string, cause error) *failurepb.Failure {
	info := &failurepb.ApplicationFailureInfo{Type: kind, NonRetryable: !transient(cause)}
	if !info.NonRetryable {
		info.NextRetryDelay = durationpb.New(retryTask)
	}
	return &failurepb.Failure{Message: text, Source: "temporal-seal", FailureInfo: &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: info}}
}

// attemptOf reads the attempt from a task token. That is the server's own format, so 1 is assumed where it cannot be read.
func attemptOf(token []byte) uint64 {
	const attempt = 5
	for len(token) > 0 {
		number, kind, n := protowire.ConsumeTag(token)
		if n < 0 {
			return 1
		}
		token = token[n:]
		if number == attempt && kind == protowire.VarintType {
			if v, n := protowire.ConsumeVarint(token); n > 0 {
				return v
			}
			return 1
		}
		if n = protowire.ConsumeFieldValue(number, kind, token); n < 0 {
			return 1
		}
		token = token[n:]
	}
	return 1
}

// answerRefused fails the task whose answer the proxy had to refuse, and gives the worker what it expects of a task that
// is over. err is returned unchanged where there is no task to fail.
func (c *call) answerRefused(out context.Context, cause error) error {
	answer, ok := refusedAnswer(c.method.full, c.in, cause)
	if !ok {
		return cause
	}
	if answer != nil {
		in, err := c.sealStandIn(out, answer)
		if err != nil {
			// A rule may build its reason from the payload, so without a seal it stays here.
			c.server.log.Warn("the reason for a refused answer could not be sealed, so the server is not told", "rpc", answer.method, "error", err, "cause", cause)
			answer, _ = refusedAnswer(c.method.full, c.in, withoutReason(cause))
			in, err = c.marshalStandIn(answer)
		}
		if err != nil || c.deliver(out, answer.method, in, cause) != nil {
			return cause
		}
	}
	return &refusal{codes.NotFound, "the task was failed in the worker's stead: " + cause.Error()}
}

// withoutReason is a refusal that tells where and not why.
func withoutReason(cause error) error {
	var e *rewrite.Error
	if !errors.As(cause, &e) {
		return cause
	}
	return &rewrite.Error{Kind: e.Kind, RPC: e.RPC, Path: e.Path, Err: errors.New("the reason is in the log of the proxy")}
}

// sealStandIn gives the bytes of an answer with its texts sealed as those of any worker.
func (c *call) sealStandIn(ctx context.Context, answer *standIn) ([]byte, error) {
	in, err := c.marshalStandIn(answer)
	if err != nil {
		return nil, err
	}
	sealing := c.server.rewriter.Begin(c.server.rewriter.Method(service+answer.method), c.id.Caller)
	defer sealing.Done()
	if err := sealing.Identify(in); err != nil {
		return nil, err
	}
	sealed, err := sealing.Request(ctx, in)
	return bytes.Clone(sealed), err
}
