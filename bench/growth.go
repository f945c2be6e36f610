package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// growth measures how costs grow with what an installation has more and more of.
type growth struct {
	options
	axes   string
	allow  bool // a steep curve is no failure
	most   int  // sizes above this are left out; 0: none
	dir    string
	key    string
	front  string // address of the frontend that all stand before
	helper *process
	relay  *variant // of the axis
}

// axis is something of which an installation has more and more.
type axis struct {
	name    string // as -axes takes it, and in tables
	about   string // what was measured, for the document
	sizes   []int
	measure func(ctx context.Context, g *growth, sizes []int) ([]curve, error)
}

var axes = []axis{
	{"namespaces", "Each namespace has a policy file and a data key of its own. 16 callers start workflows and query them, in all namespaces in turn; payloads of 1 KB.",
		[]int{1, 10, 100, 1000}, atLoad(namespaceFiles)},
	{"workflow types in a set", "A rule seals workflows whose type is not in a set of so many. 16 callers start workflows; payloads of 1 KB. With a known type the verdict " +
		"comes from the cache; with a new one the policy is evaluated.",
		[]int{1, 10, 100, 1000, 10_000, 100_000}, atLoad(workflowTypes)},
	{"held polls", "So many polls wait at the frontend, 50 on each connection of the callers. Beside them one caller makes queries of 1 KB. Polls that end and begin anew, at a real " +
		"server once a minute each, are not in it.",
		[]int{10, 100, 1000, 5000}, heldPolls},
	{"callers", "Queries of 1 KB in a closed loop, 16 callers on each connection: each caller sends its next call when it has the last one's answer. The same cores serve the proxy, the load and the frontend, " +
		"so that from some callers on all wait for a core.",
		[]int{1, 4, 16, 64}, callersAtOnce},
	{"KB in each direction", "Queries that are answered with what they sent, sealed on the way there and opened on the way back; four callers.",
		[]int{1, 10, 100, 1000, 8000}, payloadSizes},
	{"processors", "Queries of 1 KB by 64 callers, with GOMAXPROCS set for the proxy and the relay. Load and frontend use the same cores, so that calls " +
		"a second say little; CPU per call shows what sharing costs.",
		processorCounts(), processors},
}

// processorCounts are powers of two up to the processors of this machine.
func processorCounts() (counts []int) {
	for n := 1; n <= runtime.NumCPU(); n *= 2 {
		counts = append(counts, n)
	}
	return counts
}

// scale is the subcommand: it measures all axes, prints their curves, and fails where one is steeper than it may be.
func scale(ctx context.Context, args []string) error {
	g := new(growth)
	flags := flag.NewFlagSet("bench scale", flag.ExitOnError)
	flags.StringVar(&g.proxy, "proxy", "bin/temporal-seal", "the proxy's binary")
	flags.IntVar(&g.rounds, "rounds", 5, "turns that each size takes; the median counts")
	flags.DurationVar(&g.turn, "turn", time.Second, "how long a turn is")
	flags.StringVar(&g.axes, "axes", "", "only axes whose names start so, with commas between")
	flags.IntVar(&g.most, "most", 0, "leave out larger sizes, but for the first two; 0: none")
	flags.BoolVar(&g.allow, "allow-steep", false, "do not fail where a curve is steeper than it may be")
	flags.StringVar(&g.plot, "plot", "", "`file` for a plot in SVG")
	flags.StringVar(&g.doc, "doc", "", "document whose tables of curves are to be replaced")
	_ = flags.Parse(args) // it exits on an error
	for part := range strings.SplitSeq(g.axes, ",") {
		if !slices.ContainsFunc(axes, func(a axis) bool { return strings.HasPrefix(a.name, part) }) {
			return fmt.Errorf("there is no axis %q", part)
		}
	}
	if (g.axes != "" || g.most > 0) && g.doc+g.plot != "" {
		return errors.New("a document or plot with some of the curves would lack the others: leave out -axes and -most")
	}
	defer g.stop()
	if err := g.start(ctx); err != nil {
		return err
	}
	var out grown
	for _, a := range axes {
		if !chosen(g.axes, a.name) {
			continue
		}
		var err error
		if g.relay, err = g.startRelay(ctx, nil); err != nil {
			return err
		}
		sizes := slices.DeleteFunc(slices.Clone(a.sizes), func(n int) bool { return g.most > 0 && n > g.most && n > a.sizes[1] })
		curves, err := a.measure(ctx, g, sizes)
		g.relay.stop()
		if err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		out = append(out, grownAxis{a, sizes, curves})
		fmt.Fprintf(os.Stderr, "%s done\n", a.name)
	}
	return g.report(ctx, out)
}

func (g *growth) start(ctx context.Context) (err error) {
	if g.dir, err = os.MkdirTemp("", "bench-scale-"); err != nil {
		return err
	}
	if g.key, err = newKey(ctx, g.proxy, filepath.Join(g.dir, "default.key")); err != nil {
		return err
	}
	g.helper, g.front, err = startRole(ctx, "frontend")
	return err
}

func (g *growth) startRelay(ctx context.Context, env []string) (*variant, error) {
	p, address, err := startRoleWith(ctx, env, "relay", "-upstream", g.front)
	if err != nil {
		return nil, err
	}
	v := &variant{name: plain, process: p}
	return v, v.begin(address, g.front)
}

// begin connects to a variant that was started, or stops it.
func (v *variant) begin(address, upstream string) error {
	err := v.connect(address, upstream)
	if err != nil {
		v.stop()
	}
	return err
}

func (g *growth) stop() {
	g.helper.end()
	_ = os.RemoveAll(g.dir) // of the system's folder for such files
}

// product starts a proxy, and returns how long it took until it served, in ms.
func (g *growth) product(ctx context.Context, name string, l loaded) (v *variant, start float64, err error) {
	began := time.Now()
	p, err := startProduct(ctx, productOptions{binary: g.proxy, upstream: g.front, dir: g.dir, name: name, key: g.key, rules: l.rules,
		namespaces: l.namespaces, env: l.env})
	if err != nil {
		return nil, 0, err
	}
	v = &variant{name: name, process: p.process, admin: p.admin, seals: everything}
	start = micros(time.Since(began)) / 1000
	return v, start, v.begin(p.address, g.front)
}

// started is product for a median start: it starts the proxy some times more, and once before, so that its file is in memory.
func (g *growth) started(ctx context.Context, name string, l loaded) (*variant, float64, error) {
	const counted = 5
	var starts []float64
	for range counted {
		v, start, err := g.product(ctx, name, l)
		if err != nil {
			return nil, 0, err
		}
		v.stop()
		starts = append(starts, start)
	}
	v, start, err := g.product(ctx, name, l)
	return v, median(append(starts[1:], start)), err
}

// contender takes turns with others, each with its own work.
type contender struct {
	v *variant
	w *work
}

// turns returns the figures of each contender, of each round but the first, which warms up.
func (g *growth) turns(ctx context.Context, all []contender) ([][]figures, error) {
	out := make([][]figures, len(all))
	for round := range g.rounds + 1 {
		for i := range all {
			at := (i + round) % len(all) // none is always the first
			got, err := all[at].v.turn(ctx, all[at].w, g.turn)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", all[at].v.name, all[at].w.name, err)
			}
			if round > 0 {
				out[at] = append(out[at], got)
			}
		}
	}
	return out, nil
}

func cpuOf(f figures) float64    { return f.cpu }
func p50Of(f figures) float64    { return f.p50 }
func rateOf(f figures) float64   { return f.rps }
func memoryOf(f figures) float64 { return float64(f.memory) / 1024 }

// ratio returns the median, over rounds, of one's CPU per call over another's in the same round.
func ratio(of, to []figures) float64 {
	values := make([]float64, len(of))
	for i := range of {
		values[i] = of[i].cpu / to[i].cpu
	}
	return median(values)
}

// heapFloor is what a proxy's heap grows to before garbage is collected, in MB: below that memory does not show.
const heapFloor = 48

// loaded is a proxy that was started with as many of something as a size says.
type loaded struct {
	rules      string
	namespaces string // folder of policies
	env        []string
	calls      []call
	fresh      []call // calls for which nothing is in a cache; nil: there are none
	clear      []call // calls that the policies let pass
}

// checkAll makes each call once. What the policies seal has to arrive sealed, and what they let pass in clear.
func (v *variant) checkAll(ctx context.Context, l loaded) error {
	for _, c := range append(slices.Clone(l.fresh), l.calls...) {
		if err := v.check(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c.method, err)
		}
	}
	passes := *v
	passes.seals = nothing
	for _, c := range l.clear {
		if err := passes.check(ctx, c); err != nil {
			return fmt.Errorf("%s, which passes: %w", c.method, err)
		}
	}
	return nil
}

// keptMemory is the curve of what a proxy keeps. How much is resident says less: below some 50 MB garbage is not collected.
func keptMemory(sizes []int) curve {
	return curve{what: "of it kept: heap after a collection, and stacks", unit: "MB", sizes: sizes, most: linear, hidden: 2}
}

func (v *variant) kept(ctx context.Context) (float64, error) {
	c, err := scrape(ctx, v.admin)
	if err != nil {
		return 0, err
	}
	return c.kept()
}

// atLoad makes the measurement of an axis whose every size has a process of its own. All run side by side and take turns.
func atLoad(make func(g *growth, size int) (loaded, error)) func(context.Context, *growth, []int) ([]curve, error) {
	return func(ctx context.Context, g *growth, sizes []int) ([]curve, error) {
		return g.atSizes(ctx, sizes, make)
	}
}

func (g *growth) atSizes(ctx context.Context, sizes []int, make func(g *growth, size int) (loaded, error)) ([]curve, error) {
	const callers = 16
	cpu := curve{what: "CPU per call", unit: "us", sizes: sizes, most: linear}
	times := curve{what: "CPU per call, times the relay's", sizes: sizes}
	fresh := curve{what: "CPU per call with a new type", unit: "us", sizes: sizes, most: flat}
	mem := curve{what: "memory", unit: "MB", sizes: sizes}
	kept := keptMemory(sizes)
	starts := curve{what: "from start to serving", unit: "ms", sizes: sizes, most: linear}
	var known, news []contender
	defer func() {
		for _, c := range known {
			c.v.stop()
		}
	}()
	for _, n := range sizes {
		l, err := make(g, n)
		if err != nil {
			return nil, err
		}
		v, start, err := g.started(ctx, fmt.Sprint("size-", n), l)
		if err != nil {
			return nil, err
		}
		known = append(known, contender{v, &work{name: fmt.Sprint(n), callers: callers, calls: l.calls}})
		starts.values = append(starts.values, start)
		if err := v.checkAll(ctx, l); err != nil {
			return nil, fmt.Errorf("%d: %w", n, err)
		}
		if l.fresh != nil {
			news = append(news, contender{v, &work{name: fmt.Sprint(n, " fresh"), callers: callers, calls: l.fresh}})
		}
	}
	// The relay takes the calls of the first size.
	got, err := g.turns(ctx, append(slices.Clone(known), contender{g.relay, known[0].w}))
	if err != nil {
		return nil, err
	}
	for i := range sizes {
		cpu.values = append(cpu.values, medianOf(got[i], cpuOf))
		times.values = append(times.values, ratio(got[i], got[len(sizes)]))
		mem.values = append(mem.values, medianOf(got[i], memoryOf))
		mb, err := known[i].v.kept(ctx)
		if err != nil {
			return nil, err
		}
		kept.values = append(kept.values, mb)
	}
	curves := []curve{cpu, times, mem, kept, starts}
	if len(news) == 0 {
		return curves, nil
	}
	if got, err = g.turns(ctx, news); err != nil {
		return nil, err
	}
	for i := range sizes {
		fresh.values = append(fresh.values, medianOf(got[i], cpuOf))
	}
	return slices.Insert(curves, 2, fresh), nil
}

// namespaceFiles writes the policies of so many namespaces.
func namespaceFiles(g *growth, size int) (l loaded, err error) {
	l.namespaces = filepath.Join(g.dir, fmt.Sprint("namespaces-", size))
	if err := os.Mkdir(l.namespaces, 0o700); err != nil {
		return l, err
	}
	for i := range size {
		name := fmt.Sprintf("team%04d", i)
		text := "package temporal.namespaces." + name + "\n\n" +
			`request contains {"action": "pass"} if input.workflow.type in {"Ping", "Refresh"}` + "\n\n" +
			`request contains {"action": "seal"} if input.workflow.type in {"Payroll", "Bonus"}` + "\n"
		if err := os.WriteFile(filepath.Join(l.namespaces, name+".rego"), []byte(text), 0o600); err != nil {
			return l, err
		}
		start, err := newStart(name, "Payroll")
		if err != nil {
			return l, err
		}
		query, err := newQuery(name, payload(newRand(), 1<<10))
		if err != nil {
			return l, err
		}
		ping, err := newStart(name, "Ping")
		if err != nil {
			return l, err
		}
		l.calls, l.clear = append(l.calls, start, query), append(l.clear, ping)
	}
	return l, nil
}

// workflowTypes makes a rule that names so many workflow types, and calls of types that it does not name.
func workflowTypes(_ *growth, size int) (l loaded, err error) {
	var rules strings.Builder
	rules.WriteString("public := {\n")
	for i := range size {
		fmt.Fprintf(&rules, "\t\"Public%06d\",\n", i)
	}
	rules.WriteString("}\n\n" + `request contains {"action": "pass"}` + "\n\n" +
		`request contains {"action": "seal"} if not input.workflow.type in public`)
	l.rules = rules.String()
	for i := range 16 {
		c, err := newStart(namespace, fmt.Sprintf("Secret%06d", i))
		if err != nil {
			return l, err
		}
		l.calls = append(l.calls, c)
	}
	const digits = "000000000"
	c, err := newStart(namespace, "New"+digits)
	if err != nil {
		return l, err
	}
	at := bytes.Index(c.request, []byte(digits))
	if at < 0 {
		return l, errors.New("the request does not hold the type's name as it is")
	}
	c.vary = &varied{at: at, digits: len(digits)}
	l.fresh = []call{c}
	return l, nil
}

// callersAtOnce measures one proxy with more and more callers.
func callersAtOnce(ctx context.Context, g *growth, sizes []int) ([]curve, error) {
	query, err := newQuery(namespace, payload(newRand(), 1<<10))
	if err != nil {
		return nil, err
	}
	works := make([]*work, len(sizes))
	for i, n := range sizes {
		works[i] = &work{name: fmt.Sprint(n), callers: n, calls: []call{query}}
	}
	got, err := g.oneProduct(ctx, "callers", works)
	if err != nil {
		return nil, err
	}
	return got.curves(sizes, flat, linear, linear), nil
}

// payloadSizes measures one proxy with larger and larger payloads.
func payloadSizes(ctx context.Context, g *growth, sizes []int) ([]curve, error) {
	const callers = 4
	works := make([]*work, len(sizes))
	for i, n := range sizes {
		query, err := newQuery(namespace, payload(newRand(), n*1000))
		if err != nil {
			return nil, err
		}
		works[i] = &work{name: fmt.Sprint(n), callers: callers, calls: []call{query}}
	}
	got, err := g.oneProduct(ctx, "payloads", works)
	if err != nil {
		return nil, err
	}
	return got.curves(sizes, linear, linear, linear), nil
}

// beside are the figures of a proxy and of the relay, by work.
type beside struct{ proxy, relay [][]figures }

// oneProduct measures a proxy and the relay at each work.
func (g *growth) oneProduct(ctx context.Context, name string, works []*work) (out beside, err error) {
	v, _, err := g.product(ctx, name, loaded{})
	if err != nil {
		return out, err
	}
	defer v.stop()
	var all []contender
	for _, w := range works {
		if err := v.check(ctx, w.calls[0]); err != nil {
			return out, fmt.Errorf("%s: %w", w.name, err)
		}
		all = append(all, contender{v, w}, contender{g.relay, w})
	}
	got, err := g.turns(ctx, all)
	if err != nil {
		return out, err
	}
	for i := range works {
		out.proxy, out.relay = append(out.proxy, got[2*i]), append(out.relay, got[2*i+1])
	}
	return out, nil
}

// curves makes what all works show, with the shapes that CPU, latency and memory may have at most.
func (b beside) curves(sizes []int, cpu, latency, memory shape) []curve {
	out := []curve{
		{what: "CPU per call", unit: "us", sizes: sizes, most: cpu},
		{what: "CPU per call, times the relay's", sizes: sizes},
		{what: "p50", unit: "us", sizes: sizes, most: latency},
		{what: "p50 of the relay", unit: "us", sizes: sizes},
		{what: "calls a second", sizes: sizes},
		{what: "memory", unit: "MB", sizes: sizes, most: memory, hidden: heapFloor},
	}
	for i := range sizes {
		for j, value := range []float64{medianOf(b.proxy[i], cpuOf), ratio(b.proxy[i], b.relay[i]), medianOf(b.proxy[i], p50Of),
			medianOf(b.relay[i], p50Of), medianOf(b.proxy[i], rateOf), medianOf(b.proxy[i], memoryOf)} {
			out[j].values = append(out[j].values, value)
		}
	}
	return out
}

// processors measures the proxy and the relay with as many processors as each size says.
func processors(ctx context.Context, g *growth, sizes []int) ([]curve, error) {
	query, err := newQuery(namespace, payload(newRand(), 1<<10))
	if err != nil {
		return nil, err
	}
	w := &work{name: "processors", callers: maxCallers, calls: []call{query}}
	var all []contender
	defer func() {
		for _, c := range all {
			c.v.stop()
		}
	}()
	for _, n := range sizes {
		env := []string{fmt.Sprint("GOMAXPROCS=", n)}
		v, _, err := g.product(ctx, fmt.Sprint("processors-", n), loaded{env: env})
		if err != nil {
			return nil, err
		}
		all = append(all, contender{v, w})
		relay, err := g.startRelay(ctx, env)
		if err != nil {
			return nil, err
		}
		all = append(all, contender{relay, w})
	}
	got, err := g.turns(ctx, all)
	if err != nil {
		return nil, err
	}
	var b beside
	for i := range sizes {
		b.proxy, b.relay = append(b.proxy, got[2*i]), append(b.relay, got[2*i+1])
	}
	return b.curves(sizes, flat, unjudged, unjudged), nil
}
