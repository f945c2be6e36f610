package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
	"github.com/temporal-seal/temporal-seal/internal/x/filewatch"
)

func describeIn(ctx context.Context, c workflowservice.WorkflowServiceClient, namespace string) codes.Code {
	_, err := c.DescribeWorkflowExecution(ctx, &workflowservice.DescribeWorkflowExecutionRequest{Namespace: namespace})
	return status.Code(err)
}

func TestAnonymousListenerServesItsNamespacesOnly(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	p := startProxy(t, f, func(o *Options) {
		o.Listeners[0].Identify = auth.Anonymous("legacy", []string{"billing-*.a1", "one"})
	})
	c := p.client(t)
	ctx := testContext(t)
	for namespace, want := range map[string]codes.Code{
		"billing-eu.a1": codes.OK, "one": codes.OK, "billing-eu.b2": codes.PermissionDenied, "clinic": codes.PermissionDenied, "": codes.PermissionDenied,
	} {
		if got := describeIn(ctx, c, namespace); got != want {
			t.Errorf("namespace %q: got %v, want %v", namespace, got, want)
		}
	}
	if _, err := c.GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{}); err != nil {
		t.Errorf("a method that is about no namespace: %v", err)
	}
	if n := len(f.calls()); n != 3 {
		t.Errorf("%d calls were forwarded: %v", n, f.calls())
	}
}

func TestTokens(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	file := filepath.Join(t.TempDir(), "token")
	writeFile(t, file, "first-token\n")
	value, err := filewatch.Token(slog.New(slog.DiscardHandler), file)
	if err != nil {
		t.Fatal(err)
	}
	p := startProxy(t, f, func(o *Options) {
		o.Listeners[0].Credential = "authorization"
		o.Listeners[0].Identify = auth.Tokens("tokens", "authorization", []auth.Token{{Subject: "ci", Namespaces: []string{"one"}, Value: value}})
	})
	c := p.client(t)
	ctx := testContext(t)
	for token, want := range map[string]codes.Code{
		"Bearer first-token": codes.OK, "first-token": codes.OK, "bearer  first-token": codes.OK,
		"Bearer first-toke": codes.Unauthenticated, "": codes.Unauthenticated, "Bearer ": codes.Unauthenticated,
	} {
		if got := describeIn(callWith(ctx, "authorization", token), c, "one"); got != want {
			t.Errorf("%q: got %v, want %v", token, got, want)
		}
	}
	if got := describeIn(ctx, c, "one"); got != codes.Unauthenticated {
		t.Errorf("without a token: got %v", got)
	}
	if got := describeIn(callWith(ctx, "authorization", "first-token", "authorization", "x"), c, "one"); got != codes.Unauthenticated {
		t.Errorf("with two tokens: got %v", got)
	}
	if got := describeIn(callWith(ctx, "authorization", "first-token"), c, "two"); got != codes.PermissionDenied {
		t.Errorf("another namespace: got %v", got)
	}
	if sent := f.lastMetadata(t)["authorization"]; len(sent) > 0 {
		t.Errorf("the token reached the upstream")
	}
	if strings.Contains(p.log.String(), "first-token") {
		t.Error("the token is in the log")
	}
	writeFile(t, file, "second-token-longer")
	time.Sleep(filewatch.Recheck + 50*time.Millisecond)
	if got := describeIn(callWith(ctx, "authorization", "second-token-longer"), c, "one"); got != codes.OK {
		t.Errorf("the rotated token: got %v", got)
	}
	if got := describeIn(callWith(ctx, "authorization", "first-token"), c, "one"); got != codes.Unauthenticated {
		t.Errorf("the token before rotation: got %v", got)
	}
}

func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	ca.write(t, filepath.Join(dir, "ca.crt"))
	ca.issue(t, dir, "server", "localhost", "")
	ca.issue(t, dir, "worker", "", "spiffe://cluster/ns/billing")
	ca.issue(t, dir, "stranger", "", "spiffe://cluster/ns/other")
	newAuthority(t).issue(t, dir, "forged", "", "spiffe://cluster/ns/billing")
	f := &frontend{}
	startFrontend(t, f)
	config, err := filewatch.ServerTLS(slog.New(slog.DiscardHandler), filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"), filepath.Join(dir, "ca.crt"), "h2")
	if err != nil {
		t.Fatal(err)
	}
	p := startProxy(t, f, func(o *Options) {
		o.Listeners[0].TLS = config
		o.Listeners[0].Identify = auth.Certificates("mtls", []auth.Certificate{{Name: "spiffe://*/ns/billing", Namespaces: []string{"billing"}}})
	})
	as := func(name string) workflowservice.WorkflowServiceClient {
		config := &tls.Config{RootCAs: ca.pool(), ServerName: "localhost"}
		if name != "" {
			pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
			if err != nil {
				t.Fatal(err)
			}
			config.Certificates = []tls.Certificate{pair}
		}
		return p.client(t, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	}
	ctx := testContext(t)
	for name, want := range map[string]codes.Code{"worker": codes.OK, "stranger": codes.PermissionDenied, "forged": codes.Unavailable, "": codes.Unavailable} {
		if got := describeIn(ctx, as(name), "billing"); got != want {
			t.Errorf("certificate %q: got %v, want %v", name, got, want)
		}
	}
	if got := describeIn(ctx, as("worker"), "clinic"); got != codes.PermissionDenied {
		t.Errorf("another namespace: got %v", got)
	}
}

func TestUpstreamTLSWithAPIKey(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	ca.write(t, filepath.Join(dir, "ca.crt"))
	ca.issue(t, dir, "server", "localhost", "")
	writeFile(t, filepath.Join(dir, "key"), "the-api-key")
	log := slog.New(slog.DiscardHandler)
	server, err := filewatch.ServerTLS(log, filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"), "", "h2")
	if err != nil {
		t.Fatal(err)
	}
	f := &frontend{}
	startFrontend(t, f, grpc.Creds(credentials.NewTLS(server)))
	creds, err := upstream.TLS{CAFile: filepath.Join(dir, "ca.crt"), ServerName: "localhost"}.Credentials(log)
	if err != nil {
		t.Fatal(err)
	}
	key, err := upstream.NewAPIKey(log, filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	c := startProxy(t, f, func(o *Options) { o.Upstreams[0].TLS, o.Upstreams[0].APIKey = creds, key }).client(t)
	if got := describeIn(callWith(testContext(t), "authorization", "Bearer callers-own"), c, "one"); got != codes.OK {
		t.Fatalf("got %v", got)
	}
	up := f.lastMetadata(t)
	if got := strings.Join(up["authorization"], "|"); got != "Bearer the-api-key" {
		t.Errorf("the upstream got %q", got)
	}
	if got := strings.Join(up["temporal-namespace"], "|"); got != "one" {
		t.Errorf("temporal-namespace = %q", got)
	}

	plain := &frontend{}
	startFrontend(t, plain)
	c = startProxy(t, plain, func(o *Options) { o.Upstreams[0].APIKey = key }).client(t)
	if got := describeIn(testContext(t), c, "one"); got == codes.OK || len(plain.calls()) > 0 {
		t.Errorf("an API key was sent in clear: %v", got)
	}
}

func TestRotatedServerCertificate(t *testing.T) {
	dir := t.TempDir()
	first, second := newAuthority(t), newAuthority(t)
	first.issue(t, dir, "server", "localhost", "")
	config, err := filewatch.ServerTLS(slog.New(slog.DiscardHandler), filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"), "", "h2")
	if err != nil {
		t.Fatal(err)
	}
	f := &frontend{}
	startFrontend(t, f)
	p := startProxy(t, f, func(o *Options) { o.Listeners[0].TLS = config })
	trusting := func(a *authority) codes.Code {
		return describeIn(testContext(t), p.client(t, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: a.pool(), ServerName: "localhost"}))), "one")
	}
	if got := trusting(first); got != codes.OK {
		t.Fatalf("before: got %v", got)
	}
	second.issue(t, dir, "server", "localhost", "")
	time.Sleep(filewatch.Recheck + 50*time.Millisecond)
	if got := trusting(second); got != codes.OK {
		t.Errorf("after: got %v", got)
	}
	writeFile(t, filepath.Join(dir, "server.crt"), "half written")
	time.Sleep(filewatch.Recheck + 50*time.Millisecond)
	if got := trusting(second); got != codes.OK {
		t.Errorf("with a broken file: got %v, want the last good certificate", got)
	}
}

func writeFile(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// authority issues certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) write(t testing.TB, file string) {
	writeFile(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})))
}

func (a *authority) issue(t testing.TB, dir, name, dns, uri string) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	if dns != "" {
		template.DNSNames = []string{dns}
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
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, name+".crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, filepath.Join(dir, name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
}
