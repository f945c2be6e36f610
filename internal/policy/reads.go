package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// reads is what a query can read of `input`, over all its branches.
type reads struct {
	bits   MemberSet
	claims []string // top-level claims read by name, sorted; moot with readCallerClaims
}

// facts returns the facts among the members.
func (r reads) facts() FactSet { return r.bits & AllFacts }

// analysis collects what the rules reached from a set of entry points read.
type analysis struct {
	compiler *ast.Compiler
	seen     map[*ast.Rule]bool
	out      reads
	errs     []error
}

// analyze walks from the entry rules through every rule and function that they can
// reach. It over-approximates: a key with one reference too many costs memory, a
// key with one too few would hand out another payload's verdict.
func analyze(c *ast.Compiler, entries []*ast.Rule) (reads, error) {
	a := &analysis{compiler: c, seen: map[*ast.Rule]bool{}}
	for _, r := range entries {
		a.rule(r)
	}
	a.out.claims = unique(a.out.claims)
	return a.out, errors.Join(a.errs...)
}

// rule adds what a rule and its else branches read. Each rule is looked at once, so recursion through
// functions ends.
func (a *analysis) rule(r *ast.Rule) {
	for ; r != nil; r = r.Else {
		if a.seen[r] {
			return
		}
		a.seen[r] = true
		a.walk(r.Head)
		a.walk(r.Body)
	}
}

func (a *analysis) walk(x any) {
	ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case ast.Ref:
			a.ref(x)
			return true
		case ast.Var:
			if x.Equal(ast.InputRootDocument.Value) {
				a.out.bits |= readEverything // input handed on as a whole
			}
		case *ast.With:
			a.out.bits |= readEverything // a rule that rewrites input or data is beyond this analysis
		}
		return false
	}).Walk(x)
}

// ref adds what a reference reads: of input, or through the rules that it stands for.
func (a *analysis) ref(ref ast.Ref) {
	for _, t := range ref[1:] {
		a.walk(t)
	}
	switch head := ref[0].Value.(type) {
	case ast.Var:
		switch {
		case head.Equal(ast.InputRootDocument.Value):
			a.input(ref)
		case head.Equal(ast.DefaultRootDocument.Value):
			for _, r := range a.compiler.GetRulesDynamicWithOpts(ref, ast.RulesOptions{IncludeHiddenModules: true}) {
				a.rule(r)
			}
		}
	default: // a call or a comprehension as head: f(x).y
		a.walk(ref[0])
	}
}

// input notes what a reference of `input` can read: one member, or where a name is not constant or left
// out, all that it could stand for.
func (a *analysis) input(ref ast.Ref) {
	names, readable := ref[1:min(len(ref), 3)], readEverything
	path := ""
	for i, t := range names {
		name, ok := t.Value.(ast.String)
		if !ok {
			break
		}
		path = strings.TrimPrefix(path+"."+string(name), ".")
		readable = 0
		whole := false
		for j := range members {
			m := &members[j]
			if m.path == path || strings.HasPrefix(m.path, path+".") {
				readable |= m.read
				whole = whole || m.path == path
			}
		}
		if readable == 0 {
			a.errs = append(a.errs, badSource(location(t.Location, ref[0].Location),
				"%s is not part of the input, so this rule could never hold; see the list in docs/policy.md", ref[:i+2]))
			return
		}
		if whole {
			break // what follows reads within a value
		}
	}
	if readable == readCallerClaims && len(ref) > 3 {
		if name, ok := ref[3].Value.(ast.String); ok {
			a.out.claims = append(a.out.claims, string(name))
			return
		}
	}
	a.out.bits |= readable
}

// location returns file:line of the first location that is known.
func location(locs ...*ast.Location) string {
	for _, l := range locs {
		if l != nil && l.File != "" {
			return fmt.Sprintf("%s:%d", l.File, l.Row)
		}
	}
	return ""
}

// unique sorts strings and keeps each once.
func unique(all []string) []string {
	slices.Sort(all)
	return slices.Compact(all)
}
