package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// traceSpan is a span as Jaeger's query API returns it.
type traceSpan struct {
	TraceID       string
	SpanID        string
	OperationName string
	References    []struct{ RefType, SpanID string }
	StartTime     int64 // microseconds since 1970
	Duration      int64 // microseconds
	Tags          []struct {
		Key   string
		Value any
	}
	children []*traceSpan
}

func (s *traceSpan) tag(key string) string {
	for _, t := range s.Tags {
		if t.Key == key {
			return fmt.Sprint(t.Value)
		}
	}
	return ""
}

func (s *traceSpan) end() int64 { return s.StartTime + s.Duration }

// name is the operation without its service.
func (s *traceSpan) name() string { return s.OperationName[strings.LastIndex(s.OperationName, "/")+1:] }

// queryTraces asks Jaeger for the calls that belong to a workflow: the proxy writes the id on the span of each. It returns their server spans,
// with children, in order of time.
func queryTraces(ctx context.Context, base, workflowID string) ([]*traceSpan, error) {
	tags, err := json.Marshal(map[string]string{"temporal.workflow_id": workflowID})
	if err != nil {
		return nil, err
	}
	query := url.Values{"service": {"temporal-seal"}, "limit": {"1000"}, "lookback": {"1h"}, "tags": {string(tags)}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/traces?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask Jaeger for the trace: %w", err)
	}
	defer response.Body.Close()
	var answer struct {
		Data []struct{ Spans []*traceSpan }
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("read Jaeger's answer: %w", err)
	}
	var roots []*traceSpan
	for _, trace := range answer.Data {
		roots = append(roots, link(trace.Spans)...)
	}
	slices.SortFunc(roots, func(a, b *traceSpan) int { return cmp.Compare(a.StartTime, b.StartTime) })
	return roots, nil
}

// link hangs each span below its parent, and returns those that have none.
func link(spans []*traceSpan) []*traceSpan {
	byID := map[string]*traceSpan{}
	for _, s := range spans {
		byID[s.SpanID] = s
	}
	var roots []*traceSpan
	for _, s := range spans {
		var parent *traceSpan
		for _, r := range s.References {
			if r.RefType == "CHILD_OF" {
				parent = byID[r.SpanID]
			}
		}
		if parent == nil {
			roots = append(roots, s)
			continue
		}
		parent.children = append(parent.children, s)
	}
	for _, s := range spans {
		slices.SortFunc(s.children, func(a, b *traceSpan) int { return cmp.Compare(a.StartTime, b.StartTime) })
	}
	return roots
}

// waterfall draws the workflow's calls on one axis of time, and below it the inside of its start and of a task, each on an axis of its own.
func waterfall(s *screen, roots []*traceSpan) {
	if len(roots) == 0 {
		s.fail("Jaeger has no span of this workflow")
		return
	}
	from, to := roots[0].StartTime, roots[0].end()
	for _, r := range roots {
		to = max(to, r.end())
	}
	axis := newAxis(s, from, to)
	axis.head("the workflow's calls", micros(to-from))
	for _, r := range roots {
		axis.bar(r, 0)
	}
	for _, inside := range []struct {
		title string
		call  *traceSpan
	}{{"inside its start", named(roots, "StartWorkflowExecution")}, {"inside a task's completion", mostSealed(roots)}} {
		if inside.call == nil {
			continue
		}
		s.line("")
		axis = newAxis(s, inside.call.StartTime, inside.call.end())
		axis.head(inside.title, micros(inside.call.Duration))
		axis.tree(inside.call, 0)
	}
}

func named(roots []*traceSpan, name string) *traceSpan {
	for _, r := range roots {
		if r.name() == name {
			return r
		}
	}
	return nil
}

// mostSealed is the completion with most below it: one that seals what a worker answers and opens the next task on the way back.
func mostSealed(roots []*traceSpan) *traceSpan {
	var best *traceSpan
	for _, r := range roots {
		if r.name() == "RespondWorkflowTaskCompleted" && r.tag("seal.request.payloads") != "" && (best == nil || len(r.children) > len(best.children)) {
			best = r
		}
	}
	return best
}

// axis maps time to columns.
type axis struct {
	s        *screen
	from, to int64
	width    int
}

const spanNameWidth = 34

func newAxis(s *screen, from, to int64) axis {
	return axis{s, from, max(to, from+1), s.width - 3 - spanNameWidth - 10}
}

func (a axis) head(title string, length time.Duration) {
	end := short(length)
	a.s.line("   %s", a.s.paint(dim, pad(title, spanNameWidth)+"0"+strings.Repeat(" ", max(0, a.width-1-len([]rune(end))))+end))
}

// tree draws a span and what is below it.
func (a axis) tree(span *traceSpan, depth int) {
	a.bar(span, depth)
	for _, child := range span.children {
		a.tree(child, depth+1)
	}
}

func (a axis) bar(span *traceSpan, depth int) {
	scale := func(t int64) int { return int((t - a.from) * int64(a.width) / (a.to - a.from)) }
	start := min(max(scale(span.StartTime), 0), a.width-1)
	length := min(max(scale(span.end())-start, 1), a.width-start)
	name := span.name()
	if span.tag("span.kind") == "client" && depth > 0 && !strings.HasPrefix(name, "kms.") {
		name = "Temporal itself"
	}
	a.s.line("   %s%s%s%s", pad(cut(strings.Repeat("  ", depth)+name, spanNameWidth-1), spanNameWidth),
		strings.Repeat(" ", start)+a.s.paint(spanStyle(span), strings.Repeat("▇", length)), strings.Repeat(" ", a.width-start-length),
		right(short(micros(span.Duration)), 10))
}

func spanStyle(span *traceSpan) style {
	switch name := span.OperationName; {
	case name == "payload.seal", name == "payload.open":
		return violet
	case name == "policy.decide":
		return yellow
	case strings.HasPrefix(name, "kms."):
		return red
	case span.tag("span.kind") == "client":
		return dim
	}
	return cyan
}

func micros(us int64) time.Duration { return time.Duration(us) * time.Microsecond }
