package crypto

import (
	"crypto/x509"
	"sync"
)

// Shared is the client of all keys of one kind of key service, with its connections. Each reload of the configuration
// opens its keys anew: with a client each, connections would stay behind for a minute and a half each time. The zero
// value is ready.
type Shared[T any] struct {
	mu          sync.Mutex
	made        bool
	client      T
	authorities *x509.CertPool
}

// Client returns the client, made anew if the authorities to trust are not those of the call before: a file may hold
// others at each reload.
func (s *Shared[T]) Client(authorities *x509.CertPool, make func() T) T {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.made || !authorities.Equal(s.authorities) {
		s.client, s.authorities, s.made = make(), authorities, true
	}
	return s.client
}
