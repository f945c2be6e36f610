package app

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// state is what is in force of the config and the policies, and why the sources differ from it. It is
// immutable.
type state struct {
	configured
	set      *keyring.Set
	policy   *policy.Policy
	refused  bool    // nothing of the config file is in force but its revoked data keys
	problems []error // why the config file is not in force, or parts of it
	// restart are the keys at the config's top level that have changed since the start and that only a start
	// takes over.
	restart []string
}

// configured is what a config contains of keys and formats.
type configured struct {
	// keys are in the order of rank, the first one the most sensitive. build may change their URIs and
	// add entries.
	keys    []keyring.KeyConfig
	grants  []keyring.Grant
	revoked []crypto.KeyID
	foreign *foreign.Reader
	// foreignMissing are the errors of foreign keys that do not answer.
	foreignMissing []error
}

func configuredBy(c *config.Config, others *foreign.Reader, missing []error) configured {
	return configured{keys: c.KeyConfigs(), grants: c.KeyGrants(), revoked: c.DataKeyIDs(),
		foreign: others, foreignMissing: missing}
}

// unanswered are the errors of the keys that do not answer. What needs them is disabled.
func (s *state) unanswered() []error {
	errs := slices.Clone(s.foreignMissing)
	for _, u := range s.set.Unanswered() {
		errs = append(errs, prefixLines("keys", u.Err))
	}
	return errs
}

// causes are all reasons why the config file is not wholly in force, other than keys that only a start takes over.
func (s *state) causes() []error { return append(slices.Clone(s.problems), s.unanswered()...) }

// noKey reports whether no configured key answers.
func (s *state) noKey() bool { return len(s.keys) > 0 && len(s.set.Unanswered()) == len(s.keys) }

// prepare makes the state that the sources describe, as far as possible. Nothing that is in force changes.
// text is that of the config file. unread is the reason why it could not be read; text is the one read last
// then.
func (a *applier) prepare(
	ctx context.Context, before *state, text []byte, unread error, modules policy.Sources,
) *state {
	var c *config.Config
	err := unread
	if err == nil {
		c, err = a.flags.Parse(text)
	}
	if err == nil {
		var others *foreign.Reader
		var missing []error
		if others, missing, err = a.changedForeign(ctx, before, c); err == nil {
			var now *state
			if now, err = a.build(ctx, before, configuredBy(c, others, missing), modules); err == nil {
				now.restart = changedSince(a.started, c)
				return now
			}
		}
	}
	// The config is refused. Its revoked data keys hold all the same, and the policies are tried with
	// the keys in force.
	old := before.configured
	if c != nil {
		old.revoked = append(slices.Clone(old.revoked), c.DataKeyIDs()...)
		slices.SortFunc(old.revoked, func(a, b crypto.KeyID) int { return slices.Compare(a[:], b[:]) })
		old.revoked = slices.Compact(old.revoked)
	}
	now, failed := a.build(ctx, before, old, modules)
	if failed != nil {
		kept := *before
		now, err = &kept, errors.Join(err, failed)
	}
	now.refused, now.problems, now.restart = true, []error{err}, before.restart
	return now
}

// changedForeign returns the reader for a changed config. A reader whose keys have answered stays in force as long as they do
// not answer again.
func (a *applier) changedForeign(
	ctx context.Context, before *state, c *config.Config,
) (r *foreign.Reader, missing []error, err error) {
	r, missing, err = foreignReader(ctx, c, a.timeout)
	if err == nil && len(missing) > 0 && len(before.foreignMissing) == 0 && before.foreign != nil {
		return nil, nil, errors.Join(missing...)
	}
	return r, missing, err
}

// preparePolicy is prepare where only policies have changed.
func (a *applier) preparePolicy(ctx context.Context, before *state, modules policy.Sources) *state {
	// Keys are not prepared again: a policy has to load while no key answers.
	now := *before
	p, err := a.engine.Prepare(ctx, modules, before.set.Rank, before.set.DefaultKey)
	if err == nil && len(p.MissingKeys()) == 0 {
		now.policy = p
	}
	return &now
}

// build makes a state of a config's keys and the policies. Where a key's new URI does not answer, its
// old one stays, and keys that policies in force name are kept although the config does not contain
// them any more.
func (a *applier) build(ctx context.Context, before *state, w configured, modules policy.Sources) (*state, error) {
	now := &state{configured: w}
	now.keys = slices.Clone(w.keys)
	if err := a.load(ctx, now, modules); err != nil {
		return nil, err
	}
	refused := now.unanswered()
	// What the policy needs depends on names alone, so one more preparation is enough for URIs and for
	// entries that are kept.
	kept, missing := now.keepURIs(before), now.policy.MissingKeys()
	if err := now.keepNamed(before, missing); err != nil {
		return nil, err
	}
	if kept || len(missing) > 0 {
		if err := a.load(ctx, now, modules); err != nil {
			return nil, err
		}
	}
	if len(now.policy.MissingKeys()) > 0 {
		return nil, errors.New("policy: keys that it names are not configured")
	}
	// A key that is unanswered still is disabled. The others have kept the URIs before, which the file does not have.
	disabled := fmt.Sprint(now.unanswered())
	for _, err := range refused {
		if !strings.Contains(disabled, err.Error()) {
			now.problems = append(now.problems, err)
		}
	}
	return now, nil
}

// load prepares the keys of a state, and the policies against them.
func (a *applier) load(ctx context.Context, now *state, modules policy.Sources) (err error) {
	asking, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel() // a key that does not answer leaves the policy its time
	if now.set, err = a.keys.Prepare(asking, now.keys, now.grants, now.revoked); err != nil {
		return prefixLines("keys", err)
	}
	if now.policy, err = a.engine.Prepare(ctx, modules, now.set.Rank, now.set.DefaultKey); err != nil {
		return prefixLines("policy", err)
	}
	return nil
}

// keepURIs gives keys whose active URI does not answer the URIs that they have in force, and reports
// whether there are any.
func (s *state) keepURIs(before *state) bool {
	kept := false
	for _, u := range s.set.Unanswered() {
		key := &s.keys[u.Entry]
		i := slices.IndexFunc(before.keys, func(k keyring.KeyConfig) bool { return k.Name == key.Name })
		if i >= 0 && before.keys[i].Active != key.Active {
			key.Active, key.OpenOnly = before.keys[i].Active, before.keys[i].OpenOnly
			kept = true
		}
	}
	return kept
}

// keepNamed adds the entries by which policies in force use keys now, each for its namespace alone and
// at its old rank.
func (s *state) keepNamed(before *state, missing []policy.MissingKey) error {
	for i, m := range missing {
		if slices.ContainsFunc(missing[:i], func(o policy.MissingKey) bool {
			return o.Namespace == m.Namespace && o.Key == m.Key
		}) {
			continue // several rules may name the same key
		}
		rank, ok := before.set.Rank(m.Namespace, m.Key)
		if !ok {
			return fmt.Errorf("policy: key %q is not configured for namespace %q", m.Key, m.Namespace)
		}
		kept := before.keys[rank]
		kept.Namespaces = []string{m.Namespace}
		at := len(s.keys) // before the first entry that stood below it
		for _, later := range slices.Backward(before.keys[rank+1:]) {
			if i := slices.IndexFunc(s.keys, func(k keyring.KeyConfig) bool { return k.Name == later.Name }); i >= 0 {
				at = i
			}
		}
		s.keys = slices.Insert(s.keys, at, kept)
		s.problems = append(s.problems, fmt.Errorf(
			"keys: %q stays configured for namespace %q: its policy in force names the key (%s)",
			m.Key, m.Namespace, m.Location))
	}
	return nil
}

// applied are the keys at the config's top level that apply while the proxy runs.
var applied = []string{"keys", "grants", "revoked_data_keys", "foreign"}

// restartSections are the keys at the config's top level that only a start takes over.
var restartSections = func() (names []string) {
	for field := range reflect.TypeFor[config.Config]().Fields() {
		if name := field.Tag.Get("yaml"); name != "" && !slices.Contains(applied, name) {
			names = append(names, name)
		}
	}
	return names
}()

// changedSince lists the keys at the config's top level that differ and that only a start takes over.
func changedSince(started, now *config.Config) (names []string) {
	a, b := reflect.ValueOf(started).Elem(), reflect.ValueOf(now).Elem()
	for i := range a.NumField() {
		name := a.Type().Field(i).Tag.Get("yaml")
		if !slices.Contains(applied, name) && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			names = append(names, name)
		}
	}
	return names
}
