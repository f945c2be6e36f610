package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// lint looks for rules that compile but do not do what they seem to.
func (r *Report) lint(opts CheckOptions, p *Policy) {
	known := unique(slices.Concat(p.Namespaces(), opts.Served))
	for _, namespace := range append([]string{""}, p.Namespaces()...) {
		for _, q := range p.queries(namespace) {
			for _, part := range q.parts {
				if namespace != "" && part.pkg == packageName(p.sources[0].module) {
					continue // the platform's rules are looked at once, on their own
				}
				for _, rule := range part.rules {
					r.lintRule(q, rule, opts, known, p)
				}
			}
		}
	}
	for _, namespace := range opts.Served {
		if !slices.Contains(p.Namespaces(), namespace) {
			r.add(Note, namespace, "the namespace has no policy of its own; the platform's rules alone decide for it")
		}
	}
}

// lintRule looks at one rule. known are the namespaces with a policy and those that the configuration names.
func (r *Report) lintRule(q *query, rule rule, opts CheckOptions, known []string, p *Policy) {
	where := rule.line
	read, _ := analyze(q.compiler, []*ast.Rule{rule.rule})
	if q.direction == Response && read.bits&readContent != 0 && read.bits != readEverything {
		r.add(Warning, where, "a response rule reads input.content, which only requests have: it never holds")
	}
	if q.direction == Request && read.bits&(readSealedNamespace|readSealedKey) != 0 && read.bits != readEverything {
		r.add(Warning, where, "a request rule reads input.sealed, which only responses have: it never holds")
	}
	if in := unknownIn(opts.Facts, rule.rule, read.facts()); len(in) > 0 {
		text := fmt.Sprintf("this rule reads %s, which some calls do not tell", strings.Join(read.facts().Names(), " and "))
		if q.direction == Request {
			text += "; where it looks at one there, a pass becomes seal"
		} else {
			text += "; the rule does not hold there"
		}
		r.add(Note, where, "%s: %s", text, listed(in, 6))
	}
	if rule.key == "" || q.namespace != "" || opts.KeyRank == nil {
		return // a namespace's own keys were checked when it was loaded
	}
	var without []string
	for _, namespace := range known {
		if _, err := p.keys.resolve(namespace, rule.key); err != nil {
			without = append(without, namespace)
		}
	}
	if len(without) > 0 {
		r.add(Warning, where, "key %q is not configured for %s: where this rule holds there, the call is refused",
			rule.key, listed(without, 6))
	}
}

// unknownIn lists the calls in which a fact is unknown that the rule reads.
func unknownIn(table []CallFacts, rule *ast.Rule, facts FactSet) []string {
	kinds := literalKinds(rule)
	var out []string
	for _, t := range table {
		unknown := AllFacts &^ t.Known &^ t.NotApplicable & facts
		if unknown == 0 || (kinds != nil && !slices.Contains(kinds, t.Kind)) {
			continue
		}
		how := ""
		if unknown&^t.ByTask == 0 {
			how = ", unless the task tells"
		}
		out = append(out, fmt.Sprintf("%s (%s: %s%s)", t.RPC, t.Kind, strings.Join(unknown.Names(), ", "), how))
	}
	return unique(out)
}

// literalKinds returns the kinds to which a rule's first guard on input.payload.kind
// confines it, or nil where it has none that is plain to see.
func literalKinds(rule *ast.Rule) []string {
	kind := ast.MustParseRef("input.payload.kind")
	for _, expr := range rule.Body {
		if expr.Negated || !expr.IsCall() || len(expr.Operands()) < 2 {
			continue
		}
		a, b := expr.Operand(0).Value, expr.Operand(1).Value
		if b.Compare(kind) == 0 {
			a, b = b, a
		}
		if a.Compare(kind) != 0 {
			continue
		}
		op := expr.Operator().String()
		if text, ok := b.(ast.String); ok && (expr.IsEquality() || op == ast.Equal.Name) {
			return []string{string(text)}
		}
		if set, ok := b.(ast.Set); ok && op == ast.Member.Name {
			var kinds []string
			if err := ast.As(set, &kinds); err == nil {
				return kinds
			}
		}
	}
	return nil
}

// listed returns the first few names and the number of the others.
func listed(names []string, most int) string {
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
