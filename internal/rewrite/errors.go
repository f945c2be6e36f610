package rewrite

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// DeniedError is a policy's deny. The reason is the text of the rule.
type DeniedError struct{ Reason string }

// Error returns the reason of the rule.
func (e *DeniedError) Error() string {
	if e.Reason == "" {
		return "denied by policy"
	}
	return "denied by policy: " + e.Reason
}

// Kind is why a message was not rewritten. It decides the status code that the caller receives.
type Kind uint8

const (
	// KindMalformed means that the bytes are not the message that the RPC has.
	KindMalformed Kind = iota + 1
	// KindUnknownField means that a field unknown to this build might contain a payload.
	KindUnknownField
	// KindDenied means that the policy, or a rule that no policy can change, refuses it.
	KindDenied
	// KindPolicy means that the policy returned no usable verdict.
	KindPolicy
	// KindSealing means that no key was available. Nothing was forwarded.
	KindSealing
	// KindTooLarge means that the message fits the server's limits in clear but not
	// sealed, or that it holds more payloads than one message may.
	KindTooLarge
	// KindOpening means that a sealed value could not be opened. The crypto.Kind of
	// Err decides whether a later attempt may succeed.
	KindOpening
	// KindMemory means that others use the memory that the message takes.
	KindMemory
)

// kindNames are the names of kinds in metric labels.
var kindNames = [...]string{KindMalformed: "malformed", KindUnknownField: "unknown_field", KindDenied: "denied",
	KindPolicy: "policy", KindSealing: "sealing", KindTooLarge: "too_large", KindOpening: "opening", KindMemory: "memory"}

// String names the kind for metric labels.
func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return "unknown"
}

// Reasons of errors that have no kind.
const (
	reasonCanceled = "canceled"
	reasonDeadline = "deadline_exceeded"
	// ReasonOther is that of an error which the log alone explains.
	ReasonOther = "other"
)

// Reason returns why a message was not rewritten, or why a value did not open, in one word of a closed list: the kind of
// the key's error, else that of the rewriter's. Metrics, log lines and spans all use these words.
func Reason(err error) string {
	var e *Error
	switch kind := crypto.KindOf(err); {
	case kind != crypto.KindUnknown:
		return kind.String()
	case errors.Is(err, context.Canceled):
		return reasonCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return reasonDeadline
	case errors.As(err, &e):
		return e.Kind.String()
	}
	return ReasonOther
}

// Reasons returns the closed list of Reason's results.
func Reasons() []string {
	all := []string{reasonCanceled, reasonDeadline, ReasonOther}
	for _, kind := range crypto.Kinds() {
		all = append(all, kind.String())
	}
	all = append(all, kindNames[KindMalformed:]...)
	slices.Sort(all)
	return slices.Compact(all) // both kinds of errors have "malformed"
}

// Error is why a message was not rewritten, and where. It holds no byte of a payload.
type Error struct {
	Kind Kind
	RPC  string
	Path string // the field, "" for the whole message
	Err  error
}

// Error returns the RPC, the path and the cause.
func (e *Error) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%s: %v", e.RPC, e.Err)
	}
	return fmt.Sprintf("%s: %s: %v", e.RPC, e.Path, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Transient reports whether the same call may succeed later although nothing changed.
func (e *Error) Transient() bool {
	switch e.Kind {
	case KindPolicy, KindSealing, KindMemory:
		return true
	case KindOpening:
		return crypto.KindOf(e.Err).Transient()
	}
	return false
}
