package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// KeyOptions say how OpenKeys asks for keys. Timeout, Open and Log are required.
type KeyOptions struct {
	// Timeout is how long each key may take to answer.
	Timeout time.Duration
	// Open returns the key that a URI names.
	Open func(ctx context.Context, uri string) (crypto.Provider, error)
	// Trace is called around each call to a key service.
	Trace func(context.Context, string, crypto.KeyContext) (context.Context, func(error))
	// Asking is called when a key is asked for an answer, and what it returns once that has come or failed.
	Asking func(uri string) (done func())
	// Replica is for a process that serves, for which erasures wait.
	Replica bool
	Log     *slog.Logger
}

// OpenKeys opens the configured keys. The set in force lists those that do not answer.
func OpenKeys(ctx context.Context, c *config.Config, o KeyOptions) (*keyring.Keyring, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	store, err := openStore(ctx, c)
	if store != nil && crypto.KindOf(err) == crypto.KindUnavailable {
		o.Log.Warn("the key store does not answer: envelopes by reference do not open, and payloads carry their keys until it does; nothing is sealed "+
			"under names with a life, or for subjects", "error", err)
		err = nil
	}
	if err != nil {
		return nil, err
	}
	options := keyring.Options{
		Replica: o.Replica,
		Keys:    c.KeyConfigs(), Open: o.Open, Grants: c.KeyGrants(), Realm: c.Realm, SealedAs: c.SealedAs(),
		RevokedDataKeys: c.DataKeyIDs(), DataKeyLife: c.DataKeyLife, Trace: o.Trace, Asking: o.Asking, Log: o.Log,
	}
	if store != nil {
		options.Store, options.ErasureMaxLag = store, c.KeyStore.ErasureMaxLag
		warnings, _ := store.Warnings(ctx) // a store that does not answer is reported
		for _, text := range warnings {
			o.Log.Warn("the key store can lose rows", "cause", text)
		}
	}
	keys, err := keyring.New(ctx, options)
	if err != nil {
		return nil, prefixLines("keys", err)
	}
	return keys, nil
}

// OpenAllKeys is OpenKeys for commands that cannot do without a key: each one that does not answer is an error.
func OpenAllKeys(ctx context.Context, c *config.Config, o KeyOptions) (*keyring.Keyring, error) {
	keys, err := OpenKeys(ctx, c, o)
	if err != nil {
		return nil, err
	}
	if err := keys.Current().AllAnswer(); err != nil {
		keys.Close()
		return nil, prefixLines("keys", err)
	}
	return keys, nil
}

// unusable returns the errors of keys that no wait can help: their URIs cannot be read, or name something that is no such key.
func unusable(set *keyring.Set) error {
	var errs []error
	for _, u := range set.Unanswered() {
		if crypto.KindOf(u.Err) == crypto.KindNotConfigured {
			errs = append(errs, u.Err)
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return prefixLines("keys", errors.Join(errs...))
}

// storeTimeout is how long a start waits for the key store, which it can do without.
const storeTimeout = 3 * time.Second

var errNoKeyStore = errors.New("the config has no key_store; add it with the URL and the id of the store")

// OpenStore returns the key store of a config, for commands that cannot do without it.
func OpenStore(ctx context.Context, c *config.Config) (*keystore.Store, error) {
	if c.KeyStore == nil {
		return nil, errNoKeyStore
	}
	store, err := openStore(ctx, c)
	if err != nil && store != nil {
		_ = store.Close()
		store = nil
	}
	return store, err
}

// MigrateStore brings the key store of a config to the schema of this release, and reports whether that changed anything.
func MigrateStore(ctx context.Context, c *config.Config) (changed bool, err error) {
	if c.KeyStore == nil {
		return false, errNoKeyStore
	}
	store, err := keystore.New(c.KeyStore.URL, c.KeyStore.ID)
	if err != nil {
		return false, fmt.Errorf("key_store: %w", err)
	}
	defer store.Close()
	return store.Migrate(ctx)
}

// openStore returns the key store of a config; nil if it has none. One that does not answer comes with its error: it can be used
// as soon as it does. A database that is not the store fails.
func openStore(ctx context.Context, c *config.Config) (*keystore.Store, error) {
	if c.KeyStore == nil {
		return nil, nil
	}
	store, err := keystore.New(c.KeyStore.URL, c.KeyStore.ID)
	if err != nil {
		return nil, config.At("key_store", err)
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	switch err = store.Check(ctx); {
	case err == nil:
		return store, nil
	case crypto.KindOf(err) == crypto.KindUnavailable:
		return store, config.At("key_store", err)
	}
	return nil, errors.Join(config.At("key_store", err), store.Close())
}

// makeLocalKeys makes the key files that are missing, if this is one machine talking to itself.
// Anywhere else a missing file is an error: a container that invents a key loses, with its file system,
// all that it sealed.
func makeLocalKeys(ctx context.Context, c *config.Config, log *slog.Logger) error {
	for i, k := range c.Keys {
		path, missing := missingKeyFile(k.Active)
		if !missing {
			continue // what is wrong with a file that exists, opening it finds out
		}
		if !c.Local() {
			return config.At(fmt.Sprintf("keys[%d].active", i), fmt.Errorf("the key file %s does not exist; make it once with "+
				"`temporal-seal keys new %s` and keep it (the proxy makes one only where it listens on loopback for a server on loopback)", path, path))
		}
		if c.Policy.Bundle == nil {
			options, err := PolicyOptions(c, nil)
			if err != nil {
				return err
			}
			if _, err := policy.NewEngine(ctx, options); err != nil {
				return policyError(err) // before anything is left behind
			}
		}
		if err := localkey.Create(path, time.Now()); err != nil {
			return config.At(fmt.Sprintf("keys[%d].active", i), fmt.Errorf("the key file %s cannot be made: %w", path, err))
		}
		log.Warn("MADE A NEW KEY FILE. Everything sealed from now on opens with this file and nothing else: back it up. "+
			"For anything but development use a key service (--key awskms://...)", "file", path, "key", k.Name)
	}
	return nil
}

// missingKeyFile reports whether a URI names a key file that does not exist.
func missingKeyFile(uri string) (string, bool) {
	path, err := localkey.Path(uri)
	if err != nil || strings.ContainsAny(path, "{}") {
		return "", false // another scheme, or a pattern for many files
	}
	_, err = os.Stat(path)
	return path, errors.Is(err, fs.ErrNotExist)
}

// WouldMake reports whether serve makes the key file that a URI names.
func WouldMake(c *config.Config, uri string) (string, bool) {
	path, missing := missingKeyFile(uri)
	return path, missing && c.Local() && slices.ContainsFunc(c.Keys, func(k config.Key) bool { return k.Active == uri })
}
