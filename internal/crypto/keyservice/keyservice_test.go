package keyservice_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
)

func TestOpenForeign(t *testing.T) {
	for uri, want := range map[string]string{
		"local:seal.key":           "is not the key of another tool",
		"vault://v/transit/k":      "is not the key of another tool",
		"":                         "is not the key of another tool",
		"awskms://k?zone=x":        "unknown parameter",
		"gcpkms://projects/p":      "does not name a key",
		"azurekeyvault://v/keys/k": "does not name a key",
		"plugin://p/k":             "address is required",
	} {
		if err := keyservice.CheckForeign(uri); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("check %q: error %v, want one with %q", uri, err, want)
		}
		if _, err := keyservice.OpenForeign(t.Context(), uri); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("open %q: error %v, want one with %q", uri, err, want)
		}
	}
	if err := keyservice.CheckForeign("azurekeyvault://v.vault.azure.net/keys/k/0123456789abcdef0123456789abcdef"); err != nil {
		t.Errorf("a version, as Temporal's own proxy may have it: %v", err)
	}
}

func TestOpen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "seal.key")
	if err := localkey.Create(file, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := keyservice.Open(t.Context(), "local:"+file); err != nil {
		t.Errorf("a local key does not open: %v", err)
	}
	for _, uri := range []string{"", "local", "awskms", "azurekms://v/keys/k", ":", "LOCAL:" + file} {
		if keyservice.Known(uri) {
			t.Errorf("%q passes for a known key service", uri)
		}
		if _, err := keyservice.Open(t.Context(), uri); err == nil || err.Error() != keyservice.NoKeyURI {
			t.Errorf("open %q: error %v, want %q", uri, err, keyservice.NoKeyURI)
		}
	}
}
