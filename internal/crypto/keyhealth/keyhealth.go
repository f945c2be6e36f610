// Package keyhealth keeps whether a key encryption key may be used: whether its service answers, how long it may serve
// while it does not, and in which contexts its use was withdrawn. It holds no data key.
//
// A key is serving; or stale, after a whole grace period without an answer; or revoked, once the service has said that it
// is disabled or deleted. A context (namespace and key name) can be denied by itself, by access rules. Answers end each of
// these states. Timeouts never revoke a key: an outage must not look like a decision.
package keyhealth

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
)

const (
	// Grace is how long a key goes on serving while its service does not answer.
	Grace = 6 * time.Hour
	// ProbeRetry is the pause between probes of a key after an error.
	ProbeRetry = 10 * time.Second

	probeInterval = time.Minute // between probes of a key in use
	idleInterval  = Grace / 12  // and of one that was not used for the time of idleAfter
	idleAfter     = time.Hour

	failureLife = 2 * time.Minute // how long Health shows the failure of a call, if no later one succeeds

	maxContexts = 4096
	verifyTrust = time.Second // how long Verify trusts an answer
)

// Options are what the keys of one keyring share. All fields are required.
type Options struct {
	Log *slog.Logger
	// Unwrap has a key's service unwrap a data key, and returns the id of the data key.
	Unwrap func(ctx context.Context, k *Key, kc crypto.KeyContext, wrapped []byte) (id crypto.KeyID, err error)
	// Withdrawn is called when nothing may be sealed or opened any more with a key: in one context, or in all (nil).
	Withdrawn func(k *Key, kc *crypto.KeyContext)
}

// Key is a key encryption key with what is known about its health. Only wrapped keys that are known to be good count: one
// that came in an envelope may have been planted, so what the service answers to it never counts against the key.
type Key struct {
	provider crypto.Provider
	ref      crypto.KEKRef
	opt      *Options
	state    atomic.Uint32 // serving, stale, revoked: read for every payload
	used     atomic.Int64  // coarse time of the last use

	mu        sync.Mutex
	lastGood  time.Time
	failing   bool // the latest probe got no answer
	nextProbe time.Time
	probing   bool
	sweep     bool // the next probe tries every context
	contexts  map[crypto.KeyContext]*access
	order     []crypto.KeyContext // of contexts, which take turns at being probed
	turn      int
	refusal   error // why it is revoked
	failure   crypto.Kind
	failed    time.Time // when a call failed, in the way of failure
}

const (
	serving = iota
	stale   // no answer for the whole grace period
	revoked
)

// access is what is known about one encryption context of a key: IAM conditions may withdraw one and leave the others.
type access struct {
	wrapped []byte // known to be good; nil until there is one
	id      crypto.KeyID
	checked time.Time // when it last proved to be good
	denied  time.Time // when the service first refused the good blob; zero: it did not
	tried   time.Time // when it was last refused
	refusal error     // once it counts as withdrawn
}

// New returns the key of a provider that has just answered.
func New(p crypto.Provider, opt *Options) *Key {
	now := time.Now()
	k := &Key{provider: p, ref: p.Ref(), opt: opt, lastGood: now, contexts: make(map[crypto.KeyContext]*access)}
	k.used.Store(now.UnixNano())
	return k
}

// Provider returns the key in its key service.
func (k *Key) Provider() crypto.Provider { return k.provider }

// Ref returns the reference by which envelopes name the key.
func (k *Key) Ref() crypto.KEKRef { return k.ref }

// URI names the key in logs and errors.
func (k *Key) URI() string { return k.provider.URI() }

// ARN is that of the key: see crypto.ARNOf.
func (k *Key) ARN() string { return crypto.ARNOf(k.provider) }

// Usable reports whether the key may serve now.
func (k *Key) Usable() bool { return k.state.Load() == serving }

// Use notes a use at a coarse time, without writing to shared memory each time.
func (k *Key) Use(now int64) {
	if k.used.Load() != now {
		k.used.Store(now)
	}
}

// Answered notes that the service did its work, and a wrapped key that is good beyond doubt, and does not
// change afterwards.
func (k *Key) Answered(kc crypto.KeyContext, wrapped []byte, id crypto.KeyID) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lastGood, k.failing, k.refusal, k.failure = now, false, nil, crypto.KindUnknown
	k.state.Store(serving)
	a := k.contexts[kc]
	if a == nil {
		if len(k.order) >= maxContexts {
			k.turn %= len(k.order)
			delete(k.contexts, k.order[k.turn])
			k.order[k.turn] = kc
		} else {
			k.order = append(k.order, kc)
		}
		a = &access{}
		k.contexts[kc] = a
	}
	a.wrapped, a.id, a.checked = wrapped, id, now
	a.denied, a.refusal = time.Time{}, nil
}

// Failed notes that a call to the service failed. It draws no consequences, since probes do: Health shows it, also of a key
// that was never used and so has nothing to be probed with.
func (k *Key) Failed(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failure, k.failed = crypto.KindOf(err), time.Now()
}

// Health is what operators see of a key.
type Health struct {
	Revoked     bool // the service refuses it: in all contexts, or in one
	Unavailable bool // the service does not answer
}

// Health returns what is known of the key now.
func (k *Key) Health() Health {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := Health{Revoked: k.refusal != nil, Unavailable: k.failing || k.state.Load() == stale}
	for _, a := range k.contexts {
		h.Revoked = h.Revoked || a.refusal != nil
	}
	if time.Since(k.failed) < failureLife {
		switch k.failure {
		case crypto.KindUnavailable:
			h.Unavailable = true
		case crypto.KindRevoked, crypto.KindDenied:
			h.Revoked = true
		}
	}
	return h
}

// Known reports whether there is a good blob for the context to ask the service with.
func (k *Key) Known(kc crypto.KeyContext) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.contexts[kc] != nil
}

// Suspect reports whether the service refused a good blob of the context once, which does not count as an answer yet.
func (k *Key) Suspect(kc crypto.KeyContext) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	a := k.contexts[kc]
	return a != nil && !a.denied.IsZero()
}

// Reachable reports whether the latest probe got an answer.
func (k *Key) Reachable() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.failing
}

// Probe tries whether the key still unwraps a blob that it is known to have wrapped, and draws the consequences. Disabled
// or deleted counts at once. A refusal by access rules counts when it is repeated: a single one may pass, and a result
// that a worker is about to send must not be lost to it.
func (k *Key) Probe(ctx context.Context, kc crypto.KeyContext) error {
	k.mu.Lock()
	a := k.contexts[kc]
	if a == nil {
		k.mu.Unlock()
		return nil
	}
	wrapped, id := a.wrapped, a.id
	k.mu.Unlock()
	got, err := k.opt.Unwrap(ctx, k, kc, wrapped)
	if err == nil && got == id {
		k.Answered(kc, wrapped, id)
		return nil
	}
	switch crypto.KindOf(err) {
	case crypto.KindRevoked:
		return k.Revoke(kc, err)
	case crypto.KindDenied:
		return k.deny(kc, err)
	case crypto.KindUnavailable:
	default:
		// A service that calls its own good blob invalid is broken, or not the one that made it. That drops no key.
		err = kc.Internalf(crypto.KindUnavailable, "probe", "%s does not unwrap what it wrapped: %v", k.URI(), err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failing = true
	return err
}

// Verify asks about the key by a good blob, of the same context if there is one. It trusts an answer for a while.
func (k *Key) Verify(ctx context.Context, kc crypto.KeyContext) error {
	k.mu.Lock()
	a := k.contexts[kc]
	if a == nil && len(k.order) > 0 {
		kc = k.order[k.turn%len(k.order)]
		a = k.contexts[kc]
	}
	if a == nil || a.denied.IsZero() && k.refusal == nil && time.Since(a.checked) < verifyTrust {
		k.mu.Unlock()
		return nil
	}
	refusal := cmp.Or(k.refusal, a.refusal)
	k.mu.Unlock()
	if refusal != nil {
		return refusal
	}
	return k.Probe(ctx, kc)
}

// Watch ends the use of a key whose service has not answered for the whole grace period, and returns the contexts to
// probe now. A key that is not used is asked seldom, but often enough that it is not mistaken for one that does not answer.
func (k *Key) Watch(now time.Time) []crypto.KeyContext {
	interval := probeInterval
	if now.Sub(time.Unix(0, k.used.Load())) > idleAfter {
		interval = idleInterval
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if now.Sub(k.lastGood) > Grace && k.state.CompareAndSwap(serving, stale) {
		k.opt.Log.Error("the key service has not answered for the whole grace period: nothing is sealed or opened until it does", "kek", k.URI())
	}
	return k.due(now, interval)
}

// due returns the contexts to probe now, and marks the key as being probed if there are any. One that proved to be good
// within the interval is left out, one that was refused once is always in.
func (k *Key) due(now time.Time, interval time.Duration) (contexts []crypto.KeyContext) {
	if k.probing || now.Before(k.nextProbe) || len(k.order) == 0 {
		return nil
	}
	for kc, a := range k.contexts {
		if k.sweep || !a.denied.IsZero() && (a.refusal == nil || now.Sub(a.tried) >= interval) {
			contexts = append(contexts, kc)
		}
	}
	for range k.order {
		k.turn = (k.turn + 1) % len(k.order)
		kc := k.order[k.turn]
		a := k.contexts[kc]
		if a.denied.IsZero() && !k.sweep && (k.refusal != nil || now.Sub(a.checked) >= interval) {
			contexts = append(contexts, kc)
			break
		}
	}
	k.sweep = false
	k.probing = len(contexts) > 0
	if !k.probing {
		k.nextProbe = now.Add(interval / 4)
	}
	return contexts
}

// ProbeAll probes what Watch returned, one after the other.
func (k *Key) ProbeAll(ctx context.Context, contexts []crypto.KeyContext) {
	next := backoff.Jitter(probeInterval, 0.05)
	for _, kc := range contexts {
		if k.Probe(ctx, kc) != nil {
			next = retry()
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.probing = false
	k.nextProbe = time.Now().Add(next)
}

func retry() time.Duration { return backoff.Jitter(ProbeRetry, 0.1) }

// Revoke stops the use of a key that was disabled or deleted.
func (k *Key) Revoke(kc crypto.KeyContext, err error) error {
	refusal := k.Revoked(kc, err)
	k.mu.Lock()
	first := k.refusal == nil
	k.refusal, k.nextProbe = refusal, time.Now().Add(retry())
	k.state.Store(revoked)
	k.mu.Unlock()
	k.opt.Withdrawn(k, nil)
	if first {
		k.opt.Log.Error("a key encryption key is revoked: nothing is sealed or opened with it", "kek", k.URI(), "error", err)
	}
	return refusal
}

// deny stops the use of a key in one context once the service has refused it twice.
func (k *Key) deny(kc crypto.KeyContext, err error) error {
	refusal := k.Revoked(kc, err)
	now := time.Now()
	k.mu.Lock()
	k.nextProbe = now.Add(retry())
	a := k.contexts[kc]
	if a == nil {
		k.mu.Unlock()
		return refusal
	}
	if a.denied.IsZero() {
		a.denied = now
	}
	wait := Passing(a.denied)
	first := !wait && a.refusal == nil
	a.tried = now
	if !wait {
		a.refusal = refusal
		k.sweep = k.sweep || first // others may have been withdrawn with it
	}
	k.mu.Unlock()
	log := k.opt.Log.With("kek", k.URI(), "key", kc.Key, "namespace", kc.Namespace, "error", err)
	if wait {
		log.Warn("the key service refuses a wrapped key that is known to be good; it is tried again")
		return crypto.Unavailable("kms.decrypt", kc, err)
	}
	k.opt.Withdrawn(k, &kc)
	if first {
		log.Error("access to a key encryption key was withdrawn: nothing is sealed or opened with it")
	}
	return refusal
}

// Passing reports whether a refusal that was first seen at a time may still be one that passes.
func Passing(first time.Time) bool { return time.Since(first) < ProbeRetry/2 }

// Revoked makes the error of a key that its service refuses to use.
func (k *Key) Revoked(kc crypto.KeyContext, err error) error {
	return kc.Internalf(crypto.KindRevoked, "use key",
		"%s is disabled, deleted or no longer allowed; restore it, or name another key in the configuration: %w",
		k.URI(), err)
}
