package foreign

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// Metadata of encrypted payloads.
const (
	metaEncoding   = "encoding"
	metaKeyID      = "encryption-key-id"
	metaCipher     = "encryption-cipher"  // the Java samples
	metaWrappedSA  = "encrypted-data-key" // temporal-sa: the wrapped data key
	metaWrappedOwn = "encryption-dek"     // Temporal's own proxy: the same in base64

	javaCipher = "AES/GCM/NoPadding"
)

const (
	nonceSize = 12
	tagSize   = 16
)

// newAEAD returns AES-GCM over nonce, ciphertext and tag in this order, which is what all of these formats
// write: the GCM that keeps the nonce before the ciphertext is the one that is approved for FIPS 140.
func newAEAD(key []byte) (cipher.AEAD, error) {
	switch len(key) {
	case 16, 24, 32:
	default:
		return nil, fmt.Errorf("it has %d bytes; AES takes 16, 24 or 32", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Sealed is a foreign payload, recognized but not opened.
type Sealed struct {
	// Key is what policies see as its key: KeyPrefix and the source's name. Nothing vouches for it before
	// Open.
	Key string

	encrypted *source // nil: compressed only
	keyID     string
	wrapped   []byte
	data      []byte // of the encryption; of a payload that is compressed only, what was in it
}

// Run is what the payloads of one message share: limits. The zero value is ready.
type Run struct {
	expanded, unwraps int
	grow              func(n int) error
}

// NewRun returns a Run that calls grow before n bytes are decompressed. Its error ends that.
func NewRun(grow func(n int) error) Run { return Run{grow: grow} }

// limit returns how many bytes the next compressed payload may hold.
func (r *Run) limit() int { return min(maxPayload, maxMessage-r.expanded) }

// Parse recognizes a foreign payload; nil if it is none that is read in this namespace, which is to be left
// as it is. An error means that it is one and can't be opened. An outer compression is taken off here,
// since only what is below it shows which key is needed.
func (n *Namespace) Parse(b []byte, run *Run) (*Sealed, error) {
	if n == nil {
		return nil, nil
	}
	p := readPayload(b)
	if s, err := n.encryption(p); s != nil || err != nil {
		return s, err
	}
	c, inner, err := n.compressed(p, run)
	if c == nil || err != nil {
		return nil, err
	}
	if s, err := n.encryption(readPayload(inner)); s != nil || err != nil {
		return s, err
	}
	return &Sealed{Key: c.key, data: inner}, nil
}

// encryption recognizes an encrypted payload by its metadata. Of an encoding that several tools use, what
// fits none of the configured ones is not theirs.
func (n *Namespace) encryption(p payload) (*Sealed, error) {
	if string(p.metadata[metaEncoding]) != encodingEncrypted {
		return nil, nil
	}
	s := &Sealed{keyID: string(p.metadata[metaKeyID]), data: p.data}
	var format Format
	switch {
	case p.has(metaEncoding, metaKeyID),
		p.has(metaEncoding, metaKeyID, metaCipher) && string(p.metadata[metaCipher]) == javaCipher:
		format = Samples
	case p.has(metaEncoding, metaKeyID, metaWrappedSA):
		format, s.wrapped = TemporalSA, p.metadata[metaWrappedSA]
	case p.has(metaEncoding, metaKeyID, metaWrappedOwn):
		format = TemporalProxy
		var err error
		if s.wrapped, err = base64.StdEncoding.DecodeString(string(p.metadata[metaWrappedOwn])); err != nil {
			return nil, nil
		}
	default:
		return nil, nil
	}
	configured := false
	for _, src := range n.sources {
		if src.Format != format {
			continue
		}
		configured = true
		_, known := src.aead[s.keyID]
		known = known || format.Wrapped() && src.KMS == s.keyID
		if known || format.Wrapped() && s.encrypted == nil { // the first, unless the payload names the key of another one
			s.encrypted, s.Key = src, src.key
		}
		if known {
			break
		}
	}
	if s.encrypted != nil {
		return s, nil
	}
	if configured {
		return nil, n.fail(crypto.KindNotConfigured, "", "the payload was encrypted by a codec under a key id that no entry of "+
			"`foreign` names for this namespace; add it to its keys")
	}
	return nil, nil
}

// compressed returns what a compressed payload holds and the source that reads it, or nil if the payload is
// none.
func (n *Namespace) compressed(p payload, run *Run) (*source, []byte, error) {
	if !p.has(metaEncoding) {
		return nil, nil, nil
	}
	i := slices.IndexFunc(n.sources, func(src *source) bool {
		return encodings[src.Format] != encodingEncrypted && encodings[src.Format] == string(p.metadata[metaEncoding])
	})
	if i < 0 {
		return nil, nil, nil
	}
	src := n.sources[i]
	out, err := expand(src.Format, p.data, run)
	if err != nil {
		return nil, nil, n.fail(crypto.KindMalformed, src.key, "decompress: %w", err)
	}
	run.expanded += len(out)
	if !wellFormed(out) {
		return nil, nil, n.fail(crypto.KindMalformed, src.key, "what is compressed in it is not a Payload")
	}
	return src, out, nil
}

// Open appends to dst the Payload that a codec was given. hit reports whether no key service had to be
// asked. If an error is returned, dst is as it was.
func (n *Namespace) Open(ctx context.Context, dst []byte, s *Sealed, run *Run) (out []byte, hit bool, err error) {
	if s.encrypted == nil {
		return append(dst, s.data...), true, nil
	}
	a, aad, hit, err := n.keyOf(ctx, s, run)
	if err != nil {
		return dst, hit, err
	}
	if len(s.data) < nonceSize+tagSize {
		return dst, hit, n.fail(crypto.KindMalformed, s.Key, "the ciphertext is too short: it was cut off")
	}
	start := len(dst)
	dst = slices.Grow(dst, len(s.data)-nonceSize-tagSize)
	out, err = a.Open(dst, nil, s.data, aad)
	if err != nil {
		return dst, hit, n.fail(crypto.KindTampered, s.Key,
			"the payload was not encrypted with this key, or was changed: its tag is wrong")
	}
	plain := out[start:]
	if !wellFormed(plain) {
		clear(plain)
		return dst, hit, n.fail(crypto.KindMalformed, s.Key, "what is encrypted in it is not a Payload")
	}
	c, inner, err := n.compressed(readPayload(plain), run)
	if c == nil && err == nil {
		return out, hit, nil
	}
	clear(plain)
	if err != nil {
		return dst, hit, err
	}
	out = append(dst, inner...)
	clear(inner)
	return out, hit, nil
}

// keyOf returns what opens an encrypted payload.
func (n *Namespace) keyOf(ctx context.Context, s *Sealed, run *Run) (a cipher.AEAD, aad []byte, hit bool, err error) {
	src := s.encrypted
	var bound map[string]string
	switch src.Format {
	case Samples:
		return src.aead[s.keyID], nil, true, nil
	case TemporalSA:
		namespace := src.SealedAs
		if namespace == "" {
			namespace = n.name
		}
		// Both contexts as temporal-sa's codec makes them. encoding/json sorts the keys of a map and
		// escapes as it did there.
		bound = map[string]string{"purpose": "encryption-key-auth", "encryptionKeyID": s.keyID, "namespace": namespace}
		aad, err = json.Marshal(map[string]string{"purpose": "payload-auth", "encryptionKeyID": s.keyID, "namespace": namespace})
		if err != nil {
			return a, nil, false, n.fail(crypto.KindMalformed, s.Key, "its key id can't be written as JSON")
		}
	}
	a, hit, err = n.reader.keys.get(ctx, src, s.wrapped, bound, run)
	var e *crypto.Error
	if errors.As(err, &e) {
		err = &crypto.Error{Kind: e.Kind, Op: e.Op, Key: s.Key, Namespace: n.name, Err: e.Err}
	}
	return a, aad, hit, err
}
