package envelope

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
)

// pair seals and opens under one data key.
type pair struct {
	writer *Writer
	cipher *Cipher
	header Header
}

func newPair(t testing.TB) pair { return pairOf(t, false) }

func pairOf(t testing.TB, reference bool) pair {
	t.Helper()
	h := Header{Namespace: "ns", Key: "default", Wrapped: make([]byte, 60)}
	if reference {
		h.Flags = flagReference
	}
	dataKey := make([]byte, DataKeySize)
	rand.Read(dataKey)
	rand.Read(h.Wrapped)
	id, c, err := Derive(dataKey, &Context{Key: h.Key, Namespace: h.Namespace})
	if err != nil {
		t.Fatal(err)
	}
	h.ID = id
	return pair{NewWriter(c, &h), c, h}
}

func (p pair) AppendPayload(dst, payload []byte, compress bool) []byte {
	return p.writer.AppendPayload(dst, payload, compress, new(Nonces))
}

func (p pair) AppendView(dst, payload []byte, sel Selection) []byte {
	dst, _ = p.writer.AppendView(dst, payload, sel, new(Nonces))
	return dst
}

func (p pair) AppendText(dst, text []byte) []byte { return p.writer.AppendText(dst, text, new(Nonces)) }

func (p pair) Open(dst []byte, s *Sealed) ([]byte, error) { return p.cipher.Open(dst, s) }

func (p pair) size(n int) int { return p.header.PayloadSize(n) }

// open opens a payload as the server would send it.
func (p pair) open(payload []byte) (string, error) {
	s, marked, err := ParsePayload(payload)
	if err != nil {
		return "", err
	}
	if !marked {
		return "", errors.New("the payload is not marked")
	}
	out, err := p.Open(nil, &s)
	return string(out), err
}

// vector is one envelope of testdata/envelope/vectors.json.
type vector struct {
	Name       string   `json:"name"`
	DataKey    hexBytes `json:"data_key"`
	Kind       Kind     `json:"kind"`
	KeyName    string   `json:"key_name"`
	Namespace  string   `json:"namespace"`
	SubjectTag hexBytes `json:"subject_tag"`
	ID         hexBytes `json:"id"`
	Header     hexBytes `json:"header"`
	Nonce      hexBytes `json:"nonce"`
	View       hexBytes `json:"view"`
	Plaintext  hexBytes `json:"plaintext"`
	Envelope   hexBytes `json:"envelope"`
	Overhead   int      `json:"overhead"`
}

// context is what the vector's data key is for.
func (v *vector) context() *Context {
	return &Context{Kind: v.Kind, Key: v.KeyName, Namespace: v.Namespace, SubjectTag: v.SubjectTag}
}

type hexBytes []byte

func (h *hexBytes) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	return decodeHex(h, s)
}

func vectors(t testing.TB) []vector {
	t.Helper()
	var file struct {
		Envelopes []vector `json:"envelopes"`
	}
	b, err := os.ReadFile("../../../testdata/envelope/vectors.json")
	if err == nil {
		err = json.Unmarshal(b, &file)
	}
	if err != nil || len(file.Envelopes) == 0 {
		t.Fatalf("%d vectors, error %v", len(file.Envelopes), err)
	}
	return file.Envelopes
}

// payloadOf writes a Payload as SDKs do.
func payloadOf(encoding, data string) string {
	entry := "\x0a\x08encoding\x12" + lengthPrefixed(encoding)
	return "\x0a" + lengthPrefixed(entry) + "\x12" + lengthPrefixed(data)
}

func lengthPrefixed(s string) string {
	n := uint64(len(s))
	var b strings.Builder
	for ; n >= 0x80; n >>= 7 {
		b.WriteByte(byte(n) | 0x80)
	}
	b.WriteByte(byte(n))
	b.WriteString(s)
	return b.String()
}
