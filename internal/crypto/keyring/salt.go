package keyring

import (
	"crypto/rand"
	"sync"
	"sync/atomic"
	"time"
)

const (
	saltPayloads = 1 << 20
	saltLife     = 10 * time.Minute
)

// payloadSalt is one payload key at work: the salt, the AEAD derived from it, and the header of all envelopes that it
// seals, flags apart.
type payloadSalt struct {
	aead   aead
	header []byte
	born   time.Time
	used   atomic.Uint64
}

// saltState renews the salt after 2^20 payloads or ten minutes, so that an opener meets few salts and no payload key
// sees enough nonces to make two alike.
type saltState struct {
	current atomic.Pointer[payloadSalt]
	mu      sync.Mutex
}

// salt gives the payload key to seal one envelope with.
func (s *Sealer) salt() (*payloadSalt, error) {
	now := time.Unix(0, s.clock.Load())
	if p := s.salts.current.Load(); p.fresh(now) {
		return p, nil
	}
	s.salts.mu.Lock()
	defer s.salts.mu.Unlock()
	if p := s.salts.current.Load(); p.fresh(now) {
		return p, nil
	}
	h := s.header
	rand.Read(h.Salt[:]) // never fails: the runtime ends the process if the system has no randomness
	a, err := s.dk.payloadAEAD(&h.Salt)
	if err != nil {
		return nil, err
	}
	p := &payloadSalt{aead: a, header: appendHeader(nil, &h), born: now}
	p.used.Store(1)
	s.salts.current.Store(p)
	return p, nil
}

// fresh counts one use, and tells whether there was one left.
func (p *payloadSalt) fresh(now time.Time) bool {
	return p != nil && p.used.Add(1) <= saltPayloads && now.Sub(p.born) < saltLife
}
