package tasks

import (
	"context"
	"errors"
	"log/slog"
	"unicode/utf8"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
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
	standIn, ok := refusedAnswer(call, e.Kind, cause)
	if !ok || standIn == nil {
		return ok
	}
	if err := t.seal(out, call, standIn); err != nil {
		// A rule may build its reason from the payload, so without a seal it stays here.
		t.log(out, slog.LevelWarn, call, nil, "the reason for a refused answer could not be sealed, so the server does not get it",
			"answer", methodOf(standIn), "error", err, "cause", cause)
		standIn, _ = refusedAnswer(call, e.Kind, &rewrite.Error{Kind: e.Kind, RPC: e.RPC, Path: e.Path,
			Err: errors.New("the reason is in the log of the proxy")})
	}
	if failed, ok := standIn.(*workflowservice.RespondWorkflowTaskFailedRequest); ok {
		if e := executionOf(failed.GetTaskToken()); e != nil {
			t.resetSticky(out, call, e)
		}
	}
	return t.deliver(out, call, standIn, cause) == nil
}

// refusedAnswer returns the failure that takes the place of a worker's answer. ok reports whether the call
// answers a task that is to fail; the failure is nil where the task is left to its timeout.
func refusedAnswer(call Call, kind rewrite.Kind, cause error) (standIn proto.Message, ok bool) {
	text := from + "the worker's answer was not sent to the server: " + cause.Error()
	info := &failurepb.ApplicationFailureInfo{Type: "PolicyDenied", NonRetryable: true}
	why := enumspb.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE
	if crypto.KindOf(cause) == crypto.KindErased {
		info.Type = erasedType
	}
	if kind == rewrite.KindTooLarge {
		info.Type, why = tooLargeType, enumspb.WORKFLOW_TASK_FAILED_CAUSE_PAYLOADS_TOO_LARGE
	}
	failure := applicationFailure(text, info)
	var answer proto.Message
	switch call.Method.Name() {
	case "RespondActivityTaskCompleted":
		answer = new(workflowservice.RespondActivityTaskCompletedRequest)
		standIn = &workflowservice.RespondActivityTaskFailedRequest{Failure: failure}
	case "RespondActivityTaskFailed":
		answer = new(workflowservice.RespondActivityTaskFailedRequest)
		standIn = &workflowservice.RespondActivityTaskFailedRequest{Failure: failure}
	case "RespondActivityTaskCompletedById":
		answer = new(workflowservice.RespondActivityTaskCompletedByIdRequest)
		standIn = &workflowservice.RespondActivityTaskFailedByIdRequest{Failure: failure}
	case "RespondActivityTaskFailedById":
		answer = new(workflowservice.RespondActivityTaskFailedByIdRequest)
		standIn = &workflowservice.RespondActivityTaskFailedByIdRequest{Failure: failure}
	case "RespondWorkflowTaskCompleted":
		q := readHead(new(workflowservice.RespondWorkflowTaskCompletedRequest), call.Request)
		if attemptOf(q.GetTaskToken()) > 1 {
			return nil, true // for the reason that failWorkflowTask gives
		}
		answer = q
		standIn = &workflowservice.RespondWorkflowTaskFailedRequest{
			Cause: why, Failure: failure, DeploymentOptions: q.GetDeploymentOptions()}
	case "RespondQueryTaskCompleted":
		answer = new(workflowservice.RespondQueryTaskCompletedRequest)
		standIn = &workflowservice.RespondQueryTaskCompletedRequest{
			CompletedType: enumspb.QUERY_RESULT_TYPE_FAILED, ErrorMessage: text, Failure: failure, Cause: why}
	case "RespondNexusTaskCompleted":
		answer = new(workflowservice.RespondNexusTaskCompletedRequest)
		standIn = &workflowservice.RespondNexusTaskFailedRequest{Identity: identity,
			Error: &nexuspb.HandlerError{ErrorType: "INTERNAL", Failure: &nexuspb.Failure{Message: text},
				RetryBehavior: enumspb.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE}}
	default:
		return nil, false
	}
	return standIn, copyTask(standIn, readHead(answer, call.Request))
}

// taskFields are the fields of answers that name the task and its worker.
var taskFields = []protoreflect.Name{"task_token", "workflow_id", "run_id", "activity_id", "identity", "poller_group_id"}

// copyTask sets the task fields of to that are empty to those of from, and reports whether they name a task.
func copyTask(to, from proto.Message) (named bool) {
	a, b := to.ProtoReflect(), from.ProtoReflect()
	for _, name := range taskFields {
		source, field := b.Descriptor().Fields().ByName(name), a.Descriptor().Fields().ByName(name)
		if source != nil && field != nil && b.Has(source) && !a.Has(field) {
			a.Set(field, b.Get(source))
			named = named || name == "task_token" || name == "activity_id"
		}
	}
	return named
}

// readHead parses of a request, or of an answer with a task, what it says of itself: single values, and the
// messages of headFields. Lists may have any number of elements, which take far more memory than their bytes.
func readHead[M proto.Message](m M, in []byte) M {
	fields := m.ProtoReflect().Descriptor().Fields()
	var head []byte
	for r := wire.Read(in); r.Next(); {
		fd := fields.ByNumber(r.Number())
		if fd == nil || fd.IsList() || fd.IsMap() {
			continue
		}
		_, to := r.Bounds()
		switch {
		case fd.Message() == nil || headFields[fd.Name()]:
			head = append(head, in[r.At():to]...)
		case fd.Name() == "query": // that there is one
			head = protowire.AppendBytes(protowire.AppendTag(head, fd.Number(), protowire.BytesType), nil)
		}
	}
	return read(m, head)
}

// headFields are messages with a few values each.
var headFields = map[protoreflect.Name]bool{"task_queue": true, "deployment_options": true, "workflow_execution": true, "poller_scaling_decision": true}

// read parses a message that the rewriter has walked. One that cannot be parsed stays empty, and then has
// no task token.
func read[M proto.Message](m M, in []byte) M {
	if proto.Unmarshal(in, m) != nil {
		proto.Reset(m)
	}
	return m
}

// The fields of task tokens that are read. Tokens are internal to the server: where one cannot be read, it is a first attempt, and its
// workflow is not known.
const (
	tokenWorkflow = 2
	tokenRun      = 3
	tokenAttempt  = 5
)

// attemptOf returns the attempt that a task token names.
func attemptOf(token []byte) uint64 {
	for r := wire.Read(token); r.Next(); {
		if r.Number() == tokenAttempt && r.Type() == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(r.Value())
			return v
		}
	}
	return 1
}

// executionOf returns the workflow that a task token names; nil: it names none.
func executionOf(token []byte) *commonpb.WorkflowExecution {
	var e commonpb.WorkflowExecution
	for r := wire.Read(token); r.Next(); {
		switch {
		case r.Number() == tokenWorkflow && r.Bytes():
			e.WorkflowId = string(r.Value())
		case r.Number() == tokenRun && r.Bytes():
			e.RunId = string(r.Value())
		}
	}
	if e.WorkflowId == "" || e.RunId == "" || !utf8.ValidString(e.WorkflowId+e.RunId) {
		return nil
	}
	return &e
}

// seal seals the texts of an answer as those of any worker.
func (t *Tasks) seal(ctx context.Context, call Call, standIn proto.Message) error {
	setNamespace(standIn, call.namespace())
	in, err := proto.Marshal(standIn)
	if err != nil {
		return err
	}
	session := t.options.Rewriter.Begin(t.options.Rewriter.Method(service+methodOf(standIn)), call.Caller)
	defer session.Done()
	if err := session.Identify(in); err != nil {
		return err
	}
	sealed, err := session.Request(ctx, in)
	if err != nil {
		return err
	}
	return proto.Unmarshal(sealed, standIn)
}
