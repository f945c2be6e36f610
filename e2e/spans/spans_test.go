// Package spans checks the traces of the built proxy as a collector receives them over OTLP: which spans a call
// makes, how they hang together, and what they say.
package spans

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	os.Exit(code)
}

const service = "temporal.api.workflowservice.v1.WorkflowService/"

// TestSpanTree makes a few calls by hand, each below a trace of its own, and compares the trees of spans.
func TestSpanTree(t *testing.T) {
	server, err := harness.StartTemporal(t.Context(), peers.TemporalOptions{DBFile: filepath.Join(t.TempDir(), "temporal.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() }) // the server is not what is tested here
	key, env := startKMS(t)

	one := startTraced(t, server.Address, key, env)
	secret := &commonpb.Payloads{Payloads: []*commonpb.Payload{{
		Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"` + strings.Repeat("x", 98) + `"`),
	}}}
	start := &workflowservice.StartWorkflowExecutionRequest{
		Namespace: "default", WorkflowId: "order-1", WorkflowType: &commonpb.WorkflowType{Name: "Order"},
		TaskQueue: &taskqueuepb.TaskQueue{Name: "queue"}, Input: secret, RequestId: "1",
	}

	t.Run("start, first call", func(t *testing.T) {
		tree := one.call(t, func(ctx context.Context) error {
			_, err := one.client.StartWorkflowExecution(ctx, start)
			return err
		})
		tree.is(t, `
SERVER StartWorkflowExecution
  CLIENT StartWorkflowExecution
  INTERNAL payload.seal
    CLIENT kms.decrypt
    CLIENT kms.generate_data_key
  INTERNAL policy.decide`) // a new data key is unwrapped once before anything is sealed that needs it to be opened
		call := tree.span("SERVER " + "StartWorkflowExecution")
		has(t, call, "temporal.namespace", "default")
		has(t, call, "temporal.workflow_id", "order-1")
		has(t, call, "temporal.workflow_type", "Order")
		has(t, call, "rpc.method", service+"StartWorkflowExecution")
		if revision, _ := harness.Attribute(call, "policy.revision").(string); revision == "" {
			t.Error("the server span has no policy.revision")
		}
		seal := tree.span("INTERNAL payload.seal")
		has(t, seal, "seal.key", []string{"default"})
		has(t, seal, "seal.payloads", int64(1))
		has(t, seal, "seal.cache_hit", false)
		has(t, seal, "temporal.namespace", "default")
		if n, _ := harness.Attribute(seal, "seal.bytes").(int64); n < 100 || n > 150 {
			t.Errorf("seal.bytes = %d, want the size of the payload", n)
		}
		generate := tree.span("CLIENT kms.generate_data_key")
		has(t, generate, "seal.key", "default")
		has(t, generate, "temporal.namespace", "default")
	})

	t.Run("start, warm", func(t *testing.T) {
		start.WorkflowId, start.RequestId = "order-2", "2"
		tree := one.call(t, func(ctx context.Context) error {
			_, err := one.client.StartWorkflowExecution(ctx, start)
			return err
		})
		tree.is(t, `
SERVER StartWorkflowExecution
  CLIENT StartWorkflowExecution
  INTERNAL payload.seal
  INTERNAL policy.decide`)
		has(t, tree.span("INTERNAL payload.seal"), "seal.cache_hit", true)
	})

	t.Run("method without payloads", func(t *testing.T) {
		tree := one.call(t, func(ctx context.Context) error {
			_, err := one.client.DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: "default"})
			return err
		})
		tree.is(t, `
SERVER DescribeNamespace
  CLIENT DescribeNamespace`)
	})

	t.Run("error of the server", func(t *testing.T) {
		tree := one.call(t, func(ctx context.Context) error {
			if _, err := one.client.DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: "none"}); err == nil {
				return fmt.Errorf("no error")
			}
			return nil
		})
		tree.is(t, `
SERVER DescribeNamespace
  CLIENT DescribeNamespace`)
		has(t, tree.span("CLIENT DescribeNamespace"), "rpc.response.status_code", "NOT_FOUND")
	})

	// A second proxy has none of the first one's data keys in memory.
	two := startTraced(t, server.Address, key, env)
	t.Run("history, cold", func(t *testing.T) {
		tree := two.call(t, func(ctx context.Context) error {
			answer, err := two.client.GetWorkflowExecutionHistory(ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{
				Namespace: "default", Execution: &commonpb.WorkflowExecution{WorkflowId: "order-1"},
			})
			if err == nil && len(answer.History.Events) == 0 {
				err = fmt.Errorf("empty history")
			}
			return err
		})
		tree.is(t, `
SERVER GetWorkflowExecutionHistory
  CLIENT GetWorkflowExecutionHistory
  INTERNAL payload.open
    CLIENT kms.decrypt
  INTERNAL policy.decide`)
		open := tree.span("INTERNAL payload.open")
		has(t, open, "seal.payloads", int64(1))
		has(t, open, "seal.cache_hit", false)
		has(t, open, "seal.key", []string{"default"})
	})

	t.Run("poll with a task", func(t *testing.T) {
		before := len(two.collector.Spans())
		task, err := two.client.PollWorkflowTaskQueue(t.Context(), &workflowservice.PollWorkflowTaskQueueRequest{
			Namespace: "default", TaskQueue: &taskqueuepb.TaskQueue{Name: "queue", Kind: enumspb.TASK_QUEUE_KIND_NORMAL},
		})
		if err != nil || len(task.TaskToken) == 0 {
			t.Fatalf("poll: %v", err)
		}
		tree := newTree(two.await(t, func(s []*trace.Span) bool { return complete(s[before:]) })[before:])
		tree.is(t, `
SERVER PollWorkflowTaskQueue
  CLIENT PollWorkflowTaskQueue
  INTERNAL payload.open
  INTERNAL policy.decide`)
		has(t, tree.span("SERVER PollWorkflowTaskQueue"), "temporal.namespace", "default")
	})

	t.Run("empty poll", func(t *testing.T) {
		before := len(two.collector.Spans())
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, _ = two.client.PollWorkflowTaskQueue(ctx, &workflowservice.PollWorkflowTaskQueueRequest{
			Namespace: "default", TaskQueue: &taskqueuepb.TaskQueue{Name: "nobody", Kind: enumspb.TASK_QUEUE_KIND_NORMAL},
		}) // ends empty or with its deadline
		time.Sleep(time.Second) // several export intervals
		if after := len(two.collector.Spans()); after != before {
			t.Errorf("an empty poll made %d spans", after-before)
		}
	})
}

// startKMS returns the key that it holds, and what a proxy needs in its environment to ask for it.
func startKMS(t *testing.T) (harness.KeyOption, []string) {
	t.Helper()
	kms := kmsstub.New(kmsstub.Options{})
	kms.SetAlias("alias/temporal", kms.CreateKey(false))
	if err := kms.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kms.Close)
	return harness.KeyOption{Name: "default", Active: "awskms://alias/temporal?region=eu-central-1&endpoint=" + kms.URL},
		[]string{"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true"}
}

// traced is a proxy with a collector of its own.
type traced struct {
	collector *harness.Collector
	client    workflowservice.WorkflowServiceClient
}

func startTraced(t *testing.T, upstream string, key harness.KeyOption, env []string) *traced {
	t.Helper()
	collector, err := harness.StartCollector()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(collector.Stop)
	proxy, err := harness.StartProxy(t.Context(), harness.ProxyOptions{
		Dir: t.TempDir(), Upstream: upstream,
		Keys: []harness.KeyOption{key}, Env: slices.Concat(collector.Env(), env),
	})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(proxy.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		if err := proxy.Stop(); err != nil {
			t.Error(err)
		}
	})
	return &traced{collector, workflowservice.NewWorkflowServiceClient(conn)}
}

// call makes a call as part of a new trace and returns the spans of that trace, once they hang together.
func (p *traced) call(t *testing.T, do func(context.Context) error) *tree {
	t.Helper()
	id := make([]byte, 24)
	_, _ = rand.Read(id)
	parent := "00-" + hex.EncodeToString(id[:16]) + "-" + hex.EncodeToString(id[16:]) + "-01"
	if err := do(metadata.AppendToOutgoingContext(t.Context(), "traceparent", parent)); err != nil {
		t.Fatal(err)
	}
	mine := func(spans []*trace.Span) []*trace.Span {
		return slices.DeleteFunc(slices.Clone(spans), func(s *trace.Span) bool { return string(s.TraceId) != string(id[:16]) })
	}
	spans := mine(p.await(t, func(all []*trace.Span) bool { return complete(mine(all)) }))
	tree := newTree(spans)
	for _, s := range tree.children[""] {
		if string(s.ParentSpanId) != string(id[16:]) {
			t.Errorf("span %s does not continue the caller's trace", name(s))
		}
	}
	return tree
}

func (p *traced) await(t *testing.T, enough func([]*trace.Span) bool) []*trace.Span {
	t.Helper()
	for range 100 {
		if spans := p.collector.Spans(); enough(spans) {
			time.Sleep(500 * time.Millisecond) // for spans that should not be there
			return p.collector.Spans()
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("spans are missing; received: %v", newTree(p.collector.Spans()))
	return nil
}

// complete: the server span is the last of a call to end.
func complete(spans []*trace.Span) bool {
	return slices.ContainsFunc(spans, func(s *trace.Span) bool { return s.Kind == trace.Span_SPAN_KIND_SERVER })
}

// tree is spans by their parent's id; "" holds those whose parent is not among them.
type tree struct {
	children map[string][]*trace.Span
}

func newTree(spans []*trace.Span) *tree {
	known := map[string]bool{}
	for _, s := range spans {
		known[string(s.SpanId)] = true
	}
	tr := &tree{map[string][]*trace.Span{}}
	for _, s := range spans {
		parent := string(s.ParentSpanId)
		if !known[parent] {
			parent = ""
		}
		tr.children[parent] = append(tr.children[parent], s)
	}
	return tr
}

func (tr *tree) String() string {
	var b strings.Builder
	var write func(parent, indent string)
	write = func(parent, indent string) {
		spans := tr.children[parent]
		slices.SortFunc(spans, func(a, b *trace.Span) int { return strings.Compare(name(a), name(b)) })
		for _, s := range spans {
			b.WriteString("\n" + indent + name(s))
			write(string(s.SpanId), indent+"  ")
		}
	}
	write("", "")
	return b.String()
}

func name(s *trace.Span) string {
	return strings.TrimPrefix(s.Kind.String(), "SPAN_KIND_") + " " + strings.TrimPrefix(s.Name, service)
}

func (tr *tree) is(t *testing.T, want string) {
	t.Helper()
	if got := tr.String(); got != want {
		t.Fatalf("spans:%s\nwant:%s", got, want)
	}
}

func (tr *tree) span(want string) *trace.Span {
	for _, spans := range tr.children {
		for _, s := range spans {
			if name(s) == want {
				return s
			}
		}
	}
	return &trace.Span{} // is has compared the names before
}

func has(t *testing.T, s *trace.Span, attribute string, want any) {
	t.Helper()
	if got := harness.Attribute(s, attribute); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s of span %s = %v, want %v", attribute, name(s), got, want)
	}
}
