package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/config"
)

// parse gives a text to Parse, as the file c.yaml in a folder with a file `x`.
func parse(t *testing.T, flags config.Flags, text string) (*config.Config, string) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("x", []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	flags.File = "c.yaml"
	c, err := flags.Parse([]byte(text))
	if err != nil {
		return c, err.Error()
	}
	return c, ""
}

// TestProblems: what is wrong is reported with its line and path.
func TestProblems(t *testing.T) {
	tls := "tls: {cert_file: x, key_file: x}"
	for text, want := range map[string]string{
		// Decoding.
		"listeners: [":                 "c.yaml:1: not valid YAML: ",
		"---\nrealm: a\n---\nrealm: b": "c.yaml: holds several YAML documents: one is wanted",
		"":                             "c.yaml: the file is empty, and a proxy with it would use local defaults",
		"# realm: a":                   "c.yaml: the file is empty",
		"services: [AdminService]":     `c.yaml:1: services[0]: "AdminService" is no full name of a gRPC service`,
		"- realm":                      "c.yaml:1: wants a mapping (key: value), not a list",
		"relm: a":                      "c.yaml:1: relm: unknown key; did you mean realm? Here the keys are listeners, upstreams, ",
		"\ufeffrealm: a":               "c.yaml:1: the file begins with a byte order mark: save it as UTF-8 without one",
		"realm: \xff":                  "c.yaml:1: the file is not UTF-8: save it in this encoding",
		"realm: a\x00":                 "c.yaml:1: the file holds a zero byte: save it as UTF-8 text",
		"drain:\n\ttime: 7s":           "c.yaml:2: not valid YAML: found character '\t' that cannot start any token; indent with spaces in place of tabs",
		"realm: {{ .Values }}":         "c.yaml:1: not valid YAML: could not find flow map content; the line holds {{, as templates do: render the file first",
		`upstreams: [{address: "https://a:7233"}]`:                          `c.yaml:1: upstreams[0].address: "https://a:7233" is a URL: write host:port; tls: {} turns TLS on`,
		`upstreams: [{address: "${ADDRESS}"}]`:                              `c.yaml:1: upstreams[0].address: "${ADDRESS}" holds a variable, and none is replaced here: write host:port, or render the file first`,
		`listeners: [{address: "http://a:7233"}]`:                           `c.yaml:1: listeners[0].address: "http://a:7233" is no address: write host:port, without ://`,
		"keys: [{name: a, active: 'awskms://alias/a?regoin=eu-central-1'}]": `c.yaml:1: keys[0].active: alias/a: unknown parameter "regoin"; region and endpoint are known`,
		"keys: [{name: a, active: 'awskms://alias/{tenant}'}]":              "c.yaml:1: keys[0].active: has a placeholder that there is none of: {namespace} and {1}, ",
		"keys: [{name: a, active: 'awskms://${KEY}'}]":                      "c.yaml:1: keys[0].active: holds a variable, and none is replaced here: ",
		"keys: [{name: a, active: 'vault://vault.example?token_file=t'}]":   "c.yaml:1: keys[0].active: vault://vault.example?token_file=t: names no key: ",
		"upstreams: [{address: 'frontend.{tenant}:7233'}]":                  `c.yaml:1: upstreams[0].address: "frontend.{tenant}:7233" has a placeholder that there is none of: {namespace} is known`,
		"zebra: a":                              "c.yaml:1: zebra: unknown key; here the keys are listeners, upstreams, ",
		"realm:":                                "c.yaml:1: realm: has no value: give one, or remove the key",
		"realm: ''":                             "c.yaml:1: realm: is empty: give a value, or remove the key",
		"realm: 7":                              "c.yaml:1: realm: wants a text, not a number (put it in quotes if it is a name)",
		"realm: [a]":                            "c.yaml:1: realm: wants a text, not a list",
		"realm: true":                           "c.yaml:1: realm: wants a text, not true or false",
		"services: [~]":                         "c.yaml:1: services[0]: wants a text, not nothing",
		"realm: &a b":                           "c.yaml:1: realm: wants a text, not a YAML anchor or alias (write it out)",
		"services: a":                           "c.yaml:1: services: wants a list, not this text",
		"shadow: 'true'":                        "c.yaml:1: shadow: wants true or false, not this text",
		"drain: {time: 70}":                     "c.yaml:1: drain.time: wants a duration such as 70s or 5m, not a number",
		"drain: {time: -1s}":                    "c.yaml:1: drain.time: wants a duration such as 70s or 5m, not this text",
		"limits: {calls: 0}":                    "c.yaml:1: limits.calls: wants a whole number above 0",
		"limits: {calls: 99999999999999999999}": "c.yaml:1: limits.calls: wants a whole number above 0",
		// Nexus endpoints.
		"nexus_endpoints: [a]":       "c.yaml:1: nexus_endpoints: wants a mapping (name: value), not a list",
		"nexus_endpoints: {a: [b]}":  "c.yaml:1: nexus_endpoints.a: wants a text, not a list",
		"nexus_endpoints: {a: ''}":   "c.yaml:1: nexus_endpoints.a: is empty: give a value, or remove the key",
		"nexus_endpoints: {'': b}":   "c.yaml:1: nexus_endpoints.: is a name without a text: give one, or remove the entry",
		"nexus_endpoints: {a: 'b*'}": "c.yaml:1: nexus_endpoints.a: names one namespace: a * stands for nothing here",
		// Listeners and callers.
		"listeners: [{address: 127.0.0.1:0}, {name: a, address: 127.0.0.1:0}]": "c.yaml:1: listeners[0]: has no name: each of several listeners needs one",
		"listeners: [{name: a, address: 127.0.0.1:1}, {name: a, address: 127.0.0.1:1}]": `c.yaml:1: listeners[1].name: "a" is the name of another listener too` +
			"\nc.yaml:1: listeners[1].address: 127.0.0.1:1 is the address of another listener too",
		"listeners: [{address: localhost}]":                                                                           `c.yaml:1: listeners[0].address: "localhost" is no address: write host:port`,
		"listeners: [{address: 127.0.0.1:0, tls: {cert_file: x}}]":                                                    "c.yaml:1: listeners[0].tls: both are required: cert_file and key_file",
		"listeners: [{address: 127.0.0.1:0, tls: {cert_file: x, key_file: y}}]":                                       "c.yaml:1: listeners[0].tls.key_file: y cannot be read: no such file or directory",
		"listeners: [{address: 127.0.0.1:0, callers: {}}]":                                                            "c.yaml:1: listeners[0].callers: wants exactly one of anonymous, mtls, token, jwt",
		"listeners: [{address: 127.0.0.1:0, callers: {anonymous: {}, mtls: {}}}]":                                     "c.yaml:1: listeners[0].callers: wants exactly one of anonymous, mtls, token, jwt",
		"listeners: [{address: '0.0.0.0:0'}]":                                                                         "c.yaml:1: listeners[0]: 0.0.0.0:0 is reachable from other machines and would serve anyone every namespace: add callers",
		"listeners: [{address: 127.0.0.1:0, callers: {mtls: {names: [{name: a}]}}}]":                                  "c.yaml:1: listeners[0].callers.mtls: wants tls on this listener: add tls: {cert_file: ..., key_file: ...}\nc.yaml:1: listeners[0].callers.mtls: wants ca_file: ",
		"listeners: [{address: 127.0.0.1:0, " + tls + ", callers: {mtls: {ca_file: x}}}]":                             "c.yaml:1: listeners[0].callers.mtls: wants names: ",
		"listeners: [{address: 127.0.0.1:0, " + tls + ", callers: {mtls: {ca_file: x, names: [{namespaces: [a]}]}}}]": "c.yaml:1: listeners[0].callers.mtls.names[0]: wants name: ",
		"listeners: [{address: '0.0.0.0:0', callers: {token: {tokens: [{subject: a, file: x}]}}}]":                    "c.yaml:1: listeners[0].callers.token: tokens would cross the network readable: ",
		"listeners: [{address: 127.0.0.1:0, callers: {token: {header: X, tokens: [{file: x}]}}}]": "c.yaml:1: listeners[0].callers.token.header: is written in lower case, as gRPC and HTTP/2 have it\n" +
			"c.yaml:1: listeners[0].callers.token.tokens[0]: both are required: subject, ",
		"listeners: [{address: 127.0.0.1:0, callers: {token: {}}}]": "c.yaml:1: listeners[0].callers.token: wants tokens: ",
		"listeners: [{address: 127.0.0.1:0, callers: {jwt: {}}}]": "c.yaml:1: listeners[0].callers.jwt: both are required: issuer and audience, as they stand in the tokens\n" +
			"c.yaml:1: listeners[0].callers.jwt: wants one of jwks_url and jwks_file: where the issuer's public keys are\n" +
			"c.yaml:1: listeners[0].callers.jwt: wants one of namespaces_claim, ",
		"listeners: [{address: 127.0.0.1:0, callers: {jwt: {issuer: a, audience: b, namespaces_claim: c, jwks_url: 'http://example.com/'}}}]": "c.yaml:1: listeners[0].callers.jwt.jwks_url: wants an https URL: ",
		// Upstreams.
		"upstreams: [{namespaces: [a]}]":                                                 "c.yaml:1: upstreams[0]: wants address: the Temporal frontend's host:port",
		"upstreams: [{address: a}]":                                                      `c.yaml:1: upstreams[0].address: "a" is no address: write host:port`,
		"upstreams: [{address: '127.0.0.1:1', tls: {cert_file: x}}]":                     "c.yaml:1: upstreams[0].tls: both are required: cert_file and key_file",
		"upstreams: [{address: 'a:1', pass_credential: true}]":                           "c.yaml:1: upstreams[0].pass_credential: callers' tokens would cross the network readable: add tls: {}",
		"upstreams: [{address: 'a:1', tls: {}, pass_credential: true, api_key_file: x}]": "c.yaml:1: upstreams[0].pass_credential: an API key takes the place of what callers send: remove one of them",
		"upstreams: [{address: '127.0.0.1:1', api_key_file: x}]":                         "c.yaml:1: upstreams[0].api_key_file: an API key is never sent without TLS: add tls: {}",
		// Keys.
		"keys: [{name: a}]": "c.yaml:1: keys[0]: both are required: name, and active, the URI of the key that seals",
		"keys: [{name: a, active: 'local:x'}, {name: a, active: 'local:x'}]": `c.yaml:1: keys[1].name: "a" is the name of another key too: `,
		"keys: [{name: 'foreign:a', active: 'local:x'}]":                     "c.yaml:1: keys[0].name: may not start with foreign: or a *: ",
		"keys: [{name: a, active: x, open_only: [y]}]":                       "c.yaml:1: keys[0].active: is no key URI: awskms://<key id, ARN or alias>?region=<region>, ",
		"grants: [{from: a}]":                     "c.yaml:1: grants[0]: both are required: from, the namespace that sealed, and to, the one that may open",
		"realm: a/b":                              "c.yaml:1: realm: has at most 64 bytes and no /, ",
		"namespaces: [{name: a}]":                 "c.yaml:1: namespaces[0]",
		"namespaces: [{name: a, sealed_as: b/c}]": "c.yaml:1: namespaces[0].sealed_as: has no /, which ends a realm",
		"namespaces: [{name: a, sealed_as: b}, {name: a, sealed_as: c}]":                    "c.yaml:1: namespaces[1].name: \"a\" has an entry above: a namespace has one",
		"namespaces: [{name: a-*, sealed_as: b}]":                                           "c.yaml:1: namespaces[0]: names one namespace: a * stands for nothing here",
		"key_store: {url: 'mysql://x', id: 0123456789abcdef0123456789abcdef}":               "c.yaml:1: key_store.url: is no key store",
		"key_store: {url: 'sqlite:x', id: abc}":                                             "c.yaml:1: key_store.id: is no id of a key store",
		"keys: [{name: default, active: 'local:x', envelope: reference}]":                   "c.yaml:1: keys[0].envelope: needs a key store",
		"keys: [{name: default, active: 'local:x', envelope: short}]":                       "c.yaml:1: keys[0].envelope: is self-contained or reference, not \"short\"",
		"revoked_data_keys: [ab]":                                                           "c.yaml:1: revoked_data_keys[0]: is no data-key id: 32 hex digits",
		"data_key_life: 1s":                                                                 "c.yaml:1: data_key_life: is 10s to 720h, not 1s; a day is the default",
		"foreign: [{namespaces: [a]}]":                                                      `c.yaml:1: foreign[0].format: wants one of samples, temporal-sa, temporal-proxy, zlib, snappy or gzip, not ""`,
		"foreign: [{format: zlib, kms: a}]":                                                 "c.yaml:1: foreign[0]: wants namespaces: those in which payloads of this format are opened\nc.yaml:1: foreign[0].kms: belongs to the formats temporal-sa and temporal-proxy: ",
		"foreign: [{format: temporal-proxy, namespaces: [a], kms: a, sealed_as: b}]":        "c.yaml:1: foreign[0].kms: is no KMS key: awskms://<key id, ARN or alias>?region=<region>\nc.yaml:1: foreign[0].sealed_as: belongs to the format temporal-sa, ",
		"foreign: [{format: samples, namespaces: [a]}]":                                     "c.yaml:1: foreign[0].keys: belong to the format samples: ",
		"foreign: [{format: samples, namespaces: [a], keys: [{}]}]":                         "c.yaml:1: foreign[0].keys[0]: wants file: the path of the file that holds the key",
		"foreign: [{format: samples, namespaces: [a], keys: [{file: x}]}]":                  "c.yaml:1: foreign[0].keys[0].file: x holds 6 bytes; an AES key has 16, 24 or 32 ",
		"foreign: [{format: samples, namespaces: [a], keys: [{file: x, encoding: hex}]}]":   "c.yaml:1: foreign[0].keys[0].file: x does not hold hex",
		"foreign: [{format: samples, namespaces: [a], keys: [{file: x, encoding: rot13}]}]": "c.yaml:1: foreign[0].keys[0].file: encoding is base64 or hex, or left out for a file that holds the key's own bytes; not \"rot13\"",
		// The rest.
		"policy: {file: y}":                                  "c.yaml:1: policy.file: y cannot be read: no such file or directory",
		"policy: {file: x, bundle: {}}":                      "c.yaml:1: policy.bundle: a bundle is the whole policy: remove file and namespaces, or the bundle\nc.yaml:1: policy.bundle: wants url: where the bundle is",
		"policy: {bundle: {url: a, token_file: y}}":          "c.yaml:1: policy.bundle.token_file: y cannot be read: no such file or directory",
		"unknown_fields: some":                               `c.yaml:1: unknown_fields: is lenient or strict, not "some"`,
		"admin: a":                                           `c.yaml:1: admin: "a" is no address: write host:port`,
		"drain: {after: client}":                             `c.yaml:1: drain.after: can only be worker, not "client"`,
		"limits: {bytes: 1}":                                 "c.yaml:1: limits.bytes: is too small for the messages that Temporal takes: at least 16777216",
		"limits: {connection_age: 1m}":                       "c.yaml:1: limits.connection_age: is too short: polls take a minute, and each end costs callers a new connection; at least 6m0s",
		"codec_server: {allowed_origins: ['https://*.a']}":   "c.yaml:1: codec_server.allowed_origins[0]: is no origin as browsers write it: https://ui.example.com, ",
		"codec_server: {allowed_origins: ['https://a:443']}": "c.yaml:1: codec_server.allowed_origins[0]: is no origin as browsers write it: https://ui.example.com, ",
		"codec_server: {address: '0.0.0.0:1'}":               "c.yaml:1: codec_server: 0.0.0.0:1 is reachable from other machines: say who may read, ",
		"audit: {}":                                          "c.yaml:1: audit: wants one of file, a path or /dev/stdout, and otlp: true, ",
		"audit: {otlp: true, wait: 6s}":                      "c.yaml:1: audit.wait: is for required: true; records that are not required never hold up a call\nc.yaml:1: audit.wait: is 5s at most: a call waits that long for its record",
		"audit: {file: y/z}":                                 "c.yaml:1: audit.file: y is no folder: make it first",
	} {
		t.Run(strings.ReplaceAll(text, "\n", " "), func(t *testing.T) {
			if _, got := parse(t, config.Flags{}, text); !strings.HasPrefix(got, want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestProblemsStandInOrder: all problems are reported at once, by line.
func TestProblemsStandInOrder(t *testing.T) {
	_, got := parse(t, config.Flags{}, "admin: a\nlisteners:\n  - address: b\nrealm: c/d\n")
	var lines []string
	for line := range strings.Lines(got) {
		lines = append(lines, strings.Join(strings.SplitN(line, ":", 4)[:3], ":"))
	}
	if want := "c.yaml:1: admin|c.yaml:3: listeners[0].address|c.yaml:4: realm"; strings.Join(lines, "|") != want {
		t.Errorf("got %s", got)
	}
}

// TestFlagsOverride: flags stand over what the file says, and problems of their values name the flag.
func TestFlagsOverride(t *testing.T) {
	flags := config.Flags{Listen: "127.0.0.1:1", Upstream: "127.0.0.1:2", Policy: "x", Key: "local:y", Admin: "127.0.0.1:3"}
	c, problems := parse(t, flags, "listeners: [{name: a, address: '127.0.0.1:9'}]\nadmin: 127.0.0.1:9\n")
	if problems != "" || c.Listeners[0] != (config.Listener{Name: "a", Address: flags.Listen}) || c.Upstreams[0].Address != flags.Upstream ||
		c.Policy.File != flags.Policy || c.Keys[0].Name != "default" || c.Keys[0].Active != flags.Key || c.Admin != flags.Admin {
		t.Errorf("%s %+v", problems, c)
	}
	for flag, want := range map[string]config.Flags{
		"--listen: ": {Listen: "a"}, "--upstream: ": {Upstream: "a"}, "--key: ": {Key: "a"}, "--policy: ": {Policy: "y"}, "--admin: ": {Admin: "a"},
	} {
		if _, got := parse(t, want, "shadow: false"); !strings.HasPrefix(got, flag) || strings.Contains(got, "\n") {
			t.Errorf("%s: got %s", flag, got)
		}
	}
	for text, flags := range map[string]config.Flags{
		"listeners: [{name: a, address: 'a:1'}, {name: b, address: 'a:2'}]":  {Listen: "a:1"},
		"upstreams: [{address: 'a:1'}, {address: 'a:2'}]":                    {Upstream: "a:1"},
		"keys: [{name: a, active: 'local:x'}, {name: b, active: 'local:x'}]": {Key: "local:x"},
	} {
		if _, got := parse(t, flags, text); !strings.Contains(got, "the config file names several") {
			t.Errorf("%+v: got %s", flags, got)
		}
	}
	if _, err := (&config.Flags{File: filepath.Join(t.TempDir(), "none")}).Load(); err == nil || !strings.HasSuffix(err.Error(), "; check --config") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestSecretsStayOut: a problem does not quote a value, which may be a secret in the wrong place.
func TestSecretsStayOut(t *testing.T) {
	for _, text := range []string{"realm: [hunter2]", "shadow: hunter2", "drain: {time: hunter2}", "limits: {calls: hunter2}", "services: hunter2", "keys: [{name: a, active: hunter2}]"} {
		if _, got := parse(t, config.Flags{}, text); got == "" || strings.Contains(got, "hunter2") {
			t.Errorf("%s: got %q", text, got)
		}
	}
}
