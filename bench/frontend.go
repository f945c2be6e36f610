package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// memoryFrontend answers queries with their own arguments, and asks for a history with one that holds the payloads of
// the last signal: what a proxy sealed on the way in, it opens on the way out. It is a collector of traces as well.
type memoryFrontend struct {
	workflowservice.UnimplementedWorkflowServiceServer
	collector.UnimplementedTraceServiceServer

	mu        sync.Mutex
	histories map[string][]byte // by workflow id
}

func frontend(args []string) error {
	_, l, err := parse("frontend", args)
	if err != nil {
		return err
	}
	f := &memoryFrontend{histories: map[string][]byte{}}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	workflowservice.RegisterWorkflowServiceServer(s, f)
	collector.RegisterTraceServiceServer(s, f)
	ready(l)
	return s.Serve(l)
}

func (f *memoryFrontend) Export(context.Context, *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	return &collector.ExportTraceServiceResponse{}, nil
}

func (f *memoryFrontend) GetSystemInfo(context.Context, *workflowservice.GetSystemInfoRequest) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{ServerVersion: "1.32.1", Capabilities: &workflowservice.GetSystemInfoResponse_Capabilities{}}, nil
}

func (f *memoryFrontend) QueryWorkflow(_ context.Context, q *workflowservice.QueryWorkflowRequest) (*workflowservice.QueryWorkflowResponse, error) {
	return &workflowservice.QueryWorkflowResponse{QueryResult: q.GetQuery().GetQueryArgs()}, nil
}

// SignalWorkflowExecution takes the payloads that the histories of this workflow will hold.
func (f *memoryFrontend) SignalWorkflowExecution(_ context.Context, q *workflowservice.SignalWorkflowExecutionRequest) (*workflowservice.SignalWorkflowExecutionResponse, error) {
	b, err := proto.Marshal(&workflowservice.GetWorkflowExecutionHistoryResponse{History: historyOf(q.GetInput().GetPayloads())})
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.histories[q.GetWorkflowExecution().GetWorkflowId()] = b
	return &workflowservice.SignalWorkflowExecutionResponse{}, nil
}

func (f *memoryFrontend) GetWorkflowExecutionHistory(ctx context.Context, q *workflowservice.GetWorkflowExecutionHistoryRequest) (*workflowservice.GetWorkflowExecutionHistoryResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := q.GetExecution().GetWorkflowId()
	b, ok := f.histories[id]
	if !ok {
		return nil, fmt.Errorf("no history of %q", id)
	}
	// Encoded once, and carried as fields that nobody knows: the frontend's work is not what is measured.
	r := new(workflowservice.GetWorkflowExecutionHistoryResponse)
	r.ProtoReflect().SetUnknown(b)
	return r, nil
}

// historyEvents is the length of the histories.
const historyEvents = 1000

// historyOf is the history of a workflow that ran activities one after another: three events each, two of them with a
// payload. The SDK's workers see such ones.
func historyOf(payloads []*commonpb.Payload) *historypb.History {
	h := &historypb.History{}
	next := func() *commonpb.Payloads {
		if len(payloads) == 0 {
			return nil
		}
		p := payloads[0]
		payloads = payloads[1:]
		return &commonpb.Payloads{Payloads: []*commonpb.Payload{p}}
	}
	now := timestamppb.New(time.Unix(1_790_000_000, 0))
	for i := range historyEvents {
		e := &historypb.HistoryEvent{EventId: int64(i + 1), EventTime: now, TaskId: int64(1_048_576 + i)}
		switch i % 4 {
		case 0:
			e.EventType = enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
			e.Attributes = &historypb.HistoryEvent_ActivityTaskScheduledEventAttributes{ActivityTaskScheduledEventAttributes: &historypb.ActivityTaskScheduledEventAttributes{
				ActivityId: fmt.Sprint(i), ActivityType: &commonpb.ActivityType{Name: "BookScan"}, TaskQueue: &taskqueuepb.TaskQueue{Name: "clinic"},
				Input: next(), WorkflowTaskCompletedEventId: int64(i)}}
		case 1:
			e.EventType = enumspb.EVENT_TYPE_ACTIVITY_TASK_STARTED
			e.Attributes = &historypb.HistoryEvent_ActivityTaskStartedEventAttributes{ActivityTaskStartedEventAttributes: &historypb.ActivityTaskStartedEventAttributes{
				ScheduledEventId: int64(i), Identity: "17@worker-6f7d", RequestId: "0c6f0f3e-8d3a-4a39-b0f8-5b8e3f2b6a11", Attempt: 1}}
		case 2:
			e.EventType = enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED
			e.Attributes = &historypb.HistoryEvent_ActivityTaskCompletedEventAttributes{ActivityTaskCompletedEventAttributes: &historypb.ActivityTaskCompletedEventAttributes{
				Result: next(), ScheduledEventId: int64(i - 1), StartedEventId: int64(i), Identity: "17@worker-6f7d"}}
		case 3:
			e.EventType = enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
			e.Attributes = &historypb.HistoryEvent_WorkflowTaskCompletedEventAttributes{WorkflowTaskCompletedEventAttributes: &historypb.WorkflowTaskCompletedEventAttributes{
				ScheduledEventId: int64(i - 1), StartedEventId: int64(i), Identity: "17@worker-6f7d"}}
		}
		h.Events = append(h.Events, e)
	}
	return h
}
