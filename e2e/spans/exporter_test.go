package spans

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

const (
	exporterRounds  = 6
	exporterCalls   = 400 // of a round and a proxy: with five spans each, the queue of 2,048 is full in the second round
	exporterCallers = 8
)

// TestExporter sends the same calls through proxies that trace every one of them, with collectors that answer, are not there, take
// connections and say nothing, or take spans and never return. None of that may fail a call, make it slow, or fill the memory.
func TestExporter(t *testing.T) {
	upstream := serveGRPC(t, func(s *grpc.Server) { workflowservice.RegisterWorkflowServiceServer(s, answering{}) })
	taker, err := harness.StartCollector()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(taker.Stop)
	silent := listenSilently(t)
	hanging := serveGRPC(t, func(s *grpc.Server) { collector.RegisterTraceServiceServer(s, hangingCollector{}) })
	variants := []*variant{
		{name: "untraced"},
		{name: "answers", collector: taker.Address},
		{name: "refuses", collector: refusing(t)},
		{name: "silent", collector: silent},
		{name: "hangs", collector: hanging},
		{name: "silent-http", collector: silent, protocol: "http/protobuf"},
	}
	for _, v := range variants {
		v.start(t, upstream)
	}
	for range exporterRounds { // in turns: what else the machine does hits all
		for _, v := range variants {
			v.round(t)
		}
	}
	base := variants[0].median()
	for _, v := range variants {
		heap, lost := v.metric(t, "go_memstats_heap_alloc_bytes"), v.metric(t, `temporal_seal_spans_total{outcome="dropped"}`)
		ratio := float64(v.median()) / float64(base)
		fmt.Printf("exporter %-11s calls=%d failed=%d p50_us=%d p99_us=%d x_untraced=%.2f heap_mb=%.1f spans_dropped=%.0f\n", v.name,
			len(v.took), v.failed, v.median().Microseconds(), v.quantile(.99).Microseconds(), ratio, heap/1e6, lost)
		if v.failed > 0 {
			t.Errorf("%s: %d calls failed: %v", v.name, v.failed, v.err)
		}
		// A call that waited for its exporter would take the 10 s of an export, or at least a batch's time.
		if ratio > 4 && v.median()-base > 5*time.Millisecond {
			t.Errorf("%s: a call takes %s, %.1f times as long as untraced", v.name, v.median(), ratio)
		}
		if slowest := v.quantile(1); slowest > 3*time.Second {
			t.Errorf("%s: the slowest call took %s", v.name, slowest)
		}
		if heap > 96e6 { // what is not collected yet included: up to 48 MiB beside what lives
			t.Errorf("%s: %.0f MB of heap after %d calls", v.name, heap/1e6, len(v.took))
		}
		stuck := v.name == "silent" || v.name == "hangs" || v.name == "silent-http"
		if stuck && lost == 0 {
			t.Errorf("%s: the queue of spans was never full, so nothing was tried", v.name)
		}
		if v.name == "answers" && v.metric(t, `temporal_seal_spans_total{outcome="exported"}`) == 0 {
			t.Errorf("%s: no span is counted as exported", v.name)
		}
		began := time.Now()
		if err := v.proxy.StopWithin(20 * time.Second); err != nil {
			t.Errorf("%s: %v", v.name, err)
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("%s: it took %s to stop", v.name, took)
		}
	}
}

// variant is a proxy with one kind of collector.
type variant struct {
	name, collector, protocol string

	proxy  *harness.Proxy
	client workflowservice.WorkflowServiceClient
	mu     sync.Mutex
	took   []time.Duration
	failed int
	err    error
}

func (v *variant) start(t *testing.T, upstream string) {
	t.Helper()
	var env []string
	if v.collector != "" {
		protocol := v.protocol
		if protocol == "" {
			protocol = "grpc"
		}
		env = []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + v.collector, "OTEL_EXPORTER_OTLP_PROTOCOL=" + protocol, "OTEL_TRACES_SAMPLER=always_on"}
	}
	var err error
	v.proxy, err = harness.StartProxy(t.Context(), harness.ProxyOptions{Dir: t.TempDir(), Upstream: upstream, Env: env, Extra: "drain: {delay: 0s}\n"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.proxy.Kill)
	conn, err := grpc.NewClient(v.proxy.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	v.client = workflowservice.NewWorkflowServiceClient(conn)
	v.call(t.Context(), false)
}

func (v *variant) round(t *testing.T) {
	var callers sync.WaitGroup
	for range exporterCallers {
		callers.Go(func() {
			for range exporterCalls / exporterCallers {
				if !v.call(t.Context(), true) {
					return // the others would wait as long
				}
			}
		})
	}
	callers.Wait()
}

func (v *variant) call(ctx context.Context, count bool) (ok bool) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	began := time.Now()
	_, err := v.client.StartWorkflowExecution(ctx, &workflowservice.StartWorkflowExecutionRequest{
		Namespace: "default", WorkflowId: "order", WorkflowType: &commonpb.WorkflowType{Name: "Order"},
		Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"card"`)}}},
	})
	took := time.Since(began)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		v.failed++
		v.err = err
	}
	if count {
		v.took = append(v.took, took)
	}
	return err == nil
}

func (v *variant) median() time.Duration { return v.quantile(.5) }

func (v *variant) quantile(q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(v.took))
	return sorted[int(q*float64(len(sorted)-1))]
}

// metric reads one series; 0 if there is none.
func (v *variant) metric(t *testing.T, series string) float64 {
	t.Helper()
	_, page, err := v.proxy.Get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(page) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// answering is a frontend that takes no time.
type answering struct {
	workflowservice.UnimplementedWorkflowServiceServer
}

func (answering) StartWorkflowExecution(context.Context, *workflowservice.StartWorkflowExecutionRequest) (*workflowservice.StartWorkflowExecutionResponse, error) {
	return &workflowservice.StartWorkflowExecutionResponse{RunId: "run"}, nil
}

func (answering) GetSystemInfo(context.Context, *workflowservice.GetSystemInfoRequest) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{ServerVersion: "1.32.0"}, nil
}

// hangingCollector takes spans and does not return while anybody waits.
type hangingCollector struct {
	collector.UnimplementedTraceServiceServer
}

func (hangingCollector) Export(ctx context.Context, _ *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func serveGRPC(t *testing.T, register func(*grpc.Server)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	go func() { _ = s.Serve(l) }() // ends with Stop
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

// listenSilently takes connections and says nothing on them.
func listenSilently(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
		}
	}()
	return l.Addr().String()
}

// refusing is an address where nobody listens.
func refusing(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
