package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
)

// keystoreCommand groups what concerns the database with wrapped data keys.
func keystoreCommand() *cobra.Command {
	return group("keystore", "Look after the database with wrapped data keys",
		`A key store lets envelopes name their data key in 16 bytes instead of carrying it. It holds wrapped keys alone, and what was sealed
by reference opens only while its row is there.`,
		initStoreCommand(), migrateStoreCommand(), checkStoreCommand(), recoverStoreCommand(), rewrapStoreCommand(), exportStoreCommand(), importStoreCommand())
}

// initStoreCommand makes the tables of a key store.
func initStoreCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "init URL",
		Short: "Make the tables of a key store, and print its id",
		Long: `init makes the tables in the database that URL names, if it has none, and prints the id of the store, which belongs into the
config as key_store.id. It changes nothing in a database that is a key store already. The table of a dynamodb:// URL is made too,
with on-demand capacity and protected from being deleted, unless it exists.`,
		Example: `  temporal-seal keystore init sqlite:/var/lib/temporal-seal/keys.db
  temporal-seal keystore init 'postgres://seal@db.example.com/seal?sslmode=verify-full'
  temporal-seal keystore init 'dynamodb://temporal-seal-keys?region=eu-central-1'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			id, made, err := keystore.Init(ctx, args[0])
			if err != nil {
				return err
			}
			if !made {
				fmt.Fprintln(cmd.ErrOrStderr(), "the database is a key store already, and stays as it is")
			}
			fmt.Fprintln(cmd.OutOrStdout(), id)
			store, err := keystore.New(args[0], id)
			if err != nil {
				return err
			}
			defer store.Close()
			return warn(ctx, cmd, store)
		},
	}
	addTimeout(&timeout, cmd)
	return cmd
}

// warn writes the settings of a store's database by which rows can get lost.
func warn(ctx context.Context, cmd *cobra.Command, store *keystore.Store) error {
	warnings, err := store.Warnings(ctx)
	for _, text := range warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning:", text)
	}
	return err
}

// migrateStoreCommand brings a key store to the schema of this release.
func migrateStoreCommand() *cobra.Command {
	var flags config.Flags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the key store of a config to the schema of this release",
		Long: `migrate changes the tables of the config's key store to the schema of this release, and changes no row. Run it right before the rollout of
this release: its proxies do not start with an older schema, and those of earlier releases write nothing more to a newer one and do not start with
it. It refuses a store that a newer release has made.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.Load()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			changed, err := app.MigrateStore(ctx, c)
			if err != nil {
				return err
			}
			if changed {
				fmt.Fprintln(cmd.OutOrStdout(), "the key store has the schema of this release now")
			} else {
				fmt.Fprintln(cmd.OutOrStdout(), "the key store has the schema of this release already")
			}
			return nil
		},
	}
	addFlags(&flags, cmd)
	addTimeout(&timeout, cmd)
	return cmd
}

// checkStoreCommand unwraps every row of a key store.
func checkStoreCommand() *cobra.Command {
	var flags config.Flags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Unwrap every key in the key store of a config",
		Long: `check reads every row of the config's key store and has the key service unwrap it, which proves that what was sealed by
reference opens. The exit code is 1 if a row does not unwrap to the key that its id names. It warns of settings of the
database by which rows can get lost, and counts keys that expire.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := withStore(cmd, &flags, func(store *keystore.Store) error {
				return errors.Join(warn(cmd.Context(), cmd, store), listLives(cmd, store))
			}); err != nil {
				return err
			}
			keys, err := openStoredKeys(cmd, &flags, timeout)
			if err != nil {
				return err
			}
			defer keys.Close()
			bad := 0
			rows, err := keys.Rows().Verify(cmd.Context(), func(row crypto.KeyRow, err error) {
				bad++
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %v\n", row.ID, err)
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s checked, %d unusable\n", count(rows, "row"), bad)
			if bad > 0 {
				return exitCode(1)
			}
			return nil
		},
	}
	addFlags(&flags, cmd)
	addTimeout(&timeout, cmd)
	return cmd
}

// listLives writes how many data keys expire, and when the next one does.
func listLives(cmd *cobra.Command, store *keystore.Store) error {
	expiry := crypto.ExpiryOf(store)
	if expiry == nil {
		return nil
	}
	lives, err := expiry.Lives(cmd.Context(), true)
	if err != nil {
		return err
	}
	for _, l := range lives {
		if l.Expiring+l.Expired == 0 {
			continue
		}
		next := ""
		if !l.Next.IsZero() {
			next = ", the next on " + l.Next.Format(time.RFC3339)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "namespace %s, key %s: %s to expire%s; %d expired, %d that never expire\n",
			l.Context.Namespace, l.Context.Key, count(l.Expiring, "data key"), next, l.Expired, l.Endless)
	}
	return nil
}

// openStoredKeys opens the keys of a config that has a key store.
func openStoredKeys(cmd *cobra.Command, flags *config.Flags, timeout time.Duration) (*keyring.Keyring, error) {
	c, err := flags.Load()
	if err != nil {
		return nil, err
	}
	if c.KeyStore == nil {
		return nil, errors.New("the config has no key_store; add it with the URL and the id of the store")
	}
	return app.OpenAllKeys(cmd.Context(), c, app.KeyOptions{Timeout: timeout, Open: keyservice.Open, Log: quiet})
}

// rewrapStoreCommand moves the rows of a key store to the active key encryption keys.
func rewrapStoreCommand() *cobra.Command {
	var flags config.Flags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "rewrap",
		Short: "Wrap every key in the key store by the active key encryption key of its entry",
		Long: `rewrap adds a row to each data key in the key store that the active key encryption key of its entry has not wrapped. Then
what was sealed by reference opens without the key encryption keys in open_only, and no payload is touched. It adds rows
and removes none. With AWS KMS it needs kms:Encrypt for the new key. The exit code is 1 if a data key could not be wrapped.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := openStoredKeys(cmd, &flags, timeout)
			if err != nil {
				return err
			}
			defer keys.Close()
			bad := 0
			n, added, err := keys.Rows().Rewrap(cmd.Context(), func(row crypto.KeyRow, err error) {
				bad++
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %v\n", row.ID, err)
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s, %d wrapped anew, %d failed\n", count(n, "data key"), added, bad)
			if bad > 0 {
				return exitCode(1)
			}
			return nil
		},
	}
	addFlags(&flags, cmd)
	addTimeout(&timeout, cmd)
	return cmd
}

// exportStoreCommand writes the rows of a key store to a file.
func exportStoreCommand() *cobra.Command {
	var flags config.Flags
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Write all rows of the key store of a config to a file",
		Long: `export writes every row of the config's key store to a new file, as lines of JSON that import reads: to move to another
database, or to keep a copy. The rows are wrapped keys; whoever has the file can open nothing without the key service. Rows of which
nothing can be opened are named and left out; the exit code is 1 then.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withStore(cmd, &flags, func(store *keystore.Store) (err error) {
				f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
				if err != nil {
					return err
				}
				bad := 0
				n, err := keystore.Export(cmd.Context(), store, f, func(row crypto.KeyRow) {
					bad++
					fmt.Fprintf(cmd.OutOrStdout(), "%s: left out: %v\n", row.ID, row.Broken)
				})
				if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
					return err
				}
				if bad > 0 {
					fmt.Fprintf(cmd.OutOrStdout(), "%s written, %d left out\n", count(n, "row"), bad)
					return exitCode(1)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s written\n", count(n, "row"))
				return nil
			})
		},
	}
	addFlags(&flags, cmd)
	return cmd
}

// importStoreCommand puts the rows of a file into a key store.
func importStoreCommand() *cobra.Command {
	var flags config.Flags
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Put the rows of an export into the key store of a config",
		Long: `import puts the rows that export wrote into the config's key store. Rows that are there stay as they are, and one that differs
ends it. A file that is not complete changes nothing. Run check afterwards.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			c, err := flags.Load()
			if err != nil {
				return err
			}
			set, err := keyring.NewSet(&keyring.Options{Keys: c.KeyConfigs(), Grants: c.KeyGrants(), Realm: c.Realm, SealedAs: c.SealedAs()})
			if err != nil {
				return err
			}
			return withStore(cmd, &flags, func(store *keystore.Store) error {
				n, err := keystore.Import(cmd.Context(), store, f, func(kc crypto.KeyContext) bool {
					_, expires := set.Expiring(kc)
					return expires
				})
				if err != nil {
					return fmt.Errorf("%s: after %s: %w", args[0], count(n, "row"), err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "in the store now: %s\n", count(n, "row"))
				return nil
			})
		},
	}
	addFlags(&flags, cmd)
	return cmd
}

// withStore calls do with the key store of a config.
func withStore(cmd *cobra.Command, flags *config.Flags, do func(*keystore.Store) error) error {
	c, err := flags.Load()
	if err != nil {
		return err
	}
	store, err := app.OpenStore(cmd.Context(), c)
	if err != nil {
		return err
	}
	defer store.Close()
	return do(store)
}
