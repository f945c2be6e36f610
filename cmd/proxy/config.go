package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/config"
)

// configCommand prints what package config derives from its own types. docs/configuration.md holds the
// output of docs, and an editor completes keys with that of schema.
func configCommand() *cobra.Command {
	return group("config", "Print the JSON schema or the reference of the config file", "", &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of the config file, for editors",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return writeJSON(cmd.OutOrStdout(), config.Schema()) },
	}, &cobra.Command{
		Use:   "docs",
		Short: "Print a description of every key of the config file, in Markdown",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := io.WriteString(cmd.OutOrStdout(), config.Reference())
			return err
		},
	})
}
