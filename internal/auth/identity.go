// Package caller finds out who makes a call and how far it reaches: by client certificate, JWT or static token. It owns
// that answer for every door, gRPC and HTTP, and decides nothing about payloads: that is the policy's.
package auth

import (
	"crypto/tls"
	"fmt"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/x/glob"
)

// Kind says why a caller is refused.
type Kind uint8

const (
	// Unauthenticated: nothing that was shown vouches for the caller.
	Unauthenticated Kind = iota
	// Forbidden: the caller is known, and does not reach this far.
	Forbidden
	// Unavailable: what vouches for callers cannot be checked now.
	Unavailable
)

// Refusal says in words for the caller why it is refused. It quotes no token.
type Refusal struct {
	Kind Kind
	text string
}

func (r *Refusal) Error() string { return r.text }

// Identity is who makes a call and how far it reaches.
type Identity struct {
	Caller *policy.Caller
	// Namespaces are the patterns of the namespaces that the caller reaches. Nil: all of them.
	Namespaces []string
}

// Authorise holds the one rule about reach, and tells whom it refuses why. A call that names no namespace reaches beyond any.
func (id *Identity) Authorise(namespace string) error {
	switch {
	case id.Reaches(namespace):
		return nil
	case namespace == "":
		return &Refusal{Forbidden, fmt.Sprintf("listener %q serves certain namespaces only, and this call names none: set its namespace", id.Caller.Listener)}
	}
	return &Refusal{Forbidden, fmt.Sprintf("%s does not reach namespace %q: listener %q grants it %s only; change `callers` there if it should",
		describe(id.Caller), namespace, id.Caller.Listener, quoteAll(id.Namespaces))}
}

// Reaches tells if the caller reaches a namespace.
func (id *Identity) Reaches(namespace string) bool {
	return id.Namespaces == nil || namespace != "" && glob.MatchAny(id.Namespaces, namespace)
}

func describe(c *policy.Caller) string {
	if c.Subject == "" {
		return "an " + c.Kind + " caller"
	}
	return fmt.Sprintf("caller %q (%s)", c.Subject, c.Kind)
}

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

// Shown is what a caller shows of itself.
type Shown struct {
	// Headers are keyed by their names in lower case, as gRPC has them.
	Headers map[string][]string
	TLS     *tls.ConnectionState // nil: plaintext
}

// Identify finds out who makes a call. It never keeps the headers. Its errors are of type [*Refusal].
type Identify func(Shown) (*Identity, error)

// Anonymous takes every call for the same caller. Namespaces nil: all.
func Anonymous(listener string, namespaces []string) Identify {
	id := &Identity{Caller: policy.NewCaller("anonymous", "", listener, nil), Namespaces: namespaces}
	return func(Shown) (*Identity, error) { return id, nil }
}
