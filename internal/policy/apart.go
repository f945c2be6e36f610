package policy

import (
	"context"
	"slices"
)

// apartKinds are what a payload can be that somebody hands to a codec server. Search attributes and reasons are never
// sealed, so they are never handed over.
var apartKinds = slices.DeleteFunc(Kinds(), func(kind string) bool { return kindClass(kind) != 0 })

// DecideApart answers for a payload apart from any message, as a codec server is handed it: nobody can tell its kind,
// name and path, or the workflow that it is of. Of the verdicts for all kinds the strictest counts, and what rules ask
// for besides is unknown: a `pass` becomes `seal`, an `open` becomes `keep`. So nobody reads here what the calls of
// Temporal's API would keep from him.
func (p *Policy) DecideApart(ctx context.Context, d Direction, in *Input) (Verdict, error) {
	in.Apart, in.Known, in.NotApplicable, in.Name, in.Path = true, 0, 0, "", ""
	kinds := apartKinds
	if p.queries(in.Namespace)[d&1].reads.bits&readKind == 0 {
		kinds = kinds[:1]
	}
	var all Verdict
	for i, kind := range kinds {
		in.Kind = kind
		v, err := p.Decide(ctx, d, in)
		if err != nil {
			return Verdict{}, err
		}
		if i == 0 {
			all = v
			continue
		}
		all = p.stricter(d, in.Namespace, all, v)
	}
	return all, nil
}

// stricter gives what satisfies both of two verdicts on one payload.
func (p *Policy) stricter(d Direction, namespace string, a, b Verdict) Verdict {
	hit, weakened := a.Hit && b.Hit, a.Weakened || b.Weakened
	if strictness(b.Action, d) > strictness(a.Action, d) {
		a, b = b, a
	}
	if a.Action == b.Action && a.Key != b.Key {
		first, _ := p.keys.rank(namespace, a.Key)
		second, _ := p.keys.rank(namespace, b.Key)
		if second < first || second == first && b.Key < a.Key {
			a.Key = b.Key
		}
	}
	if a.Action == Seal && b.Action == Seal {
		a.Compress = a.Compress && b.Compress
		if !slices.Equal(a.Fields, b.Fields) || !slices.Equal(a.Clear, b.Clear) {
			a.Fields, a.Clear = nil, nil // two choices of members: the whole payload satisfies both
		}
	}
	a.Hit, a.Weakened = hit, weakened
	return a
}
