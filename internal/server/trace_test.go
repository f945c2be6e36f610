package server

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/x/frame"
)

// startTraced serves a proxy whose spans stay in memory.
func startTraced(t *testing.T, f *frontend, services ...string) (*proxied, *tracetest.InMemoryExporter) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	p := startProxy(t, f, func(o *Options) {
		o.Services = services
		o.Tracing = &Tracing{Provider: provider, Propagator: propagation.TraceContext{}}
	})
	return p, exporter
}

// spansOf waits until the server span has ended, which is just after the caller has its answer.
func spansOf(t *testing.T, e *tracetest.InMemoryExporter) tracetest.SpanStubs {
	t.Helper()
	for range 200 {
		spans := e.GetSpans()
		if slices.ContainsFunc(spans, func(s tracetest.SpanStub) bool { return s.SpanKind == trace.SpanKindServer }) {
			return spans
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("no server span among %d", len(e.GetSpans()))
	return nil
}

func tree(spans tracetest.SpanStubs) string {
	var lines []string
	var down func(parent trace.SpanID, depth int)
	down = func(parent trace.SpanID, depth int) {
		for _, s := range spans {
			if s.Parent.SpanID() == parent {
				name := s.Name[strings.LastIndexByte(s.Name, '/')+1:]
				lines = append(lines, fmt.Sprintf("%s%s %s", strings.Repeat("  ", depth), s.SpanKind, name))
				down(s.SpanContext.SpanID(), depth+1)
			}
		}
	}
	for _, s := range spans {
		if s.Parent.IsRemote() {
			down(s.Parent.SpanID(), 0)
			return strings.Join(lines, "\n")
		}
	}
	down(trace.SpanID{}, 0)
	return strings.Join(lines, "\n")
}

func find(spans tracetest.SpanStubs, kind trace.SpanKind) tracetest.SpanStub {
	i := slices.IndexFunc(spans, func(s tracetest.SpanStub) bool { return s.SpanKind == kind })
	return spans[i]
}

func attributesOf(s tracetest.SpanStub) map[string]attribute.Value {
	m := map[string]attribute.Value{}
	for _, a := range s.Attributes {
		m[string(a.Key)] = a.Value
	}
	return m
}

func TestSpansOfACall(t *testing.T) {
	f := &frontend{}
	echoHistory(f)
	startFrontend(t, f)
	p, exporter := startTraced(t, f)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if _, err := p.client(t).StartWorkflowExecution(callWith(testContext(t), "traceparent", parent), startRequest([]byte(`"x"`))); err != nil {
		t.Fatal(err)
	}
	spans := spansOf(t, exporter)
	want := "server StartWorkflowExecution\n  internal policy.decide\n  internal payload.seal\n  client StartWorkflowExecution"
	if got := tree(spans); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	server, client := find(spans, trace.SpanKindServer), find(spans, trace.SpanKindClient)
	if got := server.SpanContext.TraceID().String(); got != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("the caller's trace is not continued: %s", got)
	}
	if got := f.lastMetadata(t)["traceparent"]; len(got) != 1 || !strings.Contains(got[0], client.SpanContext.SpanID().String()) {
		t.Errorf("the upstream got traceparent %v, want the client span's", got)
	}
	for key, want := range map[string]string{"temporal.namespace": "clinic", "temporal.workflow_id": "w-1", "temporal.workflow_type": "Admission",
		"rpc.method": "temporal.api.workflowservice.v1.WorkflowService/StartWorkflowExecution", "rpc.response.status_code": "OK"} {
		if got := attributesOf(server)[key].AsString(); got != want {
			t.Errorf("%s = %q, want %q", key, got, want)
		}
	}
	if attributesOf(server)["policy.revision"].AsString() == "" {
		t.Error("no policy.revision")
	}
	for _, s := range []tracetest.SpanStub{server, client} {
		if attributesOf(s)["server.address"].AsString() == "" || attributesOf(s)["server.port"].AsInt64() == 0 {
			t.Errorf("the %s span does not say at which address it was served", s.SpanKind)
		}
	}
}

// TestSpansOfAPassedCall: calls to services that are not rewritten have spans too.
func TestSpansOfAPassedCall(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	p, exporter := startTraced(t, f)
	stream, err := reflectionpb.NewServerReflectionClient(p.dial(t)).ServerReflectionInfo(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	list := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}
	if err := stream.Send(list); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	_ = stream.CloseSend()
	if _, err := stream.Recv(); err != io.EOF {
		t.Error(err)
	}
	if got, want := tree(spansOf(t, exporter)), "server ServerReflectionInfo\n  client ServerReflectionInfo"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestEmptyPollsMakeNoTraceAndTasksDo(t *testing.T) {
	task := make(chan []byte, 2)
	f := &frontend{poll: func(context.Context, *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
		time.Sleep(20 * time.Millisecond)
		token := <-task
		if token == nil {
			return &workflowservice.PollActivityTaskQueueResponse{}, nil
		}
		return &workflowservice.PollActivityTaskQueueResponse{TaskToken: token, ActivityType: &commonpb.ActivityType{Name: "a"}}, nil
	}}
	startFrontend(t, f)
	p, exporter := startTraced(t, f)
	c := p.client(t)
	poll := func() {
		t.Helper()
		if _, err := c.PollActivityTaskQueue(testContext(t), &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"}); err != nil {
			t.Fatal(err)
		}
	}
	task <- nil
	poll()
	if spans := exporter.GetSpans(); len(spans) > 0 {
		t.Errorf("an empty poll made a trace:\n%s", tree(spans))
	}
	task <- []byte("token")
	poll()
	spans := spansOf(t, exporter)
	if got, want := tree(spans), "server PollActivityTaskQueue\n  client PollActivityTaskQueue"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, s := range spans {
		if took := s.EndTime.Sub(s.StartTime); took < 20*time.Millisecond {
			t.Errorf("%s span lasts %v, less than the poll", s.SpanKind, took)
		}
	}
}

// A failed query's message is the status message of its call, and may quote a payload.
func TestSpansHoldNoUpstreamText(t *testing.T) {
	f := &frontend{query: func(context.Context, *workflowservice.QueryWorkflowRequest) (*workflowservice.QueryWorkflowResponse, error) {
		return nil, status.Error(codes.Internal, "a canary")
	}}
	startFrontend(t, f)
	p, exporter := startTraced(t, f)
	_, err := p.client(t).QueryWorkflow(testContext(t), &workflowservice.QueryWorkflowRequest{Namespace: "clinic"})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "a canary") {
		t.Fatalf("got %v", err)
	}
	for _, s := range spansOf(t, exporter) {
		if strings.Contains(fmt.Sprint(s.Status, s.Attributes, s.Events), "canary") {
			t.Errorf("%s span: %v", s.SpanKind, s.Status)
		}
		if s.SpanKind != trace.SpanKindInternal && s.Status.Code.String() != "Error" {
			t.Errorf("%s span has status %v", s.SpanKind, s.Status)
		}
	}
}

// The upstream's errors to calls that are passed on as they are stay out of spans as well.
func TestSpansOfPassedCallsHoldNoUpstreamText(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	p, exporter := startTraced(t, f, "acme.Extra")
	cc := p.dial(t, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(frame.Codec{})))
	if err := cc.Invoke(testContext(t), "/acme.Extra/Method", new(frame.Frame), new(frame.Frame)); status.Code(err) != codes.Unimplemented {
		t.Fatal(err)
	}
	for _, s := range spansOf(t, exporter) {
		if s.Status.Code.String() != "Error" || s.Status.Description != "failed at the upstream or on the way there" {
			t.Errorf("the %s span has the status %v", s.SpanKind, s.Status)
		}
	}
}

// TestCallsThatAreGivenUpCountAsCanceled: what the proxy gives up is no answer of the upstream.
func TestCallsThatAreGivenUpCountAsCanceled(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	tracing := &Tracing{Provider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)), Propagator: propagation.TraceContext{}}
	spans := tracing.start()
	server, _ := tracing.begin(t.Context(), "/s/m")
	ctx, _ := spans.Begin(server, "/s/m")
	spans.End(ctx, nil, &refusal{text: "a canary"})
	s := find(exporter.GetSpans(), trace.SpanKindClient)
	if got := attributesOf(s)["rpc.response.status_code"].AsString(); got != "CANCELLED" || strings.Contains(s.Status.Description, "canary") {
		t.Errorf("got %s, %v", got, s.Status)
	}
}

func TestUnsampledCallsMakeNoSpansAndKeepTheirTraceparent(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	p, exporter := startTraced(t, f)
	const unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	if _, err := p.client(t).StartWorkflowExecution(callWith(testContext(t), "traceparent", unsampled), startRequest(nil)); err != nil {
		t.Fatal(err)
	}
	if got := f.lastMetadata(t)["traceparent"]; len(got) != 1 || got[0] != unsampled {
		t.Errorf("the upstream got traceparent %v, want the caller's", got)
	}
	if spans := exporter.GetSpans(); len(spans) > 0 {
		t.Errorf("spans were made:\n%s", tree(spans))
	}
}

// TestRootsThatAreNotSampled: a trace that begins with a call and is not sampled has no span anywhere, and its id in the logs alone.
// One that is sampled has the id that was drawn, and the traces of callers are the provider's to decide.
func TestRootsThatAreNotSampled(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	exporter := tracetest.NewInMemoryExporter()
	var sampled atomic.Bool
	var drawn atomic.Pointer[trace.TraceID]
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter), sdktrace.WithIDGenerator(drawnIDs{}))
	p := startProxy(t, f, func(o *Options) {
		o.Tracing = &Tracing{Provider: provider, Propagator: propagation.TraceContext{}, SamplesRoot: func(id trace.TraceID) bool {
			drawn.Store(&id)
			return sampled.Load()
		}}
	})
	start := func(ctx context.Context) {
		t.Helper()
		if _, err := p.client(t).StartWorkflowExecution(ctx, startRequest([]byte(`"x"`))); err != nil {
			t.Fatal(err)
		}
	}
	start(testContext(t))
	if id := drawn.Load(); id == nil || !id.IsValid() {
		t.Errorf("the drawn id is %v", id)
	}
	if got := f.lastMetadata(t)["traceparent"]; len(got) > 0 || len(exporter.GetSpans()) > 0 {
		t.Errorf("a call that is not sampled went on with traceparent %v and has %d spans", got, len(exporter.GetSpans()))
	}
	sampled.Store(true)
	start(testContext(t))
	if got := find(spansOf(t, exporter), trace.SpanKindServer).SpanContext.TraceID(); got != *drawn.Load() {
		t.Errorf("the trace has the id %s, and %s was drawn", got, drawn.Load())
	}
	exporter.Reset()
	sampled.Store(false)
	start(callWith(testContext(t), "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
	if got := find(spansOf(t, exporter), trace.SpanKindServer).SpanContext.TraceID().String(); got != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("the caller's trace is not continued: %s", got)
	}
}

// drawnIDs takes the ids of traces from the server.
type drawnIDs struct{}

func (drawnIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	id, ok := RootTraceID(ctx)
	if !ok {
		id = NewTraceID()
	}
	return id, drawnIDs{}.NewSpanID(ctx, id)
}

func (drawnIDs) NewSpanID(context.Context, trace.TraceID) (id trace.SpanID) {
	other := NewTraceID()
	copy(id[:], other[:])
	return id
}
