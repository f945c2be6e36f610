package envelope

import "crypto/sha256"

// Open appends to dst what s holds: the original serialized Payload (forms 0 and 1) or the text (form 2). dst must not
// overlap s. If an error is returned, dst is as it was.
func (c *Cipher) Open(dst []byte, s *Sealed) ([]byte, error) {
	h := s.Header
	n := h.Size()
	aad := s.envelope[:n:n]
	if s.Form == FormView {
		sum := sha256.Sum256(s.view)
		aad = append(aad, sum[:]...)
	}
	start := len(dst)
	if s.Form != FormView && h.Flags&flagZstd == 0 {
		out, err := c.open(dst, s.envelope[n:], aad)
		if err != nil {
			return dst, h.Tampered("its tag is wrong")
		}
		if h.Flags&flagPadded == 0 {
			return out, nil
		}
		body, ok := unpad(out[start:])
		if !ok {
			clear(out[start:])
			return dst, h.Tampered("its padding is wrong")
		}
		return out[:start+len(body)], nil
	}
	body, err := c.open(nil, s.envelope[n:], aad)
	if err != nil {
		return dst, h.Tampered("its tag is wrong")
	}
	defer clear(body)
	if h.Flags&flagPadded != 0 {
		var ok bool
		if body, ok = unpad(body); !ok {
			return dst, h.Tampered("its padding is wrong")
		}
	}
	if s.Form == FormView {
		if out, ok := appendPatched(dst, s.view, body); ok {
			return out, nil
		}
		clear(dst[start:cap(dst)])
		return dst, h.Tampered("the sealed part does not fit the readable document")
	}
	out, err := appendDecompressed(dst, body, len(s.envelope), s.grow)
	if err != nil && err != errFrame {
		return dst, err
	} else if err != nil {
		return dst, h.Tampered(err.Error())
	}
	return out, nil
}

// unpad takes off the padding: 0x80 and any number of zeros after it.
func unpad(b []byte) ([]byte, bool) {
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	if n == 0 || b[n-1] != 0x80 {
		return b, false
	}
	return b[:n-1], true
}
