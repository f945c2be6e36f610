package policy

import (
	"fmt"
	"strings"
)

// Error is returned instead of a verdict or a policy. A call whose policy fails is not forwarded. The text
// holds names and places, never a payload's content.
type Error struct {
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
	return &Error{Location: line, Err: fmt.Errorf(format, args...)}
}
