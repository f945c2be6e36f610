// Package readers reads the same values as different people through every API that there is: a history and a description by gRPC
// with an SDK's client, the codec server over HTTP, the Temporal CLI with --codec-endpoint, and the Web UI in a browser. The
// policy has one answer for all of them.
package readers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	if all.cases > 0 {
		fmt.Printf("readers: %d cases, %d as the policy says\n", all.cases, all.right)
	}
	os.Exit(code)
}

const workerToken = "worker-secret-of-some-length"

// bench is a Temporal server that stores ciphertext, the proxy before it, and all APIs.
type bench struct {
	*testing.T
	issuer *issuer
	server *peers.Process
	proxy  *harness.Proxy
	people string // address of the listener for people
	codec  string // URL of the codec server
	uiPort int
	dir    string

	ca      string // file of the authority that signed the codec server's certificate
	spki    string // hash of the codec server's key, by which a browser trusts it
	https   *http.Client
	workers client.Client // in namespace clinic
}

func start(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, issuer: newIssuer(t), dir: t.TempDir()}
	var err error
	if b.server, err = harness.StartTemporal(t.Context(), peers.TemporalOptions{Namespaces: []string{"clinic", "payroll"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.server.Stop() })
	ports, err := peers.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	b.uiPort = ports[0]
	cert, key := b.certificate()
	b.write("worker-token", []byte(workerToken))
	rules, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	config := b.write("config.yaml", fmt.Appendf(nil, `
listeners:
  - name: workers
    address: 127.0.0.1:0
    callers: {token: {tokens: [{subject: worker, file: %[1]q, namespaces: [clinic, payroll]}]}}
  - name: people
    address: 127.0.0.1:0
    callers: {jwt: {issuer: %[2]q, audience: %[3]s, jwks_url: "%[2]s/jwks.json", namespaces_claim: namespaces}}
codec_server:
  address: 127.0.0.1:0
  tls: {cert_file: %[4]q, key_file: %[5]q}
  allowed_origins: [%[6]q]
  callers: {jwt: {issuer: %[2]q, audience: %[3]s, jwks_url: "%[2]s/jwks.json", namespaces_claim: namespaces}}
upstreams: [{address: %[7]q}]
keys:
  - {name: phi, active: "local:%[8]s/phi.key"}
  - {name: default, active: "local:%[8]s/default.key"}
policy: {file: "%[9]s/policy.rego", namespaces: "%[9]s/namespaces"}
audit: {file: "%[8]s/audit.jsonl"}
admin: 127.0.0.1:0
drain: {time: 5s}
`, filepath.Join(b.dir, "worker-token"), b.issuer.URL, audience, cert, key, b.uiURL(), b.server.Address, b.dir, rules))
	if b.proxy, err = harness.StartProxy(t.Context(), harness.ProxyOptions{Dir: b.dir, Upstream: b.server.Address, Args: []string{"--config", config}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.proxy.Stop() })
	for _, line := range b.proxy.Log.Lines() {
		if line["msg"] == "serving" {
			_, b.people, _ = strings.Cut(fmt.Sprint(line["listen"]), ",")
			b.codec = "https://" + fmt.Sprint(line["codec_server"])
		}
	}
	b.workers = b.dial(b.proxy.Address, "clinic", workerToken)
	return b
}

func (b *bench) uiURL() string { return fmt.Sprintf("http://127.0.0.1:%d", b.uiPort) }

func (b *bench) write(name string, data []byte) string {
	b.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

// dial makes an SDK's client that shows a token, or none.
func (b *bench) dial(address, namespace, token string) client.Client {
	b.Helper()
	o := client.Options{HostPort: address, Namespace: namespace, Identity: "ward-3",
		Logger: sdklog.NewStructuredLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))}
	if token != "" {
		o.Credentials = client.NewAPIKeyStaticCredentials(token)
		o.ConnectionOptions.TLSDisabled = true
	}
	c, err := client.NewLazyClient(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	return c
}

// certificate makes that of the codec server, and whatever trusts it.
func (b *bench) certificate() (certFile, keyFile string) {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "codec server of a test"}, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		b.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		b.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	b.ca = b.write("tls.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	b.spki = base64.StdEncoding.EncodeToString(sum[:])
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	b.https = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	return b.ca, b.write("tls.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}
