package check

import (
	"context"
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
	if warnings, err := store.Warnings(ctx); err == nil {
		for _, w := range warnings {
			r.note("%s: %s", r.review.Place("$.key_store.url"), w)
		}
	}
	return kind + " " + c.ID, true
}
