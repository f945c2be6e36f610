package policy

import (
	"context"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// ruleAnswer holds the verdicts of one rule.
type ruleAnswer struct {
	line     string // file:line of the rule
	text     string // of the rule
	verdicts []ast.Value
}

// single is the variable that a rule's verdict is bound to when it is evaluated alone.
const single = ast.Var("verdict_of_this_rule")

// byRule evaluates each rule of a package alone. It serves explanations and finds the rule behind an error.
// Decisions evaluate the whole set at once.
func (q *query) byRule(ctx context.Context, p part, in *Input) ([]ruleAnswer, error) {
	var out []ruleAnswer
	for _, r := range p.rules {
		body := r.query()
		answer := ruleAnswer{line: r.line, text: string(r.rule.Location.Text)}
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

// query is the query for the verdicts of one rule.
func (r *rule) query() ast.Body {
	body := slices.Clone(r.rule.Body)
	body.Append(ast.Equality.Expr(ast.NewTerm(single), r.rule.Head.Key))
	return body
}

// locate returns the cause with the place of the first rule in these parts whose verdict is not valid, or
// bad.
func (q *query) locate(ctx context.Context, parts []part, in *Input, cause *Error, bad func(Verdict) bool) error {
	for _, p := range parts {
		answers, err := q.byRule(ctx, p, in)
		if err != nil {
			continue // the cause stands without its place
		}
		for _, a := range answers {
			for _, v := range a.verdicts {
				pr, err := parseProposal(v, q.direction, in.Kind)
				if err == nil {
					err = q.checkSubject(pr.Subject)
				}
				if err == nil && !bad(pr) {
					continue
				}
				cause.Package, cause.Location = p.pkg, a.line
				if err != nil {
					cause.Err = err
				}
				return cause
			}
		}
	}
	return cause
}
