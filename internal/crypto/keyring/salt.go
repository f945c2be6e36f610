package keyring

import (
	"crypto/rand"
	"sync/atomic"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

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
