package snapshots

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// TestEveryKeyIsInAnExample compares the keys of the source with the examples: each struct with YAML keys has to be a
// mapping in which exactly its keys occur.
func TestEveryKeyIsInAnExample(t *testing.T) {
	known := map[string]bool{}
	for _, file := range []string{configExample, caseExample} {
		for _, keys := range mappings(readExamples(t, filepath.Join(snapshotDir(), file))) {
			known[strings.Join(keys, " ")] = true
		}
	}
	for _, s := range productSource(t).structs {
		if !known[strings.Join(s.keys, " ")] {
			t.Errorf("%s: no mapping of %s or %s has exactly these keys: add what is new there, remove what is gone: %v",
				s.where, configExample, caseExample, s.keys)
		}
	}
}

const (
	configExample = "config-full.yaml"
	caseExample   = "case-files-full.yaml"
)

// configName is the config's name in the program's folder. The program complains of a line by this name and a number.
const configName = "the-config.yaml"

// takeConfig checks the example of the config against the binary, and lists its keys.
func takeConfig(t *testing.T) []string {
	p := configFolder(t)
	examples := readExamples(t, filepath.Join(snapshotDir(), configExample))
	for i, e := range examples {
		c := configCheck{program: p, example: e, document: i}
		if !c.accepted(t) {
			continue // what follows would only repeat that
		}
		for _, keys := range e.byDepth() {
			c.misspelled(t, keys)
			c.wrongKinds(t, keys)
		}
		for _, k := range e.keys {
			if k.note.values != nil {
				c.closedSet(t, k)
			}
		}
	}
	if !t.Failed() {
		defaultsInHelp(t, p, examples[0])
		defaultsInLog(t, examples[0])
	}
	return facts(t, examples)
}

// configFolder holds the files that the example names, and a KMS.
func configFolder(t *testing.T) program {
	t.Helper()
	p := newProgram(t)
	p.env = append(p.env, startKMS(t).env...)
	certificate(t, p)
	p.write(t, "token", "secret")
	p.write(t, "rules.yaml", "rules: [{what: ward, names: [ward_name]}]\n")
	p.write(t, "codec.key", strings.Repeat("ab", 32))
	p.write(t, "good.rego", files["good.rego"])
	if err := os.Mkdir(filepath.Join(p.dir, "namespaces"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"seal.key", "other.key"} {
		if r := p.run(t, "keys", "new", key); r.code != 0 {
			t.Fatal(r.said())
		}
	}
	return p
}

// configCheck holds one document of the example against the binary.
type configCheck struct {
	program
	*example
	document int
}

// try gives the program the document with changed lines. It returns the complaints by line, from 0, and all output.
func (c configCheck) try(t *testing.T, changes map[int]string, flags ...string) (complaints map[int]string, r result) {
	t.Helper()
	c.write(t, configName, c.change(t, changes))
	if c.document > 0 {
		flags = append(flags, "--offline") // the services of these documents do not answer
	}
	r = c.run(t, append([]string{"check", "--config", configName, "--timeout", "2s"}, flags...)...)
	complaints = map[int]string{}
	for line := range strings.Lines(r.said()) {
		if strings.HasPrefix(line, "note: ") {
			continue // no complaint
		}
		_, rest, found := strings.Cut(line, configName+":")
		var n int
		if _, err := fmt.Sscanf(rest, "%d:", &n); found && err == nil {
			complaints[n-1] += line
		}
	}
	return complaints, r
}

// accepted reports whether the program takes the first document, and complains of no line of the others, whose services
// do not answer.
func (c configCheck) accepted(t *testing.T) bool {
	t.Helper()
	complaints, r := c.try(t, nil)
	if c.document == 0 && r.code != 0 {
		t.Errorf("%s: `temporal-seal check` refuses it:\n%s", configExample, r.said())
	}
	for line, said := range complaints {
		t.Errorf("%s, document %d: %q: %s", configExample, c.document+1, c.lines[line], said)
	}
	return len(complaints) == 0 && (c.document > 0 || r.code == 0)
}

// misspelled checks that each key is refused with a letter too many.
func (c configCheck) misspelled(t *testing.T, keys []exampleKey) {
	t.Helper()
	changes := map[int]string{}
	for _, k := range keys {
		changes[k.line] = k.name + "x: " + c.value(k)
		if c.value(k) == "" {
			changes[k.line] = k.name + "x: {}"
		}
	}
	complaints, r := c.try(t, changes)
	for _, k := range keys {
		if r.code == 0 || !strings.Contains(complaints[k.line], k.name+"x") {
			t.Errorf("%s: the misspelled key %sx is not refused: %s", k.path, k.name, r.said())
		}
	}
}

// wrongKinds checks that each key refuses values of other types.
func (c configCheck) wrongKinds(t *testing.T, keys []exampleKey) {
	t.Helper()
	for i := range 3 {
		changes := map[int]string{}
		for _, k := range keys {
			changes[k.line] = k.name + ": " + wrongValues[k.kind][i]
		}
		complaints, r := c.try(t, changes)
		for _, k := range keys {
			if r.code == 0 || complaints[k.line] == "" {
				t.Errorf("%s is a %s, and %s is not refused: %s", k.path, k.kind, wrongValues[k.kind][i], r.said())
			}
		}
	}
}

// closedSet checks that a key takes each of its values, and none besides.
func (c configCheck) closedSet(t *testing.T, k exampleKey) {
	t.Helper()
	for _, v := range k.note.values {
		v = strings.TrimSuffix(v, "...") // of the form of a URI
		complaints, r := c.try(t, map[int]string{k.line: fmt.Sprintf("%s: %q", k.name, v+uriRest(v))}, "--offline")
		if complaints[k.line] != "" {
			t.Errorf("%s: %q is refused: %s", k.path, v, r.said())
		}
		complaints, r = c.try(t, map[int]string{k.line: fmt.Sprintf("%s: %q", k.name, "x"+v)}, "--offline")
		if r.code == 0 || complaints[k.line] == "" && !strings.Contains(r.said(), `"x`+v) {
			t.Errorf("%s: %q is not refused: %s", k.path, "x"+v, r.said())
		}
	}
}

// uriRest completes the form of a key's URI.
func uriRest(v string) string {
	switch v {
	case "awskms://":
		return "alias/seal?region=eu-central-1"
	case "azurekeyvault://":
		return "seal.vault.azure.net/keys/seal"
	case "gcpkms://":
		return "projects/p/locations/l/keyRings/r/cryptoKeys/k"
	case "vault://":
		return "127.0.0.1:1/transit/seal"
	case "plugin://":
		return "main/seal?address=127.0.0.1:1"
	case "local:":
		return "seal.key"
	}
	return ""
}

// standard returns the default of a key, as the example has it.
func (e *example) standard(t *testing.T, path string) string {
	t.Helper()
	for _, k := range e.keys {
		if k.path == path && k.note.standard != "" {
			return k.note.standard
		}
	}
	t.Errorf("%s: %s has no default", configExample, path)
	return ""
}

// defaultsInHelp compares those defaults that the help shows too.
func defaultsInHelp(t *testing.T, p program, e *example) {
	t.Helper()
	help := p.run(t, "serve", "--help").stdout
	for _, path := range []string{"listeners[].address", "upstreams[].address", "keys[].active", "admin"} {
		if want := e.standard(t, path); !strings.Contains(help, "(default "+want+")") {
			t.Errorf("%s: the default in %s is %s, and not the one in the help:\n%s", path, configExample, want, help)
		}
	}
}

// defaultsInLog compares those defaults that a proxy logs when it starts and ends.
func defaultsInLog(t *testing.T, e *example) {
	t.Helper()
	proxy, _ := start(t, harness.ProxyOptions{Upstream: startUpstream(t).address})
	if err := proxy.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"drain.time", "limits.connection_age"} {
		want, err := time.ParseDuration(e.standard(t, path))
		if err != nil {
			t.Fatal(err)
		}
		if log := proxy.Log.String(); !strings.Contains(log, fmt.Sprintf("%q", want.String())) {
			t.Errorf("%s: the default in %s is %s, and not one in the log:\n%s", path, configExample, want, log)
		}
	}
}

// takeCaseFiles checks the example of a case file against the binary, and lists its keys.
func takeCaseFiles(t *testing.T) []string {
	p := newProgram(t)
	p.write(t, "policy.rego", `package temporal

request contains {"action": "seal", "key": "phi", "fields": ["/ward"]} if input.payload.kind == "input"

request contains {"action": "seal", "clear": ["/ward"]} if input.payload.kind == "signal"

request contains {"action": "seal", "key": "missing"} if input.payload.kind == "header"

response contains {"action": "deny", "reason": "not for you"}
`)
	p.write(t, "config.yaml", `keys: [{name: phi, active: "local:seal.key"}, {name: default, active: "local:seal.key"},
  {name: missing, active: "local:seal.key", namespaces: [elsewhere]}]
policy: {file: policy.rego}
`)
	if r := p.run(t, "keys", "new", "seal.key"); r.code != 0 {
		t.Fatal(r.said())
	}
	examples := readExamples(t, filepath.Join(snapshotDir(), caseExample))
	e := examples[0]
	tried := map[string]bool{}
	check := func(changes map[int]string) result {
		p.write(t, "cases.yaml", e.change(t, changes))
		return p.run(t, "check", "--config", "config.yaml", "--cases", "cases.yaml")
	}
	if r := check(nil); r.code != 0 {
		t.Errorf("%s: `temporal-seal check --cases` refuses it:\n%s", caseExample, r.said())
	}
	for _, k := range e.keys {
		free := strings.Contains(k.path, ".claims.") || strings.Contains(k.path, ".json.") // members that users name
		if tried[k.path] || free {
			continue
		}
		tried[k.path] = true
		value := e.value(k)
		if value == "" {
			value = "{}"
		}
		r := check(map[int]string{k.line: k.name + "x: " + value})
		if r.code == 0 || !strings.Contains(r.said(), k.name+"x") {
			t.Errorf("%s: the misspelled key %sx is not refused: %s", k.path, k.name, r.said())
		}
	}
	return facts(t, examples)
}

// certificate writes a self-signed certificate, its key, and a key set with the same key.
func certificate(t *testing.T, p program) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "seal"},
		NotAfter: time.Now().Add(100 * 24 * time.Hour), DNSNames: []string{"localhost"},
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	x, y := key.X.FillBytes(make([]byte, 32)), key.Y.FillBytes(make([]byte, 32))
	p.write(t, "jwks.json", fmt.Sprintf(`{"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "x": %q, "y": %q}]}`,
		base64.RawURLEncoding.EncodeToString(x), base64.RawURLEncoding.EncodeToString(y)))
	p.write(t, "tls.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	p.write(t, "tls.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}
