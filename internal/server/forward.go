package server

import (
	"context"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/upstream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// confirm asks the upstream if the call's namespace exists, unless that is known. out is ctx with the metadata to send.
func (c *call) confirm(ctx, out context.Context) {
	if namespace := c.rewriting.Namespace(); namespace != "" && !c.server.keys.Confirmed(namespace) {
		c.server.confirmations.Confirm(ctx, out, c.route, namespace)
	}
}

// forward sends the request and makes the answer. out is ctx with the metadata to send.
func (c *call) forward(ctx, out context.Context, request *frame) (*frame, error) {
	m := c.method
	if m.rewrite.IsPoll() && c.server.pollLimit > 0 {
		var cancel context.CancelFunc
		out, cancel = context.WithTimeout(out, c.server.pollLimit)
		defer cancel()
	}

	var header, trailer metadata.MD
	answer := new(frame)
	c.sent = request.data.Len()
	sent := time.Now()
	err := c.invoke(out, request, answer, &header, &trailer)
	request.free() // a call that never got as far as a connection leaves it unsent
	if e := grpc.SetHeader(ctx, answered(header)); e != nil && err == nil {
		err = status.Error(codes.Internal, from+"the upstream's headers cannot be forwarded: "+e.Error())
	}
	if e := grpc.SetTrailer(ctx, answered(trailer)); e != nil && err == nil {
		err = status.Error(codes.Internal, from+"the upstream's trailers cannot be forwarded: "+e.Error())
	}
	if err != nil {
		answer.free()
		if m.rewrite.IsPoll() && status.Code(err) == codes.DeadlineExceeded && ctx.Err() == nil && shortened(ctx, out) {
			c.end(codes.OK)
			return c.endPoll(out) // it is the proxy that did not want to wait longer
		}
		return nil, c.failed(ctx, err)
	}
	if namespace := c.rewriting.Namespace(); namespace != "" {
		c.server.keys.Confirm(namespace)
	}
	if m.rewrite.IsPoll() && !emptyPoll(answer) {
		ctx = c.traceTask(ctx, sent)
	}
	return c.open(ctx, out, answer)
}

// shortened tells if a poll had less time upstream than its caller gave it.
func shortened(ctx, out context.Context) bool {
	limit, _ := out.Deadline()
	deadline, limited := ctx.Deadline()
	return !limit.IsZero() && (!limited || limit.Before(deadline))
}

// invoke makes the call. An answer that may be large, as those before it were, is read once there is room for it. A task
// is not kept waiting: it is lost if the worker's time runs out.
func (c *call) invoke(ctx context.Context, request, answer *frame, header, trailer *metadata.MD) (err error) {
	m := c.method
	reserved := int64(0)
	if size := m.answer.Load(); size > 0 && size < largeAnswer || m.rewrite.IsPoll() {
		err = c.route.Invoke(ctx, m.full, request, answer, grpc.Header(header), grpc.Trailer(trailer))
	} else {
		*header, *trailer, err = c.route.InvokeGated(ctx, m.full, request, answer, func() (err error) {
			reserved, err = c.roomForAnswer(ctx)
			return err
		})
	}
	n := int64(answer.data.Len())
	if err == nil {
		m.answer.Store(max(n, m.answer.Load()/16*15, 1))
	}
	c.release.count(n - min(reserved, c.server.room.size))
	return err
}

// roomForAnswer waits for room for as much as the method answered lately, and reserves it. The first answer of all tells
// the others how much that is.
func (c *call) roomForAnswer(ctx context.Context) (reserved int64, err error) {
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
		if c.release.reserve(ctx, expected, roomWait) {
			return expected, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	if m.answer.Load() > 0 && m.reads() {
		c.server.overLimit("bytes")
		return 0, answerFor(noRoom("an answer", expected, c.server.room.size)).Err()
	}
	return 0, nil // what it tells has happened: it must arrive
}

const (
	// largeAnswer is the size from which on an answer has to wait for room.
	largeAnswer = 256 << 10
	// unknownAnswer is expected of a method that has not answered yet: about the most that a frontend sends.
	unknownAnswer = 4 << 20
)

// reads tells if calling the method once more changes nothing.
func (m *method) reads() bool {
	for _, verb := range []string{"Get", "List", "Describe", "Query", "Count", "Scan"} {
		if strings.HasPrefix(m.rewrite.Name(), verb) {
			return true
		}
	}
	return false
}

// emptyPoll tells if the answer to a poll holds no task. Each kind of task has its token as first field, and answers
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
