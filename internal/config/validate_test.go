package config_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

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

// lifeStore is a key store that destroys expired keys.
const lifeStore = "key_store: {url: 'sqlite:keys.db', id: 0123456789abcdef0123456789abcdef}"

// TestLife: a life is read in days too, and so is every duration, also by the schema.
func TestLife(t *testing.T) {
	c, problems := parse(t, config.Flags{}, "keys: [{name: a, active: 'local:x', envelope: reference, life: 30d}]\ndata_key_life: 1d\n"+lifeStore)
	if problems != "" || c.KeyConfigs()[0].Life != 30*24*time.Hour || c.DataKeyLife != 24*time.Hour {
		t.Errorf("life %v, data_key_life %v, problems %s", c.Keys[0].Life, c.DataKeyLife, problems)
	}
	pattern := regexp.MustCompile(config.Schema()["properties"].(map[string]any)["data_key_life"].(map[string]any)["pattern"].(string))
	for text, good := range map[string]bool{"30d": true, "1h30m": true, "1.5d": false, "-1d": false, "d": false, "1d12h": false, "9999999d": false} {
		_, problems := parse(t, config.Flags{}, "data_key_life: "+text)
		if strings.Contains(problems, "must be a duration") == good || pattern.MatchString(text) != good {
			t.Errorf("%s: problems %s, it matches the schema: %v", text, problems, pattern.MatchString(text))
		}
	}
}

// TestProblems: what is wrong is reported with its line and path.
func TestProblems(t *testing.T) {
	tls := "tls: {cert_file: x, key_file: x}"
	for text, want := range map[string]string{
		// Decoding.
		"listeners: [":                     "c.yaml:1: not valid YAML: ",
		"---\nrealm: a\n---\nrealm: b":     "c.yaml: the file contains several YAML documents; write one",
		"":                                 "c.yaml: the file is empty;",
		"# realm: a":                       "c.yaml: the file is empty",
		"services: [AdminService]":         `c.yaml:1: services[0]: "AdminService" is not the full name of a gRPC service`,
		"- realm":                          "c.yaml:1: must be a mapping (key: value), not a list",
		"relm: a":                          "c.yaml:1: relm: unknown key; did you mean realm? Here the keys are listeners, upstreams, ",
		"\ufeffrealm: a":                   "c.yaml:1: the file begins with a byte order mark; save it as UTF-8 without one",
		"realm: \xff":                      "c.yaml:1: the file is not UTF-8; save it in this encoding",
		"realm: a\x00":                     "c.yaml:1: the file contains a zero byte; save it as UTF-8 text",
		"drain:\n\ttime: 7s":               "c.yaml:2: not valid YAML: found character '\t' that cannot start any token; indent with spaces in place of tabs",
		"survey: {rate: 10001}":            "c.yaml:1: survey.rate: must be from 1 to 10000, not 10001",
		"survey: {cpu_percent: 51}":        "c.yaml:1: survey.cpu_percent: must be from 1 to 50, not 51",
		"survey: {rules: none.yaml}":       "c.yaml:1: survey.rules: none.yaml cannot be read: no such file or directory",
		"metrics: {namespaces: ['a*']}":    "c.yaml:1: metrics.namespaces[0]: must name one namespace; patterns with * are not allowed here",
		"metrics: {namespaces: [other]}":   "c.yaml:1: metrics.namespaces[0]: must not be other, by which all namespaces count that are not named",
		"metrics: {namespaces: [a, b, a]}": "c.yaml:1: metrics.namespaces[2]: is named twice",
		"metrics: {namespaces: [" + strings.Repeat("a, ", 100) + "a]}": "c.yaml:1: metrics.namespaces: must have at most 100 names",
		"realm: {{ .Values }}":                                              "c.yaml:1: not valid YAML: could not find flow map content; the line contains {{, as templates do; render the file first",
		`upstreams: [{address: "https://a:7233"}]`:                          `c.yaml:1: upstreams[0].address: "https://a:7233" is a URL; write host:port, and tls: {} for TLS`,
		`upstreams: [{address: "${ADDRESS}"}]`:                              `c.yaml:1: upstreams[0].address: "${ADDRESS}" contains a variable, which the proxy does not replace; write host:port, or render the file first`,
		`listeners: [{address: "http://a:7233"}]`:                           `c.yaml:1: listeners[0].address: "http://a:7233" is not an address; write host:port, without ://`,
		"keys: [{name: a, active: 'awskms://alias/a?regoin=eu-central-1'}]": `c.yaml:1: keys[0].active: alias/a: unknown parameter "regoin"; the parameters are region, endpoint, role_arn, external_id, profile and fips`,
		"keys: [{name: a, active: 'awskms://alias/{tenant}'}]":              "c.yaml:1: keys[0].active: has an unknown placeholder; ",
		"keys: [{name: a, active: 'awskms://${KEY}'}]":                      "c.yaml:1: keys[0].active: contains a variable, which the proxy does not replace; ",
		"keys: [{name: a, active: 'vault://vault.example?token_file=t'}]":   "c.yaml:1: keys[0].active: vault://vault.example?token_file=t: names no key; ",
		"upstreams: [{address: 'frontend.{tenant}:7233'}]":                  `c.yaml:1: upstreams[0].address: "frontend.{tenant}:7233" has an unknown placeholder; there is {namespace} alone`,
		"zebra: a":                              "c.yaml:1: zebra: unknown key; here the keys are listeners, upstreams, ",
		"realm:":                                "c.yaml:1: realm: has no value; give one, or remove the key",
		"realm: ''":                             "c.yaml:1: realm: is empty; give a value, or remove the key",
		"realm: 7":                              "c.yaml:1: realm: must be a string, not a number (put it in quotes if it is a name)",
		"realm: [a]":                            "c.yaml:1: realm: must be a string, not a list",
		"realm: true":                           "c.yaml:1: realm: must be a string, not true or false",
		"services: [~]":                         "c.yaml:1: services[0]: must be a string, not nothing",
		"realm: &a b":                           "c.yaml:1: realm: must be a string, not a YAML anchor or alias (write it out)",
		"services: a":                           "c.yaml:1: services: must be a list, not a string",
		"shadow: 'true'":                        "c.yaml:1: shadow: must be true or false, not a string",
		"drain: {time: 70}":                     "c.yaml:1: drain.time: must be a duration such as 70s or 5m, not a number",
		"drain: {time: -1s}":                    "c.yaml:1: drain.time: must be a duration such as 70s or 5m, not a string",
		"limits: {calls: 0}":                    "c.yaml:1: limits.calls: must be a whole number above 0",
		"limits: {calls: 99999999999999999999}": "c.yaml:1: limits.calls: must be a whole number above 0",
		// Nexus endpoints.
		"nexus_endpoints: [a]":       "c.yaml:1: nexus_endpoints: must be a mapping (name: value), not a list",
		"nexus_endpoints: {a: [b]}":  "c.yaml:1: nexus_endpoints.a: must be a string, not a list",
		"nexus_endpoints: {a: ''}":   "c.yaml:1: nexus_endpoints.a: is empty; give a value, or remove the key",
		"nexus_endpoints: {'': b}":   "c.yaml:1: nexus_endpoints.: the name is empty; give one, or remove the entry",
		"nexus_endpoints: {a: 'b*'}": "c.yaml:1: nexus_endpoints.a: must name one namespace; patterns with * are not allowed here",
		// Listeners and callers.
		"listeners: [{address: 127.0.0.1:0}, {name: a, address: 127.0.0.1:0}]": "c.yaml:1: listeners[0]: name is required where there are several listeners;",
		"listeners: [{name: a, address: 127.0.0.1:1}, {name: a, address: 127.0.0.1:1}]": `c.yaml:1: listeners[1].name: "a" is the name of another listener too; choose another` +
			"\nc.yaml:1: listeners[1].address: 127.0.0.1:1 is the address of another listener too; choose another port",
		"listeners: [{address: localhost}]":                                                                           `c.yaml:1: listeners[0].address: "localhost" is not an address; write host:port`,
		"listeners: [{address: 127.0.0.1:0, tls: {cert_file: x}}]":                                                    "c.yaml:1: listeners[0].tls: cert_file and key_file are required",
		"listeners: [{address: 127.0.0.1:0, tls: {cert_file: x, key_file: y}}]":                                       "c.yaml:1: listeners[0].tls.key_file: y cannot be read: no such file or directory",
		"listeners: [{address: 127.0.0.1:0, callers: {}}]":                                                            "c.yaml:1: listeners[0].callers: set exactly one of anonymous, mtls, token and jwt",
		"listeners: [{address: 127.0.0.1:0, callers: {anonymous: {}, mtls: {}}}]":                                     "c.yaml:1: listeners[0].callers: set exactly one of anonymous, mtls, token and jwt",
		"listeners: [{address: '0.0.0.0:0'}]":                                                                         "c.yaml:1: listeners[0]: 0.0.0.0:0 is reachable from other machines and would serve every namespace to anyone;",
		"listeners: [{address: 127.0.0.1:0, callers: {mtls: {names: [{name: a}]}}}]":                                  "c.yaml:1: listeners[0].callers.mtls: mTLS requires TLS on this listener; add tls: {cert_file: ..., key_file: ...}\nc.yaml:1: listeners[0].callers.mtls: ca_file is required: ",
		"listeners: [{address: 127.0.0.1:0, " + tls + ", callers: {mtls: {ca_file: x}}}]":                             "c.yaml:1: listeners[0].callers.mtls: names is required: ",
		"listeners: [{address: 127.0.0.1:0, " + tls + ", callers: {mtls: {ca_file: x, names: [{namespaces: [a]}]}}}]": "c.yaml:1: listeners[0].callers.mtls.names[0]: name is required: ",
		"listeners: [{address: '0.0.0.0:0', callers: {token: {tokens: [{subject: a, file: x}]}}}]":                    "c.yaml:1: listeners[0].callers.token: tokens would cross the network in clear text; ",
		"listeners: [{address: 127.0.0.1:0, callers: {token: {header: X, tokens: [{file: x}]}}}]": "c.yaml:1: listeners[0].callers.token.header: must be in lower case, as HTTP/2 requires\n" +
			"c.yaml:1: listeners[0].callers.token.tokens[0]: subject (the caller's name) and file (which contains the token) are required",
		"listeners: [{address: 127.0.0.1:0, callers: {token: {}}}]": "c.yaml:1: listeners[0].callers.token: tokens is required: ",
		"listeners: [{address: 127.0.0.1:0, callers: {jwt: {}}}]": "c.yaml:1: listeners[0].callers.jwt: issuer and audience are required, as they appear in the tokens\n" +
			"c.yaml:1: listeners[0].callers.jwt: set exactly one of jwks_url and jwks_file, the source of the issuer's public keys\n" +
			"c.yaml:1: listeners[0].callers.jwt: set exactly one of namespaces_claim ",
		"listeners: [{address: 127.0.0.1:0, callers: {jwt: {issuer: a, audience: b, namespaces_claim: c, jwks_url: 'http://example.com/'}}}]": "c.yaml:1: listeners[0].callers.jwt.jwks_url: must be an https URL, ",
		// Upstreams.
		"upstreams: [{namespaces: [a]}]":                                                 "c.yaml:1: upstreams[0]: address is required: host:port of the Temporal frontend",
		"upstreams: [{address: a}]":                                                      `c.yaml:1: upstreams[0].address: "a" is not an address; write host:port`,
		"upstreams: [{address: '127.0.0.1:1', tls: {cert_file: x}}]":                     "c.yaml:1: upstreams[0].tls: cert_file and key_file are required",
		"upstreams: [{address: 'a:1', pass_credential: true}]":                           "c.yaml:1: upstreams[0].pass_credential: callers' tokens would cross the network in clear text; add tls: {}",
		"upstreams: [{address: 'a:1', tls: {}, pass_credential: true, api_key_file: x}]": "c.yaml:1: upstreams[0].pass_credential: api_key_file would replace the credentials of callers; remove one of the two",
		"upstreams: [{address: '127.0.0.1:1', api_key_file: x}]":                         "c.yaml:1: upstreams[0].api_key_file: an API key requires TLS; add tls: {}",
		// Keys.
		"keys: [{name: a}]": "c.yaml:1: keys[0]: name and active (the URI of the key that seals) are required",
		"keys: [{name: a, active: 'local:x'}, {name: a, active: 'local:x'}]":                                     `c.yaml:1: keys[1].name: "a" is the name of another key too; `,
		"keys: [{name: a, active: 'local:x', life: 30d}]":                                                        "c.yaml:1: keys[0].life: keys that expire are in a key store; configure key_store",
		"keys: [{name: a, active: 'local:x', life: 30d}]\n" + lifeStore:                                          "c.yaml:1: keys[0].life: self-contained envelopes carry their data key, which nobody can destroy; set envelope: reference",
		"keys: [{name: a, active: 'local:x', envelope: reference, life: 30d, endless: true}]\n" + lifeStore:      "c.yaml:1: keys[0].endless: it gives the life up; remove life, or endless",
		"keys: [{name: a, active: 'local:x', envelope: reference, life: 59m}]\n" + lifeStore:                     "c.yaml:1: keys[0].life: must be from 1h to 3650d, not 59m0s",
		"keys: [{name: a, active: 'local:x', envelope: reference, life: 3651d}]\n" + lifeStore:                   "c.yaml:1: keys[0].life: must be from 1h to 3650d, not 87624h0m0s",
		"keys: [{name: a, active: 'local:x', envelope: reference, life: 1.5d}]\n" + lifeStore:                    "c.yaml:1: keys[0].life: must be a duration such as 70s or 5m, not a string",
		"keys: [{name: a, active: 'local:x', envelope: reference, life: 999999d}]\n" + lifeStore:                 "c.yaml:1: keys[0].life: must be a duration such as 70s or 5m, not a string",
		"keys: [{name: a, active: 'local:x', envelope: reference, life: 30d, subjects: required}]\n" + lifeStore: "c.yaml:1: keys[0].life: keys of subjects have no life; remove life, or subjects: required",
		"keys: [{name: 'foreign:a', active: 'local:x'}]":                                                         "c.yaml:1: keys[0].name: must not start with foreign: or *; ",
		"keys: [{name: a, active: x, open_only: [y]}]":                                                           "c.yaml:1: keys[0].active: is not a key URI; write awskms://<key id, ARN or alias>?region=<region>, ",
		"grants: [{from: a}]":                     "c.yaml:1: grants[0]: from (the namespace that sealed) and to (the namespace that may open) are required",
		"realm: a/b":                              "c.yaml:1: realm: must have at most 64 bytes and no /, which separates realm and namespace in envelopes",
		"namespaces: [{name: a}]":                 "c.yaml:1: namespaces[0]",
		"namespaces: [{name: a, sealed_as: b/c}]": "c.yaml:1: namespaces[0].sealed_as: must not contain a /, which separates realm and namespace in envelopes",
		"namespaces: [{name: a, sealed_as: b}, {name: a, sealed_as: c}]":                    "c.yaml:1: namespaces[1].name: \"a\" has another entry above;",
		"namespaces: [{name: a-*, sealed_as: b}]":                                           "c.yaml:1: namespaces[0]: must name one namespace; patterns with * are not allowed here",
		"key_store: {url: 'mysql://x', id: 0123456789abcdef0123456789abcdef}":               "c.yaml:1: key_store.url: is not a key store",
		"key_store: {url: 'sqlite:x', id: abc}":                                             "c.yaml:1: key_store.id: is not the id of a key store;",
		"keys: [{name: default, active: 'local:x', envelope: reference}]":                   "c.yaml:1: keys[0].envelope: envelopes by reference require a key store;",
		"keys: [{name: default, active: 'local:x', envelope: short}]":                       "c.yaml:1: keys[0].envelope: must be self-contained or reference, not \"short\"",
		"revoked_data_keys: [ab]":                                                           "c.yaml:1: revoked_data_keys[0]: is not the id of a data key; write 32 hex digits, as `temporal-seal keys list` prints them",
		"data_key_life: 1s":                                                                 "c.yaml:1: data_key_life: must be from 10s to 720h, not 1s;",
		"foreign: [{namespaces: [a]}]":                                                      `c.yaml:1: foreign[0].format: must be one of samples, temporal-sa, temporal-proxy, zlib, snappy or gzip, not ""`,
		"foreign: [{format: zlib, kms: a}]":                                                 "c.yaml:1: foreign[0]: namespaces is required: those in which payloads of this format are opened\nc.yaml:1: foreign[0].kms: the formats temporal-sa and temporal-proxy require it, and no other format has it: the KMS key that wrapped their data keys, awskms://...",
		"foreign: [{format: temporal-proxy, namespaces: [a], kms: a, sealed_as: b}]":        "c.yaml:1: foreign[0].kms: is not the key of another tool; write the awskms://, gcpkms:// or azurekeyvault:// URI that the tool has, or plugin://<name>/<key>?address=<address>\nc.yaml:1: foreign[0].sealed_as: applies to the format temporal-sa alone; ",
		"foreign: [{format: samples, namespaces: [a]}]":                                     "c.yaml:1: foreign[0].keys: the format samples requires keys: [{id: <as in the payloads>, file: <path>}]; ",
		"foreign: [{format: samples, namespaces: [a], keys: [{}]}]":                         "c.yaml:1: foreign[0].keys[0]: file is required: the path of the file that contains the key",
		"foreign: [{format: samples, namespaces: [a], keys: [{file: x}]}]":                  "c.yaml:1: foreign[0].keys[0].file: x holds 6 bytes; an AES key has 16, 24 or 32 ",
		"foreign: [{format: samples, namespaces: [a], keys: [{file: x, encoding: hex}]}]":   "c.yaml:1: foreign[0].keys[0].file: x does not hold hex",
		"foreign: [{format: samples, namespaces: [a], keys: [{file: x, encoding: rot13}]}]": "c.yaml:1: foreign[0].keys[0].file: encoding is base64 or hex, or left out for a file that holds the key's own bytes; not \"rot13\"",
		// The rest.
		"policy: {file: y}":                                  "c.yaml:1: policy.file: y cannot be read: no such file or directory",
		"policy: {file: x, bundle: {}}":                      "c.yaml:1: policy.bundle: a bundle contains the whole policy; remove file and namespaces, or remove the bundle\nc.yaml:1: policy.bundle: url is required: the address of the bundle",
		"policy: {bundle: {url: a, token_file: y}}":          "c.yaml:1: policy.bundle.token_file: y cannot be read: no such file or directory",
		"unknown_fields: some":                               `c.yaml:1: unknown_fields: must be lenient or strict, not "some"`,
		"admin: a":                                           `c.yaml:1: admin: "a" is not an address; write host:port`,
		"drain: {after: client}":                             `c.yaml:1: drain.after: must be worker, not "client"`,
		"limits: {bytes: 1}":                                 "c.yaml:1: limits.bytes: must be at least 16777216, to hold the largest messages of Temporal",
		"limits: {connection_age: 1m}":                       "c.yaml:1: limits.connection_age: must be at least 6m0s, since polls take a minute and callers have to connect anew after it",
		"codec_server: {allowed_origins: ['https://*.a']}":   "c.yaml:1: codec_server.allowed_origins[0]: is not an origin; ",
		"codec_server: {allowed_origins: ['https://a:443']}": "c.yaml:1: codec_server.allowed_origins[0]: is not an origin; ",
		"codec_server: {address: '0.0.0.0:1'}":               "c.yaml:1: codec_server: 0.0.0.0:1 is reachable from other machines; ",
		"audit: {}":                                          "c.yaml:1: audit: set exactly one of file (a path or /dev/stdout) and otlp: true ",
		"audit: {otlp: true, wait: 6s}":                      "c.yaml:1: audit.wait: applies to required: true alone; add that, or remove wait\nc.yaml:1: audit.wait: must be at most 5s, since a call waits that long for its record",
		"audit: {file: y/z}":                                 "c.yaml:1: audit.file: y is not a directory;",
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
