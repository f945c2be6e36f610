package auth

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/x/glob"
)

// Certificate grants namespaces to the client certificates that have a matching name.
type Certificate struct {
	// Name is a pattern for a SPIFFE id or other URI, a DNS name, an e-mail address or the subject's common
	// name.
	Name       string
	Namespaces []string
}

// Certificates identifies callers by the client certificate that the TLS handshake has verified. The first
// entry that matches counts.
func Certificates(listener string, known []Certificate) Identify {
	// The keys are pointers: a connection keeps one parsed certificate for its whole life.
	seen, err := lru.New[*x509.Certificate, *Identity](4096)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return func(c Credentials) (*Identity, error) {
		cert := c.certificate()
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

// certificate returns the verified client certificate, or nil.
func (c Credentials) certificate() *x509.Certificate {
	if c.TLS == nil || len(c.TLS.VerifiedChains) == 0 {
		return nil
	}
	return c.TLS.VerifiedChains[0][0]
}

// certificateName is a name of a certificate's owner.
type certificateName struct {
	text string
	uri  bool
}

// matches reports whether a pattern matches. A pattern for a URI, such as a SPIFFE id, matches URIs alone:
// authorities control these, and let people choose a common name.
func (n certificateName) matches(pattern string) bool {
	return glob.Match(pattern, n.text) && (n.uri || !strings.Contains(pattern, "://"))
}

// certificateNames returns the names of a certificate's owner, the most specific first.
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
