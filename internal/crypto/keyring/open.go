package keyring

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
)

// Run is a run of envelopes that are opened one after the other, as those of one message are. The zero value is ready; it
// is not safe for concurrent use.
type Run struct {
	unwraps int
	recent  [4]*opener // messages mostly hold envelopes with one header or a few
	next    int
}

// opener returns the noted opener of a header.
func (r *Run) opener(header []byte, set *Set) *opener {
	for _, op := range r.recent {
		if op != nil && op.set == set && bytes.Equal(op.header, header) {
			return op
		}
	}
	return nil
}

func (r *Run) note(op *opener) {
	if !slices.Contains(r.recent[:], op) {
		r.recent[r.next%len(r.recent)] = op
		r.next++
	}
}

// maxUnwraps is how many envelopes of one run are taken to a key service: a message can hold any number of envelopes
// that somebody made up. What was unwrapped stays in memory, so the next try gets further.
const maxUnwraps = 256

// opening opens envelopes, and unwraps the data keys that it takes.
type opening struct {
	core    *core
	cache   *openedKeys
	flights *flights[wrapID, *dataKey]
	missed  func(namespace, key string) // is called when the key service did not answer
}

// open is Keyring.OpenNext.
func (o *opening) open(ctx context.Context, dst []byte, s *envelope.Sealed, namespace string, run *Run) (out []byte, hit bool, err error) {
	set := o.core.set.Load()
	if !set.opens(s.Header.Namespace, namespace) {
		return dst, false, s.Header.Errorf(crypto.KindForeign, "open",
			"sealed in another namespace than %q; a grant in the configuration would allow it", namespace)
	}
	header := s.KeyHeader()
	op := run.opener(header, set)
	if op == nil {
		op = o.cache.opener(header)
	}
	if op != nil && op.set == set && op.dk.usable() {
		run.note(op)
		o.core.use(op.dk)
		if out, err = op.cipher.Open(dst, s); err == nil {
			op.dk.use.countOpened(&o.core.coarse)
		}
		return out, true, err
	}
	dk, hit, err := o.dataKey(ctx, s.Header, set, namespace, run)
	if err != nil {
		if crypto.KindOf(err) == crypto.KindUnavailable {
			o.missed(namespace, s.Header.Key)
		}
		return dst, false, err
	}
	o.core.use(dk)
	if subtle.ConstantTimeCompare(dk.id[:], s.Header.DataKeyID[:]) != 1 {
		return dst, hit, s.Header.Tampered("the data-key id is not that of the wrapped key")
	}
	c, err := dk.cipher(&s.Header.Salt)
	if err != nil {
		return dst, hit, s.Header.Errorf(crypto.KindUnavailable, "open", "derive a payload key: %w", err)
	}
	if out, err = c.Open(dst, s); err == nil {
		dk.use.countOpened(&o.core.coarse)
		run.note(o.cache.addOpener(header, c, dk, set))
	}
	return out, hit, err
}

// dataKey returns the data key that an envelope names, from memory or from the key service.
func (o *opening) dataKey(ctx context.Context, header *envelope.Header, set *Set, namespace string, run *Run) (dk *dataKey, hit bool, err error) {
	if set.revoked[header.DataKeyID] {
		return nil, false, header.Errorf(crypto.KindRevoked, "open", "its data key %s... stands in revoked_data_keys",
			hex.EncodeToString(header.DataKeyID[:4]))
	}
	e, value, _, ok := set.find(set.local(header.Namespace), header.Key)
	if !ok {
		return nil, false, header.Errorf(crypto.KindNotConfigured, "open",
			"no entry of `keys` in the configuration has this name and serves this namespace")
	}
	id := wrapIDOf(header)
	if dk, ok := o.cache.keys.Get(id); ok && dk.usable() && e.names(value, dk.kek.URI()) {
		return dk, true, nil
	}
	if err := o.refused(id); err != nil {
		return nil, false, err
	}
	// The flight and its error outlive the message that the header may alias.
	h := &envelope.Header{Key: strings.Clone(header.Key), Namespace: strings.Clone(header.Namespace), KEK: header.KEK,
		DataKeyID: header.DataKeyID, Wrapped: bytes.Clone(header.Wrapped)}
	value = strings.Clone(value)
	if err := o.mayAsk(h, namespace, run); err != nil {
		return nil, false, err
	}
	wait := o.core.opt.MaxWait
	if deadline, ok := ctx.Deadline(); ok {
		wait = beforeItEnds(time.Until(deadline))
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	candidates, err := o.candidates(ctx, e, value, h)
	if err != nil {
		return nil, false, err
	}
	dk, err = o.flights.do(ctx, id, func(ctx context.Context) (*dataKey, error) { return o.ask(ctx, id, h, candidates) })
	return dk, false, err
}

// refused returns the error that a wrapped key got lately.
func (o *opening) refused(id wrapID) error {
	if r, ok := o.cache.refusals.Get(id); ok && o.core.opt.Now().Before(r.until) {
		return r.err
	}
	return nil
}

// candidates returns the key encryption keys of an entry that the envelope's reference may mean, mostly one. Keys that
// were not needed so far are opened only if none else fits.
func (o *opening) candidates(ctx context.Context, e *keyEntry, value string, h *envelope.Header) (found []*keyhealth.Key, err error) {
	found, closed := o.core.keys.candidates(e, value, h.KEK)
	if len(found) > 0 {
		return found, nil
	}
	for _, uri := range closed {
		key, failed := o.core.keys.open(ctx, uri)
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
		"it was sealed under a key encryption key (reference %s) that is not configured; add its URI to open_only of this entry", h.KEK)
}

// ask has the data key unwrapped by the first of the candidates that answers.
func (o *opening) ask(ctx context.Context, id wrapID, h *envelope.Header, candidates []*keyhealth.Key) (*dataKey, error) {
	// Another flight may have landed between this caller's look at the cache and its departure.
	if dk, ok := o.cache.keys.Get(id); ok && dk.usable() && slices.Contains(candidates, dk.kek) {
		return dk, nil
	}
	if err := o.refused(id); err != nil {
		return nil, err
	}
	kc := crypto.KeyContext{Namespace: h.Namespace, Key: h.Key}
	var err error
	for _, key := range candidates {
		var dk *dataKey
		if dk, err = o.core.service.unwrap(ctx, key, kc, h.Wrapped); err == nil {
			o.core.count(dk)
			key.Answered(kc, h.Wrapped, dk.id)
			o.cache.add(dk)
			return dk, nil
		}
		if err = o.explain(ctx, key, kc, err); crypto.KindOf(err) != crypto.KindUnavailable {
			break
		}
	}
	if crypto.KindOf(err) != crypto.KindUnavailable {
		o.cache.refusals.Add(id, o.core.refusal(err))
	}
	return nil, err
}

// explain finds out whether an error concerns this envelope alone. Every writer to the server can plant a wrapped
// key that the service refuses, so only a good blob says something about the key itself.
func (o *opening) explain(ctx context.Context, key *keyhealth.Key, kc crypto.KeyContext, err error) error {
	kind := crypto.KindOf(err)
	if kind != crypto.KindDenied && kind != crypto.KindRevoked {
		return err
	}
	if probed := key.Verify(ctx, kc); probed != nil {
		return probed
	}
	if kind == crypto.KindRevoked {
		return key.Revoked(kc, err)
	}
	return kc.Errorf(crypto.KindRejected, "open",
		"the key service refuses this envelope's wrapped key: it was made elsewhere, or the proxy's permissions do not cover it: %w", err)
}

// mayAsk checks what limits calls to the key service.
func (o *opening) mayAsk(h *envelope.Header, namespace string, run *Run) error {
	if run.unwraps == maxUnwraps {
		return h.Errorf(crypto.KindUnavailable, "open",
			"one message holds more than %d unknown data keys; try again, those before this one are known by then", maxUnwraps)
	}
	run.unwraps++
	if !o.core.mayCall(namespace, 1) {
		return tooManyUnconfirmed("open", h.Key, h.Namespace)
	}
	return nil
}
