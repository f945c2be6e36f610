package main

import (
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// durations finds the sums and counts of the proxy's metrics that say what the work took.
var durations = regexp.MustCompile(`(?m)^temporal_seal_(rewrite|kms_call)_duration_seconds_(sum|count)\{(?:.*,)?(?:direction|operation)="([a-z_.]+)".*\} (\S+)$`)

// cost is how often something was done, and what it took in all.
type cost struct {
	n    int
	took time.Duration
}

// costsOf reads a page of metrics: request, response, and kms for calls to the key service.
func costsOf(metrics string) map[string]cost {
	all := map[string]cost{}
	for _, m := range durations.FindAllStringSubmatch(metrics, -1) {
		what := m[3]
		if m[1] == "kms_call" {
			what = "kms"
		}
		c := all[what]
		value, _ := strconv.ParseFloat(m[4], 64) // 0 for what is no number
		if m[2] == "count" {
			c.n += int(value)
		} else {
			c.took += time.Duration(value * float64(time.Second))
		}
		all[what] = c
	}
	return all
}

// showCosts prints what the metrics say of the story.
func showCosts(s *screen, all map[string]cost) {
	for _, row := range [][2]string{{"request", "messages to the server: searched, decided, sealed"},
		{"response", "messages from the server: searched, decided, opened"}, {"kms", "data keys made or unwrapped"}} {
		c := all[row[0]]
		mean := short(c.took/time.Duration(max(1, c.n))) + " each"
		s.row(cell{min(51, s.width-33), plain, row[1], 1}, cell{-5, plain, fmt.Sprint(c.n), 1}, cell{-9, plain, short(c.took), 1}, cell{-13, dim, mean, 1})
	}
	s.note("From the proxy's own metrics. First calls are slower: a data key is made, and the policy is evaluated rather than remembered.")
}
