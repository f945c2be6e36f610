package operator

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// certificate writes a self-signed certificate for localhost and its key into the scenario's folder: name.crt and name.key.
func (s *site) certificate(name string, from, until time.Time) {
	s.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.ok(err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	s.ok(err)
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: until,
		DNSNames: []string{"localhost", name}, IsCA: true, BasicConstraintsValid: true}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	s.ok(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	s.ok(err)
	s.write(name+".crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	s.write(name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

// checked runs check with a config that is written first.
func (s *site) checked(config string, args ...string) printed {
	s.Helper()
	return s.run(append([]string{"check", "--config", s.write("proxy.yaml", config)}, args...)...)
}

func TestCheckCertificates(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	scenario(t, "4.3", "a key that is not the certificate's", func(s *site) {
		s.certificate("one", time.Now().Add(-day), time.Now().Add(day))
		s.certificate("two", time.Now().Add(-day), time.Now().Add(day))
		got := s.checked(`
listeners: [{address: "127.0.0.1:0", tls: {cert_file: "${dir}/one.crt", key_file: "${dir}/two.key"}}]
keys: [{name: default, active: "${key}"}]
`)
		s.want(got.code == 1, "exit code %d", got.code)
		s.contains("check", got.all(), "listeners[0]", "tls", "private key does not match")
	})
}
