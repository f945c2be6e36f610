package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
)

// config is the config file. Its zero value is not valid: load fills in what a file leaves out.
type config struct {
	Listeners []listenerConfig `yaml:"listeners"`
	Upstreams []upstreamConfig `yaml:"upstreams"`
	Services  []string         `yaml:"services"`
	Keys      []keyConfig      `yaml:"keys"`
	Grants    []grantConfig    `yaml:"grants"`
	Realm     string           `yaml:"realm"`
	// RevokedDataKeys are ids of data keys that leaked: nothing opens with them any more.
	RevokedDataKeys []string `yaml:"revoked_data_keys"`
	// DataKeyLife is the age at which a data key is out of use for sealing; 0: a day.
	DataKeyLife time.Duration `yaml:"data_key_life"`
	// Foreign is what other tools encoded, and what is still to be read.
	Foreign       []foreignConfig    `yaml:"foreign"`
	Policy        policyConfig       `yaml:"policy"`
	UnknownFields string             `yaml:"unknown_fields"`
	Shadow        bool               `yaml:"shadow"`
	Admin         string             `yaml:"admin"`
	Drain         drainConfig        `yaml:"drain"`
	Limits        limitsConfig       `yaml:"limits"`
	CodecServer   *codecServerConfig `yaml:"codec_server"`
	Audit         *auditConfig       `yaml:"audit"`
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
	JWT       *jwtConfig       `yaml:"jwt"`
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

type jwtConfig struct {
	Issuer          string   `yaml:"issuer"`
	Audience        string   `yaml:"audience"`
	JWKSURL         string   `yaml:"jwks_url"`
	JWKSFile        string   `yaml:"jwks_file"`
	Header          string   `yaml:"header"`
	NamespacesClaim string   `yaml:"namespaces_claim"`
	Namespaces      []string `yaml:"namespaces"`
	Algorithms      []string `yaml:"algorithms"`
}

type upstreamConfig struct {
	Namespaces []string         `yaml:"namespaces"`
	Address    string           `yaml:"address"`
	TLS        *clientTLSConfig `yaml:"tls"`
	APIKeyFile string           `yaml:"api_key_file"`
	// PassCredential forwards the token that callers show to a listener; without it a token ends here.
	PassCredential bool `yaml:"pass_credential"`
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

// auditConfig says where records of what was opened go: to a file or to a collector.
type auditConfig struct {
	File     string        `yaml:"file"`
	OTLP     bool          `yaml:"otlp"`
	Required bool          `yaml:"required"`
	Wait     time.Duration `yaml:"wait"`
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

	text string // of the file, as load has read it
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
		s.text = string(text)
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
		l.Callers.setDefaults()
	}
	c.CodecServer.setDefaults()
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

func (k *callersConfig) setDefaults() {
	if k != nil && k.Token != nil && k.Token.Header == "" {
		k.Token.Header = "authorization"
	}
	if k != nil && k.JWT != nil && k.JWT.Header == "" {
		k.JWT.Header = "authorization"
	}
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

func (c *config) keyConfigs() []keyring.KeyConfig {
	keys := make([]keyring.KeyConfig, len(c.Keys))
	for i, k := range c.Keys {
		keys[i] = keyring.KeyConfig{Name: k.Name, Namespaces: k.Namespaces, Active: k.Active, OpenOnly: k.OpenOnly}
	}
	return keys
}

func (c *config) grants() []keyring.Grant {
	grants := make([]keyring.Grant, len(c.Grants))
	for i, g := range c.Grants {
		grants[i] = keyring.Grant{From: g.From, To: g.To}
	}
	return grants
}

// revokedDataKeys are the ids; check has told of those that are none.
func (c *config) revokedDataKeys() [][32]byte {
	ids := make([][32]byte, len(c.RevokedDataKeys))
	for i, text := range c.RevokedDataKeys {
		if id, ok := dataKeyID(text); ok {
			ids[i] = id
		}
	}
	return ids
}

func dataKeyID(text string) (id [32]byte, ok bool) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(id) {
		return id, false
	}
	return [32]byte(raw), true
}
