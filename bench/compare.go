package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	historypb "go.temporal.io/api/history/v1"
)

// errSlower is the outcome of a comparison in which a work is not shown to be no slower.
var errSlower = errors.New("not every work is no slower")

// comparison runs two builds of the product side by side.
type comparison struct {
	options
	pairs     int
	lenient   bool     // undecided works are no failure
	sides     [2]*side // the old build and the new one
	mixed     *historypb.History
	frontends *process
	upstreams []string
	sink      *process
	sinkAt    string
}

// side is one of the two builds, with the history that it sealed itself.
type side struct {
	name   string
	binary string
	field  *field // what is started anew for each pair
	stage  *coldStage
}

// samples are what the pairs showed of one work.
type samples struct {
	ratios []float64 // CPU per call, new over old, of each pair
	used   [2]struct{ objects, bytes []float64 }
}

// compare is the subcommand: it prints a line for each work and a summary.
func compare(ctx context.Context, args []string) error {
	c := &comparison{mixed: mixedHistory()}
	flags := flag.NewFlagSet("bench compare", flag.ExitOnError)
	c.shared(flags)
	oldBinary := flags.String("old", "", "the binary to compare with")
	newBinary := flags.String("new", "", "the binary that must be no slower")
	flags.IntVar(&c.pairs, "pairs", 20, "how many times both builds are started and measured")
	flags.IntVar(&c.starts, "cold", 4,
		"how many processes of each build open their first sealed history, in each pair; 0: none")
	flags.BoolVar(&c.lenient, "allow-undecided", false, "fail only if a work is slower")
	_ = flags.Parse(args) // it exits on an error
	if *oldBinary == "" || *newBinary == "" || c.pairs < 1 {
		return errors.New("-old and -new are required, and -pairs is 1 or more")
	}
	c.sides = [2]*side{{name: "old", binary: *oldBinary}, {name: "new", binary: *newBinary}}
	defer c.stop()
	if err := c.start(ctx); err != nil {
		return err
	}
	names, all, err := c.measure(ctx)
	if err != nil {
		return err
	}
	return report(os.Stdout, names, all, c.lenient)
}

// start seals the history with each build and starts what both share.
func (c *comparison) start(ctx context.Context) error {
	works, err := newWorks(c.options, c.mixed)
	if err != nil {
		return err
	}
	if c.works == "" {
		// One caller alone, a busy worker, and what is large: the rest shows little more.
		works = slices.DeleteFunc(works, func(w work) bool {
			return w.callers == maxCallers || w.name == "query_100KB_x1" || w.name == "history_1000_x1"
		})
	}
	for _, s := range c.sides {
		fix, err := localFixture(ctx, c.options, s.binary, c.mixed)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		s.field = &field{works: works, fixture: fix, lengths: map[string]map[string]int{}}
		if s.field.dir, err = os.MkdirTemp("", "bench-"); err != nil {
			return err
		}
		if c.starts > 0 && chosen(c.works, coldWork) {
			if s.stage, err = newColdStage(ctx, fix, c.mixed); err != nil {
				return err
			}
		}
	}
	line := ""
	if c.frontends, line, err = startRole(ctx, "frontend", "-count", "2"); err != nil {
		return err
	}
	c.upstreams = splitAddresses(line)
	c.sink, c.sinkAt, err = startRole(ctx, "sink")
	return err
}

func (c *comparison) stop() {
	for _, s := range c.sides {
		if s.field != nil {
			s.field.stop()
		}
		if s.stage != nil {
			s.stage.stop()
		}
	}
	c.frontends.end()
	c.sink.end()
}

// measure runs the pairs and returns the samples by work, and the works in their order.
func (c *comparison) measure(ctx context.Context) (names []string, all map[string]*samples, err error) {
	all = map[string]*samples{}
	for _, w := range c.sides[0].field.works {
		names = append(names, w.name)
		all[w.name] = new(samples)
	}
	if c.sides[0].stage != nil {
		names = append(names, coldWork)
		all[coldWork] = new(samples)
	}
	began := time.Now()
	for pair := range c.pairs {
		order := []int{0, 1} // who is first takes turns: a machine that grows slower harms both alike
		if pair%2 == 1 {
			order = []int{1, 0}
		}
		if err := c.pair(ctx, order, all); err != nil {
			return nil, nil, fmt.Errorf("pair %d: %w", pair+1, err)
		}
		if pair == 0 || (pair+1)%5 == 0 {
			fmt.Fprintf(os.Stderr, "pair %d of %d done after %s\n", pair+1, c.pairs, time.Since(began).Round(time.Second))
		}
	}
	return names, all, nil
}

// pair starts both builds and has them take turns at each work.
func (c *comparison) pair(ctx context.Context, order []int, all map[string]*samples) error {
	for _, i := range order {
		s := c.sides[i]
		if err := s.field.add(ctx, sealing, s.binary, c.upstreams[i], c.sinkAt); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		defer s.field.clear()
	}
	for w := range c.sides[0].field.works {
		name := c.sides[0].field.works[w].name
		if err := c.work(ctx, order, w, all[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if c.sides[0].stage == nil {
		return nil
	}
	return c.coldPair(ctx, order, all[coldWork])
}

// turnSlices are what the turns of a pair are cut into. The builds change places after each, so that a machine that is busy
// elsewhere for a moment harms both.
const turnSlices = 10

// work has both builds take their turns at one work.
func (c *comparison) work(ctx context.Context, order []int, index int, to *samples) error {
	var meters [2]*meter
	var cpu, calls [2]float64
	// The first two slices are not measured: connections, caches and the heap get to where they stay.
	for slice := range turnSlices + 2 {
		for turn := range order {
			i := order[(turn+slice)%len(order)]
			v := c.sides[i].field.variants[0]
			if slice == 2 {
				var err error
				if meters[i], err = newMeter(ctx, v.admin); err != nil {
					return err
				}
			}
			got, err := v.turn(ctx, &c.sides[i].field.works[index], c.turn/turnSlices)
			if err != nil {
				return fmt.Errorf("%s: %w", c.sides[i].name, err)
			}
			if slice >= 2 {
				cpu[i] += got.cpu * float64(got.calls)
				calls[i] += float64(got.calls)
			}
		}
	}
	for i, m := range meters {
		used, err := m.stop(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", c.sides[i].name, err)
		}
		to.use(i, allocations{used.objects / calls[i], used.bytes / calls[i]})
	}
	to.ratios = append(to.ratios, cpu[1]/calls[1]/(cpu[0]/calls[0]))
	return nil
}

// coldPair has a few processes of each build open a history whose data keys they do not know, and compares the medians.
func (c *comparison) coldPair(ctx context.Context, order []int, to *samples) error {
	var cpu [2][]float64
	for start := range c.starts {
		for turn := range order {
			i := order[(turn+start)%len(order)]
			s := c.sides[i]
			cold, _, err := s.stage.open(ctx, s.binary, s.field.fixture.key)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", s.name, coldWork, err)
			}
			cpu[i] = append(cpu[i], cold.cpu)
			to.use(i, cold.allocated)
		}
	}
	to.ratios = append(to.ratios, median(cpu[1])/median(cpu[0]))
	return nil
}

func (s *samples) use(side int, a allocations) {
	u := &s.used[side]
	u.objects, u.bytes = append(u.objects, a.objects), append(u.bytes, a.bytes)
}

// allocations returns the medians of one side.
func (s *samples) allocations(side int) allocations {
	return allocations{median(s.used[side].objects), median(s.used[side].bytes)}
}

// The rule "no slower": the interval of the CPU ratio ends at 1.05 at most, and allocations and bytes per call are not
// higher. They are higher if the interval of their difference, new less old, lies above what is tolerated: half a percent
// and a little more. One and the same binary differs that much, as collections empty pools at other moments.
const (
	maxRatio        = 1.05
	allocTolerance  = 0.005
	objectTolerance = 1   // objects per call
	byteTolerance   = 128 // bytes per call
	// minPairs decide something: an interval from n values holds their median with a probability of 1 - 2/2^n at most, which
	// reaches 95 % at six.
	minPairs = 6
)

type verdict string

const (
	noSlower  verdict = "no slower"
	slower    verdict = "slower"
	undecided verdict = "undecided"
)

// verdict applies the rule. It is slower if the whole interval of the ratio lies above the limit, or if more is allocated.
func (s *samples) verdict() verdict {
	ci := bootstrap(s.ratios)
	switch {
	case len(s.ratios) < minPairs:
		return undecided
	case ci.low > maxRatio,
		higher(s.used[0].objects, s.used[1].objects, objectTolerance),
		higher(s.used[0].bytes, s.used[1].bytes, byteTolerance):
		return slower
	case ci.high <= maxRatio:
		return noSlower
	}
	return undecided
}

// higher reports whether the values of the new build are surely higher than those of the old one.
func higher(before, after []float64, tolerance float64) bool {
	over := make([]float64, len(before))
	for i := range before {
		over[i] = after[i] - before[i]*(1+allocTolerance) - tolerance
	}
	return bootstrap(over).low > 0
}

// report writes a line for each work and a summary. The error is errSlower unless every work is no slower; if lenient,
// only if one is slower.
func report(w io.Writer, names []string, all map[string]*samples, lenient bool) error {
	count := map[verdict]int{}
	for _, name := range names {
		s := all[name]
		ci, before, after := bootstrap(s.ratios), s.allocations(0), s.allocations(1)
		v := s.verdict()
		count[v]++
		fmt.Fprintf(w, "COMPARE %s ratio=%.3f ci=[%.3f,%.3f] allocs=%.0f/%.0f bytes=%.0f/%.0f verdict=%s\n",
			name, median(s.ratios), ci.low, ci.high, before.objects, after.objects, before.bytes, after.bytes, v)
	}
	fmt.Fprintf(w, "COMPARE of %d works: %d no slower, %d slower, %d undecided\n",
		len(names), count[noSlower], count[slower], count[undecided])
	if count[slower] > 0 || !lenient && count[undecided] > 0 {
		return errSlower
	}
	return nil
}
