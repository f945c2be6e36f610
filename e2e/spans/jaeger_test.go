package spans

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// TestJaeger runs a workflow with an activity by an SDK worker, and reads the traces of its start, its tasks and its activity
// back from a real Jaeger, by the API that its UI asks.
func TestJaeger(t *testing.T) {
	jaeger, err := peers.StartJaeger(t.Context(), peers.JaegerOptions{Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := jaeger.Stop(); err != nil {
			t.Error(err)
		}
	})
	address := startForJaeger(t, jaeger)
	canaries := harness.NewCanaries()
	secrets := visit{Input: canaries.New("input"), Lab: canaries.New("activity's result"), Result: canaries.New("workflow's result")}
	id := "visit-" + strings.ToLower(rand.Text()[:8])
	runVisit(t, address, id, secrets)

	traces := awaitTraces(t, jaeger, id)
	in := func(payloads int) map[string]string { // what a call's span says where it sealed
		return map[string]string{"seal.request.payloads": fmt.Sprint(payloads), "seal.request.bytes": ">0"}
	}
	out := func(payloads int) map[string]string {
		return map[string]string{"seal.response.payloads": fmt.Sprint(payloads), "seal.response.bytes": ">0"}
	}
	for _, want := range []struct {
		name string
		nth  int
		tree string
		call map[string]string // on the server span, beside what every one has
		hit  string            // seal.cache_hit of seal and open
	}{
		{"StartWorkflowExecution", 0, `
server StartWorkflowExecution
  client StartWorkflowExecution
  internal payload.seal
    client kms.decrypt
    client kms.generate_data_key
  internal policy.decide`, in(1), "false"},
		{"PollWorkflowTaskQueue", 0, `
server PollWorkflowTaskQueue
  client PollWorkflowTaskQueue
  internal payload.open
  internal policy.decide`, out(1), "true"},
		{"RespondWorkflowTaskCompleted", 0, `
server RespondWorkflowTaskCompleted
  client RespondWorkflowTaskCompleted
  internal payload.seal
  internal policy.decide`, in(1), "true"},
		{"PollActivityTaskQueue", 0, `
server PollActivityTaskQueue
  client PollActivityTaskQueue
  internal payload.open
  internal policy.decide`, out(1), "true"},
		{"RespondActivityTaskCompleted", 0, `
server RespondActivityTaskCompleted
  client RespondActivityTaskCompleted
  internal payload.seal
  internal policy.decide`, in(1), "true"},
		{"PollWorkflowTaskQueue", 1, `
server PollWorkflowTaskQueue
  client PollWorkflowTaskQueue
  internal payload.open
  internal policy.decide`, out(2), "true"},
		{"RespondWorkflowTaskCompleted", 1, `
server RespondWorkflowTaskCompleted
  client RespondWorkflowTaskCompleted
  internal payload.seal
  internal policy.decide`, in(1), "true"},
	} {
		t.Run(fmt.Sprint(want.name, " ", want.nth+1), func(t *testing.T) {
			root := traces.call(want.name, want.nth)
			if root == nil {
				t.Fatalf("Jaeger does not have it; it has:%s", traces)
			}
			if got := root.tree(""); got != want.tree {
				t.Fatalf("spans:%s\nwant:%s", got, want.tree)
			}
			root.tagged(t, "temporal.namespace", "default")
			root.tagged(t, "temporal.workflow_id", id)
			root.tagged(t, "temporal.workflow_type", "Visit")
			root.tagged(t, "policy.revision", "*")
			for tag, value := range want.call {
				root.tagged(t, tag, value)
			}
			root.each(func(s *jaegerSpan) { describes(t, s, service+want.name, want.hit) })
			root.timed(t)
		})
	}

	sweep := harness.NewSweep(canaries)
	sweep.Bytes("Jaeger", traces.raw)
	if found, _ := sweep.Found(); len(found) > 0 {
		t.Errorf("payloads in traces: %v", found)
	}
	if !strings.Contains(string(traces.raw), id) {
		t.Error("the workflow's id, which has to be there, is not in what was searched")
	}
}

// describes checks what a span below the call's own says, by its name.
func describes(t *testing.T, s *jaegerSpan, method, hit string) {
	t.Helper()
	switch {
	case s.OperationName == "policy.decide":
		s.tagged(t, "policy.payloads", ">0")
		s.tagged(t, "policy.revision", "*")
	case s.OperationName == "payload.seal", s.OperationName == "payload.open":
		s.tagged(t, "seal.key", `["default"]`)
		s.tagged(t, "seal.payloads", ">0")
		s.tagged(t, "seal.bytes", ">0")
		s.tagged(t, "seal.cache_hit", hit)
	case strings.HasPrefix(s.OperationName, "kms."):
		s.tagged(t, "seal.key", "default")
		s.tagged(t, "temporal.namespace", "default")
		return // it is about a key, not about a method
	default:
		s.tagged(t, "rpc.response.status_code", "OK")
	}
	s.tagged(t, "rpc.method", method)
}

// startForJaeger starts a server, a key service, and a proxy that sends every trace to Jaeger. It returns the proxy's address.
func startForJaeger(t *testing.T, jaeger *peers.Jaeger) string {
	t.Helper()
	server, err := harness.StartTemporal(t.Context(), peers.TemporalOptions{DBFile: filepath.Join(t.TempDir(), "temporal.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() }) // the server is not what is tested here
	key, env := startKMS(t)
	proxy, err := harness.StartProxy(t.Context(), harness.ProxyOptions{
		Dir: t.TempDir(), Upstream: server.Address,
		Keys: []harness.KeyOption{key},
		Env:  append(env, "OTEL_EXPORTER_OTLP_ENDPOINT="+jaeger.OTLPGRPC, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_BSP_SCHEDULE_DELAY=200"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proxy.Stop(); err != nil {
			t.Error(err)
		}
	})
	return proxy.Address
}

// visit is what a workflow of this test is given, and what it and its activity make of it.
type visit struct{ Input, Lab, Result string }

// runVisit starts the workflow before there is a worker: so the start is the first call that needs a key.
func runVisit(t *testing.T, address, id string, secrets visit) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := client.DialContext(ctx, client.Options{HostPort: address, Logger: sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: id, TaskQueue: "visits"}, "Visit", secrets.Input)
	if err != nil {
		t.Fatal(err)
	}
	w := worker.New(c, "visits", worker.Options{DisableEagerActivities: true}) // an eager activity has no poll of its own
	w.RegisterWorkflowWithOptions(func(ctx workflow.Context, input string) (string, error) {
		var lab string
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: 30 * time.Second})
		if err := workflow.ExecuteActivity(ctx, "FetchLab", input).Get(ctx, &lab); err != nil {
			return "", err
		}
		return secrets.Result + lab, nil
	}, workflow.RegisterOptions{Name: "Visit"})
	w.RegisterActivityWithOptions(func(_ context.Context, input string) (string, error) {
		return secrets.Lab + input, nil
	}, activity.RegisterOptions{Name: "FetchLab"})
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var result string
	if err := run.Get(ctx, &result); err != nil {
		t.Fatal(err)
	}
	if want := secrets.Result + secrets.Lab + secrets.Input; result != want {
		t.Fatalf("the workflow's result is %q, want %q", result, want)
	}
}

// jaegerSpan is a span as Jaeger's query API returns it.
type jaegerSpan struct {
	SpanID, OperationName string
	References            []struct{ RefType, SpanID string }
	StartTime, Duration   int64 // microseconds
	Tags                  []struct {
		Key   string
		Value any
	}
	parent   *jaegerSpan
	children []*jaegerSpan
}

func (s *jaegerSpan) tag(key string) (string, bool) {
	for _, tag := range s.Tags {
		if tag.Key == key {
			return fmt.Sprint(tag.Value), true
		}
	}
	return "", false
}

// tagged: want is a value, or ">0", or "*" for anything but nothing.
func (s *jaegerSpan) tagged(t *testing.T, key, want string) {
	t.Helper()
	got, ok := s.tag(key)
	switch {
	case want == "*" && got != "", want == ">0" && got != "" && got != "0" && got[0] != '-', ok && got == want:
		return
	}
	t.Errorf("%s of span %s is %q, want %s", key, s, got, want)
}

func (s *jaegerSpan) String() string {
	kind, _ := s.tag("span.kind")
	if kind == "" {
		kind = "internal"
	}
	return kind + " " + strings.TrimPrefix(s.OperationName, service)
}

// tree writes it down with what is below it, siblings by name.
func (s *jaegerSpan) tree(indent string) string {
	text := "\n" + indent + s.String()
	slices.SortFunc(s.children, func(a, b *jaegerSpan) int { return strings.Compare(a.String(), b.String()) })
	for _, child := range s.children {
		text += child.tree(indent + "  ")
	}
	return text
}

func (s *jaegerSpan) each(do func(*jaegerSpan)) {
	do(s)
	for _, child := range s.children {
		child.each(do)
	}
}

// timed: every span took time, within its parent's. Jaeger cuts both to microseconds.
func (s *jaegerSpan) timed(t *testing.T) {
	t.Helper()
	const cut = 2
	s.each(func(s *jaegerSpan) {
		if kind, _ := s.tag("span.kind"); s.Duration < 0 || s.Duration == 0 && kind != "internal" {
			t.Errorf("span %s took %d µs", s, s.Duration)
		}
		if p := s.parent; p != nil && (s.StartTime < p.StartTime-cut || s.StartTime+s.Duration > p.StartTime+p.Duration+cut) {
			t.Errorf("span %s is from %d for %d µs, outside of its parent's %d for %d", s, s.StartTime, s.Duration, p.StartTime, p.Duration)
		}
	})
}

// jaegerTraces are the calls of one workflow in the order in which they ended: polls are held, and may begin the other way round.
type jaegerTraces struct {
	roots []*jaegerSpan
	raw   []byte // what Jaeger answered
}

func (ts *jaegerTraces) call(name string, nth int) *jaegerSpan {
	for _, root := range ts.roots {
		if root.OperationName == service+name {
			if nth == 0 {
				return root
			}
			nth--
		}
	}
	return nil
}

func (ts *jaegerTraces) String() string {
	var text string
	for _, root := range ts.roots {
		text += root.tree("  ")
	}
	return text
}

// awaitTraces reads a workflow's traces until two answers in a row hold the same spans, the last completion among them.
func awaitTraces(t *testing.T, jaeger *peers.Jaeger, id string) *jaegerTraces {
	t.Helper()
	tags, _ := json.Marshal(map[string]string{"temporal.workflow_id": id}) // of texts: no error
	query := jaeger.Query + "/api/traces?" + url.Values{"service": {"temporal-seal"}, "limit": {"100"}, "lookback": {"1h"}, "tags": {string(tags)}}.Encode()
	var before string
	var traces *jaegerTraces
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		traces = readTraces(t, query)
		text := traces.String()
		if text == before && traces.call("RespondWorkflowTaskCompleted", 1) != nil {
			return traces
		}
		before = text
	}
	t.Fatalf("the workflow's traces are not all there:%s", traces)
	return nil
}

func readTraces(t *testing.T, query string) *jaegerTraces {
	t.Helper()
	response, err := http.Get(query)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	traces := &jaegerTraces{}
	if traces.raw, err = io.ReadAll(response.Body); err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Data []struct{ Spans []*jaegerSpan }
	}
	if err := json.Unmarshal(traces.raw, &answer); err != nil {
		t.Fatalf("%s: %s", err, traces.raw)
	}
	for _, trace := range answer.Data {
		byID := map[string]*jaegerSpan{}
		for _, s := range trace.Spans {
			byID[s.SpanID] = s
		}
		for _, s := range trace.Spans {
			for _, r := range s.References {
				if r.RefType == "CHILD_OF" {
					s.parent = byID[r.SpanID]
				}
			}
			if s.parent == nil {
				traces.roots = append(traces.roots, s)
			} else {
				s.parent.children = append(s.parent.children, s)
			}
		}
	}
	slices.SortFunc(traces.roots, func(a, b *jaegerSpan) int {
		return int(a.StartTime + a.Duration - b.StartTime - b.Duration)
	})
	return traces
}
