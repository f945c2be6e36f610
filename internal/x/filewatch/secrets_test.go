package filewatch_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/x/filewatch"
)

// TestPrivateKeysOfEverybody: a private key that everybody can read is refused, and one that a group can read is not.
func TestPrivateKeysOfEverybody(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	write(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	write(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	for mode, allowed := range map[os.FileMode]bool{0o600: true, 0o440: true, 0o640: true, 0o644: false, 0o604: false, 0o602: false} {
		if err := os.Chmod(keyFile, mode); err != nil {
			t.Fatal(err)
		}
		_, err := filewatch.Pair(slog.New(slog.DiscardHandler), certFile, keyFile)
		if allowed && err != nil || !allowed && (err == nil || !strings.Contains(err.Error(), "can be read by everybody")) {
			t.Errorf("mode %#o: error %v", mode, err)
		}
	}
}

// TestTokensOfEverybody: a token that everybody can read is refused.
func TestTokensOfEverybody(t *testing.T) {
	file := filepath.Join(t.TempDir(), "worker.token")
	write(t, file, "a-token")
	for mode, allowed := range map[os.FileMode]bool{0o600: true, 0o440: true, 0o640: true, 0o644: false, 0o604: false} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		_, err := filewatch.Token(slog.New(slog.DiscardHandler), file)
		if allowed && err != nil || !allowed && (err == nil || !strings.Contains(err.Error(), "can be read by everybody")) {
			t.Errorf("mode %#o: error %v", mode, err)
		}
	}
}
