package policy

import "strings"

// ErrorKind says what sort of thing went wrong.
type ErrorKind string

const (
	// BadSource is a policy that cannot be read, does not compile or breaks the rules of ownership.
	BadSource ErrorKind = "source"
	// BadVerdict is a rule that answered what the contract does not know, or a key that is not configured.
	BadVerdict ErrorKind = "verdict"
	// BadInput is a call that could not be put before the policy.
	BadInput ErrorKind = "input"
	// Failed is an evaluation that broke off: an error of OPA's, or a panic in a builtin.
	Failed ErrorKind = "evaluation"
	// TimedOut is an evaluation over its time limit, or over the call's deadline.
	TimedOut ErrorKind = "time limit"
)

// Error is a policy that did not answer. Nothing is forwarded after one. Its text
// holds names and places, never a payload's content.
type Error struct {
	Kind      ErrorKind
	Namespace string // the call's, or "" at load
	Package   string // the Rego package, where one is to blame
	Location  string // file:line of the rule, where it is known
	Err       error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("policy: ")
	if e.Location != "" {
		b.WriteString(e.Location + ": ")
	}
	b.WriteString(e.Err.Error())
	var where []string
	if e.Package != "" {
		where = append(where, "package "+e.Package)
	}
	if e.Namespace != "" {
		where = append(where, "namespace "+e.Namespace)
	}
	if len(where) > 0 {
		b.WriteString(" (" + strings.Join(where, ", ") + ")")
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }
