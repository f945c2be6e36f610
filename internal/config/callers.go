package config

import (
	"fmt"
	"net/url"
	"strings"
)

// Callers holds exactly one kind of callers.
type Callers struct {
	Anonymous *Anonymous `yaml:"anonymous"`
	MTLS      *MTLS      `yaml:"mtls"`
	Token     *Tokens    `yaml:"token"`
	JWT       *JWT       `yaml:"jwt"`
}

type Anonymous struct {
	Namespaces []string `yaml:"namespaces"`
}

type MTLS struct {
	CAFile string        `yaml:"ca_file"`
	Names  []Certificate `yaml:"names"`
}

type Certificate struct {
	Name       string   `yaml:"name"`
	Namespaces []string `yaml:"namespaces"`
}

type Tokens struct {
	Header string  `yaml:"header"`
	Tokens []Token `yaml:"tokens"`
}

type Token struct {
	Subject    string   `yaml:"subject"`
	File       string   `yaml:"file"`
	Namespaces []string `yaml:"namespaces"`
}

type JWT struct {
	Issuer          string   `yaml:"issuer"`
	Audience        string   `yaml:"audience"`
	JWKSURL         string   `yaml:"jwks_url"`
	JWKSFile        string   `yaml:"jwks_file"`
	Header          string   `yaml:"header"`
	NamespacesClaim string   `yaml:"namespaces_claim"`
	Namespaces      []string `yaml:"namespaces"`
	Algorithms      []string `yaml:"algorithms"`
}

func (k *Callers) setDefaults() {
	if k != nil && k.Token != nil && k.Token.Header == "" {
		k.Token.Header = "authorization"
	}
	if k != nil && k.JWT != nil && k.JWT.Header == "" {
		k.JWT.Header = "authorization"
	}
}

func (l *Listener) checkMTLS(d *document, path string) {
	if l.TLS == nil {
		d.add(path+".callers.mtls", "wants tls on this listener: add tls: {cert_file: ..., key_file: ...}")
	}
	m := l.Callers.MTLS
	if m.CAFile == "" {
		d.add(path+".callers.mtls", "wants ca_file: the authority that signs the callers' certificates")
	}
	checkReadable(d, path+".callers.mtls.ca_file", m.CAFile)
	if len(m.Names) == 0 {
		d.add(path+".callers.mtls", "wants names: [{name: <pattern>, namespaces: [...]}] that say which certificates are let in")
	}
	for i, n := range m.Names {
		if n.Name == "" {
			d.add(fmt.Sprintf("%s.callers.mtls.names[%d]", path, i), `wants name: a pattern for a name in the certificate, "*" for any`)
		}
	}
}

// checkCredential is about what tokens of every kind have in common.
func (l *Listener) checkCredential(d *document, path, header string) {
	if l.TLS == nil && !IsLoopback(l.Address) {
		d.add(path, "tokens would cross the network readable: add tls: {cert_file: ..., key_file: ...}, or listen on 127.0.0.1")
	}
	if header != strings.ToLower(header) {
		d.add(path+".header", "is written in lower case, as gRPC and HTTP/2 have it")
	}
}

func (l *Listener) checkTokens(d *document, path string) {
	t := l.Callers.Token
	l.checkCredential(d, path+".callers.token", t.Header)
	if len(t.Tokens) == 0 {
		d.add(path+".callers.token", "wants tokens: [{subject: ..., file: ..., namespaces: [...]}]")
	}
	for i, e := range t.Tokens {
		at := fmt.Sprintf("%s.callers.token.tokens[%d]", path, i)
		if e.Subject == "" || e.File == "" {
			d.add(at, "wants both: subject, who the token stands for, and file, which holds it")
		}
		checkReadable(d, at+".file", e.File)
	}
}

func (l *Listener) checkJWT(d *document, path string) {
	path += ".callers.jwt"
	j := l.Callers.JWT
	l.checkCredential(d, path, j.Header)
	if j.Issuer == "" || j.Audience == "" {
		d.add(path, "wants both: issuer and audience, as they stand in the tokens")
	}
	if (j.JWKSURL == "") == (j.JWKSFile == "") {
		d.add(path, "wants one of jwks_url and jwks_file: where the issuer's public keys are")
	}
	if u, err := url.Parse(j.JWKSURL); j.JWKSURL != "" && (err != nil || u.Scheme != "https" && (u.Scheme != "http" || !IsLoopback(u.Host+":0") && !IsLoopback(u.Host))) {
		d.add(path+".jwks_url", "wants an https URL: whoever changes the keys on their way lets anyone in")
	}
	checkReadable(d, path+".jwks_file", j.JWKSFile)
	if (j.NamespacesClaim == "") == (j.Namespaces == nil) {
		d.add(path, "wants one of namespaces_claim, the claim that lists a caller's namespaces, and namespaces, the same for all callers")
	}
}
