package app

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// logCollector takes OTLP logs over HTTP.
type logCollector struct {
	mu      sync.Mutex
	hang    chan struct{}
	records []*logspb.LogRecord
	service string
}

func (c *logCollector) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	c.mu.Lock()
	hang := c.hang
	c.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-q.Context().Done():
			return
		}
	}
	body, err := io.ReadAll(q.Body)
	var r collector.ExportLogsServiceRequest
	if err != nil || proto.Unmarshal(body, &r) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range r.ResourceLogs {
		c.service = resource.Resource.String()
		for _, scope := range resource.ScopeLogs {
			c.records = append(c.records, scope.LogRecords...)
		}
	}
}

func startLogCollector(t *testing.T) *logCollector {
	t.Helper()
	c := new(logCollector)
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", server.URL+"/v1/logs")
	t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
	return c
}

func auditRecord(id string) *audit.Record {
	return &audit.Record{Time: time.Unix(1_900_000_000, 5e6), Caller: audit.Caller{Kind: "jwt", Subject: "alice"}, Namespace: "clinic", RPC: "QueryWorkflow",
		Workflow: audit.Workflow{ID: id}, Code: "OK", Policy: "abc", Trace: "0af7651916cd43dd8448eb211c80319c",
		Payloads: []rewrite.Handled{{Kind: "query", Namespace: "clinic", Key: "phi", Outcome: "opened", Count: 3}}}
}

func quietLog() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func TestRecordsOverOTLP(t *testing.T) {
	c := startLogCollector(t)
	sink, err := newOTLPSink(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	l := audit.New(audit.Options{Sink: sink, Required: true, Wait: 10 * time.Second, Log: quietLog()})
	for _, id := range []string{"one", "two"} {
		if err := l.Write(t.Context(), auditRecord(id)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(c.records) != 2 || !strings.Contains(c.service, "temporal-seal") {
		t.Fatalf("%d records of %s", len(c.records), c.service)
	}
	r := c.records[1]
	if r.EventName != "temporal_seal.audit" || r.TimeUnixNano != uint64(auditRecord("").Time.UnixNano()) || len(r.TraceId) != 16 || r.TraceId[0] != 0x0a {
		t.Errorf("%v", r)
	}
	fields := map[string]string{}
	for _, kv := range r.Body.GetKvlistValue().GetValues() {
		fields[kv.Key] = kv.Value.String()
	}
	for key, want := range map[string]string{"namespace": "clinic", "rpc": "QueryWorkflow", "workflow": "two", "caller": "alice", "payloads": "opened", "policy": "abc"} {
		if !strings.Contains(fields[key], want) {
			t.Errorf("%s is %s", key, fields[key])
		}
	}
	if !strings.Contains(fields["payloads"], "int_value:3") {
		t.Errorf("payloads are %s", fields["payloads"])
	}
}

// TestHungCollector: calls go on at once, and the end does not wait for it.
func TestHungCollector(t *testing.T) {
	c := startLogCollector(t)
	c.hang = make(chan struct{})
	t.Cleanup(func() { close(c.hang) })
	sink, err := newOTLPSink(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	l := audit.New(audit.Options{Sink: sink, Log: quietLog()})
	const calls = 40_000
	for range calls {
		began := time.Now()
		if err := l.Write(t.Context(), auditRecord("one")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Fatalf("one call took %v", took)
		}
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := l.Close(ctx); err == nil {
		t.Error("nothing is said of the records that are lost")
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("the end took %v", took)
	}
	if _, dropped, _ := l.Counts(); dropped < calls/2 {
		t.Errorf("%d dropped", dropped)
	}
}

func TestOTLPNowhere(t *testing.T) {
	for _, env := range [][2]string{{"OTEL_LOGS_EXPORTER", ""}, {"OTEL_LOGS_EXPORTER", "none"}, {"OTEL_LOGS_EXPORTER", "nonsense"}} {
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
		t.Setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "")
		t.Setenv(env[0], env[1])
		if _, err := newOTLPSink(t.Context(), "test"); err == nil || !strings.Contains(err.Error(), "OTEL_") {
			t.Errorf("%v: %v", env, err)
		}
	}
}
