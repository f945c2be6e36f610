package keyservice_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
)

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
