package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto/awskms"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/crypto/vault"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
)

// check adds to d whatever the config says that cannot work or must not be.
func (c *Config) check(d *document) {
	names, addresses := map[string]bool{}, map[string]bool{}
	for i := range c.Listeners {
		path := fmt.Sprintf("$.listeners[%d]", i)
		l := &c.Listeners[i]
		if l.Name == "" {
			d.add(path, "has no name: each of several listeners needs one, policies see it as input.caller.listener")
		} else if names[l.Name] {
			d.add(path+".name", "%q is the name of another listener too", l.Name)
		}
		if addresses[l.Address] && !strings.HasSuffix(l.Address, ":0") {
			d.add(path+".address", "%s is the address of another listener too", l.Address)
		}
		names[l.Name], addresses[l.Address] = true, true
		l.check(d, path)
	}
	for i := range c.Upstreams {
		c.Upstreams[i].check(d, fmt.Sprintf("$.upstreams[%d]", i))
	}
	c.checkKeys(d)
	for i, g := range c.Grants {
		if g.From == "" || g.To == "" {
			d.add(fmt.Sprintf("$.grants[%d]", i), "wants both: from, the namespace that sealed, and to, the one that may open")
		}
	}
	if strings.Contains(c.Realm, "/") || len(c.Realm) > 64 {
		d.add("$.realm", "has at most 64 bytes and no /, which ends it in envelopes: else a namespace with a / could pass for one of another realm")
	}
	for i, id := range c.RevokedDataKeys {
		if _, ok := dataKeyID(id); !ok {
			d.add(fmt.Sprintf("$.revoked_data_keys[%d]", i), "is no data-key id: 64 hex digits")
		}
	}
	if life := c.DataKeyLife; life != 0 && (life < 10*time.Second || life > 30*24*time.Hour) {
		d.add("$.data_key_life", "is 10s to 720h, not %s; a day is the default", life)
	}
	c.checkForeign(d)
	c.Policy.check(d)
	if c.UnknownFields != "lenient" && c.UnknownFields != "strict" {
		d.add("$.unknown_fields", "is lenient or strict, not %q", c.UnknownFields)
	}
	c.Audit.check(d)
	c.CodecServer.check(d)
	checkAddress(d, "$.admin", c.Admin)
	c.Limits.check(d)
	if c.Drain.After != "" && c.Drain.After != "worker" {
		d.add("$.drain.after", "can only be worker, not %q", c.Drain.After)
	}
}

// auditWaits is the longest that a call may wait for its record. SDKs give GetSystemInfo 5 s, and others 10.
const auditWaits = 5 * time.Second

func (a *Audit) check(d *document) {
	if a == nil {
		return
	}
	if (a.File == "") == !a.OTLP {
		d.add("$.audit", "wants one of file, a path or /dev/stdout, and otlp: true, to the collector that the OTEL_* variables name")
	}
	if a.Wait > 0 && !a.Required {
		d.add("$.audit.wait", "is for required: true; records that are not required never hold up a call")
	}
	if a.Wait > auditWaits {
		d.add("$.audit.wait", "is %v at most: a call waits that long for its record", auditWaits)
	}
	if a.File == "" {
		return
	}
	if info, err := os.Stat(filepath.Dir(a.File)); err != nil || !info.IsDir() {
		d.add("$.audit.file", "%s is no folder: make it first", filepath.Dir(a.File))
	}
}

func (l *Listener) check(d *document, path string) {
	if !checkAddress(d, path+".address", l.Address) {
		return
	}
	if l.TLS != nil {
		checkPair(d, path+".tls", l.TLS.CertFile, l.TLS.KeyFile, true)
	}
	kinds := 0
	if l.Callers != nil {
		for _, given := range []bool{l.Callers.Anonymous != nil, l.Callers.MTLS != nil, l.Callers.Token != nil, l.Callers.JWT != nil} {
			if given {
				kinds++
			}
		}
		if kinds != 1 {
			d.add(path+".callers", "wants exactly one of anonymous, mtls, token, jwt")
			return
		}
	}
	switch {
	case l.IsAnonymous():
		if l.AnonymousNamespaces() == nil && !IsLoopback(l.Address) {
			d.add(path, "%s is reachable from other machines and would serve anyone every namespace: add callers: {anonymous: {namespaces: [...]}} with those it is for, or another kind of callers, or listen on 127.0.0.1", l.Address)
		}
	case l.Callers.MTLS != nil:
		l.checkMTLS(d, path)
	case l.Callers.Token != nil:
		l.checkTokens(d, path)
	case l.Callers.JWT != nil:
		l.checkJWT(d, path)
	}
}

// anonymous tells if the listener takes callers for what they say they are.
func (l *Listener) IsAnonymous() bool { return l.Callers == nil || l.Callers.Anonymous != nil }

func (l *Listener) AnonymousNamespaces() []string {
	if l.Callers == nil {
		return nil
	}
	return l.Callers.Anonymous.Namespaces
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

func (u *Upstream) check(d *document, path string) {
	if u.Address == "" {
		d.add(path, "wants address: the Temporal frontend's host:port")
	} else if !strings.Contains(u.Address, "://") {
		checkAddress(d, path+".address", u.Address)
	}
	if t := u.TLS; t != nil {
		checkPair(d, path+".tls", t.CertFile, t.KeyFile, false)
		checkReadable(d, path+".tls.ca_file", t.CAFile)
	}
	if u.PassCredential && u.APIKeyFile != "" {
		d.add(path+".pass_credential", "an API key takes the place of what callers send: remove one of them")
	}
	if u.PassCredential && u.TLS == nil && !IsLoopback(u.Address) {
		d.add(path+".pass_credential", "callers' tokens would cross the network readable: add tls: {}")
	}
	if u.APIKeyFile != "" {
		if u.TLS == nil {
			d.add(path+".api_key_file", "an API key is never sent without TLS: add tls: {}")
		}
		checkReadable(d, path+".api_key_file", u.APIKeyFile)
	}
}

func (p *Policy) check(d *document) {
	checkReadable(d, "$.policy.file", p.File)
	checkReadable(d, "$.policy.namespaces", p.Namespaces)
	b := p.Bundle
	if b == nil {
		return
	}
	if p.File != "" || p.Namespaces != "" {
		d.add("$.policy.bundle", "a bundle is the whole policy: remove file and namespaces, or the bundle")
	}
	if b.URL == "" {
		d.add("$.policy.bundle", "wants url: where the bundle is")
	}
	checkReadable(d, "$.policy.bundle.token_file", b.TokenFile)
	checkReadable(d, "$.policy.bundle.public_key_file", b.PublicKeyFile)
}

func (c *Config) checkKeys(d *document) {
	names := map[string]bool{}
	for i, k := range c.Keys {
		path := fmt.Sprintf("$.keys[%d]", i)
		if k.Name == "" || k.Active == "" {
			d.add(path, "wants both: name, and active, the URI of the key that seals")
			continue
		}
		if names[k.Name] {
			d.add(path+".name", "%q is the name of another key too: a key has one entry, with its earlier URIs under open_only", k.Name)
		}
		names[k.Name] = true
		if strings.HasPrefix(k.Name, foreign.KeyPrefix) || strings.HasPrefix(k.Name, "*") {
			d.add(path+".name", "may not start with %s or a *: what starts so is what policies read as the key of another tool's payload", foreign.KeyPrefix)
		}
		checkKeyURI(d, path+".active", k.Active)
		for j, uri := range k.OpenOnly {
			checkKeyURI(d, fmt.Sprintf("%s.open_only[%d]", path, j), uri)
		}
	}
}

const NoKeyURI = "is no key URI: awskms://<key id, ARN or alias>?region=<region>, vault://<host>/<mount>/<key>?token_file=<path>, or local:<file>"

func checkKeyURI(d *document, path, uri string) {
	if scheme, _, ok := strings.Cut(uri, ":"); !ok || scheme != localkey.Scheme && scheme != awskms.Scheme && scheme != vault.Scheme {
		d.add(path, NoKeyURI)
	}
}

func checkPair(d *document, path, cert, key string, needed bool) {
	if needed && (cert == "" || key == "") || (cert == "") != (key == "") {
		d.add(path, "wants both: cert_file and key_file")
	}
	checkReadable(d, path+".cert_file", cert)
	checkReadable(d, path+".key_file", key)
}

// checkReadable tells of a file that is not there, where the path is given at all.
func checkReadable(d *document, path, file string) {
	if file == "" {
		return
	}
	f, err := os.Open(file)
	if err != nil {
		var failed *fs.PathError
		if errors.As(err, &failed) {
			err = failed.Err
		}
		d.add(path, "%s cannot be read: %v", file, err)
		return
	}
	_ = f.Close() // opened for reading only
}

func checkAddress(d *document, path, address string) bool {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		d.add(path, "%q is no address: write host:port", address)
	}
	return err == nil
}
