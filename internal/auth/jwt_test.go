package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
	"github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/temporal-seal/temporal-seal/internal/x/filewatch"
)

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const testIssuer, testAudience = "https://login.example.com/", "temporal-seal"

// signer is an issuer with one key.
type signer struct {
	key   jwk.Key
	keyID string
}

func newSigner(t *testing.T, keyID string) *signer {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := jwk.Import(private)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Set(jwk.KeyIDKey, keyID); err != nil {
		t.Fatal(err)
	}
	return &signer{key, keyID}
}

// keySetOf is the issuers' public keys as they are published.
func keySetOf(t *testing.T, signers ...*signer) []byte {
	t.Helper()
	set := jwk.NewSet()
	for _, s := range signers {
		public, err := s.key.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		if err := set.AddKey(public); err != nil {
			t.Fatal(err)
		}
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// token issues a token for namespace one, changed by claims. A nil claim is left out.
func (s *signer) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	all := map[string]any{"iss": testIssuer, "aud": testAudience, "sub": "ann", "exp": time.Now().Add(time.Hour), "ns": []string{"one"}}
	for k, v := range claims {
		all[k] = v
	}
	token := jwt.New()
	for k, v := range all {
		if v == nil {
			continue
		}
		if err := token.Set(k, v); err != nil {
			t.Fatal(err)
		}
	}
	signed, err := jwt.Sign(token, jwt.WithKey(jwa.ES256(), s.key))
	if err != nil {
		t.Fatal(err)
	}
	return string(signed)
}

// identifier takes testIssuer's tokens from the header "authorization".
func identifier(t *testing.T, keys *KeySet) func(token string) (*Identity, error) {
	t.Helper()
	identify, err := JWTs("tokens", JWT{Issuer: testIssuer, Audience: testAudience, Header: "authorization", NamespacesClaim: "ns", Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return func(token string) (*Identity, error) {
		return identify(Credentials{Headers: map[string][]string{"authorization": {"Bearer " + token}}, Wait: true})
	}
}

// reach returns what keeps the owner of a token from namespace one. ok: nothing does.
func reach(identify func(string) (*Identity, error), token string) (kind Kind, text string, ok bool) {
	id, err := identify(token)
	if err == nil {
		err = id.Authorize("one")
	}
	var refused *Refusal
	if errors.As(err, &refused) {
		return refused.Kind, refused.Error(), false
	}
	return 0, "", err == nil
}

func TestJWTs(t *testing.T) {
	issuer, forger := newSigner(t, "k1"), newSigner(t, "k1")
	file := filepath.Join(t.TempDir(), "jwks.json")
	writeFile(t, file, string(keySetOf(t, issuer)))
	keys, err := KeySetFromFile(slog.New(slog.DiscardHandler), file)
	if err != nil {
		t.Fatal(err)
	}
	identify := identifier(t, keys)
	good := issuer.token(t, nil)
	parts := strings.Split(good, ".")
	secret, err := jwk.Import(keySetOf(t, issuer)) // the classic: the public key as an HMAC secret
	if err != nil {
		t.Fatal(err)
	}
	if err := secret.Set(jwk.KeyIDKey, "k1"); err != nil {
		t.Fatal(err)
	}
	confused, err := jws.Sign([]byte(`{"iss":"`+testIssuer+`","aud":"`+testAudience+`","exp":9999999999,"ns":["one"]}`), jws.WithKey(jwa.HS256(), secret))
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]struct {
		value string
		want  Kind
		text  string // "": it is taken
	}{
		"good":             {good, 0, ""},
		"good again":       {good, 0, ""},
		"no token":         {"", Unauthenticated, "requires one token"},
		"not a JWT":        {"abc", Unauthenticated, "not a JWT"},
		"no base64":        {"!!.e30.c2ln", Unauthenticated, "not a JWT"},
		"too long":         {strings.Repeat("a", 20<<10), Unauthenticated, "longer"},
		"forged":           {forger.token(t, nil), Unauthenticated, "signature"},
		"changed":          {parts[0] + "." + parts[1][:len(parts[1])-4] + "AAAA." + parts[2], Unauthenticated, "signature"},
		"alg none":         {"eyJhbGciOiJub25lIn0." + parts[1] + ".", Unauthenticated, "algorithm"},
		"alg HS256":        {string(confused), Unauthenticated, "algorithm"},
		"unknown kid":      {newSigner(t, "k9").token(t, nil), Unauthenticated, "signature"},
		"expired":          {issuer.token(t, map[string]any{"exp": time.Now().Add(-time.Minute)}), Unauthenticated, "expired"},
		"without expiry":   {issuer.token(t, map[string]any{"exp": nil}), Unauthenticated, "expiry"},
		"not yet":          {issuer.token(t, map[string]any{"nbf": time.Now().Add(time.Hour)}), Unauthenticated, "not valid yet"},
		"other issuer":     {issuer.token(t, map[string]any{"iss": "https://evil/"}), Unauthenticated, "not the configured issuer"},
		"other audience":   {issuer.token(t, map[string]any{"aud": "else"}), Unauthenticated, "does not contain the configured audience"},
		"other namespace":  {issuer.token(t, map[string]any{"ns": []string{"two"}}), Forbidden, `"two"`},
		"star":             {issuer.token(t, map[string]any{"ns": []string{"*"}}), Forbidden, "none"},
		"no namespaces":    {issuer.token(t, map[string]any{"ns": nil}), Forbidden, "none"},
		"single namespace": {issuer.token(t, map[string]any{"ns": "one"}), 0, ""},
	} {
		kind, text, ok := reach(identify, token.value)
		if ok != (token.text == "") || kind != token.want || !strings.Contains(text, token.text) {
			t.Errorf("%s: got kind %v, %q, taken: %v; want kind %v with %q", name, kind, text, ok, token.want, token.text)
		}
		if token.value != "" && strings.Contains(text, token.value) {
			t.Errorf("%s: the refusal quotes the token", name)
		}
	}

	next := newSigner(t, "k2")
	writeFile(t, file, string(keySetOf(t, next)))
	time.Sleep(2*filewatch.Recheck + 100*time.Millisecond)
	if _, text, ok := reach(identify, next.token(t, nil)); !ok {
		t.Errorf("the rotated key: %s", text)
	}
	if kind, _, ok := reach(identify, good); ok || kind != Unauthenticated {
		t.Errorf("the key that was taken back: got kind %v, taken: %v", kind, ok)
	}
}

func TestJWKSByURL(t *testing.T) {
	first, second := newSigner(t, "k1"), newSigner(t, "k2")
	var body atomic.Value
	var fetches atomic.Int32
	body.Store([]byte("not there yet"))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetches.Add(1)
		w.Write(body.Load().([]byte))
	}))
	defer server.Close()
	keys := KeySetFromURL(slog.New(slog.DiscardHandler), server.URL)
	identify := identifier(t, keys)
	if kind, _, ok := reach(identify, first.token(t, nil)); ok || kind != Unavailable {
		t.Errorf("without keys: got kind %v, taken: %v; want Unavailable, which workers retry", kind, ok)
	}
	again := func() {
		keys.mu.Lock()
		keys.tried.Store(0)
		keys.mu.Unlock()
	}
	body.Store(keySetOf(t, first))
	again()
	if _, text, ok := reach(identify, first.token(t, nil)); !ok {
		t.Errorf("with keys: %s", text)
	}
	body.Store(keySetOf(t, first, second))
	again()
	if _, text, ok := reach(identify, second.token(t, nil)); !ok {
		t.Errorf("an unknown key id must be looked for at once: %s", text)
	}
	before := fetches.Load()
	for range 20 {
		reach(identify, newSigner(t, "made-up").token(t, nil))
	}
	if n := fetches.Load() - before; n > 1 {
		t.Errorf("20 made-up key ids made %d fetches", n)
	}
}

func TestJWTAlgorithms(t *testing.T) {
	for _, a := range []string{"HS256", "none", "RS1"} {
		if _, err := JWTs("x", JWT{Algorithms: []string{a}}); err == nil {
			t.Errorf("%s is allowed", a)
		}
	}
}

// TestWithoutWaiting: where nothing may be waited for, a token that needs a fetch is left to whoever may wait, and others
// are decided at once.
func TestWithoutWaiting(t *testing.T) {
	issuer := newSigner(t, "k1")
	var body atomic.Value
	body.Store(keySetOf(t, issuer))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(body.Load().([]byte))
	}))
	defer server.Close()
	keys := KeySetFromURL(slog.New(slog.DiscardHandler), server.URL)
	identify, err := JWTs("tokens", JWT{Issuer: testIssuer, Audience: testAudience, Header: "authorization", NamespacesClaim: "ns", Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	now := func(token string, wait bool) error {
		_, err := identify(Credentials{Headers: map[string][]string{"authorization": {"Bearer " + token}}, Wait: wait})
		return err
	}
	good, unknown := issuer.token(t, nil), newSigner(t, "made-up").token(t, nil)
	if err := now(good, false); !errors.Is(err, ErrWait) {
		t.Errorf("before the keys are fetched: %v", err)
	}
	if err := now(good, true); err != nil {
		t.Error(err)
	}
	if err := now(good, false); err != nil {
		t.Errorf("the keys are there: %v", err)
	}
	var refused *Refusal
	if err := now(unknown, false); !errors.As(err, &refused) {
		t.Errorf("an unknown key just after a fetch: %v", err)
	}
	keys.tried.Store(0)
	if err := now(unknown, false); !errors.Is(err, ErrWait) {
		t.Errorf("an unknown key, and a fetch is due: %v", err)
	}

	// Old keys are fetched again behind the scenes, and a large token is verified each time.
	large := issuer.token(t, map[string]any{"note": strings.Repeat("x", largeToken)})
	keys.age = time.Millisecond
	time.Sleep(2 * keys.age)
	before := keys.current.Load().fetched
	keys.tried.Store(0)
	for range 2 {
		if err := now(large, false); err != nil {
			t.Error(err)
		}
	}
	for end := time.Now().Add(5 * time.Second); !keys.current.Load().fetched.After(before); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("old keys are not fetched again")
		}
	}
}
