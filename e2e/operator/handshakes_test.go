package operator

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	grpctls "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/reflection"
)

// authority signs certificates.
type authority struct {
	site *site
	tls.Certificate
	pool *x509.CertPool
}

// newAuthority makes an authority, and writes its certificate to name.pem.
func (s *site) newAuthority(name string) *authority {
	s.Helper()
	a := &authority{site: s, pool: x509.NewCertPool()}
	a.Certificate = a.issue("", name, 24*time.Hour)
	a.pool.AddCert(a.Leaf)
	s.write(name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Leaf.Raw})))
	return a
}

// issue makes a certificate that is valid for a time from now on, or that has expired if that is negative. With a file name it
// writes file.crt and file.key.
func (a *authority) issue(file, name string, valid time.Duration) tls.Certificate {
	s := a.site
	s.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.ok(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(valid), DNSNames: []string{"localhost", name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: a.Leaf == nil,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	parent, signer := template, any(key)
	if a.Leaf != nil {
		parent, signer = a.Leaf, a.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	s.ok(err)
	leaf, err := x509.ParseCertificate(der)
	s.ok(err)
	if file != "" {
		private, err := x509.MarshalPKCS8PrivateKey(key)
		s.ok(err)
		s.write(file+".crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
		s.write(file+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// shake connects with TLS and waits for the server's answer to the handshake, whatever it is.
func (s *site) shake(address string, c *tls.Config) {
	s.Helper()
	conn, err := net.Dial("tcp", address)
	s.ok(err)
	defer conn.Close()
	client := tls.Client(conn, c)
	_ = client.SetDeadline(time.Now().Add(5 * time.Second))
	_ = client.Handshake()
	_, _ = client.Read(make([]byte, 1))
}

const behindTLS = `
listeners:
  - name: workers
    address: "127.0.0.1:0"
    tls: {cert_file: "${dir}/server.crt", key_file: "${dir}/server.key"}
    callers: {mtls: {ca_file: "${dir}/ca.pem", names: [{name: "*", namespaces: ["*"]}]}}
  - {name: inside, address: "127.0.0.1:0"}
codec_server:
  address: "127.0.0.1:0"
  tls: {cert_file: "${dir}/server.crt", key_file: "${dir}/server.key"}
  callers: {mtls: {ca_file: "${dir}/ca.pem", names: [{name: "*", namespaces: ["*"]}]}}
upstreams: [{address: "${frontend}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
`

func TestHandshakes(t *testing.T) {
	t.Parallel()
	both := func(id string) string {
		if id == "6.1" {
			return "each cause leaves a line for its listener, and one alone"
		}
		return "each cause counts for its listener"
	}
	for _, id := range []string{"6.1", "6.2"} {
		scenario(t, id, both(id), func(s *site) {
			ca, stranger := s.newAuthority("ca"), s.newAuthority("stranger")
			ca.issue("server", "proxy", time.Hour)
			p := s.serve(behindTLS)
			with := func(c ...tls.Certificate) *tls.Config {
				return &tls.Config{RootCAs: ca.pool, ServerName: "localhost", NextProtos: []string{"h2"},
					GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { // also one of another authority
						if len(c) == 0 {
							return new(tls.Certificate), nil
						}
						return &c[0], nil
					}}
			}
			distrusting := with(ca.issue("", "worker", time.Hour))
			distrusting.RootCAs = stranger.pool
			plaintext := func(address string) {
				conn, err := net.Dial("tcp", address)
				s.ok(err)
				defer conn.Close()
				_, err = io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
				s.ok(err)
				_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
				_, _ = conn.Read(make([]byte, 1))
			}
			failing := map[string]func(address string){
				"no_client_certificate": func(a string) { s.shake(a, with()) },
				"unknown_authority":     func(a string) { s.shake(a, with(stranger.issue("", "worker", time.Hour))) },
				"expired_certificate":   func(a string) { s.shake(a, with(ca.issue("", "worker", -time.Hour))) },
				"refused_by_caller":     func(a string) { s.shake(a, distrusting) },
				"plaintext_to_tls":      plaintext,
			}
			check := func(listener, cause string, times float64) {
				s.Helper()
				s.eventually(func() error {
					n, found := p.metric("temporal_seal_tls_handshakes_failed_total", "listener", listener, "cause", cause)
					if !found || n != times {
						return fmt.Errorf("%s at %s: %v counted, want %v", cause, listener, n, times)
					}
					return nil
				})
				n := p.logged("a TLS handshake failed", "listener", listener, "cause", cause)
				s.want(n == min(int(times), 1), "%s at %s: %d lines for %v failures", cause, listener, n, times)
			}
			for cause, fail := range failing {
				check("workers", cause, 0)
				fail(p.listeners[0])
				fail(p.listeners[0])
				fail(p.codec)
				check("workers", cause, 2)
				check("codec_server", cause, 1)
			}
			s.shake(p.listeners[1], with())
			check("inside", "tls_to_plaintext", 1)
			s.shake(p.admin, with())
			check("admin", "tls_to_plaintext", 1)
			line := p.awaitLog("a TLS handshake failed", "cause", "no_client_certificate", "listener", "workers")
			s.contains("the line", fmt.Sprint(line["reason"], line["address"]), "shows no client certificate", "ca_file", "127.0.0.1:")
		})
	}
}

func TestCertificatesExpire(t *testing.T) {
	t.Parallel()
	scenario(t, "6.3", "listeners, codec server, and both sides of an upstream's connection", func(s *site) {
		ca := s.newAuthority("ca")
		ca.issue("server", "proxy", 10*time.Hour)
		ca.issue("client", "proxy", 20*time.Hour)
		shown := ca.issue("", "frontend", 30*time.Hour)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		s.ok(err)
		frontend := grpc.NewServer(grpc.Creds(grpctls.NewTLS(&tls.Config{Certificates: []tls.Certificate{shown},
			ClientCAs: ca.pool, ClientAuth: tls.RequireAndVerifyClientCert})))
		reflection.Register(frontend)
		go func() { _ = frontend.Serve(l) }()
		s.Cleanup(frontend.Stop)
		p := s.serve(fmt.Sprintf(`
listeners: [{name: workers, address: "127.0.0.1:0", tls: {cert_file: "${dir}/server.crt", key_file: "${dir}/server.key"}}]
codec_server: {address: "127.0.0.1:0", tls: {cert_file: "${dir}/server.crt", key_file: "${dir}/server.key"}}
upstreams: [{address: "%s", tls: {ca_file: "${dir}/ca.pem", cert_file: "${dir}/client.crt", key_file: "${dir}/client.key"}}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
`, l.Addr()))
		about := func(role, name string, hours float64) {
			s.Helper()
			s.eventually(func() error {
				left, found := p.metric("temporal_seal_cert_expiry_seconds", "role", role, "name", name)
				if want := hours * 3600; !found || left > want || left < want-300 {
					return fmt.Errorf("%s %s expires in %v s (found: %v), want %v", role, name, left, found, want)
				}
				return nil
			})
		}
		about("listener", "workers", 10)
		about("listener", "codec_server", 10)
		about("upstream", l.Addr().String(), 30)
		about("upstream_client", l.Addr().String(), 20)
		ca.issue("server", "proxy", 40*time.Hour) // a renewed certificate counts without a restart
		about("listener", "workers", 40)
	})
}

func TestPrivateKeysOfEverybody(t *testing.T) {
	t.Parallel()
	const config = `
listeners: [{address: "127.0.0.1:0", tls: {cert_file: "${dir}/server.crt", key_file: "${dir}/server.key"}}]
upstreams: [{address: "${frontend}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
`
	scenario(t, "6.5", "at start and by check, and a group may read", func(s *site) {
		s.newAuthority("ca").issue("server", "proxy", time.Hour)
		file := s.write("tls.yaml", config)
		key := filepath.Join(s.dir, "server.key")
		s.ok(os.Chmod(key, 0o644))
		for _, command := range []string{"serve", "check"} {
			got := s.run(command, "--config", file)
			s.want(got.code == 1, "%s: exit code %d", command, got.code)
			s.contains(command, got.all(), "listeners[0]", "server.key can be read by everybody (mode 0644)", "chmod o= ")
		}
		s.ok(os.Chmod(key, 0o440))
		s.serve(config)
	})
	scenario(t, "6.5", "an upstream's client key", func(s *site) {
		ca := s.newAuthority("ca")
		ca.issue("client", "proxy", time.Hour)
		s.ok(os.Chmod(filepath.Join(s.dir, "client.key"), 0o604))
		got := s.run("check", "--config", s.write("upstream.yaml", `
upstreams: [{address: "temporal.example.com:7233", tls: {cert_file: "${dir}/client.crt", key_file: "${dir}/client.key"}}]
keys: [{name: default, active: "${key}"}]
`))
		s.want(got.code == 1, "exit code %d", got.code)
		s.contains("check", got.all(), "upstreams[0]", "client.key can be read by everybody")
	})
}
