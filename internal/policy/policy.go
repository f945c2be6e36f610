package policy

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

const (
	defaultCacheSize   = 1 << 15
	defaultEvalTimeout = 2 * time.Second // of the wall clock: a starved machine must not fail calls
)

// Policy is one revision of all rules, immutable and safe for concurrent use.
type Policy struct {
	revision string
	platform [2]*query            // by direction, for namespaces without a file
	teams    map[string][2]*query // by namespace
	sources  Sources
	loaded   map[string]Sources // what decides in a namespace was compiled from these; "" for those without a module
	stale    []Stale
	missing  []MissingKey
	keys     keys
	cache    *cache

	evaluations, contentEvaluations atomic.Uint64
}

// Revision names the sources: the same files give the same revision everywhere.
func (p *Policy) Revision() string { return p.revision }

// Evaluations counts the decisions that the cache did not answer, and how many of them
// hung on the payload's content, so that it never could.
func (p *Policy) Evaluations() (all, withContent uint64) {
	return p.evaluations.Load(), p.contentEvaluations.Load()
}

// Namespaces lists the namespaces that have rules of their own.
func (p *Policy) Namespaces() []string { return p.sources.namespaces() }

// Load reads, compiles and tries out a policy. Every fault that it finds is in the error.
func Load(ctx context.Context, opts Options) (*Policy, error) {
	files, err := allSources(ctx, opts)
	if err != nil {
		return nil, err
	}
	return prepare(ctx, opts, files, nil)
}

// compile prepares both queries over the platform's file and at most one namespace's.
// Each namespace is compiled alone, so it cannot even see another's rules.
func (p *Policy) compile(files Sources, limit time.Duration) ([2]*query, []MissingKey, []error) {
	var out [2]*query
	team := files[len(files)-1]
	c := ast.NewCompiler().WithStrict(true).WithCapabilities(capabilities)
	modules := map[string]*ast.Module{}
	for _, f := range files {
		modules[f.name] = f.module
	}
	if c.Compile(modules); c.Failed() {
		return out, nil, sourceErrors(c.Errors)
	}
	var missing []MissingKey
	errs := confined(c.Modules[team.name], team.namespace)
	for _, d := range []Direction{Request, Response} {
		q, faults := newQuery(c, d, team.namespace, files, limit)
		errs = append(errs, faults...)
		out[d] = q
		if q != nil && team.namespace != "" {
			missing = append(missing, p.missingKeys(q, team)...)
		}
	}
	return out, missing, errs
}

// NamedKeys are the keys that the rules for a namespace's requests spell out. Those that a rule computes
// are not among them. The slice is shared: do not change it.
func (p *Policy) NamedKeys(namespace string) []string {
	return p.queries(namespace)[Request].named
}

// MissingKey is a key that a namespace's module names and that is not configured for the namespace.
type MissingKey struct {
	Namespace, Key string
	Location       string // file:line of the rule
	err            error
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
			key, ok := literalMember(r, "key")
			if !ok {
				continue
			}
			if _, _, err := p.keys.resolve(team.namespace, key); err != nil {
				at := location(r.Location)
				all = append(all, MissingKey{team.namespace, key, at, &Error{Kind: BadSource, Package: part.pkg, Location: at, Err: err}})
			}
		}
	}
	return all
}

// literalMember returns a member of a verdict that a rule's head spells out.
func literalMember(r *ast.Rule, name string) (string, bool) {
	if r.Head.Key == nil {
		return "", false
	}
	obj, ok := r.Head.Key.Value.(ast.Object)
	if !ok {
		return "", false
	}
	return stringMember(obj, name)
}

// withKeys is the same policy over other keys, with a small cache of its own.
func (p *Policy) withKeys(rank KeyRank, fallback DefaultKey) *Policy {
	return &Policy{revision: p.revision, platform: p.platform, teams: p.teams, sources: p.sources,
		keys: keys{rank, fallback}, cache: newCache(1 << 10)}
}

// queries returns the queries that decide for a namespace, by direction.
func (p *Policy) queries(namespace string) [2]*query {
	if q, ok := p.teams[namespace]; ok {
		return q
	}
	return p.platform
}

// ReadsFacts tells whether a verdict can hang on the facts about workflow and activity: if not, payloads
// that differ in nothing else get the same one.
func (p *Policy) ReadsFacts(d Direction, namespace string) bool {
	return p.queries(namespace)[d&1].reads.facts() != 0
}

// Decide answers for one payload. The slices of the verdict are shared: do not change them.
func (p *Policy) Decide(ctx context.Context, d Direction, in *Input) (Verdict, error) {
	q := p.queries(in.Namespace)[d&1]
	var space [512]byte
	key, err := q.appendKey(space[:0], in)
	if err != nil {
		return Verdict{}, &Error{Kind: BadInput, Namespace: in.Namespace, Err: err}
	}
	entry, hash := p.cache.get(key)
	if entry != nil && !entry.content {
		v := entry.verdict
		v.Hit = true
		return v.forCaller(in), nil
	}
	v, touchedContent, err := p.evaluate(ctx, q, in, entry != nil)
	if err != nil {
		return Verdict{}, err
	}
	p.evaluations.Add(1)
	if touchedContent {
		p.contentEvaluations.Add(1)
	}
	if entry == nil && len(key) <= maxCacheKey {
		e := &cacheEntry{hash: hash, key: string(key), content: touchedContent}
		if !touchedContent {
			e.verdict = v
		}
		p.cache.put(e)
	}
	return v.forCaller(in), nil
}

// forCaller withdraws an `accept` from callers that nothing vouches for: whoever can
// reach the port could hand in what another caller sealed.
func (v Verdict) forCaller(in *Input) Verdict {
	if v.Action == Accept && (in.Caller == nil || !in.Caller.authenticated()) {
		v.Action = Seal
	}
	return v
}

// evaluate asks the rules. knownToTouch skips the attempt to do without the content.
func (p *Policy) evaluate(
	ctx context.Context, q *query, in *Input, knownToTouch bool,
) (v Verdict, touchedContent bool, err error) {
	e := evaluation{in: in, full: knownToTouch}
	sets, err := q.evaluate(ctx, &e)
	if errors.Is(err, errTouchedContent) {
		e = evaluation{in: in, full: true}
		sets, err = q.evaluate(ctx, &e)
	}
	if err != nil {
		return Verdict{}, e.full, inNamespace(err, in.Namespace)
	}
	v, err = p.decideFrom(ctx, q, &e, sets)
	return v, e.full, err
}

// inNamespace names the call's namespace in an error of the query for all the others.
func inNamespace(err error, namespace string) error {
	var e *Error
	if errors.As(err, &e) && e.Namespace == "" {
		e.Namespace = namespace
	}
	return err
}

// decideFrom parses the sets and unites them.
func (p *Policy) decideFrom(ctx context.Context, q *query, e *evaluation, sets []ast.Value) (Verdict, error) {
	var proposals []proposal
	for i, set := range sets {
		parsed, err := q.parse(set, e.in, e.full)
		if err != nil {
			return Verdict{}, q.locateVerdict(ctx, q.parts[i], e.in, err)
		}
		proposals = append(proposals, parsed...)
	}
	v, err := unite(q.direction, e.in, proposals, p.keys, e.touched.unknown || e.touched.blind)
	if err != nil {
		return Verdict{}, p.locateKey(ctx, q, e.in, err)
	}
	return v, nil
}

// parse reads all verdicts of a set.
func (q *query) parse(v ast.Value, in *Input, sawContent bool) ([]proposal, error) {
	set, ok := v.(ast.Set)
	if !ok {
		return nil, fmt.Errorf("%s is not a set", q.direction)
	}
	var out []proposal
	for _, t := range set.Slice() {
		pr, err := parseProposal(t.Value, q.direction, in.Kind)
		if err != nil {
			return nil, err
		}
		if sawContent && pr.reason != "" && !q.literals[pr.reason] {
			pr.reason = "denied by policy (its reason was computed from the payload, so it is not repeated here)"
		}
		pr.computedKey = sawContent && pr.key != "" && !q.literals[pr.key]
		out = append(out, pr)
	}
	return out, nil
}
