// Package config reads the proxy's config file: YAML that is decoded strictly, completed with defaults and
// validated as a whole, so that every mistake is reported at once with its line. It opens no connection and
// makes no file.
//
// The comment of each field is its text in the reference and in the JSON schema, which Reference and Schema
// print. Tags hold the rest: `default` is YAML that stands for a key that is left out; `otherwise` describes
// what happens then in words; `required` marks keys without which their mapping is refused; `enum` lists all
// values, `unit` names what a number counts.
//
// What is where:
//
//   - config.go: the whole file; listeners.go, callers.go, upstreams.go, keys.go, policy.go, limits.go, drain.go,
//     codecserver.go, foreign.go, observe.go, audit.go: one section each, with its validation
//   - flags.go: reading the file, and the flags that override it
//   - yaml.go: strict decoding, and problems with their lines; defaults.go: what is left out
//   - review.go: what is valid and yet does not work, for `check`
//   - values.go: checks of addresses and files that several sections need
//   - comments.go, reference.go, schema.go: the keys as documents
package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/server"
)

// Config is the config file. Its zero value is not valid: Parse fills in what a file leaves out.
type Config struct {
	// Addresses on which workers and clients reach the proxy.
	Listeners []Listener `yaml:"listeners" default:"[{name: default, address: 127.0.0.1:7333}]"`
	// Temporal frontends to which calls are forwarded. The first one that serves a call's namespace counts.
	Upstreams []Upstream `yaml:"upstreams" default:"[{address: 127.0.0.1:7233}]"`
	// Namespaces to which Nexus endpoints lead, by the names of the endpoints: for those that the upstream does not let callers
	// list, and those that lead to a URL. Without one, inputs for such an endpoint never pass in clear, and callers with
	// `namespaces` may not call it.
	NexusEndpoints map[string]string `yaml:"nexus_endpoints" otherwise:"none"`
	// Full names of further gRPC services that are forwarded unread, besides health and reflection.
	Services []string `yaml:"services" otherwise:"none"`
	// Keys that seal, the most sensitive first: where two rules name different keys, the first one in this
	// list wins.
	Keys []Key `yaml:"keys" default:"[{name: default, active: 'local:./temporal-seal.key'}]"`
	// Permissions to open in one namespace what another one sealed. The policy that ships opens by them. Without a config
	// file, where callers and server are on loopback, every namespace opens what another one sealed.
	Grants []Grant `yaml:"grants" otherwise:"none"`
	// Name that distinguishes namespaces of the same name in two clusters: envelopes are bound to
	// `<realm>/<namespace>`. At most 64 bytes, without a slash.
	Realm string `yaml:"realm" otherwise:"none"`
	// Database for wrapped data keys, to which envelopes by reference refer.
	KeyStore *KeyStore `yaml:"key_store" otherwise:"none"`
	// Namespaces whose envelopes have another name than the server has.
	Namespaces []Namespace `yaml:"namespaces" otherwise:"none"`
	// Ids of data keys that leaked, 32 hex digits each. Nothing opens with them any more.
	RevokedDataKeys []string `yaml:"revoked_data_keys" otherwise:"none"`
	// Age at which a data key stops sealing, and so how much one that leaked opens: 10s to 720h.
	DataKeyLife time.Duration `yaml:"data_key_life" default:"24h"`
	// Formats of codecs and other proxies that are opened in answers, so that workers can give up their
	// codec.
	Foreign []Foreign `yaml:"foreign" otherwise:"none"`
	// Source of the policy, as files or as a bundle.
	Policy Policy `yaml:"policy"`
	// What happens to request fields that this build does not know: `lenient` lets them pass if they cannot
	// hold a payload, `strict` refuses the call.
	UnknownFields string `yaml:"unknown_fields" default:"lenient" enum:"lenient,strict"`
	// Seal nothing new: what requests hold passes in clear, also what the policy denies, and its verdicts are counted. What
	// was sealed before is opened as always. What bears the marker of a sealed value is sealed once more all the same, and is refused
	// in a field that stays readable.
	Shadow bool `yaml:"shadow" default:"false"`
	// Host and port of `/healthz`, `/readyz`, `/keys` and `/metrics`, and for callers on loopback of the status page `/`, `/status`,
	// `/explain`, `/candidate` and `/survey`.
	Admin string `yaml:"admin" default:"127.0.0.1:7334"`
	// How the proxy shuts down.
	Drain Drain `yaml:"drain"`
	// What callers can make the proxy hold at once.
	Limits Limits `yaml:"limits" otherwise:"from the memory there is"`
	// HTTP endpoint for the Web UI and the CLI.
	CodecServer *CodecServer `yaml:"codec_server" otherwise:"none"`
	// Records of what was opened for whom.
	Audit *Audit `yaml:"audit" otherwise:"none"`
	// Search of samples of the payloads that pass through, for secrets and personal data: `/survey` and the status page show what was
	// found where, and no value.
	Survey *Survey `yaml:"survey" otherwise:"none"`
	// What metrics count beyond the whole of the proxy.
	Metrics Metrics `yaml:"metrics" otherwise:"nothing"`
}

// Default returns the config of a proxy that has neither a file nor flags.
func Default() *Config {
	c := new(Config)
	c.setDefaults()
	return c
}

// setDefaults fills in what the file and the flags leave out.
func (c *Config) setDefaults() {
	fillIn(reflect.ValueOf(c))
	if len(c.Listeners) == 1 && c.Listeners[0].Name == "" {
		c.Listeners[0].Name = "default"
	}
	c.CodecServer.setDefaults()
}

// validate adds to d whatever the config says that cannot work or must not be.
func (c *Config) validate(d *document) {
	validateListeners(d, c.Listeners)
	for i := range c.Upstreams {
		c.Upstreams[i].validate(d, fmt.Sprintf("$.upstreams[%d]", i))
	}
	for i, name := range c.Services {
		if err := server.CheckService(name); err != nil {
			d.add(fmt.Sprintf("$.services[%d]", i), "%v", err)
		}
	}
	for endpoint, namespace := range c.NexusEndpoints {
		d.refuse(strings.Contains(namespace, "*"), "$.nexus_endpoints."+endpoint, "must name one namespace; patterns with * are not allowed here")
	}
	validateKeys(d, c.Keys, c.KeyStore)
	c.KeyStore.validate(d)
	for i, g := range c.Grants {
		d.refuse(g.From == "" || g.To == "", fmt.Sprintf("$.grants[%d]", i),
			"from (the namespace that sealed) and to (the namespace that may open) are required")
	}
	d.refuse(strings.Contains(c.Realm, "/") || len(c.Realm) > 64, "$.realm",
		"must have at most 64 bytes and no /, which separates realm and namespace in envelopes")
	validateNamespaces(d, c.Namespaces)
	for i, id := range c.RevokedDataKeys {
		if _, ok := dataKeyID(id); !ok {
			d.add(fmt.Sprintf("$.revoked_data_keys[%d]", i), "is not the id of a data key; write 32 hex digits, as `temporal-seal keys list` prints them")
		}
	}
	if life := c.DataKeyLife; life != 0 && (life < 10*time.Second || life > 30*24*time.Hour) {
		d.add("$.data_key_life", "must be from 10s to 720h, not %s; the default is 24h", life)
	}
	validateForeign(d, c.Foreign)
	c.Policy.validate(d)
	d.refuse(c.UnknownFields != "lenient" && c.UnknownFields != "strict", "$.unknown_fields",
		"must be lenient or strict, not %q", c.UnknownFields)
	c.Audit.validate(d)
	c.Survey.validate(d)
	c.Metrics.validate(d)
	c.CodecServer.validate(d)
	validateAddress(d, "$.admin", c.Admin)
	c.Limits.validate(d)
	c.Drain.validate(d)
}

// Local reports whether everything that talks to this proxy, and all it talks to, is on this machine.
func (c *Config) Local() bool {
	return !slices.ContainsFunc(c.Listeners, func(l Listener) bool { return !IsLoopback(l.Address) }) &&
		!slices.ContainsFunc(c.Upstreams, func(u Upstream) bool { return !IsLoopback(u.Address) })
}
