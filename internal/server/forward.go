package server

import (
	"context"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/tasks"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Timeouts towards upstreams: there is none of the proxy's own. A call has the time that its caller gave it:
// the deadline and the cancellation of the caller's context go along. Only polls are shortened, to
// Options.PollLimit, and only where drain.time of the config is shorter than a poll: the app derives it
// (pollLimit in app/serve.go). What the proxy asks for by itself has its timeouts where it is asked:
// confirm.go, reflection.go and probe.go of upstream, tasks.go of tasks. Those of connecting and of keepalive
// are in upstream/pool.go.

// route finds the upstream of the namespace, and makes the metadata for it. What is refused here was not forwarded.
func (c *call) route() (err error) {
	if c.upstream, err = c.server.upstreams.Route(c.session.Namespace()); err != nil {
		return err
	}
	if c.server.audit != nil {
		if err := recordable(c.server.audit, c.method.rewrite); err != nil {
			return err
		}
	}
	if c.span.IsRecording() {
		describeSpan(c.span, c.session)
	}
	c.out = outgoing(c.ctx, c.headers, c.listener.Credential, c.upstream.Config(), c.session.Namespace())
	if c.method.rewrite.IsPoll() || c.method.rewrite.RequestTouched() {
		c.confirm()
	}
	return nil
}

// confirm asks the upstream whether the call's namespace exists, unless that is known.
func (c *call) confirm() {
	if namespace := c.session.Namespace(); namespace != "" && !c.server.keys.Confirmed(namespace) {
		c.server.confirmations.Confirm(c.ctx, c.out, c.upstream, namespace)
	}
}

// awaitKeys has a poll wait until the result of its task could be sealed, or ends it without a task. For a worker that
// shuts down it ends the polls that wait.
func (c *call) awaitKeys() error {
	tasks := c.server.tasks
	if c.method.full == workflowservice.WorkflowService_ShutdownWorker_FullMethodName {
		tasks.EndPolls(c.in.bytes())
	}
	if !c.method.rewrite.IsPoll() {
		return nil
	}
	ready, err := tasks.AwaitKeys(c.ctx, c.out, c.taskCall())
	if err != nil {
		return err
	}
	if !ready {
		return c.endPoll()
	}
	tasks.FindPaused(c.out, c.taskCall())
	return nil
}

// taskCall is what tasks needs of the call.
func (c *call) taskCall() tasks.Call {
	return tasks.Call{Method: c.method.rewrite, Caller: c.id.Caller, Request: c.request, Session: c.session, Upstream: c.upstream}
}

// endPoll answers a poll that ends without a task by the proxy's decision.
func (c *call) endPoll() error {
	answer, err := c.server.tasks.EmptyPoll(c.out, c.taskCall())
	if err != nil {
		return err
	}
	c.answer = frame{data: mem.BufferSlice{mem.SliceBuffer(answer)}}
	return errAnswered
}

// forward sends the request and takes in the answer.
func (c *call) forward() error {
	out, isPoll := c.out, c.method.rewrite.IsPoll()
	if isPoll && c.server.pollLimit > 0 {
		var cancel context.CancelFunc
		out, cancel = context.WithTimeout(out, c.server.pollLimit)
		defer cancel()
	}
	var header, trailer metadata.MD
	c.sent = c.sealed.data.Len()
	sent := time.Now()
	err := c.invoke(out, &header, &trailer)
	c.sealed.free() // a call that never got as far as a connection leaves it unsent
	if e := grpc.SetHeader(c.ctx, answered(header)); e != nil && err == nil {
		err = status.Error(codes.Internal, from+"the upstream's headers cannot be forwarded: "+e.Error())
	}
	if e := grpc.SetTrailer(c.ctx, answered(trailer)); e != nil && err == nil {
		err = status.Error(codes.Internal, from+"the upstream's trailers cannot be forwarded: "+e.Error())
	}
	if err != nil {
		c.answer.free()
		if isPoll && status.Code(err) == codes.DeadlineExceeded && c.ctx.Err() == nil && shortened(c.ctx, out) {
			return c.endPoll() // the proxy shortened it
		}
		return c.openStatus(err)
	}
	if namespace := c.session.Namespace(); namespace != "" {
		c.server.keys.Confirm(namespace)
	}
	if isPoll && c.server.tracing != nil && !emptyPoll(&c.answer) {
		c.ctx = c.traceTask(c.ctx, sent)
	}
	return nil
}

// shortened reports whether a poll had less time upstream than its caller gave it.
func shortened(ctx, out context.Context) bool {
	limit, _ := out.Deadline()
	deadline, limited := ctx.Deadline()
	return !limit.IsZero() && (!limited || limit.Before(deadline))
}

// invoke makes the call. An answer that may be large, as those before it were, is read once the limit of bytes allows it.
// A task never waits: it would be lost if the worker's time ran out.
func (c *call) invoke(ctx context.Context, header, trailer *metadata.MD) (err error) {
	m := c.method
	reserved := int64(0)
	if size := m.answer.Load(); size > 0 && size < largeAnswer || m.rewrite.IsPoll() {
		err = c.upstream.Invoke(ctx, m.full, &c.sealed, &c.answer, grpc.Header(header), grpc.Trailer(trailer))
	} else {
		*header, *trailer, err = c.upstream.InvokeGated(ctx, m.full, &c.sealed, &c.answer, func() (err error) {
			reserved, err = c.reserveAnswer(ctx)
			return err
		})
	}
	n := int64(c.answer.data.Len())
	if err == nil {
		// One small answer among large ones must not have the next large one arrive without a reservation. So the
		// expected size falls by a sixteenth with each: after 11 small answers it is half.
		m.answer.Store(max(n, m.answer.Load()/16*15, 1))
	}
	c.lease.place.count(n - reserved)
	return err
}

// reserveAnswer reserves as many bytes as the method's answers had lately. The first answer of all shows how many that is.
func (c *call) reserveAnswer(ctx context.Context) (reserved int64, err error) {
	m := c.method
	expected := int64(0)
	for range answerTries {
		expected = m.answer.Load()
		switch {
		case expected == 0 && m.first.CompareAndSwap(false, true), expected > 0 && expected < largeAnswer:
			return 0, nil
		case expected == 0:
			expected = unknownAnswer
		}
		if taken, ok := c.lease.place.reserve(ctx, expected, bytesWait, nil); ok {
			return taken, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	if m.answer.Load() > 0 && m.reads() {
		return 0, answerFor(c.server.admission.noBytes("an answer", expected)).Err()
	}
	return 0, nil // the call has changed something: its answer must arrive
}

const (
	// largeAnswer is the size from which on an answer waits for the limit of bytes.
	largeAnswer = 256 << 10
	// unknownAnswer is expected of a method that has not answered yet: about the most that a frontend sends.
	unknownAnswer = 4 << 20
)

// reads reports whether the method only reads, so that it may be called again.
func (m *method) reads() bool {
	for _, verb := range []string{"Get", "List", "Describe", "Query", "Count", "Scan"} {
		if strings.HasPrefix(m.rewrite.Name(), verb) {
			return true
		}
	}
	return false
}

// emptyPoll reports whether the answer to a poll contains no task. Each kind of task has its token as first field, and answers
// without one may still hold hints for autoscaling.
func emptyPoll(answer *frame) bool {
	for _, b := range answer.data {
		if data := b.ReadOnlyData(); len(data) > 0 {
			return data[0] != 0x0a
		}
	}
	return true
}

// hopHeaders belong to one connection, or are made anew by gRPC on the next. Everything else is forwarded as it came.
var hopHeaders = []string{":authority", "content-type", "user-agent", "grpc-accept-encoding", "grpc-encoding", "grpc-timeout", "te"}

const namespaceHeader = "temporal-namespace"

// outgoing turns what the caller sent into what the upstream gets.
func outgoing(ctx context.Context, incoming metadata.MD, credential string, c *upstream.Config, namespace string) context.Context {
	for _, h := range hopHeaders {
		delete(incoming, h)
	}
	if credential != "" && !c.PassCredential {
		delete(incoming, credential) // it was meant for the proxy
	}
	if c.APIKey != nil {
		delete(incoming, "authorization")
		delete(incoming, "authorization-extras")
	}
	if len(incoming[namespaceHeader]) > 0 || c.APIKey != nil {
		// Temporal Cloud routes API keys by it, so it names the namespace that was checked, whatever the caller put there.
		delete(incoming, namespaceHeader)
		if namespace != "" {
			// Headers are written after this returns, the request's bytes may be gone by then.
			incoming[namespaceHeader] = []string{strings.Clone(namespace)}
		}
	}
	return metadata.NewOutgoingContext(ctx, incoming)
}

// answered strips from an answer's headers or trailers what gRPC writes itself.
func answered(md metadata.MD) metadata.MD {
	for _, h := range hopHeaders {
		delete(md, h)
	}
	delete(md, "grpc-status-details-bin") // the status, perhaps rewritten, brings its own
	return md
}
