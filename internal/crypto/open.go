package crypto

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
)

// Open appends to dst what s holds: the original serialised Payload (forms 0 and 1) or the text (form 2). namespace is
// that of the call; the envelope opens if it was sealed there or if a grant says so. hit tells whether no key service
// had to be asked. dst must not overlap the carrier.
func (k *Keyring) Open(ctx context.Context, dst []byte, s *Sealed, namespace string) (out []byte, hit bool, err error) {
	h := &s.Header
	if !k.granted(h.Namespace, namespace) {
		return dst, false, fail(KindForeign, "open", "sealed in another namespace than %q; a grant in the configuration would allow it", namespace).in(h.Key, h.Namespace)
	}
	dk, hit, err := k.dataKeyFor(ctx, h)
	if err != nil {
		return dst, false, err
	}
	if subtle.ConstantTimeCompare(dk.id[:], h.DataKeyID[:]) != 1 {
		return dst, hit, fail(KindTampered, "open", "the data-key id is not that of the wrapped key").in(h.Key, h.Namespace)
	}
	key, err := derivePayloadKey(dk.secret[:], &h.Salt)
	if err != nil {
		return dst, hit, err
	}
	a, err := newAEAD(key)
	if err != nil {
		return dst, hit, err
	}
	out, err = openWith(a, dst, s)
	if err != nil {
		return dst, hit, err
	}
	return out, hit, nil
}

func openWith(a aead, dst []byte, s *Sealed) ([]byte, error) {
	h := &s.Header
	n := h.size()
	aad := s.envelope[:n:n]
	if s.Form == FormView {
		sum := sha256.Sum256(s.view)
		aad = append(aad, sum[:]...)
	}
	start := len(dst)
	if s.Form != FormView && h.Flags&flagZstd == 0 {
		out, err := a.open(dst, s.envelope[n:], aad)
		if err != nil {
			return dst, tampered(h, "its tag is wrong")
		}
		if h.Flags&flagPadded == 0 {
			return out, nil
		}
		body, ok := unpad(out[start:])
		if !ok {
			clear(out[start:])
			return dst, tampered(h, "its padding is wrong")
		}
		return out[:start+len(body)], nil
	}
	body, err := a.open(nil, s.envelope[n:], aad)
	if err != nil {
		return dst, tampered(h, "its tag is wrong")
	}
	defer clear(body)
	if h.Flags&flagPadded != 0 {
		var ok bool
		if body, ok = unpad(body); !ok {
			return dst, tampered(h, "its padding is wrong")
		}
	}
	var out []byte
	if s.Form == FormView {
		out, err = appendPatched(dst, s.view, body)
	} else {
		out, err = appendDecompressed(dst, body)
	}
	if err != nil {
		return dst, fail(KindTampered, "open", "%w", err).in(h.Key, h.Namespace)
	}
	return out, nil
}

func tampered(h *Header, why string) error {
	return fail(KindTampered, "open", "the envelope was changed after it was sealed, or put together from pieces: %s", why).in(h.Key, h.Namespace)
}

// unpad takes off 0x80 and the zeros after it.
func unpad(b []byte) ([]byte, bool) {
	if len(b)%padBlock != 0 {
		return nil, false
	}
	for i := len(b) - 1; i >= 0 && i >= len(b)-padBlock; i-- {
		switch b[i] {
		case 0:
		case 0x80:
			return b[:i], true
		default:
			return nil, false
		}
	}
	return nil, false
}

// viewHole stands in a view where a value was cut out.
const viewHole = `"[sealed]"`

// appendPatched restores the original Payload from a view and the patch that was cut out of it.
func appendPatched(dst, view, patch []byte) ([]byte, error) {
	bad := fail(KindTampered, "open", "the sealed part does not fit the readable document")
	next := func() ([]byte, bool) {
		if len(patch) < 4 {
			return nil, false
		}
		n := binary.BigEndian.Uint32(patch)
		if uint64(n) > uint64(len(patch)-4) {
			return nil, false
		}
		b := patch[4 : 4+n]
		patch = patch[4+n:]
		return b, true
	}
	prefix, ok := next()
	if !ok {
		return dst, bad
	}
	suffix, ok := next()
	if !ok || len(patch) < 4 {
		return dst, bad
	}
	holes := binary.BigEndian.Uint32(patch)
	patch = patch[4:]
	out := append(dst, prefix...)
	at := 0
	for range holes {
		if len(patch) < 4 {
			return dst, bad
		}
		offset := int(binary.BigEndian.Uint32(patch))
		patch = patch[4:]
		value, ok := next()
		if !ok || offset < at || offset > len(view)-len(viewHole) || string(view[offset:offset+len(viewHole)]) != viewHole {
			return dst, bad
		}
		out = append(out, view[at:offset]...)
		out = append(out, value...)
		at = offset + len(viewHole)
	}
	if len(patch) != 0 {
		return dst, bad
	}
	out = append(out, view[at:]...)
	return append(out, suffix...), nil
}
