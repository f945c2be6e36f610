package abuse

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	querypb "go.temporal.io/api/query/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

const workflowService = "/temporal.api.workflowservice.v1.WorkflowService/"

// crowd is the well-behaved callers: some make calls at a fixed pace, others hold polls. All of them share the connections
// of a sidecar or a balancer, as fleets do.
type crowd struct {
	conns  []*grpc.ClientConn
	token  string
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	latencies []time.Duration
	wrong     []string

	polls, pollsKept atomic.Int64
	pollErrors       sync.Map
}

const (
	goodNamespace = "good"
	goodCallers   = 8
	goodPolls     = 200
)

// startCrowd connects and begins to poll; calls begin with run.
func startCrowd(address, token string) (*crowd, error) {
	c := &crowd{token: token}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for range 2 {
		conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(256<<20)))
		if err != nil {
			return nil, err
		}
		c.conns = append(c.conns, conn)
	}
	for i := range goodPolls {
		c.wg.Go(func() { c.poll(i) })
	}
	return c, nil
}

func (c *crowd) stop() {
	c.cancel()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.wg.Wait()
}

func (c *crowd) outgoing(d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(c.ctx, d)
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.token), cancel
}

// poll polls again and again, as a worker does.
func (c *crowd) poll(i int) {
	request, _ := proto.Marshal(&workflowservice.PollWorkflowTaskQueueRequest{Namespace: goodNamespace,
		TaskQueue: &taskqueuepb.TaskQueue{Name: fmt.Sprint("q-", i%20)}, Identity: fmt.Sprint("worker-", i)})
	for c.ctx.Err() == nil {
		ctx, cancel := c.outgoing(70 * time.Second)
		var answer []byte
		err := c.conns[0].Invoke(ctx, workflowService+"PollWorkflowTaskQueue", &request, &answer)
		cancel()
		if c.ctx.Err() != nil {
			return // the test is over
		}
		c.polls.Add(1)
		if err == nil {
			c.pollsKept.Add(1)
			continue
		}
		c.pollErrors.Store(err.Error(), true)
		time.Sleep(time.Second)
	}
}

// sizes of payloads in bytes: many small ones, few large ones.
var sizes = []int{100, 100, 100, 100, 100, 300, 300, 1000, 1000, 1000, 1000, 3000, 3000, 10_000, 10_000, 30_000, 30_000, 100_000, 100_000, 300_000}

// run makes calls until the context ends, perSecond in all.
func (c *crowd) run(ctx context.Context, perSecond int) {
	var wg sync.WaitGroup
	for i := range goodCallers {
		wg.Go(func() {
			tick := time.NewTicker(time.Second * goodCallers / time.Duration(perSecond))
			defer tick.Stop()
			for n := i; ; n += goodCallers {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				size := sizes[rand.IntN(len(sizes))]
				if n%200 == 0 {
					size = 1 << 20
				}
				c.call(i, n, size)
			}
		})
	}
	wg.Wait()
}

// call makes one query, whose answer has to be its own argument. It does not try again: a refusal counts as wrong.
func (c *crowd) call(caller, n, size int) {
	data := fmt.Sprintf("%q", fmt.Sprintf("%s %d %s", canary, n, strings.Repeat("x", size)))
	arguments := &commonpb.Payloads{Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(data)}}}
	request, _ := proto.Marshal(&workflowservice.QueryWorkflowRequest{Namespace: goodNamespace,
		Execution: &commonpb.WorkflowExecution{WorkflowId: fmt.Sprint("good-", n)},
		Query:     &querypb.WorkflowQuery{QueryType: "echo", QueryArgs: arguments}})
	start := time.Now()
	problem := c.query(caller, request, arguments)
	took := time.Since(start)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.latencies = append(c.latencies, took)
	if problem != "" {
		c.wrong = append(c.wrong, fmt.Sprintf("%s (%d bytes): %s", time.Now().Format("15:04:05"), size, problem))
	}
}

func (c *crowd) query(caller int, request []byte, want *commonpb.Payloads) string {
	ctx, cancel := c.outgoing(10 * time.Second)
	defer cancel()
	var answer []byte
	err := c.conns[1].Invoke(ctx, workflowService+"QueryWorkflow", &request, &answer)
	if err != nil {
		return err.Error()
	}
	got := new(workflowservice.QueryWorkflowResponse)
	if err := proto.Unmarshal(answer, got); err != nil {
		return err.Error()
	}
	if !proto.Equal(got.GetQueryResult(), want) {
		return "the answer is not the argument"
	}
	return ""
}

// figures of the calls since the last take.
type figures struct {
	calls, right int
	wrong        []string
	p99          time.Duration
}

func (c *crowd) take() figures {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := figures{calls: len(c.latencies), right: len(c.latencies) - len(c.wrong), wrong: c.wrong, p99: percentile(c.latencies, 0.99)}
	c.latencies, c.wrong = nil, nil
	return f
}

func percentile(all []time.Duration, p float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(int(float64(len(sorted))*p), len(sorted)-1)]
}
