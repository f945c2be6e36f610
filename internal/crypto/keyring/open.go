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
)

// Open appends to dst what s holds: the original serialised Payload (forms 0 and 1) or the text (form 2). namespace is
// that of the call; the envelope opens if it was sealed there or if a grant says so. hit tells whether no key service
// had to be asked. dst must not overlap the carrier. If an error is returned, dst is as it was.
func (k *Keyring) Open(ctx context.Context, dst []byte, s *envelope.Sealed, namespace string) (out []byte, hit bool, err error) {
	return k.OpenNext(ctx, dst, s, namespace, new(Run))
}

// Run is a run of envelopes that are opened one after the other, as those of one message are. The zero value is ready; it
// is not safe for concurrent use.
type Run struct {
	unwraps int
	recent  [4]*opener // messages mostly hold envelopes with one header or a few
	next    int
}

// opener gives the noted opener of a header.
func (r *Run) opener(header []byte, set *Set) *opener {
	for _, op := range r.recent {
		if op != nil && op.table == set && bytes.Equal(op.header, header) {
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

// OpenNext is Open for an envelope in a run. What it needed is noted there, and tried first for the next envelope with the
// same header, before any cache.
func (k *Keyring) OpenNext(ctx context.Context, dst []byte, s *envelope.Sealed, namespace string, run *Run) (out []byte, hit bool, err error) {
	table := k.set.Load()
	if !table.opens(s.Header.Namespace, namespace) {
		return dst, false, s.Header.Errorf(crypto.KindForeign, "open",
			"sealed in another namespace than %q; a grant in the configuration would allow it", namespace)
	}
	header := s.KeyHeader()
	op := run.opener(header, table)
	if op == nil {
		op = k.opened.opener(header)
	}
	if op != nil && op.table == table && op.dk.usable() {
		run.note(op)
		k.touch(&op.dk.kek.used)
		if out, err = op.cipher.Open(dst, s); err == nil {
			op.dk.use.countOpened(&k.coarse)
		}
		return out, true, err
	}
	dk, hit, err := k.dataKeyOf(ctx, s.Header, table, namespace, run)
	if err != nil {
		if crypto.KindOf(err) == crypto.KindUnavailable {
			k.missed(namespace, s.Header.Key)
		}
		return dst, false, err
	}
	k.touch(&dk.kek.used)
	if subtle.ConstantTimeCompare(dk.id[:], s.Header.DataKeyID[:]) != 1 {
		return dst, hit, s.Header.Tampered("the data-key id is not that of the wrapped key")
	}
	c, err := dk.cipher(&s.Header.Salt)
	if err != nil {
		return dst, hit, s.Header.Errorf(crypto.KindUnavailable, "open", "derive a payload key: %w", err)
	}
	if out, err = c.Open(dst, s); err == nil {
		dk.use.countOpened(&k.coarse)
		run.note(k.opened.addOpener(header, c, dk, table))
	}
	return out, hit, err
}

// dataKeyOf gives the data key that an envelope names, from memory or from the key service.
func (k *Keyring) dataKeyOf(ctx context.Context, header *envelope.Header, table *Set, namespace string, run *Run) (dk *dataKey, hit bool, err error) {
	if table.revoked[header.DataKeyID] {
		return nil, false, header.Errorf(crypto.KindRevoked, "open", "its data key %s... stands in revoked_data_keys",
			hex.EncodeToString(header.DataKeyID[:4]))
	}
	e, value, _, ok := table.find(table.local(header.Namespace), header.Key)
	if !ok {
		return nil, false, header.Errorf(crypto.KindNotConfigured, "open",
			"no entry of `keys` in the configuration has this name and serves this namespace")
	}
	id := wrapIDOf(header)
	if dk, ok := k.opened.keys.Get(id); ok && dk.usable() && e.names(value, dk.kek.URI()) {
		return dk, true, nil
	}
	if r, ok := k.opened.refusals.Get(id); ok && k.now().Before(r.until) {
		return nil, false, r.err
	}
	// The flight and its error outlive the message that the header may alias.
	h := &envelope.Header{Key: strings.Clone(header.Key), Namespace: strings.Clone(header.Namespace), KEK: header.KEK,
		DataKeyID: header.DataKeyID, Wrapped: bytes.Clone(header.Wrapped)}
	value = strings.Clone(value)
	if err := k.mayAsk(h, namespace, run); err != nil {
		return nil, false, err
	}
	wait := k.opt.MaxWait
	if deadline, ok := ctx.Deadline(); ok {
		wait = beforeItEnds(time.Until(deadline))
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	candidates, err := k.candidates(ctx, e, value, h)
	if err != nil {
		return nil, false, err
	}
	dk, err = k.unwraps.do(ctx, id, func(ctx context.Context) (*dataKey, error) { return k.ask(ctx, id, h, candidates) })
	return dk, false, err
}

// candidates gives the key encryption keys of an entry that the envelope's reference may mean. Often it is one; replicas
// of a multi-Region key share their reference. Keys that were not needed so far are opened only if none else fits.
func (k *Keyring) candidates(ctx context.Context, e *keyEntry, value string, h *envelope.Header) (found []*kek, err error) {
	var closed []string
	k.mu.Lock()
	for _, uri := range e.uris() {
		uri = fillIn(uri, value)
		if kk := k.keks[uri]; kk == nil {
			closed = append(closed, uri)
		} else if kk.ref == h.KEK {
			found = append(found, kk)
		}
	}
	k.mu.Unlock()
	if len(found) > 0 {
		return found, nil
	}
	for _, uri := range closed {
		kk, failed := k.kekOf(ctx, uri)
		switch {
		case failed != nil:
			err = failed
		case kk.ref == h.KEK:
			return []*kek{kk}, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return nil, crypto.Errorf(crypto.KindNotConfigured, "open",
		"it was sealed under a key encryption key (reference %s) that is not configured; add its URI to open_only of this entry", h.KEK).In(h.Key, h.Namespace)
}

// ask has the data key unwrapped by the first of the candidates that answers.
func (k *Keyring) ask(ctx context.Context, id wrapID, h *envelope.Header, candidates []*kek) (*dataKey, error) {
	// Another flight may have landed between this caller's look at the cache and its departure.
	if dk, ok := k.opened.keys.Get(id); ok && dk.usable() && slices.Contains(candidates, dk.kek) {
		return dk, nil
	}
	if r, ok := k.opened.refusals.Get(id); ok && k.now().Before(r.until) {
		return nil, r.err
	}
	kc := crypto.KeyContext{Namespace: h.Namespace, Key: h.Key}
	var err error
	for _, kk := range candidates {
		var dk *dataKey
		if dk, err = k.unwrap(ctx, kk, kc, h.Wrapped); err == nil {
			kk.answered(k.now(), kc, h.Wrapped, dk.id)
			k.opened.add(dk)
			return dk, nil
		}
		if err = k.blame(ctx, kk, kc, err); crypto.KindOf(err) != crypto.KindUnavailable {
			break
		}
	}
	if crypto.KindOf(err) != crypto.KindUnavailable {
		k.opened.refusals.Add(id, refusal{err: err, until: k.now().Add(refusalLife)})
	}
	return nil, err
}

// blame finds out whether an error concerns this envelope alone. Anybody who can write to the server can plant a wrapped
// key that the service refuses, so the key itself is judged by a good blob only.
func (k *Keyring) blame(ctx context.Context, kk *kek, kc crypto.KeyContext, err error) error {
	kind := crypto.KindOf(err)
	if kind != crypto.KindDenied && kind != crypto.KindRevoked {
		return err
	}
	if probed := k.verify(ctx, kk, kc); probed != nil {
		return probed
	}
	if kind == crypto.KindRevoked {
		return revoked(kk, kc, err)
	}
	return crypto.Errorf(crypto.KindRejected, "open",
		"the key service refuses this envelope's wrapped key: it was made elsewhere, or the proxy's permissions do not cover it: %w", err).In(kc.Key, kc.Namespace)
}

// mayAsk checks what limits calls to the key service.
func (k *Keyring) mayAsk(h *envelope.Header, namespace string, run *Run) error {
	if run.unwraps == maxUnwraps {
		return crypto.Errorf(crypto.KindUnavailable, "open", "one message holds more than %d unknown data keys; try again, those before this one are known by then",
			maxUnwraps).In(h.Key, h.Namespace)
	}
	run.unwraps++
	if _, ok := k.confirmed.Load(namespace); !ok && !k.tokens.AllowN(k.now(), 1) {
		return tooManyUnconfirmed("open", h.Key, h.Namespace)
	}
	return nil
}
