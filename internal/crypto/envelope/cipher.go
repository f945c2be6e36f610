package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"crypto/rand"
)

// Cipher is AES-256-GCM under the sealing key of one data key. What it seals is nonce, ciphertext and tag, in this order.
type Cipher struct {
	gcm cipher.AEAD // its NonceSize is 0 where it draws nonces itself
}

// newCipher returns the Cipher of a sealing key. In FIPS mode the cryptographic module draws each nonce itself, which is
// the only GCM that FIPS 140 approves for sealing.
func newCipher(key []byte) (*Cipher, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	newGCM := cipher.NewGCM
	if fips140.Enabled() {
		newGCM = cipher.NewGCMWithRandomNonce
	}
	gcm, err := newGCM(block)
	return &Cipher{gcm}, err
}

// open appends to dst what was sealed as nonce, ciphertext and tag.
func (c *Cipher) open(dst, sealed, aad []byte) ([]byte, error) {
	n := c.gcm.NonceSize()
	return c.gcm.Open(dst, sealed[:n], sealed[n:], aad)
}

// maxNonces is how many nonces are read from the system at once.
const maxNonces = 256

// Nonces are those of one call. They are read from the system at once for the payloads that are expected, since each read
// costs as much as sealing a short payload, and are never kept for the next call: the copies of a virtual machine that was
// cloned would use the same ones. The zero value is ready; it is not safe for concurrent use.
type Nonces struct {
	expected int
	buffer   []byte
	left     []byte
}

// Expect begins a call that seals some number of payloads. What an earlier call left is cleared.
func (n *Nonces) Expect(payloads int) {
	n.Reset()
	n.expected = payloads
}

// Reset clears the nonces that were not used.
func (n *Nonces) Reset() {
	clear(n.left)
	n.left, n.expected = nil, 0
}

// take returns a nonce of a size, which is valid until the next one is taken.
func (n *Nonces) take(size int) []byte {
	if len(n.left) < size {
		count := size * min(max(n.expected, 1), maxNonces)
		if cap(n.buffer) < count {
			n.buffer = make([]byte, count)
		}
		n.left = n.buffer[:count]
		rand.Read(n.left) // never fails: the runtime ends the process if the system has no randomness
	}
	nonce := n.left[:size]
	n.left = n.left[size:]
	n.expected--
	return nonce
}
