package keyring

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
)

const maxFormer = 64 // keys that an alias meant before

// keks holds the key encryption keys that are open.
type keks struct {
	core    *core
	health  keyhealth.Options
	flights *flights[string, *keyhealth.Key] // by URI

	mu     sync.Mutex
	byURI  map[string]*keyhealth.Key
	former []*keyhealth.Key // that a URI meant before; data keys from them are in use still
}

func (s *keks) get(uri string) *keyhealth.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byURI[uri]
}

func (s *keks) all() []*keyhealth.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.AppendSeq(slices.Clone(s.former), maps.Values(s.byURI))
}

// moved returns the keys that URIs meant before.
func (s *keks) moved() []*keyhealth.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.former)
}

// named returns the open keys by URI.
func (s *keks) named() map[string]*keyhealth.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.byURI)
}

// open returns the key of a URI, and opens it when it is needed first.
func (s *keks) open(ctx context.Context, uri string) (*keyhealth.Key, error) {
	if key := s.get(uri); key != nil {
		return key, nil
	}
	if err := s.flights.refused(uri); err != nil {
		return nil, err
	}
	ctx, cancel := s.core.within(ctx)
	defer cancel()
	key, err := s.flights.do(ctx, uri, func(ctx context.Context) (*keyhealth.Key, error) {
		key, err := s.openNew(ctx, uri)
		if err != nil {
			return nil, s.flights.refuse(uri, err)
		}
		return s.keep(uri, key), nil
	})
	if err != nil {
		return nil, err
	}
	return s.keep(uri, key), nil // lookUp may have opened it
}

func (s *keks) openNew(ctx context.Context, uri string) (*keyhealth.Key, error) {
	p, err := s.core.service.open(ctx, uri)
	if err != nil {
		return nil, err
	}
	if c, ok := p.(crypto.WrapChecker); ok && s.get(uri) == nil {
		if err := c.CheckWrap(ctx); err != nil {
			s.core.opt.Log.Error("nothing can be sealed with a key encryption key now; what it sealed before may open", "kek", uri, "error", err)
		}
	}
	return keyhealth.New(p, &s.health), nil
}

// keep notes an open key, unless another one was noted for its URI meanwhile.
func (s *keks) keep(uri string, key *keyhealth.Key) *keyhealth.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	if open := s.byURI[uri]; open != nil {
		return open
	}
	s.byURI[uri] = key
	return key
}

// lookUp returns the key that a URI means now, which differs from the open one if an alias has moved. It notes nothing.
func (s *keks) lookUp(ctx context.Context, uri string) (*keyhealth.Key, error) {
	open := s.get(uri)
	if open == nil {
		return s.flights.do(ctx, uri, func(ctx context.Context) (*keyhealth.Key, error) { return s.openNew(ctx, uri) })
	}
	now, err := s.openNew(ctx, uri)
	switch {
	case crypto.KindOf(err) == crypto.KindUnavailable:
		return open, nil
	case err != nil:
		return nil, err
	case now.Ref() != open.Ref():
		return now, nil
	}
	return open, nil
}

// commit notes the keys that a set was prepared with.
func (s *keks) commit(set *Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uri, key := range set.found {
		open := s.byURI[uri]
		if open != nil && open.Ref() == key.Ref() {
			continue
		}
		s.byURI[uri] = key
		if open != nil {
			s.former = append(s.former, open)
		}
	}
}

// forgetUnlisted takes out and returns the keys that a set does not name, so that they are not asked any more: they may be
// about to be disabled for good. What would be sealed with them could not be opened again.
func (s *keks) forgetUnlisted(set *Set) map[*keyhealth.Key]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	unlisted := make(map[*keyhealth.Key]bool)
	maps.DeleteFunc(s.byURI, func(uri string, key *keyhealth.Key) bool {
		if !set.names(uri) {
			unlisted[key] = true
		}
		return unlisted[key]
	})
	surplus := len(s.former) - maxFormer
	s.former = slices.DeleteFunc(s.former, func(key *keyhealth.Key) bool {
		if !set.names(key.URI()) || surplus > 0 {
			surplus--
			unlisted[key] = true
		}
		return unlisted[key]
	})
	return unlisted
}

// candidates returns the keys of an entry that an envelope's reference may mean, mostly one: replicas of a multi-Region key
// share their reference. Keys that were not needed so far are opened only if none else fits.
func (s *keks) candidates(ctx context.Context, m match, h *envelope.Header) (found []*keyhealth.Key, err error) {
	var closed []string
	for uri := range m.each {
		if key := s.get(uri); key == nil {
			closed = append(closed, uri)
		} else if key.Ref() == h.KEK {
			found = append(found, key)
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	for _, uri := range closed {
		key, failed := s.open(ctx, uri)
		switch {
		case failed != nil:
			err = failed
		case key.Ref() == h.KEK:
			return []*keyhealth.Key{key}, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return nil, h.Errorf(crypto.KindNotConfigured, "open",
		"it was sealed under a key encryption key (reference %s) that is not configured; "+
			"add its URI to open_only of this entry. If an alias has moved, that is the ARN of the key that it named before, "+
			"which /keys of a replica that has run since then lists, and CloudTrail with UpdateAlias", h.KEK)
}
