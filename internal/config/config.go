// Package config reads the proxy's config file: YAML that is decoded strictly, completed with defaults and validated as a
// whole, so that every mistake is reported at once with its line. It opens no connection and makes no file.
package config

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
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
