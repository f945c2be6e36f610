package main

import (
	"context"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
	"github.com/temporal-seal/temporal-seal/internal/scan"
)

// maxWildcardKeys bounds the keys of wildcard entries that a scan asks.
const maxWildcardKeys = 1000

// knownKeys are the key encryption keys that the config has, by their references. Those of wildcard entries become known by the key
// names that envelopes and rows have.
type knownKeys struct {
	// URIs and roles by reference.
	names   map[string]string
	set     *keyring.Set
	realm   string
	timeout time.Duration
	// URIs of wildcard entries.
	asked map[string]bool
}

func newKnownKeys(c *config.Config, names map[string]string, timeout time.Duration) (*knownKeys, error) {
	set, err := keyring.NewSet(&keyring.Options{Keys: c.KeyConfigs(), Grants: c.KeyGrants(), Realm: c.Realm, SealedAs: c.SealedAs()})
	if err != nil {
		return nil, err
	}
	return &knownKeys{names: names, set: set, realm: c.Realm, timeout: timeout, asked: map[string]bool{}}, nil
}

// find adds the keys of wildcard entries that the envelopes of a report name.
func (k *knownKeys) find(ctx context.Context, r *scan.Report) {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	for _, n := range r.Namespaces {
		for _, e := range n.Sealed {
			k.has(ctx, e.KEK, crypto.KeyContext{Namespace: e.SealedFor, Key: e.Key})
		}
	}
}

// has reports whether the config has the key encryption key that wrapped a data key. It asks the keys that the config has for the
// data key's namespace and key name.
func (k *knownKeys) has(ctx context.Context, kek string, kc crypto.KeyContext) bool {
	if k.names[kek] != "" {
		return true
	}
	_, uris, _ := k.set.URIs(strings.TrimPrefix(kc.Namespace, k.realm+"/"), kc.Key)
	for i, uri := range uris {
		if k.asked[uri] || len(k.asked) == maxWildcardKeys {
			continue
		}
		k.asked[uri] = true
		p, err := keyservice.Open(ctx, uri)
		if err != nil {
			continue // it stays unknown, which the verdict says
		}
		role := keyring.RoleOpenOnly
		if i == 0 {
			role = keyring.RoleActive
		}
		if k.names[p.Ref().String()] == "" {
			k.names[p.Ref().String()] = describeKey(uri, crypto.ARNOf(p), role)
		}
	}
	return k.names[kek] != ""
}

// expires reports whether the config has a life for the key of an envelope.
func (k *knownKeys) expires(sealedFor, key string) bool {
	_, ok := k.set.Expiring(crypto.KeyContext{Namespace: sealedFor, Key: key})
	return ok
}

// storedKeys is what the key store needs of the key that --key names.
type storedKeys struct {
	// Data keys, and wrap and index keys of subjects, that this key has wrapped and no other key of the config.
	alone int
	// Why the store was not read.
	err error
}

// askStore reads every row of the config's key store, if there is one and --key asks about a key.
func (o *scanOptions) askStore(ctx context.Context, c *config.Config, known *knownKeys, asked *crypto.KEKRef) (s storedKeys) {
	if asked == nil || c.KeyStore == nil {
		return s
	}
	if s.err = o.openStore(ctx, c); s.err == nil {
		s.alone, s.err = wrappedAlone(ctx, o.store, *asked, func(row crypto.KeyRow) bool {
			ctx, cancel := context.WithTimeout(ctx, o.timeout)
			defer cancel()
			return known.has(ctx, row.KEK.String(), row.Context)
		})
	}
	return s
}

// wrappedAlone counts the keys of a store that one key encryption key has wrapped and no other one that is known. A row that cannot be
// read counts for nothing: no key opens it.
func wrappedAlone(ctx context.Context, store crypto.KeyStore, asked crypto.KEKRef, known func(crypto.KeyRow) bool) (alone int, err error) {
	var id crypto.KeyID
	needed := false // the key id by what was read so far
	other := false
	next := func(row crypto.KeyID) {
		if needed && !other {
			alone++
		}
		id, needed, other = row, false, false
	}
	err = store.All(ctx, func(row crypto.KeyRow) error {
		if row.ID != id { // the rows of an id come one after the other
			next(row.ID)
		}
		switch {
		case row.Broken != nil:
		case row.KEK == asked:
			needed = true
		default:
			other = other || known(row)
		}
		return nil
	})
	next(crypto.KeyID{})
	return alone, err
}

// openStore opens the config's key store, unless it is open.
func (o *scanOptions) openStore(ctx context.Context, c *config.Config) error {
	if o.store != nil {
		return nil
	}
	store, err := app.OpenStore(ctx, c)
	if err == nil {
		o.store = store
	}
	return err
}
