package foreign

import (
	"context"
	"crypto/cipher"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

const (
	maxDataKeys = 4096
	maxRefusals = 1024
	maxCalls    = 8   // at once to the key service of each source
	maxUnwraps  = 256 // per message: it can hold any number of wrapped keys that somebody made up

	// dataKeyLife is how long a data key serves before the key service is asked again, so that a key that
	// is taken away is not used for much longer; grace is how long it serves while the service does not
	// answer.
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
	opened   *lru.Cache[keyID, dataKey]
	refusals *lru.Cache[keyID, refusal]
}

// keyID is a hash of the source, the wrapped key and its context, so that a wrapped key in another context
// is another one.
type keyID [sha256.Size]byte

type dataKey struct {
	aead cipher.AEAD
	good time.Time // when the key service last unwrapped it
}

type refusal struct {
	err   error
	until time.Time
}

func newDataKeys(now func() time.Time) *dataKeys {
	opened, _ := lru.New[keyID, dataKey](maxDataKeys) // an error is possible for sizes below 1 only
	refusals, _ := lru.New[keyID, refusal](maxRefusals)
	return &dataKeys{now: now, opened: opened, refusals: refusals}
}

// idOf quotes what it hashes, so that different parts never give the same text.
func idOf(src *source, wrapped []byte, bound map[string]string) keyID {
	// A map is written in the order of its keys.
	return sha256.Sum256(fmt.Appendf(nil, "%q %q %q", src.key, wrapped, bound))
}

// get returns the data key from memory, or has it unwrapped.
func (k *dataKeys) get(
	ctx context.Context, src *source, wrapped []byte, bound map[string]string, run *Run,
) (a cipher.AEAD, hit bool, err error) {
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
		return a, false, crypto.Internalf(crypto.KindUnavailable, "open", "one message holds more than %d "+
			"unknown data keys; try again, those before this one are known by then", maxUnwraps)
	}
	run.unwraps++
	a, err = k.ask(ctx, id, src, slices.Clone(wrapped), bound)
	if have && crypto.KindOf(err) == crypto.KindUnavailable && k.now().Sub(known.good) < grace {
		k.refusals.Add(id, refusal{err: err, until: k.now().Add(refusalLife)})
		return known.aead, true, nil
	}
	return a, false, err
}

// ask has one flight per data key, which outlives the caller that was first.
func (k *dataKeys) ask(
	ctx context.Context, id keyID, src *source, wrapped []byte, bound map[string]string,
) (cipher.AEAD, error) {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	landed := k.flights.DoChan(string(id[:]), func() (any, error) {
		src.calls <- struct{}{}
		defer func() { <-src.calls }()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		plain, err := src.Unwrap(ctx, wrapped, bound)
		if err != nil {
			return nil, k.refused(id, err)
		}
		defer clear(plain)
		a, err := newAEAD(plain)
		if err != nil || len(plain) != 32 {
			return nil, crypto.Internalf(crypto.KindRejected, "open",
				"the key service unwrapped something that is no 256-bit data key")
		}
		k.opened.Add(id, dataKey{aead: a, good: k.now()})
		return a, nil
	})
	select {
	case r := <-landed:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(cipher.AEAD), nil
	case <-ctx.Done():
		return nil, crypto.Internalf(crypto.KindUnavailable, "open", "the key service did not answer in time: %w", ctx.Err())
	}
}

// refused classifies a key service's error. An error about a wrapped key that came in a payload concerns
// that payload alone: every writer to the server can plant one.
func (k *dataKeys) refused(id keyID, err error) error {
	switch kind := crypto.KindOf(err); kind {
	case crypto.KindUnknown, crypto.KindUnavailable:
		return crypto.Internalf(crypto.KindUnavailable, "open", "unwrap the data key: %w", err)
	case crypto.KindDenied:
		err = crypto.Internalf(crypto.KindRejected, "open", "the key service refuses the wrapped key: "+
			"it was made elsewhere, or the proxy's permissions do not cover it: %w", err)
	default:
		err = crypto.Internalf(kind, "open", "unwrap the data key: %w", err)
	}
	k.opened.Remove(id)
	k.refusals.Add(id, refusal{err: err, until: k.now().Add(refusalLife)})
	return err
}
