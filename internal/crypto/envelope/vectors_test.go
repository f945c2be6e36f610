package envelope

import (
	"bytes"
	"crypto/cipher"
	"encoding/hex"
	"testing"
)

func decodeHex(h *hexBytes, s string) (err error) {
	*h, err = hex.DecodeString(s)
	return err
}

// payloadWith puts a vector's envelope into the carrier of its form.
func payloadWith(v vector) []byte {
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
		h, err := ParseHeader(v.Envelope)
		if err != nil {
			t.Fatal(err)
		}
		c, err := NewCipher(v.DK, &h.Salt)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := (pair{Cipher: c}).open(payloadWith(v)); err != nil || got != string(plaintextOf(t, v)) {
			t.Errorf("%s: %q, error %v; want %q", v.Name, got, err, plaintextOf(t, v))
		}
	}
}

// fixedNonce is GCM as the FIPS module has it, except that the nonce is given: what it seals can be compared.
type fixedNonce struct {
	cipher.AEAD
	nonce []byte
}

func (f fixedNonce) Seal(dst, _, plaintext, aad []byte) []byte {
	// In place, like the real one: the plaintext may stand where the nonce goes.
	plaintext = bytes.Clone(plaintext)
	return f.AEAD.Seal(append(dst, f.nonce...), f.nonce, plaintext, aad)
}

// writerOf is a Writer that has a vector's payload key and nonce.
func writerOf(t *testing.T, v vector) *Writer {
	t.Helper()
	h, err := ParseHeader(v.Envelope)
	if err != nil {
		t.Fatal(err)
	}
	return NewWriter(Cipher{gcm: fixedNonce{gcmOf(t, v.PayloadKey), v.Nonce}}, &h)
}

// TestWriterReproducesVectors: given data key, salt and nonce, the bytes are those of the vectors.
func TestWriterReproducesVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			w := writerOf(t, v)
			var got []byte
			switch flags := v.Header[2]; {
			case len(v.View) > 0:
				got = w.AppendView(nil, plaintextOf(t, v), fields("/user/jwt", "/patient"))
			case flags&flagPadded != 0:
				got = w.AppendPayload(nil, v.Plaintext, false)
			default: // shorter than what this writer leaves unpadded
				got = payloadWith(vector{Envelope: w.cipher.gcm.Seal(bytes.Clone(v.Header), nil, v.Plaintext, v.Header)})
			}
			if want := payloadWith(v); !bytes.Equal(got, want) {
				t.Errorf("carrier\n%x, want\n%x", got, want)
			}
		})
	}
}
