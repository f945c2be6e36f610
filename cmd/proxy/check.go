package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/check"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// checkOptions are the flags of check.
type checkOptions struct {
	options check.Options
	output  outputFormat
}

// checkCommand is for pipelines and pre-commit hooks: it finds what would keep serve from working, and what
// the policy's authors would see only in production.
func checkCommand() *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check config, policy and keys without serving",
		Long: `check reads the config, compiles the policy, runs the tests and cases that lie beside it, calls every key service and the key
store, and looks for what is valid and yet does not work: rules that never hold, namespaces without a key or an upstream, entries that an earlier one
hides, certificates that have expired. It reports all that it finds, makes no key file and, without --connect, talks to no Temporal
server. The exit code is 1 if there is an error.`,
		Example: `  temporal-seal check --config config.yaml --connect
  temporal-seal check --config config.yaml --offline --namespaces ./policies --strict`,
		Args: cobra.NoArgs,
		RunE: o.run,
	}
	f := cmd.Flags()
	addFlags(&o.options.Flags, cmd)
	f.StringVar(&o.options.Namespaces, "namespaces", "", "folder of namespaces' policies, in place of the config's")
	f.StringSliceVar(&o.options.Cases, "cases", nil, "case files, beside those that lie next to the policy")
	f.BoolVar(&o.options.Offline, "offline", false, "call no key service and no key store, and fetch no policy bundle")
	f.BoolVar(&o.options.Connect, "connect", false, "also call upstreams and issuers of tokens, and make a data key with each key that seals")
	f.BoolVar(&o.options.Strict, "strict", false, "take warnings for errors")
	f.DurationVar(&o.options.Timeout, "timeout", defaultStartTimeout, "how long each key, upstream and key set may take to answer")
	cmd.MarkFlagsMutuallyExclusive("offline", "connect")
	o.output.flag(cmd)
	return cmd
}

// run checks and prints the result: errors of everything but the policy go to standard error. In the JSON form everything
// is part of the document, so that a pipeline reads one document in every case.
func (o *checkOptions) run(cmd *cobra.Command, _ []string) error {
	stdout := cmd.OutOrStdout()
	result := check.Run(cmd.Context(), o.options)
	var err error
	if o.output.json() {
		err = writeJSON(stdout, result)
	} else {
		s := newStyle(stdout)
		s.checked(&result)
		err = s.err
	}
	switch {
	case err != nil || result.OK:
		return err
	case len(result.Errors) > 0 && !o.output.json():
		return errors.New(strings.Join(result.Errors, "\n"))
	}
	return exitCode(1)
}

// checked prints what was found of each part.
func (s *style) checked(r *check.Result) {
	for _, text := range r.Warnings {
		s.line("%s: %s", s.yellow("warning"), text)
	}
	for _, text := range r.Notes {
		s.line("%s: %s", s.dim("note"), text)
	}
	if r.Policy != nil {
		for _, f := range r.Policy.Findings {
			s.finding(f)
		}
	}
	for _, part := range r.Sections {
		state, text := s.green("ok"), part.Text
		switch {
		case part.Skipped:
			state = s.dim("not checked")
		case !part.OK:
			state, text = s.red("refused"), ""
		}
		s.line("%-7s %s  %s", part.Name, state, text)
		if part.Name == "keys" && len(r.DefaultKeys) > 0 {
			s.line("%-7s %s", "", defaultKeys(r.DefaultKeys))
		}
	}
}

// defaultKeys says which key is the default, in one sentence.
func defaultKeys(keys map[string]string) string {
	var parts []string
	for _, namespace := range slices.Sorted(maps.Keys(keys)) {
		if namespace != "*" {
			parts = append(parts, fmt.Sprintf("%s in namespace %s", keys[namespace], namespace))
		}
	}
	if others := keys["*"]; others != "" && len(parts) == 0 {
		parts = []string{others + " in every namespace"}
	} else if others != "" {
		parts = append(parts, others+" in all others")
	} else {
		parts = append(parts, "none in all others")
	}
	return "the default key, which seals where a rule names none, is " + strings.Join(parts, ", ")
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
