package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// level is what a proxy holds on to while nobody uses it.
type level struct {
	goroutines, fds, upstreams int
	heap, resident             int64 // bytes; heap is what is left after a collection
}

func (l level) String() string {
	return fmt.Sprintf("%d goroutines, %d fds, heap %.1f MB, resident %.1f MB", l.goroutines, l.fds, megabytes(l.heap), megabytes(l.resident))
}

func megabytes(n int64) float64 { return float64(n) / (1 << 20) }

// What may be more at the end than at the beginning. Connections to the server are opened as polls need them, and kept
// for a while; each has two goroutines that read and write, and one that watches it. What the proxy remembers of tasks,
// policies and keys is bounded (100,000 tasks take 40 MB), and no soak is as long as it takes to fill it.
const (
	goroutineSlack = 10
	fdSlack        = 5
	perUpstream    = 8 // goroutines
	heapSlack      = 48 << 20
	residentSlack  = 192 << 20
)

// backTime is how long the Go runtime may take to give the system back what a burst took: it does so in the background,
// on a hundredth of the processor.
const backTime = 6 * time.Minute

// risen returns what is higher than allowed.
func risen(begin, end level) []string {
	var risen []string
	more := max(end.upstreams-begin.upstreams, 0)
	check := func(what string, from, to, limit int64) {
		if to > limit {
			risen = append(risen, fmt.Sprintf("%s rose from %d to %d, at most %d are in order", what, from, to, limit))
		}
	}
	check("goroutines", int64(begin.goroutines), int64(end.goroutines), int64(begin.goroutines+goroutineSlack+perUpstream*more))
	check("file descriptors", int64(begin.fds), int64(end.fds), int64(begin.fds+fdSlack+more))
	check("heap bytes", begin.heap, end.heap, begin.heap+heapSlack)
	check("resident bytes", begin.resident, end.resident, begin.resident+residentSlack)
	return risen
}

// quietTime is how long a proxy may take to let go of its callers.
const quietTime = 30 * time.Second

// quiet waits until the proxy has no callers, and measures. Probes and scrapes come and go, so the least of some
// readings counts.
func (r *replica) quiet(ctx context.Context) (level, error) {
	least, readings := level{}, 0
	for end := time.Now().Add(quietTime); readings < 20; wait(ctx, 200*time.Millisecond) {
		m, err := r.metrics()
		if err != nil {
			return least, err
		}
		connections, calls := m["temporal_seal_connections"], m["temporal_seal_calls_in_flight"]
		if ctx.Err() != nil {
			return least, ctx.Err()
		}
		if time.Now().After(end) {
			return least, fmt.Errorf("proxy %s did not come to rest: it still has %v connections and %v calls", r.name, connections, calls)
		}
		if connections > 0 || calls > 0 {
			readings = 0
			continue
		}
		now, err := r.read(m)
		if err != nil {
			return least, err
		}
		if readings++; readings > 1 {
			now.goroutines, now.fds = min(now.goroutines, least.goroutines), min(now.fds, least.fds)
		}
		least = now
	}
	return r.collected(ctx, least)
}

// givesBack waits until the proxy's memory is back within its limit, or has had its time.
func (r *replica) givesBack(ctx context.Context, l level, limit int64) (level, error) {
	for end := time.Now().Add(backTime); l.resident > limit && time.Now().Before(end) && ctx.Err() == nil; wait(ctx, 5*time.Second) {
		m, err := r.metrics()
		if err != nil {
			return l, err
		}
		now, err := r.read(m)
		if err != nil {
			return l, err
		}
		l.resident = now.resident
	}
	return l, ctx.Err()
}

func (r *replica) read(m map[string]float64) (level, error) {
	p := r.running()
	if p == nil {
		return level{}, errors.New("no proxy runs")
	}
	l := level{goroutines: int(m["go_goroutines"]), upstreams: int(m["temporal_seal_upstream_connections"]), heap: int64(m["go_memstats_alloc_bytes"])}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
	if err != nil {
		return l, err
	}
	l.fds = len(fds)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.PID()))
	if err != nil {
		return l, err
	}
	if fields := strings.Fields(string(status)); len(fields) > 1 {
		pages, _ := strconv.ParseInt(fields[1], 10, 64) // the kernel writes numbers
		l.resident = pages * int64(os.Getpagesize())
	}
	return l, nil
}

// collected adds what the heap holds just after collections: the first two empty the pools of buffers, and what a
// collection found is given back after it. Scrapes allocate, so scrapes bring one about.
func (r *replica) collected(ctx context.Context, l level) (level, error) {
	const collections = "go_gc_duration_seconds_count"
	first := -1.0
	for range 20_000 {
		m, err := r.metrics()
		if err != nil {
			return l, err
		}
		if first < 0 {
			first = m[collections]
		}
		l.heap = min(l.heap, int64(m["go_memstats_alloc_bytes"]))
		if m[collections] >= first+5 || ctx.Err() != nil {
			return l, ctx.Err()
		}
	}
	return l, errors.New("no garbage was collected")
}

var scraper = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// metrics reads /metrics: name with labels, to value.
func (r *replica) metrics() (map[string]float64, error) {
	a, err := scraper.Get("http://" + r.admin + "/metrics")
	if err != nil {
		return nil, err
	}
	defer func() { _ = a.Body.Close() }()
	if a.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("/metrics answers %s", a.Status)
	}
	return parseMetrics(a.Body)
}

func parseMetrics(from io.Reader) (map[string]float64, error) {
	m := map[string]float64{}
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ') // labels may hold spaces
		if at < 0 || line[0] == '#' {
			continue
		}
		name := line[:at]
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("/metrics: %q: %w", line, err)
		}
		m[name] = v
	}
	return m, lines.Err()
}

func (r *replica) metric(name string) (float64, error) {
	m, err := r.metrics()
	return m[name], err
}
