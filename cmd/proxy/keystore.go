package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
)

// keystoreCommand groups what concerns the database with wrapped data keys.
func keystoreCommand() *cobra.Command {
	return group("keystore", "Make and check the database with wrapped data keys",
		`A key store lets envelopes name their data key in 16 bytes instead of carrying it. It holds wrapped keys alone, and what was sealed
by reference opens only while its row is there.`,
		initStoreCommand(), checkStoreCommand())
}

// initStoreCommand makes the tables of a key store.
func initStoreCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "init URL",
		Short: "Make the tables of a key store, and print its id",
		Long: `init makes the tables in the database that URL names, if it has none, and prints the id of the store, which belongs into the
config as key_store.id. It changes nothing in a database that is a key store already.`,
		Example: `  temporal-seal keystore init sqlite:/var/lib/temporal-seal/keys.db
  temporal-seal keystore init 'postgres://seal@db.example.com/seal?sslmode=verify-full'`,
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
			return nil
		},
	}
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
reference opens. The exit code is 1 if a row does not unwrap to the key that its id names.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.Load()
			if err != nil {
				return err
			}
			if c.KeyStore == nil {
				return errors.New("the config has no key_store")
			}
			keys, err := app.OpenAllKeys(cmd.Context(), c, app.KeyOptions{Timeout: timeout, Open: keyservice.Open, Log: quiet})
			if err != nil {
				return err
			}
			defer keys.Close()
			bad := 0
			rows, err := keys.VerifyRows(cmd.Context(), func(row crypto.KeyRow, err error) {
				bad++
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %v\n", row.ID, err)
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s, %d of them not good\n", count(rows, "row"), bad)
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
