package server

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/tasks"
)

// openAnswer opens an answer. Tasks in it that cannot be opened are answered in their workers' place and left out. out has
// the metadata to answer them with.
func (c *call) openAnswer(ctx, out context.Context, sealed []byte) ([]byte, error) {
	if !tasks.HandsOut(c.method.rewrite) {
		plain, err := c.rewriting.Response(ctx, sealed)
		if err != nil {
			c.server.metrics.failed(directionResponse, err)
			return nil, err
		}
		return plain, c.record(ctx, codes.OK)
	}
	arrived := time.Now()
	first, cancel := context.WithTimeout(ctx, tasks.FirstTry)
	plain, err := c.rewriting.Response(first, sealed)
	cancel()
	if err == nil {
		if err = c.record(ctx, codes.OK); err == nil {
			return plain, nil
		}
	}
	c.server.metrics.failed(directionResponse, err)
	c.withhold()
	md, _ := metadata.FromOutgoingContext(out)
	plain, err = c.server.tasks.Open(metadata.NewOutgoingContext(ctx, md), c.taskCall(), tasks.Unopened{Sealed: sealed, Arrived: arrived, Cause: err})
	if err != nil {
		return nil, err
	}
	return plain, c.record(ctx, codes.OK)
}

// taskCall is what tasks needs of the call.
func (c *call) taskCall() tasks.Call {
	return tasks.Call{Method: c.method.rewrite, Caller: c.id.Caller, Request: c.in, Session: c.rewriting, Upstream: c.route}
}

// endPoll answers a poll that ends without a task by the proxy's decision. out has the metadata to ask the upstream with.
func (c *call) endPoll(out context.Context) (*frame, error) {
	answer, err := c.server.tasks.EmptyPoll(out, c.taskCall())
	return &frame{data: mem.BufferSlice{mem.SliceBuffer(answer)}}, err
}

// failRefused fails the task whose answer the proxy had to refuse, and gives the worker what it expects of a task that is
// over. cause is returned where there is no task to fail.
func (c *call) failRefused(out context.Context, cause error) error {
	if !c.server.tasks.FailRefused(out, c.taskCall(), cause) {
		return cause
	}
	return &refusal{codes.NotFound, "the task was failed in the worker's stead: " + cause.Error()}
}

// open gives the frame to answer with. It owns answer. out is what a call in the worker's stead is made with.
func (c *call) open(ctx, out context.Context, answer *frame) (*frame, error) {
	answer, err := c.onlyReached(answer)
	if err != nil {
		return nil, c.refuse(err)
	}
	if !c.method.rewrite.ResponseTouched() {
		c.end(codes.OK)
		return c.release.lendFrame(answer), nil
	}
	start := time.Now()
	sealed := answer.bytesIn(upstreamBuffers)
	plain, err := c.openAnswer(ctx, out, sealed)
	if err != nil {
		answer.free()
		c.recordRefused(ctx, err)
		return nil, c.refuse(ofAnswer(err))
	}
	stats := c.rewriting.ResponseStats()
	span := trace.SpanFromContext(ctx)
	c.server.metrics.rewritten(directionResponse, stats, time.Since(start), span)
	describeRewriting(span, directionResponse, stats)
	c.end(codes.OK)
	if same(plain, sealed) {
		return c.release.lendFrame(answer), nil
	}
	answer.free()
	return c.release.lendAnswer(plain), nil
}

// failed makes the answer from an error that came from the upstream or from the way there.
func (c *call) failed(ctx context.Context, err error) error {
	st := status.Convert(err).Proto()
	if other, grown := grownTooLarge(st, len(c.in), c.sent); grown {
		st = other
	} else if c.method.rewrite.StatusTouched() {
		opened := c.rewriting.Status(ctx, st)
		if refused := c.record(ctx, codes.Code(st.GetCode())); refused != nil {
			return c.refuse(refused)
		}
		st = opened
	}
	upstreamSpoke(ctx)
	c.end(codes.Code(st.GetCode()))
	return status.FromProto(st).Err()
}
