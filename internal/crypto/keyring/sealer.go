package keyring

import (
	"time"
	"unicode/utf8"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

const (
	// maxSeals is how many envelopes a data key seals. NIST SP 800-38D allows 2^32 with random nonces.
	maxSeals = 1 << 31
	// renewSeals is after how many of them a successor is made, so that it is there in time.
	renewSeals = maxSeals / 2

	// Of a data key that seals by reference, some envelopes carry it all the same: the first ones, and one of many
	// afterwards. From these its row can be made again if the key store is lost.
	firstAnchors   = 4
	anchorInterval = 256
)

// Sealer seals for one (namespace, key name) with the data key that was current when it was handed out. It is safe for
// concurrent use. Take a new one from the Keyring for every call: a kept one misses renewal and revocation.
type Sealer struct {
	dk        *dataKey
	life      time.Duration // of its entry, when the data key was made
	carrying  form          // self-contained
	reference form
}

// form is one of the two forms of envelopes.
type form struct {
	header *envelope.Header
	writer *envelope.Writer
}

func newSealer(dk *dataKey) *Sealer {
	h := dk.envelopeHeader()
	reference := envelope.ReferenceTo(h)
	cipher := dk.cipher.Load()
	if dk.life.Load() != nil { // an envelope that carries the key would outlive its end
		h = reference
	}
	return &Sealer{dk: dk, carrying: form{h, envelope.NewWriter(cipher, h)}, reference: form{reference, envelope.NewWriter(cipher, reference)}}
}

// newSubjectSealer returns the sealer of a subject's key. All of its envelopes are by reference: one that carried the key would
// outlive an erasure.
func newSubjectSealer(dk *dataKey) *Sealer {
	h := envelope.SubjectReference(dk.id, dk.context.Key, dk.context.Namespace)
	reference := form{h, envelope.NewWriter(dk.cipher.Load(), h)}
	return &Sealer{dk: dk, carrying: reference, reference: reference}
}

// usable reports whether the sealer may serve now.
func (s *Sealer) usable() bool {
	return s.dk.usable() && s.dk.seals.Load() < s.dk.maxSeals() && s.dk.mayRefer() && s.dk.life.Load().Seals()
}

// PayloadSize is the most that an envelope takes for a payload of n bytes that is not compressed.
func (s *Sealer) PayloadSize(n int) int { return s.carrying.header.PayloadSize(n) }

// Envelope is an envelope that may be sealed. Its form is chosen; it counts once it is sealed.
type Envelope struct {
	sealer *Sealer
	form   *form
}

// Envelope returns the next envelope.
func (s *Sealer) Envelope() Envelope {
	n := s.dk.chosen.Add(1)
	if !s.dk.stored.Load() || n <= firstAnchors || n%anchorInterval == 0 {
		return Envelope{s, &s.carrying}
	}
	return Envelope{s, &s.reference}
}

// AppendPayload seals the next envelope.
func (s *Sealer) AppendPayload(dst, payload []byte, compress bool, nonces *envelope.Nonces) ([]byte, error) {
	return s.Envelope().AppendPayload(dst, payload, compress, nonces)
}

// Of reports whether the envelope is one of a sealer.
func (e Envelope) Of(s *Sealer) bool { return e.sealer == s }

// PayloadSize is the length of what AppendPayload appends for a payload of n bytes that is not compressed.
func (e Envelope) PayloadSize(n int) int { return e.form.header.PayloadSize(n) }

// AppendPayload is the Writer's.
func (e Envelope) AppendPayload(dst, payload []byte, compress bool, nonces *envelope.Nonces) ([]byte, error) {
	if err := e.sealer.count(); err != nil {
		return dst, err
	}
	return e.form.writer.AppendPayload(dst, payload, compress, nonces), nil
}

// AppendWithin is the Writer's. What does not fit seals nothing, and does not count.
func (e Envelope) AppendWithin(dst, payload []byte, size int, nonces *envelope.Nonces) (_ []byte, ok bool, err error) {
	out, ok := e.form.writer.AppendWithin(dst, payload, size, nonces)
	if !ok {
		return dst, false, nil
	}
	if err := e.sealer.count(); err != nil {
		return dst, false, err
	}
	return out, true, nil
}

// AppendView is the Writer's.
func (e Envelope) AppendView(
	dst, payload []byte, sel envelope.Selection, nonces *envelope.Nonces,
) (_ []byte, why envelope.Mismatch, err error) {
	if err := e.sealer.count(); err != nil {
		return dst, envelope.Matched, err
	}
	dst, why = e.form.writer.AppendView(dst, payload, sel, nonces)
	return dst, why, nil
}

// AppendText is the Writer's, of a text that turns out to be UTF-8.
func (e Envelope) AppendText(dst, text []byte, nonces *envelope.Nonces) ([]byte, error) {
	if !utf8.Valid(text) {
		return dst, e.sealer.carrying.header.Errorf(crypto.KindMalformed, "seal", "the text is not UTF-8")
	}
	if err := e.sealer.count(); err != nil {
		return dst, err
	}
	return e.form.writer.AppendText(dst, text, nonces), nil
}

// maxSeals is how many envelopes this process may seal with the key.
func (dk *dataKey) maxSeals() int64 {
	if dk.subject != nil {
		return maxSubjectSeals
	}
	return maxSeals
}

// mayRefer reports whether a key that expires may seal: it has no envelopes but those by reference to its row.
func (dk *dataKey) mayRefer() bool { return dk.life.Load() == nil || dk.stored.Load() }

// count counts one envelope, and returns an error if it may not be sealed.
func (s *Sealer) count() error {
	if s.dk.cipher.Load() == nil {
		return s.carrying.header.Errorf(crypto.KindRevoked, "seal", "%v", errDropped)
	}
	if s.dk.subject != nil && !s.dk.subject.of.inForce() {
		return s.carrying.header.Errorf(crypto.KindUnavailable, "seal", "the key store does not answer what was erased, so keys of subjects do not seal")
	}
	if !s.dk.mayRefer() || !s.dk.life.Load().Seals() {
		return s.carrying.header.Errorf(crypto.KindUnavailable, "seal", "the time in which the data key seals is over, or the key store has lost its row; try again")
	}
	if s.dk.seals.Add(1) > s.dk.maxSeals() {
		return s.carrying.header.Errorf(crypto.KindUnavailable, "seal", "the data key has sealed %d envelopes, which is all that one may; try again",
			s.dk.maxSeals())
	}
	s.dk.use.sealed.Add(1)
	return nil
}
