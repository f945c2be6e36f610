package policies

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const (
	vaultWorker = "spiffe://example.com/vault-worker"
	otherWorker = "spiffe://example.com/other"
)

// acceptSealed hands in what the server stores: a worker that seals for itself has it taken as it is, anybody else has
// it sealed once more, and so gets back what they sent.
func acceptSealed(t *testing.T, server *peers.Process) {
	ca := newAuthority(t)
	cert, key := ca.issue(t, "proxy", "", net.IPv4(127, 0, 0, 1))
	e := start(t, server, "accept-sealed", "vault", []string{"default"}, fmt.Sprintf(`  - address: 127.0.0.1:0
    tls: {cert_file: %q, key_file: %q}
    callers: {mtls: {ca_file: %q, names: [{name: "spiffe://example.com/*", namespaces: [vault]}]}}
`, cert, key, ca.file))
	sealing, other := client(t, e.proxy.Address, ca.client(t, vaultWorker)), client(t, e.proxy.Address, ca.client(t, otherWorker))

	secret := value("a secret")
	e.through = other
	e.start("first", "Any", secret)
	sealed := e.stored("first").input
	e.is("the input", sealed, "sealed with default", e.read("first").input, secret)

	e.through = sealing
	e.start("accepted", "Any", proto.Clone(sealed).(*commonpb.Payload))
	if stored := e.stored("accepted").input; !proto.Equal(stored, sealed) {
		t.Error("what the worker had sealed was not taken as it is")
	}
	e.is("what the worker had sealed", sealed, "sealed with default", e.read("accepted").input, secret)
	e.start("unsealed", "Any", secret)
	e.is("what the worker had not sealed", e.stored("unsealed").input, "sealed with default", e.read("unsealed").input, secret)

	e.through = other
	e.start("pasted", "Any", proto.Clone(sealed).(*commonpb.Payload))
	if got := e.read("pasted").input; !proto.Equal(got, sealed) {
		t.Errorf("a pasted ciphertext came back as %v", got)
	}
}

// readers reads one history as different people.
func readers(t *testing.T, server *peers.Process) {
	dir := t.TempDir()
	idp := newIssuer(t, dir)
	workerToken := filepath.Join(dir, "worker-token")
	writeFile(t, workerToken, []byte("worker-secret-of-some-length"))
	e := start(t, server, "readers", "claims", []string{"phi", "default"}, fmt.Sprintf(`  - name: workers
    address: 127.0.0.1:0
    callers: {token: {header: authorization, tokens: [{subject: worker, file: %q, namespaces: [claims]}]}}
  - name: people
    address: 127.0.0.1:0
    callers: {jwt: {issuer: "https://login.example.com/", audience: temporal-seal, jwks_file: %q, header: authorization, namespaces: [claims]}}
`, workerToken, idp.file))
	people := client(t, secondListener(t, e), nil)

	record := value("Jane Roe")
	request := e.request("claim", "Claim", record)
	request.Memo = &commonpb.Memo{Fields: map[string]*commonpb.Payload{"branch": value("north")}}
	worker := bearer(e.context(), "worker-secret-of-some-length")
	if _, err := e.through.StartWorkflowExecution(worker, request); err != nil {
		t.Fatal(err)
	}
	e.is("the claim, read by a worker", e.stored("claim").input, "sealed with phi", e.must(e.history(e.through, worker, "claim")).input, record)

	as := func(groups ...string) context.Context { return bearer(e.context(), idp.token(t, groups)) }
	if got := e.must(e.history(people, as("doctors"), "claim")).input; !proto.Equal(got, record) {
		t.Errorf("a doctor reads %v", got)
	}
	if got := e.must(e.history(people, as("support"), "claim")).input; string(got.GetData()) != `"[sealed]"` {
		t.Errorf("support staff read %v", got)
	}
	if got := e.must(e.history(people, as("auditors"), "claim")).input; form(got) != "sealed with phi" {
		t.Errorf("an auditor reads %v", got)
	}
	if _, err := e.history(people, bearer(e.context(), "worker-secret-of-some-length"), "claim"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a worker's token where people come in: %v", err)
	}
}

// secondListener finds the address of the second listener in the line that the proxy writes when it serves.
func secondListener(t *testing.T, e *example) string {
	t.Helper()
	for _, line := range e.proxy.Log.Lines() {
		if line["msg"] == "serving" {
			if addresses := strings.Split(fmt.Sprint(line["listen"]), ","); len(addresses) == 2 {
				return strings.TrimSpace(addresses[1])
			}
		}
	}
	t.Fatal("the proxy names no second listener")
	return ""
}

func writeFile(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{cert: cert, key: key, dir: t.TempDir()}
	a.file = filepath.Join(a.dir, "ca.pem")
	writeFile(t, a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

// issue writes a certificate and its key, for a URI or an address.
func (a *authority) issue(t *testing.T, name, uri string, ips ...net.IP) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: ips, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if uri != "" {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+"-key.pem")
	writeFile(t, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	writeFile(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	return certFile, keyFile
}

// client is the TLS config of a worker with a name.
func (a *authority) client(t *testing.T, uri string) *tls.Config {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(a.issue(t, filepath.Base(uri), uri))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool}
}

// issuer signs tokens, as a login service does.
type issuer struct {
	key  *rsa.PrivateKey
	file string // its public keys
}

func newIssuer(t *testing.T, dir string) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(map[string]any{"keys": []any{map[string]any{
		"kty": "RSA", "kid": "1", "alg": "RS256", "use": "sig",
		"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key, file: filepath.Join(dir, "jwks.json")}
	writeFile(t, i.file, set)
	return i
}

// token is a person's, who is in some groups.
func (i *issuer) token(t *testing.T, groups []string) string {
	t.Helper()
	part := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	text := part(map[string]any{"alg": "RS256", "kid": "1", "typ": "JWT"}) + "." + part(map[string]any{
		"iss": "https://login.example.com/", "aud": "temporal-seal", "sub": "someone", "groups": groups,
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	})
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}
