package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Subject is the place of the subject of a payload: whose key seals it. It is never the subject itself, so that no verdict, cache
// or explanation holds one.
type Subject struct {
	Pointer string // JSON pointer to it in the payload's document; or
	Fact    string // the fact that it is, such as "workflow.id"
	Default string // subject of payloads that have none at the place; "": they are denied
}

// String describes the place.
func (s Subject) String() string { return cmp.Or(s.Pointer, s.Fact) }

// Named reports whether there is a subject.
func (s Subject) Named() bool { return s.Pointer != "" || s.Fact != "" }

// Missing is the reason of a refusal of a payload that has no subject at the place.
func (s Subject) Missing(why string) string {
	return "a rule seals with the key of the subject at " + s.String() + ", and there is none: " + why
}

// ErrTwoSubjects means that rules name different subjects for one payload.
var ErrTwoSubjects = errors.New("rules name different subjects, and a payload has one")

// readSubject reads the member "subject" of a verdict.
func readSubject(v ast.Value) (s Subject, err error) {
	obj, ok := v.(ast.Object)
	if ok && obj.Len() == 1 {
		if s.Pointer, ok = stringMember(obj, "pointer"); ok && singlePlace(s.Pointer) {
			return s, nil
		}
		if s.Fact, ok = stringMember(obj, "fact"); ok && slices.Contains(AllFacts.Names(), s.Fact) {
			return s, nil
		}
	}
	return Subject{}, fmt.Errorf(`member subject must be {"pointer": "/a/b"}, a JSON pointer without *, or {"fact": "..."} with one of %s`, strings.Join(AllFacts.Names(), ", "))
}

// singlePlace reports whether a text is a JSON pointer to one value within a document.
func singlePlace(pointer string) bool {
	return strings.HasPrefix(pointer, "/") && !badEscape(pointer) && utf8.ValidString(pointer) &&
		!slices.Contains(strings.Split(pointer, "/"), "*")
}

// maxSubject is the most bytes that a subject has.
const maxSubject = 256

// subject joins the subjects of all proposals: at most one.
func subject(proposals []Verdict) (s Subject, err error) {
	for _, p := range proposals {
		switch {
		case p.Action != Seal || !p.Subject.Named():
		case s.Named() && s != p.Subject:
			return s, ErrTwoSubjects
		default:
			s = p.Subject
		}
	}
	return s, nil
}

// twoSubjects completes ErrTwoSubjects with the places of two rules.
func (q *query) twoSubjects(ctx context.Context, in *Input) error {
	cause := &Error{Err: ErrTwoSubjects}
	places := func(a, b Subject) (string, string) {
		if a.String() != b.String() {
			return a.String(), b.String()
		}
		with := map[bool]string{true: " without default_subject", false: " with another default_subject"}
		return a.String() + with[a.Default == ""], b.String() + with[b.Default == ""]
	}
	var first Subject
	at := ""
	for _, p := range q.parts {
		answers, err := q.byRule(ctx, p, in)
		if err != nil {
			return cause
		}
		for _, a := range answers {
			for _, v := range a.verdicts {
				pr, err := parseProposal(v, q.direction, in.Kind)
				switch {
				case err != nil || pr.Action != Seal || !pr.Subject.Named():
				case at == "":
					first, at = pr.Subject, a.line
				case pr.Subject != first:
					cause.Location = at
					one, other := places(first, pr.Subject)
					cause.Err = fmt.Errorf("%w: %s here, and %s at %s", ErrTwoSubjects, one, other, a.line)
					return cause
				}
			}
		}
	}
	return cause
}

// NamesSubjects reports whether a rule of a policy names a subject for requests in a namespace.
func NamesSubjects(p *Policy, namespace string) bool {
	return p.queries(namespace)[Request].subjects
}

// missesSubject reports whether a rule that names a subject reaches something that is unknown in a call, and which one: it might hold,
// and the payload would be sealed with a key that nobody can erase.
func (q *query) missesSubject(ctx context.Context, in *Input) (at untold, missed bool) {
	return q.misses(ctx, in, func(r *rule) bool { return r.maySubject })
}

// untold is something that a rule reads and a request does not tell.
type untold struct {
	line string
	what MemberSet // facts of one group stand for each other: which of them a rule reads is not seen
}

// deny refuses a payload, for a rule that does something.
func (u untold) deny(does string) Verdict {
	reads := "what this request does not tell"
	if names := u.what.Names(); len(names) > 0 {
		reads = strings.Join(names, " or ") + ", which this request does not tell"
	}
	return Verdict{Action: Deny, Reason: fmt.Sprintf("a rule that %s reads %s (%s)", does, reads, u.line), untold: u.what}
}

// misses reports whether one of some rules reaches something that is unknown in a call, which rule, and what that is.
func (q *query) misses(ctx context.Context, in *Input, some func(*rule) bool) (at untold, missed bool) {
	for _, p := range q.parts {
		for _, r := range p.rules {
			if !some(&r) {
				continue
			}
			e := &evaluation{in: in, full: true}
			if err := q.run(ctx, r.query(), e, func(topdown.QueryResult) {}); err != nil || e.missed {
				return untold{r.line, e.untold}, true
			}
		}
	}
	return at, false
}

// withoutSubjects returns an error for each rule that names a subject, if none may.
func (q *query) withoutSubjects(why string) (errs []error) {
	if why == "" || q.direction != Request {
		return nil
	}
	for _, p := range q.parts {
		for _, r := range p.rules {
			if r.subject {
				errs = append(errs, &Error{Package: p.pkg, Location: r.line, Err: fmt.Errorf("the rule names a subject: %s", why)})
			}
		}
	}
	return errs
}

// checkSubject returns an error for a subject that was computed, which might be one itself.
func (q *query) checkSubject(s Subject) error {
	for _, text := range []string{s.Pointer, s.Fact, s.Default} {
		if text != "" && !q.literals[text] {
			return errors.New("the rule computes subject or default_subject; write its text in the rule")
		}
	}
	return nil
}

// Fact returns the value of a fact by its name.
func (in *Input) Fact(name string) (value string, known bool) {
	for i := range members {
		if m := &members[i]; m.path == name && m.read&AllFacts != 0 {
			return *m.text(in), in.Known&m.read != 0
		}
	}
	return "", false
}
