package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// Token is one static token and whom it stands for.
type Token struct {
	Subject    string
	Namespaces []string
	// Value gives the token as it is now: its file is read again when it changes.
	Value func() string
}

// Tokens knows callers by a static token in the named header, with or without "Bearer ".
func Tokens(listener, header string, tokens []Token) Identify {
	ids := make([]*Identity, len(tokens))
	for i, t := range tokens {
		ids[i] = &Identity{Caller: policy.NewCaller("token", t.Subject, listener, nil), Namespaces: t.Namespaces}
	}
	return func(shown Shown) (*Identity, error) {
		given := sha256.Sum256([]byte(bearer(shown.Headers, header)))
		var found *Identity
		for i, t := range tokens { // all of them, in constant time: the time taken tells nothing
			want := sha256.Sum256([]byte(t.Value()))
			if subtle.ConstantTimeCompare(given[:], want[:]) == 1 {
				found = ids[i]
			}
		}
		switch {
		case found != nil:
			return found, nil
		case len(shown.Headers[header]) == 0:
			return nil, &Refusal{Unauthenticated, fmt.Sprintf("listener %q wants a token in the header %q", listener, header)}
		}
		return nil, &Refusal{Unauthenticated, fmt.Sprintf("listener %q does not know the token in the header %q", listener, header)}
	}
}

// bearer gives the one value of a credential's header. Several values are none: which would count?
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
