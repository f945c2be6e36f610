package main

import (
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/config"
)

// defaultStartTimeout is how long keys and upstream may take to answer at start.
const defaultStartTimeout = 10 * time.Second

// addServeFlags adds those of serve.
func addServeFlags(o *app.Options, cmd *cobra.Command) {
	f := cmd.Flags()
	addFlags(&o.Flags, cmd)
	f.StringVar(&o.Listen, "listen", "",
		"address for workers and clients (default "+standard.Listeners[0].Address+")")
	f.StringVar(&o.Upstream, "upstream", "",
		"address of the Temporal frontend (default "+standard.Upstreams[0].Address+")")
	f.StringVar(&o.Admin, "admin", "", "address of /healthz, /readyz and /metrics (default "+standard.Admin+")")
	f.StringVar(&o.LogFormat, "log-format", "text", "text or json")
	f.StringVar(&o.LogLevel, "log-level", "info", "debug, info, warn or error")
	f.DurationVar(&o.StartTimeout, "start-timeout", defaultStartTimeout,
		"how long keys, upstreams and key sets may take to answer before the proxy starts without them")
}

// standard is the config without a file and flags, for the defaults that the help shows.
var standard = config.Default()

// quiet is the log of commands that print their result and nothing else.
var quiet = slog.New(slog.DiscardHandler)

// addFlags adds the flags that serve, check and explain share.
func addFlags(s *config.Flags, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.File, "config", "", "config file in YAML; the other flags override it")
	f.StringVar(&s.Policy, "policy", "", "the platform's policy in Rego (default: the one that ships)")
	f.StringVar(&s.Key, "key", "",
		"URI of the default key: awskms://..., gcpkms://..., azurekeyvault://..., vault://..., plugin://... or local:FILE (default "+standard.Keys[0].Active+")")
}

// addTimeout adds --timeout, for all keys together.
func addTimeout(timeout *time.Duration, cmd *cobra.Command) {
	cmd.Flags().DurationVar(timeout, "timeout", defaultStartTimeout, "how long the keys may take to answer")
}

// group makes a command that only has others below it, and prints its help.
func group(use, short, long string, below ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(below...)
	return cmd
}
