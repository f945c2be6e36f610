package config

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/x/loopback"
)

// Callers identifies callers in exactly one way.
type Callers struct {
	// Take callers for what they say they are. Whoever reaches the address reads and writes in clear.
	Anonymous *Anonymous `yaml:"anonymous"`
	// By a client certificate. The listener needs `tls`.
	MTLS *MTLS `yaml:"mtls"`
	// By a secret in a header. Off loopback the listener needs `tls`.
	Token *Tokens `yaml:"token"`
	// By a signed token of a login service. Off loopback the listener needs `tls`.
	JWT *JWT `yaml:"jwt"`
}

// Anonymous callers show nothing.
type Anonymous struct {
	// Namespaces that callers reach, `*` for any run of characters. Required off loopback.
	Namespaces []string `yaml:"namespaces" otherwise:"all"`
}

// MTLS identifies callers by their certificate.
type MTLS struct {
	// PEM file with the authorities that sign callers' certificates. It is read again when it changes.
	CAFile string `yaml:"ca_file" required:"true"`
	// Which certificates are let in. The first entry that matches counts.
	Names []Certificate `yaml:"names" required:"true"`
}

// Certificate lets callers in whose certificate has a name.
type Certificate struct {
	// Pattern for a URI, DNS name, e-mail address or common name, `*` for any run of characters. One with
	// `://` matches URIs only.
	Name string `yaml:"name" required:"true"`
	// Namespaces that these callers reach, `*` for any run of characters.
	Namespaces []string `yaml:"namespaces" otherwise:"all"`
}

// Tokens identifies callers by a secret.
type Tokens struct {
	// Header that carries the token, in lower case. It goes no further than the proxy, unless
	// `pass_credential` is set.
	Header string `yaml:"header" default:"authorization"`
	// Tokens that are let in.
	Tokens []Token `yaml:"tokens" required:"true"`
}

// Token is one secret and who shows it.
type Token struct {
	// Name of the caller, for policies and audit records.
	Subject string `yaml:"subject" required:"true"`
	// File that holds the token. It is read again when it changes.
	File string `yaml:"file" required:"true"`
	// Namespaces that the caller reaches, `*` for any run of characters.
	Namespaces []string `yaml:"namespaces" otherwise:"all"`
}

// JWT identifies callers by a signed token (RFC 7519).
type JWT struct {
	// Issuer (`iss`) that tokens have to name.
	Issuer string `yaml:"issuer" required:"true"`
	// Audience (`aud`) that tokens have to name.
	Audience string `yaml:"audience" required:"true"`
	// URL of the issuer's public keys (JWKS); https, or http on loopback. Either this or `jwks_file` is
	// required.
	JWKSURL string `yaml:"jwks_url"`
	// File with the issuer's public keys (JWKS).
	JWKSFile string `yaml:"jwks_file"`
	// Header that carries the token, in lower case. It goes no further than the proxy, unless
	// `pass_credential` is set.
	Header string `yaml:"header" default:"authorization"`
	// Claim that lists the namespaces that the caller reaches. Either this or `namespaces` is required.
	NamespacesClaim string `yaml:"namespaces_claim"`
	// Namespaces that all callers reach, `*` for any run of characters.
	Namespaces []string `yaml:"namespaces"`
	// Algorithms with which tokens may be signed.
	Algorithms []string `yaml:"algorithms" otherwise:"every asymmetric one"`
}

// kinds counts the ways that are configured.
func (c *Callers) kinds() (n int) {
	for _, given := range []bool{c.Anonymous != nil, c.MTLS != nil, c.Token != nil, c.JWT != nil} {
		if given {
			n++
		}
	}
	return n
}

func (m *MTLS) validate(d *document, path string, tls bool) {
	d.refuse(!tls, path, "mTLS requires TLS on this listener; add tls: {cert_file: ..., key_file: ...}")
	d.refuse(m.CAFile == "", path, "ca_file is required: the authority that signs the callers' certificates")
	validateReadable(d, path+".ca_file", m.CAFile)
	d.refuse(len(m.Names) == 0, path,
		"names is required: add names: [{name: <pattern>, namespaces: [...]}] for the certificates to accept")
	for i, n := range m.Names {
		if n.Name == "" {
			d.add(fmt.Sprintf("%s.names[%d]", path, i),
				`name is required: a pattern for a name in the certificate, "*" for any`)
		}
	}
}

// validateCredential checks what tokens of both kinds have in common. readable: they would cross the network
// in clear.
func validateCredential(d *document, path, header string, readable bool) {
	d.refuse(readable, path,
		"tokens would cross the network in clear text; add tls: {cert_file: ..., key_file: ...}, or listen on 127.0.0.1")
	d.refuse(header != strings.ToLower(header), path+".header",
		"must be in lower case, as HTTP/2 requires")
}

func (t *Tokens) validate(d *document, path string, readable bool) {
	validateCredential(d, path, t.Header, readable)
	d.refuse(len(t.Tokens) == 0, path, "tokens is required: add tokens: [{subject: ..., file: ..., namespaces: [...]}]")
	for i, e := range t.Tokens {
		at := fmt.Sprintf("%s.tokens[%d]", path, i)
		d.refuse(e.Subject == "" || e.File == "", at,
			"subject (the caller's name) and file (which contains the token) are required")
		validateSecret(d, at+".file", e.File)
	}
}

func (j *JWT) validate(d *document, path string, readable bool) {
	validateCredential(d, path, j.Header, readable)
	d.refuse(j.Issuer == "" || j.Audience == "", path,
		"issuer and audience are required, as they appear in the tokens")
	d.refuse((j.JWKSURL == "") == (j.JWKSFile == ""), path,
		"set exactly one of jwks_url and jwks_file, the source of the issuer's public keys")
	d.refuse(j.JWKSURL != "" && !isSafeURL(j.JWKSURL), path+".jwks_url",
		"must be an https URL, since over http an attacker could replace the keys")
	validateReadable(d, path+".jwks_file", j.JWKSFile)
	d.refuse((j.NamespacesClaim == "") == (j.Namespaces == nil), path,
		"set exactly one of namespaces_claim (the claim that lists a caller's namespaces) and namespaces (the same for all callers)")
}

// isSafeURL reports whether nobody can change what a URL returns: it is https, or http on this machine.
func isSafeURL(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "https" {
		return err == nil
	}
	return u.Scheme == "http" && loopback.Host(u.Hostname())
}
