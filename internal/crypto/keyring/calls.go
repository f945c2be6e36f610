package keyring

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// call makes one call to the key service, with its time limit and its span.
func (k *Keyring) call(ctx context.Context, op string, kc crypto.KeyContext, f func(ctx context.Context) error) error {
	return k.limited(ctx, op, kc, k.opt.CallTimeout, func(ctx context.Context) error {
		end := func(error) {}
		if k.opt.Trace != nil {
			ctx, end = k.opt.Trace(ctx, op, kc)
		}
		err := judged(op, kc, f(ctx))
		end(err)
		return err
	})
}

// limited lets only so many calls to key services be under way at once.
func (k *Keyring) limited(ctx context.Context, op string, kc crypto.KeyContext, timeout time.Duration, f func(ctx context.Context) error) error {
	select {
	case k.calls <- struct{}{}:
	case <-ctx.Done():
		return unavailable(op, kc, ctx.Err())
	}
	defer func() { <-k.calls }()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return judged(op, kc, f(ctx))
}

// judged makes an error that no provider has judged an unavailable service.
func judged(op string, kc crypto.KeyContext, err error) error {
	var known *crypto.Error
	if err != nil && !errors.As(err, &known) {
		return unavailable(op, kc, err)
	}
	return err
}

func unavailable(op string, kc crypto.KeyContext, err error) error {
	return (&crypto.Error{Kind: crypto.KindUnavailable, Op: op, Err: err}).In(kc.Key, kc.Namespace)
}

// generate makes a data key and proves that its wrapped form can be unwrapped, before anything is sealed with it.
func (k *Keyring) generate(ctx context.Context, kk *kek, kc crypto.KeyContext) (*dataKey, error) {
	var plain, wrapped []byte
	err := k.call(ctx, "kms.generate_data_key", kc, func(ctx context.Context) (err error) {
		plain, wrapped, err = kk.GenerateDataKey(ctx, kc)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	if len(plain) != envelope.DataKeySize || len(wrapped) > envelope.MaxWrapped {
		return nil, crypto.Errorf(crypto.KindNotConfigured, "kms.generate_data_key", "%s gave a data key of %d bytes wrapped in %d; 32 in at most %d were asked for",
			kk.URI(), len(plain), len(wrapped), envelope.MaxWrapped).In(kc.Key, kc.Namespace).Internal()
	}
	made, err := newDataKey(kk, kc, plain, wrapped)
	if err != nil {
		return nil, err
	}
	made.use = k.useOf(kk, kc)
	again, err := k.unwrap(ctx, kk, kc, wrapped)
	if err != nil {
		return nil, err
	}
	if again.id != made.id {
		return nil, crypto.Errorf(crypto.KindNotConfigured, "kms.decrypt", "%s unwraps to another data key than it wrapped; nothing is sealed with it",
			kk.URI()).In(kc.Key, kc.Namespace).Internal()
	}
	kk.answered(k.now(), kc, wrapped, made.id)
	return made, nil
}

func (k *Keyring) unwrap(ctx context.Context, kk *kek, kc crypto.KeyContext, wrapped []byte) (*dataKey, error) {
	var plain []byte
	err := k.call(ctx, "kms.decrypt", kc, func(ctx context.Context) (err error) {
		plain, err = kk.UnwrapDataKey(ctx, wrapped, kc)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	if len(plain) != envelope.DataKeySize {
		return nil, crypto.Errorf(crypto.KindRejected, "kms.decrypt", "the wrapped key holds %d bytes and so no data key", len(plain)).In(kc.Key, kc.Namespace)
	}
	dk, err := newDataKey(kk, kc, plain, wrapped)
	if err == nil {
		dk.use = k.useOf(kk, kc)
	}
	return dk, err
}

// jitter spreads d by the share in both directions, so that many proxies do not call at the same moment.
func jitter(d time.Duration, share float64) time.Duration {
	return time.Duration(float64(d) * (1 + share*(2*rand.Float64()-1)))
}
