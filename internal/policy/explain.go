package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/topdown"
)

// Explanation says how a decision came about. Unlike everything else in this package, it may hold what a
// rule computed from the payload: it is for a person who entered an input of their own, not for a log.
type Explanation struct {
	Revision string
	Packages []PackageExplanation
	Verdict  Verdict // the winner of all packages' verdicts
	// CacheKey lists the references of input that the rules can read in any of their branches. Payloads
	// that differ in none of them share a verdict in the policy cache.
	CacheKey []string
	// Cached reports whether the policy cache would keep the verdict. It keeps none that depends on the
	// content.
	Cached bool
	// Unsure lists the facts that the rules can read and that are unknown for this input.
	Unsure []string
	// Notes say what there is to know about payloads of this kind.
	Notes []string
}

// PackageExplanation is the part of one package in a decision.
type PackageExplanation struct {
	Package string            `json:"package"`
	File    string            `json:"file"`
	Rules   []RuleExplanation `json:"rules"`
	Set     []string          `json:"verdicts"` // all together, as JSON
}

// RuleExplanation is the part of one rule in a decision.
type RuleExplanation struct {
	Location string   `json:"location"` // file:line
	Text     string   `json:"text"`     // as it stands in the file
	Verdicts []string `json:"verdicts"` // as JSON; none: the rule did not hold
}

// Explain decides without the cache and says how. If the policy fails, the explanation holds what was found
// before.
func (p *Policy) Explain(ctx context.Context, d Direction, in *Input) (Explanation, error) {
	q := p.queries(in.Namespace)[d&1]
	e := Explanation{
		Revision: p.revision,
		Packages: []PackageExplanation{},
		CacheKey: q.reads.keyNames(),
		Unsure:   (in.unknown() & q.reads.facts()).Names(),
		Notes:    q.notes(in),
	}
	for _, part := range q.parts {
		explained, err := q.explainPart(ctx, part, in)
		e.Packages = append(e.Packages, explained)
		if err != nil {
			return e, err
		}
	}
	v, touchedContent, err := p.evaluate(ctx, q, in, false)
	if err == nil {
		err = q.checkMasked(ctx, v.Action, in)
	}
	if err != nil {
		return e, err
	}
	v.forCaller(in)
	e.Verdict, e.Cached = p.within(v, in), !touchedContent
	return e, nil
}

// Trace decides once more, and returns OPA's trace of the evaluation, a line per step.
func Trace(ctx context.Context, p *Policy, d Direction, in *Input) ([]string, error) {
	return p.queries(in.Namespace)[d&1].trace(ctx, in)
}

// notes says what a kind that stays readable at the server means for the verdicts about it.
func (q *query) notes(in *Input) (notes []string) {
	others := map[string]string{KindSearchAttribute: "drop", KindReason: "redact", KindText: "redact"}[in.Kind]
	switch {
	case others == "":
		return nil
	case q.direction == Response:
		return []string{fmt.Sprintf("payloads of kind %q are not sealed, so response rules do not apply to them", in.Kind)}
	}
	notes = append(notes, fmt.Sprintf("payloads of kind %q stay readable at the server: pass, %s and deny count, seal and accept do not",
		in.Kind, others))
	if readable(in.Kind) && in.Path == "" && q.reads.bits&readPath != 0 {
		notes = append(notes, "a rule reads input.payload.path, and this input has none: docs/fields.md lists the places of texts")
	}
	return notes
}

func (q *query) explainPart(ctx context.Context, p part, in *Input) (PackageExplanation, error) {
	out := PackageExplanation{Package: p.pkg, File: p.file, Rules: []RuleExplanation{}, Set: []string{}}
	answers, err := q.byRule(ctx, p, in)
	for _, a := range answers {
		r := RuleExplanation{Location: a.line, Text: a.text, Verdicts: []string{}}
		for _, v := range a.verdicts {
			r.Verdicts = append(r.Verdicts, v.String())
		}
		r.Verdicts = unique(r.Verdicts)
		out.Rules = append(out.Rules, r)
		out.Set = append(out.Set, r.Verdicts...)
	}
	out.Set = unique(out.Set)
	return out, err
}

// trace evaluates once more and writes down each step.
func (q *query) trace(ctx context.Context, in *Input) ([]string, error) {
	if q.body == nil {
		return nil, nil
	}
	buf := topdown.NewBufferTracer()
	e := evaluation{in: in, full: true, tracer: buf}
	if err := q.run(ctx, q.body, &e, func(topdown.QueryResult) {}); err != nil {
		return nil, err
	}
	var text strings.Builder
	topdown.PrettyTraceWithLocation(&text, *buf)
	return strings.Split(strings.TrimRight(text.String(), "\n"), "\n"), nil
}

// keyNames lists the references that make the cache's key, which leaves content out.
func (r reads) keyNames() []string {
	names := (r.bits &^ readContent).Names()
	if r.bits&readCallerClaims == 0 {
		for _, claim := range r.claims {
			names = append(names, "caller.claims."+claim)
		}
	}
	for i := range names {
		names[i] = "input." + names[i]
	}
	slices.Sort(names)
	return names
}
