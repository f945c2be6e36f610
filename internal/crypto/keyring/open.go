package keyring

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
)

// headerID stands for a wrapped data key with all that it is bound to.
type headerID [sha256.Size]byte

// idOf returns the same for an envelope by reference as for a self-contained one under the same wrapped key.
func idOf(s *envelope.Sealed) headerID {
	if !s.Header.Reference() {
		return sha256.Sum256(s.KeyHeader())
	}
	h := *s.Header
	h.Flags = 0
	return sha256.Sum256(h.KeyHeader())
}

// answer is what came of asking for a data key.
type answer struct {
	dk  *dataKey
	err error
}

const (
	// maxAsking is how many data keys of one run are asked for at once.
	maxAsking = 16
	// maxRefused is how many envelopes of one run may name a data key that the key service refuses, or another one than it
	// has: a message can hold any number of envelopes that were made up. Good ones are bounded by time alone.
	maxRefused = 64
)

// opening opens envelopes, and unwraps the data keys that it takes.
type opening struct {
	core    *core
	flights *flights[headerID, *dataKey]
	missed  func(namespace, key string) // is called when the key service did not answer
	keys    dataKeys
	missing *lru.Cache[crypto.KeyID, missing] // rows that the key store did not have
	again   chan struct{}                     // has a place for each call that asks for rows that were missing before

	subjects *subjects
}

// Open appends to dst what s holds: the original serialized Payload (forms 0 and 1) or the text (form 2). namespace is
// that of the call; the envelope opens if it was sealed there or if a grant allows it. What it needed is noted in the
// run, and tried first for the next envelope with the same header. hit reports whether no key service had to be asked.
// dst must not overlap s. If an error is returned, dst is as it was.
func (k *Keyring) Open(ctx context.Context, dst []byte, s *envelope.Sealed, namespace string, run *Run) (out []byte, hit bool, err error) {
	set := k.Current()
	dk, hit := run.same(s.Header, set, namespace), true
	same := dk != nil
	if !same {
		if dk, hit, err = k.opening.dataKey(ctx, s, set, namespace, run); err != nil {
			return dst, false, err
		}
	}
	cipher := dk.cipher.Load()
	if cipher == nil {
		return dst, hit, s.Header.Errorf(crypto.KindUnavailable, "open", "%w", errDropped)
	}
	k.core.use(dk)
	if out, err = cipher.Open(dst, s); err != nil {
		return dst, hit, err
	}
	if dk.use == run.use {
		run.more++
	} else {
		run.Count()
		run.use = dk.use
		dk.use.opened.Add(1)
		k.core.touch(&dk.use.openedAt)
	}
	if !same {
		run.note(s.Header, set, namespace, dk)
	}
	return out, hit, nil
}

// dataKey returns the data key of an envelope, from memory or from the key service.
func (o *opening) dataKey(ctx context.Context, s *envelope.Sealed, set *Set, namespace string, run *Run) (dk *dataKey, hit bool, err error) {
	if err := o.resolveOne(ctx, s, run); err != nil {
		return nil, false, err
	}
	if r := (readableFrom{set, s.Header.Namespace, namespace}); r != run.readable {
		if err := readable(s, set, namespace); err != nil {
			return nil, false, err
		}
		if s.Header.Reference() { // other names may be a part of the message, whose bytes are used again
			run.readable = r
		}
	}
	if dk = o.keys.found(s); dk == nil || dk.allowed.Load() != set { // another one may be in force since its names were looked up
		if dk = run.known(s); dk == nil {
			dk = o.keys.find(s)
		}
	}
	if dk != nil && o.allows(set, dk) {
		return dk, true, nil
	}
	id := idOf(s)
	if a, asked := run.asked[id]; !asked || a.dk != nil && !a.dk.usable() {
		delete(run.asked, id)
		o.askAll(ctx, s, set, namespace, run)
	}
	a := run.asked[id]
	if crypto.KindOf(a.err) == crypto.KindUnavailable {
		o.missed(namespace, s.Header.Key)
	}
	return a.dk, false, a.err
}

// readable returns an error for an envelope that may not be opened for a call in a namespace, whatever its key is. The names of an
// envelope by reference are those of its row, or those that its data key in memory was unwrapped for.
func readable(s *envelope.Sealed, set *Set, namespace string) error {
	return set.MayOpen(s.Header, namespace)
}

// allows reports whether a set lets envelopes of a data key in memory be opened.
func (o *opening) allows(set *Set, dk *dataKey) bool {
	if dk.allowed.Load() == set {
		return true
	}
	m, ok := set.findSealed(dk.context.Namespace, dk.context.Key)
	if dk.revoked(set.revoked) || !ok || !m.has(dk.kek.URI()) {
		return false
	}
	dk.allowed.Store(set)
	return true
}

// asking is what workers share that ask for the data keys of one run.
type asking struct {
	set       *Set
	namespace string
	refused   atomic.Int32 // by key services
}

// askAll asks for the data key of an envelope and for those of the ones ahead in the run, unless they are in memory. It
// puts what came of it into the run.
func (o *opening) askAll(ctx context.Context, first *envelope.Sealed, set *Set, namespace string, run *Run) {
	ctx, cancel := context.WithTimeout(ctx, o.core.patience(ctx))
	defer cancel()
	wanted, ids := o.unknown(first, set, namespace, run)
	answers := make([]answer, len(wanted))
	a := &asking{set: set, namespace: namespace}
	a.refused.Store(run.refused)
	rows := run.rows // a run that workers hold would be allocated for each message
	var next atomic.Int32
	var workers sync.WaitGroup
	for range min(maxAsking, len(wanted)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(wanted); i = next.Add(1) - 1 {
				answers[i].dk, answers[i].err = o.askRows(ctx, &wanted[i], rows[wanted[i].Header.ID], a)
			}
		})
	}
	workers.Wait()
	run.refused = a.refused.Load()
	if run.asked == nil {
		run.asked = make(map[headerID]answer, len(wanted))
	}
	for i, id := range ids {
		run.asked[id] = answers[i]
	}
}

// unknown returns the envelope, and one of each data key ahead in the run that is not in memory.
func (o *opening) unknown(first *envelope.Sealed, set *Set, namespace string, run *Run) (wanted []envelope.Sealed, ids []headerID) {
	asked, seen := run.asked, make(map[headerID]bool)
	add := func(s *envelope.Sealed) {
		id := idOf(s)
		if _, known := asked[id]; !known && !seen[id] {
			seen[id] = true
			wanted, ids = append(wanted, *s), append(ids, id)
		}
	}
	add(first)
	if run.ahead == nil {
		return wanted, ids
	}
	last := first.Header
	for s := range run.ahead {
		if s.Header == last {
			continue // parsed from the same bytes
		}
		last = s.Header
		if s.Header.Namespace != "" && readable(s, set, namespace) == nil && o.keys.find(s) == nil {
			add(s)
		}
	}
	run.ahead = nil
	return wanted, ids
}

// askRows is ask for an envelope, or for one by reference whose data key several key encryption keys have wrapped: one of them may
// be gone, or away.
func (o *opening) askRows(ctx context.Context, s *envelope.Sealed, rows []crypto.KeyRow, a *asking) (*dataKey, error) {
	if !s.Header.Reference() || len(rows) < 2 {
		return o.ask(ctx, s, idOf(s), a)
	}
	var err error
	for i, row := range rows {
		h := *s.Header
		fill(&h, row)
		other := *s
		other.Header = &h
		part, cancel := context.WithTimeout(ctx, o.core.patience(ctx)/time.Duration(len(rows)-i))
		dk, failed := o.ask(part, &other, idOf(&other), a)
		cancel()
		if failed == nil {
			return dk, nil
		}
		if err == nil || crypto.KindOf(failed).Transient() { // a cause that may pass decides whether the payload is tried again
			err = failed
		}
	}
	return nil, err
}

// ask has the data key of an envelope unwrapped, if the configuration allows that.
func (o *opening) ask(ctx context.Context, s *envelope.Sealed, id headerID, a *asking) (*dataKey, error) {
	if a.set.revoked[s.Header.ID] {
		return nil, s.Header.Errorf(crypto.KindRevoked, "open", "its data key %s... stands in revoked_data_keys", s.Header.ID.String()[:8])
	}
	m, ok := a.set.findSealed(s.Header.Namespace, s.Header.Key)
	if !ok {
		return nil, s.Header.Errorf(crypto.KindNotConfigured, "open",
			"no entry of `keys` in the configuration has this name and serves this namespace")
	}
	if row := s.Header.SubjectRow; s.Header.Subject() && row != nil {
		return o.subjects.open(ctx, row, m)
	}
	if err := alive(s.Header); err != nil {
		return nil, err
	}
	if err := o.flights.refused(id); err != nil {
		return nil, err
	}
	// The flight and its error outlive the message that the header may alias.
	name := m.entry.Name
	if name != s.Header.Key { // a star in it stands for something
		name = strings.Clone(s.Header.Key)
	}
	h := &envelope.Header{Key: name, Namespace: strings.Clone(s.Header.Namespace), KEK: s.Header.KEK,
		ID: s.Header.ID, Wrapped: bytes.Clone(s.Header.Wrapped), Life: s.Header.Life}
	if a.refused.Load() >= maxRefused {
		return nil, h.Errorf(crypto.KindUnavailable, "open",
			"the message contains more than %d envelopes whose data keys the key service refuses; try again for the rest", maxRefused)
	}
	if err := o.core.mayCall("open", a.namespace, 1); err != nil {
		return nil, err.In(h.Key, h.Namespace)
	}
	candidates, err := o.core.keys.candidates(ctx, m, h)
	if err != nil {
		return nil, err
	}
	carried := (m.entry.Life > 0 || m.entry.Endless) && !s.Header.Reference()
	dk, err := o.flights.do(ctx, id, func(ctx context.Context) (*dataKey, error) { return o.unwrap(ctx, m.entry, id, h, candidates, carried) })
	if err != nil && !crypto.KindOf(err).Transient() {
		a.refused.Add(1)
	}
	return dk, err
}

// alive returns an error if the life of an envelope's key is over. That it is, is for the key store to say, which is asked again.
func alive(h *envelope.Header) error {
	switch {
	case h.Life.Gone():
		return h.Errorf(crypto.KindExpired, "open", "the life of its key ended on %s", h.Life.End.Format(time.DateOnly))
	case h.Life.Expired():
		return h.Errorf(crypto.KindUnavailable, "open", "the life of its key is over by the clock of the key store, and not by that of the proxy; "+
			"try again, and correct the clock that is wrong").AtOnce()
	case !h.Life.Opens():
		return h.Errorf(crypto.KindUnavailable, "open", "the life of its key ends now; try again").AtOnce()
	}
	return nil
}

// unwrap has the data key unwrapped by the first of the candidates that answers.
func (o *opening) unwrap(
	ctx context.Context, e *keyEntry, id headerID, h *envelope.Header, candidates []*keyhealth.Key, carried bool,
) (*dataKey, error) {
	// Another flight may have landed between this caller's look at the cache and its departure.
	if dk := o.keys.get(h.ID); dk != nil && dk.usable() && dk.carried == carried && bytes.Equal(dk.header, h.KeyHeader()) && slices.Contains(candidates, dk.kek) {
		return dk, nil
	}
	if err := o.flights.refused(id); err != nil {
		return nil, err
	}
	kc := crypto.KeyContext{Namespace: h.Namespace, Key: h.Key}
	var err error
	for _, key := range candidates {
		var dk *dataKey
		if dk, err = o.core.service.unwrap(ctx, key, kc, h.Wrapped); err == nil && !dk.is(h.ID) {
			err = h.Tampered("the key id is not that of the wrapped key")
		}
		if err == nil {
			dk.use, dk.carried = o.core.uses.of(e, key), carried
			dk.life.Store(h.Life)
			key.Answered(kc, h.Wrapped, dk.id)
			o.keys.add(dk)
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
