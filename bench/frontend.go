package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// memoryFrontend stands for a Temporal frontend. It answers queries with their own arguments, and every other call with
// bytes that were put into it before, or with an empty message. It decodes as little as it can: its work is not what is
// measured.
type memoryFrontend struct {
	held    atomic.Int64 // polls of heldQueue
	mu      sync.Mutex
	answers map[string][]byte // by answerKey
	last    map[string][]byte // the last request as it arrived, by method
}

// The control service is called directly, never through a proxy. Put takes a Payload with the answer in data and its
// answerKey in metadata; Last takes one with the method there, and returns that method's last request; Held returns one with
// the number of polls that are held, in data.
const (
	controlService = "bench.Frontend"
	controlKey     = "key"
)

// frontend serves a number of independent frontends, one for each variant, so that no variant sees another's answers.
func frontend(args []string) error {
	flags := flag.NewFlagSet("frontend", flag.ContinueOnError)
	count := flags.Int("count", 1, "how many frontends, each with an address of its own")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var addresses []string
	ended := make(chan error)
	for range *count {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		addresses = append(addresses, l.Addr().String())
		s := newFrontend()
		go func() { ended <- s.Serve(l) }()
	}
	printAddresses(addresses...)
	return <-ended
}

func newFrontend() *grpc.Server {
	f := &memoryFrontend{answers: map[string][]byte{}, last: map[string][]byte{}}
	s := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	desc := grpc.ServiceDesc{ServiceName: workflowservice.WorkflowService_ServiceDesc.ServiceName, HandlerType: (*any)(nil)}
	for _, m := range workflowservice.WorkflowService_ServiceDesc.Methods {
		desc.Methods = append(desc.Methods, rawMethod(m.MethodName, f.answer))
	}
	s.RegisterService(&desc, struct{}{})
	s.RegisterService(&grpc.ServiceDesc{ServiceName: controlService, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{rawMethod("Put", f.put), rawMethod("Last", f.lastRequest), rawMethod("Held", f.heldPolls)}}, struct{}{})
	return s
}

// rawMethod makes a method that takes and returns bytes.
func rawMethod(name string, answer func(ctx context.Context, method string, request []byte) ([]byte, error)) grpc.MethodDesc {
	handler := func(_ any, ctx context.Context, receive func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var in mem.BufferSlice
		if err := receive(&in); err != nil {
			return nil, err
		}
		request := in.Materialize()
		in.Free()
		out, err := answer(ctx, name, request)
		if err != nil {
			return nil, err
		}
		return &mem.BufferSlice{mem.SliceBuffer(out)}, nil
	}
	return grpc.MethodDesc{MethodName: name, Handler: handler}
}

func (f *memoryFrontend) answer(ctx context.Context, method string, request []byte) ([]byte, error) {
	f.mu.Lock()
	f.last[method] = request
	f.mu.Unlock()
	switch method {
	case "GetSystemInfo":
		return proto.Marshal(&workflowservice.GetSystemInfoResponse{ServerVersion: "1.32.1",
			Capabilities: &workflowservice.GetSystemInfoResponse_Capabilities{}})
	case "QueryWorkflow":
		q := new(workflowservice.QueryWorkflowRequest)
		if err := proto.Unmarshal(request, q); err != nil {
			return nil, err
		}
		return proto.Marshal(&workflowservice.QueryWorkflowResponse{QueryResult: q.GetQuery().GetQueryArgs()})
	}
	key, err := answerKey(method, request)
	if err != nil {
		return nil, err
	}
	if key == "PollActivityTaskQueue "+heldQueue {
		f.held.Add(1)
		defer f.held.Add(-1)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.answers[key], nil
}

// answerKey names an answer: by the method, and for histories by the workflow, for polls by the task queue,
// for completions by the task.
func answerKey(method string, request []byte) (string, error) {
	switch method {
	case "GetWorkflowExecutionHistory":
		q := new(workflowservice.GetWorkflowExecutionHistoryRequest)
		err := proto.Unmarshal(request, q)
		return method + " " + q.GetExecution().GetWorkflowId(), err
	case "PollWorkflowTaskQueue":
		q := new(workflowservice.PollWorkflowTaskQueueRequest)
		err := proto.Unmarshal(request, q)
		return method + " " + q.GetTaskQueue().GetName(), err
	case "PollActivityTaskQueue":
		q := new(workflowservice.PollActivityTaskQueueRequest)
		err := proto.Unmarshal(request, q)
		return method + " " + q.GetTaskQueue().GetName(), err
	case "RespondWorkflowTaskCompleted":
		q := new(workflowservice.RespondWorkflowTaskCompletedRequest)
		err := proto.Unmarshal(request, q)
		return method + " " + string(q.GetTaskToken()), err
	}
	return method, nil
}

func (f *memoryFrontend) put(_ context.Context, _ string, request []byte) ([]byte, error) {
	p := new(commonpb.Payload)
	if err := proto.Unmarshal(request, p); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[string(p.Metadata[controlKey])] = p.Data
	return nil, nil
}

func (f *memoryFrontend) lastRequest(_ context.Context, _ string, request []byte) ([]byte, error) {
	p := new(commonpb.Payload)
	if err := proto.Unmarshal(request, p); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last[string(p.Metadata[controlKey])], nil
}

func (f *memoryFrontend) heldPolls(context.Context, string, []byte) ([]byte, error) {
	return proto.Marshal(&commonpb.Payload{Data: strconv.AppendInt(nil, f.held.Load(), 10)})
}

// control is a connection to one frontend past all proxies.
type control struct{ cc *grpc.ClientConn }

func newControl(address string) (control, error) {
	cc, err := dial(address)
	return control{cc}, err
}

// put has the frontend answer the calls of a key with these bytes. request is one of those calls.
func (c control) put(ctx context.Context, method string, request, answer []byte) error {
	key, err := answerKey(method, request)
	if err != nil {
		return err
	}
	in := &commonpb.Payload{Metadata: map[string][]byte{controlKey: []byte(key)}, Data: answer}
	return c.cc.Invoke(ctx, "/"+controlService+"/Put", in, new(commonpb.Payload))
}

// lastRequest fills request with what the frontend received in the method's last call.
func (c control) lastRequest(ctx context.Context, method string, request proto.Message) error {
	in := &commonpb.Payload{Metadata: map[string][]byte{controlKey: []byte(method)}}
	return c.cc.Invoke(ctx, "/"+controlService+"/Last", in, request)
}

// awaitHeld waits, at most a minute, until the frontend holds so many polls.
func (c control) awaitHeld(ctx context.Context, count int) error {
	for range 600 {
		out := new(commonpb.Payload)
		if err := c.cc.Invoke(ctx, "/"+controlService+"/Held", new(commonpb.Payload), out); err != nil {
			return err
		}
		if string(out.Data) == strconv.Itoa(count) {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("the frontend does not hold %d polls after a minute", count)
}

func dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
}

// splitAddresses is the reverse of printAddresses.
func splitAddresses(line string) []string { return strings.Fields(line) }
