package policy

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/temporal-seal/temporal-seal/internal/x/spell"
)

// Kinds of callers, as a policy reads them in input.caller.kind.
const (
	CallerAnonymous = "anonymous"
	CallerMTLS      = "mtls"
	CallerToken     = "token"
	CallerJWT       = "jwt"
)

// CallerKinds lists every kind of caller.
func CallerKinds() []string { return []string{CallerAnonymous, CallerMTLS, CallerToken, CallerJWT} }

// names is the table of the values that are known beforehand: of some members of `input`, and of a verdict's
// action. A rule that compares with another literal would never hold, or with `!=` or `not` always, so it is
// refused when it is loaded.
type names [numLists]nameList

// nameList is one list of the table.
type nameList struct {
	what   string   // what an element is, as errors say it
	values []string // empty: not known, so that every name passes
}

// The lists of the table.
const (
	kindNames = iota
	rpcNames
	callerNames
	requestActions
	responseActions
	numLists
)

// newNames makes the table. rpcs are the values of input.rpc; nil: any.
func newNames(rpcs []string) names {
	t := names{
		kindNames:   {"kind of payload", Kinds()},
		rpcNames:    {"method", rpcs},
		callerNames: {"kind of caller", CallerKinds()},
	}
	for d, list := range actions {
		n := &t[requestActions+d]
		n.what = "action of a " + Direction(d).String()
		for _, a := range list {
			n.values = append(n.values, a.String())
		}
	}
	return t
}

// check returns an error if a list does not hold a name, with the nearest name that it holds.
func (l *nameList) check(name string) error {
	if len(l.values) == 0 || slices.Contains(l.values, name) {
		return nil
	}
	text := strconv.Quote(name) + " is not " + article(l.what)
	if near := spell.Nearest(name, l.values); near != "" {
		return errors.New(text + "; did you mean " + strconv.Quote(near) + "?")
	}
	if len(l.values) <= 20 {
		return errors.New(text + "; there are " + strings.Join(l.values, ", "))
	}
	return errors.New(text)
}

// checkInput holds a case's input to the lists. An empty name is one that the case leaves out.
func (t *names) checkInput(in *Input) error {
	for _, m := range []struct {
		path, name string
		list       int
	}{
		{"payload.kind", in.Kind, kindNames}, {"rpc", in.RPC, rpcNames}, {"caller.kind", in.caller().Kind, callerNames},
	} {
		if err := t[m.list].check(m.name); m.name != "" && err != nil {
			return fmt.Errorf("`input.%s`: %w", m.path, err)
		}
	}
	return nil
}

// meaning is what a term can stand for: bits of lists, of the term itself and of what it holds.
type meaning struct {
	self listSet
	keys listSet // elements of a set, keys of an object
	vals listSet // elements of a set or an array, values of an object
}

// listSet is a set of lists. With anything in it, the term may also stand for what no list holds.
type listSet uint8

const anything listSet = 1 << numLists

func (m meaning) or(other meaning) meaning {
	return meaning{m.self | other.self, m.keys | other.keys, m.vals | other.vals}
}

// nameFlow finds out which names of compiled rules are compared with a member of `input` that has a list. Meanings
// flow through variables, helper rules, arguments of functions and collections until nothing changes.
type nameFlow struct {
	table    names
	compiler *ast.Compiler
	vars     map[*ast.Rule]map[ast.Var]meaning
	aliases  map[*ast.Rule]map[ast.Var]ast.Ref // variables that stand for `input` or for a part of it
	rules    map[*ast.Rule]meaning             // of a rule's value; of a set, what it holds
	rule     *ast.Rule                         // being looked at
	changed  bool
	report   func(t *ast.Term, err error) // nil: meanings still flow
}

// closedMembers are the members of `input` that have a list.
var closedMembers = map[string]listSet{
	"payload.kind": 1 << kindNames, "rpc": 1 << rpcNames, "caller.kind": 1 << callerNames,
}

// misnamed returns an error for each literal in a file's rules that a closed list does not hold.
func misnamed(c *ast.Compiler, file string, table names) []error {
	f := nameFlow{table: table, compiler: c, vars: map[*ast.Rule]map[ast.Var]meaning{},
		aliases: map[*ast.Rule]map[ast.Var]ast.Ref{}, rules: map[*ast.Rule]meaning{}}
	pass := func() {
		for _, m := range c.Modules {
			for _, r := range m.Rules {
				for ; r != nil; r = r.Else {
					f.visit(r)
				}
			}
		}
	}
	for f.changed = true; f.changed; {
		f.changed = false
		pass()
	}
	type fault struct {
		row, col int
		text     string
	}
	seen := map[fault]bool{}
	var faults []fault
	f.report = func(t *ast.Term, err error) {
		l := cmp.Or(t.Location, f.rule.Location)
		at := fault{l.Row, l.Col, err.Error()}
		if l.File == file && !seen[at] {
			seen[at] = true
			faults = append(faults, at)
		}
	}
	pass()
	slices.SortFunc(faults, func(a, b fault) int { return cmp.Or(a.row-b.row, a.col-b.col, cmp.Compare(a.text, b.text)) })
	var errs []error
	for _, at := range faults {
		errs = append(errs, badSource(location(&ast.Location{File: file, Row: at.row}), "%s", at.text))
	}
	return errs
}

// visit looks at one rule, without its else branches.
func (f *nameFlow) visit(r *ast.Rule) {
	f.enter(r)
	ref := r.Head.Ref()
	d := slices.Index([]string{Request.String(), Response.String()}, ref[0].String())
	if d >= 0 && r.Head.Key != nil {
		f.verdict(r.Head.Key, listSet(1)<<(requestActions+d))
	}
	of := f.rules[r]
	if r.Head.RuleKind() == ast.MultiValue && r.Head.Key != nil {
		f.put(r.Head.Key, meaning{self: of.keys | of.vals})
		self := f.get(r.Head.Key).self
		f.learn(r, meaning{keys: self, vals: self})
	} else if r.Head.Value != nil {
		f.put(r.Head.Value, of)
		f.learn(r, f.get(r.Head.Value))
	}
	ast.WalkExprs(r.Body, func(e *ast.Expr) bool { f.expr(e); return false })
	ast.WalkExprs(r.Head, func(e *ast.Expr) bool { f.expr(e); return false }) // within comprehensions
	ast.WalkRefs(r, func(ref ast.Ref) bool { f.get(ast.NewTerm(ref)); return false })
}

// enter makes a rule the one that is looked at.
func (f *nameFlow) enter(r *ast.Rule) {
	if f.rule = r; f.vars[r] == nil {
		f.vars[r], f.aliases[r] = map[ast.Var]meaning{}, map[ast.Var]ast.Ref{}
	}
}

// learn notes what the value of a rule can stand for.
func (f *nameFlow) learn(r *ast.Rule, m meaning) {
	if all := f.rules[r].or(m); all != f.rules[r] {
		f.rules[r], f.changed = all, true
	}
}

// verdict notes that a term is a verdict, whose action has a list.
func (f *nameFlow) verdict(t *ast.Term, list listSet) {
	if obj, ok := t.Value.(ast.Object); ok {
		if action := obj.Get(ast.StringTerm("action")); action != nil {
			f.put(action, meaning{self: list})
		}
		return
	}
	ast.WalkExprs(f.rule.Body, func(e *ast.Expr) bool { // the object may be assigned to a variable
		if e.IsEquality() {
			a, b := e.Operand(0), e.Operand(1)
			if b.Equal(t) {
				a, b = b, a
			}
			if _, object := b.Value.(ast.Object); object && a.Equal(t) {
				f.verdict(b, list)
			}
		}
		return false
	})
}

// expr lets meanings flow through one expression.
func (f *nameFlow) expr(e *ast.Expr) {
	if every, ok := e.Terms.(*ast.Every); ok {
		f.member(every.Key, every.Value, every.Domain)
	}
	if !e.IsCall() {
		return
	}
	args, op := e.Operands(), e.Operator()
	if op.HasPrefix(ast.DefaultRootRef) {
		f.call(op, args)
		return
	}
	switch name := op.String(); {
	case (name == ast.Equality.Name || name == ast.Equal.Name || name == ast.NotEqual.Name) && len(args) == 2:
		f.join(args[0], args[1])
	case name == ast.Member.Name && len(args) >= 2:
		f.member(nil, args[0], args[1])
	case name == ast.MemberWithKey.Name && len(args) >= 3:
		f.member(args[0], args[1], args[2])
	case name == ast.Or.Name || name == ast.And.Name || name == ast.Minus.Name:
		for _, other := range args[1:] {
			f.join(args[0], other)
		}
	case name == ast.StartsWith.Name || name == ast.EndsWith.Name || name == ast.Contains.Name || name == ast.RegexMatch.Name:
		f.pattern(name, args)
	default:
		if b := ast.BuiltinMap[name]; b != nil && len(args) > b.Decl.Arity() {
			f.put(args[len(args)-1], meaning{anything, anything, anything})
		}
	}
}

// call lets meanings flow into a function of the policy, and back.
func (f *nameFlow) call(op ast.Ref, args []*ast.Term) {
	from := f.rule
	for _, r := range f.compiler.GetRulesExact(op) {
		for ; r != nil; r = r.Else {
			for i, param := range r.Head.Args {
				if i < len(args) {
					m, part := f.get(args[i]), f.partOfInput(args[i])
					f.enter(r)
					f.alias(param, part)
					f.put(param, m)
					m = f.get(param)
					f.enter(from)
					f.put(args[i], m)
				}
			}
			if len(args) > len(r.Head.Args) {
				out := args[len(args)-1]
				f.learn(r, f.get(out))
				f.put(out, f.rules[r])
			}
		}
	}
}

// alias notes that a variable stands for a part of `input`.
func (f *nameFlow) alias(t *ast.Term, part ast.Ref) {
	if v, ok := t.Value.(ast.Var); ok && part != nil && f.aliases[f.rule][v] == nil {
		f.aliases[f.rule][v], f.changed = part, true
	}
}

// partOfInput returns the reference to `input` that a term is, or stands for; nil: none. Nothing that has a list is part
// of it.
func (f *nameFlow) partOfInput(t *ast.Term) ast.Ref {
	switch v := t.Value.(type) {
	case ast.Var:
		return f.aliases[f.rule][v]
	case ast.Ref:
		if v = f.resolved(v); v[0].Equal(ast.InputRootDocument) && len(v) <= 2 && closedMembers[memberPath(v)] == 0 {
			return v
		}
	}
	return nil
}

// resolved returns a reference with the part of `input` that its first term stands for.
func (f *nameFlow) resolved(ref ast.Ref) ast.Ref {
	if v, ok := ref[0].Value.(ast.Var); ok {
		if part := f.aliases[f.rule][v]; part != nil {
			return part.Concat(ref[1:])
		}
	}
	return ref
}

// join notes that two terms are compared, so that each can stand for what the other does.
func (f *nameFlow) join(a, b *ast.Term) {
	f.alias(a, f.partOfInput(b))
	f.alias(b, f.partOfInput(a))
	m := f.get(a).or(f.get(b))
	f.put(a, m)
	f.put(b, m)
}

// member notes that a collection holds an element, at a key if there is one.
func (f *nameFlow) member(key, element, collection *ast.Term) {
	m := meaning{vals: f.get(element).self}
	if key != nil {
		m.keys = f.get(key).self
	}
	f.put(collection, m)
	m = f.get(collection)
	f.put(element, meaning{self: m.vals})
	if key != nil {
		f.put(key, meaning{self: m.keys})
	}
}

// pattern checks a literal with which names are searched: at least one of the list has to match.
func (f *nameFlow) pattern(operator string, args []*ast.Term) {
	if len(args) < 2 || f.report == nil {
		return
	}
	text, literal := args[0], args[1]
	matches := map[string]func(name, part string) bool{ast.StartsWith.Name: strings.HasPrefix,
		ast.EndsWith.Name: strings.HasSuffix, ast.Contains.Name: strings.Contains}[operator]
	if operator == ast.RegexMatch.Name {
		text, literal = literal, text
		matches = func(name, part string) bool {
			expression, err := regexp.Compile(part)
			return err != nil || expression.MatchString(name)
		}
	}
	part, ok := literal.Value.(ast.String)
	of := f.get(text).self
	if !ok || of == 0 || of&anything != 0 {
		return
	}
	for i := range f.table {
		l := &f.table[i]
		if of&(1<<i) != 0 && (len(l.values) == 0 ||
			slices.ContainsFunc(l.values, func(name string) bool { return matches(name, string(part)) })) {
			return
		}
		if of == 1<<i {
			f.report(literal, errors.New(strconv.Quote(string(part))+" matches no "+l.what))
		}
	}
}

// get returns what a term can stand for.
func (f *nameFlow) get(t *ast.Term) (m meaning) {
	switch v := t.Value.(type) {
	case ast.Var:
		return f.vars[f.rule][v]
	case ast.Ref:
		return f.ref(v)
	case ast.Set:
		v.Foreach(func(t *ast.Term) { m.keys |= f.get(t).self })
		m.vals = m.keys
	case *ast.Array:
		v.Foreach(func(t *ast.Term) { m.vals |= f.get(t).self })
	case ast.Object:
		v.Foreach(func(key, value *ast.Term) { m.keys, m.vals = m.keys|f.get(key).self, m.vals|f.get(value).self })
	}
	return m
}

// ref is get for a reference.
func (f *nameFlow) ref(ref ast.Ref) (m meaning) {
	ref = f.resolved(ref)
	if ref[0].Equal(ast.InputRootDocument) {
		if list, ok := closedMembers[memberPath(ref)]; ok {
			return meaning{self: list}
		}
		return meaning{anything, anything, anything}
	}
	base, rest := f.base(ref)
	m = base.get()
	for _, t := range rest {
		base.put(meaning{keys: f.get(t).self})
		f.put(t, meaning{self: m.keys})
		m = meaning{self: m.vals} // what lies deeper has no meaning of its own
		base = place{func() meaning { return m }, func(meaning) {}}
	}
	return m
}

// memberPath is the path of a member of `input` as far as a reference spells it out.
func memberPath(ref ast.Ref) string {
	var path []string
	for _, t := range ref[1:] {
		name, ok := t.Value.(ast.String)
		if !ok {
			return ""
		}
		path = append(path, string(name))
	}
	return strings.Join(path, ".")
}

// place is something that meanings are known of.
type place struct {
	get func() meaning
	put func(meaning)
}

// base returns what a reference starts with, a variable or rules, and its further terms.
func (f *nameFlow) base(ref ast.Ref) (place, ast.Ref) {
	if !ref[0].Equal(ast.DefaultRootDocument) {
		return place{func() meaning { return f.get(ref[0]) }, func(m meaning) { f.put(ref[0], m) }}, ref[1:]
	}
	for i := len(ref); i > 1; i-- {
		rules := f.compiler.GetRulesExact(ref[:i])
		if len(rules) == 0 {
			continue
		}
		get := func() (m meaning) {
			for _, r := range rules {
				m = m.or(f.rules[r])
			}
			return m
		}
		return place{get, func(m meaning) {
			for _, r := range rules {
				f.learn(r, m)
			}
		}}, ref[i:]
	}
	return place{func() meaning { return meaning{anything, anything, anything} }, func(meaning) {}}, nil
}

// put notes what a term can stand for, and checks it once all is known.
func (f *nameFlow) put(t *ast.Term, m meaning) {
	if m == (meaning{}) {
		return
	}
	switch v := t.Value.(type) {
	case ast.Var:
		of := f.vars[f.rule]
		if all := of[v].or(m); all != of[v] {
			of[v], f.changed = all, true
		}
	case ast.Ref:
		if v = f.resolved(v); v[0].Equal(ast.InputRootDocument) {
			return
		}
		switch base, rest := f.base(v); len(rest) {
		case 0:
			base.put(m)
		case 1:
			base.put(meaning{vals: m.self})
		}
	case ast.Set:
		v.Foreach(func(t *ast.Term) { f.put(t, meaning{self: m.keys | m.vals}) })
	case *ast.Array:
		v.Foreach(func(t *ast.Term) { f.put(t, meaning{self: m.vals}) })
	case ast.Object:
		v.Foreach(func(key, value *ast.Term) {
			f.put(key, meaning{self: m.keys})
			f.put(value, meaning{self: m.vals})
		})
	case ast.String:
		f.literal(t, string(v), m.self)
	}
}

// literal checks a literal that stands for an element of one of the lists.
func (f *nameFlow) literal(t *ast.Term, name string, lists listSet) {
	if f.report == nil || lists == 0 || lists&anything != 0 {
		return
	}
	var fault error
	for i := range f.table {
		if lists&(1<<i) == 0 {
			continue
		}
		err := f.table[i].check(name)
		if err == nil {
			return
		}
		fault = err
	}
	f.report(t, fault)
}
