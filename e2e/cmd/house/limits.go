package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// atLeast names the numbers that are better when they are larger.
var atLeast = []string{"comments"}

// limits is the file of limits: lines of a name, a number and a reason behind `#`, among comments.
type limits struct {
	lines []string
	rules []rule
}

type rule struct {
	line  int // index into limits.lines
	name  string
	limit float64
}

func parseLimits(text string) (*limits, error) {
	l := &limits{lines: strings.Split(text, "\n")}
	for i, line := range l.lines {
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.Fields(line)
		if len(words) < 4 || words[2] != "#" {
			return nil, fmt.Errorf("line %d is not `name limit # reason`: %q", i+1, line)
		}
		n, err := strconv.ParseFloat(words[1], 64)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		l.rules = append(l.rules, rule{i, words[0], n})
	}
	return l, nil
}

// compare returns an error for each number that is worse than its limit, or that has none.
func (l *limits) compare(now map[string]float64) (worse []error) {
	named := map[string]bool{}
	for _, r := range l.rules {
		named[r.name] = true
		n, measured := now[r.name]
		if measured && r.worse(n) {
			worse = append(worse, fmt.Errorf("%s: %s, and the limit is %s", r.name, number(r.round(n)), number(r.limit)))
		}
	}
	for name := range now {
		if !named[name] {
			worse = append(worse, fmt.Errorf("%s: no limit is set", name))
		}
	}
	return worse
}

// tightened returns the file with the limits that are better now.
func (l *limits) tightened(now map[string]float64) string {
	lines := slices.Clone(l.lines)
	for _, r := range l.rules {
		if n, measured := now[r.name]; measured && !r.worse(n) {
			old := strings.Fields(lines[r.line])[1]
			head, tail, _ := strings.Cut(lines[r.line], old)
			lines[r.line] = head + fmt.Sprintf("%-*s", len(old), number(r.round(n))) + tail
		}
	}
	return strings.Join(lines, "\n")
}

func (r rule) worse(n float64) bool {
	if slices.Contains(atLeast, r.name) {
		return r.round(n) < r.limit
	}
	return r.round(n) > r.limit
}

// round gives the limit that n still meets: a whole number, or a tenth of a percent.
func (r rule) round(n float64) float64 {
	if slices.Contains(atLeast, r.name) {
		return math.Floor(10*n) / 10
	}
	return math.Ceil(n)
}

func number(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }
