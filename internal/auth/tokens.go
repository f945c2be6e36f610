package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// Token is a static token, and the caller that it identifies.
type Token struct {
	Subject    string
	Namespaces []string
	// Value returns the present token: its file is read again when it changes.
	Value func() string
}

// Tokens identifies callers by a static token in the named header, with or without "Bearer ".
func Tokens(listener, header string, tokens []Token) Identify {
	ids := make([]*Identity, len(tokens))
	for i, t := range tokens {
		ids[i] = &Identity{Caller: policy.NewCaller(policy.CallerToken, t.Subject, listener, nil), Namespaces: t.Namespaces}
	}
	return func(c Credentials) (*Identity, error) {
		given := sha256.Sum256([]byte(bearer(c.Headers, header)))
		var found *Identity
		for i, t := range tokens { // all of them, so that the time depends on no token
			want := sha256.Sum256([]byte(t.Value()))
			if subtle.ConstantTimeCompare(given[:], want[:]) == 1 {
				found = ids[i]
			}
		}
		switch {
		case found != nil:
			return found, nil
		case len(c.Headers[header]) == 0:
			return nil, &Refusal{Unauthenticated, fmt.Sprintf("listener %q requires a token in the header %q", listener, header)}
		}
		return nil, &Refusal{Unauthenticated, fmt.Sprintf("listener %q does not accept the token in the header %q", listener, header)}
	}
}

// bearer returns the value of a credential's header. Several values count as none, since any of them might be
// meant.
func bearer(headers map[string][]string, header string) string {
	values := headers[header]
	if len(values) != 1 {
		return ""
	}
	if scheme, rest, ok := strings.Cut(values[0], " "); ok && strings.EqualFold(scheme, "bearer") {
		return strings.TrimSpace(rest)
	}
	return values[0]
}
