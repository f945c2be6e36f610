package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Stale is a module whose newest source is not in force.
type Stale struct {
	Namespace string // "" for the platform's module
	Err       error  // why it does not load
}

// Stale lists the modules whose newest source is not in force: the platform's first, then by namespace.
func (p *Policy) Stale() []Stale { return p.stale }

// MissingKeys are the keys that modules in force name and that are not configured for their namespaces. A policy that has
// any may not be put into force: its keys have to be kept.
func (p *Policy) MissingKeys() []MissingKey { return p.missing }

// prepare makes a policy of sources that have been read. before is the policy in force: whatever of the sources does not
// load is replaced by what decides now, in its namespace alone. Without one everything has to load.
func prepare(ctx context.Context, opts Options, files Sources, before *Policy) (*Policy, error) {
	if err := selfTest(); err != nil {
		return nil, err
	}
	return assemble(ctx, opts, files, before)
}

// assemble is prepare without the test of OPA.
func assemble(ctx context.Context, opts Options, files Sources, before *Policy) (*Policy, error) {
	p := &Policy{
		teams:  map[string][2]*query{},
		loaded: map[string]Sources{},
		keys:   keys{rank: opts.KeyRank, fallback: opts.DefaultKey},
		cache:  newCache(cmp.Or(opts.CacheSize, defaultCacheSize)),
	}
	if p.keys.rank == nil {
		p.keys.rank = func(string, string) (int, bool) { return 0, true }
	}
	if p.keys.fallback == nil {
		p.keys.fallback = func(string) (string, bool) { return "default", true }
	}
	l := loader{ctx: ctx, policy: p, before: before, limit: cmp.Or(opts.EvalTimeout, defaultEvalTimeout)}
	faults := files.parse()
	if err := errors.Join(faults...); err != nil && before == nil {
		return nil, err
	}
	var older []Sources
	if before != nil {
		older = append(older, before.loaded[""])
	}
	queries, err := l.choose("", faults[0], files[:1], older...)
	if err != nil {
		return nil, err // every namespace's would fail for the same reasons
	}
	p.platform = queries
	p.sources = slices.Clone(p.loaded[""])
	var errs []error
	for i, team := range files[1:] {
		if err := l.team(team, faults[i+1]); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	p.revision = p.revisionOf()
	for i, namespace := range append([]string{""}, p.Namespaces()...) {
		for d, q := range p.queries(namespace) {
			q.id = uint32(2*i + d)
		}
	}
	return p, nil
}

// revisionOf names the sources in force. A namespace that has kept an older platform module makes a difference.
func (p *Policy) revisionOf() string {
	named := slices.Clone(p.sources)
	for _, team := range p.sources[1:] {
		if platform := p.loaded[team.namespace][0]; string(platform.text) != string(p.sources[0].text) {
			named = append(named, source{namespace: fmt.Sprintf("%q's platform", team.namespace), text: platform.text})
		}
	}
	return named.Revision()
}

// loader fills a policy namespace by namespace.
type loader struct {
	ctx    context.Context
	policy *Policy
	before *Policy // nil: nothing is in force yet
	limit  time.Duration
}

// team loads what decides in a namespace with a module of its own.
func (l *loader) team(newest source, fault error) error {
	platform := l.policy.loaded[""][0]
	var older []Sources
	if l.before != nil {
		if kept := l.before.loaded[newest.namespace]; kept != nil {
			older = []Sources{{platform, kept[1]}, kept}
		}
	}
	queries, err := l.choose(newest.namespace, fault, Sources{platform, newest}, older...)
	if err != nil || queries == [2]*query{} {
		return err
	}
	l.policy.teams[newest.namespace] = queries
	l.policy.sources = append(l.policy.sources, l.policy.loaded[newest.namespace][1])
	return nil
}

// choose takes the newest sources if they load, else the first of the older ones that do, and notes what it took. The
// last of these are in force, so that only a key can be missing. No queries: nothing loads, and nothing was in force.
func (l *loader) choose(namespace string, fault error, newest Sources, older ...Sources) ([2]*query, error) {
	p := l.policy
	if fault == nil {
		queries, missing, err := l.try(namespace, newest)
		for _, m := range missing {
			err = errors.Join(err, m.err)
		}
		if err == nil {
			p.loaded[namespace] = newest
			return queries, nil
		}
		fault = err
	}
	if l.before == nil {
		return [2]*query{}, fault
	}
	p.stale = append(p.stale, Stale{namespace, fault})
	for i, files := range older {
		last := i == len(older)-1
		files = slices.Clone(files)
		if err := errors.Join(files.parse()...); err != nil { // parsed anew: the old ones are in use
			return [2]*query{}, err
		}
		queries, missing, err := l.try(namespace, files)
		if err == nil && (last || len(missing) == 0) {
			p.loaded[namespace], p.missing = files, append(p.missing, missing...)
			return queries, nil
		}
		if last {
			return [2]*query{}, err
		}
	}
	return [2]*query{}, nil
}

// try compiles sources and tries them out.
func (l *loader) try(namespace string, files Sources) ([2]*query, []MissingKey, error) {
	queries, missing, errs := l.policy.compile(files, l.limit)
	if len(errs) > 0 {
		return queries, missing, errors.Join(errs...)
	}
	return queries, missing, dryRun(l.ctx, namespace, queries)
}
