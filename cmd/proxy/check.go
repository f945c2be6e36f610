package main

import (
	"cmp"
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// checkOptions are the flags of check.
type checkOptions struct {
	flags config.Flags
	// For all keys together.
	timeout time.Duration
	// Case files, beside those that lie next to the policy.
	cases  []string
	output outputFormat
}

// checked is what check found, as --output json shows it.
type checked struct {
	// OK means that serve would start, and that all tests and cases of the policy pass.
	OK bool `json:"ok"`
	// What kept the rest from being looked at.
	Errors      []string `json:"errors,omitempty"`
	Listeners   int      `json:"listeners"`
	Upstreams   int      `json:"upstreams"`
	CodecServer bool     `json:"codec_server"`
	// Keys are the names that the config gives them, in its order, which is their rank.
	Keys []string `json:"keys,omitempty"`
	// Foreign are the names by which policies see the keys of other tools' payloads.
	Foreign []string `json:"foreign,omitempty"`
	// Serve makes them at its first start.
	MissingKeys []string       `json:"missing_key_files,omitempty"`
	Policy      *policy.Report `json:"policy,omitempty"`
}

// checkCommand is for pipelines and pre-commit hooks: it finds what would keep serve from starting, and what
// the policy's authors would see only in production.
func checkCommand() *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check config, policy and keys without serving",
		Long: `check reads the config, asks every key for an answer as serve does at its start, compiles the policy, runs the tests and
cases that lie beside it and looks for rules that will not do what they seem to. It makes no key file and talks to no
Temporal server. The exit code is 1 if anything is wrong.`,
		Args: cobra.NoArgs,
		RunE: o.run,
	}
	addFlags(&o.flags, cmd)
	cmd.Flags().StringSliceVar(&o.cases, "cases", nil, "case files, beside those that lie next to the policy")
	addTimeout(&o.timeout, cmd)
	o.output.flag(cmd)
	return cmd
}

// run checks and prints the result. In the JSON form an error is part of the document, so that a pipeline
// reads one document in every case.
func (o *checkOptions) run(cmd *cobra.Command, _ []string) error {
	stdout := cmd.OutOrStdout()
	s := newStyle(stdout)
	if o.output.json() {
		s = newStyle(io.Discard)
	}
	result, err := o.check(cmd.Context(), s)
	if o.output.json() {
		if err != nil {
			result.OK, result.Errors = false, strings.Split(err.Error(), "\n")
		}
		err = writeJSON(stdout, result)
	}
	if err == nil && !result.OK {
		err = exitCode(1)
	}
	return cmp.Or(s.err, err)
}

// check looks at one part after the other and prints each result. It stops at the first error.
func (o *checkOptions) check(ctx context.Context, s *style) (result checked, err error) {
	c, err := o.flags.Load()
	if err != nil {
		return result, err
	}
	if _, err := app.OpenEnds(c, quiet); err != nil {
		return result, err
	}
	result.Listeners, result.Upstreams = len(c.Listeners), len(c.Upstreams)
	result.CodecServer = c.CodecServer != nil
	listeners := count(result.Listeners, "listener")
	if result.CodecServer {
		listeners += ", codec server"
	}
	s.line("config  %s  %s, %s", s.green("ok"), listeners, count(result.Upstreams, "upstream"))
	keys, err := o.checkKeys(ctx, c, s, &result)
	if err != nil {
		return result, err
	}
	defer keys.Close()
	return result, o.checkPolicy(ctx, c, keys, s, &result)
}

// checkKeys sends a request to every key, as serve does at its start. For a local key file that serve would
// make it uses a stand-in, since check leaves no file behind. The caller closes the keyring.
func (o *checkOptions) checkKeys(
	ctx context.Context, c *config.Config, s *style, result *checked,
) (*keyring.Keyring, error) {
	// Each path counts once: several entries may name the same file.
	missing := map[string]bool{}
	var mu sync.Mutex // keys are opened at once
	keys, err := app.OpenAllKeys(ctx, c, app.KeyOptions{Timeout: o.timeout, Log: quiet, Open: func(ctx context.Context, uri string) (crypto.Provider, error) {
		if path, ok := app.WouldMake(c, uri); ok {
			mu.Lock()
			missing[path] = true
			mu.Unlock()
			return standIn(uri), nil
		}
		return keyservice.Open(ctx, uri)
	}})
	if err != nil {
		return nil, err
	}
	for _, k := range c.Keys {
		result.Keys = append(result.Keys, k.Name)
	}
	s.line("keys    %s  %s", s.green("ok"), strings.Join(result.Keys, ", "))
	if _, err := app.ForeignReader(ctx, c, o.timeout); err != nil {
		keys.Close()
		return nil, err
	}
	for i := range c.Foreign {
		result.Foreign = append(result.Foreign, foreign.KeyPrefix+c.Foreign[i].EntryName())
	}
	if len(result.Foreign) > 0 {
		s.line("foreign %s  %s", s.green("ok"), strings.Join(result.Foreign, ", "))
	}
	result.MissingKeys = slices.Sorted(maps.Keys(missing))
	for _, path := range result.MissingKeys {
		s.line("%s: %s: the key file does not exist yet; serve makes it at its first start", s.dim("note"), path)
	}
	return keys, nil
}

// checkPolicy compiles the policy against the keys and runs its tests and cases. Faults of the policy are
// in the result; the error is for what kept the check from running.
func (o *checkOptions) checkPolicy(
	ctx context.Context, c *config.Config, keys *keyring.Keyring, s *style, result *checked,
) error {
	options, err := app.PolicyOptions(c, keys)
	if err != nil {
		return err
	}
	facts, err := rewrite.Facts()
	if err != nil {
		return err
	}
	report := policy.Check(ctx, policy.CheckOptions{
		Options: options, Cases: o.cases, Facts: facts, Served: servedNamespaces(c)})
	result.OK, result.Policy = report.OK(), &report
	for _, f := range report.Findings {
		s.finding(f)
	}
	if !result.OK {
		s.line("policy  %s", s.red("refused"))
		return nil
	}
	s.line("policy  %s  revision %s, %s and %s passed", s.green("ok"), report.Revision,
		count(report.Tests, "test"), count(report.Cases, "case"))
	return nil
}

// servedNamespaces are those that listeners for anonymous callers name without a pattern. The policy check
// warns of rules about other namespaces, and of these without rules.
func servedNamespaces(c *config.Config) []string {
	var names []string
	for _, l := range c.Listeners {
		if l.IsAnonymous() {
			names = append(names, l.AnonymousNamespaces()...)
		}
	}
	return slices.DeleteFunc(names, func(n string) bool { return strings.Contains(n, "*") })
}

// finding prints one finding of the policy check, with its place in the policy if it has one.
func (s *style) finding(f policy.Finding) {
	paint := s.dim
	switch f.Level {
	case policy.Fault:
		paint = s.red
	case policy.Warning:
		paint = s.yellow
	}
	where := f.Where
	if where != "" {
		where += ": "
	}
	s.line("%s: %s%s", paint(string(f.Level)), where, f.Text)
}
