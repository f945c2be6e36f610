package keyring

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
)

// Options configures a Keyring. Keys and Open are required.
type Options struct {
	// Keys in order of rank: the most sensitive first.
	Keys []KeyConfig
	// Open returns the provider for a URI.
	Open func(ctx context.Context, uri string) (crypto.Provider, error)
	// Grants between namespaces; without any an envelope opens only in the namespace that it was sealed in.
	Grants []Grant
	// Realm, where set, is bound into envelopes before the namespace, so that two clusters' `default` differ.
	Realm string
	// SealedAs are the names to which envelopes of namespaces are bound, where these are not their own.
	SealedAs map[string]string
	// Store, where set, has the data keys that envelopes by reference name. The Keyring closes it.
	Store crypto.KeyStore
	// Replica has the key store know of this process, so that erasures wait for it.
	Replica bool
	// ErasureMaxLag is how long keys of subjects serve after the key store last answered what was erased; 0: 5 minutes.
	ErasureMaxLag time.Duration
	// RevokedDataKeys are ids of data keys that leaked: nothing is opened with them any more.
	RevokedDataKeys []crypto.KeyID
	// Trace, where set, is called around each call to a key service.
	Trace func(ctx context.Context, op string, kc crypto.KeyContext) (context.Context, func(err error))
	// Asking, where set, is called when Prepare asks for a key; it returns what is called when that has answered or failed.
	Asking func(uri string) (done func())
	Log    *slog.Logger // nil: slog.Default()
	// DataKeyLife is the age at which a data key is to be out of use for sealing; 0: 24 h. It is renewed before that.
	DataKeyLife time.Duration
}

const (
	unconfirmedBurst = 40 // calls to key services for namespaces that are only claimed, and how many more per second
	unconfirmedRate  = 2
	refusalLife      = 30 * time.Second
	tickInterval     = time.Second

	callTimeout = 2 * time.Second  // of one call to a key service
	maxWait     = 10 * time.Second // of sealing for a key, and of opening if its call has no deadline
)

// Keyring holds the data keys: one for sealing per (key name, namespace), and those of opened envelopes. It is safe
// for concurrent use.
type Keyring struct {
	core     *core
	sealing  sealing
	opening  opening
	subjects *subjects
	expiry   *expiry
}

// core is what the parts of a Keyring share.
type core struct {
	opt     Options
	coarse  atomic.Int64        // Unix nanoseconds of the latest tick, for the paths that run per payload
	set     atomic.Pointer[Set] // in force
	service *service
	keys    *keks
	slots   slots
	uses    uses
	store   storeHealth
	tokens  *rate.Limiter

	base context.Context // ends with Close
	stop context.CancelFunc
	work sync.WaitGroup
}

// New opens the configured keys. Active keys that do not answer are noted in the set in force, as by Prepare: what needs them
// fails until they answer. A caller that cannot do without them asks Set.AllAnswer.
func New(ctx context.Context, opt Options) (*Keyring, error) {
	opt.DataKeyLife = cmp.Or(opt.DataKeyLife, 24*time.Hour)
	opt.Log = cmp.Or(opt.Log, slog.Default())
	c := &core{opt: opt, slots: slots{unconfirmed: newLRU[slotKey, *slot](maxUnconfirmed)}, uses: uses{m: make(map[useID]*keyUse)},
		tokens: rate.NewLimiter(unconfirmedRate, unconfirmedBurst)}
	c.base, c.stop = context.WithCancel(context.Background())
	c.service = &service{opt: &c.opt, calls: places{each: maxCalls}, opens: places{each: maxOpens}}
	c.coarse.Store(time.Now().UnixNano())
	k := &Keyring{core: c}
	c.keys = &keks{core: c, flights: newFlights[string, *keyhealth.Key](c, refusalLife), byURI: make(map[string]*keyhealth.Key),
		health: keyhealth.Options{Log: opt.Log, Unwrap: c.service.probe, Withdrawn: k.withdraw}}
	k.opening = opening{core: c, missed: k.sealing.missed, flights: newFlights[headerID, *dataKey](c, refusalLife),
		keys:    dataKeys{core: c, m: make(map[crypto.KeyID]*dataKey), subjects: make(map[crypto.KeyID]*dataKey)},
		missing: newLRU[crypto.KeyID, missing](maxMissing), again: make(chan struct{}, maxAgain)}
	k.subjects = newSubjects(c, &k.opening)
	k.opening.subjects = k.subjects
	k.sealing = sealing{core: c, made: k.opening.keys.add, flights: newFlights[slotKey, *Sealer](c, keyhealth.ProbeRetry)}
	k.expiry = &expiry{core: c, store: crypto.ExpiryOf(opt.Store), drop: k.drop, forget: k.opening.keys.forget, expired: make(map[string]uint64)}
	set, err := k.Prepare(ctx, opt.Keys, opt.Grants, opt.RevokedDataKeys)
	if err != nil {
		k.Close()
		return nil, err
	}
	k.Commit(set)
	c.work.Go(k.tick)
	if k.subjects.store != nil && opt.Replica {
		c.work.Go(k.subjects.tend)
	}
	if k.expiry.store != nil && opt.Replica {
		c.work.Go(k.expiry.tend)
	}
	return k, nil
}

// AllAnswer returns the errors of all active keys that did not answer when the set was prepared.
func (s *Set) AllAnswer() error {
	var errs []error
	for _, u := range s.unanswered {
		errs = append(errs, u.Err)
	}
	return errors.Join(errs...)
}

// Current returns the set in force. A caller that has to decide twice by the same keys takes it once. Sealing and opening
// always obey the newest one: what it revokes or no longer lists is out of use for every call at once.
func (k *Keyring) Current() *Set { return k.core.set.Load() }

// Prepare checks other keys, grants and revoked data keys, and looks up every key encryption key that needs no name from
// a policy to be known. Nothing that is in force changes. Active keys that do not answer are noted in the set, unless they
// are open already and their service is only unavailable: see Set.Unanswered. One for opening only that does not answer is
// logged: it may have been retired for good, and it is looked for again when an envelope needs it.
//
// All keys are looked up at once, each until ctx ends, so that one that does not answer takes no time from the others.
func (k *Keyring) Prepare(ctx context.Context, keys []KeyConfig, grants []Grant, revokedDataKeys []crypto.KeyID) (*Set, error) {
	set, err := newSet(&k.core.opt, keys, grants, revokedDataKeys)
	if err != nil {
		return nil, err
	}
	ctx, cancel := k.core.within(ctx)
	defer cancel()
	failed := k.lookUpAll(ctx, set)
	for i, e := range set.entries {
		for j, uri := range e.uris() {
			err := failed[uri]
			switch {
			case err == nil:
			case j == 0:
				set.unanswered = append(set.unanswered, Unanswered{i, fmt.Errorf("keys[%d] %q: %w", i, e.Name, err)})
			default:
				k.core.opt.Log.Warn("a key for opening only does not answer; what it sealed can't be opened", "key", e.Name, "kek", uri, "error", err)
			}
		}
	}
	return set, nil
}

// lookUpAll looks up every URI of a set that is whole, notes the keys in the set, and returns the errors of the others.
func (k *Keyring) lookUpAll(ctx context.Context, set *Set) map[string]error {
	failed := make(map[string]error)
	var mu sync.Mutex
	var all sync.WaitGroup
	asked := make(map[string]bool)
	for _, e := range set.entries {
		for _, uri := range e.uris() {
			if isPattern(uri) || asked[uri] {
				continue
			}
			asked[uri] = true
			all.Go(func() {
				if k.core.opt.Asking != nil {
					defer k.core.opt.Asking(uri)()
				}
				key, err := k.core.keys.lookUp(ctx, uri)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					if !strings.Contains(err.Error(), uri) {
						err = fmt.Errorf("%s: %w", uri, err)
					}
					failed[uri] = err
					return
				}
				set.found[uri] = key
			})
		}
	}
	all.Wait()
	return failed
}

// Moves reports whether a prepared set has found other keys than those that are open: new ones, or where an alias has moved.
func Moves(k *Keyring, set *Set) bool {
	for uri, key := range set.found {
		if open := k.core.keys.get(uri); open == nil || open.Ref() != key.Ref() {
			return true
		}
	}
	return false
}

// Commit puts a prepared set in force, with nothing lost on the way: where the active key changed, or an alias names
// another key now, the working data key goes on until its successor is there. It cannot fail.
func (k *Keyring) Commit(set *Set) {
	k.core.keys.commit(set)
	k.core.set.Store(set)
	unlisted := k.core.keys.forgetUnlisted(set)
	k.drop(func(dk *dataKey) bool { return dk.revoked(set.revoked) || unlisted[dk.kek] })
	// What was refused may be allowed now.
	k.core.keys.flights.refusals.Purge()
	k.sealing.flights.refusals.Purge()
	k.opening.flights.refusals.Purge()
	k.subjects.parents.making.refusals.Purge()
	k.subjects.sealing.refusals.Purge()
	k.subjects.unwraps.refusals.Purge()
	k.opening.keys.forget(set.hidesEnd)
	k.sealing.obey(set)
}

// Rank is that of the set in force.
func (k *Keyring) Rank(namespace, key string) (int, bool) { return k.Current().Rank(namespace, key) }

// DefaultKey is that of the set in force.
func (k *Keyring) DefaultKey(namespace string) (string, bool) {
	return k.Current().DefaultKey(namespace)
}

// Confirm notes that a namespace exists: the upstream answered successfully for it. Namespaces that are only claimed share a
// small cache and few calls to the key service, and none of their keys gets into the key store.
func (k *Keyring) Confirm(namespace string) {
	if k.core.slots.confirm(namespace) {
		k.sealing.rowsAt.Store(0) // its keys have no rows yet
	}
}

// Confirmed reports whether a namespace is known to exist; see Confirm.
func (k *Keyring) Confirmed(namespace string) bool { return k.core.slots.exists(namespace) }

// Close stops what runs in the background and forgets all keys. Nothing is sealed or opened after it.
func (k *Keyring) Close() {
	k.core.stop()
	k.core.work.Wait()
	k.subjects.leave()
	if store := k.core.opt.Store; store != nil {
		_ = store.Close()
	}
	k.drop(func(*dataKey) bool { return true })
}

// drop forgets the data keys that match, for sealing and for opening.
func (k *Keyring) drop(match func(*dataKey) bool) {
	k.sealing.drop(match)
	k.opening.keys.drop(match)
	k.subjects.drop(match)
}

// withdraw forgets the data keys under a key encryption key: in one context, or in all.
func (k *Keyring) withdraw(key *keyhealth.Key, kc *crypto.KeyContext) {
	k.drop(func(dk *dataKey) bool { return dk.kek == key && (kc == nil || dk.context == *kc) })
}

// tick does what is due: renewal, probes, and the end of the grace period.
func (k *Keyring) tick() {
	t := time.NewTicker(tickInterval)
	defer t.Stop()
	for {
		select {
		case <-k.core.base.Done():
			return
		case <-t.C:
		}
		now := time.Now()
		k.core.coarse.Store(now.UnixNano())
		k.core.pingStore(now)
		k.sealing.tend(now)
		for _, key := range k.core.keys.all() {
			if contexts := key.Watch(now); contexts != nil {
				k.core.work.Go(func() { key.ProbeAll(k.core.base, contexts) })
			}
		}
	}
}

// within limits how long a caller without a deadline waits for a key service.
func (c *core) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, maxWait)
}

// touch notes a use, to the second, without writing to shared memory each time.
func (c *core) touch(used *atomic.Int64) {
	if now := c.coarse.Load(); used.Load() != now {
		used.Store(now)
	}
}

// use notes a use of a data key's key encryption key.
func (c *core) use(dk *dataKey) { dk.kek.Use(c.coarse.Load()) }

// patience returns how long a caller may wait for a key. It is a little less than its remaining time, so that the caller
// still receives the cause: many deadlines are just maxWait.
func (c *core) patience(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return maxWait
	}
	left := time.Until(deadline)
	return left - min(left/10, 500*time.Millisecond)
}

// mayCall returns an error if n calls to a key service are too many for a namespace that is only claimed.
func (c *core) mayCall(op, namespace string, n int) *crypto.Error {
	if c.slots.exists(namespace) || c.tokens.AllowN(time.Now(), n) {
		return nil
	}
	return crypto.Errorf(crypto.KindUnavailable, op,
		"too many namespaces at once that the upstream has not confirmed; try again").AtOnce()
}
