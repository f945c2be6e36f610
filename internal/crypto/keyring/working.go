package keyring

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// slotKey is a namespace as the upstream knows it, and a key name.
type slotKey struct{ namespace, key string }

// slot is the place of the working data key of one (namespace, key name). The key in it is replaced only by its
// successor, and taken out only when it was revoked or when its time and the grace period are over.
type slot struct {
	slotKey
	current atomic.Pointer[Sealer]
	// Coarse times; zero: never.
	used   atomic.Int64 // a payload was to be sealed
	missed atomic.Int64 // an envelope could not be opened, since the key service did not answer
	asked  atomic.Int64 // somebody made sure of the key

	// The rest is guarded by Keyring.mu.
	made     time.Time // of current
	renewAt  time.Time
	denied   time.Time // when a fresh data key was first refused while good ones still unwrap
	failing  time.Time // since when no data key could be had
	renewing bool
	warned   bool      // that renewal fails
	forsaken bool      // the log told that nobody waits for it any more
	retryAt  time.Time // no attempt before this; until then refusal is the answer
	refusal  error
}

// Sealer gives the working sealer of a namespace and key name, as the configuration allows. hit tells whether it was
// there already; then nothing is allocated. Without one it waits for the key service, as long as ctx and MaxWait allow.
func (k *Keyring) Sealer(ctx context.Context, namespace, key string) (s *Sealer, hit bool, err error) {
	sl := k.slotOf(namespace, key)
	if sl != nil {
		if s := sl.current.Load(); s != nil && s.dk.usable() {
			k.touch(&sl.used)
			k.touch(&s.dk.kek.used)
			return s, true, nil
		}
	}
	if sl == nil {
		if sl, err = k.newSlot(namespace, key); err != nil {
			return nil, false, err
		}
	}
	k.touch(&sl.used)
	s, err = k.await(ctx, sl)
	return s, false, err
}

// await waits for a slot's working key, as long as ctx and MaxWait allow.
func (k *Keyring) await(ctx context.Context, sl *slot) (*Sealer, error) {
	wait := k.opt.MaxWait
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, beforeItEnds(time.Until(deadline)))
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return k.sealing.do(ctx, sl.slotKey, func(ctx context.Context) (*Sealer, error) { return k.fill(ctx, sl) })
}

// slotOf finds a slot: among the confirmed namespaces' first, then in the small cache of the others.
func (k *Keyring) slotOf(namespace, key string) *slot {
	sk := slotKey{namespace, key}
	if v, ok := k.slots.Load(sk); ok {
		return v.(*slot)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	sl, _ := k.unconfirmed.Get(sk)
	return sl
}

// newSlot makes room for a key. Names are copied: they may alias a message.
func (k *Keyring) newSlot(namespace, key string) (*slot, error) {
	table := k.set.Load()
	if _, _, _, ok := table.find(namespace, key); !ok {
		return nil, crypto.Errorf(crypto.KindNotConfigured, "seal", "no entry of `keys` in the configuration has this name and serves this namespace").In(
			strings.Clone(key), strings.Clone(namespace))
	}
	if n := len(table.bound(namespace)); n < 1 || n > envelope.MaxNamespace || len(key) > envelope.MaxKeyName {
		return nil, crypto.Errorf(crypto.KindMalformed, "seal", "a namespace of %d bytes and a key name of %d can't be bound into an envelope", n, len(key))
	}
	sk := slotKey{strings.Clone(namespace), strings.Clone(key)}
	k.mu.Lock()
	defer k.mu.Unlock()
	if v, ok := k.slots.Load(sk); ok {
		return v.(*slot), nil
	}
	if sl, ok := k.unconfirmed.Get(sk); ok {
		return sl, nil
	}
	sl := &slot{slotKey: sk}
	k.touch(&sl.asked)
	if _, ok := k.confirmed.Load(sk.namespace); ok {
		k.slots.Store(sk, sl)
	} else {
		k.unconfirmed.Add(sk, sl)
	}
	return sl, nil
}

// Confirm tells that a namespace exists: the upstream answered successfully for it, or an authenticated caller was
// granted it. Namespaces that are only claimed share a small cache and few calls to the key service, so that a flood
// of made-up names stays without effect on the others.
func (k *Keyring) Confirm(namespace string) {
	if _, ok := k.confirmed.Load(namespace); ok {
		return
	}
	namespace = strings.Clone(namespace)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.confirmed.Store(namespace, struct{}{})
	for _, sk := range k.unconfirmed.Keys() {
		if sk.namespace == namespace {
			sl, _ := k.unconfirmed.Peek(sk)
			k.slots.Store(sk, sl)
			k.unconfirmed.Remove(sk)
		}
	}
}

// Confirmed tells whether a namespace is known to exist; see Confirm.
func (k *Keyring) Confirmed(namespace string) bool {
	_, ok := k.confirmed.Load(namespace)
	return ok
}

// fill makes a data key for a slot that has none to use.
func (k *Keyring) fill(ctx context.Context, sl *slot) (*Sealer, error) {
	if s := sl.current.Load(); s != nil && s.dk.usable() {
		return s, nil
	}
	now := k.now()
	k.mu.Lock()
	refusal := sl.refusal
	wait := now.Before(sl.retryAt)
	k.mu.Unlock()
	if wait && refusal != nil {
		return nil, refusal
	}
	if _, ok := k.confirmed.Load(sl.namespace); !ok && !k.tokens.AllowN(now, 2) {
		return nil, tooManyUnconfirmed("seal", sl.key, sl.namespace)
	}
	s, err := k.renew(ctx, sl)
	if err == nil {
		k.touch(&s.dk.kek.used)
	}
	return s, err
}

func tooManyUnconfirmed(op, key, namespace string) error {
	return crypto.Errorf(crypto.KindUnavailable, op, "too many namespaces at once that the upstream has not confirmed; try again").In(key, namespace).AtOnce()
}

// renew puts a fresh data key into a slot. If it can't be had, what is in the slot stays, unless it was revoked.
func (k *Keyring) renew(ctx context.Context, sl *slot) (*Sealer, error) {
	table := k.set.Load()
	e, value, _, ok := table.find(sl.namespace, sl.key)
	if !ok {
		return nil, crypto.Errorf(crypto.KindNotConfigured, "seal", "the key is no longer in the configuration for this namespace").In(sl.key, sl.namespace)
	}
	kk, err := k.kekOf(ctx, fillIn(e.Active, value))
	if err != nil {
		return nil, k.refuse(sl, err)
	}
	kc := crypto.KeyContext{Namespace: table.bound(sl.namespace), Key: sl.key}
	dk, err := k.generate(ctx, kk, kc)
	if err != nil {
		return nil, k.refuse(sl, k.weigh(ctx, sl, kk, kc, err))
	}
	s := &Sealer{dk: dk, clock: &k.coarse, header: envelope.Header{Key: kc.Key, Namespace: kc.Namespace,
		KEK: kk.ref, DataKeyID: dk.id, Wrapped: dk.wrapped}}
	k.opened.add(dk)
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	sl.made, sl.renewAt = now, now.Add(jitter(k.opt.DataKeyLife*17/20, 0.15))
	if changed := k.set.Load(); changed != table {
		// A reload that was under way has not seen this key.
		e, value, _, ok := changed.find(sl.namespace, sl.key)
		if !ok || !e.names(value, kk.URI()) {
			dk.drop()
			return nil, crypto.Errorf(crypto.KindUnavailable, "seal", "the configuration of keys changed while a data key was made; try again").In(sl.key, sl.namespace)
		}
		sl.renewAt = now
	}
	sl.denied, sl.retryAt, sl.failing, sl.refusal, sl.warned, sl.forsaken = time.Time{}, time.Time{}, time.Time{}, nil, false, false
	sl.current.Store(s)
	return s, nil
}

// weigh finds out what it means that no fresh data key was to be had.
func (k *Keyring) weigh(ctx context.Context, sl *slot, kk *kek, kc crypto.KeyContext, err error) error {
	switch crypto.KindOf(err) {
	case crypto.KindRevoked:
		return k.revoke(kk, kc, err)
	case crypto.KindDenied:
	default:
		return err
	}
	if !kk.knows(kc) {
		return revoked(kk, kc, err)
	}
	// Is it the access as a whole, or only to fresh keys?
	if probed := k.probe(ctx, kk, kc); probed != nil {
		return probed
	}
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if sl.denied.IsZero() {
		sl.denied = now
	}
	if now.Sub(sl.denied) < k.opt.ProbeRetry/2 {
		return unavailable("kms.generate_data_key", kc, err)
	}
	sl.current.Store(nil)
	return revoked(kk, kc, err)
}

// refuse remembers a permanent error for a while, so that each payload does not ask the key service again.
func (k *Keyring) refuse(sl *slot, err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	sl.retryAt = now.Add(jitter(k.opt.ProbeRetry, 0.1))
	if sl.failing.IsZero() {
		sl.failing = now
	}
	sl.refusal = nil
	if crypto.KindOf(err) != crypto.KindUnavailable {
		sl.refusal = err
	}
	return err
}

// tend renews and retires working keys. It runs every second.
func (k *Keyring) tend(now time.Time) {
	k.slots.Range(func(key, value any) bool {
		sl := value.(*slot)
		s := sl.current.Load()
		unused := now.Sub(time.Unix(0, max(sl.used.Load(), sl.missed.Load(), sl.asked.Load())))
		k.mu.Lock()
		defer k.mu.Unlock()
		age := now.Sub(sl.made)
		switch {
		case s == nil:
			if unused > k.opt.DataKeyLife {
				k.slots.Delete(key)
			}
		case age > k.opt.DataKeyLife+k.opt.Grace, age > k.opt.DataKeyLife && unused > k.opt.DataKeyLife:
			sl.current.Store(nil)
			k.slots.Delete(key)
		case unused <= k.opt.DataKeyLife && !now.Before(sl.renewAt) && !now.Before(sl.retryAt) && !sl.renewing && s.dk.usable():
			sl.renewing = true
			k.work.Add(1)
			go k.renewEarly(sl)
		}
		return true
	})
}

// renewEarly renews a key that still works. While its key service does not answer, probes find out when it does again.
func (k *Keyring) renewEarly(sl *slot) {
	defer k.work.Done()
	var err error
	if k.reachable(sl) {
		_, err = k.renew(k.base, sl)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	sl.renewing = false
	if err != nil && !sl.warned {
		sl.warned = true
		k.opt.Log.Warn("a data key is due for renewal; the working one goes on", "key", sl.key, "namespace", sl.namespace, "error", err)
	}
}

// reachable tells whether the latest probe of the key encryption key that a slot is to be renewed with got an answer.
func (k *Keyring) reachable(sl *slot) bool {
	e, value, _, ok := k.set.Load().find(sl.namespace, sl.key)
	if !ok {
		return true
	}
	k.mu.Lock()
	kk := k.keks[fillIn(e.Active, value)]
	k.mu.Unlock()
	return kk == nil || kk.reachable()
}
