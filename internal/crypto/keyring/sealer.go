package keyring

import (
	"unicode/utf8"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

const (
	// maxSeals is how many envelopes a data key seals. NIST SP 800-38D allows 2^32 with random nonces.
	maxSeals = 1 << 31
	// renewSeals is after how many of them a successor is made, so that it is there in time.
	renewSeals = maxSeals / 2
)

// Sealer seals for one (namespace, key name) with the data key that was current when it was handed out. It is safe for
// concurrent use. Take a new one from the Keyring for every call: it keeps neither up with renewal nor with revocation.
type Sealer struct {
	dk     *dataKey
	header *envelope.Header
	writer *envelope.Writer
}

func newSealer(dk *dataKey) *Sealer {
	h := dk.envelopeHeader()
	return &Sealer{dk: dk, header: h, writer: envelope.NewWriter(dk.cipher.Load(), h)}
}

// usable reports whether the sealer may serve now.
func (s *Sealer) usable() bool { return s.dk.usable() && s.dk.seals.Load() < maxSeals }

// PayloadSize is the length of what AppendPayload appends for a payload of n bytes that is not compressed.
func (s *Sealer) PayloadSize(n int) int { return s.header.PayloadSize(n) }

// AppendPayload is the Writer's.
func (s *Sealer) AppendPayload(dst, payload []byte, compress bool, nonces *envelope.Nonces) ([]byte, error) {
	if err := s.count(); err != nil {
		return dst, err
	}
	return s.writer.AppendPayload(dst, payload, compress, nonces), nil
}

// AppendWithin is the Writer's. What does not fit seals nothing, and does not count.
func (s *Sealer) AppendWithin(dst, payload []byte, size int, nonces *envelope.Nonces) (_ []byte, ok bool, err error) {
	out, ok := s.writer.AppendWithin(dst, payload, size, nonces)
	if !ok {
		return dst, false, nil
	}
	if err := s.count(); err != nil {
		return dst, false, err
	}
	return out, true, nil
}

// AppendView is the Writer's.
func (s *Sealer) AppendView(dst, payload []byte, sel envelope.Selection, nonces *envelope.Nonces) ([]byte, error) {
	if err := s.count(); err != nil {
		return dst, err
	}
	return s.writer.AppendView(dst, payload, sel, nonces), nil
}

// AppendText is the Writer's, of a text that turns out to be UTF-8.
func (s *Sealer) AppendText(dst, text []byte, nonces *envelope.Nonces) ([]byte, error) {
	if !utf8.Valid(text) {
		return dst, s.header.Errorf(crypto.KindMalformed, "seal", "the text is not UTF-8")
	}
	if err := s.count(); err != nil {
		return dst, err
	}
	return s.writer.AppendText(dst, text, nonces), nil
}

// count counts one envelope, and returns an error if it may not be sealed.
func (s *Sealer) count() error {
	if s.dk.cipher.Load() == nil {
		return s.header.Errorf(crypto.KindRevoked, "seal", "%v", errDropped)
	}
	if s.dk.seals.Add(1) > maxSeals {
		return s.header.Errorf(crypto.KindUnavailable, "seal", "the data key has sealed %d envelopes, which is all that one may; try again", maxSeals)
	}
	s.dk.use.sealed.Add(1)
	return nil
}
