package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"crypto/rand"
	"sync"
)

// Cipher is AES-256-GCM under one payload key. Nonces are random in both of its modes, and nonce, ciphertext and tag lie
// in the same order.
type Cipher struct {
	gcm cipher.AEAD
	// ownNonce: the FIPS module draws the nonce itself, which is the only GCM that it approves for sealing.
	ownNonce bool
}

var fipsMode = fips140.Enabled()

// NewCipher derives the payload key of a salt from a data key.
func NewCipher(dataKey []byte, salt *[SaltSize]byte) (Cipher, error) {
	key, err := derivePayloadKey(dataKey, salt)
	if err != nil {
		return Cipher{}, err
	}
	defer clear(key)
	return newCipher(key)
}

func newCipher(key []byte) (Cipher, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return Cipher{}, err
	}
	if fipsMode {
		gcm, err := cipher.NewGCMWithRandomNonce(block)
		return Cipher{gcm: gcm, ownNonce: true}, err
	}
	gcm, err := cipher.NewGCM(block)
	return Cipher{gcm: gcm}, err
}

// seal appends nonce, ciphertext and tag to dst.
func (c Cipher) seal(dst, plaintext, aad []byte) []byte {
	if c.ownNonce {
		return c.gcm.Seal(dst, nil, plaintext, aad)
	}
	n := len(dst)
	dst = appendNonce(dst)
	return c.gcm.Seal(dst, dst[n:n+nonceSize], plaintext, aad)
}

// sealPadded is seal for a plaintext that is padded first, in the room where its ciphertext will stand.
func (c Cipher) sealPadded(dst, plaintext, aad []byte) []byte {
	n := len(dst)
	nonce := 0
	if !c.ownNonce {
		dst, nonce = appendNonce(dst), nonceSize
	}
	dst = append(dst, plaintext...)
	dst = append(dst, 0x80)
	for (len(dst)-n-nonce)%padBlock != 0 {
		dst = append(dst, 0)
	}
	return c.gcm.Seal(dst[:n+nonce], dst[n:n+nonce], dst[n+nonce:], aad)
}

// open appends the plaintext of a sealed text that starts with its nonce. dst must not overlap sealed.
func (c Cipher) open(dst, sealed, aad []byte) ([]byte, error) {
	if c.ownNonce {
		return c.gcm.Open(dst, nil, sealed, aad)
	}
	return c.gcm.Open(dst, sealed[:nonceSize], sealed[nonceSize:], aad)
}

// nonces are read from the system in batches: one read of 64 costs little more than a read of one.
type nonceBatch struct {
	buf  [64 * nonceSize]byte
	next int
}

var noncePool = sync.Pool{New: func() any { return &nonceBatch{next: len(nonceBatch{}.buf)} }}

func appendNonce(dst []byte) []byte {
	b := noncePool.Get().(*nonceBatch)
	if b.next == len(b.buf) {
		rand.Read(b.buf[:]) // never fails: the runtime ends the process if the system has no randomness
		b.next = 0
	}
	dst = append(dst, b.buf[b.next:b.next+nonceSize]...)
	b.next += nonceSize
	noncePool.Put(b)
	return dst
}
