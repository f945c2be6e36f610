package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// counters are what a product's /metrics shows, by series: the name with its labels.
type counters map[string]float64

// scrape reads a product's metrics.
func scrape(ctx context.Context, admin string) (counters, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", q.URL, a.Status)
	}
	return parseCounters(a.Body)
}

func parseCounters(r io.Reader) (counters, error) {
	c := counters{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metric %q: %w", line, err)
		}
		c[line[:at]] = v
	}
	return c, lines.Err()
}

// sum adds up all series of a metric that have all of these labels, each written as name="value".
func (c counters) sum(name string, labels ...string) float64 {
	total := 0.0
series:
	for s, v := range c {
		if s != name && !strings.HasPrefix(s, name+"{") {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(s, l) {
				continue series
			}
		}
		total += v
	}
	return total
}

// allocations are objects and bytes that a Go process has put on its heap since its start.
type allocations struct{ objects, bytes float64 }

func (a allocations) minus(b allocations) allocations {
	return allocations{a.objects - b.objects, a.bytes - b.bytes}
}

func (c counters) allocations() (allocations, error) {
	const objects, bytes = "go_memstats_mallocs_total", "go_memstats_alloc_bytes_total"
	if _, ok := c[objects]; !ok {
		return allocations{}, fmt.Errorf("there is no metric %s", objects)
	}
	return allocations{c[objects], c[bytes]}, nil
}

// kept is what a Go process keeps in memory in MB: what the last garbage collection left of its heap, and its stacks. The collector
// aims at a heap that is larger than that by GOGC percent.
func (c counters) kept() (float64, error) {
	const aim, percent, stacks = "go_memstats_next_gc_bytes", "go_gc_gogc_percent", "go_memstats_stack_inuse_bytes"
	for _, name := range []string{aim, percent, stacks} {
		if _, ok := c[name]; !ok {
			return 0, fmt.Errorf("there is no metric %s", name)
		}
	}
	return (c[aim]/(1+c[percent]/100) + c[stacks]) / (1 << 20), nil
}

// keyServiceCalls counts the calls of the key service: data keys made, and data keys unwrapped.
func (c counters) keyServiceCalls() float64 {
	return c.sum("temporal_seal_kms_call_duration_seconds_count")
}

// meter reads what a process counts between two points of time, less what reading it takes.
type meter struct {
	admin         string
	before        usage
	scrapeObjects float64
	scrapeBytes   float64
}

// usage is what a product has used.
type usage struct {
	allocations
	keyCalls float64
}

func readUsage(ctx context.Context, admin string) (usage, error) {
	c, err := scrape(ctx, admin)
	if err != nil {
		return usage{}, err
	}
	a, err := c.allocations()
	return usage{a, c.keyServiceCalls()}, err
}

// newMeter begins to count. One scrape shows what the scrape before it allocated; the smallest of three counts.
func newMeter(ctx context.Context, admin string) (*meter, error) {
	m := &meter{admin: admin}
	for i := range 4 {
		u, err := readUsage(ctx, admin)
		if err != nil {
			return nil, err
		}
		if d := u.minus(m.before.allocations); i == 1 || i > 1 && d.objects < m.scrapeObjects {
			m.scrapeObjects, m.scrapeBytes = d.objects, d.bytes
		}
		m.before = u
	}
	return m, nil
}

// stop returns what was used since the meter began.
func (m *meter) stop(ctx context.Context) (usage, error) {
	u, err := readUsage(ctx, m.admin)
	if err != nil {
		return usage{}, err
	}
	d := u.minus(m.before.allocations)
	return usage{allocations{d.objects - m.scrapeObjects, d.bytes - m.scrapeBytes}, u.keyCalls - m.before.keyCalls}, nil
}
