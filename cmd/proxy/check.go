package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
)

func checkCommand(stdout io.Writer) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check config, policy and keys without serving",
		Long:  "check reads the config, compiles the policy and asks every key for an answer, as serve does at its start. It makes no key file and talks to no Temporal server.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.check(cmd.Context(), stdout)
		},
	}
	o.settings.flags(cmd)
	cmd.Flags().DurationVar(&o.startTimeout, "timeout", 10*time.Second, "how long the keys may take to answer")
	return cmd
}

func (o *serveOptions) check(ctx context.Context, stdout io.Writer) error {
	c, err := o.load()
	if err != nil {
		return err
	}
	quiet := slog.New(slog.DiscardHandler)
	registry := prometheus.NewRegistry()
	keys, err := o.openKeys(ctx, c, nil, quiet)
	if err != nil {
		return err
	}
	defer keys.Close()
	engine, err := newEngine(ctx, c, keys, registry, quiet)
	if err != nil {
		return err
	}
	if _, err := c.proxyListeners(quiet); err != nil {
		return err
	}
	if _, err := c.proxyUpstreams(quiet); err != nil {
		return err
	}
	names := make([]string, len(c.Keys))
	for i, k := range c.Keys {
		names[i] = k.Name
	}
	p := engine.Current()
	source := c.Policy.File
	if source == "" {
		source = "the policy that ships"
	}
	fmt.Fprintf(stdout, "config  ok  %d listener(s), %d upstream(s)\n", len(c.Listeners), len(c.Upstreams))
	fmt.Fprintf(stdout, "keys    ok  %s\n", strings.Join(names, ", "))
	fmt.Fprintf(stdout, "policy  ok  %s, revision %s", source, p.Revision())
	if own := p.Namespaces(); len(own) > 0 {
		fmt.Fprintf(stdout, ", own rules for %s", strings.Join(own, ", "))
	}
	fmt.Fprintln(stdout)
	return nil
}
