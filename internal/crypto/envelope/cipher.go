package envelope

import (
	"crypto/aes"
	"crypto/cipher"
)

// Cipher is AES-256-GCM under one payload key. The cryptographic module draws each nonce itself, at random: that is the
// only GCM that FIPS 140 approves for sealing. What it seals is nonce, ciphertext and tag, in this order.
type Cipher struct{ gcm cipher.AEAD }

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
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	return Cipher{gcm}, err
}
