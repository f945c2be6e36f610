package keyring

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

const (
	// sweepInterval is the pause between looks for keys whose life is over.
	sweepInterval = time.Minute
	// maxSweeps is how many transactions one look makes.
	maxSweeps = 10
)

// mayExpire returns an error unless data keys of an entry with a life may be made: in the key store, for a namespace that exists, where
// none was made that does not expire. The envelopes of such a key would stay, and some of them carry it.
func (p *sealing) mayExpire(ctx context.Context, e *keyEntry, namespace string, kc crypto.KeyContext) error {
	if e.Life == 0 {
		return nil
	}
	store := crypto.ExpiryOf(p.core.opt.Store)
	if store == nil {
		return kc.Errorf(crypto.KindNotConfigured, "seal", "keys that expire need a key store in PostgreSQL or SQLite: configure key_store")
	}
	if !p.core.slots.exists(namespace) {
		return kc.Errorf(crypto.KindUnavailable, "seal", "the upstream has not confirmed the namespace, so no key that expires is made there; try again").AtOnce()
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	endless, err := store.HasEndless(ctx, kc)
	if err != nil {
		return classified("keystore.lives", kc, err)
	}
	if endless {
		return kc.Errorf(crypto.KindNotConfigured, "seal", "the config has a life for the key, and the key store has data keys of this name that do not "+
			"expire: what they sealed would stay; give the life to a key of a new name")
	}
	return nil
}

// expiry destroys keys whose life is over.
type expiry struct {
	core    *core
	store   crypto.ExpiryStore // nil: there is none
	forget  func(match func(*dataKey) bool)
	mu      sync.Mutex // guards the rest
	lives   []crypto.KeyLives
	expired map[string]uint64 // destroyed here, by the entry of `keys`
}

// tend looks for keys whose life is over, every minute.
func (x *expiry) tend() {
	t := time.NewTicker(sweepInterval)
	defer t.Stop()
	failing := false
	for {
		err := x.sweep(x.core.base)
		switch {
		case err == nil || x.core.base.Err() != nil:
		case errors.Is(err, crypto.ErrClocksDiffer):
			x.core.opt.Log.Error("the clocks of the key store and of this machine differ; no key is destroyed at the end of its life until they agree",
				"error", err)
		case !failing:
			x.core.opt.Log.Warn("keys whose life is over could not be destroyed in the key store; they open nothing, and are destroyed once it answers",
				"error", err)
		}
		failing = err != nil
		select {
		case <-x.core.base.Done():
			return
		case <-t.C:
		}
	}
}

// sweep destroys keys whose life is over, forgets those in memory, and looks what comes next.
func (x *expiry) sweep(ctx context.Context) error {
	x.forget(func(dk *dataKey) bool { return !dk.life.Load().Opens() })
	for more, n := true, 0; more && n < maxSweeps; n++ {
		var destroyed []crypto.ExpiredKey
		var err error
		destroyed, more, err = x.destroy(ctx)
		for _, key := range destroyed { // also where an error came after that
			x.note(key)
		}
		if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	lives, err := x.store.Lives(ctx, false)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.lives = lives
	return nil
}

func (x *expiry) destroy(ctx context.Context) ([]crypto.ExpiredKey, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	return x.store.DestroyExpired(ctx)
}

// note counts a key that was destroyed, and says so in the log.
func (x *expiry) note(key crypto.ExpiredKey) {
	x.core.opt.Log.Info("a data key was destroyed at the end of its life; what it sealed opens nowhere any more",
		"data_key", key.ID.String(), "key", key.Context.Key, "namespace", key.Context.Namespace, "expired", key.End.Format(time.RFC3339))
	entry := OtherUses
	if m, ok := x.core.set.Load().findSealed(key.Context.Namespace, key.Context.Key); ok {
		entry = m.entry.Name
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.expired[entry]++
}

// Expiry is when data keys of one entry of `keys` expire.
type Expiry struct {
	Entry     string
	Life      time.Duration // 0: the entry has none now, and keys from before
	Expiring  int           // data keys in the key store
	Next      time.Time     // the first of them expires; zero: there is none
	Destroyed uint64        // by this process
}

// Expiries lists the entries whose data keys expire, also where there are none yet.
func Expiries(k *Keyring) (all []Expiry) {
	x, set := k.expiry, k.Current()
	x.mu.Lock()
	defer x.mu.Unlock()
	of := func(entry string) *Expiry {
		i := slices.IndexFunc(all, func(e Expiry) bool { return e.Entry == entry })
		if i < 0 {
			i, all = len(all), append(all, Expiry{Entry: entry, Destroyed: x.expired[entry]})
		}
		return &all[i]
	}
	for i := range set.entries {
		if e := &set.entries[i]; e.Life > 0 {
			of(e.Name).Life = e.Life
		}
	}
	for _, l := range x.lives {
		m, ok := set.findSealed(l.Context.Namespace, l.Context.Key)
		if l.Expiring == 0 || !ok {
			continue
		}
		e := of(m.entry.Name)
		if e.Expiring += l.Expiring; e.Next.IsZero() || l.Next.Before(e.Next) {
			e.Next = l.Next
		}
	}
	for entry := range x.expired {
		of(entry)
	}
	return all
}
