package main

import (
	"context"
	"flag"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

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
	accept := func(context.Context, string, []byte) ([]byte, error) { return nil, nil }
	s.RegisterService(&grpc.ServiceDesc{ServiceName: collector.TraceService_ServiceDesc.ServiceName, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{rawMethod("Export", accept)}}, struct{}{})
	printAddresses(l.Addr().String())
	return s.Serve(l)
}

// delay passes HTTP on, each request later by a given time: a key service in another building.
func delay(args []string) error {
	flags := flag.NewFlagSet("delay", flag.ContinueOnError)
	upstream := flags.String("upstream", "", "address of what stands behind it")
	by := flags.Duration("by", 0, "how long each request waits")
	if err := flags.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	pass := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: *upstream})
	pass.Transport = &http.Transport{MaxIdleConnsPerHost: 256}
	printAddresses(l.Addr().String())
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(*by)
		pass.ServeHTTP(w, r)
	}))
}
