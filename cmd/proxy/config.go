package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// config is the config file. Its zero value is not valid: load fills in what a file leaves out.
type config struct {
	Listeners     []listenerConfig `yaml:"listeners"`
	Upstreams     []upstreamConfig `yaml:"upstreams"`
	Services      []string         `yaml:"services"`
	Keys          []keyConfig      `yaml:"keys"`
	Grants        []grantConfig    `yaml:"grants"`
	Realm         string           `yaml:"realm"`
	Policy        policyConfig     `yaml:"policy"`
	UnknownFields string           `yaml:"unknown_fields"`
	Shadow        bool             `yaml:"shadow"`
	Admin         string           `yaml:"admin"`
	Drain         drainConfig      `yaml:"drain"`
	CodecServer   unsupported      `yaml:"codec_server"`
	Audit         unsupported      `yaml:"audit"`
}

type listenerConfig struct {
	Name    string           `yaml:"name"`
	Address string           `yaml:"address"`
	TLS     *serverTLSConfig `yaml:"tls"`
	Callers *callersConfig   `yaml:"callers"`
}

type serverTLSConfig struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// callersConfig holds exactly one kind of callers.
type callersConfig struct {
	Anonymous *anonymousConfig `yaml:"anonymous"`
	MTLS      *mtlsConfig      `yaml:"mtls"`
	Token     *tokenConfig     `yaml:"token"`
	JWT       unsupported      `yaml:"jwt"`
}

type anonymousConfig struct {
	Namespaces []string `yaml:"namespaces"`
}

type mtlsConfig struct {
	CAFile string             `yaml:"ca_file"`
	Names  []certificateEntry `yaml:"names"`
}

type certificateEntry struct {
	Name       string   `yaml:"name"`
	Namespaces []string `yaml:"namespaces"`
}

type tokenConfig struct {
	Header string       `yaml:"header"`
	Tokens []tokenEntry `yaml:"tokens"`
}

type tokenEntry struct {
	Subject    string   `yaml:"subject"`
	File       string   `yaml:"file"`
	Namespaces []string `yaml:"namespaces"`
}

type upstreamConfig struct {
	Namespaces []string         `yaml:"namespaces"`
	Address    string           `yaml:"address"`
	TLS        *clientTLSConfig `yaml:"tls"`
	APIKeyFile string           `yaml:"api_key_file"`
}

type clientTLSConfig struct {
	CertFile   string `yaml:"cert_file"`
	KeyFile    string `yaml:"key_file"`
	CAFile     string `yaml:"ca_file"`
	ServerName string `yaml:"server_name"`
}

type keyConfig struct {
	Name       string   `yaml:"name"`
	Namespaces []string `yaml:"namespaces"`
	Active     string   `yaml:"active"`
	OpenOnly   []string `yaml:"open_only"`
}

type grantConfig struct {
	From string `yaml:"from"`
	To   string `yaml:"to"`
}

type policyConfig struct {
	File       string        `yaml:"file"`
	Namespaces string        `yaml:"namespaces"`
	Bundle     *bundleConfig `yaml:"bundle"`
}

// bundleConfig takes the place of files: the policy comes as an OPA bundle over HTTP.
type bundleConfig struct {
	URL           string        `yaml:"url"`
	TokenFile     string        `yaml:"token_file"`
	PublicKeyFile string        `yaml:"public_key_file"`
	Algorithm     string        `yaml:"algorithm"`
	Scope         string        `yaml:"scope"`
	Folder        string        `yaml:"folder"`
	Poll          time.Duration `yaml:"poll"`
}

type drainConfig struct {
	Time  time.Duration `yaml:"time"`
	Delay time.Duration `yaml:"delay"`
	After string        `yaml:"after"`
}

const (
	defaultListen   = "127.0.0.1:7333"
	defaultUpstream = "127.0.0.1:7233"
	defaultAdmin    = "127.0.0.1:7334"
	defaultKey      = "local:./temporal-seal.key"

	// defaultDrain fits into the 30 s that Kubernetes gives a pod by default.
	defaultDrain = 25 * time.Second
)

// settings are the flags that stand for the common case. They go over what the file says.
type settings struct {
	file, listen, upstream, policy, key, admin string
}

// load reads the config file, if there is one, lays the flags over it and checks the whole.
func (s *settings) load() (*config, error) {
	c := new(config)
	d := &document{file: "flags", lines: map[string]int{}}
	if s.file != "" {
		text, err := os.ReadFile(s.file)
		if err != nil {
			return nil, fmt.Errorf("the config file cannot be read: %w; check --config", err)
		}
		d = parseYAML(s.file, text, c)
		if len(d.problems) > 0 {
			// What could not be read would make checks fail that are in order.
			return nil, d.err()
		}
	}
	if err := s.override(c); err != nil {
		return nil, err
	}
	d.flags = s.given()
	c.setDefaults()
	c.check(d)
	return c, d.err()
}

func (s *settings) override(c *config) error {
	if s.listen != "" {
		if len(c.Listeners) > 1 {
			return errors.New("--listen: the config file names several listeners; change the address there")
		}
		if len(c.Listeners) == 0 {
			c.Listeners = []listenerConfig{{}}
		}
		c.Listeners[0].Address = s.listen
	}
	if s.upstream != "" {
		if len(c.Upstreams) > 1 {
			return errors.New("--upstream: the config file names several upstreams; change the address there")
		}
		if len(c.Upstreams) == 0 {
			c.Upstreams = []upstreamConfig{{}}
		}
		c.Upstreams[0].Address = s.upstream
	}
	if s.key != "" {
		if len(c.Keys) > 1 {
			return errors.New("--key: the config file names several keys; change the URI there")
		}
		if len(c.Keys) == 0 {
			c.Keys = []keyConfig{{Name: "default"}}
		}
		c.Keys[0].Active = s.key
	}
	if s.policy != "" {
		c.Policy.File = s.policy
	}
	if s.admin != "" {
		c.Admin = s.admin
	}
	return nil
}

// given names the flags that stand for values of the config.
func (s *settings) given() map[string]string {
	flags := map[string]string{}
	for _, f := range []struct{ value, flag, path string }{
		{s.listen, "--listen", "$.listeners[0]"}, {s.listen, "--listen", "$.listeners[0].address"},
		{s.upstream, "--upstream", "$.upstreams[0].address"}, {s.key, "--key", "$.keys[0].active"},
		{s.policy, "--policy", "$.policy.file"}, {s.admin, "--admin", "$.admin"},
	} {
		if f.value != "" {
			flags[f.path] = f.flag
		}
	}
	return flags
}

func (c *config) setDefaults() {
	if len(c.Listeners) == 0 {
		c.Listeners = []listenerConfig{{Address: defaultListen}}
	}
	for i := range c.Listeners {
		l := &c.Listeners[i]
		if l.Name == "" && len(c.Listeners) == 1 {
			l.Name = "default"
		}
		if l.Callers != nil && l.Callers.Token != nil && l.Callers.Token.Header == "" {
			l.Callers.Token.Header = "authorization"
		}
	}
	if len(c.Upstreams) == 0 {
		c.Upstreams = []upstreamConfig{{Address: defaultUpstream}}
	}
	if len(c.Keys) == 0 {
		c.Keys = []keyConfig{{Name: "default", Active: defaultKey}}
	}
	if c.UnknownFields == "" {
		c.UnknownFields = "lenient"
	}
	if c.Admin == "" {
		c.Admin = defaultAdmin
	}
	if c.Drain.Time == 0 {
		c.Drain.Time = defaultDrain
	}
}

// check adds to d whatever the config says that cannot work or must not be.
func (c *config) check(d *document) {
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
	c.Policy.check(d)
	if c.UnknownFields != "lenient" && c.UnknownFields != "strict" {
		d.add("$.unknown_fields", "is lenient or strict, not %q", c.UnknownFields)
	}
	checkAddress(d, "$.admin", c.Admin)
	if c.Drain.After != "" && c.Drain.After != "worker" {
		d.add("$.drain.after", "can only be worker, not %q", c.Drain.After)
	}
}

func (l *listenerConfig) check(d *document, path string) {
	if !checkAddress(d, path+".address", l.Address) {
		return
	}
	if l.TLS != nil {
		checkPair(d, path+".tls", l.TLS.CertFile, l.TLS.KeyFile, true)
	}
	kinds := 0
	if l.Callers != nil {
		for _, given := range []bool{l.Callers.Anonymous != nil, l.Callers.MTLS != nil, l.Callers.Token != nil} {
			if given {
				kinds++
			}
		}
		if kinds != 1 {
			d.add(path+".callers", "wants exactly one of anonymous, mtls, token")
			return
		}
	}
	switch {
	case l.anonymous():
		if l.namespaces() == nil && !isLoopback(l.Address) {
			d.add(path, "%s is reachable from other machines and would serve anyone every namespace: add callers: {anonymous: {namespaces: [...]}} with those it is for, or another kind of callers, or listen on 127.0.0.1", l.Address)
		}
	case l.Callers.MTLS != nil:
		l.checkMTLS(d, path)
	case l.Callers.Token != nil:
		l.checkTokens(d, path)
	}
}

// anonymous tells if the listener takes callers for what they say they are.
func (l *listenerConfig) anonymous() bool { return l.Callers == nil || l.Callers.Anonymous != nil }

func (l *listenerConfig) namespaces() []string {
	if l.Callers == nil {
		return nil
	}
	return l.Callers.Anonymous.Namespaces
}

func (l *listenerConfig) checkMTLS(d *document, path string) {
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

func (l *listenerConfig) checkTokens(d *document, path string) {
	if l.TLS == nil && !isLoopback(l.Address) {
		d.add(path+".callers.token", "tokens would cross the network readable: add tls: {cert_file: ..., key_file: ...}, or listen on 127.0.0.1")
	}
	t := l.Callers.Token
	if t.Header != strings.ToLower(t.Header) {
		d.add(path+".callers.token.header", "gRPC headers are in lower case")
	}
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

func (u *upstreamConfig) check(d *document, path string) {
	if u.Address == "" {
		d.add(path, "wants address: the Temporal frontend's host:port")
	} else if !strings.Contains(u.Address, "://") {
		checkAddress(d, path+".address", u.Address)
	}
	if t := u.TLS; t != nil {
		checkPair(d, path+".tls", t.CertFile, t.KeyFile, false)
		checkReadable(d, path+".tls.ca_file", t.CAFile)
	}
	if u.APIKeyFile != "" {
		if u.TLS == nil {
			d.add(path+".api_key_file", "an API key is never sent without TLS: add tls: {}")
		}
		checkReadable(d, path+".api_key_file", u.APIKeyFile)
	}
}

func (p *policyConfig) check(d *document) {
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

func (c *config) checkKeys(d *document) {
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
		checkKeyURI(d, path+".active", k.Active)
		for j, uri := range k.OpenOnly {
			checkKeyURI(d, fmt.Sprintf("%s.open_only[%d]", path, j), uri)
		}
	}
}

func checkKeyURI(d *document, path, uri string) {
	if scheme, _, ok := strings.Cut(uri, ":"); !ok || scheme != "local" && scheme != "awskms" {
		d.add(path, "is no key URI: awskms://<key id, ARN or alias>?region=<region>, or local:<file>")
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

// isLoopback tells if an address can be reached from this machine only.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// local tells if everything that talks to this proxy, and all it talks to, is on this machine.
func (c *config) local() bool {
	for _, l := range c.Listeners {
		if !isLoopback(l.Address) {
			return false
		}
	}
	for _, u := range c.Upstreams {
		if !isLoopback(u.Address) {
			return false
		}
	}
	return true
}

func (c *config) keyConfigs() []crypto.KeyConfig {
	keys := make([]crypto.KeyConfig, len(c.Keys))
	for i, k := range c.Keys {
		keys[i] = crypto.KeyConfig{Name: k.Name, Namespaces: k.Namespaces, Active: k.Active, OpenOnly: k.OpenOnly}
	}
	return keys
}

func (c *config) grants() []crypto.Grant {
	grants := make([]crypto.Grant, len(c.Grants))
	for i, g := range c.Grants {
		grants[i] = crypto.Grant{From: g.From, To: g.To}
	}
	return grants
}
