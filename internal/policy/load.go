package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"
)

const (
	defaultCacheSize = 1 << 15
	// evalTimeout is of the wall clock: a starved machine must not fail calls. It grows with the content.
	evalTimeout = 2 * time.Second
)

// Stale is a module whose newest source is not in force.
type Stale struct {
	Namespace string // "" for the platform's module
	Err       error  // why it does not load
	Held      bool   // no earlier module is in force, so nothing is decided in the namespace
}

// Stale lists the modules whose newest source is not in force: the platform's first, then by namespace.
func (p *Policy) Stale() []Stale { return p.stale }

// MissingKey is a key that a namespace's module names and that is not configured for the namespace.
type MissingKey struct {
	Namespace, Key string
	Location       string // file:line of the rule
	err            error
}

// MissingKeys are the keys that modules in force name and that are not configured for their namespaces. A
// policy that has any may not be put into force: its keys have to be kept.
func (p *Policy) MissingKeys() []MissingKey { return p.missing }

// Load reads, compiles and tries out a policy. Every fault that it finds is in the error.
func Load(ctx context.Context, opts Options) (*Policy, error) {
	if opts.Bundle == nil {
		return prepare(ctx, opts, readSources(opts, nil), nil)
	}
	files, err := fetchOnce(ctx, *opts.Bundle)
	if err != nil {
		return nil, err
	}
	return prepare(ctx, opts, files, nil)
}

// prepare makes a policy of sources that have been read. before is the policy in force: whatever of the
// sources does not load is replaced by what decides now, in its namespace alone. If that is atStart, the namespace is held.
// If before is nil, everything has to load.
func prepare(ctx context.Context, opts Options, files Sources, before *Policy) (*Policy, error) {
	if err := selfTest(); err != nil {
		return nil, err
	}
	return assemble(ctx, opts, files, before)
}

// atStart stands for the policy in force before there is any.
var atStart = new(Policy)

// assemble is prepare without the test of OPA.
func assemble(ctx context.Context, opts Options, files Sources, before *Policy) (*Policy, error) {
	p := &Policy{
		units: map[string]unit{},
		held:  map[string]error{},
		keys:  newKeys(opts.KeyRank, opts.DefaultKey),
		names: newNames(opts.RPCs), unmatched: opts.Unmatched, mask: opts.Masker,
		missingOf: opts.MissingSubject, noSubjects: opts.NoSubjects,
		cache:  newCache(cmp.Or(opts.CacheSize, defaultCacheSize)),
		counts: new(counts),
	}
	if before != nil && before != atStart {
		p.counts = before.counts
	}
	l := loader{ctx: ctx, policy: p, before: before}
	faults := files.parse()
	if err := l.chooseAll(files, faults); err != nil {
		return nil, err
	}
	p.revision = p.revisionOf()
	return p, nil
}

// chooseAll takes what loads of every file. While nothing is in force, the error has the faults of all files.
func (l *loader) chooseAll(files Sources, faults []error) error {
	var errs []error
	failed := false // the platform's module
	for i, f := range files {
		switch {
		case i == 0:
			err := l.choose("", faults[0], Sources{f})
			if failed = err != nil; failed && (l.before != nil || faults[0] != nil) {
				if l.before == nil || l.before == atStart {
					errs = append(errs, faults[1:]...) // without the platform's module no other can be compiled
				}
				return errors.Join(append([]error{err}, errs...)...)
			}
			errs = append(errs, err)
		case failed:
			errs = append(errs, within(l.choose(f.namespace, faults[i], Sources{files[0], f}), f.name))
		default:
			errs = append(errs, l.choose(f.namespace, faults[i], Sources{l.policy.sources[0], f}))
		}
	}
	return errors.Join(errs...)
}

// within returns those of joined errors that are about lines of a file: the platform's faults show in every namespace.
func within(err error, file string) error {
	//nolint:errorlint // the join itself is meant, not an error within
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var errs []error
		for _, err := range joined.Unwrap() {
			errs = append(errs, within(err, file))
		}
		return errors.Join(errs...)
	}
	if e, ok := errors.AsType[*Error](err); ok && strings.HasPrefix(e.Location, file+":") {
		return err
	}
	return nil
}

// revisionOf names the sources in force. A namespace that has kept an older platform module makes a
// difference.
func (p *Policy) revisionOf() string {
	named := slices.Clone(p.sources)
	for _, team := range p.sources[1:] {
		if platform := p.units[team.namespace].modules[0]; string(platform.text) != string(p.sources[0].text) {
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
}

// choose takes a namespace's newest modules if they load, else the first of the older ones that do. The
// last of them are the modules in force, which compiled before, so that they can fail only for a key that is gone. Where
// nothing loads and nothing was in force, the platform decides alone, as it did before the file came. At the start nobody
// knows what was in force, so the namespace is held, and stays so until its file loads or is gone.
func (l *loader) choose(namespace string, fault error, newest Sources) error {
	if fault == nil {
		u, missing, err := l.try(namespace, newest)
		for _, m := range missing {
			err = errors.Join(err, m.err)
		}
		if err == nil {
			l.keep(namespace, u)
			return nil
		}
		fault = err
	}
	if l.before == nil || l.before == atStart && namespace == "" {
		return fault
	}
	held := l.before == atStart || l.before.held[namespace] != nil
	l.policy.stale = append(l.policy.stale, Stale{namespace, fault, held})
	if held {
		l.policy.held[namespace] = fault
		return nil
	}
	var older []Sources
	if kept := l.before.units[namespace].modules; kept != nil {
		if namespace != "" {
			older = append(older, Sources{newest[0], kept[1]})
		}
		older = append(older, kept)
	}
	for i, files := range older {
		last := i == len(older)-1
		files = slices.Clone(files)
		if err := errors.Join(files.parse()...); err != nil { // parsed anew: the old ones are in use
			return err
		}
		u, missing, err := l.try(namespace, files)
		if err == nil && (last || len(missing) == 0) {
			l.policy.missing = append(l.policy.missing, missing...)
			l.keep(namespace, u)
			return nil
		}
		if last {
			return err
		}
	}
	return nil
}

// keep adds a unit to the policy.
func (l *loader) keep(namespace string, u unit) {
	p := l.policy
	var running chan struct{}
	if namespace != "" {
		// A namespace whose rules take long must leave CPUs to the others.
		running = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
	}
	for d, q := range u.queries {
		q.id, q.running = uint32(2*len(p.units)+d), running
	}
	p.units[namespace] = u
	p.sources = append(p.sources, u.modules[len(u.modules)-1])
}

// try compiles the platform's module and at most one namespace's, and tries them out. Each namespace is
// compiled alone, so that it cannot even see another's rules.
func (l *loader) try(namespace string, files Sources) (u unit, missing []MissingKey, err error) {
	u.modules = files
	c := newCompiler(files.named())
	if c.Compile(files.modules()); c.Failed() {
		return u, nil, sourceError(c.Errors)
	}
	team := files[len(files)-1]
	errs := append(confined(c.Modules[team.name], namespace), misnamed(c, team.name, l.policy.names)...)
	for d := range u.queries {
		q, err := newQuery(c, Direction(d), files)
		u.queries[d] = q
		errs = append(errs, err)
		errs = append(errs, q.withoutSubjects(l.policy.noSubjects)...)
		errs = append(errs, masksWrongly(l.ctx, q)...)
		if namespace != "" {
			missing = append(missing, l.policy.missingKeys(q, team)...)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return u, missing, err
	}
	return u, missing, dryRun(l.ctx, namespace, u.queries)
}

// missingKeys finds keys that a namespace's rules spell out and may not use, so that
// the fault shows when the file is loaded and not when the rule first holds.
func (p *Policy) missingKeys(q *query, team source) []MissingKey {
	var all []MissingKey
	for _, part := range q.parts {
		if part.file != team.name {
			continue
		}
		for _, r := range part.rules {
			if _, err := p.keys.resolve(team.namespace, r.key); err != nil && r.key != "" {
				err := &Error{Package: part.pkg, Location: r.line, Err: err}
				all = append(all, MissingKey{team.namespace, r.key, r.line, err})
			}
		}
	}
	return all
}
