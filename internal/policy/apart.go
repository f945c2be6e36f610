package policy

import (
	"context"
	"slices"
)

// apartKinds are the kinds of payload that a codec server receives. Search attributes and reasons are not
// among them, since they are never sealed.
var apartKinds = slices.DeleteFunc(Kinds(), func(kind string) bool { return kindClass(kind) != 0 })

// DecideApart decides about a payload apart from any message, as a codec server receives it: its kind,
// name, path and workflow are unknown. It evaluates the rules for every kind and takes the strictest
// verdict. Where a rule reads something else that is unknown, a `pass` becomes `seal` and an `open` becomes
// `keep`, so that callers read nothing here that Temporal's API would not give them.
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

// stricter returns a verdict that satisfies both of two verdicts on one payload.
func (p *Policy) stricter(d Direction, namespace string, a, b Verdict) Verdict {
	hit, weakened := a.Hit && b.Hit, a.Weakened || b.Weakened
	if strictness(b.Action, d) > strictness(a.Action, d) {
		a, b = b, a
	}
	if a.Action == b.Action || a.Action.Seals() && b.Action.Seals() {
		a.Key = p.keys.stricter(namespace, a.Key, b.Key)
	}
	if a.Action.Seals() && b.Action.Seals() {
		a.Masked = a.Masked.Join(b.Masked)
		a.Compress = a.Compress && b.Compress
		if !slices.Equal(a.Fields, b.Fields) || !slices.Equal(a.Clear, b.Clear) {
			a.Whole() // it satisfies two choices of members
		}
		if !slices.Equal(a.Optional, b.Optional) {
			a.Optional = nil
		}
	}
	switch {
	case a.Action == Deny || !b.Subject.Named() || a.Subject == b.Subject:
	case a.Subject.Named():
		a = Verdict{Action: Deny, Reason: "its kind is not known here, and rules name different subjects for the kinds that it may have"}
	case a.Action.Seals():
		a.Subject = b.Subject
	}
	a.Hit, a.Weakened = hit, weakened
	return a
}
