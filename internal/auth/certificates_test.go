package auth

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"testing"
)

func TestCertificateNames(t *testing.T) {
	spiffe, err := url.Parse("spiffe://cluster/ns/billing")
	if err != nil {
		t.Fatal(err)
	}
	identify := Certificates("mtls", []Certificate{
		{Name: "spiffe://cluster/ns/billing", Namespaces: []string{"billing"}},
		{Name: "*.ci.example.com", Namespaces: []string{"ci"}},
		{Name: "*@example.com", Namespaces: []string{"people"}},
		{Name: "legacy-*", Namespaces: []string{"legacy"}},
	})
	for name, c := range map[string]struct {
		cert    x509.Certificate
		subject string // "": refused
	}{
		"SPIFFE id":                     {x509.Certificate{URIs: []*url.URL{spiffe}}, "spiffe://cluster/ns/billing"},
		"DNS name":                      {x509.Certificate{DNSNames: []string{"one.ci.example.com"}}, "one.ci.example.com"},
		"e-mail":                        {x509.Certificate{EmailAddresses: []string{"ann@example.com"}}, "ann@example.com"},
		"common name":                   {x509.Certificate{Subject: pkix.Name{CommonName: "legacy-7"}}, "legacy-7"},
		"the SPIFFE id comes first":     {x509.Certificate{URIs: []*url.URL{spiffe}, Subject: pkix.Name{CommonName: "legacy-7"}}, "spiffe://cluster/ns/billing"},
		"a SPIFFE id as common name":    {x509.Certificate{Subject: pkix.Name{CommonName: "spiffe://cluster/ns/billing"}}, ""},
		"a SPIFFE id as DNS name":       {x509.Certificate{DNSNames: []string{"spiffe://cluster/ns/billing"}}, ""},
		"none that is known":            {x509.Certificate{DNSNames: []string{"ci.example.com"}}, ""},
		"no name":                       {x509.Certificate{}, ""},
		"the organisation is no name":   {x509.Certificate{Subject: pkix.Name{Organization: []string{"legacy-7"}}}, ""},
		"a domain that ends in another": {x509.Certificate{DNSNames: []string{"one.ci.example.com.evil.org"}}, ""},
	} {
		cert := c.cert
		id, err := identify(Credentials{TLS: &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{&cert}}}})
		got := ""
		if err == nil {
			got = id.Caller.Subject
		}
		if got != c.subject {
			t.Errorf("%s: is %q, want %q (%v)", name, got, c.subject, err)
		}
	}
	if _, err := identify(Credentials{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{URIs: []*url.URL{spiffe}}}}}); err == nil {
		t.Error("a certificate that nobody has verified counts")
	}
}
