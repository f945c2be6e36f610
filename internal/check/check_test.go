package check_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/check"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
)

// folder is where a test writes the files of a config.
type folder struct {
	*testing.T
	dir string
}

func (f folder) write(name, text string) {
	f.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
		f.Fatal(err)
	}
}

// certificate writes name.crt, self-signed, and name.key.
func (f folder) certificate(name string, from, until time.Duration) {
	f.Helper()
	f.issue(name, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(until)})
}

// issue writes name.crt, self-signed, and name.key.
func (f folder) issue(name string, template *x509.Certificate) {
	f.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		f.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.Fatal(err)
	}
	f.write(name+".crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	f.write(name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

// TestCertificates checks what is said about certificates by their dates and keys.
func TestCertificates(t *testing.T) {
	const day = 24 * time.Hour
	f := folder{t, t.TempDir()}
	f.certificate("old", -2*day, -day)
	f.certificate("soon", -day, 2*day)
	f.certificate("young", day, 90*day)
	f.certificate("good", -day, 90*day)
	f.issue("authority", &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(90 * day), BasicConstraintsValid: true, IsCA: true})
	old, err := os.ReadFile(filepath.Join(f.dir, "old.crt"))
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(f.dir, "good.crt"))
	if err != nil {
		t.Fatal(err)
	}
	f.write("both.crt", string(old)+string(good))
	for name, tt := range map[string]struct {
		cert, key, authority string
		err, warning         string // part of it; "": none
	}{
		"good":                 {"good", "good", "good", "", ""},
		"expired":              {"old", "old", "good", "listeners[0].tls.cert_file: DIR/old.crt: the certificate expired on ", ""},
		"not valid yet":        {"young", "young", "good", "the certificate is not valid before ", ""},
		"expires soon":         {"soon", "soon", "good", "", "the certificate expires on "},
		"another's key":        {"good", "old", "good", "listeners[0].tls: DIR/good.crt and DIR/old.key do not fit together", ""},
		"an expired authority": {"good", "good", "old", "callers.mtls.ca_file: DIR/old.crt: the authority CN=old expired on ", ""},
		"a server that is an authority": {"authority", "authority", "good", "",
			"listeners[0].tls.cert_file: DIR/authority.crt: the certificate is one of an authority (CA:TRUE)"},
		"an authority of callers": {"good", "good", "authority", "", ""},
		"one beside a valid one":  {"good", "good", "both", "", "authority CN=old expired on "},
	} {
		f.write("config.yaml", strings.NewReplacer("DIR", f.dir, "CERT", tt.cert, "KEY", tt.key, "CA", tt.authority).Replace(`
listeners:
  - address: 127.0.0.1:7333
    tls: {cert_file: DIR/CERT.crt, key_file: DIR/KEY.key}
    callers: {mtls: {ca_file: DIR/CA.crt, names: [{name: worker}]}}
keys: [{name: default, active: "awskms://alias/x?region=eu-central-1"}]
`))
		got := check.Run(t.Context(), check.Options{Flags: config.Flags{File: filepath.Join(f.dir, "config.yaml")}, Offline: true})
		for what, one := range map[string]struct {
			want string
			got  []string
		}{"errors": {tt.err, got.Errors}, "warnings": {tt.warning, got.Warnings}} {
			text, want := strings.Join(one.got, "\n"), strings.ReplaceAll(one.want, "DIR", f.dir)
			if (want == "") != (text == "") || !strings.Contains(text, want) {
				t.Errorf("%s: the %s are %q, want %q", name, what, text, want)
			}
		}
	}
}

// TestCandidates: the policy on trial is loaded against the names of the keys, and what is wrong with it is an error of its own.
func TestCandidates(t *testing.T) {
	f := folder{t, t.TempDir()}
	f.write("config.yaml", strings.ReplaceAll(`
listeners: [{address: 127.0.0.1:7333}]
keys: [{name: default, active: "awskms://alias/x?region=eu-central-1"}]
policy: {candidate: {file: DIR/candidate.rego}}
`, "DIR", f.dir))
	for name, tt := range map[string]struct{ rego, err, note string }{
		"good":             {"package temporal\n\nrequest contains {\"action\": \"seal\"}\n\nresponse contains {\"action\": \"open\"}\n", "", "policy.candidate: revision "},
		"another's syntax": {"package temporal\n\nrequest contains {\n", "policy.candidate: ", ""},
	} {
		f.write("candidate.rego", tt.rego)
		got := check.Run(t.Context(), check.Options{Flags: config.Flags{File: filepath.Join(f.dir, "config.yaml")}, Offline: true})
		errs, notes := strings.Join(got.Errors, "\n"), strings.Join(got.Notes, "\n")
		if (tt.err == "") != (errs == "") || !strings.Contains(errs, tt.err) || !strings.Contains(notes, tt.note) {
			t.Errorf("%s: errors %q, notes %q", name, errs, notes)
		}
	}
}

// TestTemplatesAreAsked: of an upstream with a placeholder the addresses of the namespaces that the config names are asked.
func TestTemplatesAreAsked(t *testing.T) {
	f := folder{t, t.TempDir()}
	f.write("config.yaml", `
listeners: [{address: 127.0.0.1:7333, callers: {anonymous: {namespaces: [team-a]}}}]
upstreams: [{address: "{namespace}.frontend.invalid:1"}]
keys: [{name: default, active: "awskms://alias/x?region=eu-central-1&endpoint=http://127.0.0.1:1"}]
`)
	got := check.Run(t.Context(), check.Options{Flags: config.Flags{File: filepath.Join(f.dir, "config.yaml")}, Connect: true, Timeout: 2 * time.Second})
	if text := strings.Join(got.Errors, "\n"); !strings.Contains(text, "team-a.frontend.invalid:1") {
		t.Errorf("the errors are %q", text)
	}
}

// TestKeyStore requires that the key store is opened, and that it is the one that the config names.
func TestKeyStore(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "keys.db")
	id, _, err := keystore.Init(t.Context(), "sqlite:"+file)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("ab", 16)
	heldID, _, err := keystore.Init(t.Context(), "sqlite:"+filepath.Join(dir, "held.db"))
	if err != nil {
		t.Fatal(err)
	}
	held, err := keystore.New("sqlite:"+filepath.Join(dir, "held.db"), heldID)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	row := crypto.KeyRow{ID: crypto.KeyID{1}, KEK: crypto.KEKRef{1}, Wrapped: []byte("wrapped"), Context: crypto.KeyContext{Namespace: "clinic", Key: "default"}}
	if err := held.Put(t.Context(), row); err != nil { // a transaction takes the file's lock for good, as in a proxy that runs
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		url, id string
		offline bool
		text    string // of the section
		err     string
		note    string
	}{
		"its own":            {url: "sqlite:" + file, id: id, text: "sqlite " + id},
		"another":            {url: "sqlite:" + file, id: other, err: "key_store.id: open key store: the database contains the key store " + id},
		"not there":          {url: "sqlite:" + filepath.Join(dir, "none.db"), id: other, err: "key_store.url: open key store: sqlite: open "},
		"in use":             {url: "sqlite:" + filepath.Join(dir, "held.db"), id: heldID, text: "in use by another process", note: "a proxy that runs has it to itself"},
		"offline":            {url: "sqlite:" + filepath.Join(dir, "none.db"), id: other, offline: true, text: "not opened"},
		"without TLS":        {url: "postgres://seal@db.example.com/seal?sslmode=disable", id: other, offline: true, err: "sslmode=verify-full"},
		"offline PostgreSQL": {url: "postgres://seal@db.example.com/seal?sslmode=verify-full", id: other, offline: true, text: "not called"},
		"out of reach":       {url: "postgres://seal@127.0.0.1:1/seal?sslmode=disable", id: other, err: "key_store.url: open key store: "},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.yaml")
			text := fmt.Sprintf("key_store: {url: %q, id: %q}\nkeys: [{name: default, active: %q}]\n", tc.url, tc.id, "local:"+filepath.Join(dir, "seal.key"))
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			result := check.Run(t.Context(), check.Options{Flags: config.Flags{File: file}, Offline: tc.offline, Timeout: 10 * time.Second})
			errors := strings.Join(result.Errors, "\n")
			if tc.err == "" && errors != "" || !strings.Contains(errors, tc.err) {
				t.Errorf("errors %q, and not %q", errors, tc.err)
			}
			i := slices.IndexFunc(result.Sections, func(s check.Section) bool { return s.Name == "store" })
			if i < 0 || tc.err == "" && result.Sections[i].Text != tc.text || result.Sections[i].OK != (tc.err == "") {
				t.Errorf("sections %+v, and not %q", result.Sections, tc.text)
			}
			if !strings.Contains(strings.Join(result.Notes, "\n"), tc.note) {
				t.Errorf("notes %q, and not %q", result.Notes, tc.note)
			}
		})
	}
}
