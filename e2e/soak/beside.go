package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// The replicas of a site with an older proxy, by their place in site.replicas.
const (
	oldSide = iota
	newSide
)

var sideNames = [...]string{oldSide: "old", newSide: "new"}

// besidePolicy seals everything. Headers and memos are sealed with a KMS key that both replicas use, as in
// production; workflows check what they carry. Everything else is sealed with a KMS key that is active in one
// replica and only opens in the other, so that a replica's metrics show how much it opened of what the other one
// sealed.
const besidePolicy = `request contains {"action": "seal"} if not input.payload.kind in {"header", "memo"}

request contains {"action": "seal", "key": "side"} if input.payload.kind in {"header", "memo"}`

// oldAndNew returns the options of two replicas, the first of which runs an older proxy.
func (s *site) oldAndNew(ctx context.Context, old string) ([]func() harness.ProxyOptions, error) {
	s.setPolicy(besidePolicy)
	second, err := s.newKey(ctx)
	if err != nil {
		return nil, err
	}
	active := [...]string{oldSide: s.keys[0].Active, newSide: second}
	options := func(side int, binary string) func() harness.ProxyOptions {
		return func() harness.ProxyOptions {
			o := s.proxyOptions()
			o.Binary = binary
			o.Keys[0].Active, o.Keys[0].OpenOnly = active[side], []string{active[1-side]}
			return o
		}
	}
	return []func() harness.ProxyOptions{oldSide: options(oldSide, old), newSide: options(newSide, "")}, nil
}

// phase is a part of a run with an older proxy beside the new one.
type phase struct {
	name      string
	kinds     []kind
	workflows int
	// clients and workers name the replica that they are connected to.
	clients, workers int
	// balanced connects clients and workers to both, by the balancer; restarts has the replicas restarted in turns.
	balanced, restarts bool
}

// beside runs load through an older proxy and the new one, and checks that each opened what the other one sealed:
// first with clients at one and workers at the other, then the reverse, then with both behind the balancer, without
// restarts and with.
func (s *soak) beside(ctx context.Context, workflows, width int) error {
	share := workflows / 6
	every := slices.Concat(kinds, planKinds[:min(len(planKinds), 1)])
	phases := []phase{
		{name: "clients old, workers new", kinds: every, workflows: share, clients: oldSide, workers: newSide},
		{name: "clients new, workers old", kinds: every, workflows: share, clients: newSide, workers: oldSide},
		{name: "both", kinds: planKinds, workflows: 2 * share, balanced: true},
		{name: "both, restarts", kinds: planKinds, workflows: workflows - 4*share, balanced: true, restarts: true},
	}
	count, err := s.newCrossings()
	if err != nil {
		return err
	}
	var total verdict
	lostBefore := 0 // tasks, without restarts
	var errs []error
	for i, p := range phases {
		calm := total.started
		v, late, err := s.besidePhase(ctx, fmt.Sprint("beside-", i), p, width, count)
		total.started, total.right = total.started+v.started, total.right+v.right
		total.wrong, total.lost = total.wrong+v.wrong, total.lost+v.lost
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
			break
		}
		if !p.restarts {
			lostBefore += late.activities + late.workflowTasks // some kinds fail first attempts on purpose
		} else if tooManyLost(late.lost(), v.started, lostBefore, calm) {
			errs = append(errs, errors.New("tasks were lost by the restarts, and waited for a timeout"))
		}
	}
	opened, err := count.opened()
	errs = append(errs, err, count.missing, s.complaints(), total.err())
	if total.started < workflows {
		errs = append(errs, fmt.Errorf("at least %d workflows were to be started", workflows))
	}
	fmt.Printf("old beside new: %d workflows, %d right, %d lost; old opened %d of new's, new opened %d of old's\n",
		total.started, total.right, total.lost, opened[oldSide], opened[newSide])
	return errors.Join(errs...)
}

// tooManyLost reports whether restarts lost tasks of a number of workflows, beside the tasks that were lost of other
// workflows without restarts. A machine with too much to do loses some by itself, one of 200 workflows even if none was
// lost before: twice that rate is in order, and what such a rate differs by from time to time.
func tooManyLost(tasks, workflows, before, workflowsBefore int) bool {
	rate := max(float64(before)/float64(max(workflowsBefore, 1)), 1.0/200)
	expected := rate * float64(workflows)
	return float64(tasks) > 2*expected+4*math.Sqrt(expected)
}

// besidePhase runs one phase.
func (s *soak) besidePhase(
	ctx context.Context, prefix string, p phase, width int, count *crossings,
) (verdict, lateness, error) {
	const pause = 125 * time.Millisecond
	before, err := count.opened()
	if err != nil {
		return verdict{}, lateness{}, err
	}
	since, all := time.Now(), newTally(s.say)
	l := &load{kinds: p.kinds, prefix: prefix, tally: all, width: width, limit: p.workflows, pause: pause}
	restarts := nothing
	if !p.balanced {
		l.clientsAt, l.workersAt = s.replicas[p.clients].listen, s.replicas[p.workers].listen
	}
	if p.restarts {
		l.limit = 0 // it goes on until each replica was restarted
		restarts = func(ctx context.Context, _ <-chan struct{}) error {
			return s.restartInTurns(ctx, count, func() bool {
				started, _, _ := all.counts()
				return started >= p.workflows
			})
		}
	}
	if err := s.load(ctx, l, restarts); err != nil {
		return all.verdict(), lateness{}, err
	}
	left := s.nothingLeft(ctx)
	s.explain(ctx, s.direct, all)
	late, err := look(ctx, s.direct, since)
	if err != nil {
		return all.verdict(), late, errors.Join(left, err)
	}
	after, err := count.opened()
	if err != nil {
		return all.verdict(), late, errors.Join(left, err)
	}
	v := all.verdict()
	fmt.Printf("%-24s: %s; %s; clients tried again after: %s", p.name, v, late, all.trouble())
	for side, other := range []int{newSide, oldSide} {
		more := after[side] - before[side]
		fmt.Printf("; %s opened %d of %s's", sideNames[side], more, sideNames[other])
		// With clients at one replica and workers at the other, each workflow's input and its result cross.
		if least := p.least(); more < least {
			count.missing = errors.Join(count.missing,
				fmt.Errorf("%s: the %s proxy opened %d payloads that the %s one sealed, want at least %d",
					p.name, sideNames[side], more, sideNames[other], least))
		}
	}
	fmt.Println()
	return v, late, errors.Join(left, v.err())
}

// least is how many payloads each replica has to open in a phase that the other one sealed.
func (p phase) least() int {
	if p.balanced {
		return p.workflows / 4
	}
	return p.workflows
}

// restartInTurns restarts one replica after the other, each at least once, until enough reports true.
func (s *soak) restartInTurns(ctx context.Context, count *crossings, enough func() bool) error {
	for i := 0; ctx.Err() == nil; i++ {
		wait(ctx, 3*time.Second)
		if i >= len(s.replicas) && enough() {
			return nil
		}
		side := i % len(s.replicas)
		began := time.Now()
		if err := count.leave(side); err != nil {
			return err
		}
		if err := s.replicas[side].restart(ctx); err != nil {
			return err
		}
		s.say("SIGTERM to the %s proxy, and it is back (%s)", sideNames[side], time.Since(began).Round(100*time.Millisecond))
	}
	return ctx.Err()
}

// crossings counts the payloads that one replica opened and the other one sealed. Of a proxy that was restarted it
// counts those before the signal: what it opens while it drains is left out.
type crossings struct {
	replicas []*replica
	keks     [2]string // references of the KMS key with which each replica alone seals
	ended    [2]int    // opened by proxies that have ended
	missing  error     // what was to be opened and was not
}

var kekLabel = regexp.MustCompile(`\bkek="([^"]+)"`)

func (s *site) newCrossings() (*crossings, error) {
	c := &crossings{replicas: s.replicas}
	for side, r := range s.replicas {
		m, err := r.metrics()
		if err != nil {
			return nil, err
		}
		if c.keks[side], err = activeKEK(m); err != nil {
			return nil, fmt.Errorf("the %s proxy: %w", sideNames[side], err)
		}
	}
	if c.keks[oldSide] == c.keks[newSide] {
		return nil, fmt.Errorf("both proxies seal with the key %s", c.keks[oldSide])
	}
	return c, nil
}

// activeKEK returns the reference of the KMS key that a proxy seals with by default.
func activeKEK(m map[string]float64) (string, error) {
	active := slices.Collect(maps.Keys(labeled(m, "temporal_seal_key_info", `key="default"`, `role="active"`)))
	if len(active) == 1 {
		if label := kekLabel.FindStringSubmatch(active[0]); label != nil {
			return label[1], nil
		}
	}
	return "", fmt.Errorf("/metrics has %d active keys named default, want 1: %q", len(active), active)
}

// opened returns how many payloads each proxy opened of the other's since the beginning.
func (c *crossings) opened() (opened [2]int, err error) {
	for side := range opened {
		if opened[side], err = c.openedBy(side); err != nil {
			return opened, err
		}
	}
	return opened, nil
}

func (c *crossings) openedBy(side int) (int, error) {
	m, err := c.replicas[side].metrics()
	opened := c.ended[side]
	return opened + openedWith(m, c.keks[1-side]), err
}

// openedWith returns how many payloads a proxy opened that were sealed with a KMS key.
func openedWith(m map[string]float64, kek string) (opened int) {
	for _, n := range labeled(m, "temporal_seal_key_payloads_total", `action="opened"`, `kek="`+kek+`"`) {
		opened += int(n)
	}
	return opened
}

// leave keeps the count of a proxy that is about to end.
func (c *crossings) leave(side int) (err error) {
	c.ended[side], err = c.openedBy(side)
	return err
}

// labeled returns those of a metric's values that have all of the labels.
func labeled(m map[string]float64, name string, labels ...string) map[string]float64 {
	m = maps.Clone(m)
	maps.DeleteFunc(m, func(series string, _ float64) bool {
		lacks := func(label string) bool { return !strings.Contains(series, label) }
		return !strings.HasPrefix(series, name+"{") || slices.ContainsFunc(labels, lacks)
	})
	return m
}
