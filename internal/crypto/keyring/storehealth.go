package keyring

import (
	"context"
	"sync"
	"time"
)

// storeHealth is whether the key store answers.
type storeHealth struct {
	mu     sync.Mutex
	asking bool
	asked  time.Time
	err    error
	since  time.Time // of err
}

// StoreHealth returns why the key store is of no use, and since when. Without a key store there is no error.
func (k *Keyring) StoreHealth() (since time.Time, err error) {
	h := &k.core.store
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.since, h.err
}

// failing returns why the key store is of no use.
func (h *storeHealth) failing() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// pingStore asks from time to time whether the key store answers, so that an outage shows before a row is needed.
func (c *core) pingStore(now time.Time) {
	h := &c.store
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.opt.Store == nil || h.asking || now.Sub(h.asked) < pingInterval {
		return
	}
	h.asking, h.asked = true, now
	c.work.Go(func() {
		ctx, cancel := context.WithTimeout(c.base, callTimeout)
		defer cancel()
		err := c.opt.Store.Ping(ctx)
		if c.base.Err() != nil {
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.asking = false
		switch {
		case err != nil && h.err == nil:
			h.since = time.Now()
			c.opt.Log.Error("the key store does not answer as it should: envelopes by reference open only if their data keys are in memory, "+
				"and new data keys seal self-contained envelopes; none is made of names with a life, and none for new subjects", "error", err)
		case err == nil && h.err != nil:
			c.opt.Log.Info("the key store answers again")
		}
		h.err = err
	})
}
