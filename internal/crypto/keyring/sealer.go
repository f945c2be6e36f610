package keyring

import (
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// Sealer seals for one (namespace, key name) with the data key that was current when it was handed out. It is safe for
// concurrent use. Take a new one from the Keyring for every call: it keeps neither up with renewal nor with revocation.
type Sealer struct {
	dk     *dataKey
	clock  *atomic.Int64   // coarse time of the Keyring
	header envelope.Header // without a salt

	current atomic.Pointer[payloadSalt]
	mu      sync.Mutex // held while current is renewed
}

// PayloadSize is the length of what AppendPayload appends for a payload of n bytes that is not compressed.
func (s *Sealer) PayloadSize(n int) int { return s.header.PayloadSize(n) }

// AppendPayload is the Writer's.
func (s *Sealer) AppendPayload(dst, payload []byte, compress bool) ([]byte, error) {
	w, err := s.writer()
	if err != nil {
		return dst, err
	}
	return w.AppendPayload(dst, payload, compress), nil
}

// AppendView is the Writer's.
func (s *Sealer) AppendView(dst, payload []byte, sel envelope.Selection) ([]byte, error) {
	w, err := s.writer()
	if err != nil {
		return dst, err
	}
	return w.AppendView(dst, payload, sel), nil
}

// AppendText is the Writer's, of a text that turns out to be UTF-8.
func (s *Sealer) AppendText(dst, text []byte) ([]byte, error) {
	if !utf8.Valid(text) {
		return dst, s.header.Errorf(crypto.KindMalformed, "seal", "the text is not UTF-8")
	}
	w, err := s.writer()
	if err != nil {
		return dst, err
	}
	return w.AppendText(dst, text), nil
}

// writer returns the Writer to seal one envelope with, and counts that.
func (s *Sealer) writer() (*envelope.Writer, error) {
	salt, err := s.salt()
	switch {
	case errors.Is(err, errDropped):
		return nil, s.header.Errorf(crypto.KindRevoked, "seal", "%v", err)
	case err != nil:
		return nil, s.header.Errorf(crypto.KindUnavailable, "seal", "derive a payload key: %w", err)
	}
	s.dk.use.sealed.Add(1)
	return salt.writer, nil
}

const (
	saltPayloads = 1 << 20
	saltLife     = 10 * time.Minute
)

// payloadSalt is one payload key at work.
type payloadSalt struct {
	writer *envelope.Writer
	born   time.Time
	used   atomic.Uint64
}

// salt returns the payload key to seal one envelope with. It is renewed after 2^20 payloads or ten minutes, so that an
// opener meets few salts and no payload key sees enough nonces to make two alike.
func (s *Sealer) salt() (*payloadSalt, error) {
	if s.dk.dropped.Load() {
		return nil, errDropped
	}
	now := time.Unix(0, s.clock.Load())
	if p := s.current.Load(); p.fresh(now) {
		return p, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.current.Load(); p.fresh(now) {
		return p, nil
	}
	h := s.header
	rand.Read(h.Salt[:]) // never fails: the runtime ends the process if the system has no randomness
	c, err := s.dk.cipher(&h.Salt)
	if err != nil {
		return nil, err
	}
	p := &payloadSalt{writer: envelope.NewWriter(c, &h), born: now}
	p.used.Store(1)
	s.current.Store(p)
	return p, nil
}

// fresh counts one use, and reports whether there was one left.
func (p *payloadSalt) fresh(now time.Time) bool {
	return p != nil && p.used.Add(1) <= saltPayloads && now.Sub(p.born) < saltLife
}
