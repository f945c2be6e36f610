package keyring

import (
	"context"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// agrees returns an error unless data keys of an entry may be made by what the key store has of the name: keys that expire and others are
// not made under one name. known is false if the store could not be asked, and err says why; that keeps no key from being made that does
// not expire.
func (p *sealing) agrees(ctx context.Context, e *keyEntry, sl *slot, kc crypto.KeyContext) (known bool, err error) {
	if e.Life > 0 {
		known, err = true, p.mayExpire(ctx, sl.namespace, kc)
	} else {
		known, err = p.mayStay(ctx, e, kc)
	}
	if known && crypto.KindOf(err) != crypto.KindUnavailable {
		p.core.slots.conflict(sl, err != nil)
	}
	return known, err
}

// mayExpire returns an error unless data keys with a life may be made: in the key store, for a namespace that exists, where none was made
// that does not expire. The envelopes of such a key would stay, and some of them carry it.
func (p *sealing) mayExpire(ctx context.Context, namespace string, kc crypto.KeyContext) error {
	store := crypto.ExpiryOf(p.core.opt.Store)
	if store == nil {
		return kc.Errorf(crypto.KindNotConfigured, "seal", "keys that expire are in a key store: configure key_store")
	}
	if !p.core.slots.exists(namespace) {
		return kc.Errorf(crypto.KindUnavailable, "seal", "the upstream has not confirmed the namespace, so no key that expires is made there; try again").AtOnce()
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	endless, _, err := store.Has(ctx, kc)
	if err != nil {
		return classified("keystore.lives", kc, err)
	}
	if endless {
		return kc.Errorf(crypto.KindNotConfigured, "seal", "the config has a life for the key, and the key store has data keys of this name that do not "+
			"expire: what they sealed would stay; give the life to a key of a new name")
	}
	return nil
}

// mayStay returns an error if a data key without a life would be the first one of its name: replicas that have the life in their config
// would seal nothing more under it. A key store that does not answer decides nothing.
func (p *sealing) mayStay(ctx context.Context, e *keyEntry, kc crypto.KeyContext) (known bool, err error) {
	store := crypto.ExpiryOf(p.core.opt.Store)
	if store == nil || e.Endless {
		return true, nil
	}
	if err := p.core.store.failing(); err != nil { // it would take its time
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	endless, expiring, err := store.Has(ctx, kc)
	switch {
	case err != nil:
		return false, classified("keystore.lives", kc, err)
	case expiring && !endless:
		return true, kc.Errorf(crypto.KindNotConfigured, "seal", "data keys of this name in the key store expire, and this proxy's config has no life for it, "+
			"so it makes none that would stay; add the `life` that other replicas have, or `endless: true` to give the life up")
	}
	return true, nil
}

// agreesLater asks the key store about a data key without a life that was made while it could not be asked, and returns an error unless the
// key may get a row. One that must not stay is dropped: its envelopes carry it, and open all the same.
func (p *sealing) agreesLater(ctx context.Context, e *keyEntry, sl *slot, dk *dataKey) error {
	if dk.life.Load() != nil || dk.agreed.Load() {
		return nil
	}
	known, err := p.agrees(ctx, e, sl, dk.context)
	switch {
	case known && err != nil:
		sl.drop(func(of *dataKey) bool { return of == dk })
	case known:
		dk.agreed.Store(true)
	}
	return err
}
