package abuse

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// canary starts every payload of a well-behaved caller. The frontend must never read it.
const canary = "CANARY-of-a-well-behaved-caller"

// frontend stands for a Temporal server that is never the bottleneck. It answers a query with the query's own arguments,
// keeps signals and gives them back as a history, and holds polls.
type frontend struct {
	address string
	server  *grpc.Server
	leaks   atomic.Int64

	mu      sync.Mutex
	signals map[string][]*commonpb.Payloads // by workflow id
}

// pollTime is how long a poll is held before it ends without a task.
const pollTime = 15 * time.Second

// pageBytes is where a page of a history ends, as a Temporal server does it.
const pageBytes = 4 << 20

func startFrontend() (*frontend, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &frontend{address: l.Addr().String(), signals: map[string][]*commonpb.Payloads{}}
	f.server = grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.MaxRecvMsgSize(256<<20), grpc.MaxSendMsgSize(256<<20),
		grpc.UnknownServiceHandler(f.handle))
	go func() { _ = f.server.Serve(l) }()
	return f, nil
}

func (f *frontend) handle(_ any, stream grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(stream)
	var in []byte
	if err := stream.RecvMsg(&in); err != nil {
		return err
	}
	if bytes.Contains(in, []byte(canary)) {
		f.leaks.Add(1)
	}
	out, err := f.answer(stream.Context(), full[bytes.LastIndexByte([]byte(full), '/')+1:], in)
	if err != nil {
		return err
	}
	return stream.SendMsg(&out)
}

func (f *frontend) answer(ctx context.Context, method string, in []byte) ([]byte, error) {
	switch method {
	case "GetSystemInfo":
		return proto.Marshal(&workflowservice.GetSystemInfoResponse{ServerVersion: "1.32.1"})
	case "ServerReflectionInfo":
		return nil, status.Error(codes.Unimplemented, "no reflection")
	case "PollWorkflowTaskQueue", "PollActivityTaskQueue", "PollNexusTaskQueue":
		select {
		case <-time.After(pollTime):
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case "QueryWorkflow":
		q := new(workflowservice.QueryWorkflowRequest)
		if err := proto.Unmarshal(in, q); err != nil {
			return nil, err
		}
		return proto.Marshal(&workflowservice.QueryWorkflowResponse{QueryResult: q.GetQuery().GetQueryArgs()})
	case "SignalWorkflowExecution":
		q := new(workflowservice.SignalWorkflowExecutionRequest)
		if err := proto.Unmarshal(in, q); err != nil {
			return nil, err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		id := q.GetWorkflowExecution().GetWorkflowId()
		f.signals[id] = append(f.signals[id], q.GetInput())
	case "GetWorkflowExecutionHistory":
		q := new(workflowservice.GetWorkflowExecutionHistoryRequest)
		if err := proto.Unmarshal(in, q); err != nil {
			return nil, err
		}
		return f.history(q.GetExecution().GetWorkflowId())
	}
	return nil, nil
}

// history is one page with as many signals as fit.
func (f *frontend) history(id string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := new(historypb.History)
	size := 0
	for i, input := range f.signals[id] {
		if size += proto.Size(input); size > pageBytes {
			break
		}
		h.Events = append(h.Events, &historypb.HistoryEvent{EventId: int64(i + 1), EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED,
			Attributes: &historypb.HistoryEvent_WorkflowExecutionSignaledEventAttributes{
				WorkflowExecutionSignaledEventAttributes: &historypb.WorkflowExecutionSignaledEventAttributes{SignalName: "s", Input: input}}})
	}
	return proto.Marshal(&workflowservice.GetWorkflowExecutionHistoryResponse{History: h})
}

// rawCodec leaves messages as bytes.
type rawCodec struct{}

var _ encoding.CodecV2 = rawCodec{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *[]byte:
		return mem.BufferSlice{mem.SliceBuffer(*m)}, nil
	case proto.Message:
		b, err := proto.Marshal(m)
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	return nil, fmt.Errorf("abuse: %T is no message", v)
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *[]byte:
		*m = data.Materialize()
		return nil
	case proto.Message:
		return proto.Unmarshal(data.Materialize(), m)
	}
	return fmt.Errorf("abuse: %T is no message", v)
}
