package main

import (
	"cmp"
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
	var output outputFormat
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
			if !output.json() {
				if !made {
					fmt.Fprintln(cmd.ErrOrStderr(), "the database is a key store already, and stays as it is")
				}
				fmt.Fprintln(cmd.OutOrStdout(), id)
			}
			store, err := keystore.New(args[0], id)
			if err != nil {
				return err
			}
			defer store.Close()
			warnings, err := store.Warnings(ctx)
			if output.json() { // the id counts, whether or not the settings could be read
				return errors.Join(writeJSON(cmd.OutOrStdout(), madeStore{ID: id, Changed: made, Warnings: listed(warnings)}), err)
			}
			warn(cmd, warnings)
			return err
		},
	}
	output.flag(cmd)
	addTimeout(&timeout, cmd)
	return cmd
}

// madeStore is what init prints in JSON.
type madeStore struct {
	ID string `json:"id"`
	// Changed is false where init finds a key store and leaves it.
	Changed bool `json:"changed"`
	// Warnings are of settings of the database by which rows can get lost.
	Warnings []string `json:"warnings"`
}

// listed returns a list that is not nil, which JSON would write as null.
func listed[T any](list []T) []T { return append([]T{}, list...) }

// warn writes the settings of a store's database by which rows can get lost.
func warn(cmd *cobra.Command, warnings []string) {
	for _, text := range warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning:", text)
	}
}

// keyError is a row of a key store with which something is wrong.
type keyError struct {
	ID    string `json:"id"`
	Error string `json:"error"`
}

// keyErrors collects such rows. As text they are printed when they are found.
type keyErrors struct {
	cmd    *cobra.Command
	output outputFormat
	list   []keyError
}

func (e *keyErrors) add(id crypto.KeyID, err error) {
	e.list = append(e.list, keyError{id.String(), err.Error()})
	if !e.output.json() {
		fmt.Fprintf(e.cmd.OutOrStdout(), "%s: %v\n", id, err)
	}
}

func (e *keyErrors) row(row crypto.KeyRow, err error) { e.add(row.ID, err) }

// code is the exit code, as an error.
func (e *keyErrors) code() error {
	if len(e.list) > 0 {
		return exitCode(1)
	}
	return nil
}

// printed prints a result, as JSON or as a line of text.
func (o *outputFormat) printed(cmd *cobra.Command, result any, format string, args ...any) error {
	if o.json() {
		return writeJSON(cmd.OutOrStdout(), result)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...)
	return err
}

// migrateStoreCommand brings a key store to the schema of this release.
func migrateStoreCommand() *cobra.Command {
	var flags config.Flags
	var timeout time.Duration
	var output outputFormat
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
			when := "already"
			if changed {
				when = "now"
			}
			return output.printed(cmd, migratedStore{changed}, "the key store has the schema of this release %s", when)
		},
	}
	output.flag(cmd)
	addFlags(&flags, cmd)
	addTimeout(&timeout, cmd)
	return cmd
}

// migratedStore is what migrate prints in JSON.
type migratedStore struct {
	// Changed is false where the key store has the schema of this release already.
	Changed bool `json:"changed"`
}

// checkedStore is what check prints in JSON.
type checkedStore struct {
	Rows     int        `json:"rows"`
	Unusable []keyError `json:"unusable"`
	// Warnings are of settings of the database by which rows can get lost, and of wrapped keys without a row.
	Warnings []string   `json:"warnings"`
	Expiring []keyLives `json:"expiring"`
}

// keyLives counts the data keys of a namespace and a key name of which some expire.
type keyLives struct {
	Namespace string    `json:"namespace"`
	Key       string    `json:"key"`
	Expiring  int       `json:"expiring"`
	Next      time.Time `json:"next,omitzero"`
	Expired   int       `json:"expired"`
	// Overdue are expired keys that should have been destroyed, and whose wrapped keys are in the store.
	Overdue int `json:"overdue"`
	Endless int `json:"endless"`
}

// checkStoreCommand unwraps every row of a key store.
func checkStoreCommand() *cobra.Command {
	var flags config.Flags
	var timeout time.Duration
	var output outputFormat
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Unwrap every key in the key store of a config",
		Long: `check reads every row of the config's key store and has the key service unwrap it, which proves that what was sealed by
reference opens. The exit code is 1 if a row does not unwrap to the key that its id names. It warns of settings of the
database by which rows can get lost, and counts keys that expire. The exit code is 1 too if one is overdue: its life is over, and its wrapped
key is still in the store.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checked, overdue := checkedStore{Warnings: []string{}, Expiring: []keyLives{}}, 0
			if err := withStore(cmd, &flags, func(store *keystore.Store) error {
				warnings, warned := store.Warnings(cmd.Context())
				checked.Warnings = append(checked.Warnings, warnings...)
				lives, n, err := livesOf(cmd.Context(), store)
				overdue, checked.Expiring = n, append(checked.Expiring, lives...)
				if errors.Is(err, crypto.ErrMayNotDestroy) {
					checked.Warnings, err = append(checked.Warnings, err.Error()), nil
				}
				orphans, lost := store.Orphans(cmd.Context())
				if orphans > 0 {
					checked.Warnings = append(checked.Warnings, fmt.Sprintf("%s of temporal_seal_wraps without a row in temporal_seal_keys: nothing destroys them; "+
						"restore the rows, or delete them if no rows were lost", count(orphans, "wrapped key")))
				}
				return errors.Join(warned, err, lost)
			}); err != nil {
				return err
			}
			if !output.json() {
				warn(cmd, checked.Warnings)
				listLives(cmd, checked.Expiring)
			}
			if overdue > 0 && !output.json() {
				fmt.Fprintf(cmd.OutOrStdout(), "OVERDUE: %s should have been destroyed, and whoever has a copy of what was sealed and may use the key service "+
					"can still read it. A proxy that runs with this key store destroys such keys within a minute, unless its clock and that of the store differ by "+
					"more than 5 minutes, or its role may not.\n", count(overdue, "data key"))
			}
			keys, err := openStoredKeys(cmd, &flags, timeout)
			if err != nil {
				return err
			}
			defer keys.Close()
			bad := keyErrors{cmd: cmd, output: output, list: []keyError{}}
			if checked.Rows, err = keys.Rows().Verify(cmd.Context(), bad.row); err != nil {
				return err
			}
			checked.Unusable = bad.list
			err = cmp.Or(output.printed(cmd, checked, "%s checked, %d unusable", count(checked.Rows, "row"), len(bad.list)), bad.code())
			if err == nil && overdue > 0 {
				return exitCode(1)
			}
			return err
		},
	}
	output.flag(cmd)
	addFlags(&flags, cmd)
	addTimeout(&timeout, cmd)
	return cmd
}

// livesOf counts the data keys in a store that expire, those beside them that do not, and all that are overdue.
func livesOf(ctx context.Context, store *keystore.Store) (list []keyLives, overdue int, err error) {
	expiry := crypto.ExpiryOf(store)
	if expiry == nil {
		return nil, 0, nil
	}
	lives, err := expiry.Lives(ctx, true)
	for _, l := range lives {
		if l.Expiring+l.Expired > 0 {
			overdue += l.Overdue
			list = append(list, keyLives{l.Context.Namespace, l.Context.Key, l.Expiring, l.Next, l.Expired, l.Overdue, l.Endless})
		}
	}
	if overdue > 0 && err == nil {
		if lacks := expiry.MayDestroy(ctx); errors.Is(lacks, crypto.ErrMayNotDestroy) {
			err = lacks
		}
	}
	return list, overdue, err
}

// listLives writes how many data keys expire, and when the next one does.
func listLives(cmd *cobra.Command, lives []keyLives) {
	for _, l := range lives {
		next := ""
		if !l.Next.IsZero() {
			next = ", the next on " + l.Next.Format(time.RFC3339)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "namespace %s, key %s: %s to expire%s; %d expired, %d of them overdue; %d that never expire\n",
			l.Namespace, l.Key, count(l.Expiring, "data key"), next, l.Expired, l.Overdue, l.Endless)
	}
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

// rewrappedStore is what rewrap prints in JSON.
type rewrappedStore struct {
	DataKeys int `json:"data_keys"`
	// Wrapped counts the rows that were added.
	Wrapped int        `json:"wrapped"`
	Failed  []keyError `json:"failed"`
}

// rewrapStoreCommand moves the rows of a key store to the active key encryption keys.
func rewrapStoreCommand() *cobra.Command {
	var flags config.Flags
	var timeout time.Duration
	var output outputFormat
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
			bad := keyErrors{cmd: cmd, output: output, list: []keyError{}}
			n, added, err := keys.Rows().Rewrap(cmd.Context(), bad.row)
			if err != nil {
				return err
			}
			err = output.printed(cmd, rewrappedStore{n, added, bad.list}, "%s, %d wrapped anew, %d failed", count(n, "data key"), added, len(bad.list))
			return cmp.Or(err, bad.code())
		},
	}
	output.flag(cmd)
	addFlags(&flags, cmd)
	addTimeout(&timeout, cmd)
	return cmd
}

// exportedStore is what export prints in JSON. The rows are in the file.
type exportedStore struct {
	File    string     `json:"file"`
	Rows    int        `json:"rows"`
	LeftOut []keyError `json:"left_out"`
}

// exportStoreCommand writes the rows of a key store to a file.
func exportStoreCommand() *cobra.Command {
	var flags config.Flags
	var output outputFormat
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
				bad := keyErrors{cmd: cmd, output: output, list: []keyError{}}
				n, err := keystore.Export(cmd.Context(), store, f, func(row crypto.KeyRow) { bad.add(row.ID, fmt.Errorf("left out: %w", row.Broken)) })
				if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
					return err
				}
				without := ""
				if len(bad.list) > 0 {
					without = fmt.Sprintf(", %d left out", len(bad.list))
				}
				return cmp.Or(output.printed(cmd, exportedStore{args[0], n, bad.list}, "%s written%s", count(n, "row"), without), bad.code())
			})
		},
	}
	output.flag(cmd)
	addFlags(&flags, cmd)
	return cmd
}

// importedStore is what import prints in JSON.
type importedStore struct {
	File string `json:"file"`
	// Rows are those of the file, all of which are in the store now.
	Rows int `json:"rows"`
}

// importStoreCommand puts the rows of a file into a key store.
func importStoreCommand() *cobra.Command {
	var flags config.Flags
	var output outputFormat
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
				return output.printed(cmd, importedStore{args[0], n}, "in the store now: %s", count(n, "row"))
			})
		},
	}
	output.flag(cmd)
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
