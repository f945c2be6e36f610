package keyring

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// KeyringOptions configures a Keyring. Zero durations and counts mean the default.
type KeyringOptions struct {
	// Keys in order of rank: the most sensitive first.
	Keys []KeyConfig
	// Open gives the provider for a URI.
	Open func(ctx context.Context, uri string) (crypto.Provider, error)
	// Grants between namespaces; without any an envelope opens only in the namespace that it was sealed in.
	Grants []Grant
	// Realm, where set, is bound into envelopes before the namespace, so that two clusters' `default` differ.
	Realm string
	// RevokedDataKeys are ids of data keys that leaked: nothing is opened with them any more.
	RevokedDataKeys [][32]byte
	// Trace, where set, is called around each call to a key service.
	Trace func(ctx context.Context, op string, kc crypto.KeyContext) (context.Context, func(err error))
	Log   *slog.Logger     // nil: slog.Default()
	Now   func() time.Time // nil: time.Now

	// DataKeyLife is the age at which a data key is to be out of use for sealing (24 h). It is renewed before that.
	DataKeyLife time.Duration
	// Grace is how long keys in memory go on serving while the key service does not answer (6 h).
	Grace time.Duration
	// ProbeInterval is how often a key encryption key is asked whether it still answers (60 s), ProbeRetry how soon
	// after an error (10 s).
	ProbeInterval, ProbeRetry time.Duration
	// CallTimeout limits one call to a key service (2 s), MaxWait how long sealing waits for a key, and opening if its
	// call has no deadline (10 s).
	CallTimeout, MaxWait time.Duration
}

const (
	maxCalls         = 20 // to key services at once
	maxUnconfirmed   = 64 // slots of namespaces that are only claimed
	unconfirmedBurst = 40 // calls to key services for those, and how many more per second
	unconfirmedRate  = 2
	refusalLife      = 30 * time.Second
	tickInterval     = time.Second
	idleAfter        = time.Hour
	maxFormer        = 64 // keys that an alias meant before
)

// Keyring holds the data keys: one for sealing per (key name, namespace), and those of opened envelopes. It is safe
// for concurrent use.
type Keyring struct {
	opt    KeyringOptions
	now    func() time.Time
	coarse atomic.Int64        // Unix nanoseconds of the latest tick, for the paths that run per payload
	set    atomic.Pointer[Set] // in force

	slots     sync.Map // slotKey -> *slot, of confirmed namespaces
	confirmed sync.Map // namespace -> struct{}
	opened    *openedKeys
	sealing   *flights[slotKey, *Sealer]
	unwraps   *flights[wrapID, *dataKey]
	resolving *flights[string, *kek]
	calls     chan struct{} // a place per call under way
	tokens    *rate.Limiter

	mu          sync.Mutex
	unconfirmed *simplelru.LRU[slotKey, *slot]
	keks        map[string]*kek // by URI
	former      []*kek          // that a URI meant before
	unresolved  *lru.Cache[string, refusal]
	uses        map[useID]*keyUse

	base context.Context // ends with Close
	stop context.CancelFunc
	work sync.WaitGroup
}

// NewKeyring opens the configured keys and checks that they answer. It reports every key that does not, except those
// for opening only: an old key may have been retired for good, and it is looked for again when an envelope needs it.
func NewKeyring(ctx context.Context, opt KeyringOptions) (*Keyring, error) {
	opt.setDefaults()
	k := &Keyring{opt: opt, now: opt.Now, opened: newOpenedKeys(), calls: make(chan struct{}, maxCalls),
		tokens: rate.NewLimiter(unconfirmedRate, unconfirmedBurst), keks: make(map[string]*kek), uses: make(map[useID]*keyUse),
		unresolved: newLRU[string, refusal](maxRefusals)}
	var err error
	if k.unconfirmed, err = simplelru.NewLRU[slotKey, *slot](maxUnconfirmed, nil); err != nil {
		return nil, err
	}
	k.base, k.stop = context.WithCancel(context.Background())
	k.sealing = newFlights[slotKey, *Sealer](k.base, &k.work)
	k.unwraps = newFlights[wrapID, *dataKey](k.base, &k.work)
	k.resolving = newFlights[string, *kek](k.base, &k.work)
	k.coarse.Store(k.now().UnixNano())
	set, err := k.Prepare(ctx, opt.Keys, opt.Grants, opt.RevokedDataKeys)
	if err != nil {
		k.Close()
		return nil, err
	}
	k.Commit(set)
	k.work.Add(1)
	go k.tick()
	return k, nil
}

func (o *KeyringOptions) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.DataKeyLife, 24*time.Hour)
	def(&o.Grace, 6*time.Hour)
	def(&o.ProbeInterval, time.Minute)
	def(&o.ProbeRetry, 10*time.Second)
	def(&o.CallTimeout, 2*time.Second)
	def(&o.MaxWait, 10*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
}

// Reload is Prepare and Commit in one.
func (k *Keyring) Reload(ctx context.Context, keys []KeyConfig, grants []Grant, revokedDataKeys [][32]byte) error {
	set, err := k.Prepare(ctx, keys, grants, revokedDataKeys)
	if err == nil {
		k.Commit(set)
	}
	return err
}

// Current returns the set in force. A caller that has to decide twice by the same keys takes it once. Sealing and opening
// always obey the newest one: what it revokes or no longer lists is out of use for every call at once.
func (k *Keyring) Current() *Set { return k.set.Load() }

// Prepare checks other keys, grants and revoked data keys, and looks up every key encryption key that needs no name from
// a policy to be known. Nothing that is in force changes. It fails with every active key that does not answer, unless it
// is open already and its service is only unavailable. One for opening only that does not answer is logged: it may have
// been retired for good, and it is looked for again when an envelope needs it.
func (k *Keyring) Prepare(ctx context.Context, keys []KeyConfig, grants []Grant, revokedDataKeys [][32]byte) (*Set, error) {
	set, err := newSet(k.opt.Realm, keys, grants, revokedDataKeys)
	if err != nil {
		return nil, err
	}
	ctx, cancel := k.within(ctx)
	defer cancel()
	var errs []error
	for i, e := range set.entries {
		for _, uri := range e.uris() {
			if e.wildcard && strings.Contains(uri, star) {
				continue
			}
			kk, err := k.lookUp(ctx, uri)
			switch {
			case err == nil:
				set.found[uri] = kk
			case uri == e.Active:
				errs = append(errs, fmt.Errorf("keys[%d] %q: %w", i, e.Name, err))
			default:
				k.opt.Log.Warn("a key for opening only does not answer; what it sealed can't be opened", "key", e.Name, "kek", uri, "error", err)
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return set, nil
}

// lookUp gives the key encryption key that a URI means now, which differs from the open one if an alias has moved.
func (k *Keyring) lookUp(ctx context.Context, uri string) (*kek, error) {
	k.mu.Lock()
	kk := k.keks[uri]
	k.mu.Unlock()
	if kk == nil {
		return k.resolving.do(ctx, uri, func(ctx context.Context) (*kek, error) { return k.openKey(ctx, uri) })
	}
	now, err := k.openKey(ctx, uri)
	switch {
	case crypto.KindOf(err) == crypto.KindUnavailable:
		return kk, nil
	case err != nil:
		return nil, err
	case now.ref != kk.ref:
		return now, nil
	}
	return kk, nil
}

// Commit puts a prepared set in force, with nothing lost on the way: where the active key changed, or an alias names
// another key now, the working data key goes on until its successor is there. It cannot fail.
func (k *Keyring) Commit(set *Set) {
	k.mu.Lock()
	for uri, kk := range set.found {
		open := k.keks[uri]
		if open != nil && open.ref == kk.ref {
			continue
		}
		k.keks[uri] = kk
		if open != nil {
			k.former = append(k.former, open) // data keys from it are in use still
		}
	}
	k.mu.Unlock()
	k.set.Store(set)
	unlisted := k.forgetUnlisted(set)
	k.drop(func(dk *dataKey) bool { return set.revoked[dk.id] || unlisted[dk.kek] })
	k.opened.refusals.Purge() // what was refused may be allowed now
	k.unresolved.Purge()
	k.slots.Range(func(key, value any) bool {
		sl := value.(*slot)
		e, named, _, ok := set.find(sl.namespace, sl.key)
		k.mu.Lock()
		defer k.mu.Unlock()
		s := sl.current.Load()
		switch {
		case !ok:
			k.slots.Delete(key)
		case s == nil:
			sl.retryAt, sl.refusal = time.Time{}, nil
		case s.dk.kek != k.keks[fillIn(e.Active, named)]:
			sl.renewAt, sl.retryAt = k.now(), time.Time{}
		}
		return true
	})
}

// forgetUnlisted takes out the key encryption keys that the configuration no longer names, so that they are not asked
// any more: they may be about to be disabled for good. What would be sealed with them could not be opened again.
func (k *Keyring) forgetUnlisted(t *Set) map[*kek]bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	unlisted := make(map[*kek]bool)
	maps.DeleteFunc(k.keks, func(uri string, kk *kek) bool {
		if !t.names(uri) {
			unlisted[kk] = true
		}
		return unlisted[kk]
	})
	surplus := len(k.former) - maxFormer
	k.former = slices.DeleteFunc(k.former, func(kk *kek) bool {
		if !t.names(kk.URI()) || surplus > 0 {
			surplus--
			unlisted[kk] = true
		}
		return unlisted[kk]
	})
	for _, sl := range k.unconfirmed.Values() {
		if s := sl.current.Load(); s != nil {
			sl.current.CompareAndSwap(s, nil) // few and cheap to make anew, by the configuration of then
		}
	}
	return unlisted
}

// openKey asks a provider for a key. That may take several calls, and longer than one does: it may need credentials.
func (k *Keyring) openKey(ctx context.Context, uri string) (*kek, error) {
	var p crypto.Provider
	err := k.limited(ctx, "open key", crypto.KeyContext{}, k.opt.MaxWait, func(ctx context.Context) (err error) {
		p, err = k.opt.Open(ctx, uri)
		if err != nil && crypto.KindOf(err) == crypto.KindUnknown && ctx.Err() == nil {
			err = &crypto.Error{Kind: crypto.KindNotConfigured, Op: "open key", Err: err}
		}
		return err
	})
	if crypto.KindOf(err) == crypto.KindDenied {
		err = &crypto.Error{Kind: crypto.KindRevoked, Op: "open key", Err: err}
	}
	if err != nil {
		return nil, err
	}
	return newKEK(p, k.now()), nil
}

// kekOf gives the key encryption key for a URI, opening it when it is needed first.
func (k *Keyring) kekOf(ctx context.Context, uri string) (*kek, error) {
	k.mu.Lock()
	kk := k.keks[uri]
	k.mu.Unlock()
	if kk != nil {
		return kk, nil
	}
	if r, ok := k.unresolved.Get(uri); ok && k.now().Before(r.until) {
		return nil, r.err
	}
	ctx, cancel := k.within(ctx)
	defer cancel()
	kk, err := k.resolving.do(ctx, uri, func(ctx context.Context) (*kek, error) {
		kk, err := k.openKey(ctx, uri)
		switch {
		case err == nil:
			return k.keep(uri, kk), nil
		case crypto.KindOf(err) != crypto.KindUnavailable:
			k.unresolved.Add(uri, refusal{err: err, until: k.now().Add(refusalLife)})
		}
		return nil, err
	})
	if err != nil {
		return nil, err
	}
	return k.keep(uri, kk), nil // Prepare may have opened it
}

// keep notes an open key, unless another one was noted for its URI meanwhile.
func (k *Keyring) keep(uri string, kk *kek) *kek {
	k.mu.Lock()
	defer k.mu.Unlock()
	if open := k.keks[uri]; open != nil {
		return open
	}
	k.keks[uri] = kk
	return kk
}

// within limits how long a caller without a deadline waits for a key service.
func (k *Keyring) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, k.opt.MaxWait)
}

// Rank is that of the set in force.
func (k *Keyring) Rank(namespace, key string) (int, bool) { return k.Current().Rank(namespace, key) }

// DefaultKey is that of the set in force.
func (k *Keyring) DefaultKey(namespace string) (string, bool) {
	return k.Current().DefaultKey(namespace)
}

// Close stops what runs in the background and forgets all keys. Nothing is sealed or opened after it.
func (k *Keyring) Close() {
	k.stop()
	k.work.Wait()
	k.drop(func(*dataKey) bool { return true })
}

// drop forgets the data keys that match, for sealing and for opening.
func (k *Keyring) drop(match func(*dataKey) bool) {
	empty := func(sl *slot) {
		if s := sl.current.Load(); s != nil && match(s.dk) {
			s.dk.drop()
			sl.current.CompareAndSwap(s, nil)
		}
	}
	k.slots.Range(func(_, sl any) bool { empty(sl.(*slot)); return true })
	k.mu.Lock()
	for _, sl := range k.unconfirmed.Values() {
		empty(sl)
	}
	k.mu.Unlock()
	k.opened.drop(match)
}

// tick does what is due: renewal, probes, and the end of the grace period.
func (k *Keyring) tick() {
	defer k.work.Done()
	t := time.NewTicker(tickInterval)
	defer t.Stop()
	for {
		select {
		case <-k.base.Done():
			return
		case <-t.C:
		}
		now := k.now()
		k.coarse.Store(now.UnixNano())
		k.tend(now)
		k.watch(now)
	}
}

// watch looks after the key encryption keys. One that nobody uses is asked seldom, but often enough that it is not
// mistaken for one that does not answer.
func (k *Keyring) watch(now time.Time) {
	k.mu.Lock()
	keks := slices.AppendSeq(slices.Clone(k.former), maps.Values(k.keks))
	k.mu.Unlock()
	for _, kk := range keks {
		interval := k.opt.ProbeInterval
		if now.Sub(time.Unix(0, kk.used.Load())) > idleAfter {
			interval = max(interval, k.opt.Grace/12)
		}
		kk.mu.Lock()
		stale := now.Sub(kk.lastGood) > k.opt.Grace
		kk.mu.Unlock()
		if stale && kk.state.CompareAndSwap(kekServing, kekStale) {
			k.opt.Log.Error("the key service has not answered for the whole grace period: nothing is sealed or opened until it does", "kek", kk.URI())
		}
		if contexts := kk.due(now, interval); contexts != nil {
			k.work.Add(1)
			go k.probeAll(kk, contexts)
		}
	}
}

// touch notes a use, to the second, without writing to shared memory each time.
func (k *Keyring) touch(used *atomic.Int64) {
	if now := k.coarse.Load(); used.Load() != now {
		used.Store(now)
	}
}
