package keyring

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/hex"
	"hash/maphash"
	"slices"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

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

func (r *Run) note(op *opener) {
	if !slices.Contains(r.recent[:], op) {
		r.recent[r.next%len(r.recent)] = op
		r.next++
	}
}

// maxUnwraps is how many envelopes of one run are taken to a key service: a message can hold any number of envelopes
// that were made up. What was unwrapped stays in memory, so the next try gets further.
const maxUnwraps = 256

// opening opens envelopes, and unwraps the data keys that it takes.
type opening struct {
	core    *core
	flights *flights[wrapID, *dataKey]
	missed  func(namespace, key string) // is called when the key service did not answer

	keys    *lru.Cache[wrapID, *dataKey] // by their wrapped form
	openers *lru.Cache[uint64, *opener]  // by the hash of their header
	seed    maphash.Seed
}

// Open appends to dst what s holds: the original serialized Payload (forms 0 and 1) or the text (form 2). namespace is
// that of the call; the envelope opens if it was sealed there or if a grant allows it. What it needed is noted in the
// run, and tried first for the next envelope with the same header. hit reports whether no key service had to be asked.
// dst must not overlap s. If an error is returned, dst is as it was.
func (k *Keyring) Open(ctx context.Context, dst []byte, s *envelope.Sealed, namespace string, run *Run) (out []byte, hit bool, err error) {
	set := k.Current()
	if !set.opens(s.Header.Namespace, namespace) {
		return dst, false, s.Header.Errorf(crypto.KindForeign, "open",
			"sealed in another namespace than %q; a grant in the configuration would allow it", namespace)
	}
	op, hit := k.opening.known(s.KeyHeader(), set, run), true
	known := op != nil
	if !known {
		if op, hit, err = k.opening.opener(ctx, s, set, namespace, run); err != nil {
			return dst, hit, err
		}
	}
	k.core.use(op.dk)
	if out, err = op.cipher.Open(dst, s); err != nil {
		return dst, hit, err
	}
	op.dk.use.opened.Add(1)
	k.core.touch(&op.dk.use.openedAt)
	run.note(op)
	if !known {
		k.opening.addOpener(op)
	}
	return out, hit, nil
}

// opener makes the AEAD for an envelope's header.
func (o *opening) opener(ctx context.Context, s *envelope.Sealed, set *Set, namespace string, run *Run) (op *opener, hit bool, err error) {
	dk, hit, err := o.dataKey(ctx, s.Header, set, namespace, run)
	if err != nil {
		if crypto.KindOf(err) == crypto.KindUnavailable {
			o.missed(namespace, s.Header.Key)
		}
		return nil, false, err
	}
	if subtle.ConstantTimeCompare(dk.id[:], s.Header.DataKeyID[:]) != 1 {
		return nil, hit, s.Header.Tampered("the data-key id is not that of the wrapped key")
	}
	c, err := dk.cipher(&s.Header.Salt)
	if err != nil {
		return nil, hit, s.Header.Errorf(crypto.KindUnavailable, "open", "derive a payload key: %w", err)
	}
	return &opener{header: bytes.Clone(s.KeyHeader()), cipher: c, dk: dk, set: set}, hit, nil
}

// dataKey returns the data key that an envelope names, from memory or from the key service.
func (o *opening) dataKey(ctx context.Context, header *envelope.Header, set *Set, namespace string, run *Run) (dk *dataKey, hit bool, err error) {
	if set.revoked[header.DataKeyID] {
		return nil, false, header.Errorf(crypto.KindRevoked, "open", "its data key %s... stands in revoked_data_keys",
			hex.EncodeToString(header.DataKeyID[:4]))
	}
	m, ok := set.find(set.local(header.Namespace), header.Key)
	if !ok {
		return nil, false, header.Errorf(crypto.KindNotConfigured, "open",
			"no entry of `keys` in the configuration has this name and serves this namespace")
	}
	id := wrapIDOf(header)
	if dk, ok := o.keys.Get(id); ok && dk.usable() && slices.Contains(m.uris(), dk.kek.URI()) {
		return dk, true, nil
	}
	if err := o.flights.refused(id); err != nil {
		return nil, false, err
	}
	// The flight and its error outlive the message that the header may alias.
	h := &envelope.Header{Key: strings.Clone(header.Key), Namespace: strings.Clone(header.Namespace), KEK: header.KEK,
		DataKeyID: header.DataKeyID, Wrapped: bytes.Clone(header.Wrapped)}
	if err := o.mayAsk(h, namespace, run); err != nil {
		return nil, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.core.patience(ctx))
	defer cancel()
	candidates, err := o.core.keys.candidates(ctx, m, h)
	if err != nil {
		return nil, false, err
	}
	dk, err = o.flights.do(ctx, id, func(ctx context.Context) (*dataKey, error) { return o.ask(ctx, m.entry, h, candidates) })
	return dk, false, err
}

// ask has the data key unwrapped by the first of the candidates that answers.
func (o *opening) ask(ctx context.Context, e *keyEntry, h *envelope.Header, candidates []*keyhealth.Key) (*dataKey, error) {
	id := wrapIDOf(h)
	// Another flight may have landed between this caller's look at the cache and its departure.
	if dk, ok := o.keys.Get(id); ok && dk.usable() && slices.Contains(candidates, dk.kek) {
		return dk, nil
	}
	if err := o.flights.refused(id); err != nil {
		return nil, err
	}
	kc := crypto.KeyContext{Namespace: h.Namespace, Key: h.Key}
	var err error
	for _, key := range candidates {
		var dk *dataKey
		if dk, err = o.core.service.unwrap(ctx, key, kc, h.Wrapped); err == nil {
			dk.use = o.core.uses.of(e, key)
			key.Answered(kc, h.Wrapped, dk.id)
			o.add(dk)
			return dk, nil
		}
		if err = o.explain(ctx, key, kc, err); crypto.KindOf(err) != crypto.KindUnavailable {
			break
		}
		key.Failed(err)
	}
	return nil, o.flights.refuse(id, err)
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
	if err := o.core.mayCall("open", namespace, 1); err != nil {
		return err.In(h.Key, h.Namespace)
	}
	return nil
}
