package keyring

import (
	"context"
	"errors"
	"log/slog"
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
	// returnInterval is the pause between looks for destroyed keys that have come back, which go through the whole key store.
	returnInterval = time.Hour
)

// expiry destroys keys whose life is over.
type expiry struct {
	core    *core
	store   crypto.ExpiryStore              // nil: there is none
	drop    func(match func(*dataKey) bool) // for sealing and opening
	forget  func(match func(*dataKey) bool) // for opening
	mu      sync.Mutex                      // guards the rest
	looked  time.Time                       // for keys that have come back
	lives   []crypto.KeyLives
	expired map[string]uint64 // destroyed here, by the entry of `keys`
}

// tend looks for keys whose life is over, every minute.
func (x *expiry) tend() {
	t := time.NewTicker(sweepInterval)
	defer t.Stop()
	failing, overdue := false, 0
	for {
		err := x.sweep(x.core.base)
		before := overdue
		if overdue = x.overdue(); overdue > 0 && before == 0 {
			x.core.opt.Log.Error("keys whose life is over are still in the key store; whoever has a copy of what they sealed and may use the key "+
				"service can read it until they are destroyed", "overdue", overdue, "error", err)
		}
		switch {
		case err == nil || x.core.base.Err() != nil:
		case errors.Is(err, crypto.ErrClocksDiffer):
			x.core.opt.Log.Error("the clocks of the key store and of this machine differ; no key that expires is made or destroyed until they agree",
				"error", err)
		case !failing:
			x.core.opt.Log.Warn("keys whose life is over could not be destroyed in the key store; they open nothing, and it is tried again each minute",
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

// sweep destroys keys whose life is over, forgets those in memory, and looks what comes next and what is overdue. Once an hour it looks for
// keys that have come back, and again each minute while these cannot be destroyed.
func (x *expiry) sweep(ctx context.Context) error {
	x.drop(func(dk *dataKey) bool { return !dk.life.Load().Opens() })
	err := x.destroy(ctx, x.store.DestroyExpired, slog.LevelInfo, "a data key was destroyed at the end of its life; what it sealed opens nowhere any more")
	if errors.Is(err, crypto.ErrClocksDiffer) { // a machine that slept has not counted the time; rows of keys that seal are read each minute
		x.forget(func(dk *dataKey) bool { return dk.life.Load() != nil })
	}
	x.mu.Lock()
	look := x.looked.IsZero() || time.Since(x.looked) >= returnInterval
	x.mu.Unlock()
	var left error // of keys that have come back
	if look {
		left = x.destroy(ctx, x.store.DestroyReturned, slog.LevelWarn, "a data key that was destroyed at the end of its life had come back, as with a backup that is "+
			"restored in part, and was destroyed again")
		if errors.Is(left, crypto.ErrLookGoesOn) {
			look, left = false, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	lives, failed := x.store.Lives(ctx, false)
	x.mu.Lock()
	defer x.mu.Unlock()
	if failed == nil {
		x.lives = lives
	}
	if look && left == nil {
		x.looked = time.Now()
	}
	return errors.Join(err, left, failed)
}

// destroy has the key store destroy keys, and counts and logs each, also where an error came after that.
func (x *expiry) destroy(
	ctx context.Context, some func(context.Context) ([]crypto.ExpiredKey, bool, error), level slog.Level, text string,
) error {
	one := func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, maxWait)
		defer cancel()
		destroyed, more, err := some(ctx)
		for _, key := range destroyed {
			x.note(key, level, text)
		}
		return more, err
	}
	for range maxSweeps {
		if more, err := one(); err != nil || !more {
			return err
		}
	}
	return nil
}

// overdue returns how many keys are still in the store that should have been destroyed.
func (x *expiry) overdue() (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, l := range x.lives {
		n += overdueOf(l)
	}
	return n
}

// overdueOf returns how many keys of a name should have been destroyed: at least one if the next one's end is long over, as where the store
// could not be asked since.
func overdueOf(l crypto.KeyLives) int {
	if l.Overdue == 0 && !l.Next.IsZero() && time.Since(l.Next) > crypto.OverdueAfter {
		return 1
	}
	return l.Overdue
}

// note counts a key that was destroyed, and says so in the log.
func (x *expiry) note(key crypto.ExpiredKey, level slog.Level, text string) {
	x.core.opt.Log.Log(x.core.base, level, text, "data_key", key.ID.String(), "key", key.Context.Key, "namespace", key.Context.Namespace, "expired", key.End.Format(time.RFC3339))
	entry := entryOf(x.core.set.Load(), key.Context)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.expired[entry]++
}

// entryOf returns the name of the entry for data keys of a context; OtherUses if the set has none.
func entryOf(set *Set, kc crypto.KeyContext) string {
	if m, ok := set.findSealed(kc.Namespace, kc.Key); ok {
		return m.entry.Name
	}
	return OtherUses
}

// Expiry is when data keys of one entry of `keys` expire.
type Expiry struct {
	Entry     string
	Life      time.Duration // 0: the entry has none now, and keys from before
	Expiring  int           // data keys in the key store
	Overdue   int           // data keys there that should have been destroyed
	Conflicts int           // namespaces in which nothing is sealed, since config and key store differ about the life
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
		name := entryOf(set, l.Context)
		if n := overdueOf(l); n > 0 {
			of(name).Overdue += n
		}
		if l.Expiring == 0 || name == OtherUses {
			continue
		}
		e := of(name)
		if e.Expiring += l.Expiring; e.Next.IsZero() || l.Next.Before(e.Next) {
			e.Next = l.Next
		}
	}
	for sl := range k.core.slots.conflicts.Range {
		if m, ok := set.find(sl.(slotKey).namespace, sl.(slotKey).key); ok {
			of(m.entry.Name).Conflicts++
		}
	}
	for entry := range x.expired {
		of(entry)
	}
	return all
}
