package keyring

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// namedPatience is how long polls wait for a key that the policy names and nothing has used so far. Longer would let a
// key that nobody needs stop a namespace.
const namedPatience = time.Minute

// Ready makes sure, before a task is asked for, that the keys are at hand that its answer may need: the result of a task
// that nobody can seal would be lost. These are the namespace's default key, and those that it has used lately. Keys in
// named, which the namespace's policy can ask for, are fetched ahead, and waited for a little.
//
// Keys whose names have a wildcard are left out: mostly each belongs to one tenant, and what happens to it must not stop
// the others.
func (k *Keyring) Ready(ctx context.Context, namespace string, named []string) error {
	byDefault, ok := k.DefaultKey(namespace)
	if !ok {
		return crypto.Errorf(crypto.KindNotConfigured, "seal", "no entry of `keys` in the configuration serves this namespace").In("", strings.Clone(namespace))
	}
	if err := k.atHand(ctx, namespace, byDefault); err != nil {
		return err
	}
	if _, ok := k.confirmed.Load(namespace); !ok {
		return nil // what is only claimed has used nothing, and gets few calls to the key service
	}
	entries := k.set.Load().entries
	for i := range entries {
		e := &entries[i]
		if e.wildcard || e.Name == byDefault {
			continue
		}
		if _, ok := e.serves(namespace, e.Name); !ok {
			continue
		}
		if err := k.furtherKey(ctx, namespace, e.Name, slices.Contains(named, e.Name)); err != nil {
			return err
		}
	}
	return nil
}

// furtherKey is the part of Ready for a key that is not the default one. It gives the errors for which tasks should
// wait.
func (k *Keyring) furtherKey(ctx context.Context, namespace, key string, named bool) error {
	sl := k.slotOf(namespace, key)
	sealed, opened := sl != nil && k.lately(sl.used.Load()), sl != nil && k.lately(sl.missed.Load())
	switch {
	case sealed:
		if err := k.atHand(ctx, namespace, key); crypto.KindOf(err) == crypto.KindUnavailable || crypto.KindOf(err) == crypto.KindRevoked {
			return err
		}
	case opened:
		// The proxy may have the permission to open with it, and not to seal.
		if err := k.atHand(ctx, namespace, key); crypto.KindOf(err) == crypto.KindUnavailable {
			return err
		}
	case named:
		if k.patient(sl) {
			if err := k.atHand(ctx, namespace, key); crypto.KindOf(err) == crypto.KindUnavailable {
				return err
			}
		}
	}
	return nil
}

// lately tells if a use is so recent that it may happen again.
func (k *Keyring) lately(used int64) bool {
	return used != 0 && k.coarse.Load()-used <= int64(k.opt.DataKeyLife)
}

// patient tells if a key that nothing has used yet is to be waited for. After that it is asked for now and then, so that
// it is there once it is needed.
func (k *Keyring) patient(sl *slot) bool {
	if sl == nil {
		return true
	}
	if s := sl.current.Load(); s != nil && s.dk.usable() {
		return true // it is at hand
	}
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case sl.failing.IsZero() || now.Sub(sl.failing) < namedPatience:
		return true
	case now.Before(sl.retryAt):
		return false
	}
	if !sl.forsaken {
		sl.forsaken = true
		k.opt.Log.Warn("a key that the policy names can't be had; tasks of its namespace are handed out without it, since nothing has used it so far",
			"key", sl.key, "namespace", sl.namespace)
	}
	if !sl.renewing {
		sl.renewing = true
		k.work.Add(1)
		go k.renewEarly(sl)
	}
	return false
}

// atHand makes sure of a key that seals, and unwraps what it sealed. It counts as an interest in the key, not as a use.
func (k *Keyring) atHand(ctx context.Context, namespace, key string) (err error) {
	sl := k.slotOf(namespace, key)
	if sl == nil {
		if sl, err = k.newSlot(namespace, key); err != nil {
			return err
		}
	}
	k.touch(&sl.asked)
	s := sl.current.Load()
	if s == nil || !s.dk.usable() {
		if s, err = k.await(ctx, sl); err != nil {
			return err
		}
	}
	k.touch(&s.dk.kek.used)
	if kc := s.dk.context; s.dk.kek.suspect(kc) {
		return crypto.Errorf(crypto.KindUnavailable, "seal", "%s refused a wrapped key that is known to be good; it is being asked again", s.dk.kek.URI()).In(kc.Key, kc.Namespace).Internal()
	}
	return nil
}

// missed notes that an envelope could not be opened since the key service did not answer: others under the same key
// will follow.
func (k *Keyring) missed(namespace, key string) {
	if _, ok := k.confirmed.Load(namespace); !ok {
		return
	}
	sl := k.slotOf(namespace, key)
	if sl == nil {
		var err error
		if sl, err = k.newSlot(namespace, key); err != nil {
			return
		}
	}
	k.touch(&sl.missed)
}
