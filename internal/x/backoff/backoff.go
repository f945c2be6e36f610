// Package backoff spaces out repeated attempts. It holds what the product's retry loops share, the growing
// pause and the wait that a context ends; each loop decides itself when to give up.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff is a pause that doubles from attempt to attempt.
type Backoff struct {
	// First is the first pause, and Max bounds all of them; 0 means that they do not grow.
	First, Max time.Duration
	// Jitter is the share of a pause by which it may be shorter or longer, 0 to 1, so that callers which
	// failed together do not come back together.
	Jitter float64

	next time.Duration
}

// Next returns the pause before the next attempt.
func (b *Backoff) Next() time.Duration {
	pause := max(b.next, b.First)
	b.next = min(2*pause, max(b.Max, b.First))
	return Jitter(pause, b.Jitter)
}

// Wait waits for the next pause, and returns the context's error if that ends before.
func (b *Backoff) Wait(ctx context.Context) error { return Sleep(ctx, b.Next()) }

// Reset makes the next pause the first one again.
func (b *Backoff) Reset() { b.next = 0 }

// Jitter returns a random duration from d-share*d to d+share*d.
func Jitter(d time.Duration, share float64) time.Duration {
	return d + time.Duration(share*(2*rand.Float64()-1)*float64(d))
}

// Sleep waits for a duration, and returns the context's error if that ends before.
func Sleep(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
