package survey

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/survey/detect"
)

var measureCost = flag.Bool("measure-cost", false, "measure what a survey costs; `make bench-survey`")

const (
	// searched is how many payloads are searched before the heap is measured; it is measured once more after ten times as many.
	searched = 20_000
	// turns is how many turns of a second requests are sealed with and without a survey of live traffic.
	turns = 10
	// mostCPU is how much more CPU time a request may take with a survey that has its default share, 5 %.
	mostCPU = 1.05
)

// document1K is a document of about 1,000 bytes, as programs send them; i varies it.
func document1K(i int) string {
	var lines []string
	for j := range 10 {
		lines = append(lines, fmt.Sprintf(`{"sku":"A-%d-%d","title":"Widget, blue, %d mm","quantity":%d,"price":%d.95,"taxed":true}`, i%97, j, 3+j, 1+i%5, 10+j))
	}
	return fmt.Sprintf(`{"orderId":"0b8e1c9a-7f2d-4a8e-9d3c-%012d","customer":{"ref":"C%d","tier":"gold"},"lines":[%s],"note":"leave at the door"}`,
		i, i%1000, strings.Join(lines, ","))
}

// TestCost measures what a survey costs: payloads a second on one core, the heap, and what a survey of live traffic adds to the CPU time
// of requests of 1 KB.
func TestCost(t *testing.T) {
	if !*measureCost {
		t.Skip("run by make bench-survey")
	}
	cores := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(cores)
	live := newTestLive()
	search := func(from, to int) {
		for i := from; i < to; i++ {
			s := sampleOf(t, fmt.Sprint("Type", i%50), document1K(i), policy.Verdict{Action: policy.Seal})
			live.search(s)
		}
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	search(0, searched)
	first := heap()
	began := processCPU()
	search(searched, 10*searched)
	took := processCPU() - began
	second := heap()
	rate := 9 * searched / took.Seconds()
	if float64(second) > 1.2*float64(first)+(1<<20) {
		t.Errorf("the heap grew from %d to %d bytes", first, second)
	}
	runtime.GOMAXPROCS(cores) // on one, a survey of live traffic hardly gets a turn beside requests that never wait
	line := fmt.Sprintf("bench-survey: %.0f payloads of %d bytes a second on one core; heap %.1f MB after %d, %.1f MB after %d; live at 1 KB",
		rate, len(document1K(0)), float64(first)/1e6, searched, float64(second)/1e6, 10*searched)
	for _, most := range []int{100, 10_000} { // the default, and the highest, where the share of CPU time alone bounds it
		with, without, percent := sealedWith(t, most)
		if with/without > mostCPU {
			t.Errorf("a request takes %.2f times the CPU time with a survey of %d payloads a second at most", with/without, most)
		}
		line += fmt.Sprintf(", rate %d: x_cpu=%.3f, %.3f %% searched", most, with/without, percent)
	}
	fmt.Println(line)
}

// sealedWith seals requests of 1 KB, with and without a survey of live traffic by turns, and returns the CPU time of a request in each
// case, in seconds, and how many percent of the payloads were searched. rate is the survey's.
func sealedWith(t *testing.T, rate int) (with, without, percent float64) {
	t.Helper()
	sampler := rewrite.NewSampler()
	surveyed, plain := sealing(t, sampler), sealing(t, nil)
	live := NewLive(LiveOptions{Detector: new(detect.Detector), Sampler: sampler, Rate: rate, CPUPercent: 5, Log: slog.New(slog.DiscardHandler), Known: func(string) bool { return true }})
	var costs [2][]float64
	for range turns {
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			live.Run(ctx)
		}()
		costs[0] = append(costs[0], surveyed(time.Second))
		stop()
		<-ended
		costs[1] = append(costs[1], plain(time.Second))
	}
	middle := func(of []float64) float64 {
		slices.Sort(of)
		return (of[(len(of)-1)/2] + of[len(of)/2]) / 2
	}
	return middle(costs[0]), middle(costs[1]), live.Sampling().Percent
}

// sealing returns what seals requests for some time, as a proxy does, and returns the CPU time of each in seconds.
func sealing(t *testing.T, sampler *rewrite.Sampler) func(time.Duration) float64 {
	t.Helper()
	key, log := filepath.Join(t.TempDir(), "seal.key"), slog.New(slog.NewTextHandler(io.Discard, nil))
	if err := localkey.Create(key, time.Now()); err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.New(t.Context(), keyring.Options{Open: localkey.Open, Log: log, Keys: []keyring.KeyConfig{{Name: "default", Active: "local:" + key}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	engine, err := policy.NewEngine(t.Context(), policy.Options{Shipped: []byte("package temporal\n"), KeyRank: keys.Rank, DefaultKey: keys.DefaultKey})
	if err != nil {
		t.Fatal(err)
	}
	r, err := rewrite.New(rewrite.Options{Keys: keys, Policy: engine, Sampler: sampler, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	var requests [100][]byte
	for i := range requests {
		requests[i], err = proto.Marshal(&workflowservice.StartWorkflowExecutionRequest{Namespace: "shop", WorkflowId: "w",
			WorkflowType: &commonpb.WorkflowType{Name: "Order"}, Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{payload("json/plain", document1K(i))}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	m := r.Method("/temporal.api.workflowservice.v1.WorkflowService/StartWorkflowExecution")
	return func(d time.Duration) float64 {
		began, n := processCPU(), 0
		for end := time.Now().Add(d); time.Now().Before(end); n++ {
			s := r.Begin(m, nil)
			if err := s.Identify(requests[n%len(requests)]); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Request(t.Context(), requests[n%len(requests)]); err != nil {
				t.Fatal(err)
			}
			s.Done()
		}
		return (processCPU() - began).Seconds() / float64(n)
	}
}
