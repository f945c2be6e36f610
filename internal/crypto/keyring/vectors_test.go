package keyring

import (
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

func TestVectorsOpen(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			k, namespace := vectorRing(t, v)
			want := plaintextOf(t, v)
			for _, temperature := range []string{"cold", "warm"} {
				got, err := open(k, payloadWith(v), namespace)
				if err != nil || got != want {
					t.Errorf("%s: %q, error %v; want %q", temperature, got, err, want)
				}
			}
		})
	}
}

// plaintextOf is what opening a vector gives, by its data key alone.
func plaintextOf(t *testing.T, v vector) string {
	t.Helper()
	s, _, err := envelope.ParsePayload(payloadWith(v))
	if err != nil {
		t.Fatal(err)
	}
	c, err := envelope.NewCipher(v.DK, &s.Header.Salt)
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.Open(nil, &s)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// vectorRing is a Keyring whose key service knows a vector's data key.
func vectorRing(t *testing.T, v vector) (k *Keyring, namespace string) {
	t.Helper()
	h, err := envelope.ParseHeader(v.Envelope)
	if err != nil {
		t.Fatal(err)
	}
	p := newScripted("test:vector")
	p.ref = h.KEK
	p.blobs[string(h.Wrapped)] = blob{plain: [32]byte(v.DK), kc: crypto.KeyContext{Namespace: h.Namespace, Key: h.Key}}
	k = newKeyring(t, Options{Keys: []KeyConfig{{Name: h.Key, Active: p.uri}}, Open: store{p.uri: p}.open})
	k.Confirm(h.Namespace)
	return k, h.Namespace
}
