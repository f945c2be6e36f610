package keyring

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"sync/atomic"
	"unicode/utf8"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

const (
	padUnder = 256 // bodies shorter than this are padded, so that true and false look alike
	padBlock = 32
)

// Sealer seals for one (namespace, key name) with the data key that was current when it was handed out. It is safe for
// concurrent use. Take a new one from the Keyring for every call: it keeps neither up with renewal nor with revocation.
type Sealer struct {
	dk     *dataKey
	clock  *atomic.Int64 // coarse time of the Keyring
	header Header        // Flags are set per envelope, Salt by the current one
	salts  saltState
}

// PayloadSize is the length of what AppendPayload appends for a payload of n bytes that is not compressed.
func (s *Sealer) PayloadSize(n int) int {
	env := s.header.size() + nonceSize + bodySize(n) + tagSize
	return len(wholePrefix) + uvarintLen(uint64(env)) + env
}

// bodySize is the length of a plaintext of n bytes that is padded if it is short.
func bodySize(n int) int {
	if n >= padUnder {
		return n
	}
	return paddedSize(n)
}

func paddedSize(n int) int { return (n/padBlock + 1) * padBlock }

// AppendPayload appends to dst a serialised Payload that carries the sealed payload (form 0). compress asks for zstd,
// which is used where it helps. dst must not overlap payload. Without compression it allocates nothing if dst has
// PayloadSize bytes of room.
func (s *Sealer) AppendPayload(dst, payload []byte, compress bool) ([]byte, error) {
	flags := byte(FormPayload) << formShift
	body := payload
	if compress {
		packed, ok := compressBody(payload)
		if ok {
			body, flags = packed, flags|flagZstd
		}
	}
	env := s.header.size() + nonceSize + bodySize(len(body)) + tagSize
	start := len(dst)
	dst = slices.Grow(dst, len(wholePrefix)+uvarintLen(uint64(env))+env)
	dst = append(dst, wholePrefix...)
	dst = binary.AppendUvarint(dst, uint64(env))
	out, err := s.appendEnvelope(dst, body, flags, nil)
	if err != nil {
		return dst[:start], err
	}
	return out, nil
}

// AppendText appends the sealed text (form 2). The text must be UTF-8.
func (s *Sealer) AppendText(dst, text []byte) ([]byte, error) {
	if !utf8.Valid(text) {
		return dst, crypto.Errorf(crypto.KindMalformed, "seal", "the text is not UTF-8").In(s.header.Key, s.header.Namespace)
	}
	env := make([]byte, 0, s.header.size()+nonceSize+bodySize(len(text))+tagSize)
	env, err := s.appendEnvelope(env, text, byte(FormText)<<formShift, nil)
	if err != nil {
		return dst, err
	}
	dst = slices.Grow(dst, len(TextPrefix)+base64.RawURLEncoding.EncodedLen(len(env)))
	dst = append(dst, TextPrefix...)
	return base64.RawURLEncoding.AppendEncode(dst, env), nil
}

// appendEnvelope seals body into dst: header, nonce, ciphertext and tag, each written straight where it stays.
// viewHash goes into the AAD after the header.
func (s *Sealer) appendEnvelope(dst, body []byte, flags byte, viewHash []byte) ([]byte, error) {
	if s.dk.dropped.Load() {
		return nil, crypto.Errorf(crypto.KindRevoked, "seal", "%v", errDropped).In(s.header.Key, s.header.Namespace)
	}
	salt, err := s.salt()
	if errors.Is(err, errDropped) {
		return nil, crypto.Errorf(crypto.KindRevoked, "seal", "%v", errDropped).In(s.header.Key, s.header.Namespace)
	}
	if err != nil {
		return nil, crypto.Errorf(crypto.KindUnavailable, "seal", "derive a payload key: %w", err).In(s.header.Key, s.header.Namespace)
	}
	if len(body) < padUnder || viewHash != nil {
		flags |= flagPadded
	}
	s.dk.use.sealed.Add(1)
	start := len(dst)
	dst = append(dst, salt.header...)
	dst[start+2] = flags
	aad := dst[start:]
	if viewHash != nil {
		aad = append(append(make([]byte, 0, len(aad)+len(viewHash)), aad...), viewHash...)
	}
	if flags&flagPadded == 0 {
		return salt.aead.seal(dst, body, aad), nil
	}
	return salt.aead.sealPadded(dst, body, aad), nil
}

func uvarintLen(n uint64) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
