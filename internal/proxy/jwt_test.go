package proxy

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
	"github.com/lestrrat-go/jwx/v3/jwt"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const testIssuer, testAudience = "https://login.example.com/", "temporal-seal"

// signer is an issuer with one key.
type signer struct {
	key   jwk.Key
	keyID string
}

func newSigner(t *testing.T, keyID string) *signer {
	t.Helper()
	key, err := jwk.Import(newKey(t))
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

func startJWT(t *testing.T, f *frontend, keys *KeySet) *proxied {
	t.Helper()
	startFrontend(t, f)
	identify, err := JWTs("tokens", JWT{Issuer: testIssuer, Audience: testAudience, Header: "authorization", NamespacesClaim: "ns", Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return startProxy(t, f, func(o *Options) {
		o.Listeners[0].Identify, o.Listeners[0].Credential = identify, "authorization"
	})
}

func TestJWTs(t *testing.T) {
	issuer, forger := newSigner(t, "k1"), newSigner(t, "k1")
	file := filepath.Join(t.TempDir(), "jwks.json")
	writeFile(t, file, string(keySetOf(t, issuer)))
	keys, err := KeySetFromFile(slog.New(slog.DiscardHandler), file)
	if err != nil {
		t.Fatal(err)
	}
	f := &frontend{}
	p := startJWT(t, f, keys)
	c := p.client(t)
	ctx := testContext(t)
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
		want  codes.Code
		text  string
	}{
		"good":             {good, codes.OK, ""},
		"good again":       {good, codes.OK, ""},
		"no token":         {"", codes.Unauthenticated, "wants one token"},
		"no JWT":           {"abc", codes.Unauthenticated, "no JWT"},
		"forged":           {forger.token(t, nil), codes.Unauthenticated, "signature"},
		"changed":          {parts[0] + "." + parts[1][:len(parts[1])-4] + "AAAA." + parts[2], codes.Unauthenticated, ""},
		"alg none":         {"eyJhbGciOiJub25lIn0." + parts[1] + ".", codes.Unauthenticated, "algorithm"},
		"alg HS256":        {string(confused), codes.Unauthenticated, "algorithm"},
		"unknown kid":      {newSigner(t, "k9").token(t, nil), codes.Unauthenticated, "signature"},
		"expired":          {issuer.token(t, map[string]any{"exp": time.Now().Add(-time.Minute)}), codes.Unauthenticated, "expired"},
		"without expiry":   {issuer.token(t, map[string]any{"exp": nil}), codes.Unauthenticated, "expiry"},
		"not yet":          {issuer.token(t, map[string]any{"nbf": time.Now().Add(time.Hour)}), codes.Unauthenticated, "not valid yet"},
		"other issuer":     {issuer.token(t, map[string]any{"iss": "https://evil/"}), codes.Unauthenticated, "another issuer"},
		"other audience":   {issuer.token(t, map[string]any{"aud": "else"}), codes.Unauthenticated, "another audience"},
		"other namespace":  {issuer.token(t, map[string]any{"ns": []string{"two"}}), codes.PermissionDenied, `"two"`},
		"star":             {issuer.token(t, map[string]any{"ns": []string{"*"}}), codes.PermissionDenied, "none"},
		"no namespaces":    {issuer.token(t, map[string]any{"ns": nil}), codes.PermissionDenied, "none"},
		"single namespace": {issuer.token(t, map[string]any{"ns": "one"}), codes.OK, ""},
	} {
		_, err := c.DescribeWorkflowExecution(callWith(ctx, "authorization", "Bearer "+token.value), &workflowservice.DescribeWorkflowExecutionRequest{Namespace: "one"})
		if got := status.Code(err); got != token.want || err != nil && !strings.Contains(err.Error(), token.text) {
			t.Errorf("%s: got %v, want %v with %q", name, err, token.want, token.text)
		}
	}
	if sent := f.lastMetadata(t)["authorization"]; len(sent) > 0 {
		t.Error("the token reached the upstream")
	}

	next := newSigner(t, "k2")
	writeFile(t, file, string(keySetOf(t, next)))
	time.Sleep(2*recheck + 100*time.Millisecond)
	if got := describeIn(callWith(ctx, "authorization", "Bearer "+next.token(t, nil)), c, "one"); got != codes.OK {
		t.Errorf("the rotated key: got %v", got)
	}
	if got := describeIn(callWith(ctx, "authorization", "Bearer "+good), c, "one"); got != codes.Unauthenticated {
		t.Errorf("the key that was taken back: got %v", got)
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
	c := startJWT(t, &frontend{}, keys).client(t)
	ctx := testContext(t)
	call := func(s *signer) codes.Code {
		return describeIn(callWith(ctx, "authorization", "Bearer "+s.token(t, nil)), c, "one")
	}
	if got := call(first); got != codes.Unavailable {
		t.Errorf("without keys: got %v, want Unavailable, which workers retry", got)
	}
	again := func() {
		keys.mu.Lock()
		keys.tried = time.Time{}
		keys.mu.Unlock()
	}
	body.Store(keySetOf(t, first))
	again()
	if got := call(first); got != codes.OK {
		t.Errorf("with keys: got %v", got)
	}
	body.Store(keySetOf(t, first, second))
	again()
	if got := call(second); got != codes.OK {
		t.Errorf("an unknown key id must be looked for at once: got %v", got)
	}
	before := fetches.Load()
	for range 20 {
		call(newSigner(t, "made-up"))
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
