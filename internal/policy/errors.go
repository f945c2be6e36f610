package policy

import (
	"fmt"
	"strings"
)

// ErrorKind says what sort of thing went wrong.
type ErrorKind string

const (
	// BadSource is a policy that cannot be read, does not compile or breaks the rules of ownership.
	BadSource ErrorKind = "source"
	// BadVerdict is a verdict that is not valid, or that names a key which is not configured.
	BadVerdict ErrorKind = "verdict"
	// BadInput is a call that could not be evaluated, since its caller's claims are not JSON values.
	BadInput ErrorKind = "input"
	// Failed is an evaluation that ended early, by an error of OPA or a panic in a builtin.
	Failed ErrorKind = "evaluation"
	// TimedOut is an evaluation over its time limit, or over the call's deadline.
	TimedOut ErrorKind = "time limit"
)

// Error is returned instead of a verdict or a policy. A call whose policy fails is not forwarded. The text
// holds names and places, never a payload's content.
type Error struct {
	Kind      ErrorKind
	Namespace string // the call's, or "" at load
	Package   string // the Rego package with the fault, where it is known
	Location  string // file:line of the rule, where it is known
	Err       error
}

func (e *Error) Error() string {
	text := "policy: "
	if e.Location != "" {
		text += e.Location + ": "
	}
	text += e.Err.Error()
	var where []string
	if e.Package != "" {
		where = append(where, "package "+e.Package)
	}
	if e.Namespace != "" {
		where = append(where, "namespace "+e.Namespace)
	}
	if len(where) > 0 {
		text += " (" + strings.Join(where, ", ") + ")"
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// badSource returns an error about the line of a policy, file:line, or with "" about sources as a whole.
func badSource(line, format string, args ...any) *Error {
	return &Error{Kind: BadSource, Location: line, Err: fmt.Errorf(format, args...)}
}
