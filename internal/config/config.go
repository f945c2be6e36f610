// Package config reads the proxy's config file: YAML that is decoded strictly, completed with defaults and validated as a
// whole, so that every mistake is reported at once with its line. It opens no connection and makes no file.
package config

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

// Config is the config file. Its zero value is not valid: load fills in what a file leaves out.
type Config struct {
	Listeners []Listener `yaml:"listeners"`
	Upstreams []Upstream `yaml:"upstreams"`
	Services  []string   `yaml:"services"`
	Keys      []Key      `yaml:"keys"`
	Grants    []Grant    `yaml:"grants"`
	Realm     string     `yaml:"realm"`
	// RevokedDataKeys are ids of data keys that leaked: nothing opens with them any more.
	RevokedDataKeys []string `yaml:"revoked_data_keys"`
	// DataKeyLife is the age at which a data key is out of use for sealing; 0: a day.
	DataKeyLife time.Duration `yaml:"data_key_life"`
	// Foreign is what other tools encoded, and what is still to be read.
	Foreign       []Foreign    `yaml:"foreign"`
	Policy        Policy       `yaml:"policy"`
	UnknownFields string       `yaml:"unknown_fields"`
	Shadow        bool         `yaml:"shadow"`
	Admin         string       `yaml:"admin"`
	Drain         Drain        `yaml:"drain"`
	Limits        Limits       `yaml:"limits"`
	CodecServer   *CodecServer `yaml:"codec_server"`
	Audit         *Audit       `yaml:"audit"`
}

type Listener struct {
	Name    string     `yaml:"name"`
	Address string     `yaml:"address"`
	TLS     *ServerTLS `yaml:"tls"`
	Callers *Callers   `yaml:"callers"`
}

type ServerTLS struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

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

type Upstream struct {
	Namespaces []string   `yaml:"namespaces"`
	Address    string     `yaml:"address"`
	TLS        *ClientTLS `yaml:"tls"`
	APIKeyFile string     `yaml:"api_key_file"`
	// PassCredential forwards the token that callers show to a listener; without it a token ends here.
	PassCredential bool `yaml:"pass_credential"`
}

type ClientTLS struct {
	CertFile   string `yaml:"cert_file"`
	KeyFile    string `yaml:"key_file"`
	CAFile     string `yaml:"ca_file"`
	ServerName string `yaml:"server_name"`
}

type Key struct {
	Name       string   `yaml:"name"`
	Namespaces []string `yaml:"namespaces"`
	Active     string   `yaml:"active"`
	OpenOnly   []string `yaml:"open_only"`
}

type Grant struct {
	From string `yaml:"from"`
	To   string `yaml:"to"`
}

type Policy struct {
	File       string  `yaml:"file"`
	Namespaces string  `yaml:"namespaces"`
	Bundle     *Bundle `yaml:"bundle"`
}

// Bundle takes the place of files: the policy comes as an OPA bundle over HTTP.
type Bundle struct {
	URL           string        `yaml:"url"`
	TokenFile     string        `yaml:"token_file"`
	PublicKeyFile string        `yaml:"public_key_file"`
	Algorithm     string        `yaml:"algorithm"`
	Scope         string        `yaml:"scope"`
	Folder        string        `yaml:"folder"`
	Poll          time.Duration `yaml:"poll"`
}

// Audit says where records of what was opened go: to a file or to a collector.
type Audit struct {
	File     string        `yaml:"file"`
	OTLP     bool          `yaml:"otlp"`
	Required bool          `yaml:"required"`
	Wait     time.Duration `yaml:"wait"`
}

type Drain struct {
	Time  time.Duration `yaml:"time"`
	Delay time.Duration `yaml:"delay"`
	After string        `yaml:"after"`
}

const (
	DefaultListen   = "127.0.0.1:7333"
	DefaultUpstream = "127.0.0.1:7233"
	DefaultAdmin    = "127.0.0.1:7334"
	DefaultKey      = "local:./temporal-seal.key"

	// defaultDrain fits into the 30 s that Kubernetes gives a pod by default.
	defaultDrain = 25 * time.Second
)

// Flags are the flags that stand for the common case. They go over what the file says.
type Flags struct {
	File, Listen, Upstream, Policy, Key, Admin string

	Text string // of the file, as Load has read it
}

// Load reads the config file, if there is one, lays the flags over it and checks the whole.
func (s *Flags) Load() (*Config, error) {
	c := new(Config)
	d := &document{file: "flags", lines: map[string]int{}}
	if s.File != "" {
		text, err := os.ReadFile(s.File)
		if err != nil {
			return nil, fmt.Errorf("the config file cannot be read: %w; check --config", err)
		}
		s.Text = string(text)
		d = parseYAML(s.File, text, c)
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

func (s *Flags) override(c *Config) error {
	if s.Listen != "" {
		if len(c.Listeners) > 1 {
			return errors.New("--listen: the config file names several listeners; change the address there")
		}
		if len(c.Listeners) == 0 {
			c.Listeners = []Listener{{}}
		}
		c.Listeners[0].Address = s.Listen
	}
	if s.Upstream != "" {
		if len(c.Upstreams) > 1 {
			return errors.New("--upstream: the config file names several upstreams; change the address there")
		}
		if len(c.Upstreams) == 0 {
			c.Upstreams = []Upstream{{}}
		}
		c.Upstreams[0].Address = s.Upstream
	}
	if s.Key != "" {
		if len(c.Keys) > 1 {
			return errors.New("--key: the config file names several keys; change the URI there")
		}
		if len(c.Keys) == 0 {
			c.Keys = []Key{{Name: "default"}}
		}
		c.Keys[0].Active = s.Key
	}
	if s.Policy != "" {
		c.Policy.File = s.Policy
	}
	if s.Admin != "" {
		c.Admin = s.Admin
	}
	return nil
}

// given names the flags that stand for values of the config.
func (s *Flags) given() map[string]string {
	flags := map[string]string{}
	for _, f := range []struct{ value, flag, path string }{
		{s.Listen, "--listen", "$.listeners[0]"}, {s.Listen, "--listen", "$.listeners[0].address"},
		{s.Upstream, "--upstream", "$.upstreams[0].address"}, {s.Key, "--key", "$.keys[0].active"},
		{s.Policy, "--policy", "$.policy.file"}, {s.Admin, "--admin", "$.admin"},
	} {
		if f.value != "" {
			flags[f.path] = f.flag
		}
	}
	return flags
}

func (c *Config) setDefaults() {
	if len(c.Listeners) == 0 {
		c.Listeners = []Listener{{Address: DefaultListen}}
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
		c.Upstreams = []Upstream{{Address: DefaultUpstream}}
	}
	if len(c.Keys) == 0 {
		c.Keys = []Key{{Name: "default", Active: DefaultKey}}
	}
	if c.UnknownFields == "" {
		c.UnknownFields = "lenient"
	}
	if c.Admin == "" {
		c.Admin = DefaultAdmin
	}
	if c.Drain.Time == 0 {
		c.Drain.Time = defaultDrain
	}
}

func (k *Callers) setDefaults() {
	if k != nil && k.Token != nil && k.Token.Header == "" {
		k.Token.Header = "authorization"
	}
	if k != nil && k.JWT != nil && k.JWT.Header == "" {
		k.JWT.Header = "authorization"
	}
}

// IsLoopback tells if an address can be reached from this machine only.
func IsLoopback(address string) bool {
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
func (c *Config) Local() bool {
	for _, l := range c.Listeners {
		if !IsLoopback(l.Address) {
			return false
		}
	}
	for _, u := range c.Upstreams {
		if !IsLoopback(u.Address) {
			return false
		}
	}
	return true
}

func (c *Config) KeyConfigs() []keyring.KeyConfig {
	keys := make([]keyring.KeyConfig, len(c.Keys))
	for i, k := range c.Keys {
		keys[i] = keyring.KeyConfig{Name: k.Name, Namespaces: k.Namespaces, Active: k.Active, OpenOnly: k.OpenOnly}
	}
	return keys
}

func (c *Config) KeyGrants() []keyring.Grant {
	grants := make([]keyring.Grant, len(c.Grants))
	for i, g := range c.Grants {
		grants[i] = keyring.Grant{From: g.From, To: g.To}
	}
	return grants
}

// revokedDataKeys are the ids; check has told of those that are none.
func (c *Config) DataKeyIDs() [][32]byte {
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
