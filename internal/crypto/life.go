package crypto

import (
	"context"
	"errors"
	"time"
)

// KeyLife is the time of a data key that expires, as its row had it when it was read. A key store measures it by its own clock, so that
// all processes agree; the clock of a process measures only what has passed since.
type KeyLife struct {
	Read    time.Time     // when the store was asked, by this process's clock
	SealFor time.Duration // from then on, as long as the key may seal
	OpenFor time.Duration // and as long as it opens; at or below 0, it had expired by the store's clock
	End     time.Time     // by the store's clock; zero of a row that was not read from it
	// Destroyed is whether the wrapped key was destroyed: then no clock gives it back.
	Destroyed bool
}

// clockStep is how far the clock of this machine may be set back without a question to the key store.
const clockStep = 5 * time.Second

// passed returns how long ago the row was read. Two clocks measure that: the monotonic one stands still while the machine sleeps, and the
// other one may be set. A clock that was set back shows nothing, so all time has passed.
func (l *KeyLife) passed() time.Duration {
	now := time.Now()
	wall := now.Round(0).Sub(l.Read.Round(0))
	if wall < -clockStep {
		return 1<<63 - 1
	}
	return max(wall, now.Sub(l.Read))
}

// Seals reports whether the key may still seal. One without a life may.
func (l *KeyLife) Seals() bool { return l == nil || !l.Destroyed && l.passed() < l.SealFor }

// Opens reports whether the key may still open. One without a life may.
func (l *KeyLife) Opens() bool { return l == nil || !l.Destroyed && l.passed() < l.OpenFor }

// Expired reports whether the key was destroyed, or had expired by the store's clock, when the row was read. Afterwards the store has to
// be asked again: the clock of this process alone does not decide that a value is gone for good.
func (l *KeyLife) Expired() bool { return l != nil && (l.Destroyed || l.OpenFor <= 0) }

// Gone reports whether the key opens nothing ever again: it was destroyed, or its life is over by the store's clock and by that of this
// process. By the store's clock alone it may be one that was set wrong, which destroys nothing.
func (l *KeyLife) Gone() bool { return l.Expired() && (l.Destroyed || !time.Now().Before(l.End)) }

// Left returns the same life as of now, for a row that is written again.
func (l *KeyLife) Left() *KeyLife {
	if l == nil {
		return nil
	}
	passed := l.passed()
	return &KeyLife{Read: time.Now(), SealFor: l.SealFor - passed, OpenFor: l.OpenFor - passed, End: l.End, Destroyed: l.Destroyed}
}

// Earlier returns, for sealing and for opening separately, the earlier end of l and of the same key's row as it was read later. A row that
// does not expire changes nothing.
func (l *KeyLife) Earlier(row *KeyLife) *KeyLife {
	if l == nil || row == nil {
		return l
	}
	l, row = l.Left(), row.Left()
	return &KeyLife{Read: row.Read, SealFor: min(l.SealFor, row.SealFor), OpenFor: min(l.OpenFor, row.OpenFor), End: row.End, Destroyed: row.Destroyed}
}

// ErrClocksDiffer is why no key that expires is made or destroyed: the clock of the key store and that of this machine differ by minutes, so
// one of them is wrong.
var ErrClocksDiffer = errors.New("no key that expires is made or destroyed while the clocks differ; correct the wrong one")

// ErrMayNotDestroy is why no key is made that expires: the proxy's role in the key store lacks a right.
var ErrMayNotDestroy = errors.New("the proxy may not destroy keys at the end of their life, so it makes none that expire")

// ErrLookGoesOn is why a part of a key store was not looked through: that takes longer than one call has. The next one goes on there.
var ErrLookGoesOn = errors.New("the key store takes longer to look through than one call has; the next one goes on there")

// OverdueAfter is how long after its end a key counts as overdue whose wrapped key is still in the store. Replicas look once a minute, and
// the clocks that have to agree may differ by 5 minutes.
const OverdueAfter = 10 * time.Minute

// ExpiredKey is a data key that was destroyed at the end of its life.
type ExpiredKey struct {
	ID      KeyID
	Context KeyContext
	End     time.Time
}

// KeyLives counts the data keys of one namespace and key name in a key store, those of subjects apart.
type KeyLives struct {
	Context                    KeyContext
	Endless, Expiring, Expired int
	// Overdue are those whose wrapped key is still in the store, though the row says that it was destroyed, or their life ended more than
	// OverdueAfter ago by the store's clock or by that of this process.
	Overdue int
	Next    time.Time // the next one expires; zero: none does
}

// ExpiryOf returns the part of a key store that holds data keys which expire; nil if it cannot.
func ExpiryOf(store KeyStore) ExpiryStore {
	if with, ok := store.(interface{ Expiry() ExpiryStore }); ok {
		return with.Expiry()
	}
	return nil
}

// ExpiryStore is the part of a KeyStore whose data keys may expire. Its errors are those of a KeyStore. A row that says when its key
// expires is never handed out with its wrapped key after that, and is kept: it shows that the key has expired and is not lost.
type ExpiryStore interface {
	// DestroyExpired destroys some of the wrapped keys whose life is over by the store's clock and by that of this process, and returns
	// which, also where it returns an error after that; ErrClocksDiffer where these do not agree and the store has keys that expire. more is whether there may be others. Several
	// processes may call it at once; each key is destroyed by one.
	DestroyExpired(ctx context.Context) (destroyed []ExpiredKey, more bool, err error)
	// DestroyReturned destroys some of the wrapped keys that are in the store though their rows say that they were destroyed, as after a
	// restore of a part of the store, and returns which. It asks no clock. It looks at every row.
	DestroyReturned(ctx context.Context) (destroyed []ExpiredKey, more bool, err error)
	// MayDestroy returns an error unless this process has the rights that it needs to destroy keys: ErrMayNotDestroy with the missing one.
	MayDestroy(ctx context.Context) error
	// Has reports whether a context has data keys without an end, and whether it has keys with one (destroyed ones count).
	Has(ctx context.Context, kc KeyContext) (endless, expiring bool, err error)
	// Lives counts the data keys by namespace and key name: those that are not destroyed and expire, and those that have come back, or all of
	// them, which reads every row.
	Lives(ctx context.Context, all bool) ([]KeyLives, error)
}
