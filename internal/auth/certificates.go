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
			return nil, &Refusal{Unauthenticated, fmt.Sprintf("listener %q requires a client certificate", listener)}
		}
		if id, ok := seen.Get(cert); ok {
			return id, nil
		}
		names, uris := certificateNames(cert)
		for _, k := range known {
			for i, name := range names {
				// A pattern for a URI, such as a SPIFFE id, matches URIs alone: authorities control
				// these, and let people choose a common name.
				if glob.Match(k.Name, name) && (i < uris || !strings.Contains(k.Name, "://")) {
					id := &Identity{Caller: policy.NewCaller(policy.CallerMTLS, name, listener, nil), Namespaces: k.Namespaces}
					seen.Add(cert, id)
					return id, nil
				}
			}
		}
		return nil, &Refusal{Forbidden, fmt.Sprintf("listener %q accepts none of the names in the client certificate: %s",
			listener, quoteAll(names))}
	}
}

// certificate returns the verified client certificate, or nil.
func (c Credentials) certificate() *x509.Certificate {
	if c.TLS == nil || len(c.TLS.VerifiedChains) == 0 {
		return nil
	}
	return c.TLS.VerifiedChains[0][0]
}

// certificateNames returns the names of a certificate's owner, the most specific first. The first ones
// are URIs, as many as uris.
func certificateNames(cert *x509.Certificate) (names []string, uris int) {
	for _, u := range cert.URIs {
		names = append(names, u.String())
	}
	names = slices.Concat(names, cert.DNSNames, cert.EmailAddresses)
	if cert.Subject.CommonName != "" {
		names = append(names, cert.Subject.CommonName)
	}
	return names, len(cert.URIs)
}
