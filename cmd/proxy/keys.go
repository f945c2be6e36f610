package main

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
)

// keysCommand groups what concerns key encryption keys. list and scan work with every kind of key; new and
// rotate make local key files, whose form package localkey defines.
func keysCommand() *cobra.Command {
	return group("keys", "List keys, find out what they sealed, make and rotate local key files",
		`list, scan and reference are for all keys. new and rotate make local key files, for development and for sites without a key service;
keys in a key service are made and rotated there.`,
		newKeyCommand(), rotateKeyCommand(), listKeysCommand(), scanKeysCommand(), referenceCommand())
}

// rotateKeyCommand adds a key to a local key file.
func rotateKeyCommand() *cobra.Command {
	var output outputFormat
	cmd := &cobra.Command{
		Use:   "rotate FILE",
		Short: "Add a fresh key to a key file; the earlier ones still open",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := localkey.Rotate(args[0], time.Now()); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w; make one with: temporal-seal keys new %s", err, args[0])
			} else if err != nil {
				return err
			}
			if output.json() {
				return writeJSON(cmd.OutOrStdout(), keyFile{File: args[0], Changed: true})
			}
			fmt.Fprintf(cmd.OutOrStdout(),
				"added a key to %s\nA proxy that reads this file notices. Give it to every other proxy that uses the "+
					"key: what is sealed anew opens only with it.\n", args[0])
			return nil
		},
	}
	output.flag(cmd)
	return cmd
}

// keyFile is what new and rotate print in JSON.
type keyFile struct {
	File string `json:"file"`
	// Changed is false where new finds the file and leaves it.
	Changed bool `json:"changed"`
}

// newKeyCommand makes a local key file with one key. --if-missing is for scripts and init containers that run
// again and again.
func newKeyCommand() *cobra.Command {
	var ifMissing bool
	var output outputFormat
	cmd := &cobra.Command{
		Use:   "new FILE",
		Short: "Make a key file, readable by you alone; never overwrites one",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			stdout := cmd.OutOrStdout()
			err := localkey.Create(args[0], time.Now())
			exists := ifMissing && errors.Is(err, fs.ErrExist)
			if output.json() && (err == nil || exists) {
				return writeJSON(stdout, keyFile{File: args[0], Changed: !exists})
			}
			if exists {
				fmt.Fprintf(stdout, "%s is there already, and stays as it is\n", args[0])
				return nil
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(stdout,
				"made %s (mode 0600)\nBack it up: what is sealed with it opens with nothing else.\nUse it with: "+
					"temporal-seal --key local:%s\n", args[0], args[0])
			return nil
		},
	}
	cmd.Flags().BoolVar(&ifMissing, "if-missing", false,
		"an existing file is not an error, for scripts that run again")
	output.flag(cmd)
	return cmd
}
