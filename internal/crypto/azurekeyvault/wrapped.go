package azurekeyvault

import (
	"encoding/binary"
	"regexp"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
)

// Kinds of wrapped data keys.
const (
	byAES    = 1 // A256GCM
	bySigned = 2 // RSA-OAEP-256, signed with ES256
)

const tagSize = 16 // of GCM

// wrappedKey is a wrapped data key. Its bytes are the kind, and each of the parts after its length in two bytes:
//
//	version  of the key that wrapped it
//	first    A256GCM: the nonce; RSA-OAEP-256: the version of the signing key
//	second   A256GCM: the tag; RSA-OAEP-256: the ciphertext
//	last     A256GCM: the ciphertext; RSA-OAEP-256: the signature
type wrappedKey struct {
	kind          byte
	version       string
	first, second []byte
	last          []byte
}

func (w wrappedKey) bytes() []byte { return part(w.unsigned(), w.last) }

// unsigned returns what comes before the last part, which a signature covers.
func (w wrappedKey) unsigned() []byte {
	return part(part(part([]byte{w.kind}, []byte(w.version)), w.first), w.second)
}

func part(to, b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(to, uint16(len(b))), b...)
}

// versionForm is what a version may look like. It becomes part of a URL.
var versionForm = regexp.MustCompile(`^[0-9A-Za-z]{1,64}$`)

// parseWrapped reads a wrapped data key, which anybody may have made.
func parseWrapped(b []byte) (w wrappedKey, ok bool) {
	if len(b) == 0 || b[0] != byAES && b[0] != bySigned {
		return w, false
	}
	var parts [4][]byte
	rest := b[1:]
	for i := range parts {
		if len(rest) < 2 {
			return w, false
		}
		n := int(binary.BigEndian.Uint16(rest))
		if rest = rest[2:]; n > len(rest) {
			return w, false
		}
		parts[i], rest = rest[:n], rest[n:]
	}
	w = wrappedKey{b[0], string(parts[0]), parts[1], parts[2], parts[3]}
	return w, len(rest) == 0 && versionForm.MatchString(w.version) &&
		(w.kind != byAES || len(w.second) == tagSize) && (w.kind != bySigned || versionForm.Match(w.first))
}

// versionOf returns the version of a key that the service described.
func versionOf(key azkeys.KeyBundle) (version string, ok bool) {
	if key.Key == nil || key.Key.KID == nil || key.Key.Kty == nil {
		return "", false
	}
	version = key.Key.KID.Version()
	return version, versionForm.MatchString(version)
}

// disabled reports whether somebody disabled a version.
func disabled(key azkeys.KeyBundle) bool {
	return key.Attributes != nil && key.Attributes.Enabled != nil && !*key.Attributes.Enabled
}
