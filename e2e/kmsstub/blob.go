package kmsstub

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"
)

// A blob is opaque to KMS's callers. This stub's holds
//
//	magic(4) | key id, zero-padded(40) | generation of the key material(4) | random(76) | nonce(12) | ciphertext | tag(16)
//
// which makes 152 bytes more than the plaintext: 184 for a 256-bit data key, as AWS answers. Everything before
// the nonce, and the encryption context, is authenticated.
const (
	keyIDLen   = 40
	genOffset  = 4 + keyIDLen
	headerLen  = genOffset + 4 + 76
	nonceLen   = 12
	tagLen     = 16
	blobExtra  = headerLen + nonceLen + tagLen
	maxEncrypt = 4096 // what Encrypt takes with a symmetric key
)

var (
	magic      = [4]byte{0x01, 0x02, 0x02, 0x00}
	errCorrupt = errors.New("not a blob of this service, or corrupted")
)

func seal(k *key, plain []byte, context map[string]string) []byte {
	blob := make([]byte, headerLen+nonceLen, blobExtra+len(plain))
	copy(blob, magic[:])
	copy(blob[4:], k.id)
	binary.BigEndian.PutUint32(blob[genOffset:], uint32(len(k.material)-1))
	mustRand(blob[genOffset+4:])
	aead := newGCM(k.material[len(k.material)-1])
	return aead.Seal(blob, blob[headerLen:], plain, aad(blob[:headerLen], context))
}

// blobKeyID names the key that sealed the blob.
func blobKeyID(blob []byte) (string, error) {
	if len(blob) < blobExtra || !bytes.Equal(blob[:4], magic[:]) {
		return "", errCorrupt
	}
	return string(bytes.TrimRight(blob[4:genOffset], "\x00")), nil
}

func open(k *key, blob []byte, context map[string]string) ([]byte, error) {
	generation := binary.BigEndian.Uint32(blob[genOffset:])
	if int(generation) >= len(k.material) {
		return nil, errCorrupt
	}
	aead := newGCM(k.material[generation])
	return aead.Open(nil, blob[headerLen:headerLen+nonceLen], blob[headerLen+nonceLen:], aad(blob[:headerLen], context))
}

// aad joins the header and the encryption context, pairs in the order of their names: KMS compares contexts
// as sets of pairs.
func aad(header []byte, context map[string]string) []byte {
	names := make([]string, 0, len(context))
	for name := range context {
		names = append(names, name)
	}
	slices.Sort(names)
	out := slices.Clone(header)
	for _, name := range names {
		for _, text := range []string{name, context[name]} {
			out = binary.BigEndian.AppendUint32(out, uint32(len(text)))
			out = append(out, text...)
		}
	}
	return out
}

func newGCM(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the length of our own key material is wrong: impossible
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func mustRand(b []byte) {
	_, _ = rand.Read(b) // never fails: crypto/rand aborts the program instead
}
