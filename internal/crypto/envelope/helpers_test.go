package envelope

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
)

// pair seals and opens under one payload key.
type pair struct {
	*Writer
	Cipher
}

func newPair(t testing.TB) pair {
	t.Helper()
	h := Header{Namespace: "ns", Key: "default", Wrapped: make([]byte, 60)}
	dataKey := make([]byte, DataKeySize)
	rand.Read(dataKey)
	rand.Read(h.Wrapped)
	rand.Read(h.Salt[:])
	c, err := NewCipher(dataKey, &h.Salt)
	if err != nil {
		t.Fatal(err)
	}
	return pair{NewWriter(c, &h), c}
}

func (p pair) size(n int) int {
	h, err := ParseHeader(append(p.header[:len(p.header):len(p.header)], make([]byte, nonceSize+tagSize)...))
	if err != nil {
		panic(err)
	}
	return h.PayloadSize(n)
}

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

// vector is one entry of testdata/envelope/vectors.json.
type vector struct {
	Name                                                         string
	DK, Header, Nonce, View, Plaintext, Envelope, ID, PayloadKey hexBytes
}

type hexBytes []byte

func (h *hexBytes) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	return decodeHex(h, s)
}

func vectors(t testing.TB) (vs []vector) {
	t.Helper()
	b, err := os.ReadFile("../../../testdata/envelope/vectors.json")
	if err == nil {
		err = json.Unmarshal(b, &vs)
	}
	if err != nil || len(vs) == 0 {
		t.Fatalf("%d vectors, error %v", len(vs), err)
	}
	return vs
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
