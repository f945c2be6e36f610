package operator

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestCases(t *testing.T) {
	t.Parallel()
	scenario(t, "12.1", "a key set with a key of the type AKP and a good one", unknownKeyType)
	scenario(t, "12.2", "tokens with and without crit", criticalHeaders)
	scenario(t, "12.5", "a codec server's caller that names no namespace", emptyNamespace)
	scenario(t, "12.6", "modes of a key file", keyFileModes)
	scenario(t, "12.7", "a key by awskms:///", emptyHost)
	scenario(t, "12.8", "two upstreams with namespaces", systemInfoIsRouted)
}

// issuer signs tokens.
type issuer struct{ key *rsa.PrivateKey }

func encoded(v any) string {
	text, _ := json.Marshal(v)
	return base64.RawURLEncoding.EncodeToString(text)
}

// token signs claims that the listener of withJWT accepts, under a header.
func (i issuer) token(s *site, header map[string]any) string {
	s.Helper()
	signed := encoded(header) + "." + encoded(map[string]any{"iss": "https://issuer.example", "aud": "temporal", "sub": "alice",
		"exp": time.Now().Add(time.Hour).Unix()})
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, sum[:])
	s.ok(err)
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// withJWT starts a proxy for JWT callers, whose key set has an unknown key besides the issuer's.
func withJWT(s *site) (*proxy, issuer) {
	s.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	s.ok(err)
	n := base64.RawURLEncoding.EncodeToString(key.N.Bytes())
	e := base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes())
	s.write("jwks.json", fmt.Sprintf(`{"keys": [{"kty": "AKP", "kid": "pq", "alg": "ML-DSA-65", "use": "sig", "pub": "AAAA"},
		{"kty": "RSA", "kid": "good", "alg": "RS256", "use": "sig", "n": %q, "e": %q}]}`, n, e))
	return s.serve(`
listeners:
  - address: 127.0.0.1:0
    callers: {jwt: {issuer: "https://issuer.example", audience: temporal, jwks_file: "${dir}/jwks.json", namespaces: ["*"]}}
upstreams: [{address: "${temporal}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
`), issuer{key}
}

// describeWith calls with a token, and returns the code.
func describeWith(s *site, p *proxy, token string) codes.Code {
	ctx := metadata.AppendToOutgoingContext(s.Context(), "authorization", "Bearer "+token)
	return status.Code(describe(ctx, s.dial(p.address)))
}

func unknownKeyType(s *site) {
	p, by := withJWT(s)
	if code := describeWith(s, p, by.token(s, map[string]any{"alg": "RS256", "kid": "good"})); code != codes.OK {
		s.Errorf("a token of the good key gets %s", code)
	}
	s.contains("the log", p.log.String(), "keys of a key set are ignored", "AKP", "pq")
}

func criticalHeaders(s *site) {
	p, by := withJWT(s)
	for name, c := range map[string]struct {
		more map[string]any
		want codes.Code
	}{
		"no crit":           {nil, codes.OK},
		"an unknown one":    {map[string]any{"crit": []string{"http://example.com/UNDEFINED"}, "http://example.com/UNDEFINED": true}, codes.Unauthenticated},
		"one of the claims": {map[string]any{"crit": []string{"exp"}}, codes.Unauthenticated},
		"an empty list":     {map[string]any{"crit": []string{}}, codes.Unauthenticated},
		"null":              {map[string]any{"crit": nil}, codes.Unauthenticated},
	} {
		header := map[string]any{"alg": "RS256", "kid": "good"}
		for k, v := range c.more {
			header[k] = v
		}
		if code := describeWith(s, p, by.token(s, header)); code != c.want {
			s.Errorf("%s: %s, want %s", name, code, c.want)
		}
	}
}

func emptyNamespace(s *site) {
	p := s.serve(`
listeners: [{address: "127.0.0.1:0"}]
upstreams: [{address: "${temporal}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
codec_server: {address: "127.0.0.1:0", callers: {anonymous: {namespaces: ["*"]}}}
`)
	body := fmt.Sprintf(`{"payloads": [{"metadata": {"encoding": %q}, "data": %q}]}`,
		base64.StdEncoding.EncodeToString([]byte("json/plain")), base64.StdEncoding.EncodeToString([]byte(`"CANARY"`)))
	sealed := codecCall(s, p, "encode", "", body)
	s.lacks("what was encoded", sealed, base64.StdEncoding.EncodeToString([]byte(`"CANARY"`)))
	opened := codecCall(s, p, "decode", "default", sealed)
	s.contains("what was decoded in the namespace default", opened, base64.StdEncoding.EncodeToString([]byte(`"CANARY"`)))
}

// codecCall asks the codec server.
func codecCall(s *site, p *proxy, path, namespace, body string) string {
	s.Helper()
	q, err := http.NewRequestWithContext(s.Context(), http.MethodPost, "http://"+p.codec+"/"+path, strings.NewReader(body))
	s.ok(err)
	q.Header["X-Namespace"] = []string{namespace}
	q.Header.Set("Content-Type", "application/json")
	a, err := http.DefaultClient.Do(q)
	s.ok(err)
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	s.ok(err)
	s.want(a.StatusCode == http.StatusOK, "/%s answers %d: %s", path, a.StatusCode, text)
	return string(text)
}

func keyFileModes(s *site) {
	s.want(s.run("keys", "new", s.dir+"/own.key").code == 0, "no key file was made")
	config := s.write("modes.yaml", "keys: [{name: default, active: \"local:${dir}/own.key\"}]\nadmin: 127.0.0.1:0\n")
	for mode, accepted := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o440: true, 0o640: true, 0o444: false, 0o604: false, 0o602: false} {
		s.ok(os.Chmod(s.dir+"/own.key", mode))
		got := s.run("check", "--config", config)
		if (got.code == 0) != accepted {
			s.Errorf("mode %#o: check exits with %d: %s", mode, got.code, got.all())
		}
	}
}

func emptyHost(s *site) {
	id := s.kms.CreateKey(false)
	arn := id
	if !strings.HasPrefix(arn, "arn:") {
		arn = "arn:aws:kms:eu-central-1:" + "111122223333" + ":key/" + id
	}
	both := func(uri string) string {
		return strings.ReplaceAll(replica, "${key}", uri)
	}
	three := s.serve(both("awskms:///" + arn + "?${kms}"))
	id2 := s.copyTo("default", "", s.sealedIn(three, "default", "CANARY"))
	two := s.serve(both("awskms://" + arn + "?${kms}"))
	s.contains("the history by the other form", fmt.Sprint(s.history(two.address, "default", id2)), "CANARY")
}

func systemInfoIsRouted(s *site) {
	p := s.serve(`
listeners: [{address: "127.0.0.1:0"}]
upstreams:
  - {address: "${temporal}", namespaces: [orders]}
  - {address: "${frontend}", namespaces: [billing]}
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
`)
	c := s.raw(p.address)
	for namespace, own := range map[string]bool{"orders": true, "billing": false, "": true, "unknown": true} {
		ctx := s.Context()
		if namespace != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "temporal-namespace", namespace)
		}
		info, err := c.GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{})
		s.want(err == nil && (info.GetServerVersion() != "1.29.0") == own, "GetSystemInfo for %q: %v, %v", namespace, info, err)
	}
	_, err := c.ListNamespaces(s.Context(), &workflowservice.ListNamespacesRequest{})
	s.want(err != nil && strings.Contains(err.Error(), "names no namespace"), "a call without a namespace: %v", err)
}
