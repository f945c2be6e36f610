package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/foreign"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

type checkOptions struct {
	serveOptions
	cases []string
}

func checkCommand(stdout io.Writer) *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check config, policy and keys without serving",
		Long: `check reads the config, asks every key for an answer as serve does at its start, compiles the policy, runs the tests and
cases that lie beside it and looks for rules that will not do what they seem to. It makes no key file and talks to no
Temporal server. The exit code is 1 if anything is wrong.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.check(cmd.Context(), stdout)
		},
	}
	o.settings.flags(cmd)
	cmd.Flags().StringSliceVar(&o.cases, "cases", nil, "case files, beside those that lie next to the policy")
	cmd.Flags().DurationVar(&o.startTimeout, "timeout", defaultStartTimeout, "how long the keys may take to answer")
	return cmd
}

func (o *checkOptions) check(ctx context.Context, stdout io.Writer) error {
	c, err := o.load()
	if err != nil {
		return err
	}
	quiet := slog.New(slog.DiscardHandler)
	if _, err := c.proxyListeners(quiet); err != nil {
		return err
	}
	if _, err := c.proxyUpstreams(quiet); err != nil {
		return err
	}
	if _, err := c.codecServer(quiet); err != nil {
		return err
	}
	s := newStyle(stdout)
	doors := count(len(c.Listeners), "listener")
	if c.CodecServer != nil {
		doors += ", codec server"
	}
	s.line("config  %s  %s, %s", s.green("ok"), doors, count(len(c.Upstreams), "upstream"))
	missing := map[string]bool{}
	keys, err := o.openKeys(ctx, c, func(ctx context.Context, uri string) (crypto.Provider, error) {
		if path, ok := c.wouldMake(uri); ok {
			missing[path] = true
			return standIn(uri), nil
		}
		return openKey(ctx, uri)
	}, nil, quiet)
	if err != nil {
		return err
	}
	defer keys.Close()
	names := make([]string, len(c.Keys))
	for i, k := range c.Keys {
		names[i] = k.Name
	}
	s.line("keys    %s  %s", s.green("ok"), strings.Join(names, ", "))
	if _, err := c.foreignReader(ctx, o.startTimeout); err != nil {
		return err
	}
	if len(c.Foreign) > 0 {
		read := make([]string, len(c.Foreign))
		for i := range c.Foreign {
			read[i] = foreign.KeyPrefix + c.Foreign[i].name()
		}
		s.line("foreign %s  %s", s.green("ok"), strings.Join(read, ", "))
	}
	for _, path := range slices.Sorted(maps.Keys(missing)) {
		s.line("%s: %s: the key file does not exist yet; serve makes it at its first start", s.dim("note"), path)
	}
	options, err := c.policyOptions(keys, quiet)
	if err != nil {
		return err
	}
	facts, err := rewrite.Facts()
	if err != nil {
		return err
	}
	report := policy.Check(ctx, policy.CheckOptions{Options: options, Cases: o.cases, Facts: facts, Served: c.servedNamespaces()})
	for _, f := range report.Findings {
		s.finding(f)
	}
	if !report.OK() {
		s.line("policy  %s", s.red("refused"))
		if s.err != nil {
			return s.err
		}
		return exitCode(1)
	}
	s.line("policy  %s  revision %s, %s and %s passed", s.green("ok"), report.Revision, count(report.Tests, "test"), count(report.Cases, "case"))
	return s.err
}

// servedNamespaces are those that listeners name without a pattern.
func (c *config) servedNamespaces() []string {
	var names []string
	for _, l := range c.Listeners {
		if !l.anonymous() {
			continue
		}
		for _, n := range l.namespaces() {
			if !strings.Contains(n, "*") {
				names = append(names, n)
			}
		}
	}
	return names
}

func (s *style) finding(f policy.Finding) {
	level := s.dim(string(f.Level))
	switch f.Level {
	case policy.Fault:
		level = s.red(string(f.Level))
	case policy.Warning:
		level = s.yellow(string(f.Level))
	}
	if f.Where == "" {
		s.line("%s: %s", level, f.Text)
		return
	}
	s.line("%s: %s: %s", level, f.Where, f.Text)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
