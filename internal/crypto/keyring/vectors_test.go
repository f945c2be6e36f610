package keyring

import (
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// TestVectorsOpen opens the self-contained vectors. The others need a key store.
func TestVectorsOpen(t *testing.T) {
	opened := 0
	for _, v := range vectors(t) {
		h, err := envelope.ParseHeader(v.Envelope)
		if err != nil {
			t.Fatal(err)
		}
		if h.Reference() {
			continue
		}
		opened++
		t.Run(v.Name, func(t *testing.T) {
			k := vectorRing(t, &v, &h)
			carrier := specimen{sealed: envelope.Sealed{Form: h.Form()}}.with(v.Envelope, v.View)
			for _, temperature := range []string{"cold", "warm"} {
				got, ok, err := tryOpen(t, k, carrier, v.Namespace)
				if !ok || err != nil || string(got) != plaintextOf(t, &v, &h) {
					t.Errorf("%s: %q, error %v; want %q", temperature, got, err, plaintextOf(t, &v, &h))
				}
			}
		})
	}
	if opened < 5 {
		t.Errorf("%d vectors", opened)
	}
}

// plaintextOf is what opening a vector gives.
func plaintextOf(t *testing.T, v *vector, h *envelope.Header) string {
	t.Helper()
	if h.Form() != envelope.FormView {
		return string(v.Plaintext)
	}
	return `{"token":"s3cr3t,"ward":"4B"}` // the patch has one byte less than the value
}

// vectorRing is a Keyring whose key service knows a vector's data key.
func vectorRing(t *testing.T, v *vector, h *envelope.Header) *Keyring {
	t.Helper()
	p := newScripted("test:vector")
	p.ref = h.KEK
	p.blobs[string(h.Wrapped)] = blob{plain: [32]byte(v.DataKey), kc: crypto.KeyContext{Namespace: v.Namespace, Key: v.KeyName}}
	k := newKeyring(t, Options{Keys: []KeyConfig{{Name: v.KeyName, Active: p.uri}}, Open: store{p.uri: p}.open})
	k.Confirm(v.Namespace)
	return k
}
