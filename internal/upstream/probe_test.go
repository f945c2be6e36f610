package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

func TestProbeNamesTheUpstreamThatIsDown(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	err := Probe(ctx, []Config{{Address: "127.0.0.1:1"}})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	f := &frontend{}
	startFrontend(t, f)
	if err := Probe(testContext(t), []Config{{Address: f.address}, {Namespaces: []string{"*"}, Address: "{namespace}:1"}}); err != nil {
		t.Errorf("an upstream that answers: %v", err)
	}
}

// TestProbeAdvises asks real TLS servers in ways that they refuse.
func TestProbeAdvises(t *testing.T) {
	plain := &frontend{}
	startFrontend(t, plain)
	dir := t.TempDir()
	authority := writeAuthority(t, dir)
	secured := serveTLS(t, dir, tls.NoClientCert)
	exclusive := serveTLS(t, dir, tls.RequireAnyClientCert)
	for name, tt := range map[string]struct {
		address string
		tls     *TLS // nil: none
		want    string
	}{
		"TLS to a server without it": {plain.address, &TLS{CAFile: authority}, "remove tls from this upstream"},
		"no TLS to a server with it": {secured, nil, "add tls: {}"},
		"another authority":          {secured, &TLS{}, "set tls.ca_file"},
		"another name":               {secured, &TLS{CAFile: authority, ServerName: "elsewhere.example.com"}, "set tls.server_name"},
		"no client certificate":      {exclusive, &TLS{CAFile: authority}, "set tls.cert_file and tls.key_file"},
	} {
		t.Run(name, func(t *testing.T) {
			c := Config{Address: tt.address}
			if tt.tls != nil {
				with, err := tt.tls.Credentials(slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				c.TLS = with
			}
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			if err := Probe(ctx, []Config{c}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// writeAuthority writes a certificate for localhost that signs itself, and returns the path of the authority.
func writeAuthority(t *testing.T, dir string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	certificate, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: certificate}, "tls.key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "tls.crt")
}

// serveTLS serves gRPC with the certificate in a directory, and returns its address.
func serveTLS(t *testing.T, dir string, clients tls.ClientAuthType) string {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: clients})))
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}
