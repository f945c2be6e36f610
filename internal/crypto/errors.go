package crypto

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says what an error means for the payload at hand, and so what may be done about it.
type Kind uint8

const (
	// KindUnknown is the kind of an error that is none of this package's.
	KindUnknown Kind = iota
	// KindUnavailable is transient: the key service did not answer, or asked to come back later.
	KindUnavailable
	// KindRevoked means that the key encryption key was disabled or deleted, that access to it was withdrawn, or that
	// the data key stands in the list of revoked ones.
	KindRevoked
	// KindRejected means that the key service refused this envelope's wrapped key. It says nothing about the key.
	KindRejected
	// KindTampered means that the envelope was changed, or put together from pieces, after it was sealed.
	KindTampered
	// KindNewer means that a newer release wrote the envelope.
	KindNewer
	// KindForeign means that the envelope belongs to a namespace that is not granted to the calling one.
	KindForeign
	// KindNotConfigured means that the configuration has no key of this name for the namespace, or not this KMS key.
	KindNotConfigured
	// KindMalformed means that the bytes contain no envelope, or that the input cannot be sealed.
	KindMalformed
	// KindDenied is what a Provider reports when its credentials were refused. AWS answers so for a foreign wrapped key
	// as well as for a withdrawn permission, so only the Keyring finds out which it is: it returns KindRevoked or
	// KindRejected, never this.
	KindDenied
	// KindRowMissing means that the key store has not had the row that an envelope refers to, for longer than a row is on its way.
	KindRowMissing
	// KindErased means that the key of the envelope's subject was destroyed, as somebody asked for: it never opens again.
	KindErased
	// KindExpired means that the envelope's data key was destroyed at the end of its life: it never opens again.
	KindExpired
)

var kindNames = [...]string{"unknown", "unavailable", "revoked", "rejected", "tampered", "newer", "foreign",
	"not_configured", "malformed", "denied", "row_missing", "erased", "expired"}

// String names the kind for logs and metric labels.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// Kinds are all that an error of the Keyring can have, in the order of their numbers.
func Kinds() []Kind {
	return []Kind{KindUnavailable, KindRevoked, KindRejected, KindTampered, KindNewer, KindForeign, KindNotConfigured, KindMalformed, KindRowMissing,
		KindErased, KindExpired}
}

// Transient reports whether the same call may succeed later with nothing changed but time.
func (k Kind) Transient() bool { return k == KindUnavailable }

// Error is the error of this package and of its providers. It never holds a byte of a payload or of a key.
type Error struct {
	Kind      Kind
	Op        string // what was being done: "seal", "open", "kms.decrypt"
	Key       string // key name, where known
	Namespace string // namespace as bound in the envelope, where known
	Err       error  // cause and advice

	atOnce bool // though transient, it is returned at once rather than tried again here
	ours   bool // the text in Err was written here and names no place where keys are kept
}

// Error says what was being done, with which key, and why it failed.
func (e *Error) Error() string {
	where := ""
	switch {
	case e.Key != "" && e.Namespace != "":
		where = fmt.Sprintf(" (key %q, namespace %q)", e.Key, e.Namespace)
	case e.Key != "":
		where = fmt.Sprintf(" (key %q)", e.Key)
	case e.Namespace != "":
		where = fmt.Sprintf(" (namespace %q)", e.Namespace)
	}
	return fmt.Sprintf("%s%s: %v", e.Op, where, e.Err)
}

// ForCaller returns the error as callers may see it: it names the key by its name in the configuration, and not the
// URI, the endpoint or the file behind it, which Error has for the operator's log.
func (e *Error) ForCaller() string {
	err := e.Err
	if !e.ours || err == nil || errors.Unwrap(err) != nil {
		err = errors.New(callerTexts[e.Kind])
	}
	return (&Error{Op: e.Op, Key: e.Key, Namespace: e.Namespace, Err: err}).Error()
}

var callerTexts = map[Kind]string{
	KindUnknown:       "it failed; the proxy's log has the reason",
	KindUnavailable:   "the key service does not answer, or asks to come back later; try again (the proxy's log says which)",
	KindRevoked:       "the key is disabled, deleted or no longer allowed (the proxy's log says which)",
	KindRejected:      "the key service refuses this envelope's wrapped key: it was made elsewhere, or the proxy's permissions do not cover it",
	KindTampered:      "the envelope was changed after it was sealed",
	KindNewer:         "a newer release sealed this; the proxy has to be upgraded",
	KindForeign:       "it was sealed in another namespace",
	KindNotConfigured: "the key encryption key is missing or can't be used (the proxy's log says which)",
	KindMalformed:     "it is not an envelope",
	KindRowMissing:    "the key store has no row for it: the row was lost, or is in another store",
	KindErased:        "its subject was erased: the key is destroyed",
	KindExpired:       "the life of its key is over: the key is destroyed",
	KindDenied:        "the key service refuses access (the proxy's log says to what)",
}

// ForCaller returns the text of any error, with that of the Error in it made fit for callers; see Error.ForCaller.
func ForCaller(err error) string {
	var e *Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	whole, own := err.Error(), e.Error()
	if i := strings.LastIndex(whole, own); i >= 0 && i+len(own) == len(whole) {
		return whole[:i] + e.ForCaller()
	}
	return e.ForCaller() // put in another form on its way up: only what is known to be fit
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the first *Error in err's chain.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindUnknown
}

// Errorf makes an error whose text is fit for callers: it names no place where keys are kept.
func Errorf(kind Kind, op, format string, args ...any) *Error {
	return &Error{Kind: kind, Op: op, Err: fmt.Errorf(format, args...), ours: true}
}

// Unavailable makes the error of a key service that failed for a reason that may pass.
func Unavailable(op string, kc KeyContext, err error) *Error {
	return kc.Internalf(KindUnavailable, op, "%w", err)
}

// Internalf makes an error whose text is for the operator's log alone: it may name a place where keys are kept.
func Internalf(kind Kind, op, format string, args ...any) *Error {
	return &Error{Kind: kind, Op: op, Err: fmt.Errorf(format, args...)}
}

// In completes the error with the key and the namespace that it is about.
func (e *Error) In(key, namespace string) *Error {
	e.Key, e.Namespace = key, namespace
	return e
}

// About completes an error of this package that names no key with the key and the namespace that failed for it.
func About(err error, key, namespace string) error {
	e, ok := err.(*Error)
	if !ok || e.Key != "" {
		return err
	}
	completed := *e // others may have got the same error
	return completed.In(key, namespace)
}

// AtOnce marks a transient error that callers receive at once: trying again within their call would not help.
func (e *Error) AtOnce() *Error {
	e.atOnce = true
	return e
}

// WorthWaiting reports whether err is transient and may be tried again within the same call.
func WorthWaiting(err error) bool {
	if err == nil {
		return false
	}
	e, ok := errors.AsType[*Error](err)
	return ok && e.Kind == KindUnavailable && !e.atOnce
}
