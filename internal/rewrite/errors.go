package rewrite

import (
	"fmt"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// DeniedError is a policy's deny. The reason is the rule's own text.
type DeniedError struct{ Reason string }

// Error gives the rule's reason.
func (e *DeniedError) Error() string {
	if e.Reason == "" {
		return "denied by policy"
	}
	return "denied by policy: " + e.Reason
}

// Kind says why a message was not rewritten, and so what its caller is told.
type Kind uint8

const (
	// KindMalformed: the bytes are not the message that the RPC takes.
	KindMalformed Kind = iota + 1
	// KindUnknownField: a field that this build does not know might hold a payload.
	KindUnknownField
	// KindDenied: the policy refuses it.
	KindDenied
	// KindPolicy: the policy gave no usable answer.
	KindPolicy
	// KindSealing: no key could be had; nothing was forwarded.
	KindSealing
	// KindTooLarge: sealed, it is larger than the server takes, and it was not in clear; or it holds more payloads than
	// one message may.
	KindTooLarge
	// KindOpening: a sealed value could not be opened. Err's crypto.Kind tells whether later may be better.
	KindOpening
)

var kindNames = [...]string{KindMalformed: "malformed", KindUnknownField: "unknown field", KindDenied: "denied",
	KindPolicy: "policy", KindSealing: "sealing", KindTooLarge: "too large", KindOpening: "opening"}

// String names the kind for metric labels.
func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return "unknown"
}

// Error says why a message was not rewritten, and where. It holds no byte of
// a payload.
type Error struct {
	Kind Kind
	RPC  string
	Path string // the field, "" for the whole message
	Err  error
}

// Error gives the reason, with the place before it.
func (e *Error) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%s: %v", e.RPC, e.Err)
	}
	return fmt.Sprintf("%s: %s: %v", e.RPC, e.Path, e.Err)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Transient tells whether the same call may succeed later with nothing
// changed but time.
func (e *Error) Transient() bool {
	switch e.Kind {
	case KindPolicy, KindSealing:
		return true
	case KindOpening:
		return crypto.KindOf(e.Err).Transient()
	}
	return false
}
