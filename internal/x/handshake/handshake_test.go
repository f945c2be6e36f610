package handshake_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/x/handshake"
)

// issue makes a certificate that an authority signs, or one that signs itself.
func issue(t *testing.T, by *tls.Certificate, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: until, DNSNames: []string{"localhost"},
		IsCA: by == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	parent, signer := template, any(key)
	if by != nil {
		parent, signer = by.Leaf, by.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// TestCauses makes a caller fail in each way, at a server of package tls and at one of net/http.
func TestCauses(t *testing.T) {
	tomorrow := time.Now().Add(24 * time.Hour)
	authority := issue(t, nil, tomorrow)
	pool := x509.NewCertPool()
	pool.AddCert(authority.Leaf)
	server := &tls.Config{Certificates: []tls.Certificate{issue(t, &authority, tomorrow)}, MinVersion: tls.VersionTLS12,
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, NextProtos: []string{"h2"}}
	stranger := issue(t, nil, tomorrow)
	caller := func(c ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: c, NextProtos: []string{"h2"}}
	}
	over := func(c *tls.Config) func(net.Conn) {
		return func(conn net.Conn) {
			client := tls.Client(conn, c)
			_ = client.Handshake() // whether it fails here depends on the version
			_, _ = client.Read(make([]byte, 1))
		}
	}
	old := caller(issue(t, &authority, tomorrow))
	old.MaxVersion = tls.VersionTLS11
	old.MinVersion = tls.VersionTLS10
	suspicious := caller(issue(t, &authority, tomorrow))
	suspicious.RootCAs = x509.NewCertPool()
	for want, dial := range map[handshake.Cause]func(net.Conn){
		handshake.NoCertificate:    over(caller()),
		handshake.UnknownAuthority: over(caller(issue(t, &stranger, tomorrow))),
		handshake.Expired:          over(caller(issue(t, &authority, time.Now().Add(-24*time.Hour)))),
		handshake.Refused:          over(suspicious),
		handshake.Unsupported:      over(old),
		handshake.Plaintext:        func(conn net.Conn) { _, _ = io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") },
		handshake.Closed:           func(net.Conn) {},
	} {
		t.Run(string(want), func(t *testing.T) {
			t.Parallel()
			if got := handshake.CauseOf(failure(t, server, dial)); got != want {
				t.Errorf("the cause at a server of package tls is %s", got)
			}
			if got := httpFailure(t, server, dial); got != want {
				t.Errorf("the cause at a server of net/http is %s", got)
			}
			if want.Text() == "" {
				t.Error("the cause has no text")
			}
		})
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func call(t *testing.T, l net.Listener, dial func(net.Conn)) {
	t.Helper()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Error(err)
		return
	}
	dial(conn)
	_ = conn.Close()
}

// failure is the error of one handshake.
func failure(t *testing.T, c *tls.Config, dial func(net.Conn)) error {
	t.Helper()
	l := listen(t)
	go call(t, l, dial)
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if err = tls.Server(conn, c).Handshake(); err == nil {
		t.Fatal("the handshake succeeded")
	}
	return err
}

func httpFailure(t *testing.T, c *tls.Config, dial func(net.Conn)) handshake.Cause {
	t.Helper()
	l, causes := listen(t), make(chan handshake.Cause, 1)
	s := &http.Server{TLSConfig: c.Clone(), ErrorLog: handshake.ErrorLog(func(_ string, cause handshake.Cause) { causes <- cause },
		log.New(io.Discard, "", 0))}
	go func() { _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
	call(t, l, dial)
	select {
	case cause := <-causes:
		return cause
	case <-time.After(10 * time.Second):
		return "none reported"
	}
}

// TestToPlaintext: a listener without TLS reports who speaks it, once for each connection, and nobody else.
func TestToPlaintext(t *testing.T) {
	causes := make(chan handshake.Cause, 10)
	l := handshake.Plain(listen(t), func(_ string, cause handshake.Cause) { causes <- cause })
	s := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	if answer, err := http.Get("http://" + l.Addr().String()); err != nil || answer.Body.Close() != nil {
		t.Fatal(err)
	}
	if conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true}); err == nil {
		_ = conn.Close()
		t.Fatal("a listener without TLS has done a handshake")
	}
	if got := <-causes; got != handshake.ToPlaintext || len(causes) != 0 {
		t.Errorf("reported %s and %d more", got, len(causes))
	}
}
