package tasks

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

const (
	// unopened is the type of failures of tasks that could not be opened.
	unopened = "TaskUnopened"
	// tooLargeType is the type of failures of messages that are too large for good.
	tooLargeType = "PayloadsTooLarge"
	// erasedType is the type of failures of values whose subject was erased.
	erasedType = "Erased"
	// expiredType is the type of failures of values whose keys have expired.
	expiredType = "Expired"
	// retryTask is the delay before the server hands out again an activity whose failure may pass.
	retryTask = 30 * time.Second
	// handedOutAgain is what happens to most tasks next.
	handedOutAgain = "it is handed out again"
)

// A stand-in answer is the request of a method of WorkflowService, by which the method is known.

// methodOf returns the method of a request.
func methodOf(request proto.Message) string {
	return strings.TrimSuffix(string(request.ProtoReflect().Descriptor().Name()), "Request")
}

// setNamespace sets the namespace of a request.
func setNamespace(request proto.Message, namespace string) {
	m := request.ProtoReflect()
	m.Set(m.Descriptor().Fields().ByName("namespace"), protoreflect.ValueOfString(namespace))
}

// takeOffMAC takes the MAC off the task token of a request.
func takeOffMAC(request proto.Message) {
	m := request.ProtoReflect()
	if f := m.Descriptor().Fields().ByName("task_token"); f != nil && m.Has(f) {
		m.Set(f, protoreflect.ValueOfBytes(rewrite.WithoutMAC(m.Get(f).Bytes())))
	}
}

// answer answers a task that did not open, and logs it. A nil stand-in leaves the task to its timeout. The
// texts are the proxy's own and contain no payload, so they stay readable for whoever operates the server.
func (o *opening) answer(ctx context.Context, kind string, e *commonpb.WorkflowExecution, standIn proto.Message, cause error) {
	o.report(ctx, e, 1, cause)
	answered := standIn != nil && o.tasks.deliver(ctx, o.call, standIn, cause) == nil
	level := slog.LevelError
	if destroyed(cause) && answered { // as somebody decided
		level = slog.LevelInfo
	}
	o.tasks.log(ctx, level, o.call, e, "a task could not be opened; its worker gets none",
		"task", kind, "answered", answered, "held", time.Since(o.arrived).Round(time.Millisecond).String(), "error", cause)
}

// report reports n values that do not open. A worker that hung up, and a record that cannot be kept, say nothing about them.
func (o *opening) report(ctx context.Context, e *commonpb.WorkflowExecution, n int, cause error) {
	if _, ok := errors.AsType[*rewrite.Error](cause); ok && n > 0 {
		o.tasks.options.Unopened(ctx, o.call, e.GetWorkflowId(), n, cause)
	}
}

// deliver sends an answer with the caller's credentials, though the caller may be gone.
func (t *Tasks) deliver(out context.Context, call Call, standIn proto.Message, cause error) error {
	setNamespace(standIn, call.namespace())
	takeOffMAC(standIn)
	method := methodOf(standIn)
	ctx, cancel := outlasting(out)
	defer cancel()
	if err := call.Upstream.Invoke(ctx, service+method, standIn, new(emptypb.Empty)); err != nil {
		t.log(out, slog.LevelError, call, nil, "a task could not be answered in its worker's place; it is left to its timeout",
			"answer", method, "error", err, "cause", cause)
		return err
	}
	t.options.Answered(method)
	return nil
}

// unopenedText says what happened, where, and what to do; next is what follows where the cause may pass. It
// contains no payload, so it goes to the server in clear.
func unopenedText(cause error, next string) string {
	advice := "; find the cause in the proxy's log, and restore the key or the permission to use it, " +
		"or terminate the workflow"
	switch {
	case destroyed(cause):
		advice = "; terminate the workflow: nothing brings the value back"
	case tooLarge(cause):
		advice = "; make its payloads smaller, raise `limits.bytes` of the proxy's config, or give the proxy more memory"
	case cause == errCallerLeft:
		advice = "; " + next
	case beyondMemory(cause):
		advice = "; " + next + ": it opens once the proxy has the memory"
	case transient(cause):
		advice = "; " + next + ": it opens once the proxy reaches its keys"
	case crypto.KindOf(cause) == crypto.KindForeign: // the cause says which grant is missing
		advice = "; or terminate the workflow"
	case denied(cause):
		advice = "; change the policy, or terminate the workflow"
	}
	return from + "the worker was not given this task: " + crypto.ForCaller(cause) + advice
}

// unopenedFailure is retryable. A delay of 0 leaves the time of the retry to the server.
func unopenedFailure(text string, delay time.Duration) *failurepb.Failure {
	info := &failurepb.ApplicationFailureInfo{Type: unopened}
	if delay > 0 {
		info.NextRetryDelay = durationpb.New(delay)
	}
	return applicationFailure(text, info)
}

// applicationFailure is what a person reads in the workflow's history.
func applicationFailure(text string, info *failurepb.ApplicationFailureInfo) *failurepb.Failure {
	return &failurepb.Failure{Message: text, Source: identity,
		FailureInfo: &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: info}}
}
