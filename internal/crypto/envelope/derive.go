package envelope

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// Kind says what a data key is for.
type Kind byte

const (
	// KindData is a key that seals the payloads of a namespace and key name.
	KindData Kind = iota
	// KindSubject is a key that seals the payloads of one subject.
	KindSubject
	// KindWrap is a key that wraps the keys of subjects, and nothing else.
	KindWrap
	// KindIndex is a key from which the tags of subjects are derived, and nothing else.
	KindIndex
)

// String names the kind.
func (k Kind) String() string {
	return [...]string{"data", "subject", "wrap", "index", "unknown"}[min(k, 4)]
}

// Context is what a data key is for. It enters everything that is derived from the key, so that a key which is moved to
// another namespace, key name or subject, or is taken for one of another kind, does not match its id. This holds under
// key services, too, that bind nothing.
type Context struct {
	Kind           Kind
	Key, Namespace string
	SubjectTag     []byte // 32 bytes, of KindSubject alone
}

// append writes the context unambiguously: every part has a fixed length or follows it.
func (c *Context) append(dst []byte) []byte {
	dst = append(dst, byte(c.Kind), byte(len(c.Key)))
	dst = append(dst, c.Key...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(c.Namespace)))
	dst = append(dst, c.Namespace...)
	return append(dst, c.SubjectTag...)
}

// Derive derives the id of a data key, and the Cipher of its sealing key. The data key itself never seals.
func Derive(dataKey []byte, c *Context) (id crypto.KeyID, _ *Cipher, err error) {
	named, err := expand(dataKey, "id", c)
	if err != nil {
		return id, nil, err
	}
	key, err := expand(dataKey, "seal", c)
	if err != nil {
		return id, nil, err
	}
	defer clear(key)
	cipher, err := newCipher(key)
	return crypto.KeyID(named[:len(id)]), cipher, err
}

// expand derives 32 bytes for a purpose, by HKDF-Expand: there is nothing to extract, since data keys are uniformly random.
func expand(dataKey []byte, purpose string, c *Context) ([]byte, error) {
	var room [256]byte // names of usual lengths fit, so that nothing is allocated for them
	info := append(append(append(room[:0], "temporal-seal/v1/"...), purpose...), 0)
	info = c.append(info)
	return hkdf.Expand(sha256.New, dataKey, string(info), 32)
}
