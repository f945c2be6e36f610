package readers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"
)

// person is somebody who logs in.
type person struct {
	name       string
	groups     []string
	namespaces []string
}

const audience = "temporal-seal"

// issuer is a login service: it signs tokens, publishes its keys, and speaks as much OpenID Connect as Temporal's Web UI needs.
type issuer struct {
	*httptest.Server
	mu     sync.Mutex
	key    signingKey
	user   person // who logs in next
	nonces map[string]login
}

type login struct {
	nonce string
	user  person
}

type signingKey struct {
	id  string
	key *ecdsa.PrivateKey
}

func newSigningKey(t *testing.T, id string) signingKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signingKey{id, key}
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{key: newSigningKey(t, "k1"), nonces: map[string]login{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", i.discovery)
	mux.HandleFunc("GET /jwks.json", i.keys)
	mux.HandleFunc("GET /authorize", i.authorize)
	mux.HandleFunc("POST /token", i.exchange)
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

// rotate signs with another key from now on. The one before is no longer published.
func (i *issuer) rotate(to signingKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.key = to
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (i *issuer) discovery(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{
		"issuer": i.URL, "authorization_endpoint": i.URL + "/authorize", "token_endpoint": i.URL + "/token", "jwks_uri": i.URL + "/jwks.json",
		"id_token_signing_alg_values_supported": []string{"ES256"}, "response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
	})
}

func (i *issuer) keys(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	public, err := i.key.key.PublicKey.Bytes()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, map[string]any{"keys": []any{map[string]any{"kty": "EC", "crv": "P-256", "kid": i.key.id, "alg": "ES256", "use": "sig",
		"x": encode(public[1:33]), "y": encode(public[33:])}}})
}

// authorize logs the next user in without a question, and sends the browser back.
func (i *issuer) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	code := rand.Text()
	i.mu.Lock()
	i.nonces[code] = login{q.Get("nonce"), i.user}
	i.mu.Unlock()
	back, err := url.Parse(q.Get("redirect_uri"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	back.RawQuery = url.Values{"code": {code}, "state": {q.Get("state")}}.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

func (i *issuer) exchange(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	l, ok := i.nonces[r.FormValue("code")]
	delete(i.nonces, r.FormValue("code"))
	i.mu.Unlock()
	if !ok {
		http.Error(w, "unknown code", http.StatusBadRequest)
		return
	}
	writeJSON(w, map[string]any{"token_type": "Bearer", "expires_in": 3600,
		"access_token": i.token(l.user, nil),
		"id_token":     i.token(l.user, map[string]any{"aud": "temporal-ui", "nonce": l.nonce, "name": l.user.name, "email": l.user.name + "@example.com"})})
}

// token is a person's for the proxy, changed by claims.
func (i *issuer) token(p person, claims map[string]any) string {
	i.mu.Lock()
	key := i.key
	i.mu.Unlock()
	return signed(key, map[string]any{"alg": "ES256", "kid": key.id, "typ": "JWT"}, i.claims(p, claims))
}

func (i *issuer) claims(p person, claims map[string]any) map[string]any {
	now := time.Now()
	all := map[string]any{"iss": i.URL, "aud": audience, "sub": p.name, "groups": p.groups, "namespaces": p.namespaces,
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	maps.Copy(all, claims)
	return all
}

// signed makes a token, good or bad: of its own accord it checks nothing.
func signed(key signingKey, head, claims map[string]any) string {
	text := part(head) + "." + part(claims)
	switch head["alg"] {
	case "none":
		return text + "."
	case "HS256": // the public key as the secret
		public, err := key.key.PublicKey.Bytes()
		if err != nil {
			panic(err) // the key was made here
		}
		mac := hmac.New(sha256.New, public)
		mac.Write([]byte(text))
		return text + "." + encode(mac.Sum(nil))
	}
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key.key, sum[:])
	if err != nil {
		panic(err)
	}
	return text + "." + encode(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

func part(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("%v is no JSON", v))
	}
	return encode(text)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
