package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestJudge: what has no answer is lost, what has another one is wrong, and neither goes by.
func TestJudge(t *testing.T) {
	ends := []error{nil, nil, wrong("the result is 1, want 2"), serviceerror.NewDataLoss("it does not open"),
		fmt.Errorf("no answer until the end, the last was: %w", serviceerror.NewUnavailable("away")), errAgain, context.DeadlineExceeded}
	all := newTally(t.Logf)
	for _, err := range ends {
		j := new(job)
		all.started(j)
		all.started(j) // told twice
		all.ended(j, err)
	}
	if v, want := all.verdict(), (verdict{started: 7, right: 2, wrong: 2, lost: 3}); v != want || v.err() == nil {
		t.Errorf("%v, error %v, want %v and an error", v, v.err(), want)
	}
	for v, ok := range map[verdict]bool{{}: false, {started: 1, right: 1}: true, {started: 2, right: 1}: false} {
		if (v.err() == nil) != ok {
			t.Errorf("%v: %v", v, v.err())
		}
	}
}

// TestPersist: temporary failures are tried again, all others are returned at once.
func TestPersist(t *testing.T) {
	for _, last := range []error{nil, serviceerror.NewInternal("a fault"), serviceerror.NewPermissionDenied("no", ""), serviceerror.NewDataLoss("shut"), wrong("another result")} {
		tries := 0
		err := persist(t.Context(), nil, func(context.Context) error {
			if tries++; tries == 1 {
				return serviceerror.NewUnavailable("away")
			}
			return last
		})
		if tries != 2 || err != last {
			t.Errorf("after %d tries: %v, want 2 and %v", tries, err, last)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := persist(ctx, nil, func(context.Context) error { return status.Error(codes.Unavailable, "the proxy is away") })
	if err == nil || !strings.Contains(err.Error(), "the proxy is away") || !mayPass(errors.Unwrap(err)) {
		t.Errorf("at the end of its time: %v", err)
	}
}

func TestRisen(t *testing.T) {
	begin := level{goroutines: 24, fds: 15, upstreams: 1, heap: 10 << 20, resident: 60 << 20}
	for what, end := range map[string]level{
		"goroutines": {goroutines: 60, fds: 15, upstreams: 1}, "file descriptors": {goroutines: 24, fds: 40, upstreams: 2},
		"heap": {heap: 100 << 20}, "resident": {resident: 700 << 20}, "": {goroutines: 34, fds: 19, upstreams: 3, heap: 12 << 20, resident: 100 << 20},
	} {
		got := strings.Join(risen(begin, end), "; ")
		if (what == "") != (got == "") || !strings.HasPrefix(got, what) {
			t.Errorf("%+v: risen %q, want %q", end, got, what)
		}
	}
}

func TestParseMetrics(t *testing.T) {
	m, err := parseMetrics(strings.NewReader("# HELP x Some help.\nplain 3\nwith{reason=\"not configured\"} 1.5e+06\n"))
	if err != nil || m["plain"] != 3 || m[`with{reason="not configured"}`] != 1.5e6 || len(m) != 2 {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := parseMetrics(strings.NewReader("plain three\n")); err == nil {
		t.Error("a line that is none was taken")
	}
}

// TestLateness: a lost task shows; a sticky queue that nobody polled in time is not one.
func TestLateness(t *testing.T) {
	timedOut := func(kind enumspb.TimeoutType) *historypb.HistoryEvent {
		return &historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT, Attributes: &historypb.HistoryEvent_WorkflowTaskTimedOutEventAttributes{
			WorkflowTaskTimedOutEventAttributes: &historypb.WorkflowTaskTimedOutEventAttributes{TimeoutType: kind}}}
	}
	started := func(attempt int32) *historypb.HistoryEvent {
		return &historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_ACTIVITY_TASK_STARTED, Attributes: &historypb.HistoryEvent_ActivityTaskStartedEventAttributes{
			ActivityTaskStartedEventAttributes: &historypb.ActivityTaskStartedEventAttributes{Attempt: attempt}}}
	}
	var l lateness
	l.add([]*historypb.HistoryEvent{timedOut(enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START), started(1)})
	if l.lost() != 0 || l.sticky != 1 {
		t.Errorf("%+v", l)
	}
	l.add([]*historypb.HistoryEvent{timedOut(enumspb.TIMEOUT_TYPE_START_TO_CLOSE), started(2), {EventType: enumspb.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT}})
	if l.lost() != 3 {
		t.Errorf("%+v, want three lost", l)
	}
}
