package keyring

import (
	"context"
	"errors"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
)

const (
	maxCalls = 20  // to key services at once
	maxOpens = 100 // keys that are opened at once: those of a service that is away must not keep the others waiting
)

// service makes the calls to key services: only so many at once, each with a time limit and a span.
type service struct {
	opt   *Options
	calls chan struct{} // a place per call under way
	opens chan struct{} // and one per key that is being opened
}

// call makes one call with its span.
func (s *service) call(ctx context.Context, op string, kc crypto.KeyContext, f func(ctx context.Context) error) error {
	return limited(ctx, s.calls, op, kc, callTimeout, func(ctx context.Context) error {
		end := func(error) {}
		if s.opt.Trace != nil {
			ctx, end = s.opt.Trace(ctx, op, kc)
		}
		err := classified(op, kc, f(ctx))
		end(err)
		return err
	})
}

// limited calls f once there is a place.
func limited(
	ctx context.Context, places chan struct{}, op string, kc crypto.KeyContext, timeout time.Duration, f func(ctx context.Context) error,
) error {
	select {
	case places <- struct{}{}:
	case <-ctx.Done():
		return crypto.Unavailable(op, kc, ctx.Err())
	}
	defer func() { <-places }()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return classified(op, kc, f(ctx))
}

// classified makes an error without a kind one of an unavailable service.
func classified(op string, kc crypto.KeyContext, err error) error {
	var known *crypto.Error
	if err != nil && !errors.As(err, &known) {
		return crypto.Unavailable(op, kc, err)
	}
	return err
}

// open has a key opened. That may take several calls, and longer than one does: it may need credentials.
func (s *service) open(ctx context.Context, uri string) (p crypto.Provider, err error) {
	err = limited(ctx, s.opens, "open key", crypto.KeyContext{}, maxWait, func(ctx context.Context) (err error) {
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
	err := s.call(ctx, "kms.generate_data_key", kc, func(ctx context.Context) (err error) {
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
	err = s.call(ctx, "kms.decrypt", kc, func(ctx context.Context) (err error) {
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
