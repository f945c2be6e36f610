package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/upstream"
	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
)

const (
	// quietStart is how long a thing that the start waits for may take without a line in the log, and waitsAgain the time
	// between its lines.
	quietStart = 300 * time.Millisecond
	waitsAgain = 10 * time.Second
	// askTimeout bounds one attempt to reach a dependency after the start.
	askTimeout = 5 * time.Second
)

// firstRetry and slowestRetry are the pauses before what did not answer is asked again.
const (
	firstRetry   = time.Second
	slowestRetry = 30 * time.Second
)

// waits logs what the start waits for, so that a start is never silent. It ends with ctx.
type waits struct {
	ctx context.Context
	log *slog.Logger
}

// begin starts the lines about one thing, until answered is called.
func (w *waits) begin(what, name string) (answered func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	go func() {
		for pause := quietStart; backoff.Sleep(ctx, pause) == nil; pause = waitsAgain {
			w.log.Info("the start waits for an answer", "of", what, "name", name)
		}
	}()
	return cancel
}

// dependency is something outside the proxy, other than a key, that has to answer before calls can succeed. It disables
// only what needs it.
type dependency struct {
	what, name string // "upstream" and its address
	disabled   string // what fails without it, and what to do
	ask        func(ctx context.Context) error
	late       func(ctx context.Context) // is called when it has answered after the start; nil: nothing to do
}

// dependencies asks each dependency until it has answered for the first time. After that its outages are those of a proxy
// that runs.
type dependencies struct {
	log      *slog.Logger
	all      []dependency
	anywhere bool // an upstream has an address for each namespace, and is not asked

	mu      sync.Mutex
	missing map[int]error // by place in all
}

// newDependencies lists the upstreams with a fixed address, and the key sets that are fetched.
func newDependencies(e *Ends, log *slog.Logger) *dependencies {
	d := &dependencies{log: log, missing: map[int]error{}}
	for _, u := range e.upstreams {
		if !u.Fixed() {
			d.anywhere = true
			continue
		}
		one := []upstream.Config{u}
		d.all = append(d.all, dependency{what: "upstream", name: u.Address,
			disabled: "calls for its namespaces get Unavailable",
			ask:      func(ctx context.Context) error { return upstream.Probe(ctx, one) }})
	}
	for _, k := range e.keySets {
		d.all = append(d.all, dependency{what: "key set", name: k.url,
			disabled: fmt.Sprintf("callers of listener %q get Unavailable; check jwks_url and the issuer", k.listener),
			ask:      func(context.Context) error { return k.fetch() }})
	}
	return d
}

// learn asks the upstreams that have answered for their descriptors, and has the others asked once they answer.
func (d *dependencies) learn(ctx context.Context, e *Ends, join upstream.Join) {
	missing, i := d.errors(), 0
	var answered []upstream.Config
	for _, u := range e.upstreams {
		if !u.Fixed() {
			continue
		}
		if missing[i] == nil {
			answered = append(answered, u)
		}
		d.all[i].late = func(ctx context.Context) { upstream.Learn(ctx, []upstream.Config{u}, join, d.log) }
		i++
	}
	upstream.Learn(ctx, answered, join, d.log)
}

// await asks all of them at once, each until it answers or ctx ends.
func (d *dependencies) await(ctx context.Context, w *waits) {
	var all sync.WaitGroup
	for i := range d.all {
		all.Go(func() {
			defer w.begin(d.all[i].what, d.all[i].name)()
			pause := backoff.Backoff{First: firstRetry / 10, Max: firstRetry, Jitter: 0.1}
			err := d.all[i].ask(ctx)
			for err != nil && pause.Wait(ctx) == nil {
				err = d.all[i].ask(ctx)
			}
			if err == nil || errors.Is(ctx.Err(), context.Canceled) {
				return // it answers, or the start has failed for another reason
			}
			d.note(i, err)
			d.log.Error("the proxy starts without an answer of a dependency, and keeps trying",
				"of", d.all[i].what, "name", d.all[i].name, "disabled", d.all[i].disabled, "error", err)
		})
	}
	all.Wait()
}

// follow asks those that are missing again until they have answered, or ctx ends.
func (d *dependencies) follow(ctx context.Context) {
	for i := range d.errors() {
		go func() {
			pause := backoff.Backoff{First: firstRetry, Max: slowestRetry, Jitter: 0.1}
			for pause.Wait(ctx) == nil {
				try, cancel := context.WithTimeout(ctx, askTimeout)
				err := d.all[i].ask(try)
				cancel()
				if err != nil {
					d.note(i, err)
					continue
				}
				if d.all[i].late != nil {
					d.all[i].late(ctx)
				}
				d.note(i, nil)
				d.log.Info("a dependency that did not answer at the start answers", "of", d.all[i].what, "name", d.all[i].name)
				return
			}
		}()
	}
}

// note records why one does not answer; nil: it has answered.
func (d *dependencies) note(i int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		delete(d.missing, i)
	} else {
		d.missing[i] = err
	}
}

func (d *dependencies) errors() map[int]error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.missing)
}

var dependencyMissing = prometheus.NewDesc("temporal_seal_dependency_missing",
	"1 while an upstream or a key set has not answered since the start; what needs it is disabled.", []string{"dependency", "address"}, nil)

// Describe is part of prometheus.Collector.
func (d *dependencies) Describe(ch chan<- *prometheus.Desc) { ch <- dependencyMissing }

// Collect is part of prometheus.Collector. Entries of the config may share an address.
func (d *dependencies) Collect(ch chan<- prometheus.Metric) {
	missing, values := d.errors(), map[[2]string]float64{}
	for i, one := range d.all {
		labels := [2]string{one.what, one.name}
		values[labels] = max(values[labels], oneIf(missing[i] != nil))
	}
	for labels, value := range values {
		ch <- prometheus.MustNewConstMetric(dependencyMissing, prometheus.GaugeValue, value, labels[0], labels[1])
	}
}

// noUpstream reports whether no upstream has answered yet.
func (d *dependencies) noUpstream() bool {
	missing := d.errors()
	for i := range d.all {
		if _, fails := missing[i]; d.all[i].what == "upstream" && !fails {
			return false
		}
	}
	return !d.anywhere
}

// describe writes what has not answered yet, for people who look at /readyz.
func (d *dependencies) describe(w io.Writer) {
	missing := d.errors()
	for _, i := range slices.Sorted(maps.Keys(missing)) {
		fmt.Fprintf(w, "%s %s has not answered since the start: %v; %s; it is tried again within %v\n",
			d.all[i].what, d.all[i].name, missing[i], d.all[i].disabled, slowestRetry)
	}
}
