package check

import (
	"context"
	"fmt"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
)

// checkStore opens the key store, and requires that it is the one with the id of the config.
func (r *run) checkStore(ctx context.Context) (string, bool) {
	if !r.review.Decoded || len(r.review.Errors) > 0 {
		return "the config has errors", false
	}
	c := r.config.KeyStore
	kind, _, _ := strings.Cut(c.URL, ":")
	file := kind == keystore.SchemeSQLite
	if r.options.Offline && file {
		return "not opened", false
	}
	store, err := keystore.New(c.URL, c.ID)
	if err != nil {
		r.fail("%s: %v", r.review.Place("$.key_store.url"), err)
		return "", true
	}
	defer store.Close()
	if r.options.Offline {
		return "not called", false
	}
	ctx, cancel := context.WithTimeout(ctx, r.options.Timeout)
	defer cancel()
	switch err = store.Check(ctx); {
	case err == nil:
	case file && crypto.KindOf(err) == crypto.KindUnavailable:
		r.note("%s: the file is not checked: a proxy that runs has it to itself (%v)", r.review.Place("$.key_store.url"), err)
		return "in use by another process", false
	case crypto.KindOf(err) == crypto.KindUnavailable:
		r.fail("%s: %v", r.review.Place("$.key_store.url"), err)
	default:
		r.fail("%s: %v", r.review.Place("$.key_store.id"), err)
	}
	if err == nil {
		r.checkLives(ctx, store)
	}
	if warnings, err := store.Warnings(ctx); err == nil {
		for _, w := range warnings {
			r.note("%s: %s", r.review.Place("$.key_store.url"), w)
		}
	}
	return kind + " " + c.ID, true
}

// checkLives looks for keys in the store that would outlive what the config says.
func (r *run) checkLives(ctx context.Context, store *keystore.Store) {
	expiry := crypto.ExpiryOf(store)
	if r.set == nil || expiry == nil {
		return
	}
	for i, k := range r.config.Keys {
		if k.Life == 0 {
			continue
		}
		if err := expiry.MayDestroy(ctx); err != nil {
			r.fail("%s: %v", r.review.Place(fmt.Sprintf("$.keys[%d].life", i)), err)
		}
		break
	}
	lives, err := expiry.Lives(ctx, true)
	if err != nil {
		r.fail("%s: the lives of data keys cannot be read: %v", r.review.Place("$.key_store.url"), err)
	}
	for _, l := range lives {
		if l.Overdue > 0 {
			r.warn("key_store: %s of %q in the namespace %s should have been destroyed; run: temporal-seal keystore check", count(l.Overdue, "data key"),
				l.Context.Key, l.Context.Namespace)
		}
		if entry, ok := r.set.Expiring(l.Context); ok && l.Endless > 0 {
			r.fail("%s: the key store has %s of %q in the namespace %s that do not expire, so nothing more is sealed under this name there; "+
				"give the life to a key of a new name", r.review.Place(fmt.Sprintf("$.keys[%d].life", entry)), count(l.Endless, "data key"),
				l.Context.Key, l.Context.Namespace)
		} else if entry, ok := r.set.WithoutLife(l.Context); ok && l.Endless == 0 && l.Expiring+l.Expired > 0 {
			r.fail("%s: the key store has %s of %q in the namespace %s that expire or have expired, and the config has no `life` for this name, so nothing "+
				"is sealed under it there; add the `life` that other replicas have, or `endless: true` to give it up", r.review.Place(fmt.Sprintf("$.keys[%d]", entry)),
				count(l.Expiring+l.Expired, "data key"), l.Context.Key, l.Context.Namespace)
		}
	}
}
