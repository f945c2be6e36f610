package keypeers

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
)

// TestServices starts those that need nothing but Go, and has each key wrap and unwrap.
func TestServices(t *testing.T) {
	names := []string{"phi", "default"}
	for _, scheme := range []string{"local", "gcpkms", "azurekeyvault"} {
		t.Run(scheme, func(t *testing.T) {
			s, err := Start(t.Context(), scheme, t.TempDir(), names, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.Stop)
			kc := crypto.KeyContext{Namespace: "clinic", Key: "phi"}
			var all []crypto.Provider
			for _, name := range names {
				key, err := keyservice.Open(t.Context(), s.URIs[name])
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, key)
			}
			plain, wrapped, err := all[0].GenerateDataKey(t.Context(), kc)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := all[0].UnwrapDataKey(t.Context(), wrapped, kc); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("it unwraps to %d bytes, error %v", len(got), err)
			}
			if _, err := all[1].UnwrapDataKey(t.Context(), wrapped, kc); err == nil {
				t.Error("another key unwraps it")
			}
		})
	}
}

func TestUnknownService(t *testing.T) {
	for _, scheme := range Schemes() {
		if !keyservice.Known(scheme + ":x") {
			t.Errorf("%s is no scheme of a key", scheme)
		}
	}
	_, err := Start(t.Context(), "gcp", t.TempDir(), nil, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "azurekeyvault") || slices.Contains(Schemes(), "gcp") {
		t.Errorf("an unknown scheme: error %v, want one that names those that exist", err)
	}
}
