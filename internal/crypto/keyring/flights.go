package keyring

import (
	"cmp"
	"context"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
)

// flights lets callers that need the same thing wait for one piece of work. The work belongs to none of them: it goes
// on when the first caller leaves, and stops trying again once the last one has left.
type flights[K comparable, V any] struct {
	core        *core
	refusals    *lru.Cache[K, refusal]
	refusalLife time.Duration

	mu sync.Mutex
	m  map[K]*flight[V]
}

// refusal is a permanent error that is the answer for a while.
type refusal struct {
	err   error
	until time.Time
}

type flight[V any] struct {
	waiting int
	last    error // of the latest try, while there are more

	done  chan struct{}
	value V
	err   error
}

func newFlights[K comparable, V any](c *core, refusalLife time.Duration) *flights[K, V] {
	return &flights[K, V]{core: c, refusals: newLRU[K, refusal](maxRefusals), refusalLife: refusalLife,
		m: make(map[K]*flight[V])}
}

// refused returns the permanent error that work for key ended with lately.
func (g *flights[K, V]) refused(key K) error {
	if r, ok := g.refusals.Get(key); ok && time.Now().Before(r.until) {
		return r.err
	}
	return nil
}

// refuse notes and returns an error of work for key, unless it is a transient one.
func (g *flights[K, V]) refuse(key K, err error) error {
	if !crypto.KindOf(err).Transient() {
		g.refusals.Add(key, refusal{err: err, until: time.Now().Add(g.refusalLife)})
	}
	return err
}

// do returns the outcome of work for key, starting it unless it is under way. Transient errors are tried again, with
// growing pauses, as long as a caller waits. A caller whose ctx ends gets the error of the latest try.
func (g *flights[K, V]) do(ctx context.Context, key K, work func(ctx context.Context) (V, error)) (none V, err error) {
	if err := g.core.base.Err(); err != nil {
		return none, crypto.Errorf(crypto.KindUnavailable, "wait for a key", "the proxy is shutting down: %w", err)
	}
	g.mu.Lock()
	f := g.m[key]
	if f == nil {
		f = &flight[V]{done: make(chan struct{})}
		g.m[key] = f
		// The values of the first caller's context stay, so that its trace shows the call; its end does not.
		g.core.work.Go(func() { g.run(context.WithoutCancel(ctx), key, f, work) })
	}
	f.waiting++
	g.mu.Unlock()
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	f.waiting--
	cause := cmp.Or(f.last, context.Cause(ctx))
	if crypto.KindOf(cause) == crypto.KindUnavailable {
		return none, cause
	}
	return none, crypto.Errorf(crypto.KindUnavailable, "wait for a key", "the key service did not answer in time: %w", cause)
}

func (g *flights[K, V]) run(ctx context.Context, key K, f *flight[V], work func(ctx context.Context) (V, error)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.core.base, cancel)()
	pause := backoff.Backoff{First: firstPause, Max: longestPause, Jitter: 0.5}
	for {
		v, err := work(ctx)
		g.mu.Lock()
		again := crypto.WorthWaiting(err) && f.waiting > 0 && g.core.base.Err() == nil
		if !again {
			delete(g.m, key)
			f.value, f.err = v, err
			close(f.done)
			g.mu.Unlock()
			return
		}
		f.last = err
		g.mu.Unlock()
		_ = pause.Wait(g.core.base) // if it ends, the next try is the last
	}
}

const (
	firstPause   = 50 * time.Millisecond
	longestPause = 2 * time.Second
)
