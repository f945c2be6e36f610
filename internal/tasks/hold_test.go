package tasks

import (
	"context"
	"testing"
	"time"
)

func TestLimitIsTheShortestTimeout(t *testing.T) {
	o := &opening{arrived: time.Now(), longest: longestHold}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	for _, c := range []struct {
		ctx      context.Context
		timeouts []time.Duration
		want     time.Duration
	}{
		{t.Context(), nil, longestHold},
		{t.Context(), []time.Duration{0, time.Hour, 4 * time.Second}, 3 * time.Second},
		{t.Context(), []time.Duration{20 * time.Second}, 18 * time.Second},
		{ctx, []time.Duration{time.Hour}, 6 * time.Second},
	} {
		if got := o.holdUntil(c.ctx, c.timeouts).Sub(o.arrived); (got - c.want).Abs() > 500*time.Millisecond {
			t.Errorf("timeouts %v: held for %s, want %s", c.timeouts, got, c.want)
		}
	}
	if got := nexusTimeout(nil); got != unknownTimeout {
		t.Errorf("a Nexus task without a timeout: %s", got)
	}
}
