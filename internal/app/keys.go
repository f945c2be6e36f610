package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
)

// OpenKeys opens the configured keys with open and checks that they answer. timeout is for all of them
// together; trace, where set, is called around each call to a key service.
func OpenKeys(
	ctx context.Context, c *config.Config, timeout time.Duration,
	open func(context.Context, string) (crypto.Provider, error),
	trace func(context.Context, string, crypto.KeyContext) (context.Context, func(error)), log *slog.Logger,
) (*keyring.Keyring, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	keys, err := keyring.New(ctx, keyring.Options{
		Keys: c.KeyConfigs(), Open: open, Grants: c.KeyGrants(), Realm: c.Realm, SealedAs: c.SealedAs(),
		RevokedDataKeys: c.DataKeyIDs(), DataKeyLife: c.DataKeyLife, Trace: trace, Log: log,
	})
	if err != nil {
		return nil, prefixLines("keys", err)
	}
	return keys, nil
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
			return fmt.Errorf("keys[%d].active: the key file %s does not exist; make it once with "+
				"`temporal-seal keys new %s` and keep it (it is made by itself only where the proxy listens on loopback for a server on loopback)", i, path, path)
		}
		if c.Policy.Bundle == nil {
			if _, err := LoadPolicy(ctx, c, nil); err != nil {
				return err // before anything is left behind
			}
		}
		if err := localkey.Create(path, time.Now()); err != nil {
			return fmt.Errorf("keys[%d].active: the key file %s cannot be made: %w", i, path, err)
		}
		log.Warn("MADE A NEW KEY FILE. Everything sealed from now on opens with this file and nothing else: back it up. "+
			"For anything but development use a key service (--key awskms://...)", "file", path, "key", k.Name)
	}
	return nil
}

// missingKeyFile reports whether a URI names a key file that does not exist.
func missingKeyFile(uri string) (string, bool) {
	path, err := localkey.Path(uri)
	if err != nil {
		return "", false // another scheme
	}
	_, err = os.Stat(path)
	return path, errors.Is(err, fs.ErrNotExist)
}

// WouldMake reports whether serve makes the key file that a URI names.
func WouldMake(c *config.Config, uri string) (string, bool) {
	path, missing := missingKeyFile(uri)
	return path, missing && c.Local() && slices.ContainsFunc(c.Keys, func(k config.Key) bool { return k.Active == uri })
}
