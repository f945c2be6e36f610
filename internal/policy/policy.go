package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Policy is one revision of all rules, immutable and safe for concurrent use.
type Policy struct {
	revision string
	sources  Sources         // in force
	units    map[string]unit // by namespace; "" decides for those without a module
	stale    []Stale
	held     map[string]error // by namespace: why nothing is decided there
	missing  []MissingKey
	keys     keys
	names    names // of what cases are held to, as rules are

	unmatched  Unmatched      // see Options
	mask       Masker         // see Options
	missingOf  MissingSubject // see Options
	noSubjects string         // see Options

	cache  *cache
	counts *counts
}

// unit is what decides in a namespace.
type unit struct {
	modules Sources // the platform's, and behind it the namespace's own if there is one
	queries [2]*query
}

// counts are the decisions that the cache did not answer, since the start and over all revisions.
type counts struct{ all, withContent atomic.Uint64 }

// Revision names the sources: the same files give the same revision everywhere.
func (p *Policy) Revision() string { return p.revision }

// Namespaces lists the namespaces that have rules of their own.
func (p *Policy) Namespaces() []string { return p.sources.namespaces() }

// Held returns why nothing is decided in a namespace: the module that it had at the start does not load, and no earlier one
// was in force. The error says what to do. It is nil where the policy decides.
func (p *Policy) Held(namespace string) error {
	if len(p.held) == 0 || p.held[namespace] == nil {
		return nil
	}
	return &Error{Namespace: namespace, Err: errHeld}
}

// errHeld stands for the fault itself in what callers receive: that names files of the operator's.
var errHeld = errors.New("the namespace's policy does not load, so nothing is sealed, opened or passed on there " +
	"until its file is corrected (the proxy's log and /readyz say what is wrong)")

// owners lists the namespaces that have files: those with rules in force, and those that are held.
func (p *Policy) owners() []string { return slices.AppendSeq(p.Namespaces(), maps.Keys(p.held)) }

// NamedKeys are the keys that the rules for a namespace's requests spell out. Those that a rule computes
// are not among them. The slice is shared: do not change it.
func (p *Policy) NamedKeys(namespace string) []string {
	return p.queries(namespace)[Request].named
}

// queries returns the queries that decide for a namespace, by direction.
func (p *Policy) queries(namespace string) [2]*query {
	u, ok := p.units[namespace]
	if !ok {
		u = p.units[""]
	}
	return u.queries
}

// ReadsFacts reports whether a verdict can depend on the facts about workflow and activity. If not, payloads
// that differ in nothing else get the same one.
func (p *Policy) ReadsFacts(d Direction, namespace string) bool {
	return p.queries(namespace)[d&1].reads.facts() != 0
}

// Decide answers for one payload. The slices of the verdict are shared: do not change them.
func (p *Policy) Decide(ctx context.Context, d Direction, in *Input) (v Verdict, err error) {
	if err := p.Held(in.Namespace); err != nil {
		return v, err
	}
	q := p.queries(in.Namespace)[d&1]
	var space [512]byte
	key, err := q.appendKey(space[:0], in, q.reads.bits)
	if err != nil {
		return v, &Error{Namespace: in.Namespace, Err: err}
	}
	entry, hash := p.cache.get(key)
	if entry != nil && !entry.content {
		v = entry.verdict
		v.Hit = true
		v.forCaller(in)
		return v, q.checkMasked(ctx, v.Action, in)
	}
	v, touchedContent, err := p.evaluate(ctx, q, in, entry != nil)
	if err != nil {
		return Verdict{}, err
	}
	p.counts.all.Add(1)
	if touchedContent {
		p.counts.withContent.Add(1)
	}
	if entry == nil && p.cache != nil && len(key) <= maxCacheKey {
		e := &cacheEntry{hash: hash, key: string(key), content: touchedContent}
		if !touchedContent {
			e.verdict = v
		}
		p.cache.put(e)
	}
	v.forCaller(in)
	return v, q.checkMasked(ctx, v.Action, in)
}

// forCaller withdraws an `accept` from callers that nothing vouches for: whoever can
// reach the port could hand in what another caller sealed.
func (v *Verdict) forCaller(in *Input) {
	if v.Action == Accept && (in.Caller == nil || !in.Caller.authenticated()) {
		v.Action = Seal
	}
}

// evaluate evaluates the rules, unless the call has the verdict. knownToTouch skips the attempt to do
// without the content.
func (p *Policy) evaluate(
	ctx context.Context, q *query, in *Input, knownToTouch bool,
) (v Verdict, touchedContent bool, err error) {
	if d := in.Call.find(q, in, knownToTouch); d != nil {
		if !d.content {
			return d.verdict, d.withContent, nil
		}
		knownToTouch = true
	}
	if err := in.Call.begin(q.direction); err != nil {
		return Verdict{}, false, &Error{Namespace: in.Namespace, Err: err}
	}
	if err := q.enter(ctx); err != nil {
		return Verdict{}, false, err
	}
	defer q.leave()
	defer in.Call.spend(time.Now())
	e := evaluation{in: in, full: knownToTouch}
	sets, err := q.evaluate(ctx, &e)
	if errors.Is(err, errTouchedContent) {
		in.Call.keep(q, in, e.read, decision{content: true})
		e = evaluation{in: in, full: true}
		sets, err = q.evaluate(ctx, &e)
	}
	if err == nil {
		v, err = p.decideFrom(ctx, q, &e, sets)
	}
	if err == nil {
		in.Call.keep(q, in, e.read, decision{verdict: v, withContent: e.full})
	}
	if failed, ok := errors.AsType[*Error](err); ok {
		failed.Namespace = in.Namespace
	}
	return v, e.full, err
}

// decideFrom parses the sets and unites them.
func (p *Policy) decideFrom(ctx context.Context, q *query, e *evaluation, sets []ast.Value) (Verdict, error) {
	var proposals []Verdict
	for i, set := range sets {
		parsed, err := q.parse(set, e.in, e.full)
		if err != nil {
			cause := &Error{Package: q.parts[i].pkg, Err: err}
			return Verdict{}, q.locate(ctx, q.parts[i:i+1], e.in, cause, func(Verdict) bool { return false })
		}
		proposals = append(proposals, parsed...)
	}
	if inClear := kindClass(e.in.Kind) != 0; inClear && e.tooLarge && q.direction == Request {
		// It cannot be sealed, and no rule has looked into it.
		proposals = append(proposals, Verdict{Action: Deny, Reason: "its content cannot be checked: " + errTooLarge.Error()})
	}
	v, err := unite(q.direction, e.in, proposals, p.keys, e.missed)
	if v.Weakened {
		v.untold = e.untold
	}
	if errors.Is(err, ErrTwoSubjects) {
		return Verdict{}, q.twoSubjects(ctx, e.in)
	}
	if err == nil && e.missed && v.Action != Deny {
		if at, missed := missesMask(ctx, q, e.in); missed {
			return at.deny("masks"), nil
		}
	}
	if err == nil && q.subjects && e.missed && (v.Action.Seals() || v.Action == Accept) && !v.Subject.Named() {
		if at, missed := q.missesSubject(ctx, e.in); missed {
			return at.deny("names a subject"), nil
		}
	}
	if err == nil && v.Subject.Named() && p.noSubjects != "" {
		return Verdict{}, &Error{Err: fmt.Errorf("a rule names a subject: %s", p.noSubjects)}
	}
	if err != nil {
		return Verdict{}, q.locate(ctx, q.parts, e.in, &Error{Err: err}, func(pr Verdict) bool {
			_, err := p.keys.resolve(e.in.Namespace, pr.Key)
			return pr.Action == Seal && err != nil
		})
	}
	return v, nil
}

// parse reads all verdicts of a set.
func (q *query) parse(v ast.Value, in *Input, sawContent bool) ([]Verdict, error) {
	set, ok := v.(ast.Set)
	if !ok {
		return nil, fmt.Errorf("%s is not a set", q.direction)
	}
	var out []Verdict
	for _, t := range set.Slice() {
		pr, err := parseProposal(t.Value, q.direction, in.Kind)
		if err != nil {
			return nil, err
		}
		if sawContent && pr.Reason != "" && !q.literals[pr.Reason] {
			pr.Reason = "denied by policy (its reason was computed from the payload, so it is not repeated here)"
		}
		if err := q.checkSubject(pr.Subject); err != nil {
			return nil, err
		}
		pr.computedFields = pr.Action == Mask && sawContent && slices.ContainsFunc(pr.Fields, func(f string) bool { return !q.literals[f] })
		pr.computedKey = sawContent && pr.Key != "" && !q.literals[pr.Key]
		out = append(out, pr)
	}
	return out, nil
}
