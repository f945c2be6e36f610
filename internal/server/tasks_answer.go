package server

import (
	"context"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

// A task that its worker cannot be given, or whose answer cannot be sent on, must not just vanish: the server would wait
// for its timeout, and nobody would learn why. This file answers such tasks in the worker's stead, with the reason.

const (
	// retryTask is when the server hands out again an activity that could not be opened for a passing cause.
	retryTask = 30 * time.Second
	// answerTimeout bounds the call that answers for a worker.
	answerTimeout = 10 * time.Second
)

// standIn is a call that answers a task in its worker's stead.
type standIn struct {
	method  string
	request proto.Message
}

// answer answers a task in its worker's stead, and tells the operator. A nil one leaves the task to its timeout.
func (r *rescue) answer(ctx context.Context, kind string, e *commonpb.WorkflowExecution, answer *standIn, cause error) {
	answered := answer != nil && r.call.standFor(ctx, answer, cause) == nil
	r.call.server.log.Error("a task could not be opened; its worker gets none", "task", kind, "rpc", r.call.method.full, "namespace", r.call.rewriting.Namespace(),
		"workflow_id", e.GetWorkflowId(), "run_id", e.GetRunId(), "answered", answered, "held", time.Since(r.arrived).Round(time.Millisecond), "error", cause)
}

// standFor sends an answer in the worker's stead. Its texts are the proxy's own, which hold no payload: they stay
// readable for whoever runs the server.
func (c *call) standFor(out context.Context, answer *standIn, cause error) error {
	in, err := c.marshalStandIn(answer)
	if err != nil {
		return err
	}
	return c.deliver(out, answer.method, in, cause)
}

func (c *call) marshalStandIn(answer *standIn) ([]byte, error) {
	m := answer.request.ProtoReflect()
	m.Set(m.Descriptor().Fields().ByName("namespace"), protoreflect.ValueOfString(c.rewriting.Namespace()))
	return proto.Marshal(answer.request)
}

// deliver sends the answer with the caller's credentials, though the caller may be gone.
func (c *call) deliver(out context.Context, method string, in []byte, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(out), answerTimeout)
	defer cancel()
	reply := new(frame)
	defer reply.free()
	if err := c.route.Invoke(ctx, service+method, &frame{data: mem.BufferSlice{mem.SliceBuffer(in)}}, reply); err != nil {
		c.server.log.Error("a task could not be answered in its worker's stead; it is left to its timeout", "rpc", method,
			"namespace", c.rewriting.Namespace(), "error", err, "cause", cause)
		return err
	}
	c.server.metrics.standIns.WithLabelValues(method).Inc()
	return nil
}

// send makes a call of the proxy's own. ctx has the metadata to send.
func (s *Server) send(ctx context.Context, r *upstream.Pool, method string, request proto.Message) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
	defer cancel()
	return s.fetch(ctx, r, method, request, nil)
}

// fetch makes a call of the proxy's own and reads the answer into reply, unless that is nil. ctx has the metadata to send.
func (s *Server) fetch(ctx context.Context, r *upstream.Pool, method string, request, reply proto.Message) error {
	if reply == nil {
		reply = new(emptypb.Empty)
	}
	return r.Invoke(ctx, service+method, request, reply)
}

// unopened is the type of the failures that tell of a task that could not be opened.
const unopened = "TaskUnopened"

// handedOutAgain is what happens to most tasks.
const handedOutAgain = "it is handed out again"

// unopenedText says what happened, where, and what to do; next is what follows where the cause may pass. It holds no
// payload, so it goes out in clear.
func unopenedText(cause error, next string) string {
	advice := "; find the cause in the proxy's log, and restore the key or the permission to use it, or terminate the workflow"
	switch {
	case cause == errCallerLeft:
		advice = "; " + next
	case transient(cause):
		advice = "; " + next + ": it opens once the proxy reaches its keys"
	}
	return from + "the worker was not given this task: " + crypto.ForCaller(cause) + advice
}

func unopenedFailure(text string, delay time.Duration) *failurepb.Failure {
	info := &failurepb.ApplicationFailureInfo{Type: unopened}
	if delay > 0 {
		info.NextRetryDelay = durationpb.New(delay)
	}
	return &failurepb.Failure{Message: text, Source: standInIdentity, FailureInfo: &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: info}}
}
