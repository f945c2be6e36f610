package keyring

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
)

const (
	maxCalls = 20  // to one key service at once
	maxOpens = 100 // keys of one that are opened at once
)

// service makes the calls to key services: only so many to each at once, so that one that does not answer keeps the others from nothing.
// Each call has a time limit and a span.
type service struct {
	opt   *Options
	calls places // of calls under way
	opens places // of keys that are being opened
}

// places limits how much goes on at once for each key service. Those of a service are made when they are needed.
type places struct {
	each int

	mu sync.Mutex
	of map[string]*share
}

// share is what a service has of places.
type share struct {
	taken chan struct{}
	users int // that wait for a place or have one
}

// take waits for a place. The caller gives it back.
func (p *places) take(ctx context.Context, service string) (taken place, err error) {
	p.mu.Lock()
	s := p.of[service]
	if s == nil {
		if p.of == nil {
			p.of = make(map[string]*share)
		}
		s = &share{taken: make(chan struct{}, p.each)}
		p.of[service] = s
	}
	s.users++
	p.mu.Unlock()
	taken = place{p, service, s}
	select {
	case s.taken <- struct{}{}:
		return taken, nil
	case <-ctx.Done():
		taken.leave()
		return place{}, ctx.Err()
	}
}

// place is one of a service's places, taken.
type place struct {
	places  *places
	service string
	share   *share
}

func (p place) giveBack() {
	<-p.share.taken
	p.leave()
}

func (p place) leave() {
	p.places.mu.Lock()
	defer p.places.mu.Unlock()
	if p.share.users--; p.share.users == 0 {
		delete(p.places.of, p.service)
	}
}

// size returns how many services have places.
func (p *places) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.of)
}

// serviceOf returns what a key's URI says about where its service is: the scheme, what stands before the key's name, and the parameters
// that name a place. Two texts may stand for one service, which then has places twice.
func serviceOf(uri string) string {
	scheme, rest, found := strings.Cut(uri, "://")
	if !found {
		scheme, _, _ = strings.Cut(uri, ":")
		return scheme + ":"
	}
	path, query, _ := strings.Cut(rest, "?")
	service, _, found := strings.Cut(path, "/")
	if !found { // the key alone
		service = ""
	}
	service = scheme + ":" + service
	for parameter := range strings.SplitSeq(query, "&") {
		if name, _, _ := strings.Cut(parameter, "="); name == "region" || name == "endpoint" || name == "address" {
			service += "?" + parameter
		}
	}
	return service
}

// call makes one call to the service of a key, with its span.
func (s *service) call(ctx context.Context, uri, op string, kc crypto.KeyContext, f func(ctx context.Context) error) error {
	place, err := s.calls.take(ctx, serviceOf(uri))
	if err != nil {
		return crypto.Unavailable(op, kc, err)
	}
	defer place.giveBack()
	return limited(ctx, op, kc, callTimeout, func(ctx context.Context) error {
		end := func(error) {}
		if s.opt.Trace != nil {
			ctx, end = s.opt.Trace(ctx, op, kc)
		}
		err := classified(op, kc, f(ctx))
		end(err)
		return err
	})
}

// limited calls f with a time limit.
func limited(ctx context.Context, op string, kc crypto.KeyContext, timeout time.Duration, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return classified(op, kc, f(ctx))
}

// classified makes an error without a kind one of an unavailable service.
func classified(op string, kc crypto.KeyContext, err error) error {
	if err == nil {
		return nil
	}
	if _, known := errors.AsType[*crypto.Error](err); !known {
		return crypto.Unavailable(op, kc, err)
	}
	return err
}

// open has a key opened. That may take several calls, and longer than one does: it may need credentials.
func (s *service) open(ctx context.Context, uri string) (p crypto.Provider, err error) {
	place, err := s.opens.take(ctx, serviceOf(uri))
	if err != nil {
		return nil, crypto.Unavailable("open key", crypto.KeyContext{}, err)
	}
	defer place.giveBack()
	err = limited(ctx, "open key", crypto.KeyContext{}, maxWait, func(ctx context.Context) (err error) {
		p, err = s.opt.Open(ctx, uri)
		if err != nil && crypto.KindOf(err) == crypto.KindUnknown && ctx.Err() == nil {
			err = crypto.Internalf(crypto.KindNotConfigured, "open key", "%w", err)
		}
		return err
	})
	if crypto.KindOf(err) == crypto.KindDenied {
		err = crypto.Internalf(crypto.KindRevoked, "open key", "%w", err)
	}
	return p, err
}

// generate makes a data key and proves that its wrapped form can be unwrapped, before anything is sealed with it.
func (s *service) generate(ctx context.Context, key *keyhealth.Key, kc crypto.KeyContext) (*dataKey, error) {
	var plain, wrapped []byte
	err := s.call(ctx, key.URI(), "kms.generate_data_key", kc, func(ctx context.Context) (err error) {
		plain, wrapped, err = key.Provider().GenerateDataKey(ctx, kc)
		return err
	})
	if err != nil {
		key.Failed(err)
		return nil, err
	}
	defer clear(plain)
	if len(plain) != envelope.DataKeySize || len(wrapped) > envelope.MaxWrapped {
		return nil, kc.Internalf(crypto.KindNotConfigured, "kms.generate_data_key",
			"%s gave a data key of %d bytes wrapped in %d; 32 in at most %d were asked for",
			key.URI(), len(plain), len(wrapped), envelope.MaxWrapped)
	}
	made, err := newDataKey(key, kc, plain, wrapped)
	if err != nil {
		return nil, err
	}
	again, err := s.unwrap(ctx, key, kc, wrapped)
	if err != nil {
		return nil, err
	}
	if !again.is(made.id) {
		return nil, kc.Internalf(crypto.KindNotConfigured, "kms.decrypt",
			"%s unwraps to another data key than it wrapped; nothing is sealed with it", key.URI())
	}
	key.Answered(kc, wrapped, made.id)
	return made, nil
}

func (s *service) unwrap(ctx context.Context, key *keyhealth.Key, kc crypto.KeyContext, wrapped []byte) (*dataKey, error) {
	plain, err := s.unwrapPlain(ctx, key, kc, wrapped)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return newDataKey(key, kc, plain, wrapped)
}

// unwrapPlain returns the data key itself, which the caller clears.
func (s *service) unwrapPlain(ctx context.Context, key *keyhealth.Key, kc crypto.KeyContext, wrapped []byte) (plain []byte, err error) {
	err = s.call(ctx, key.URI(), "kms.decrypt", kc, func(ctx context.Context) (err error) {
		plain, err = key.Provider().UnwrapDataKey(ctx, wrapped, kc)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(plain) != envelope.DataKeySize {
		clear(plain)
		return nil, kc.Errorf(crypto.KindRejected, "kms.decrypt", "the unwrapped key has %d bytes and is not a data key", len(plain))
	}
	return plain, nil
}

// probe unwraps a data key to see whether the service does.
func (s *service) probe(ctx context.Context, key *keyhealth.Key, kc crypto.KeyContext, wrapped []byte) (id crypto.KeyID, err error) {
	dk, err := s.unwrap(ctx, key, kc, wrapped)
	if err != nil {
		return id, err
	}
	return dk.id, nil
}
