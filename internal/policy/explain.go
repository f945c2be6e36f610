package policy

import "context"

// Explanation tells how a decision came about.
type Explanation struct {
	Revision string
	Verdict  Verdict
}

// Explain decides without the memo and tells how.
func (p *Policy) Explain(ctx context.Context, d Direction, in *Input) (Explanation, error) {
	v, _, err := p.evaluate(ctx, p.queries(in.Namespace)[d], in, false)
	return Explanation{Revision: p.revision, Verdict: v}, err
}
