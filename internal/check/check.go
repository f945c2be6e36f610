// Package check finds what does not work, or not as it seems to, in a config, its keys and its policy, before a proxy
// serves with them. It reports everything that it finds in one run, makes no file, and asks key services and upstreams for an
// answer only where its options allow that.
//
//   - check.go: the order of the checks, and their result
//   - keys.go: which key encryption keys are asked, and what they answer
//   - certificates.go: certificates that do not fit or have expired
//   - life.go: workflows that run for longer than keys live
//   - connect.go: upstreams and issuers' key sets; store.go: the key store
package check

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// Options say what to check.
type Options struct {
	Flags config.Flags
	// Namespaces is a folder of namespaces' policies in place of the config's; "": the config's.
	Namespaces string
	// Cases are case files, beside those that lie next to the policy.
	Cases []string
	// Timeout is for each key, upstream and key set.
	Timeout time.Duration
	// Offline asks no key service, and fetches no bundle.
	Offline bool
	// Connect asks upstreams and issuers of tokens too.
	Connect bool
	// Strict makes warnings errors.
	Strict bool
}

// Result is what a check found, as `check --output json` shows it.
type Result struct {
	// OK means that there is no error; with Options.Strict, no warning either.
	OK bool `json:"ok"`
	// Errors, Warnings and Notes are about everything but the policy, each with its place.
	Errors      []string `json:"errors,omitempty"`
	Warnings    []string `json:"warnings,omitempty"`
	Notes       []string `json:"notes,omitempty"`
	Listeners   int      `json:"listeners"`
	Upstreams   int      `json:"upstreams"`
	CodecServer bool     `json:"codec_server"`
	// Keys are the names that the config gives them, in its order, which is their rank.
	Keys []string `json:"keys,omitempty"`
	// DefaultKeys are the keys that seal where a rule names none: of the namespaces that the config names, and of
	// all others, which are "*".
	DefaultKeys map[string]string `json:"default_keys,omitempty"`
	// Foreign are the names by which policies see the keys of other tools' payloads.
	Foreign []string `json:"foreign,omitempty"`
	// MissingKeys are files that serve makes at its first start.
	MissingKeys []string       `json:"missing_key_files,omitempty"`
	Policy      *policy.Report `json:"policy,omitempty"`

	// Sections say for each part whether it is right, in the order of the checks.
	Sections []Section `json:"-"`
}

// Section is a part of what was checked.
type Section struct {
	Name    string
	OK      bool
	Skipped bool
	Text    string // what the part consists of, or why it was skipped
}

// run is one check.
type run struct {
	options Options
	result  Result
	review  *config.Review
	config  *config.Config
	set     *keyring.Set // by names alone; nil: the config's keys are not known
}

// Run checks everything that can be checked.
func Run(ctx context.Context, o Options) Result {
	r := &run{options: o}
	text, err := o.Flags.Read()
	if err != nil {
		r.fail("%v", err)
		return r.result
	}
	r.review = o.Flags.Review(text)
	r.config = r.review.Config
	if o.Namespaces != "" {
		r.config.Policy.Namespaces = o.Namespaces
	}
	r.section("config", r.checkConfig)
	rules := r.checkPolicy(ctx) // first, since it returns which keys namespaces need
	r.section("keys", func() (string, bool) { return r.checkKeys(ctx) })
	if r.config.KeyStore != nil {
		r.section("store", func() (string, bool) { return r.checkStore(ctx) })
	}
	if r.review.Decoded && len(r.review.Errors) == 0 {
		r.checkLife(ctx)
	}
	if len(r.config.Foreign) > 0 {
		r.section("foreign", func() (string, bool) { return r.checkForeign(ctx) })
	}
	r.result.Sections = append(r.result.Sections, rules)
	if o.Connect && r.review.Decoded {
		r.section("connect", func() (string, bool) { return r.checkConnections(ctx) })
	}
	r.result.OK = len(r.result.Errors) == 0 && r.result.Policy.OK() && !(o.Strict && r.warned())
	return r.result
}

// warned reports whether there is any warning.
func (r *run) warned() bool {
	return len(r.result.Warnings) > 0 || slices.ContainsFunc(r.result.Policy.Findings, func(f policy.Finding) bool { return f.Level == policy.Warning })
}

func (r *run) fail(format string, args ...any) {
	r.result.Errors = append(r.result.Errors, strings.Split(fmt.Sprintf(format, args...), "\n")...)
}

func (r *run) warn(format string, args ...any) {
	r.result.Warnings = append(r.result.Warnings, fmt.Sprintf(format, args...))
}

func (r *run) note(format string, args ...any) {
	r.result.Notes = append(r.result.Notes, fmt.Sprintf(format, args...))
}

// section runs the check of a part, which returns what the part consists of, and false if it was skipped.
func (r *run) section(name string, check func() (string, bool)) {
	before := len(r.result.Errors)
	text, done := check()
	r.result.Sections = append(r.result.Sections, Section{Name: name, OK: len(r.result.Errors) == before, Skipped: !done, Text: text})
}

// checkConfig reads everything that the config names on this machine.
func (r *run) checkConfig() (string, bool) {
	c := r.config
	r.result.Errors, r.result.Warnings = append(r.result.Errors, r.review.Errors...), append(r.result.Warnings, r.review.Warnings...)
	r.checkCertificates()
	if len(r.result.Errors) == 0 {
		if _, err := app.OpenEnds(c, quiet); err != nil {
			r.fail("%v", r.review.Locate(err))
		}
		if _, err := app.SurveyDetector(c); err != nil {
			r.fail("%v", r.review.Locate(err))
		}
	}
	r.result.Listeners, r.result.Upstreams, r.result.CodecServer = len(c.Listeners), len(c.Upstreams), c.CodecServer != nil
	listeners := count(r.result.Listeners, "listener")
	if r.result.CodecServer {
		listeners += ", codec server"
	}
	r.nameKeys()
	return listeners + ", " + count(r.result.Upstreams, "upstream"), true
}

// nameKeys lists the keys by their names.
func (r *run) nameKeys() {
	c := r.config
	if len(c.Keys) == 0 || r.options.Offline && r.options.Flags.File == "" && r.options.Flags.Key == "" {
		return // the default config's key says nothing about the installation
	}
	set, err := keyring.NewSet(&keyring.Options{Keys: c.KeyConfigs(), Grants: c.KeyGrants(), Realm: c.Realm, SealedAs: c.SealedAs()})
	if err != nil {
		if r.review.Decoded && len(r.review.Errors) == 0 {
			r.fail("%v", err)
		}
		return
	}
	r.set, r.result.DefaultKeys = set, map[string]string{}
	for _, k := range c.Keys {
		r.result.Keys = append(r.result.Keys, k.Name)
	}
	if !r.review.Decoded {
		return
	}
	others, ok := set.DefaultKey(anyOther)
	if ok {
		r.result.DefaultKeys["*"] = others
	}
	for _, namespace := range c.NamedNamespaces() {
		if key, ok := set.DefaultKey(namespace); ok && key != others {
			r.result.DefaultKeys[namespace] = key
		}
	}
}

// anyOther stands for a namespace that the config does not name. No namespace is called so.
const anyOther = "\x00"

// checkPolicy compiles the policy against the names of the keys, and runs its tests and cases.
func (r *run) checkPolicy(ctx context.Context) Section {
	section := Section{Name: "policy"}
	r.result.Policy = new(policy.Report)
	if r.options.Offline && r.config.Policy.Bundle != nil {
		section.Skipped, section.Text = true, "it is a bundle, which --offline does not fetch"
		return section
	}
	options, err := app.PolicyOptions(r.config, nil)
	if err != nil {
		r.fail("%v", err)
		return section
	}
	o := policy.CheckOptions{Options: options, Cases: r.options.Cases}
	if o.Facts, err = rewrite.Facts(); err != nil {
		r.fail("%v", err)
		return section
	}
	if r.set != nil {
		o.KeyRank, o.DefaultKey, o.KnownKey = r.set.Rank, r.set.DefaultKey, r.set.Names
	}
	if r.review.Decoded {
		o.Served, o.Serves = served(r.config), r.config.Serves
	}
	*r.result.Policy = policy.Check(ctx, o)
	r.checkCandidate(ctx)
	section.OK = r.result.Policy.OK()
	section.Text = fmt.Sprintf("revision %s, %s and %s passed", r.result.Policy.Revision, count(r.result.Policy.Tests, "test"), count(r.result.Policy.Cases, "case"))
	return section
}

// checkCandidate loads the policy on trial against the names of the keys.
func (r *run) checkCandidate(ctx context.Context) {
	o, ok := app.CandidateOptions(r.config, nil)
	if !ok {
		return
	}
	if r.set != nil {
		o.KeyRank, o.DefaultKey = r.set.Rank, r.set.DefaultKey
	}
	p, err := policy.Load(ctx, o)
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			r.fail("policy.candidate: %s", strings.TrimPrefix(strings.TrimSpace(line), "policy: "))
		}
		return
	}
	r.note("policy.candidate: revision %s is compared with the policy in force, and decides nothing", p.Revision())
}

// served are the namespaces that listeners for anonymous callers name without a pattern. The check of the policy warns of
// rules about other namespaces, and of these without rules.
func served(c *config.Config) []string {
	var names []string
	for _, l := range c.Listeners {
		if l.IsAnonymous() {
			names = append(names, l.AnonymousNamespaces()...)
		}
	}
	return slices.DeleteFunc(names, func(n string) bool { return strings.Contains(n, "*") })
}

// checkForeign reads the keys of other tools' payloads.
func (r *run) checkForeign(ctx context.Context) (string, bool) {
	if len(r.result.Errors) > 0 && !r.review.Decoded {
		return "the config has errors", false
	}
	for i := range r.config.Foreign {
		one := *r.config
		one.Foreign = r.config.Foreign[i : i+1]
		r.result.Foreign = append(r.result.Foreign, foreign.KeyPrefix+one.Foreign[0].EntryName())
		if r.options.Offline && one.Foreign[0].KMS != "" || len(r.review.Errors) > 0 {
			continue
		}
		if _, err := app.ForeignReader(ctx, &one, r.options.Timeout); err != nil {
			r.fail("%s", strings.ReplaceAll(err.Error(), "foreign[0]", r.review.Place(fmt.Sprintf("$.foreign[%d]", i))))
		}
	}
	return strings.Join(r.result.Foreign, ", "), true
}

// count returns a number with its noun, in the plural unless it is 1.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
