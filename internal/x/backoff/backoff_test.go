package backoff_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
)

func TestPausesDouble(t *testing.T) {
	b := backoff.Backoff{First: 100, Max: 500}
	for i, want := range []time.Duration{100, 200, 400, 500, 500} {
		if got := b.Next(); got != want {
			t.Errorf("pause %d: %v, want %v", i, got, want)
		}
	}
	b.Reset()
	if got := b.Next(); got != 100 {
		t.Errorf("after Reset: %v", got)
	}
	b = backoff.Backoff{First: 100}
	if first, second := b.Next(), b.Next(); first != 100 || second != 100 {
		t.Error("without Max the pause grows")
	}
}

func TestJitter(t *testing.T) {
	least, most := time.Hour, time.Duration(0)
	for range 1000 {
		d := backoff.Jitter(time.Minute, 0.5)
		least, most = min(least, d), max(most, d)
	}
	if least < 30*time.Second || most > 90*time.Second || most-least < 50*time.Second {
		t.Errorf("a minute became %v to %v", least, most)
	}
	if d := backoff.Jitter(time.Minute, 0); d != time.Minute {
		t.Errorf("without jitter a minute became %v", d)
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		b := backoff.Backoff{First: time.Second, Max: time.Minute}
		for range 3 {
			if err := b.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if d := time.Since(start); d != 7*time.Second {
			t.Errorf("three waits took %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 8*time.Second {
			t.Errorf("the context ended, and the wait with %v after %v", err, time.Since(start))
		}
		if err := backoff.Sleep(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the context had ended before, and the wait ended with %v", err)
		}
	})
}
