package harness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// WriteCertificate writes a self-signed certificate for localhost, and its key, into a folder: name.crt and name.key. It takes the
// place of one that is there.
func WriteCertificate(dir, name string, from, until time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(until.UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: from,
		NotAfter: until, DNSNames: []string{"localhost", name}, BasicConstraintsValid: true}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		suffix string
		block  *pem.Block
	}{{".key", &pem.Block{Type: "PRIVATE KEY", Bytes: private}}, {".crt", &pem.Block{Type: "CERTIFICATE", Bytes: cert}}} {
		path := filepath.Join(dir, name+f.suffix)
		if err := os.WriteFile(path+".new", pem.EncodeToMemory(f.block), 0o600); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	return nil
}
