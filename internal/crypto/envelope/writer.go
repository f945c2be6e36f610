package envelope

import (
	"encoding/base64"
	"encoding/binary"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

const (
	padUnder = 256 // bodies shorter than this are padded, so that true and false look alike
	padBlock = 32
)

// Writer writes envelopes under one data key. It is immutable.
type Writer struct {
	cipher *Cipher
	header []byte // of all its envelopes; the flags of each are added
}

// NewWriter returns the Writer for a header, whose lengths the caller has checked. Of its flags, only that of a reference
// and that of a subject may be set.
func NewWriter(c *Cipher, h *Header) *Writer { return &Writer{cipher: c, header: AppendHeader(nil, h)} }

// bodySize is the length of a plaintext of n bytes that is padded if it is short.
func bodySize(n int) int {
	if n >= padUnder {
		return n
	}
	return paddedSize(n)
}

func paddedSize(n int) int { return (n/padBlock + 1) * padBlock }

func envelopeSize(header, body int) int { return header + nonceSize + body + tagSize }

// AppendPayload appends to dst a serialized Payload that holds the sealed payload (form 0). With compress it is
// compressed by zstd where that helps. dst must not overlap payload. Without compression it allocates nothing if dst has room for
// Header.PayloadSize bytes.
func (w *Writer) AppendPayload(dst, payload []byte, compress bool, nonces *Nonces) []byte {
	flags := byte(FormPayload)
	body := payload
	if compress {
		packed, ok := compressBody(payload)
		if ok {
			body, flags = packed, flags|flagZstd
		}
	}
	env := envelopeSize(len(w.header), bodySize(len(body)))
	dst = slices.Grow(dst, len(wholePrefix)+protowire.SizeBytes(env))
	dst = append(dst, wholePrefix...)
	dst = binary.AppendUvarint(dst, uint64(env))
	return w.appendEnvelope(dst, body, flags, nil, nonces)
}

// AppendWithin appends a Payload like AppendPayload, compressed and then padded, so that its size is the largest that is not
// above size: it depends on size alone, and not on what the payload holds. ok is false, and dst as it was, if the payload
// does not fit even when it is compressed.
func (w *Writer) AppendWithin(dst, payload []byte, size int, nonces *Nonces) (_ []byte, ok bool) {
	body := w.bodyWithin(size)
	packed, ok := compressTo(payload, body-1)
	if !ok {
		return dst, false
	}
	env := envelopeSize(len(w.header), body)
	dst = slices.Grow(dst, len(wholePrefix)+protowire.SizeBytes(env))
	dst = append(dst, wholePrefix...)
	dst = binary.AppendUvarint(dst, uint64(env))
	return w.appendSealed(dst, packed, body, byte(FormPayload)|flagZstd, nil, nonces), true
}

// bodyWithin returns the length of the longest body with which a Payload has at most that size; it may be negative.
func (w *Writer) bodyWithin(size int) int {
	rest := size - len(wholePrefix) - envelopeSize(len(w.header), 0)
	for body := rest - 1; ; body-- {
		if protowire.SizeBytes(envelopeSize(len(w.header), max(body, 0)))+len(wholePrefix) <= size || body < 0 {
			return body
		}
	}
}

// AppendText appends the sealed text (form 2). The caller has checked that the text is UTF-8.
func (w *Writer) AppendText(dst, text []byte, nonces *Nonces) []byte {
	env := make([]byte, 0, envelopeSize(len(w.header), bodySize(len(text))))
	env = w.appendEnvelope(env, text, byte(FormText), nil, nonces)
	dst = slices.Grow(dst, len(TextPrefix)+base64.RawURLEncoding.EncodedLen(len(env)))
	dst = append(dst, TextPrefix...)
	return base64.RawURLEncoding.AppendEncode(dst, env)
}

// appendEnvelope seals body into dst: header, nonce, ciphertext and tag, each written straight where it stays.
// viewHash goes into the AAD after the header.
func (w *Writer) appendEnvelope(dst, body []byte, flags byte, viewHash []byte, nonces *Nonces) []byte {
	padded := len(body)
	if len(body) < padUnder || viewHash != nil {
		padded = paddedSize(len(body))
	}
	return w.appendSealed(dst, body, padded, flags, viewHash, nonces)
}

// appendSealed is appendEnvelope with the length to which the body is padded: its own for no padding.
func (w *Writer) appendSealed(dst, body []byte, padded int, flags byte, viewHash []byte, nonces *Nonces) []byte {
	if padded > len(body) {
		flags |= flagPadded
	}
	start := len(dst)
	dst = append(dst, w.header...)
	dst[start+flagsOffset] |= flags
	aad := dst[start:]
	if viewHash != nil {
		aad = append(append(make([]byte, 0, len(aad)+len(viewHash)), aad...), viewHash...)
	}
	gcm := w.cipher.gcm
	nonce := nonces.take(gcm.NonceSize())
	dst = append(dst, nonce...)
	if flags&flagPadded == 0 {
		return gcm.Seal(dst, nonce, body, aad)
	}
	n := len(dst) // the padded body stands where its ciphertext will
	dst = append(append(dst, body...), 0x80)
	dst = append(dst, make([]byte, padded-len(body)-1)...)
	return gcm.Seal(dst[:n], nonce, dst[n:], aad)
}
