package keyring

import (
	"bytes"
	"cmp"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// kek is one key encryption key with what is known about its health. Its state is a matter of blobs that are known to
// be good: a wrapped key that came in an envelope may have been planted, so what the service says to that never counts
// against the key.
type kek struct {
	crypto.Provider
	ref   crypto.KEKRef
	state atomic.Uint32 // kekServing, kekStale, kekRevoked: read for every payload
	used  atomic.Int64  // coarse time of the last use

	mu        sync.Mutex
	lastGood  time.Time
	failing   bool // the latest probe got no answer
	nextProbe time.Time
	probing   bool
	sweep     bool // the next probe asks for every context
	contexts  map[crypto.KeyContext]*access
	order     []crypto.KeyContext // of contexts, which take turns at being probed
	turn      int
	refusal   error // why it is revoked
}

const (
	kekServing = iota
	kekStale   // no answer for the whole grace period
	kekRevoked
)

// access is what is known about one encryption context of a key: IAM conditions may withdraw one and leave the others.
type access struct {
	wrapped []byte // known to be good; nil until there is one
	id      [envelope.IDSize]byte
	checked time.Time // when it last proved to be good
	denied  time.Time // when the service first refused the good blob; zero: it did not
	tried   time.Time // when it was last refused
	refusal error     // once it counts as withdrawn
}

const (
	maxContexts = 4096
	verifyTrust = time.Second
)

func newKEK(p crypto.Provider, now time.Time) *kek {
	kk := &kek{Provider: p, ref: p.Ref(), lastGood: now, contexts: make(map[crypto.KeyContext]*access)}
	kk.used.Store(now.UnixNano())
	return kk
}

// answered notes that the service did its work, and a wrapped key that is good beyond doubt.
func (kk *kek) answered(now time.Time, kc crypto.KeyContext, wrapped []byte, id [envelope.IDSize]byte) {
	kk.mu.Lock()
	defer kk.mu.Unlock()
	kk.lastGood = now
	kk.failing = false
	kk.refusal = nil
	kk.state.Store(kekServing)
	a := kk.contexts[kc]
	if a == nil {
		if len(kk.order) >= maxContexts {
			kk.turn %= len(kk.order)
			delete(kk.contexts, kk.order[kk.turn])
			kk.order[kk.turn] = kc
		} else {
			kk.order = append(kk.order, kc)
		}
		a = &access{}
		kk.contexts[kc] = a
	}
	a.wrapped, a.id, a.checked = bytes.Clone(wrapped), id, now
	a.denied, a.refusal = time.Time{}, nil
}

// knows tells whether there is a good blob for the context to ask the service with.
func (kk *kek) knows(kc crypto.KeyContext) bool {
	kk.mu.Lock()
	defer kk.mu.Unlock()
	return kk.contexts[kc] != nil
}

// suspect tells whether the service refused a good blob of the context once, which is not yet taken for an answer.
func (kk *kek) suspect(kc crypto.KeyContext) bool {
	kk.mu.Lock()
	defer kk.mu.Unlock()
	a := kk.contexts[kc]
	return a != nil && !a.denied.IsZero()
}

// probe asks whether the key still unwraps a blob that it is known to have wrapped, and draws the consequences.
// Disabled or deleted counts at once. A refusal by access rules counts when it is repeated: a single one may pass, and
// a result that a worker is about to send must not be lost to it.
func (k *Keyring) probe(ctx context.Context, kk *kek, kc crypto.KeyContext) error {
	kk.mu.Lock()
	a := kk.contexts[kc]
	if a == nil {
		kk.mu.Unlock()
		return nil
	}
	wrapped, id := a.wrapped, a.id
	kk.mu.Unlock()
	dk, err := k.unwrap(ctx, kk, kc, wrapped)
	if err == nil && dk.id == id {
		kk.answered(k.now(), kc, wrapped, id)
		return nil
	}
	return k.judge(kk, kc, err)
}

// verify asks about the key by a good blob, of the same context if there is one. It trusts an answer for a while.
func (k *Keyring) verify(ctx context.Context, kk *kek, kc crypto.KeyContext) error {
	kk.mu.Lock()
	a := kk.contexts[kc]
	if a == nil && len(kk.order) > 0 {
		kc = kk.order[kk.turn%len(kk.order)]
		a = kk.contexts[kc]
	}
	if a == nil || a.denied.IsZero() && kk.refusal == nil && k.now().Sub(a.checked) < verifyTrust {
		kk.mu.Unlock()
		return nil
	}
	refusal := cmp.Or(kk.refusal, a.refusal)
	kk.mu.Unlock()
	if refusal != nil {
		return refusal
	}
	return k.probe(ctx, kk, kc)
}

// judge takes the error that the service gave for a good blob.
func (k *Keyring) judge(kk *kek, kc crypto.KeyContext, err error) error {
	switch crypto.KindOf(err) {
	case crypto.KindRevoked:
		return k.revoke(kk, kc, err)
	case crypto.KindDenied:
		return k.deny(kk, kc, err)
	case crypto.KindUnavailable:
	default:
		// A service that calls its own good blob invalid is broken, or not the one that made it. That drops no key.
		err = crypto.Errorf(crypto.KindUnavailable, "probe", "%s does not unwrap what it wrapped: %v", kk.URI(), err).In(kc.Key, kc.Namespace).Internal()
	}
	kk.mu.Lock()
	defer kk.mu.Unlock()
	kk.failing = true
	return err
}

// reachable tells whether it makes sense to ask for something that is not urgent.
func (kk *kek) reachable() bool {
	kk.mu.Lock()
	defer kk.mu.Unlock()
	return !kk.failing
}

// due gives the contexts to probe now, and marks the key as being probed if there are any. One that proved to be good
// within the interval is left out, one that was refused once is always in.
func (kk *kek) due(now time.Time, interval time.Duration) (contexts []crypto.KeyContext) {
	kk.mu.Lock()
	defer kk.mu.Unlock()
	if kk.probing || now.Before(kk.nextProbe) || len(kk.order) == 0 {
		return nil
	}
	for kc, a := range kk.contexts {
		if kk.sweep || !a.denied.IsZero() && (a.refusal == nil || now.Sub(a.tried) >= interval) {
			contexts = append(contexts, kc)
		}
	}
	for range kk.order {
		kk.turn = (kk.turn + 1) % len(kk.order)
		kc := kk.order[kk.turn]
		a := kk.contexts[kc]
		if a.denied.IsZero() && !kk.sweep && (kk.refusal != nil || now.Sub(a.checked) >= interval) {
			contexts = append(contexts, kc)
			break
		}
	}
	kk.sweep = false
	kk.probing = len(contexts) > 0
	if !kk.probing {
		kk.nextProbe = now.Add(interval / 4)
	}
	return contexts
}

// probeAll probes contexts one after the other.
func (k *Keyring) probeAll(kk *kek, contexts []crypto.KeyContext) {
	defer k.work.Done()
	next := jitter(k.opt.ProbeInterval, 0.05)
	for _, kc := range contexts {
		if k.probe(k.base, kk, kc) != nil {
			next = jitter(k.opt.ProbeRetry, 0.1)
		}
	}
	kk.mu.Lock()
	defer kk.mu.Unlock()
	kk.probing = false
	kk.nextProbe = k.now().Add(next)
}

// revoke stops the use of a key that was disabled or deleted.
func (k *Keyring) revoke(kk *kek, kc crypto.KeyContext, err error) error {
	refusal := revoked(kk, kc, err)
	kk.mu.Lock()
	first := kk.refusal == nil
	kk.refusal, kk.nextProbe = refusal, k.now().Add(jitter(k.opt.ProbeRetry, 0.1))
	kk.state.Store(kekRevoked)
	kk.mu.Unlock()
	k.drop(func(dk *dataKey) bool { return dk.kek == kk })
	if first {
		k.opt.Log.Error("a key encryption key is revoked: nothing is sealed or opened with it", "kek", kk.URI(), "error", err)
	}
	return refusal
}

// deny stops the use of a key in one context once the service has refused it twice.
func (k *Keyring) deny(kk *kek, kc crypto.KeyContext, err error) error {
	refusal := revoked(kk, kc, err)
	now := k.now()
	kk.mu.Lock()
	kk.nextProbe = now.Add(jitter(k.opt.ProbeRetry, 0.1))
	a := kk.contexts[kc]
	if a == nil {
		kk.mu.Unlock()
		return refusal
	}
	if a.denied.IsZero() {
		a.denied = now
	}
	wait := now.Sub(a.denied) < k.opt.ProbeRetry/2
	first := !wait && a.refusal == nil
	a.tried = now
	if !wait {
		a.refusal = refusal
		kk.sweep = kk.sweep || first // whoever lost one context may have lost others
	}
	kk.mu.Unlock()
	log := k.opt.Log.With("kek", kk.URI(), "key", kc.Key, "namespace", kc.Namespace, "error", err)
	if wait {
		log.Warn("the key service refuses a wrapped key that is known to be good; it is asked again")
		return unavailable("kms.decrypt", kc, err)
	}
	k.drop(func(dk *dataKey) bool { return dk.kek == kk && dk.context == kc })
	if first {
		log.Error("access to a key encryption key was withdrawn: nothing is sealed or opened with it")
	}
	return refusal
}

func revoked(kk *kek, kc crypto.KeyContext, err error) error {
	return crypto.Errorf(crypto.KindRevoked, "use key", "%s is disabled, deleted or no longer allowed; restore it, or name another key in the configuration: %w",
		kk.URI(), err).In(kc.Key, kc.Namespace).Internal()
}
