package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Masking says which members of a document are masked before it is sealed.
type Masking struct {
	Fields   []string // JSON pointers; never empty
	Optional []string // those of Fields that a document need not have
	// Computed reports that a rule may have computed a pointer from the payload, so that no text repeats one.
	Computed bool
}

// Join returns a masking that satisfies both. Either may be nil, for none.
func (m *Masking) Join(other *Masking) *Masking {
	switch {
	case m == nil:
		return other
	case other == nil:
		return m
	}
	out := &Masking{Fields: unique(slices.Concat(m.Fields, other.Fields)), Computed: m.Computed || other.Computed}
	for _, f := range out.Fields {
		if !m.requires(f) && !other.requires(f) {
			out.Optional = append(out.Optional, f)
		}
	}
	return out
}

// requires reports whether a document has to have a field.
func (m *Masking) requires(field string) bool {
	return slices.Contains(m.Fields, field) && !slices.Contains(m.Optional, field)
}

// masked returns what a verdict masks; nothing if it is nil.
func (v *Verdict) masked() Masking {
	if v.Masked == nil {
		return Masking{}
	}
	return *v.Masked
}

// optional returns the members that a document need not have, of those that are sealed and those that are masked.
func (v *Verdict) optional() []string {
	if also := v.masked().Optional; also != nil {
		return unique(slices.Concat(v.Optional, also))
	}
	return v.Optional
}

// MayMiss returns those of Fields that a masked document need not have: the optional ones, and those within a member that a rule has
// masked, and of which nothing is left to seal.
func (v *Verdict) MayMiss() []string {
	out := slices.Clip(v.Optional)
	for _, f := range v.Fields {
		gone := func(m string) bool { return v.Masked.requires(m) && strings.HasPrefix(f, m+"/") }
		if !slices.Contains(out, f) && slices.ContainsFunc(v.masked().Fields, gone) {
			out = append(out, f)
		}
	}
	return out
}

// equal compares maskings; nil is one.
func (m *Masking) equal(other *Masking) bool {
	if m == nil || other == nil {
		return m == other
	}
	return slices.Equal(m.Fields, other.Fields) && slices.Equal(m.Optional, other.Optional)
}

// masking joins the members that proposals have masked; nil if none has any.
func masking(proposals []Verdict) (m *Masking) {
	for i := range proposals {
		if p := &proposals[i]; p.Action == Mask {
			m = m.Join(&Masking{Fields: p.Fields, Optional: p.Optional, Computed: p.computedFields})
		}
	}
	return m
}

// Seals reports whether a payload with this verdict is sealed.
func (a Action) Seals() bool { return a == Seal || a == Mask }

// maskable are the kinds of payload that rules may mask. A worker has what others hold in its memory, in clear, and would replay
// it masked; or they are no documents.
var maskable = []string{KindInput, KindResult, KindSignal, KindQuery, KindUpdate, KindMemo}

// upsertedMemo and acceptedUpdate stand in the paths of payloads of maskable kinds that a worker has seen in clear.
const (
	completion     = "RespondWorkflowTaskCompleted"
	upsertedMemo   = "upserted_memo"
	acceptedUpdate = "accepted_request"
)

// ExternalUnmasked is why a reference to external storage is refused where a rule masks.
const ExternalUnmasked = "it is a reference to a value in external storage, which holds it unmasked"

// ErrUnmaskable means that a rule masks a payload which must not be masked.
var ErrUnmaskable = errors.New("the action mask is not for this payload")

// seenInClear returns the part of a payload's path that says that a worker has seen it in clear; "" if none does.
func (in *Input) seenInClear() string {
	switch {
	case in.Kind == KindMemo && strings.Contains(in.Path, upsertedMemo):
		return upsertedMemo
	case in.Kind == KindUpdate && strings.Contains(in.Path, acceptedUpdate):
		return acceptedUpdate
	}
	return ""
}

// maskable reports whether a payload may be masked.
func (in *Input) maskable() bool { return slices.Contains(maskable, in.Kind) && in.seenInClear() == "" }

// checkMask returns an error if a payload must not be masked.
func checkMask(in *Input) error {
	switch at := in.seenInClear(); {
	case !slices.Contains(maskable, in.Kind):
		return fmt.Errorf("%w: its kind is %q, and only those of the kinds %s can be masked; deny or seal it", ErrUnmaskable, in.Kind,
			strings.Join(maskable, ", "))
	case at == upsertedMemo:
		return fmt.Errorf("%w: a workflow upserts it into its memo, has it in clear, and would replay it masked; "+
			"add `not contains(input.payload.path, %q)` to the rule", ErrUnmaskable, upsertedMemo)
	case at == acceptedUpdate:
		return fmt.Errorf("%w: it is the copy of an update that a worker sends back when it accepts it; the worker may have it in clear, and "+
			"would replay it masked; add `not contains(input.payload.path, %q)` to the rule", ErrUnmaskable, acceptedUpdate)
	}
	return nil
}

// checkMasked returns an error if a verdict masks a payload that must not be masked. The verdict may have been made for another
// payload: the policy cache does not distinguish what rules do not read.
func (q *query) checkMasked(ctx context.Context, a Action, in *Input) error {
	if a != Mask {
		return nil
	}
	err := checkMask(in)
	if err == nil {
		return nil
	}
	masks := func(p Verdict) bool { return p.Action == Mask }
	return q.locate(ctx, q.parts, in, &Error{Namespace: in.Namespace, Err: err}, masks)
}

// masksWrongly returns an error for each rule that masks and may hold for a payload which must not be masked. It evaluates the
// rules in part: kind, method and path are known, all else is not. Verdicts that a rule computes are checked when they are made.
func masksWrongly(ctx context.Context, q *query) (errs []error) {
	if q.direction != Request || !q.masks {
		return nil
	}
	var wrong []*Input
	for _, kind := range Kinds() {
		if !slices.Contains(maskable, kind) {
			wrong = append(wrong, &Input{Kind: kind})
		}
	}
	wrong = append(wrong,
		&Input{Kind: KindMemo, RPC: completion, Path: "commands.modify_workflow_properties_command_attributes." + upsertedMemo},
		&Input{Kind: KindUpdate, RPC: completion, Path: "messages.body." + acceptedUpdate + ".input.args"})
	for _, p := range q.parts {
		for _, r := range p.rules {
			if !r.mask {
				continue
			}
			for _, in := range wrong {
				if r.mayHold(ctx, q, in) {
					errs = append(errs, &Error{Namespace: q.namespace, Package: p.pkg, Location: r.line,
						Err: fmt.Errorf("the rule may hold for kind %q: %w", in.Kind, checkMask(in))})
					break
				}
			}
		}
	}
	return errs
}

// mayHold reports whether a rule can hold for a payload of which only kind, method and path are known, where they are not empty. A rule that
// cannot be evaluated may hold.
func (r *rule) mayHold(ctx context.Context, q *query, in *Input) (may bool) {
	defer func() {
		if recover() != nil { // in a builtin, as in run
			may = true
		}
	}()
	known, payload := ast.NewObject(), ast.NewObject()
	var unknown []*ast.Term
	for i := range members {
		m := &members[i]
		path := strings.Split(m.path, ".")
		if m.text == nil || m.flag != nil || m.read&(readKind|readRPC|readPath) == 0 || *m.text(in) == "" {
			ref := ast.Ref{ast.InputRootDocument}
			for _, name := range path {
				ref = ref.Append(ast.StringTerm(name))
			}
			unknown = append(unknown, ast.NewTerm(ref))
			continue
		}
		into := known
		if path[0] == "payload" {
			into = payload
		}
		into.Insert(ast.StringTerm(path[len(path)-1]), ast.StringTerm(*m.text(in)))
	}
	known.Insert(ast.StringTerm("payload"), ast.NewTerm(payload))
	ctx, cancel := context.WithTimeout(ctx, q.limit)
	defer cancel()
	canceler := topdown.NewCancel()
	stop := context.AfterFunc(ctx, canceler.Cancel)
	defer stop()
	left, _, err := topdown.NewQuery(r.query()).WithCompiler(q.compiler).WithStore(noData).WithTransaction(reading).
		WithInput(ast.NewTerm(known)).WithUnknowns(unknown).WithCancel(canceler).PartialRun(ctx)
	return err != nil || len(left) > 0
}

// missesMask reports whether a rule that masks reaches something that is unknown in a call, and which one: it might hold, and the
// value would be stored.
func missesMask(ctx context.Context, q *query, in *Input) (at untold, missed bool) {
	if !q.masks || q.direction != Request || checkMask(in) != nil {
		return at, false
	}
	return q.misses(ctx, in, func(r *rule) bool { return r.mayMask })
}
