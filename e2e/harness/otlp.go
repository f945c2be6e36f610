package harness

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Collector receives spans over OTLP/gRPC and keeps them.
type Collector struct {
	collector.UnimplementedTraceServiceServer
	Address string

	server *grpc.Server
	mu     sync.Mutex
	spans  []*trace.Span
	raw    []byte
}

// StartCollector listens on a free port of loopback.
func StartCollector() (*Collector, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("otlp receiver: %w", err)
	}
	c := &Collector{Address: l.Addr().String(), server: grpc.NewServer()}
	collector.RegisterTraceServiceServer(c.server, c)
	go func() { _ = c.server.Serve(l) }() // ends when Stop closes the listener
	return c, nil
}

// Stop closes the receiver.
func (c *Collector) Stop() { c.server.Stop() }

// Env points a program's standard OTEL_* variables here, with batches sent soon.
func (c *Collector) Env() []string {
	return []string{
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://" + c.Address,
		"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc",
		"OTEL_BSP_SCHEDULE_DELAY=200",
		"OTEL_TRACES_SAMPLER=always_on",
	}
}

// Export implements the OTLP trace service.
func (c *Collector) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	raw, err := proto.Marshal(r)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw = append(c.raw, raw...)
	for _, resource := range r.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// Raw is everything received, as bytes.
func (c *Collector) Raw() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.raw)
}

// Spans are the spans received so far.
func (c *Collector) Spans() []*trace.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// Attribute reads one attribute of a span, as text or number; nil if the span has none of that name.
func Attribute(s *trace.Span, name string) any {
	for _, a := range s.Attributes {
		if a.Key != name {
			continue
		}
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			return v.StringValue
		case *common.AnyValue_IntValue:
			return v.IntValue
		case *common.AnyValue_BoolValue:
			return v.BoolValue
		case *common.AnyValue_ArrayValue:
			var list []string
			for _, item := range v.ArrayValue.Values {
				list = append(list, item.GetStringValue())
			}
			return list
		}
	}
	return nil
}
