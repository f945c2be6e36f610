package server

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	namespacepb "go.temporal.io/api/namespace/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// registry is a frontend that is asked about namespaces.
type registry struct {
	*frontend
	answer func(ctx context.Context, namespace string) error

	namespace *namespacepb.NamespaceInfo

	mu    sync.Mutex
	asked []string // namespace, and the credentials shown
}

func (r *registry) DescribeNamespace(ctx context.Context, q *workflowservice.DescribeNamespaceRequest) (*workflowservice.DescribeNamespaceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	r.mu.Lock()
	r.asked = append(r.asked, fmt.Sprint(q.GetNamespace(), md["authorization"]))
	r.mu.Unlock()
	return &workflowservice.DescribeNamespaceResponse{NamespaceInfo: r.namespace}, r.answer(ctx, q.GetNamespace())
}

func (r *registry) questions() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(slices.Values(r.asked))
}

func startRegistry(t *testing.T, answer func(ctx context.Context, namespace string) error) *registry {
	r := &registry{frontend: &frontend{}, answer: answer}
	startService(t, r.frontend, r)
	return r
}

func startIn(namespace string) *workflowservice.StartWorkflowExecutionRequest {
	q := startRequest([]byte("x"))
	q.Namespace = namespace
	return q
}

// TestNamespacesOfAFleetGetTheirKeysAtOnce: as after a restart, when nothing is known of any namespace.
func TestNamespacesOfAFleetGetTheirKeysAtOnce(t *testing.T) {
	r := startRegistry(t, func(context.Context, string) error { return nil })
	c := startProxy(t, r.frontend).client(t)
	const namespaces = 100
	var want []string
	var calls sync.WaitGroup
	for i := range namespaces {
		namespace := fmt.Sprintf("team-%02d", i)
		want = append(want, namespace+"[Bearer t]")
		for range 3 {
			calls.Go(func() {
				ctx := callWith(testContext(t), "authorization", "Bearer t")
				if _, err := c.StartWorkflowExecution(ctx, startIn(namespace)); err != nil {
					t.Errorf("%s: %v", namespace, err)
				}
				poll := &workflowservice.PollActivityTaskQueueRequest{Namespace: namespace}
				if _, err := c.PollActivityTaskQueue(ctx, poll); err != nil {
					t.Errorf("%s: %v", namespace, err)
				}
			})
		}
	}
	calls.Wait()
	slices.Sort(want)
	if got := r.questions(); !slices.Equal(got, want) {
		t.Errorf("the upstream was asked %d times about %d namespaces: %v", len(got), namespaces, got)
	}
}

func TestANamespaceThatIsNotConfirmedIsNotAskedForEachCall(t *testing.T) {
	none := status.Error(codes.NotFound, "no such namespace")
	r := startRegistry(t, func(context.Context, string) error { return none })
	r.start = func(context.Context, *workflowservice.StartWorkflowExecutionRequest) (*workflowservice.StartWorkflowExecutionResponse, error) {
		return nil, none
	}
	c := startProxy(t, r.frontend).client(t)
	for _, token := range []string{"a", "a", "a", "b"} {
		_, err := c.StartWorkflowExecution(callWith(testContext(t), "authorization", token), startIn("none"))
		if status.Code(err) != codes.NotFound {
			t.Errorf("got %v, want the upstream's own answer to the call", err)
		}
	}
	// What one caller may not know does not describe another.
	if got, want := r.questions(), []string{"none[a]", "none[b]"}; !slices.Equal(got, want) {
		t.Errorf("asked %v, want %v", got, want)
	}
}

func TestNoAnswerAboutANamespaceDelaysACallALittle(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() })
	c := startProxy(t, r.frontend).client(t)
	start := time.Now()
	if _, err := c.StartWorkflowExecution(testContext(t), startIn("slow")); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("the call took %v", took)
	}
}

func TestAConfirmedNamespaceCostsNothing(t *testing.T) {
	r := startRegistry(t, func(context.Context, string) error { return nil })
	p := startProxy(t, r.frontend)
	p.keys.Confirm("clinic")
	in, err := proto.Marshal(startRequest([]byte("x")))
	if err != nil {
		t.Fatal(err)
	}
	m := p.methods[workflowservice.WorkflowService_StartWorkflowExecution_FullMethodName]
	session := p.rewriter.Begin(m.rewrite, nil)
	defer session.Done()
	if err := session.Identify(in); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	c := &call{server: p.Server, method: m, session: session, ctx: ctx, out: ctx}
	if n := testing.AllocsPerRun(100, c.confirm); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if got := r.questions(); len(got) != 0 {
		t.Errorf("asked %v", got)
	}
}
