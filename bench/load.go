package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	querypb "go.temporal.io/api/query/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// work is one kind of call by a number of callers.
type work struct {
	name    string
	callers int
	method  string
	request proto.Message
	answer  proto.Message // what it must be, once
}

const (
	namespace = "default"
	service   = "/temporal.api.workflowservice.v1.WorkflowService/"
	// canary stands in every payload: none may arrive at the frontend in clear behind a variant that seals.
	canary = "patient-4711"
)

func payload(r *rand.Rand, size int) *commonpb.Payload {
	data := []byte(`{"` + canary + `":"`)
	for len(data) < size-2 {
		data = append(data, "0123456789abcdefghijklmnopqrstuv"[r.IntN(32)])
	}
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: append(data, `"}`...)}
}

// historyWork is how the names of works start that ask for histories.
const historyWork = "history"

// historyPayload is the size of the payloads in histories, 500 in each.
const historyPayload = 200

func works(variant string) []work {
	r := rand.New(rand.NewPCG(1, 2))
	execution := &commonpb.WorkflowExecution{WorkflowId: variant}
	var all []work
	for _, size := range []struct {
		name  string
		bytes int
	}{{"1KB", 1 << 10}, {"100KB", 100 << 10}} {
		args := &commonpb.Payloads{Payloads: []*commonpb.Payload{payload(r, size.bytes)}}
		for _, callers := range []int{1, 16, 64} {
			all = append(all, work{name: fmt.Sprintf("query_%s_x%d", size.name, callers), callers: callers, method: "QueryWorkflow",
				request: &workflowservice.QueryWorkflowRequest{Namespace: namespace, Execution: execution, Query: &querypb.WorkflowQuery{QueryType: "ward", QueryArgs: args}},
				answer:  &workflowservice.QueryWorkflowResponse{QueryResult: args}})
		}
	}
	for _, callers := range []int{1, 16, 64} {
		all = append(all, work{name: fmt.Sprintf("%s_%d_x%d", historyWork, historyEvents, callers), callers: callers, method: "GetWorkflowExecutionHistory",
			request: &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: namespace, Execution: execution},
			answer:  &workflowservice.GetWorkflowExecutionHistoryResponse{History: historyOf(historyPayloads())}})
	}
	return all
}

func historyPayloads() []*commonpb.Payload {
	r := rand.New(rand.NewPCG(3, 4))
	payloads := make([]*commonpb.Payload, historyEvents/2)
	for i := range payloads {
		payloads[i] = payload(r, historyPayload)
	}
	return payloads
}

// callersPerConnection is about that of a busy worker.
const callersPerConnection = 16

// lane is a variant with connections to it.
type lane struct {
	*variant
	conns []*grpc.ClientConn
	works []work
}

func (f *field) lanes(ctx context.Context) ([]*lane, error) {
	var lanes []*lane
	for _, v := range f.variants {
		l := &lane{variant: v, works: works(v.history())}
		for range 64 / callersPerConnection {
			cc, err := grpc.NewClient(v.address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
			if err != nil {
				return nil, err
			}
			l.conns = append(l.conns, cc)
		}
		lanes = append(lanes, l)
		if err := l.prepare(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", v.name, err)
		}
	}
	return lanes, lanes[0].checkSealed(ctx)
}

// prepare gives the frontend this lane's history, through the lane, and checks that every answer comes out as it should.
func (l *lane) prepare(ctx context.Context) error {
	if l.history() != l.name {
		return nil // what it gets is as its owner stored it
	}
	client := workflowservice.NewWorkflowServiceClient(l.conns[0])
	if _, err := client.SignalWorkflowExecution(ctx, &workflowservice.SignalWorkflowExecutionRequest{Namespace: namespace, SignalName: "s",
		WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: l.name}, Input: &commonpb.Payloads{Payloads: historyPayloads()}}); err != nil {
		return err
	}
	for _, w := range l.works {
		got := w.answer.ProtoReflect().New().Interface()
		if err := l.conns[0].Invoke(ctx, service+w.method, w.request, got); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		if !proto.Equal(got, w.answer) {
			return fmt.Errorf("%s: the answer is not what was sent", w.name)
		}
	}
	return nil
}

// checkSealed looks past the proxies at what the frontend was given.
func (l *lane) checkSealed(ctx context.Context) error {
	for name, sealed := range map[string]bool{direct: false, "visitor": true, "seal": true, "pass": false} {
		var out mem.BufferSlice
		in, err := proto.Marshal(&workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: name}})
		if err != nil {
			return err
		}
		request := mem.BufferSlice{mem.SliceBuffer(in)}
		if err := l.conns[0].Invoke(ctx, service+"GetWorkflowExecutionHistory", &request, &out, grpc.ForceCodecV2(raw{})); err != nil {
			continue // that variant is left out
		}
		b := out.Materialize()
		out.Free()
		if bytes.Contains(b, []byte(canary)) == sealed {
			return fmt.Errorf("%s: sealed at the frontend is %v, which should be %v", name, !sealed, sealed)
		}
	}
	return nil
}

// figures are what one turn showed.
type figures struct {
	rps, p50, p99, cpu float64 // microseconds
	memory             int     // KB
}

// results are the medians, by work and variant.
type results struct {
	works    []string
	variants []string
	median   map[string]map[string]figures
	// cpuRatio is the median, over rounds, of a variant's CPU per request over the relay's in the same round.
	cpuRatio map[string]map[string]float64
	p50Added map[string]map[string]float64 // p50 less that of direct, in the same round
}

func (f *field) measure(ctx context.Context, o options) (*results, error) {
	lanes, err := f.lanes(ctx)
	if err != nil {
		return nil, err
	}
	out := &results{median: map[string]map[string]figures{}, cpuRatio: map[string]map[string]float64{}, p50Added: map[string]map[string]float64{}}
	for _, l := range lanes {
		out.variants = append(out.variants, l.name)
	}
	for i := range lanes[0].works {
		name := lanes[0].works[i].name
		if !chosen(o.works, name) {
			continue
		}
		turns := map[string][]figures{}
		for round := range o.rounds + 1 {
			for j := range lanes {
				l := lanes[(j+round)%len(lanes)] // nobody is always the first
				if !l.takes(name) {
					continue
				}
				got, err := l.turn(ctx, &l.works[i], o.turn)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", name, l.name, err)
				}
				if round > 0 { // the first warms up
					turns[l.name] = append(turns[l.name], got)
				}
			}
		}
		out.add(name, turns)
		fmt.Fprintf(os.Stderr, "%s done\n", name)
	}
	return out, nil
}

func (r *results) add(work string, turns map[string][]figures) {
	r.works = append(r.works, work)
	r.median[work], r.cpuRatio[work], r.p50Added[work] = map[string]figures{}, map[string]float64{}, map[string]float64{}
	for variant, all := range turns {
		pick := func(of func(figures) float64) float64 {
			values := make([]float64, len(all))
			for i, f := range all {
				values[i] = of(f)
			}
			return median(values)
		}
		r.median[work][variant] = figures{rps: pick(func(f figures) float64 { return f.rps }), p50: pick(func(f figures) float64 { return f.p50 }),
			p99: pick(func(f figures) float64 { return f.p99 }), cpu: pick(func(f figures) float64 { return f.cpu }),
			memory: int(pick(func(f figures) float64 { return float64(f.memory) }))}
		ratios, added := make([]float64, len(all)), make([]float64, len(all))
		for i, f := range all {
			ratios[i], added[i] = f.cpu/turns[plain][i].cpu, f.p50-turns[direct][i].p50
		}
		r.cpuRatio[work][variant], r.p50Added[work][variant] = median(ratios), median(added)
	}
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// turn runs the closed loop for a while: each caller sends its next call when it has the last one's answer.
func (l *lane) turn(ctx context.Context, w *work, length time.Duration) (figures, error) {
	in, err := proto.Marshal(w.request)
	if err != nil {
		return figures{}, err
	}
	var before time.Duration
	if l.process != nil {
		if before, err = l.process.cpu(); err != nil {
			return figures{}, err
		}
	}
	began := time.Now()
	var mu sync.Mutex
	var taken []time.Duration
	var failed error
	var callers sync.WaitGroup
	for i := range w.callers {
		callers.Go(func() {
			mine, err := calls(ctx, l.conns[i/callersPerConnection], service+w.method, in, began.Add(length))
			mu.Lock()
			defer mu.Unlock()
			taken = append(taken, mine...)
			if err != nil {
				failed = err
			}
		})
	}
	callers.Wait()
	if failed != nil {
		return figures{}, failed
	}
	passed := time.Since(began)
	slices.Sort(taken)
	micros := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	got := figures{rps: float64(len(taken)) / passed.Seconds(), p50: micros(taken[len(taken)/2]), p99: micros(taken[len(taken)*99/100])}
	if l.process == nil {
		return got, nil
	}
	after, err := l.process.cpu()
	if err != nil {
		return figures{}, err
	}
	got.cpu = micros(after-before) / float64(len(taken))
	got.memory, err = l.process.memory()
	return got, err
}

func calls(ctx context.Context, cc *grpc.ClientConn, method string, request []byte, until time.Time) (taken []time.Duration, err error) {
	for time.Now().Before(until) {
		in := mem.BufferSlice{mem.SliceBuffer(request)}
		var out mem.BufferSlice
		began := time.Now()
		if err := cc.Invoke(ctx, method, &in, &out, grpc.ForceCodecV2(raw{})); err != nil {
			return nil, err
		}
		taken = append(taken, time.Since(began))
		out.Free()
	}
	return taken, nil
}
