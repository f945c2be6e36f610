package vault

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// transit is a server that answers as Vault's documentation says, and fails as a test requires. What a real one does,
// e2e/vault sees.
type transit struct {
	mu      sync.Mutex
	status  int // 0: answer
	errors  []string
	token   string
	keyGone bool
	unbound bool
	kind    string
	calls   int
	header  http.Header
}

func (s *transit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	s.header = r.Header
	refuse := func(status int, errors ...string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": append([]string{}, errors...)})
	}
	answer := func(data any) { _ = json.NewEncoder(w).Encode(map[string]any{"data": data}) }
	known := r.Header.Get("X-Vault-Token") == s.token
	switch {
	case r.URL.Path == "/v1/auth/token/lookup-self" && known:
		answer(map[string]any{"display_name": "proxy"})
	case !known:
		refuse(http.StatusForbidden, "permission denied")
	case r.Method == http.MethodGet && r.URL.Path == "/v1/secret/transit/keys/phi":
		if s.keyGone {
			refuse(http.StatusNotFound)
			return
		}
		kind := s.kind
		if kind == "" {
			kind = "aes256-gcm96"
		}
		answer(map[string]any{"type": kind})
	case s.status != 0:
		refuse(s.status, s.errors...)
	case s.keyGone:
		refuse(http.StatusBadRequest, "encryption key not found")
	default:
		s.crypt(r, answer, refuse)
	}
}

func (s *transit) crypt(r *http.Request, answer func(any), refuse func(int, ...string)) {
	var in map[string]string
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		refuse(http.StatusBadRequest, "JSON")
		return
	}
	aad := in["associated_data"]
	if s.unbound {
		aad = ""
	}
	switch r.URL.Path {
	case "/v1/secret/transit/encrypt/phi":
		answer(map[string]any{"ciphertext": "vault:v1:" + aad + "|" + in["plaintext"]})
	case "/v1/secret/transit/decrypt/phi":
		bound, plain, ok := strings.Cut(strings.TrimPrefix(in["ciphertext"], "vault:v1:"), "|")
		if !ok || bound != aad {
			refuse(http.StatusBadRequest, "cipher: message authentication failed")
			return
		}
		answer(map[string]any{"plaintext": plain})
	default:
		refuse(http.StatusNotFound, "no handler for route")
	}
}

func (s *transit) set(change func(*transit)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func start(t *testing.T) (s *transit, uri string) {
	t.Helper()
	s = &transit{token: "s.CANARYTOKEN"}
	server := httptest.NewTLSServer(s)
	server.Config.ErrorLog = nil
	t.Cleanup(server.Close)
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	token := write("token", []byte(s.token+"\n"))
	return s, "vault://" + strings.TrimPrefix(server.URL, "https://") + "/secret/transit/phi?namespace=team&name=main&ca_file=" + ca + "&token_file=" + token
}

func open(t *testing.T, uri string) *Provider {
	t.Helper()
	p, err := Open(context.Background(), uri)
	if err != nil {
		t.Fatal(err)
	}
	return p.(*Provider)
}

// TestReloadsShareConnections: a key that is opened again takes the same client, unless other authorities are trusted.
func TestReloadsShareConnections(t *testing.T) {
	_, uri := start(t)
	first := open(t, uri)
	if again := open(t, uri); again.client != first.client {
		t.Error("the same key opened again has connections of its own")
	}
	loc := first.loc
	loc.authority = ""
	if other, err := loc.httpClient(); err != nil || other == first.client {
		t.Errorf("the system's authorities, and connections that trusted others (%v)", err)
	}
}

var clinic = crypto.KeyContext{Namespace: "clinic", Key: "phi"}

func TestDataKeys(t *testing.T) {
	s, uri := start(t)
	p := open(t, uri)
	if want := crypto.NewKEKRef("vault", "main:secret/transit/phi"); p.Ref() != want || p.URI() != uri {
		t.Errorf("ref %s, want %s", p.Ref(), want)
	}
	plain, wrapped, err := p.GenerateDataKey(context.Background(), clinic)
	if err != nil || len(plain) != 32 || len(wrapped) > 1024 {
		t.Fatal(len(plain), len(wrapped), err)
	}
	if got, err := p.UnwrapDataKey(context.Background(), wrapped, clinic); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("unwrapped %v", err)
	}
	for name, kc := range map[string]crypto.KeyContext{"namespace": {Namespace: "billing", Key: "phi"}, "key": {Namespace: "clinic", Key: "default"}} {
		if _, err := p.UnwrapDataKey(context.Background(), wrapped, kc); crypto.KindOf(err) != crypto.KindRejected {
			t.Errorf("another %s: %v", name, err)
		}
	}
	if got := s.header.Get("X-Vault-Namespace"); got != "team" {
		t.Errorf("Vault namespace %q", got)
	}
}

// TestFailures is the table of what each answer means. No error holds the token.
func TestFailures(t *testing.T) {
	s, uri := start(t)
	p := open(t, uri)
	_, wrapped, err := p.GenerateDataKey(context.Background(), clinic)
	if err != nil {
		t.Fatal(err)
	}
	answers := func(status int, text ...string) func(*transit) {
		return func(s *transit) { s.status, s.errors = status, text }
	}
	for name, c := range map[string]struct {
		change       func(*transit)
		seal, unwrap crypto.Kind
		calls        int // of one attempt to unwrap
	}{
		"permission withdrawn": {answers(403, "permission denied"), crypto.KindDenied, crypto.KindDenied, 2},
		"token expired":        {func(s *transit) { s.token = "s.OTHER" }, crypto.KindUnavailable, crypto.KindUnavailable, 2},
		"key deleted":          {func(s *transit) { s.keyGone = true }, crypto.KindRevoked, crypto.KindRevoked, 2},
		"foreign ciphertext":   {answers(400, "invalid ciphertext: no prefix"), crypto.KindNotConfigured, crypto.KindRejected, 2},
		"sealed":               {answers(503, "Vault is sealed"), crypto.KindUnavailable, crypto.KindUnavailable, attempts},
		"internal error":       {answers(500, "1 error occurred"), crypto.KindUnavailable, crypto.KindUnavailable, attempts},
		"rate limit":           {answers(429), crypto.KindUnavailable, crypto.KindUnavailable, attempts},
		"a standby redirects":  {answers(307), crypto.KindUnavailable, crypto.KindUnavailable, 1},
		"no such mount":        {answers(404, "no handler for route"), crypto.KindUnavailable, crypto.KindUnavailable, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s.set(func(s *transit) {
				s.status, s.errors, s.keyGone, s.token = 0, nil, false, "s.CANARYTOKEN"
				c.change(s)
				s.calls = 0
			})
			_, err := p.UnwrapDataKey(context.Background(), wrapped, clinic)
			if crypto.KindOf(err) != c.unwrap || s.calls != c.calls {
				t.Errorf("unwrap: kind %v after %d calls, want %v after %d: %v", crypto.KindOf(err), s.calls, c.unwrap, c.calls, err)
			}
			_, _, sealErr := p.GenerateDataKey(context.Background(), clinic)
			if crypto.KindOf(sealErr) != c.seal {
				t.Errorf("generate: %v", sealErr)
			}
			if text := errors.Join(err, sealErr).Error(); strings.Contains(text, "CANARY") {
				t.Errorf("the error has the token: %s", text)
			}
		})
	}
	s.set(func(s *transit) { s.status, s.keyGone, s.token = 0, false, "s.CANARYTOKEN" })
	if _, err := p.UnwrapDataKey(context.Background(), wrapped, clinic); err != nil {
		t.Errorf("back again: %v", err)
	}
}

func TestOpenIsCareful(t *testing.T) {
	s, uri := start(t)
	refused := func(name, uri string, want crypto.Kind, text string, change func(*transit)) {
		t.Helper()
		s.set(func(s *transit) { s.keyGone, s.unbound, s.kind = false, false, ""; change(s) })
		_, err := Open(context.Background(), uri)
		if crypto.KindOf(err) != want || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: %v", name, err)
		}
	}
	nothing := func(*transit) {}
	refused("a server that binds nothing", uri, crypto.KindNotConfigured, "associated_data", func(s *transit) { s.unbound = true })
	refused("no such key", uri, crypto.KindNotConfigured, "vault write -f secret/transit/keys/phi", func(s *transit) { s.keyGone = true })
	refused("a signing key", uri, crypto.KindNotConfigured, "ed25519", func(s *transit) { s.kind = "ed25519" })
	refused("no token", strings.Split(uri, "&token_file")[0], crypto.KindUnavailable, "denied", nothing)
	refused("no such token file", strings.Split(uri, "&token_file")[0]+"&token_file=gone", crypto.KindUnavailable, "token_file", nothing)
	refused("another authority", strings.Replace(uri, "ca_file=", "ca_file=gone", 1), crypto.KindNotConfigured, "ca_file", nothing)
	refused("the system's authorities", strings.Replace(uri, "&ca_file=", "&name2=", 1), crypto.KindNotConfigured, "name2", nothing)
	for _, bad := range []string{"vault://", "vault://host", "vault://host/key", "vault://host/mount/", "vault://host/a/../b", "vault://host:8200/m/k?tls=off",
		"vault://host/m/k?tls=on", "vault://host/m/k?token=s.CANARY", "vault://u:CANARY@host/m/k", "vault://host/m/k?name=", "vault://host/m/k?name=a&name=b"} {
		if _, err := Open(context.Background(), bad); crypto.KindOf(err) != crypto.KindNotConfigured {
			t.Errorf("%s: %v", bad, err)
		} else if strings.Contains(bad, "u:CANARY") && strings.Contains(err.Error(), "CANARY") {
			t.Errorf("the error has the password: %v", err)
		}
	}
	if loc, err := parseURI("vault://127.0.0.1:8200/m/k?tls=off"); err != nil || loc.base != "http://127.0.0.1:8200" {
		t.Errorf("%+v, %v", loc, err)
	}
}

// TestTokenIsReadAnew: an agent replaces the token in its file.
func TestTokenIsReadAnew(t *testing.T) {
	s, uri := start(t)
	p := open(t, uri)
	s.set(func(s *transit) { s.token = "s.next" })
	if _, _, err := p.GenerateDataKey(context.Background(), clinic); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Fatalf("with the old token: %v", err)
	}
	if err := os.WriteFile(p.loc.tokenFile, []byte("s.next"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.GenerateDataKey(context.Background(), clinic); err != nil {
		t.Errorf("with the new one: %v", err)
	}
}

// TestNotAVault: whatever else answers is no reason to drop a key.
func TestNotAVault(t *testing.T) {
	for name, body := range map[string]string{"a page": "<html>", "another API": `{"ok":true}`, "a short key": `{"data":{"plaintext":"` + base64.StdEncoding.EncodeToString([]byte("short")) + `"}}`} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		loc, err := parseURI("vault://" + strings.TrimPrefix(server.URL, "http://") + "/m/k?tls=off")
		if err != nil {
			t.Fatal(err)
		}
		p := &Provider{loc: loc, client: server.Client()}
		if _, _, err := p.GenerateDataKey(context.Background(), clinic); crypto.KindOf(err) != crypto.KindUnavailable {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := p.UnwrapDataKey(context.Background(), []byte("x"), clinic); err == nil {
			t.Errorf("%s: unwrapped %d bytes", name, len(got))
		}
		server.Close()
	}
}
