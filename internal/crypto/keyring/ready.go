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

// Ready makes sure, before a task is asked for, that the keys are at hand that its answer may need: the result of a task
// that cannot be sealed would be lost. These are the namespace's default key, and those that it has used lately. Keys in
// named, which the namespace's policy can ask for, are fetched ahead, and waited for a little; one that has not answered
// since it was configured is waited for until it does, since it is unknown whether the namespace can do without it.
//
// Keys whose names have a wildcard are left out: mostly each belongs to one tenant, and what happens to it must not stop
// the others.
func (k *Keyring) Ready(ctx context.Context, namespace string, named []string) error {
	set, p := k.Current(), &k.sealing
	byDefault, ok := set.DefaultKey(namespace)
	if !ok {
		return crypto.Errorf(crypto.KindNotConfigured, "seal",
			"no entry of `keys` in the configuration serves this namespace").In("", strings.Clone(namespace))
	}
	if err := p.atHand(ctx, namespace, byDefault); err != nil {
		return err
	}
	if !k.Confirmed(namespace) {
		return nil // what is only claimed has used nothing, and gets few calls to the key service
	}
	for key := range set.plainKeys(namespace) {
		if key == byDefault {
			continue
		}
		if err := p.furtherKey(ctx, namespace, key, slices.Contains(named, key)); err != nil {
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
	unknown := named && !p.everAnswered(namespace, key)
	if !sealed && !opened && !unknown && !(named && p.patient(sl)) {
		return nil
	}
	err := p.atHand(ctx, namespace, key)
	switch crypto.KindOf(err) {
	case crypto.KindUnavailable:
		return err
	case crypto.KindRevoked:
		if sealed || unknown { // otherwise the proxy may have the permission to open with it, and not to seal
			return err
		}
	}
	return nil
}

// everAnswered reports whether the key service has answered for an entry's active key since it was configured.
func (p *sealing) everAnswered(namespace, key string) bool {
	m, ok := p.core.set.Load().find(namespace, key)
	return !ok || p.core.keys.get(m.active()) != nil
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
	now := time.Now()
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
		p.core.opt.Log.Warn("a key that the policy names does not answer; tasks of its namespace are handed out, since nothing has used the key so far",
			"key", sl.key, "namespace", sl.namespace)
	}
	p.renewEarly(sl)
	return false
}

// atHand makes sure of a key that seals, and unwraps what it sealed. It counts as an interest in the key, not as a use.
func (p *sealing) atHand(ctx context.Context, namespace, key string) error {
	sl, err := p.slot(namespace, key)
	if err != nil {
		return err
	}
	p.core.touch(&sl.asked)
	s, _, err := p.sealer(ctx, sl)
	if err != nil {
		return err
	}
	if kc := s.dk.context; s.dk.kek.Suspect(kc) {
		return kc.Internalf(crypto.KindUnavailable, "seal",
			"%s refused a wrapped key that is known to be good; it is being tried again", s.dk.kek.URI())
	}
	return nil
}

// missed notes that an envelope could not be opened since the key service did not answer: others under the same key
// will follow.
func (p *sealing) missed(namespace, key string) {
	if !p.core.slots.exists(namespace) {
		return
	}
	if sl, err := p.slot(namespace, key); err == nil {
		p.core.touch(&sl.missed)
	}
}
