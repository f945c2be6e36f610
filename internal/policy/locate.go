package policy

import (
	"context"
	"errors"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// ruleAnswer is what one rule said on its own.
type ruleAnswer struct {
	rule     *ast.Rule
	verdicts []ast.Value
}

// single is the variable that a rule's verdict is bound to when it is asked alone.
const single = ast.Var("verdict_of_this_rule")

// byRule asks each rule of a package alone. It is for explanations and for finding
// the rule behind an error; decisions ask for the whole set at once.
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

// blame says which rule of a package gave a verdict that the contract does not know.
func (q *query) locateVerdict(ctx context.Context, p part, in *Input, cause error) error {
	return q.locate(ctx, p, in, cause, func(v ast.Value) error {
		_, err := parseProposal(v, q.direction, in.Kind)
		return err
	})
}

// locateKey says which rule named a key that cannot be used.
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
