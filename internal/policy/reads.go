package policy

import (
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// readSet is a set of references of `input`.
type readSet uint32

const (
	readNamespace readSet = 1 << iota
	readRPC
	readCallerKind
	readCallerSubject
	readCallerListener
	readCallerClaims // all of them; single claims are listed apart
	readWorkflowID
	readWorkflowType
	readTaskQueue
	readActivityID
	readActivityType
	readKind
	readName
	readPath
	readEncoding
	readType
	readSealedNamespace
	readSealedKey
	readContentJSON
	readContentSize

	readEverything readSet = 1<<iota - 1
	readContent            = readContentJSON | readContentSize
)

// inputMember is one place of `input`: a value, or an object of further ones.
type inputMember struct {
	bit     readSet
	members map[string]inputMember
}

func (m inputMember) all() readSet {
	bits := m.bit
	for _, sub := range m.members {
		bits |= sub.all()
	}
	return bits
}

// inputShape is the whole of `input`. A reference that is not in it is refused at
// load: it would be undefined for ever, and its rule would silently never hold.
var inputShape = inputMember{members: map[string]inputMember{
	"namespace": {bit: readNamespace},
	"rpc":       {bit: readRPC},
	"caller": {members: map[string]inputMember{
		"kind":     {bit: readCallerKind},
		"subject":  {bit: readCallerSubject},
		"listener": {bit: readCallerListener},
		"claims":   {bit: readCallerClaims},
	}},
	"workflow": {members: map[string]inputMember{
		"id":         {bit: readWorkflowID},
		"type":       {bit: readWorkflowType},
		"task_queue": {bit: readTaskQueue},
	}},
	"activity": {members: map[string]inputMember{
		"id":   {bit: readActivityID},
		"type": {bit: readActivityType},
	}},
	"payload": {members: map[string]inputMember{
		"kind":     {bit: readKind},
		"name":     {bit: readName},
		"path":     {bit: readPath},
		"encoding": {bit: readEncoding},
		"type":     {bit: readType},
	}},
	"content": {members: map[string]inputMember{
		"json": {bit: readContentJSON},
		"size": {bit: readContentSize},
	}},
	"sealed": {members: map[string]inputMember{
		"namespace": {bit: readSealedNamespace},
		"key":       {bit: readSealedKey},
	}},
}}

// reads is what a query can read of `input`, over all its branches.
type reads struct {
	bits   readSet
	claims []string // top-level claims read by name, sorted; moot with readCallerClaims
}

// facts returns the facts among the references.
func (r reads) facts() FactSet {
	var facts FactSet
	for _, f := range factTable {
		if r.bits&f.read != 0 {
			facts |= f.fact
		}
	}
	return facts
}

// names lists the references as a policy writes them.
func (r reads) names() []string {
	var names []string
	var walk func(prefix string, m inputMember)
	walk = func(prefix string, m inputMember) {
		if m.bit&r.bits != 0 {
			names = append(names, prefix)
		}
		for name, sub := range m.members {
			walk(prefix+"."+name, sub)
		}
	}
	walk("input", inputShape)
	if r.bits&readCallerClaims == 0 {
		for _, c := range r.claims {
			names = append(names, "input.caller.claims."+c)
		}
	}
	slices.Sort(names)
	return names
}

// analysis collects what the rules reached from a set of entry points read.
type analysis struct {
	compiler *ast.Compiler
	seen     map[*ast.Rule]bool
	out      reads
	errs     []error
}

// analyse walks from the entry rules through every rule and function that they can
// reach. It over-approximates: a key with one reference too many costs memory, a
// key with one too few would hand out another payload's verdict.
func analyse(c *ast.Compiler, entries []*ast.Rule) (reads, []error) {
	a := &analysis{compiler: c, seen: map[*ast.Rule]bool{}}
	for _, r := range entries {
		a.rule(r)
	}
	slices.Sort(a.out.claims)
	a.out.claims = slices.Compact(a.out.claims)
	return a.out, a.errs
}

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

func (a *analysis) input(ref ast.Ref) {
	at := inputShape
	for i, t := range ref[1:] {
		if at.bit == readCallerClaims {
			if name, ok := t.Value.(ast.String); ok {
				a.out.claims = append(a.out.claims, string(name))
				return
			}
		}
		if at.members == nil {
			break // within a value, or a dynamic read of claims
		}
		name, ok := t.Value.(ast.String)
		if !ok {
			break // a dynamic read of an object counts for all of it
		}
		next, ok := at.members[string(name)]
		if !ok {
			a.errs = append(a.errs, &Error{Kind: BadSource, Location: location(t.Location, ref[0].Location),
				Err: fmt.Errorf("%s is not part of the input, so this rule could never hold; see the list in docs/policy.md", ref[:i+2])})
			return
		}
		at = next
	}
	a.out.bits |= at.all()
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
