package policy_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"

	temporalseal "github.com/temporal-seal/temporal-seal"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

var measureCost = flag.Bool("measure-cost", false, "measure decisions; `make bench-policy`")

// least is how many times cheaper a cached verdict has to be than the evaluation that it saves.
const least = 20

// TestCost measures a cached verdict and, beside it, the evaluation that it saves. It prints a line per
// case, and fails where a cached verdict allocates or is not 20 times cheaper.
func TestCost(t *testing.T) {
	if !*measureCost {
		t.Skip("run by make bench-policy")
	}
	if err := run(); err != nil {
		t.Error(err)
	}
}

// subject is one payload to be decided about.
type subject struct {
	name      string
	direction policy.Direction
	in        policy.Input
	content   bool // the decision hangs on the content: there is no cached verdict to compare with
}

func subjects() []subject {
	worker := policy.NewCaller("jwt", "worker", "main", map[string]any{"groups": []any{"clinic"}, "temporal_namespaces": []any{"clinic-prod"}})
	activity := policy.Input{
		Namespace: "clinic-prod", RPC: "RespondActivityTaskCompleted", Caller: worker,
		WorkflowID: "admission-4711", WorkflowType: "Admission", TaskQueue: "admissions", ActivityID: "7", ActivityType: "FetchLabResults",
		Known: policy.AllFacts,
		Kind:  policy.KindResult, Path: "result", Encoding: "json/plain", Data: document(),
		Sealed: policy.Sealed{Namespace: "clinic-prod", Key: "phi"},
	}
	platform := activity
	platform.Namespace, platform.Sealed.Namespace = "somewhere", "somewhere"
	header := activity
	header.Kind, header.Name, header.Path = policy.KindHeader, "Authorization", "header"
	start := activity
	start.RPC, start.Kind, start.Path = "StartWorkflowExecution", policy.KindInput, "input"
	start.Known, start.NotApplicable = policy.AllFacts&^policy.FactActivityID&^policy.FactActivityType, policy.FactActivityID|policy.FactActivityType
	return []subject{
		{name: "shipped_result", in: platform},
		{name: "shipped_open", in: platform, direction: policy.Response},
		{name: "clinic_result", in: activity},
		{name: "clinic_header", in: header},
		{name: "clinic_open", in: activity, direction: policy.Response},
		{name: "clinic_input_1kb", in: start, content: true},
	}
}

// document is 1 KB of JSON without a token in it.
func document() []byte {
	return []byte(`{"patient_id":"P-1","ward":"B","beds":[1,2,3,4],"notes":["` + strings.Repeat("quiet night; ", 72) + `"]}`)
}

func run() error {
	ctx := context.Background()
	opts := policy.Options{
		Shipped: temporalseal.ShippedPolicy, Namespaces: "../../examples/clinic/namespaces",
		KeyRank: func(_, key string) (int, bool) {
			rank, ok := map[string]int{"phi": 0, "jwt": 1, "default": 2}[key]
			return rank, ok
		},
	}
	remembering, err := policy.Load(ctx, opts)
	if err != nil {
		return err
	}
	opts.CacheSize = -1
	plain, err := policy.Load(ctx, opts)
	if err != nil {
		return err
	}
	var lines []string
	var faults []error
	for _, s := range subjects() {
		evaluation, err := measure(ctx, plain, s, false)
		if err != nil {
			return err
		}
		lines = append(lines, line(s.name+"_evaluation", evaluation))
		if s.content {
			continue
		}
		hit, err := measure(ctx, remembering, s, true)
		if err != nil {
			return err
		}
		lines = append(lines, line(s.name+"_hit", hit))
		ratio := float64(evaluation.NsPerOp()) / float64(hit.NsPerOp())
		fmt.Printf("%-16s a cached verdict is %.0f times cheaper than the evaluation\n", s.name, ratio)
		if ratio < least || hit.AllocsPerOp() > 0 {
			faults = append(faults, fmt.Errorf("%s: a cached verdict must be %d times cheaper and allocate nothing, it is %.1f times cheaper with %d allocations",
				s.name, least, ratio, hit.AllocsPerOp()))
		}
	}
	fmt.Println(strings.Join(lines, "\n"))
	return errors.Join(faults...)
}

func line(name string, r testing.BenchmarkResult) string {
	return fmt.Sprintf("%s ns=%d allocs=%d", name, r.NsPerOp(), r.AllocsPerOp())
}

// measure decides over and over. wantHit makes sure that the cache is what is measured.
func measure(ctx context.Context, p *policy.Policy, s subject, wantHit bool) (testing.BenchmarkResult, error) {
	in := s.in
	if _, err := p.Decide(ctx, s.direction, &in); err != nil {
		return testing.BenchmarkResult{}, err
	}
	var failed error
	r := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			v, err := p.Decide(ctx, s.direction, &in)
			switch { // the loop goes on: a benchmark outside of a test cannot be left early
			case err != nil:
				failed = err
			case v.Hit != wantHit:
				failed = fmt.Errorf("%s: answered by the cache: %v", s.name, v.Hit)
			}
		}
	})
	return r, failed
}
