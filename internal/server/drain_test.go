package server

import (
	"context"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
)

// During a drain a poll gets a short time, and none is forwarded with less than frontends take.
func TestPollTimeDuringADrain(t *testing.T) {
	for name, c := range map[string]struct {
		left, limit, most time.Duration
		forward           bool
	}{
		"much time is left":             {left: time.Minute, most: drainPoll, forward: true},
		"a shorter limit holds":         {left: time.Minute, limit: 4 * time.Second, most: 4 * time.Second, forward: true},
		"the end of the drain is close": {left: 4 * time.Second, most: 4*time.Second - drainMargin, forward: true},
		"too little time is left":       {left: 2 * time.Second, most: 2 * time.Second},
		"the time is over":              {left: -time.Second, most: 1},
	} {
		d := drain{pollLimit: c.limit}
		if got, forward := d.poll(); got != c.limit || !forward {
			t.Errorf("%s: before the drain a poll gets %s, %t", name, got, forward)
		}
		ctx, cancel := context.WithTimeout(t.Context(), c.left)
		d.begin(ctx)
		cancel()
		got, forward := d.poll()
		if forward != c.forward || got > c.most || got <= 0 || c.forward && got < c.most-100*time.Millisecond {
			t.Errorf("%s: a poll gets %s, %t; want %s, %t", name, got, forward, c.most, c.forward)
		}
	}
}

// A poll that comes too late for the server ends without a task, and not with an error.
func TestALatePollEndsEmpty(t *testing.T) {
	f := &frontend{poll: func(context.Context, *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
		t.Error("the poll was forwarded")
		return nil, nil
	}}
	startFrontend(t, f)
	p := startProxy(t, f)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	p.drain.begin(ctx)
	a, err := p.client(t).PollActivityTaskQueue(testContext(t), &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"})
	if err != nil || len(a.GetTaskToken()) > 0 {
		t.Errorf("%v, %v", a, err)
	}
}
