package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Level says what a finding means for a release.
type Level string

const (
	// Fault keeps the policy from being used, or makes it decide otherwise than its tests say.
	Fault Level = "error"
	// Warning is probably not what its author meant.
	Warning Level = "warning"
	// Note is worth knowing.
	Note Level = "note"
)

// Finding is one thing that a check found.
type Finding struct {
	Level Level  `json:"level"`
	Where string `json:"where,omitempty"` // file:line, file, or the name of a namespace
	Text  string `json:"text"`
}

// CallFacts says which facts are known about the payloads of one kind in a request. A fact in no set is
// always unknown.
type CallFacts struct {
	RPC, Kind            string
	Known, NotApplicable FactSet
	// ByTask facts are not in the message. They come from the task's token, or from the proxy's memory of
	// the task that it handed out, and are unknown once that is lost.
	ByTask FactSet
}

// CheckOptions say what to check a policy against.
type CheckOptions struct {
	Options
	// Cases are files with cases beside those that are found next to the policies:
	// cases.yaml and *_cases.yaml.
	Cases []string
	// Facts are those of each RPC; nil leaves that part of the check out.
	Facts []CallFacts
	// Served lists the namespaces that the configuration names without a pattern.
	Served []string
	// Serves reports whether calls may name a namespace; nil: all.
	Serves func(namespace string) bool
	// KnownKey reports whether a key is configured for any namespace; nil: all are.
	KnownKey func(name string) bool
}

// Report is what a check found.
type Report struct {
	Revision string    `json:"revision"` // "" where the policy did not load
	Tests    int       `json:"tests"`    // Rego tests that ran
	Cases    int       `json:"cases"`    // cases that ran
	Findings []Finding `json:"findings,omitempty"`
	// Keys are those that rules spell out, for the namespaces in which they are looked at.
	Keys []NamedKey `json:"-"`
}

// NamedKey is a key that a rule spells out. Namespace "" is each without a policy of its own.
type NamedKey struct{ Namespace, Key string }

// OK reports whether the policy may be used.
func (r Report) OK() bool {
	return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Level == Fault })
}

func (r *Report) add(l Level, where, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{l, where, fmt.Sprintf(format, args...)})
}

// Check loads a policy as the proxy would, runs its tests and cases, and looks for rules that compile but
// do not do what they seem to. A proxy that starts only loads it: a failing test must not keep proxies from
// restarting.
func Check(ctx context.Context, opts CheckOptions) Report {
	var r Report
	p, err := Load(ctx, opts.Options)
	if err != nil {
		r.addErrors(err)
		return r
	}
	r.Revision = p.Revision()
	r.runTests(ctx, opts.Options, p.sources)
	r.runCases(ctx, opts, p)
	r.lint(opts, p)
	r.lintFiles(opts)
	return r
}

// addErrors adds each of joined errors as a fault.
func (r *Report) addErrors(err error) {
	//nolint:errorlint // the join itself is meant, not an error within
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			r.addErrors(err)
		}
		return
	}
	where := ""
	if e, ok := errors.AsType[*Error](err); ok {
		bare := *e
		where, bare.Location, err = e.Location, "", &bare
	}
	r.add(Fault, where, "%s", strings.TrimPrefix(err.Error(), "policy: "))
}

// casesName is what files with cases are called, or end in behind a _.
const casesName = "cases.yaml"

// runCases decides the cases of the given files and of those beside the policies.
func (r *Report) runCases(ctx context.Context, opts CheckOptions, p *Policy) {
	names := slices.Clone(opts.Cases)
	var folders []string
	if opts.File != "" {
		folders = append(folders, filepath.Dir(opts.File))
	}
	if opts.Namespaces != "" {
		clean := filepath.Clean(opts.Namespaces)
		folders = append(folders, clean, filepath.Dir(clean))
	}
	for _, folder := range unique(folders) {
		for _, pattern := range []string{casesName, "*_" + casesName} {
			found, err := filepath.Glob(filepath.Join(folder, pattern))
			if err != nil {
				r.add(Fault, folder, "cannot look for cases: %v", err)
			}
			names = append(names, found...)
		}
	}
	for _, name := range unique(names) {
		f, err := readCases(name)
		if err != nil {
			r.add(Fault, "", "%v", err)
			continue
		}
		p := f.policy(p, opts.KeyRank != nil)
		for i, c := range f.Cases {
			r.Cases++
			if err := c.try(ctx, p); err != nil {
				r.add(Fault, name, "case %q: %v", cmp.Or(c.Name, fmt.Sprintf("case %d", i+1)), err)
			}
		}
	}
}
