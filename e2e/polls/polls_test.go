// Package polls measures what a held poll costs in the built proxy, beside a plain relay on the same library, and if
// a short call still goes through while thousands are held.
package polls

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const (
	held = 5000
	// perConnection is how many streams a load balancer in front of Temporal allows on a connection, at least.
	perConnection = 100
	// workers share the polls; each has one connection.
	workers = 100

	// most is how much more a poll may cost than in the relay, and slowest how much longer a short call may take beside
	// held polls than alone. Load on the machine makes single calls late, hence its generosity.
	most    = 1.15
	slowest = 20.0

	// collect makes the garbage collector of both processes run often: what is compared is what a poll needs, not when
	// the collector last ran.
	collect = "GOGC=10"
)

func TestMain(m *testing.M) {
	if upstream := os.Getenv(relayTo); upstream != "" {
		fmt.Fprintln(os.Stderr, relay(upstream))
		os.Exit(1)
	}
	code := m.Run()
	harness.RemoveProxy()
	os.Exit(code)
}

func TestHeldPolls(t *testing.T) {
	f := startFrontend(t)
	relay := measure(t, f, startRelay(t, f.address))
	proxy := measure(t, f, startProxy(t, f.address))
	ratio := float64(proxy.bytes) / float64(relay.bytes)
	fmt.Printf("polls=%d proxy_bytes=%d relay_bytes=%d ratio=%.2f short_call_alone=%s short_call_beside=%s relay_alone=%s relay_beside=%s\n",
		held, proxy.bytes, relay.bytes, ratio, proxy.alone, proxy.beside, relay.alone, relay.beside)
	if ratio > most {
		t.Errorf("a held poll costs %.2f times what it costs in the relay, more than %.2f", ratio, most)
	}
	if times := float64(proxy.beside) / float64(proxy.alone); times > slowest {
		t.Errorf("a short call takes %.1f times as long beside held polls", times)
	}
}

// target is a process between the workers and the frontend.
type target struct {
	name, address string
	pid           int
}

// cost is what a held poll costs in memory, and how long a short call takes: the median alone and beside all polls.
type cost struct {
	bytes         int
	alone, beside time.Duration
}

func measure(t *testing.T, f *frontend, at target) (c cost) {
	clients := make([]workflowservice.WorkflowServiceClient, workers)
	for i := range clients {
		clients[i] = connect(t, at.address)
	}
	short := connect(t, at.address)
	c.alone = shortCall(t, short)
	before := resident(t, at.pid)

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var ended sync.WaitGroup
	for i := range held {
		client := clients[i%workers]
		ended.Go(func() {
			_, err := client.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{
				Namespace: "default", TaskQueue: &taskqueuepb.TaskQueue{Name: "orders"}, Identity: "worker-" + strconv.Itoa(i),
			})
			if ctx.Err() == nil {
				t.Errorf("%s: a poll ended: %v", at.name, err)
			}
		})
	}
	f.await(t, held)
	c.beside = shortCall(t, short)
	c.bytes = (resident(t, at.pid) - before) / held
	cancel()
	ended.Wait()
	f.await(t, 0)
	return c
}

// shortCall gives the median time of many calls, after as many that are not counted.
func shortCall(t *testing.T, c workflowservice.WorkflowServiceClient) time.Duration {
	const counted = 300
	took := make([]time.Duration, 0, counted)
	for i := range 2 * counted {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		start := time.Now()
		_, err := c.DescribeWorkflowExecution(ctx, &workflowservice.DescribeWorkflowExecutionRequest{
			Namespace: "default", Execution: &commonpb.WorkflowExecution{WorkflowId: "order-1"},
		})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if i >= counted {
			took = append(took, time.Since(start))
		}
	}
	slices.Sort(took)
	return took[counted/2].Round(time.Microsecond)
}

// resident is the least that a process held of anonymous memory within some seconds.
func resident(t *testing.T, pid int) int {
	least := 0
	for range 10 {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Skip("memory of a process is read from /proc, which is not here: ", err)
		}
		for line := range strings.SplitSeq(string(text), "\n") {
			var kb int
			if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &kb); err == nil && (least == 0 || kb < least) {
				least = kb
			}
		}
		time.Sleep(300 * time.Millisecond)
	}
	return least << 10
}

func connect(t *testing.T, address string) workflowservice.WorkflowServiceClient {
	cc, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return workflowservice.NewWorkflowServiceClient(cc)
}

// frontend holds polls until their callers leave.
type frontend struct {
	workflowservice.UnimplementedWorkflowServiceServer
	address string
	held    atomic.Int64
}

func startFrontend(t *testing.T) *frontend {
	f := new(frontend)
	s := grpc.NewServer(grpc.MaxConcurrentStreams(perConnection))
	workflowservice.RegisterWorkflowServiceServer(s, f)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.address = l.Addr().String()
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return f
}

func (f *frontend) await(t *testing.T, n int64) {
	for range 1200 {
		if f.held.Load() == n {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("the frontend holds %d polls instead of %d", f.held.Load(), n)
}

func (f *frontend) GetSystemInfo(context.Context, *workflowservice.GetSystemInfoRequest) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{ServerVersion: "1.32.1"}, nil
}

func (f *frontend) DescribeNamespace(context.Context, *workflowservice.DescribeNamespaceRequest) (*workflowservice.DescribeNamespaceResponse, error) {
	return &workflowservice.DescribeNamespaceResponse{}, nil
}

func (f *frontend) DescribeWorkflowExecution(context.Context, *workflowservice.DescribeWorkflowExecutionRequest) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	return &workflowservice.DescribeWorkflowExecutionResponse{}, nil
}

func (f *frontend) PollActivityTaskQueue(ctx context.Context, _ *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
	f.held.Add(1)
	defer f.held.Add(-1)
	<-ctx.Done()
	return nil, ctx.Err()
}

func startRelay(t *testing.T, upstream string) target {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), relayTo+"="+upstream, collect)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := peers.Start("relay", cmd, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	var address string
	if _, scanErr := fmt.Sscanf(line, "{\"address\":%q}", &address); err != nil || scanErr != nil {
		t.Fatalf("the relay did not start: %v %q", err, line)
	}
	return target{"relay", address, p.PID()}
}

func startProxy(t *testing.T, upstream string) target {
	p, err := harness.StartProxy(t.Context(), harness.ProxyOptions{Dir: t.TempDir(), Upstream: upstream, Env: []string{collect}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return target{"proxy", p.Address, p.PID()}
}
