package main

import (
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
)

// sink is a trace collector that accepts everything and keeps nothing.
func sink(args []string) error {
	_, l, err := parse("sink", args)
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.MaxRecvMsgSize(maxMessage))
	accept := func(string, []byte) ([]byte, error) { return nil, nil }
	s.RegisterService(&grpc.ServiceDesc{ServiceName: collector.TraceService_ServiceDesc.ServiceName, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{rawMethod("Export", accept)}}, struct{}{})
	printAddresses(l.Addr().String())
	return s.Serve(l)
}
