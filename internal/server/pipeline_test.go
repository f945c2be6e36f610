package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/errordetails/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/x/frame"
)

// echoHistory keeps the input of the last start and returns it as the history's first event.
func echoHistory(f *frontend) func() []byte {
	var mu sync.Mutex
	stored := map[string]*commonpb.Payloads{}
	f.start = func(_ context.Context, q *workflowservice.StartWorkflowExecutionRequest) (*workflowservice.StartWorkflowExecutionResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		stored[q.GetWorkflowId()] = q.GetInput()
		return &workflowservice.StartWorkflowExecutionResponse{RunId: "r"}, nil
	}
	f.history = func(_ context.Context, q *workflowservice.GetWorkflowExecutionHistoryRequest) (*workflowservice.GetWorkflowExecutionHistoryResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		return &workflowservice.GetWorkflowExecutionHistoryResponse{History: &historypb.History{Events: []*historypb.HistoryEvent{{
			EventId: 1, Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
				WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{Input: stored[q.GetExecution().GetWorkflowId()]}}}}}}, nil
	}
	return func() []byte {
		mu.Lock()
		defer mu.Unlock()
		var all []byte
		for _, p := range stored {
			b, _ := proto.Marshal(p)
			all = append(all, b...)
		}
		return all
	}
}

func TestServerSeesCiphertextAndCallerSeesClearText(t *testing.T) {
	f := &frontend{}
	stored := echoHistory(f)
	startFrontend(t, f)
	c := startProxy(t, f).client(t)
	ctx := testContext(t)
	if _, err := c.StartWorkflowExecution(ctx, startRequest([]byte(`"a canary"`))); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(stored(), []byte("canary")) {
		t.Error("the upstream got clear text")
	}
	h, err := c.GetWorkflowExecutionHistory(ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "clinic", Execution: &commonpb.WorkflowExecution{WorkflowId: "w-1"}})
	if err != nil {
		t.Fatal(err)
	}
	got := h.GetHistory().GetEvents()[0].GetWorkflowExecutionStartedEventAttributes().GetInput()
	if !proto.Equal(got, payloads([]byte(`"a canary"`))) {
		t.Errorf("the caller got %v", got)
	}
}

// Many calls of all sizes at once, some cancelled: buffers that go back too early would mix up their contents.
func TestConcurrentCallsKeepTheirBytes(t *testing.T) {
	f := &frontend{}
	echoHistory(f)
	startFrontend(t, f)
	c := startProxy(t, f).client(t, grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name)))
	ctx := testContext(t)
	var all sync.WaitGroup
	for worker := range 16 {
		all.Go(func() {
			for round := range 20 {
				id := fmt.Sprintf("w-%d-%d", worker, round)
				data := make([]byte, 1<<(4+(worker+round)%15)+round)
				rand.Read(data)
				if round%5 == 4 {
					short, cancel := context.WithTimeout(ctx, time.Duration(round*50)*time.Microsecond)
					_, _ = c.StartWorkflowExecution(short, startRequest(data)) // may end anywhere on its way
					cancel()
					continue
				}
				q := startRequest(data)
				q.WorkflowId = id
				if _, err := c.StartWorkflowExecution(ctx, q); err != nil {
					t.Errorf("%s: %v", id, err)
					return
				}
				h, err := c.GetWorkflowExecutionHistory(ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "clinic", Execution: &commonpb.WorkflowExecution{WorkflowId: id}})
				if err != nil {
					t.Errorf("%s: %v", id, err)
					return
				}
				got := h.GetHistory().GetEvents()[0].GetWorkflowExecutionStartedEventAttributes().GetInput()
				if !proto.Equal(got, payloads(data)) {
					t.Errorf("%s: %d bytes came back changed", id, len(data))
					return
				}
			}
		})
	}
	all.Wait()
}

func TestMetadataPassesBothWays(t *testing.T) {
	for _, failing := range []bool{false, true} {
		t.Run(fmt.Sprintf("failing=%v", failing), func(t *testing.T) {
			f := &frontend{describe: func(ctx context.Context, _ *workflowservice.DescribeWorkflowExecutionRequest) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
				grpc.SetHeader(ctx, metadata.Pairs("x-head", "1", "x-head", "2"))
				grpc.SetTrailer(ctx, metadata.Pairs("x-trail-bin", "\x00\xff"))
				if failing {
					return nil, status.Error(codes.NotFound, "no such workflow")
				}
				return &workflowservice.DescribeWorkflowExecutionResponse{}, nil
			}}
			startFrontend(t, f)
			c := startProxy(t, f).client(t)
			ctx := metadata.AppendToOutgoingContext(testContext(t), "authorization", "Bearer xyz", "client-name", "temporal-go", "x-own", "a", "x-own", "b", "x-own-bin", "\x01\x02")
			var header, trailer metadata.MD
			_, err := c.DescribeWorkflowExecution(ctx, &workflowservice.DescribeWorkflowExecutionRequest{Namespace: "clinic"}, grpc.Header(&header), grpc.Trailer(&trailer))
			if want := map[bool]codes.Code{false: codes.OK, true: codes.NotFound}[failing]; status.Code(err) != want {
				t.Fatalf("got %v, want code %v", err, want)
			}
			up := f.lastMetadata(t)
			for k, want := range map[string]string{"authorization": "Bearer xyz", "client-name": "temporal-go", "x-own": "a|b", "x-own-bin": "\x01\x02"} {
				if got := strings.Join(up[k], "|"); got != want {
					t.Errorf("upstream got %s = %q, want %q", k, got, want)
				}
			}
			for _, k := range []string{"content-type", ":authority", "user-agent"} {
				if len(up[k]) > 1 {
					t.Errorf("upstream got %s %d times: %q", k, len(up[k]), up[k])
				}
			}
			if got := strings.Join(header["x-head"], "|"); got != "1|2" {
				t.Errorf("caller got header %q", got)
			}
			if got := strings.Join(trailer["x-trail-bin"], "|"); got != "\x00\xff" {
				t.Errorf("caller got trailer %q", got)
			}
		})
	}
}

func TestStatusDetailsPass(t *testing.T) {
	f := &frontend{}
	f.describe = func(context.Context, *workflowservice.DescribeWorkflowExecutionRequest) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
		st, err := status.New(codes.NotFound, "gone").WithDetails(&errordetails.NotFoundFailure{CurrentCluster: "a", ActiveCluster: "b"})
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	}
	startFrontend(t, f)
	_, err := startProxy(t, f).client(t).DescribeWorkflowExecution(testContext(t), &workflowservice.DescribeWorkflowExecutionRequest{Namespace: "clinic"})
	st := status.Convert(err)
	if st.Code() != codes.NotFound || st.Message() != "gone" || len(st.Details()) != 1 {
		t.Fatalf("got %v with %d details", st, len(st.Details()))
	}
	if d, ok := st.Details()[0].(*errordetails.NotFoundFailure); !ok || d.GetActiveCluster() != "b" {
		t.Errorf("detail changed: %v", st.Details()[0])
	}
}

func TestDeadlineAndCancellationReachTheUpstream(t *testing.T) {
	ended := make(chan error, 1)
	deadline := make(chan time.Time, 1)
	f := &frontend{poll: func(ctx context.Context, _ *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
		d, _ := ctx.Deadline()
		deadline <- d
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}}
	startFrontend(t, f)
	c := startProxy(t, f).client(t)
	ctx, cancel := context.WithTimeout(testContext(t), 20*time.Second)
	go func() {
		_, _ = c.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"}) // ends by cancel
	}()
	want, _ := ctx.Deadline()
	if got := <-deadline; got.Sub(want).Abs() > time.Second {
		t.Errorf("upstream has until %v, the caller until %v", got, want)
	}
	cancelled := time.Now()
	cancel()
	select {
	case <-ended:
		if took := time.Since(cancelled); took > time.Second {
			t.Errorf("the upstream learnt of it after %v", took)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the upstream never learnt that the caller left")
	}
}

// payloadSizes notes what came over the wire.
type payloadSizes struct {
	compressed, plain atomic.Int64
}

func (*payloadSizes) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*payloadSizes) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*payloadSizes) HandleConn(context.Context, stats.ConnStats)                       {}
func (p *payloadSizes) HandleRPC(_ context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InPayload); ok {
		p.compressed.Store(int64(in.CompressedLength))
		p.plain.Store(int64(in.Length))
	}
}

func TestGzipIsAcceptedAndNeverSent(t *testing.T) {
	up, down := &payloadSizes{}, &payloadSizes{}
	f := &frontend{}
	echoHistory(f)
	startFrontend(t, f, grpc.StatsHandler(up))
	c := startProxy(t, f).client(t, grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name)), grpc.WithStatsHandler(down))
	ctx := testContext(t)
	if _, err := c.StartWorkflowExecution(ctx, startRequest(bytes.Repeat([]byte("a"), 100_000))); err != nil {
		t.Fatal(err)
	}
	if up.compressed.Load() != up.plain.Load() {
		t.Errorf("the upstream got a compressed message: %d bytes for %d", up.compressed.Load(), up.plain.Load())
	}
	if _, err := c.GetWorkflowExecutionHistory(ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "clinic", Execution: &commonpb.WorkflowExecution{WorkflowId: "w-1"}}); err != nil {
		t.Fatal(err)
	}
	if down.compressed.Load() != down.plain.Load() || down.plain.Load() < 100_000 {
		t.Errorf("the caller got %d bytes for %d", down.compressed.Load(), down.plain.Load())
	}
}

func TestLargeMessagesPass(t *testing.T) {
	f := &frontend{}
	echoHistory(f)
	startFrontend(t, f)
	limits := LimitsFor(1 << 30)
	limits.RequestBytes = 32 << 20
	c := startProxy(t, f, limited(limits)).client(t)
	ctx := testContext(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 20<<20/16)
	if _, err := c.StartWorkflowExecution(ctx, startRequest(data)); err != nil {
		t.Fatal(err)
	}
	h, err := c.GetWorkflowExecutionHistory(ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "clinic", Execution: &commonpb.WorkflowExecution{WorkflowId: "w-1"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := h.GetHistory().GetEvents()[0].GetWorkflowExecutionStartedEventAttributes().GetInput().GetPayloads()[0].GetData(); !bytes.Equal(got, data) {
		t.Error("20 MiB came back changed")
	}
}

// The text is what SDKs look for, and what ends a workflow: it passes only where the clear message was too large too.
func TestTextOfTooLargeMessages(t *testing.T) {
	const limit = 50_000
	f := &frontend{}
	startFrontend(t, f, grpc.MaxRecvMsgSize(limit))
	c := startProxy(t, f).client(t)
	_, err := c.StartWorkflowExecution(testContext(t), startRequest(make([]byte, 2*limit)))
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "grpc: received message larger than max") {
		t.Errorf("too large in clear: got %v", err)
	}
	random := make([]byte, limit-100)
	rand.Read(random)
	_, err = c.StartWorkflowExecution(testContext(t), startRequest(random))
	if status.Code(err) != codes.InvalidArgument || strings.Contains(err.Error(), "received message larger than max") {
		t.Errorf("too large by sealing only: got %v", err)
	}
}

func TestNotProtobufIsRefusedBeforeForwarding(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	cc := startProxy(t, f).dial(t, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(frame.Codec{})))
	for name, in := range map[string][]byte{
		"garbage":   {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"truncated": {0x0a, 0x7f, 'c'},
	} {
		q := new(frame.New(mem.SliceBuffer(in)))
		err := cc.Invoke(testContext(t), workflowservice.WorkflowService_StartWorkflowExecution_FullMethodName, q, new(frame.Frame))
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if calls := f.calls(); len(calls) != 0 {
		t.Errorf("forwarded: %v", calls)
	}
}

func TestUpstreamErrorsKeepTheirCode(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	p := startProxy(t, f)
	c := p.client(t)
	f.server.Stop()
	_, err := c.GetSystemInfo(testContext(t), &workflowservice.GetSystemInfoRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("with the upstream down: got %v, want Unavailable, which SDKs retry", err)
	}
}

func TestPanicEndsOneCallAndSaysNothingOfThePayload(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	var armed atomic.Int32
	armed.Store(3)
	identify := auth.Anonymous("default", nil)
	p := startProxy(t, f, func(o *Options) {
		o.Listeners[0].Identify = func(s auth.Credentials) (*auth.Identity, error) {
			if armed.Add(-1) >= 0 {
				panic("a canary")
			}
			return identify(s)
		}
	})
	c := p.client(t)
	for range 3 {
		_, err := c.StartWorkflowExecution(testContext(t), startRequest(nil))
		if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "canary") {
			t.Errorf("got %v", err)
		}
	}
	if log := p.log.String(); strings.Contains(log, "canary") || strings.Count(log, "stack=") != 1 {
		t.Errorf("the log is to hold the stack once and no value: %s", log)
	}
	if _, err := c.StartWorkflowExecution(testContext(t), startRequest(nil)); err != nil {
		t.Errorf("the call after it: %v", err)
	}
}
