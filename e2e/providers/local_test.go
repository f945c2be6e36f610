package providers

import (
	"crypto/aes"
	"crypto/cipher"
	"path/filepath"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
)

var local = provider{
	name:    "a local file",
	start:   startLocal,
	binds:   "AES-GCM, as associated data",
	forging: "the key in the file",
	outage:  "a file that cannot be read: keys in memory go on",
	rotates: "opens: the earlier keys stay in the file",
	needs:   "to read the file",
	against: "itself",
}

func startLocal(t *testing.T) *peer {
	path := filepath.Join(t.TempDir(), "seal.key")
	if err := localkey.Create(path, time.Now()); err != nil {
		t.Fatal(err)
	}
	return &peer{
		uri: "local:" + path, key: "seal",
		forge: func(t *testing.T, plain []byte, kc crypto.KeyContext) []byte {
			return ownKey(t).Seal(nil, nil, plain, kc.AssociatedData("temporal-seal/v1/local\x00"))
		},
		rotate: func(t *testing.T) {
			if err := localkey.Rotate(path, time.Now()); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// ownKey is AES-256-GCM under a key that no service knows; what it seals has the nonce in front.
func ownKey(t *testing.T) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return gcm
}
