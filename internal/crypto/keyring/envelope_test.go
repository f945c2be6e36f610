package keyring

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

func decodeHex(h *hexBytes, s string) (err error) {
	*h, err = hex.DecodeString(s)
	return err
}

// carrierOf puts a vector's envelope into the carrier of its form.
func carrierOf(v vector) []byte {
	if len(v.View) == 0 {
		return []byte(payloadOf(EncodingWhole, string(v.Envelope)))
	}
	entries := "\x0a" + lengthPrefixed("\x0a\x08encoding\x12"+lengthPrefixed(EncodingView)) +
		"\x0a" + lengthPrefixed("\x0a\x09sealed.v1\x12"+lengthPrefixed(string(v.Envelope)))
	return []byte(entries + "\x12" + lengthPrefixed(string(v.View)))
}

// plaintextOf is what opening a vector gives: for a view the document with its patch applied.
func plaintextOf(t *testing.T, v vector) []byte {
	if len(v.View) == 0 {
		return v.Plaintext
	}
	out, ok := appendPatched(nil, v.View, v.Plaintext)
	if !ok {
		t.Fatal("the patch does not fit the view")
	}
	return out
}

func TestVectorsDerive(t *testing.T) {
	for _, v := range vectors(t) {
		id, err := DeriveDataKeyID(v.DK)
		if err != nil || !bytes.Equal(id[:], v.ID) {
			t.Errorf("%s: data-key id %x, error %v; want %x", v.Name, id, err, v.ID)
		}
		h, err := ParseHeader(v.Envelope)
		if err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		key, err := derivePayloadKey(v.DK, &h.Salt)
		if err != nil || !bytes.Equal(key, v.PayloadKey) {
			t.Errorf("%s: payload key %x, error %v; want %x", v.Name, key, err, v.PayloadKey)
		}
		if got := AppendHeader(nil, &h); !bytes.Equal(got, v.Header) {
			t.Errorf("%s: header\n%x, want\n%x", v.Name, got, v.Header)
		}
	}
}

func TestVectorsOpen(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			k, namespace := vectorRing(t, v)
			for _, temperature := range []string{"cold", "warm"} {
				got, err := open(k, carrierOf(v), namespace)
				if err != nil || got != string(plaintextOf(t, v)) {
					t.Errorf("%s: %q, error %v; want %q", temperature, got, err, plaintextOf(t, v))
				}
			}
		})
	}
}

// vectorRing is a Keyring whose key service knows a vector's data key.
func vectorRing(t *testing.T, v vector) (k *Keyring, namespace string) {
	t.Helper()
	h, err := ParseHeader(v.Envelope)
	if err != nil {
		t.Fatal(err)
	}
	p := newScripted("test:vector")
	p.ref = h.KEK
	p.blobs[string(h.Wrapped)] = blob{plain: [32]byte(v.DK), kc: crypto.KeyContext{Namespace: h.Namespace, Key: h.Key}}
	k = newKeyring(t, KeyringOptions{Keys: []KeyConfig{{Name: h.Key, Active: p.uri}}, Open: store{p.uri: p}.open})
	k.Confirm(h.Namespace)
	return k, h.Namespace
}
