package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"testing"
)

// gcmOf is AES-GCM with a nonce of the caller's choice, which the FIPS module leaves to tests only.
func gcmOf(t testing.TB, key []byte) (gcm cipher.AEAD) {
	t.Helper()
	fips140.WithoutEnforcement(func() {
		block, err := aes.NewCipher(key)
		if err == nil {
			gcm, err = cipher.NewGCM(block)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	return gcm
}
