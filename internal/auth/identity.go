// Package auth finds out who makes a call and which namespaces they reach: by client certificate, JWT, static
// token, or not at all (anonymous). It serves gRPC (beforeStream in server/authenticate.go asks it, before there is a
// stream) and HTTP (codecserver/handler.go) alike, and decides nothing about payloads: the policy does.
// A listener has exactly one kind of credential, or none for anonymous callers, chosen by its config (app/wiring.go).
// So there is no order among kinds. Other credentials prove nothing here and go to the upstream like any header. A
// credential that is sent twice counts as none; in a certificate the first entry of the config that matches counts.
//
// How a caller becomes an [Identity], which names them for policies and lists the namespaces that they reach:
//
//	certificate  verified by TLS; its URIs, DNS names, e-mail addresses and common name are compared with the entries of
//	             `names`, in the order of the config; the subject is the name that matched
//	token        compared in constant time with every token of the listener; the entry has subject and namespaces
//	JWT          signature by the issuer's keys, algorithm, issuer, audience, expiry; the subject is `sub`, policies see the
//	             claims, and the namespaces are the config's or those of one claim, without patterns
//	none         one identity for the whole listener, with the namespaces of the config
//
// Where a request is checked against the namespaces of its caller, by [Identity.Authorize] and [Identity.Reaches]:
// server/authorize.go for the namespace that the request names; withinReach in rewrite/seal.go for each namespace in which
// parts of it act (children, signals, Nexus endpoints); codecserver/handler.go for the header X-Namespace. What a
// listener's config says becomes an Identify in app/wiring.go.
//
// What is where:
//
//   - identity.go: identities, refusals, anonymous callers
//   - certificates.go, tokens.go, jwt.go: one kind of credential each
//   - keyset.go: the public keys that verify JWTs, and when they are fetched again
package auth

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/x/glob"
)

// Kind is the kind of reason for a refusal.
type Kind uint8

const (
	// Unauthenticated means that the credentials prove no identity.
	Unauthenticated Kind = iota
	// Forbidden means that the caller is known and does not reach the namespace.
	Forbidden
	// Unavailable means that credentials cannot be checked now.
	Unavailable
)

// Refusal is the error for a caller that is refused. Its text is for the caller, and quotes no token.
type Refusal struct {
	Kind Kind
	text string
}

func (r *Refusal) Error() string { return r.text }

// Identity is who makes a call, and which namespaces they reach.
type Identity struct {
	Caller *policy.Caller
	// Namespaces are the patterns of the namespaces that the caller reaches. Nil: all of them.
	Namespaces []string
}

// MaxNamespace is how long the name of a namespace may be, in bytes. Temporal's own limit is not higher by default.
const MaxNamespace = 1000

// Authorize returns a Refusal if the caller does not reach the namespace. A call that names none concerns the
// whole cluster.
func (id *Identity) Authorize(namespace string) error {
	switch {
	case id.Reaches(namespace):
		return nil
	case namespace == "":
		return &Refusal{Forbidden, fmt.Sprintf("listener %q serves certain namespaces only, and this call names none: set its namespace", id.Caller.Listener)}
	}
	return &Refusal{Forbidden, fmt.Sprintf("%s does not reach namespace %q: listener %q grants it %s only; change `callers` there if it should",
		describe(id.Caller), namespace, id.Caller.Listener, quoteAll(id.Namespaces))}
}

// Reaches reports whether the caller reaches a namespace.
func (id *Identity) Reaches(namespace string) bool {
	return id.Namespaces == nil || namespace != "" && glob.MatchAny(id.Namespaces, namespace)
}

// describe names a caller in a refusal.
func describe(c *policy.Caller) string {
	if c.Subject == "" {
		return "an " + c.Kind + " caller"
	}
	return fmt.Sprintf("caller %q (%s)", c.Subject, c.Kind)
}

// quoteAll lists patterns or names in quotes; an empty list is "none".
func quoteAll(patterns []string) string {
	if len(patterns) == 0 {
		return "none"
	}
	quoted := make([]string, len(patterns))
	for i, p := range patterns {
		quoted[i] = fmt.Sprintf("%q", p)
	}
	return strings.Join(quoted, ", ")
}

// Credentials are what a caller sends to prove who they are.
type Credentials struct {
	// Headers are keyed by their names in lower case, as gRPC has them.
	Headers map[string][]string
	TLS     *tls.ConnectionState // nil: plaintext
	// Wait allows to fetch the issuer's keys again, for a token that names one which is not known. Without it
	// the error is [ErrWait].
	Wait bool
}

// ErrWait is the error for credentials that cannot be checked before the issuer's keys are fetched.
var ErrWait = errors.New("the keys of the token's issuer have to be fetched first")

// Identify returns who makes a call. It keeps no reference to the headers. Its errors are of type [*Refusal], or [ErrWait].
type Identify func(Credentials) (*Identity, error)

// Anonymous returns one identity for every call. Namespaces nil: all.
func Anonymous(listener string, namespaces []string) Identify {
	id := &Identity{Caller: policy.NewCaller(policy.CallerAnonymous, "", listener, nil), Namespaces: namespaces}
	return func(Credentials) (*Identity, error) { return id, nil }
}
