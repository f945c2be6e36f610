package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// lint looks for rules that compile but do not do what they seem to.
func (r *Report) lint(opts CheckOptions, p *Policy) {
	known := unique(slices.Concat(p.Namespaces(), opts.Served))
	r.lintResponses(p)
	for _, namespace := range append([]string{""}, p.Namespaces()...) {
		for _, q := range p.queries(namespace) {
			for _, key := range q.named {
				r.Keys = append(r.Keys, NamedKey{namespace, key})
			}
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
	if where := p.sources[0].name; !p.readsExternal() {
		r.add(Note, where, "no rule reads input.payload.external: if workers use external storage of their SDK, only references to the values pass "+
			"the proxy, which encrypts nothing in that storage; see docs/threat-model.md")
	}
	for _, namespace := range opts.Served {
		if !slices.Contains(p.Namespaces(), namespace) {
			r.add(Note, namespace, "the namespace has no policy of its own; the platform's rules alone decide for it")
		}
	}
	for _, s := range p.sources[1:] {
		if opts.Serves != nil && !opts.Serves(s.namespace) {
			r.add(Warning, s.name, "nothing serves namespace %s: no listener lets callers reach it, or no upstream has it; "+
				"is the name of the file right?", s.namespace)
		}
	}
}

// readsExternal reports whether any rule for requests goes by whether a payload is a reference to external storage.
func (p *Policy) readsExternal() bool {
	for _, u := range p.units {
		if reads := u.queries[Request].reads; reads.bits&readExternal != 0 && reads.bits != readEverything {
			return true
		}
	}
	return false
}

// lintResponses looks for namespaces in which no rule opens anything for anyone.
func (r *Report) lintResponses(p *Policy) {
	opens := func(namespace string) bool { return p.queries(namespace)[Response].body != nil }
	if opens("") {
		return
	}
	where := p.sources[0].name
	with := slices.DeleteFunc(p.Namespaces(), func(namespace string) bool { return !opens(namespace) })
	if len(with) > 0 {
		r.add(Warning, where, "the platform's policy has no response rule, so nothing opens for anyone but in %s, whose own policies have "+
			"some", listed(with, 6))
		return
	}
	r.add(Fault, where, "no policy has a response rule, so nothing opens for anyone, workers included: add one, such as "+
		"`response contains {\"action\": \"open\"} if input.sealed.namespace == input.namespace`; if this is meant, say so with the "+
		"action \"keep\"")
}

// lintFiles looks for what lies in the namespaces' folder and is not read.
func (r *Report) lintFiles(opts CheckOptions) {
	if opts.Namespaces == "" || opts.Bundle != nil {
		return
	}
	entries, err := os.ReadDir(opts.Namespaces)
	if err != nil {
		return // loading has reported it
	}
	for _, e := range entries {
		name := e.Name()
		read := strings.HasSuffix(name, regoSuffix) || name == casesName || strings.HasSuffix(name, "_"+casesName) || strings.HasSuffix(name, ".md")
		switch where := filepath.Join(opts.Namespaces, name); {
		case strings.HasPrefix(name, "."): // where Kubernetes keeps the files of a ConfigMap, among others
		case e.IsDir():
			r.add(Warning, where, "this folder is ignored: a namespace's policy is a file <namespace>.rego directly in %s", opts.Namespaces)
		case !read:
			r.add(Warning, where, "this file is ignored: a namespace's policy is <namespace>.rego, its tests <name>_test.rego, and cases %s or <name>_%s",
				casesName, casesName)
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
	if q.direction == Response && read.bits&readExternal != 0 && read.bits != readEverything {
		r.add(Warning, where, "a response rule reads input.payload.external, which is true in requests alone: it never holds")
	}
	if q.direction == Request && read.bits&(readSealedNamespace|readSealedKey) != 0 && read.bits != readEverything {
		r.add(Warning, where, "a request rule reads input.sealed, which only responses have: it never holds")
	}
	if in := unknownIn(opts.Facts, rule.rule, read.facts()); len(in) > 0 {
		text := fmt.Sprintf("this rule reads %s, which some calls do not contain", strings.Join(read.facts().Names(), " and "))
		if rule.maySubject {
			text += "; payloads of these calls that it might seal for a subject, and no other rule does, are refused"
		}
		if rule.mayMask && q.direction == Request {
			text += "; payloads of these calls that it might mask are refused"
		}
		if q.direction == Request {
			text += "; where it looks at one there, a pass becomes seal"
		} else {
			text += "; the rule does not hold there"
		}
		r.add(Note, where, "%s: %s", text, listed(in, 6))
	}
	if err := misspelt(rule.rule, q.direction); err != nil {
		r.add(Fault, where, "each call in which this rule holds is refused: %v", err)
	}
	r.lintKey(q, rule, opts, known, p)
}

// misspelt returns what is wrong with the members of a verdict that a rule spells out.
func misspelt(rule *ast.Rule, d Direction) error {
	if rule.Head.Key == nil || !rule.Head.Key.IsGround() {
		return nil
	}
	obj, ok := rule.Head.Key.Value.(ast.Object)
	if !ok {
		return nil
	}
	action, _ := stringMember(obj, "action")
	i := slices.IndexFunc(actions[d], func(a Action) bool { return a.String() == action })
	if i < 0 {
		return nil // names of actions are checked when the rule is loaded
	}
	p := Verdict{Action: actions[d][i]}
	return p.members(obj)
}

// lintKey looks at the key that a rule of the platform spells out. A namespace's own keys were checked when it was loaded.
func (r *Report) lintKey(q *query, rule rule, opts CheckOptions, known []string, p *Policy) {
	if rule.key == "" || q.namespace != "" || opts.KeyRank == nil {
		return
	}
	if opts.KnownKey != nil && !opts.KnownKey(rule.key) {
		r.add(Fault, rule.line, "key %q is not configured: each call in which this rule holds is refused; add it to `keys`, or correct the name", rule.key)
		return
	}
	var without []string
	for _, namespace := range known {
		if _, err := p.keys.resolve(namespace, rule.key); err != nil {
			without = append(without, namespace)
		}
	}
	switch {
	case len(without) == 0:
	case always(rule.rule):
		r.add(Fault, rule.line, "key %q is not configured for %s, where this rule always holds: every call with a payload is refused there",
			rule.key, listed(without, 6))
	default:
		r.add(Warning, rule.line, "key %q is not configured for %s: where this rule holds there, the call is refused",
			rule.key, listed(without, 6))
	}
}

// always reports whether a rule has no condition.
func always(rule *ast.Rule) bool {
	return len(rule.Body) == 0 || len(rule.Body) == 1 && rule.Body[0].Equal(ast.NewExpr(ast.BooleanTerm(true)))
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
			how = ", unless the task token contains it"
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
