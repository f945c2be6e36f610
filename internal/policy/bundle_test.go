package policy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	opabundle "github.com/open-policy-agent/opa/v1/bundle"
)

// bundleServer serves one bundle with an ETag, as any web server would.
type bundleServer struct {
	*httptest.Server
	mu       sync.Mutex
	body     []byte
	status   int
	token    string // asked for where set
	fetched  int    // answered with a body
	notAnew  int    // answered with 304
	signWith *rsa.PrivateKey
}

func newBundleServer(t *testing.T) *bundleServer {
	t.Helper()
	s := &bundleServer{}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *bundleServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := sha256.Sum256(s.body)
	etag := `"` + hex.EncodeToString(sum[:8]) + `"`
	switch {
	case r.URL.Path != "/policies/temporal.tar.gz":
		http.NotFound(w, r)
	case s.token != "" && r.Header.Get("Authorization") != "Bearer "+s.token:
		w.WriteHeader(http.StatusUnauthorized)
	case s.status != 0:
		w.WriteHeader(s.status)
	case strings.Contains(r.Header.Get("If-None-Match"), etag):
		s.notAnew++
		w.WriteHeader(http.StatusNotModified)
	default:
		s.fetched++
		w.Header().Set("Etag", etag)
		_, _ = w.Write(s.body)
	}
}

func (s *bundleServer) counts() (fetched, notAnew int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetched, s.notAnew
}

func (s *bundleServer) answer(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// publish serves a bundle of these files, signed where the server has a key.
func (s *bundleServer) publish(t *testing.T, files map[string]string) {
	t.Helper()
	b := opabundle.Bundle{Data: map[string]any{}, Manifest: opabundle.Manifest{Revision: "r", Roots: &[]string{"temporal"}}}
	for name, text := range files {
		b.Modules = append(b.Modules, opabundle.ModuleFile{URL: name, Path: name, RelativePath: name, Raw: []byte(text)})
	}
	if s.signWith != nil {
		private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(s.signWith)})
		if err := b.GenerateSignature(opabundle.NewSigningConfig(string(private), "RS256", ""), "key-of-ours", false); err != nil {
			t.Fatal(err)
		}
	}
	var buf bytes.Buffer
	if err := opabundle.NewWriter(&buf).DisableFormat(true).Write(b); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.body, s.status = buf.Bytes(), 0
}

func (s *bundleServer) options(t *testing.T) Options {
	t.Helper()
	return Options{Bundle: &Bundle{URL: s.URL + "/policies/temporal.tar.gz", Folder: filepath.Join(t.TempDir(), "kept"), Poll: time.Second, Wait: 5 * time.Second}}
}

func TestBundle(t *testing.T) {
	t.Parallel()
	s := newBundleServer(t)
	s.publish(t, map[string]string{"policy.rego": passing, "teams/other-name.rego": "package temporal.namespaces.team\n", "policy_test.rego": broken[:17]})
	opts := s.options(t)
	e := watched(t, opts)
	first, _ := e.Status()
	if a := e.action(t); a != Pass || len(e.Current().Namespaces()) != 1 {
		t.Fatalf("at first: %s, rules for %v", a, e.Current().Namespaces())
	}
	eventually(t, "an unchanged bundle is asked for by its ETag", func() bool { _, n := s.counts(); return n > 0 })

	s.publish(t, map[string]string{"policy.rego": passing, "team.rego": "package temporal.namespaces.team\n\nrequest contains {\"action\": \"deny\"}\n"})
	eventually(t, "a new bundle is in force", func() bool { return e.action(t) == Deny })
	second, _ := e.Status()
	if second == first {
		t.Error("the revision is the same for another bundle")
	}

	for name, files := range map[string]map[string]string{
		"does not compile":      {"policy.rego": broken},
		"fails the dry run":     {"policy.rego": "package temporal\n\nrequest contains {\"action\": \"encrypt\"}\n"},
		"another package":       {"policy.rego": passing, "x.rego": "package temporal.more\n\nx := 1\n"},
		"two owners":            {"policy.rego": passing, "a.rego": "package temporal.namespaces.team\n", "b.rego": "package temporal.namespaces.team\n\nx := 1\n"},
		"no platform":           {"a.rego": "package temporal.namespaces.team\n"},
		"reads another's rules": {"policy.rego": passing, "a.rego": "package temporal.namespaces.a\n\nrequest contains v if some v in data.temporal.namespaces.b.request\n"},
	} {
		s.publish(t, files)
		eventually(t, name+" is reported", func() bool { _, err := e.Status(); return err != nil })
		if revision, err := e.Status(); revision != second || e.action(t) != Deny {
			t.Errorf("%s: revision %s is in force, error %v", name, revision, err)
		}
		s.publish(t, map[string]string{"policy.rego": passing, "team.rego": "package temporal.namespaces.team\n\nrequest contains {\"action\": \"deny\"}\n"})
		eventually(t, "all is well again after: "+name, func() bool { _, err := e.Status(); return err == nil })
	}
	s.publish(t, map[string]string{"policy.rego": "package temporal\n\nrequest contains {\"action\": \"encrypt\"}\n"})
	eventually(t, "a rule's fault is reported with its place", func() bool {
		_, err := e.Status()
		return err != nil && strings.Contains(err.Error(), "policy.rego:3: \"encrypt\" is not an action")
	})
	s.answer(http.StatusServiceUnavailable)
	eventually(t, "a failing server is reported", func() bool {
		_, err := e.Status()
		return err != nil && strings.Contains(err.Error(), "Service Unavailable")
	})
	if a := e.action(t); a != Deny {
		t.Errorf("without a server: %s", a)
	}

	// A start while the server is away, with a bad bundle as the last that it had served.
	again := watched(t, opts)
	if revision, _ := again.Status(); revision != second {
		t.Errorf("the bundle that was kept has revision %s, want %s", revision, second)
	}
}

func TestBundleSignature(t *testing.T) {
	t.Parallel()
	s := newBundleServer(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	opts := s.options(t)
	opts.Bundle.PublicKey = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	opts.Bundle.TokenFile = filepath.Join(t.TempDir(), "token")
	opts.Bundle.Wait = time.Second
	s.token = "t0ken"
	write(t, opts.Bundle.TokenFile, s.token)

	for name, by := range map[string]*rsa.PrivateKey{"unsigned": nil, "signed by a stranger": stranger} {
		s.signWith = by
		s.publish(t, map[string]string{"policy.rego": passing})
		if _, err := NewEngine(context.Background(), opts); err == nil {
			t.Errorf("%s: an engine started", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	s.signWith = key
	s.publish(t, map[string]string{"policy.rego": passing})
	opts.Bundle.Wait = 5 * time.Second
	e := watched(t, opts)
	if a := e.action(t); a != Pass {
		t.Fatalf("signed: %s", a)
	}
	s.signWith = stranger
	s.publish(t, map[string]string{"policy.rego": denying})
	eventually(t, "a stranger's bundle is reported", func() bool { _, err := e.Status(); return err != nil })
	if a := e.action(t); a != Pass {
		t.Errorf("a stranger's bundle is in force: %s", a)
	}
}

func TestBundleAtStart(t *testing.T) {
	s := newBundleServer(t)
	s.answer(http.StatusNotFound)
	opts := s.options(t)
	opts.Bundle.Wait = 500 * time.Millisecond
	for name, tt := range map[string]struct {
		change func(*Bundle)
		want   string
	}{
		"no bundle there":   {func(*Bundle) {}, "Not Found"},
		"no URL":            {func(b *Bundle) { b.URL = "policies" }, "not an http or https URL"},
		"neither encrypted": {func(b *Bundle) { b.URL = "http://policies.example.com/b.tar.gz" }, "not encrypted and the bundle is not signed"},
		"no such algorithm": {func(b *Bundle) { b.PublicKey, b.Algorithm = "k", "XX" }, "XX"},
	} {
		b := *opts.Bundle
		tt.change(&b)
		_, err := NewEngine(context.Background(), Options{Bundle: &b})
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	s.publish(t, map[string]string{"policy.rego": passing + "\nresponse contains {\"action\": \"keep\"}\n"})
	if r := Check(context.Background(), CheckOptions{Options: opts}); !r.OK() || r.Revision == "" {
		t.Errorf("check of a bundle: %v", r.Findings)
	}
	if _, err := os.Stat(opts.Bundle.Folder); !errors.Is(err, os.ErrNotExist) {
		entries, _ := filepath.Glob(filepath.Join(opts.Bundle.Folder, "bundles", "*", "*"))
		if len(entries) > 0 {
			t.Errorf("a check kept a bundle: %v", entries)
		}
	}
}
