package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

// figures are what one turn showed.
type figures struct {
	rps           float64
	p50, p99, cpu float64 // microseconds
	memory        int     // KB
	calls         int
}

// results are the medians, by work and variant.
type results struct {
	works    []string
	variants []string
	rounds   int
	turn     time.Duration
	median   map[string]map[string]figures
	// cpuRatio is the median, over rounds, of a variant's CPU per request over the relay's in the same round.
	cpuRatio map[string]map[string]float64
	p50Added map[string]map[string]float64 // p50 less that of direct, in the same round
	cold     []coldCase
	lengths  map[string]map[string]int // of answers, as field has them
	machine  string                    // for a document
}

func (f *field) measure(ctx context.Context, o options) (*results, error) {
	out := &results{rounds: o.rounds, turn: o.turn, median: map[string]map[string]figures{},
		cpuRatio: map[string]map[string]float64{}, p50Added: map[string]map[string]float64{}, lengths: f.lengths}
	for _, v := range f.variants {
		out.variants = append(out.variants, v.name)
	}
	for i := range f.works {
		w := &f.works[i]
		turns := map[string][]figures{}
		for round := range o.rounds + 1 {
			for j := range f.variants {
				v := f.variants[(j+round)%len(f.variants)] // no variant is always the first
				if !v.takes(w.name) {
					continue
				}
				got, err := v.turn(ctx, w, o.turn)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", w.name, v.name, err)
				}
				if round > 0 { // the first warms up
					turns[v.name] = append(turns[v.name], got)
				}
			}
		}
		out.add(w.name, turns)
		fmt.Fprintf(os.Stderr, "%s done\n", w.name)
	}
	return out, nil
}

func (r *results) add(work string, turns map[string][]figures) {
	r.works = append(r.works, work)
	r.median[work] = map[string]figures{}
	r.cpuRatio[work], r.p50Added[work] = map[string]float64{}, map[string]float64{}
	for variant, all := range turns {
		pick := func(of func(figures) float64) float64 { return medianOf(all, of) }
		r.median[work][variant] = figures{
			rps:    pick(func(f figures) float64 { return f.rps }),
			p50:    pick(func(f figures) float64 { return f.p50 }),
			p99:    pick(func(f figures) float64 { return f.p99 }),
			cpu:    pick(func(f figures) float64 { return f.cpu }),
			memory: int(pick(func(f figures) float64 { return float64(f.memory) })),
		}
		ratios, added := make([]float64, len(all)), make([]float64, len(all))
		for i, f := range all {
			ratios[i], added[i] = f.cpu/turns[plain][i].cpu, f.p50-turns[direct][i].p50
		}
		r.cpuRatio[work][variant], r.p50Added[work][variant] = median(ratios), median(added)
	}
}

func medianOf(all []figures, of func(figures) float64) float64 {
	values := make([]float64, len(all))
	for i, f := range all {
		values[i] = of(f)
	}
	return median(values)
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// turn runs the closed loop for a while: each caller sends its next call when it has the last one's answer.
func (v *variant) turn(ctx context.Context, w *work, length time.Duration) (figures, error) {
	var before time.Duration
	var err error
	if v.process != nil {
		if before, err = v.process.cpu(); err != nil {
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
			// Callers begin at different calls of the sequence.
			mine, err := repeat(ctx, v.conns[i/callersPerConnection], w.calls, len(w.calls)*i/w.callers, began.Add(length))
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
	got := figures{rps: float64(len(taken)) / passed.Seconds(), calls: len(taken),
		p50: micros(taken[len(taken)/2]), p99: micros(taken[len(taken)*99/100])}
	if v.process == nil {
		return got, nil
	}
	after, err := v.process.cpu()
	if err != nil {
		return figures{}, err
	}
	got.cpu = micros(after-before) / float64(len(taken))
	got.memory, err = v.process.memory()
	return got, err
}

// repeat makes the calls in their order, from the one at index first on, until the time is over. It makes one at least.
func repeat(ctx context.Context, cc *grpc.ClientConn, calls []call, first int,
	until time.Time) (taken []time.Duration, err error) {
	for i := first; len(taken) == 0 || time.Now().Before(until); i++ {
		c := &calls[i%len(calls)]
		took, err := c.make(ctx, cc)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.method, err)
		}
		taken = append(taken, took)
	}
	return taken, nil
}

// make makes the call, drops the answer, and returns how long it took.
func (c *call) make(ctx context.Context, cc *grpc.ClientConn) (time.Duration, error) {
	request := c.request
	if c.vary != nil {
		request = c.vary.next(request)
	}
	in := mem.BufferSlice{mem.SliceBuffer(request)}
	var out mem.BufferSlice
	began := time.Now()
	err := cc.Invoke(ctx, service+c.method, &in, &out, grpc.ForceCodecV2(raw{}))
	took := time.Since(began)
	out.Free()
	return took, err
}
