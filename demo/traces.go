package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// receiver takes the proxy's spans over OTLP, and hands them on to Jaeger if there is one.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	address string
	server  *grpc.Server
	onward  collector.TraceServiceClient
	conn    *grpc.ClientConn

	mu    sync.Mutex
	spans []*tracepb.Span
}

// startReceiver listens on a free port of loopback. onward is Jaeger's OTLP address, or empty.
func startReceiver(onward string) (*receiver, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("receive spans: %w", err)
	}
	r := &receiver{address: l.Addr().String(), server: grpc.NewServer()}
	if onward != "" {
		r.conn, err = grpc.NewClient(strings.TrimPrefix(onward, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, fmt.Errorf("hand spans on: %w", err)
		}
		r.onward = collector.NewTraceServiceClient(r.conn)
	}
	collector.RegisterTraceServiceServer(r.server, r)
	go r.server.Serve(l) // ends with stop
	return r, nil
}

func (r *receiver) stop() {
	r.server.Stop()
	if r.conn != nil {
		r.conn.Close()
	}
}

// Export implements the OTLP trace service.
func (r *receiver) Export(ctx context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	for _, resource := range request.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			r.spans = append(r.spans, scope.GetSpans()...)
		}
	}
	r.mu.Unlock()
	if r.onward != nil {
		return r.onward.Export(ctx, request)
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// await returns the spans once no more come; the proxy sends them in batches.
func (r *receiver) await(ctx context.Context, quiet time.Duration) []*tracepb.Span {
	last, since := -1, time.Now()
	for time.Since(since) < quiet && ctx.Err() == nil {
		r.mu.Lock()
		n := len(r.spans)
		r.mu.Unlock()
		if n != last {
			last, since = n, time.Now()
		}
		time.Sleep(50 * time.Millisecond)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.spans)
}

// cost is what one kind of call paid.
type cost struct {
	rpc            string
	calls          int
	sealed, opened int // payloads
	seal, open     []time.Duration
	decide         []time.Duration
	keys           []time.Duration // KMS or key file
	upstream       []time.Duration
}

// costs sums up the spans by RPC.
func costs(spans []*tracepb.Span) []*cost {
	byID := map[string]*tracepb.Span{}
	for _, s := range spans {
		byID[string(s.GetTraceId())+string(s.GetSpanId())] = s
	}
	byRPC := map[string]*cost{}
	for _, s := range spans {
		root := rootOf(s, byID)
		if root.GetKind() != tracepb.Span_SPAN_KIND_SERVER {
			continue
		}
		rpc := root.GetName()[strings.LastIndex(root.GetName(), "/")+1:]
		c := byRPC[rpc]
		if c == nil {
			c = &cost{rpc: rpc}
			byRPC[rpc] = c
		}
		c.add(s)
	}
	var out []*cost
	for _, c := range byRPC {
		if c.sealed+c.opened > 0 {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *cost) int { return cmp.Or(b.sealed+b.opened-a.sealed-a.opened, cmp.Compare(a.rpc, b.rpc)) })
	return out
}

// rootOf climbs to the server span of a call.
func rootOf(s *tracepb.Span, byID map[string]*tracepb.Span) *tracepb.Span {
	for s.GetKind() != tracepb.Span_SPAN_KIND_SERVER {
		parent := byID[string(s.GetTraceId())+string(s.GetParentSpanId())]
		if parent == nil {
			return s
		}
		s = parent
	}
	return s
}

func (c *cost) add(s *tracepb.Span) {
	took := time.Duration(s.GetEndTimeUnixNano() - s.GetStartTimeUnixNano())
	payloads, _ := harness.Attribute(s, "seal.payloads").(int64)
	switch {
	case s.GetKind() == tracepb.Span_SPAN_KIND_SERVER:
		c.calls++
	case s.GetName() == "payload.seal":
		c.sealed += int(payloads)
		c.seal = append(c.seal, took)
	case s.GetName() == "payload.open":
		c.opened += int(payloads)
		c.open = append(c.open, took)
	case s.GetName() == "policy.decide":
		c.decide = append(c.decide, took)
	case strings.HasPrefix(s.GetName(), "kms."): // a client span as well
		c.keys = append(c.keys, took)
	case s.GetKind() == tracepb.Span_SPAN_KIND_CLIENT:
		c.upstream = append(c.upstream, took)
	}
}

// showCosts prints the table, and the sums below it.
func showCosts(s *screen, list []*cost) {
	// The figures leave the rest to the name; where that is too little, the last two columns go.
	wide := s.width >= 84
	name := min(34, s.width-3-34)
	if wide {
		name = min(34, s.width-3-53)
	}
	row := func(rpc string, st style, cells ...string) {
		if !wide {
			cells = cells[:4]
		}
		line := s.paint(st, pad(cut(rpc, name-1), name))
		for i, cell := range cells {
			line += s.paint(st, right(cell, []int{6, 10, 9, 9, 9, 10}[i]))
		}
		s.line("   %s", line)
	}
	row("CALL", dim, "CALLS", "PAYLOADS", "SEAL", "OPEN", "POLICY", "SERVER")
	var seal, open, decide, keys []time.Duration
	for _, c := range list {
		row(c.rpc, plain, fmt.Sprint(c.calls), fmt.Sprint(c.sealed+c.opened), median(c.seal), median(c.open), median(c.decide), median(c.upstream))
		seal, open = append(seal, c.seal...), append(open, c.open...)
		decide, keys = append(decide, c.decide...), append(keys, c.keys...)
	}
	s.note("Medians per call, from the proxy's own spans. SERVER is the time that the call spent in Temporal; for a poll most of it is waiting. " +
		"First calls are slower: a data key is made, and the policy is evaluated rather than remembered.")
	s.done("the whole story: sealing %s, opening %s, policy %s; data keys made or unwrapped: %d, in %s",
		short(sum(seal)), short(sum(open)), short(sum(decide)), len(keys), short(sum(keys)))
}

func right(text string, width int) string {
	return strings.Repeat(" ", max(0, width-len([]rune(text)))) + text
}

func median(d []time.Duration) string {
	if len(d) == 0 {
		return "-"
	}
	slices.Sort(d)
	return short(d[len(d)/2])
}

func sum(d []time.Duration) time.Duration {
	var total time.Duration
	for _, x := range d {
		total += x
	}
	return total
}

// short prints a duration with three digits at most.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
