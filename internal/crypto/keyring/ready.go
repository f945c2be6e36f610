package keyring

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// namedPatience is how long polls wait for a key that the policy names and nothing has used so far. Longer would let a
// key that is not needed stop a namespace.
const namedPatience = time.Minute

// ready is Keyring.Ready.
func (p *sealing) ready(ctx context.Context, namespace string, named []string) error {
	set := p.core.set.Load()
	byDefault, ok := set.DefaultKey(namespace)
	if !ok {
		return crypto.Errorf(crypto.KindNotConfigured, "seal",
			"no entry of `keys` in the configuration serves this namespace").In("", strings.Clone(namespace))
	}
	if err := p.atHand(ctx, namespace, byDefault); err != nil {
		return err
	}
	if !p.core.slots.exists(namespace) {
		return nil // what is only claimed has used nothing, and gets few calls to the key service
	}
	for i := range set.entries {
		e := &set.entries[i]
		if e.wildcard || e.Name == byDefault {
			continue
		}
		if _, ok := e.serves(namespace, e.Name); !ok {
			continue
		}
		if err := p.furtherKey(ctx, namespace, e.Name, slices.Contains(named, e.Name)); err != nil {
			return err
		}
	}
	return nil
}

// furtherKey is the part of ready for a key that is not the default one. It returns the errors for which polls should
// wait.
func (p *sealing) furtherKey(ctx context.Context, namespace, key string, named bool) error {
	sl := p.core.slots.find(namespace, key)
	sealed := sl != nil && p.lately(sl.used.Load())
	opened := sl != nil && p.lately(sl.missed.Load())
	if !sealed && !opened && !(named && p.patient(sl)) {
		return nil
	}
	err := p.atHand(ctx, namespace, key)
	switch crypto.KindOf(err) {
	case crypto.KindUnavailable:
		return err
	case crypto.KindRevoked:
		if sealed { // otherwise the proxy may have the permission to open with it, and not to seal
			return err
		}
	}
	return nil
}

// lately reports whether a use is so recent that it may happen again.
func (p *sealing) lately(used int64) bool {
	return used != 0 && p.core.coarse.Load()-used <= int64(p.core.opt.DataKeyLife)
}

// patient reports whether polls wait for a key that nothing has used yet. After that it is asked for now and then, so that
// it is there once it is needed.
func (p *sealing) patient(sl *slot) bool {
	if sl == nil || sl.usable() != nil {
		return true
	}
	now := p.core.opt.Now()
	sl.mu.Lock()
	defer sl.mu.Unlock()
	switch {
	case sl.failing.IsZero() || now.Sub(sl.failing) < namedPatience:
		return true
	case now.Before(sl.retryAt):
		return false
	}
	if !sl.optional {
		sl.optional = true
		p.core.opt.Log.Warn("a key that the policy names can't be had; tasks of its namespace are handed out without it, since nothing has used it so far",
			"key", sl.key, "namespace", sl.namespace)
	}
	p.renewEarly(sl)
	return false
}

// atHand makes sure of a key that seals, and unwraps what it sealed. It counts as an interest in the key, not as a use.
func (p *sealing) atHand(ctx context.Context, namespace, key string) (err error) {
	sl := p.core.slots.find(namespace, key)
	if sl == nil {
		if sl, err = p.newSlot(namespace, key); err != nil {
			return err
		}
	}
	p.core.touch(&sl.asked)
	s := sl.usable()
	if s == nil {
		if s, err = p.await(ctx, sl); err != nil {
			return err
		}
	}
	p.core.use(s.dk)
	if kc := s.dk.context; s.dk.kek.Suspect(kc) {
		return kc.Errorf(crypto.KindUnavailable, "seal", "%s refused a wrapped key that is known to be good; it is being asked again",
			s.dk.kek.URI()).Internal()
	}
	return nil
}

// missed notes that an envelope could not be opened since the key service did not answer: others under the same key
// will follow.
func (p *sealing) missed(namespace, key string) {
	if !p.core.slots.exists(namespace) {
		return
	}
	sl := p.core.slots.find(namespace, key)
	if sl == nil {
		var err error
		if sl, err = p.newSlot(namespace, key); err != nil {
			return
		}
	}
	p.core.touch(&sl.missed)
}
