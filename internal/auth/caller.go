// Package caller finds out who makes a call and how far it reaches: by client certificate, JWT or static token. It owns
// that answer for every door, gRPC and HTTP, and decides nothing about payloads: that is the policy's.
package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

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

// Certificate grants namespaces to the client certificates one of whose names matches.
type Certificate struct {
	// Name is a pattern for a SPIFFE id or other URI, a DNS name, an e-mail address or the subject's common name.
	Name       string
	Namespaces []string
}

// Certificates knows callers by the client certificate that the TLS handshake has verified. The first entry that
// matches counts.
func Certificates(listener string, known []Certificate) Identify {
	// By pointer: a connection keeps one parsed certificate for its whole life.
	seen, err := lru.New[*x509.Certificate, *Identity](4096)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return func(shown Shown) (*Identity, error) {
		cert := shown.certificate()
		if cert == nil {
			return nil, &Refusal{Unauthenticated, fmt.Sprintf("listener %q wants a client certificate", listener)}
		}
		if id, ok := seen.Get(cert); ok {
			return id, nil
		}
		names := certificateNames(cert)
		for _, k := range known {
			for _, name := range names {
				if name.matches(k.Name) {
					id := &Identity{Caller: policy.NewCaller("mtls", name.text, listener, nil), Namespaces: k.Namespaces}
					seen.Add(cert, id)
					return id, nil
				}
			}
		}
		return nil, &Refusal{Forbidden, fmt.Sprintf("listener %q knows none of the names in the client certificate: %s", listener, quoteNames(names))}
	}
}

// certificate is the verified one, if the caller has shown any.
func (s Shown) certificate() *x509.Certificate {
	if s.TLS == nil || len(s.TLS.VerifiedChains) == 0 {
		return nil
	}
	return s.TLS.VerifiedChains[0][0]
}

// certificateName is one of the names of a certificate's owner.
type certificateName struct {
	text string
	uri  bool
}

// matches compares with a pattern. One for a SPIFFE id or another URI matches nothing else: authorities mind what they put
// there, and let people choose a common name.
func (n certificateName) matches(pattern string) bool {
	return glob.Match(pattern, n.text) && (n.uri || !strings.Contains(pattern, "://"))
}

// certificateNames lists what identifies a certificate's owner, the most specific first.
func certificateNames(cert *x509.Certificate) []certificateName {
	var names []certificateName
	for _, u := range cert.URIs {
		names = append(names, certificateName{u.String(), true})
	}
	for _, text := range slices.Concat(cert.DNSNames, cert.EmailAddresses) {
		names = append(names, certificateName{text: text})
	}
	if cert.Subject.CommonName != "" {
		names = append(names, certificateName{text: cert.Subject.CommonName})
	}
	return names
}

func quoteNames(names []certificateName) string {
	texts := make([]string, len(names))
	for i, n := range names {
		texts[i] = n.text
	}
	return quoteAll(texts)
}
