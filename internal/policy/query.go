package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// query evaluates the packages that decide for one namespace in one direction.
type query struct {
	id        uint32 // starts its keys in the policy cache, which all queries of a Policy share
	direction Direction
	namespace string // "" for namespaces that have no file of their own
	compiler  *ast.Compiler
	body      ast.Body // nil: no package has a rule for this direction
	parts     []part
	reads     reads
	// literals are the strings that stand in the rules. A reason that a rule computed
	// from a payload is not among them and is not repeated anywhere.
	literals map[string]bool
	named    []string      // the keys that rules spell out
	subjects bool          // a rule names a subject, or may
	masks    bool          // a rule masks, or may
	limit    time.Duration // of an evaluation
	running  chan struct{} // holds an element for each evaluation that runs; nil: any number may
}

// part is one package's set.
type part struct {
	pkg   string // as a policy writes it
	file  string
	v     ast.Var
	rules []rule
}

// rule is one rule that adds to a set.
type rule struct {
	rule *ast.Rule
	line string // file:line
	key  string // that its verdict spells out, or ""

	subject    bool // its verdict names one
	maySubject bool // its verdict is computed and may name one, or does
	mask       bool // its verdict masks
	mayMask    bool // its verdict is computed and may mask, or does
}

// noData is what OPA's `data` holds besides rules: nothing. Since nothing ever writes to it, one
// transaction serves every evaluation.
var (
	noData  = inmem.New()
	reading = storage.NewTransactionOrDie(context.Background(), noData)
)

// newQuery prepares the query over those packages which have rules for the direction.
func newQuery(c *ast.Compiler, d Direction, packages Sources) (*query, error) {
	namespace := packages[len(packages)-1].namespace
	q := &query{direction: d, namespace: namespace, compiler: c, limit: evalTimeout, literals: map[string]bool{}}
	var body ast.Body
	var entries []*ast.Rule
	subjects, masks := buildSubjects(packages), buildMasks(packages)
	for i, s := range packages {
		ref := s.module.Package.Path.Append(ast.StringTerm(d.String()))
		rules := c.GetRulesExact(ref)
		if len(rules) == 0 {
			continue
		}
		v := ast.Var(fmt.Sprintf("verdicts%d", i))
		body.Append(ast.Equality.Expr(ast.NewTerm(v), ast.NewTerm(ref)))
		p := part{pkg: packageName(s.module), file: s.name, v: v}
		written := heads(s.module)
		for _, r := range rules {
			r := newRule(r, cmp.Or(written[r.Location.Offset], r.Head), subjects, masks)
			p.rules = append(p.rules, r)
			q.subjects, q.masks = q.subjects || r.maySubject, q.masks || r.mayMask
			if r.key != "" && !slices.Contains(q.named, r.key) {
				q.named = append(q.named, r.key)
			}
		}
		q.parts = append(q.parts, p)
		entries = append(entries, rules...)
	}
	if len(entries) == 0 {
		return q, nil
	}
	var err error
	if q.body, err = c.QueryCompiler().Compile(body); err != nil {
		return q, &Error{Namespace: q.namespace, Err: err}
	}
	q.reads, err = analyze(c, entries)
	for _, s := range packages {
		ast.WalkTerms(s.module, func(t *ast.Term) bool {
			if text, ok := t.Value.(ast.String); ok {
				q.literals[string(text)] = true
			}
			return false
		})
	}
	return q, err
}

// buildSubjects reports whether any object in the rules has the member subject.
func buildSubjects(packages Sources) (found bool) {
	for _, s := range packages {
		ast.WalkTerms(s.module, func(t *ast.Term) bool {
			if o, ok := t.Value.(ast.Object); ok {
				found = found || o.Get(ast.StringTerm("subject")) != nil
			}
			return found
		})
	}
	return found
}

// buildMasks reports whether the rules hold the text of the action mask, which a computed verdict may have.
func buildMasks(packages Sources) (found bool) {
	for _, s := range packages {
		ast.WalkTerms(s.module, func(t *ast.Term) bool {
			found = found || t.Value.Compare(ast.String(Mask.String())) == 0
			return found
		})
	}
	return found
}

// heads returns the heads of a module's rules as they are written, by the places of the rules. The compiler moves a verdict
// with a reference or a comprehension out of its head.
func heads(m *ast.Module) map[int]*ast.Head {
	all := make(map[int]*ast.Head, len(m.Rules))
	for _, r := range m.Rules {
		all[r.Location.Offset] = r.Head
	}
	return all
}

// newRule looks at a rule's head as it is written. subjects is whether the packages build any object with a subject, which a
// computed verdict may be, and masks the same for the action mask.
func newRule(r *ast.Rule, head *ast.Head, subjects, masks bool) rule {
	out := rule{rule: r, line: location(r.Location)}
	if head.Key != nil {
		if verdict, ok := head.Key.Value.(ast.Object); ok {
			out.key, _ = stringMember(verdict, "key")
			out.subject = verdict.Get(ast.StringTerm("subject")) != nil
			out.maySubject = out.subject
			action, literal := stringMember(verdict, "action")
			out.mask = action == Mask.String()
			out.mayMask = out.mask || !literal && masks
		} else {
			out.maySubject, out.mayMask = subjects, masks
		}
	}
	return out
}

// evaluation is one run of rules over one payload.
type evaluation struct {
	in     *Input
	full   bool                // the content is decoded before
	tracer topdown.QueryTracer // where set, notes each step
	cancel topdown.Cancel

	touchedContent bool // a rule reached the content, which was not decoded yet
	// missed reports that a rule reached a fact that is unknown, or content that cannot be decoded. A
	// verdict to leave something readable is not taken from such rules: they might decide otherwise if they
	// could read it.
	missed   bool
	untold   MemberSet // what was missed
	tooLarge bool      // what was missed is content that is too large to be decoded
	refused  error     // the call may not have the memory that its content takes
	read     MemberSet // the traced members that a rule has read
}

// miss notes that a rule reached something that is unknown.
func (e *evaluation) miss(what MemberSet) {
	e.missed = true
	e.untold |= what
}

// errTouchedContent ends an evaluation that reached content before it was decoded.
var errTouchedContent = errors.New("content was touched")

// evaluate runs the query and returns a set per part, in their order.
func (q *query) evaluate(ctx context.Context, e *evaluation) (sets []ast.Value, err error) {
	if q.body == nil {
		return nil, nil
	}
	err = q.run(ctx, q.body, e, func(r topdown.QueryResult) {
		for _, p := range q.parts {
			sets = append(sets, r[p.v].Value)
		}
	})
	if err == nil && len(sets) != len(q.parts) {
		err = q.failed("the rules gave no set")
	}
	return sets, err
}

// run evaluates a compiled body within the time limit and contains panics. Unless the evaluation is full,
// it ends with errTouchedContent as soon as a rule reaches for the content.
func (q *query) run(ctx context.Context, body ast.Body, e *evaluation, each func(topdown.QueryResult)) (err error) {
	cancel := topdown.NewCancel()
	e.cancel = cancel
	allowed := q.limit
	if e.full {
		// Large documents take their time: 0.1 to 0.5 us per byte where a rule walks them.
		allowed += 2 * q.limit * time.Duration(min(len(e.in.Data), maxContent)) / (1 << 20)
	}
	allowed = min(allowed, e.in.Call.left())
	limit := time.AfterFunc(allowed, cancel.Cancel)
	defer limit.Stop()
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, cancel.Cancel)
		defer stop()
	}
	defer func() {
		// A builtin that panics must not take the proxy down. The panic's value may
		// quote what the builtin was given, so it is not repeated.
		if r := recover(); r != nil {
			err = q.failed("the evaluation panicked; a builtin cannot handle what a rule gave it")
		}
	}()

	document := e.document(q.direction, q.reads)
	if e.refused != nil {
		return q.failed("the payload's content: %w", e.refused)
	}
	tq := topdown.NewQuery(body).
		WithCompiler(q.compiler).
		WithStore(noData).
		WithTransaction(reading).
		WithCancel(cancel).
		WithInput(document).
		// OPA's rule index reads every reference that it holds before the conditions of a rule are
		// evaluated. That would count as touched what the rule never reaches.
		WithIndexing(!q.watches(e.in))
	if e.tracer != nil {
		tq = tq.WithQueryTracer(e.tracer)
	}
	err = tq.Iter(ctx, func(r topdown.QueryResult) error { each(r); return nil })
	switch {
	case e.touchedContent:
		return errTouchedContent
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return q.ended(ctx)
	case topdown.IsCancel(err):
		if e.in.Call.left() == allowed {
			return q.failed("the rules took longer than %v on the payloads of one message; look for walks over large "+
				"documents, or split the message", maxSpent)
		}
		return q.failed("the rules took longer than %v on one payload; look for walks over large documents", allowed)
	}
	return q.failedAt(err)
}

// enter waits until an evaluation may run. It has to leave.
func (q *query) enter(ctx context.Context) error {
	if q.running == nil {
		return nil
	}
	select {
	case q.running <- struct{}{}:
		return nil
	case <-ctx.Done():
		return q.ended(ctx)
	}
}

// leave lets the next evaluation run.
func (q *query) leave() {
	if q.running != nil {
		<-q.running
	}
}

// ended returns the error of an evaluation whose call has ended.
func (q *query) ended(ctx context.Context) *Error {
	return q.failed("the call ended while its policy was evaluated: %w", context.Cause(ctx))
}

// watches reports whether an evaluation has to notice what its rules reach for.
func (q *query) watches(in *Input) bool {
	return q.reads.bits&(readContent|in.unknown()) != 0
}

// failed returns an error of an evaluation. Its text must not hold what a rule computed.
func (q *query) failed(format string, args ...any) *Error {
	return &Error{Namespace: q.namespace, Err: fmt.Errorf(format, args...)}
}

// failedAt returns an error with the place and the code of OPA's error. OPA's message is left out, since it
// may quote values.
func (q *query) failedAt(err error) *Error {
	te, ok := errors.AsType[*topdown.Error](err)
	if !ok {
		return q.failed("the evaluation failed")
	}
	out := q.failed("the evaluation failed with %s", te.Code)
	if te.Code == topdown.ConflictErr {
		out = q.failed("a rule or function has two different values at once (%s)", te.Code)
	}
	out.Location = location(te.Location)
	return out
}
