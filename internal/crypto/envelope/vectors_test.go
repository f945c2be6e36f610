package envelope

import (
	"bytes"
	"crypto/fips140"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

func decodeHex(h *hexBytes, s string) (err error) {
	*h, err = hex.DecodeString(s)
	return err
}

// carrierOf puts a vector's envelope where envelopes of its form stand.
func carrierOf(v *vector) []byte {
	switch {
	case len(v.View) > 0:
		entries := "\x0a" + lengthPrefixed("\x0a\x08encoding\x12"+lengthPrefixed(EncodingView)) +
			"\x0a" + lengthPrefixed("\x0a\x09sealed.v1\x12"+lengthPrefixed(string(v.Envelope)))
		return []byte(entries + "\x12" + lengthPrefixed(string(v.View)))
	case Form(v.Header[1]&3) == FormText:
		return base64.RawURLEncoding.AppendEncode([]byte(TextPrefix), v.Envelope)
	}
	return []byte(payloadOf(EncodingWhole, string(v.Envelope)))
}

// plaintextOf is what opening a vector gives: for a view the document with its patch applied.
func plaintextOf(t *testing.T, v *vector) []byte {
	t.Helper()
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
		id, _, err := Derive(v.DataKey, v.context())
		if err != nil || !bytes.Equal(id[:], v.ID) {
			t.Errorf("%s: key id %x, error %v; want %x", v.Name, id, err, v.ID)
		}
		h, err := ParseHeader(v.Envelope)
		if err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		if got := AppendHeader(nil, &h); !bytes.Equal(got, v.Header) {
			t.Errorf("%s: header\n%x, want\n%x", v.Name, got, v.Header)
		}
		if !h.Reference() && (h.Key != v.KeyName || h.Namespace != v.Namespace) {
			t.Errorf("%s: names %q and %q, want %q and %q", v.Name, h.Key, h.Namespace, v.KeyName, v.Namespace)
		}
	}
}

func TestVectorsOpen(t *testing.T) {
	for _, v := range vectors(t) {
		_, c, err := Derive(v.DataKey, v.context())
		if err != nil {
			t.Fatal(err)
		}
		parse := ParsePayload
		if Form(v.Header[1]&3) == FormText {
			parse = ParseText
		}
		s, marked, err := parse(carrierOf(&v))
		if err != nil || !marked {
			t.Fatalf("%s: marked %v, error %v", v.Name, marked, err)
		}
		if got, err := c.Open(nil, &s); err != nil || !bytes.Equal(got, plaintextOf(t, &v)) {
			t.Errorf("%s: %q, error %v; want %q", v.Name, got, err, plaintextOf(t, &v))
		}
	}
}

// TestVectorsNeedTheirContext: the same data key for anything else opens nothing, and has another id.
func TestVectorsNeedTheirContext(t *testing.T) {
	for _, v := range vectors(t) {
		s, _, err := ParsePayload(carrierOf(&v))
		if err != nil || s.Header == nil {
			continue // a text
		}
		for what, change := range map[string]func(c *Context){
			"kind":        func(c *Context) { c.Kind ^= 1 },
			"key name":    func(c *Context) { c.Key = "other" },
			"namespace":   func(c *Context) { c.Namespace = "other" },
			"subject tag": func(c *Context) { c.SubjectTag = append(bytes.Clone(c.SubjectTag), 0) },
			"a byte moved": func(c *Context) {
				c.Key, c.Namespace = c.Key+c.Namespace[:1], c.Namespace[1:]
			},
		} {
			context := v.context()
			change(context)
			id, c, err := Derive(v.DataKey, context)
			if err != nil {
				t.Fatal(err)
			}
			if own, _, err := Derive(v.DataKey, v.context()); err != nil || own != s.Header.ID || id == own {
				t.Errorf("%s: with its %s it has the id %s, with another one %s; error %v; the envelope names %s", v.Name, what, own, id, err, s.Header.ID)
			}
			if _, err := c.Open(nil, &s); crypto.KindOf(err) != crypto.KindTampered {
				t.Errorf("%s: another %s: %v", v.Name, what, err)
			}
		}
	}
}

// noncesOf are Nonces of which the next one is given.
func noncesOf(nonce []byte) *Nonces { return &Nonces{left: bytes.Clone(nonce)} }

// TestWriterReproducesVectors: given data key and nonce, the bytes are those of the vectors.
func TestWriterReproducesVectors(t *testing.T) {
	if fips140.Enabled() {
		t.Skip("in FIPS mode no nonce can be given")
	}
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			_, c, err := Derive(v.DataKey, v.context())
			if err != nil {
				t.Fatal(err)
			}
			h, err := ParseHeader(v.Envelope)
			if err != nil {
				t.Fatal(err)
			}
			padded := h.Flags&flagPadded != 0
			h.Flags &= flagReference | flagSubject
			var sum []byte
			if len(v.View) > 0 {
				hash := sha256.Sum256(v.View)
				sum = hash[:]
			}
			got := NewWriter(c, &h).appendEnvelope(nil, v.Plaintext, v.Header[1]&formMask, sum, noncesOf(v.Nonce))
			if !padded { // shorter than what this writer leaves unpadded
				got = c.gcm.Seal(append(bytes.Clone(v.Header), v.Nonce...), v.Nonce, v.Plaintext, v.Header)
			}
			if !bytes.Equal(got, v.Envelope) {
				t.Errorf("envelope\n%x, want\n%x", got, v.Envelope)
			}
			if over := len(v.Envelope) - len(v.Plaintext); over != v.Overhead || !padded && over != envelopeSize(h.Size(), 0) {
				t.Errorf("%d bytes over, the vector says %d", over, v.Overhead)
			}
		})
	}
}
