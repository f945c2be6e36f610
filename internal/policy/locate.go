package policy

import (
	"context"
	"errors"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// ruleAnswer holds the verdicts of one rule.
type ruleAnswer struct {
	rule     *ast.Rule
	verdicts []ast.Value
}

// single is the variable that a rule's verdict is bound to when it is evaluated alone.
const single = ast.Var("verdict_of_this_rule")

// byRule evaluates each rule of a package alone. It serves explanations and finds the rule behind an error.
// Decisions evaluate the whole set at once.
func (q *query) byRule(ctx context.Context, p part, in *Input) ([]ruleAnswer, error) {
	var out []ruleAnswer
	for _, r := range p.rules {
		body := make(ast.Body, 0, len(r.Body)+1)
		body = append(body, r.Body...)
		body.Append(ast.Equality.Expr(ast.NewTerm(single), r.Head.Key))
		answer := ruleAnswer{rule: r}
		err := q.run(ctx, body, &evaluation{in: in, full: true}, func(res topdown.QueryResult) {
			answer.verdicts = append(answer.verdicts, res[single].Value)
		})
		if err != nil {
			return out, err
		}
		out = append(out, answer)
	}
	return out, nil
}

// locateVerdict returns the error of a verdict that is not valid, with the place of its rule.
func (q *query) locateVerdict(ctx context.Context, p part, in *Input, cause error) error {
	return q.locate(ctx, p, in, cause, func(v ast.Value) error {
		_, err := parseProposal(v, q.direction, in.Kind)
		return err
	})
}

// locateKey returns the error of a key that cannot be used, with the place of the rule that names it.
func (p *Policy) locateKey(ctx context.Context, q *query, in *Input, cause error) error {
	for _, part := range q.parts {
		err := q.locate(ctx, part, in, cause, func(v ast.Value) error {
			pr, err := parseProposal(v, q.direction, in.Kind)
			if err == nil && pr.action == Seal {
				if _, _, err = p.keys.resolve(in.Namespace, pr.key); err != nil {
					return cause // worded with regard to where the name came from
				}
			}
			return err
		})
		var e *Error
		if errors.As(err, &e) && e.Location != "" {
			return err
		}
	}
	return &Error{Kind: BadVerdict, Namespace: in.Namespace, Err: cause}
}

// locate returns cause as an error with the place of the first rule of the package whose verdict fails the
// check.
func (q *query) locate(ctx context.Context, p part, in *Input, cause error, check func(ast.Value) error) error {
	out := &Error{Kind: BadVerdict, Namespace: in.Namespace, Package: p.pkg, Err: cause}
	answers, err := q.byRule(ctx, p, in)
	if err != nil {
		return out // the cause stands without its place
	}
	for _, a := range answers {
		for _, v := range a.verdicts {
			if err := check(v); err != nil {
				out.Location, out.Err = location(a.rule.Location), err
				return out
			}
		}
	}
	return out
}
