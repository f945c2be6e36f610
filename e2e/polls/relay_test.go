package polls

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
)

// The relay is the least that a proxy on grpc-go can be: raw frames, unary calls, no look at anything. It runs as a
// process of its own, so that its memory can be told from the test's.

// relayTo names the upstream for a process of this test binary that is to be the relay.
const relayTo = "POLLS_RELAY_TO"

// relayConnections are as many as 5,000 polls need at 100 streams each, with some to spare.
const relayConnections = 64

type raw struct{ data mem.BufferSlice }

type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) { return v.(*raw).data, nil }

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	data.Ref()
	v.(*raw).data = data
	return nil
}

// relay serves until its standard input closes, which is when the test ends.
func relay(upstream string) error {
	var conns [relayConnections]*grpc.ClientConn
	for i := range conns {
		cc, err := grpc.NewClient(upstream, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
		if err != nil {
			return err
		}
		conns[i] = cc
	}
	var next atomic.Uint64
	server := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}))
	handler := func(_ any, ctx context.Context, receive func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in, out := new(raw), new(raw)
		if err := receive(in); err != nil {
			return nil, err
		}
		md, _ := metadata.FromIncomingContext(ctx)
		method, _ := grpc.Method(ctx)
		var header, trailer metadata.MD
		err := conns[next.Add(1)%relayConnections].Invoke(metadata.NewOutgoingContext(ctx, md), method, in, out, grpc.Header(&header), grpc.Trailer(&trailer))
		if err != nil {
			return nil, err
		}
		return out, grpc.SetHeader(ctx, header)
	}
	desc := &grpc.ServiceDesc{ServiceName: "temporal.api.workflowservice.v1.WorkflowService", HandlerType: (*any)(nil)}
	for _, m := range []string{"PollActivityTaskQueue", "DescribeWorkflowExecution"} {
		desc.Methods = append(desc.Methods, grpc.MethodDesc{MethodName: m, Handler: handler})
	}
	server.RegisterService(desc, struct{}{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("{\"address\":%q}\n", l.Addr().String())
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1)) // nothing is written to it: it ends with the test
		os.Exit(0)
	}()
	return server.Serve(l)
}
