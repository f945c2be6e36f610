package foreign

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

const (
	maxDataKeys = 4096
	maxRefusals = 1024
	maxCalls    = 8   // to key services at once
	maxUnwraps  = 256 // per message: it can hold any number of wrapped keys that somebody made up

	// dataKeyLife is how long a data key serves before the key service is asked again, so that a key that is taken away is
	// not used for much longer; grace is how long it serves while the service does not answer.
	dataKeyLife = 10 * time.Minute
	grace       = 6 * time.Hour
	refusalLife = 30 * time.Second
	callTimeout = 5 * time.Second
	maxWait     = 10 * time.Second
)

// dataKeys are the unwrapped data keys of foreign payloads.
type dataKeys struct {
	now      func() time.Time
	flights  singleflight.Group
	calls    chan struct{}
	opened   *lru.Cache[keyID, dataKey]
	refusals *lru.Cache[keyID, refusal]
}

// keyID is a hash of the source, the wrapped key and its context, so that a wrapped key in another context is another one.
type keyID [sha256.Size]byte

type dataKey struct {
	aead aead
	good time.Time // when the key service last unwrapped it
}

type refusal struct {
	err   error
	until time.Time
}

func newDataKeys(now func() time.Time) *dataKeys {
	k := &dataKeys{now: now, calls: make(chan struct{}, maxCalls)}
	var err1, err2 error
	k.opened, err1 = lru.New[keyID, dataKey](maxDataKeys)
	k.refusals, err2 = lru.New[keyID, refusal](maxRefusals)
	if err := errors.Join(err1, err2); err != nil {
		panic("caches of constant size: " + err.Error())
	}
	return k
}

func idOf(src *source, wrapped []byte, bound map[string]string) keyID {
	h := sha256.New()
	write := func(s string) {
		_ = binary.Write(h, binary.BigEndian, uint64(len(s)))
		h.Write([]byte(s))
	}
	write(src.key)
	write(string(wrapped))
	for _, name := range slices.Sorted(maps.Keys(bound)) {
		write(name)
		write(bound[name])
	}
	return keyID(h.Sum(nil))
}

// get returns the data key from memory, or has it unwrapped.
func (k *dataKeys) get(ctx context.Context, src *source, wrapped []byte, bound map[string]string, run *Run) (a aead, hit bool, err error) {
	id := idOf(src, wrapped, bound)
	known, have := k.opened.Get(id)
	if have && k.now().Sub(known.good) < dataKeyLife {
		return known.aead, true, nil
	}
	if r, ok := k.refusals.Get(id); ok && k.now().Before(r.until) {
		if crypto.KindOf(r.err) == crypto.KindUnavailable && have {
			return known.aead, true, nil
		}
		return a, false, r.err
	}
	if run.unwraps >= maxUnwraps {
		return a, false, fail(crypto.KindUnavailable, "", "", "one message holds more than %d unknown data keys; try again, those before this one are known by then", maxUnwraps)
	}
	run.unwraps++
	fresh, err := k.ask(ctx, id, src, slices.Clone(wrapped), bound)
	if err == nil {
		return fresh.aead, false, nil
	}
	if have && crypto.KindOf(err) == crypto.KindUnavailable && k.now().Sub(known.good) < grace {
		k.refusals.Add(id, refusal{err: err, until: k.now().Add(refusalLife)})
		return known.aead, true, nil
	}
	return a, false, err
}

// ask has one flight per data key, which outlives the caller that was first.
func (k *dataKeys) ask(ctx context.Context, id keyID, src *source, wrapped []byte, bound map[string]string) (dataKey, error) {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	landed := k.flights.DoChan(string(id[:]), func() (any, error) {
		k.calls <- struct{}{}
		defer func() { <-k.calls }()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		plain, err := src.Unwrap(ctx, wrapped, bound)
		if err != nil {
			return dataKey{}, k.refused(id, err)
		}
		defer clear(plain)
		a, err := newAEAD(plain)
		if err != nil || len(plain) != 32 {
			return dataKey{}, fail(crypto.KindRejected, "", "", "the key service unwrapped something that is no 256-bit data key")
		}
		dk := dataKey{aead: a, good: k.now()}
		k.opened.Add(id, dk)
		return dk, nil
	})
	select {
	case r := <-landed:
		if r.Err != nil {
			return dataKey{}, r.Err
		}
		return r.Val.(dataKey), nil
	case <-ctx.Done():
		return dataKey{}, fail(crypto.KindUnavailable, "", "", "the key service did not answer in time: %w", ctx.Err())
	}
}

// refused classifies a key service's error. An error about a wrapped key that came in a payload concerns that payload alone:
// every writer to the server can plant one.
func (k *dataKeys) refused(id keyID, err error) error {
	switch kind := crypto.KindOf(err); kind {
	case crypto.KindUnknown, crypto.KindUnavailable:
		return fail(crypto.KindUnavailable, "", "", "unwrap the data key: %w", err)
	case crypto.KindDenied:
		err = fail(crypto.KindRejected, "", "", "the key service refuses the wrapped key: it was made elsewhere, or the proxy's permissions do not cover it: %w", err)
	default:
		err = fail(kind, "", "", "unwrap the data key: %w", err)
	}
	k.opened.Remove(id)
	k.refusals.Add(id, refusal{err: err, until: k.now().Add(refusalLife)})
	return err
}
