// Package audit runs the built proxy with its audit log, on a real Temporal server, and does to that log what happens to logs:
// the file is rotated, the disk is full, the proxy is stopped and killed.
package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonpb "go.temporal.io/api/common/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const secret = "the-secret-that-no-record-may-hold"

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	os.Exit(code)
}

func TestAudit(t *testing.T) {
	server, err := harness.StartTemporal(t.Context(), peers.TemporalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() }) // what it says at its end is not what is tested here
	for name, test := range map[string]func(*testing.T, *peers.Process){
		"Rotation": rotation, "Killed": killed, "FullDisk": fullDisk, "StandardOutput": standardOutput, "Collector": overOTLP,
	} {
		t.Run(name, func(t *testing.T) { test(t, server) })
	}
}

// reader is a proxy with a workflow that it can read.
type reader struct {
	*testing.T
	proxy  *harness.Proxy
	client workflowservice.WorkflowServiceClient
	id     string
}

func start(t *testing.T, server *peers.Process, config string, env ...string) *reader {
	t.Helper()
	p, err := harness.StartProxy(t.Context(), harness.ProxyOptions{Dir: t.TempDir(), Upstream: server.Address, Extra: config, Env: env})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	conn, err := grpc.NewClient(p.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	r := &reader{T: t, proxy: p, client: workflowservice.NewWorkflowServiceClient(conn), id: strings.ReplaceAll(t.Name(), "/", "-")}
	_, err = r.client.StartWorkflowExecution(t.Context(), &workflowservice.StartWorkflowExecutionRequest{Namespace: "default", WorkflowId: r.id, RequestId: r.id,
		WorkflowType: &commonpb.WorkflowType{Name: "Any"}, TaskQueue: &taskqueuepb.TaskQueue{Name: r.id},
		Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"` + secret + `"`)}}}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *reader) read(ctx context.Context) error {
	a, err := r.client.GetWorkflowExecutionHistory(ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "default", Execution: &commonpb.WorkflowExecution{WorkflowId: r.id}})
	if err == nil && !strings.Contains(a.String(), secret) {
		return fmt.Errorf("the input did not open: %v", a)
	}
	return err
}

func (r *reader) reads(n int) {
	r.Helper()
	for range n {
		if err := r.read(r.Context()); err != nil {
			r.Fatal(err)
		}
	}
}

// records reads lines of JSON, all of which have to be records of such a reading.
func (r *reader) records(text []byte) int {
	r.Helper()
	n := 0
	for line := range bytes.Lines(text) {
		var record struct {
			RPC      string
			Workflow struct{ ID string }
			Payloads []struct{ Kind, Key, Verdict string }
		}
		if err := json.Unmarshal(line, &record); err != nil {
			r.Fatalf("%v in %q", err, line)
		}
		if record.RPC != "GetWorkflowExecutionHistory" || record.Workflow.ID != r.id || len(record.Payloads) != 1 || record.Payloads[0].Key != "default" || record.Payloads[0].Verdict != "opened" {
			r.Errorf("record %s", line)
		}
		n++
	}
	if bytes.Contains(text, []byte(secret)) {
		r.Error("a payload stands in a record")
	}
	return n
}

func (r *reader) holds(file string, want int) {
	r.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		r.Fatal(err)
	}
	if n := r.records(text); n != want {
		r.Errorf("%s holds %d records, want %d", filepath.Base(file), n, want)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		r.Errorf("%v, %v", info.Mode(), err)
	}
}

// rotation renames the file, as logrotate does, with its signal; what is queued at the end is written at the end.
func rotation(t *testing.T, server *peers.Process) {
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	r := start(t, server, fmt.Sprintf("audit: {file: %q}\n", file))
	r.reads(3)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if text, err := os.ReadFile(file); err == nil && bytes.Count(text, []byte("\n")) == 3 {
			break // calls do not wait for their records
		}
	}
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(r.proxy.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	r.reads(200)
	if err := r.proxy.Stop(); err != nil {
		t.Errorf("the proxy did not end well: %v", err)
	}
	r.holds(file+".1", 3)
	r.holds(file, 200)
}

// killed has many read at once and kills the proxy: whoever was answered is on record.
func killed(t *testing.T, server *peers.Process) {
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	r := start(t, server, fmt.Sprintf("audit: {file: %q, required: true, wait: 5s}\n", file))
	var answered atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				err := r.read(ctx)
				cancel()
				if err != nil {
					return
				}
				answered.Add(1)
			}
		})
	}
	time.Sleep(time.Second)
	r.proxy.Kill()
	wg.Wait()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := r.records(text); answered.Load() == 0 || int64(n) < answered.Load() {
		t.Errorf("%d calls were answered, %d are on record", answered.Load(), n)
	}
}

// fullDisk: where records are required and cannot be written, nobody reads, and everything else goes on.
func fullDisk(t *testing.T, server *peers.Process) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("this system has no /dev/full")
	}
	r := start(t, server, "audit: {file: /dev/full, required: true, wait: 100ms}\n")
	for range 3 {
		if err := r.read(t.Context()); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "audit") {
			t.Fatalf("without a record: %v", err)
		}
	}
	if _, err := r.client.SignalWorkflowExecution(t.Context(), &workflowservice.SignalWorkflowExecutionRequest{Namespace: "default", SignalName: "any",
		WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: r.id}}); err != nil {
		t.Errorf("a call that opens nothing: %v", err)
	}
	if _, metrics, err := r.proxy.Get("/metrics"); err != nil || !strings.Contains(metrics, `temporal_seal_audit_records_total{outcome="refused"} `) || strings.Contains(metrics, `temporal_seal_audit_records_total{outcome="refused"} 0`) {
		t.Errorf("the metrics do not show it (%v)", err)
	}
}

func standardOutput(t *testing.T, server *peers.Process) {
	r := start(t, server, "audit: {file: /dev/stdout}\n")
	r.reads(5)
	if err := r.proxy.Stop(); err != nil {
		t.Errorf("the proxy did not end well: %v", err)
	}
	var records []byte
	for line := range bytes.Lines(r.proxy.Log.Bytes()) {
		if bytes.Contains(line, []byte(`"verdict"`)) {
			records = append(records, line...)
		}
	}
	if n := r.records(records); n != 5 {
		t.Errorf("%d records on standard output", n)
	}
}

// logs takes OTLP logs by gRPC.
type logs struct {
	collector.UnimplementedLogsServiceServer
	mu   sync.Mutex
	text []string
}

func (l *logs) Export(_ context.Context, r *collector.ExportLogsServiceRequest) (*collector.ExportLogsServiceResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, resource := range r.ResourceLogs {
		for _, scope := range resource.ScopeLogs {
			for _, record := range scope.LogRecords {
				l.text = append(l.text, record.String())
			}
		}
	}
	return new(collector.ExportLogsServiceResponse), nil
}

func overOTLP(t *testing.T, server *peers.Process) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := new(logs)
	s := grpc.NewServer()
	collector.RegisterLogsServiceServer(s, l)
	go func() { _ = s.Serve(listener) }() // ends with Stop
	t.Cleanup(s.Stop)
	r := start(t, server, "audit: {otlp: true, required: true}\n",
		"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=http://"+listener.Addr().String(), "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL=grpc")
	r.reads(5)
	if err := r.proxy.Stop(); err != nil {
		t.Errorf("the proxy did not end well: %v", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.text) != 5 {
		t.Fatalf("%d records at the collector", len(l.text))
	}
	for _, text := range l.text {
		if !strings.Contains(text, r.id) || !strings.Contains(text, "opened") || strings.Contains(text, secret) {
			t.Errorf("record %s", text)
		}
	}
}
