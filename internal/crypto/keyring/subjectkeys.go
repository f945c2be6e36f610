package keyring

import (
	"context"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// Sealer returns the sealer of a subject in a namespace, under a key name. The subject is as envelope.SubjectAt returns it.
func (s Subjects) Sealer(ctx context.Context, namespace, key string, subject []byte) (sealer *Sealer, hit bool, err error) {
	of, set := s.keys.subjects, s.keys.Current()
	m, ok := set.find(namespace, key)
	bound := set.bound(namespace)
	switch {
	case !ok:
		return nil, false, crypto.Errorf(crypto.KindNotConfigured, "seal",
			"no entry of `keys` in the configuration has this name and serves this namespace").In(strings.Clone(key), strings.Clone(namespace))
	case len(bound) < 1 || len(bound) > envelope.MaxNamespace || len(key) > envelope.MaxKeyName:
		return nil, false, crypto.Errorf(crypto.KindMalformed, "seal",
			"a namespace of %d bytes and a key name of %d can't be bound into an envelope", len(bound), len(key))
	case m.entry.Life > 0:
		return nil, false, crypto.Errorf(crypto.KindNotConfigured, "seal", "the config has a life for the key, and keys of subjects have none; "+
			"name another key in the rule that names the subject").In(strings.Clone(key), strings.Clone(namespace))
	case !of.core.slots.exists(namespace):
		return nil, false, crypto.Errorf(crypto.KindUnavailable, "seal",
			"the upstream has not confirmed the namespace, so no key of a subject is made there; try again").In(strings.Clone(key), strings.Clone(namespace)).AtOnce()
	}
	if err := of.ensure(ctx, "seal"); err != nil {
		return nil, false, crypto.About(err, strings.Clone(key), strings.Clone(namespace))
	}
	ctx, cancel := context.WithTimeout(ctx, min(of.core.patience(ctx), maxWait))
	defer cancel()
	kc := crypto.KeyContext{Namespace: strings.Clone(bound), Key: strings.Clone(key)}
	h, err := of.parents.home(ctx, kc, m)
	if err != nil {
		return nil, false, err
	}
	id := subjectID{h.index.ID(), h.index.Tag(subject)}
	spent := 0
	if sealer, ok := of.sealers.Get(id); ok && sealer.dk.usable() {
		if sealer.usable() && time.Now().Before(sealer.dk.subject.until) {
			of.core.use(sealer.dk)
			return sealer, true, nil
		}
		spent = sealer.dk.subject.row.Generation
	}
	sealer, err = of.sealing.do(ctx, id, func(ctx context.Context) (*Sealer, error) { return of.fill(ctx, id, kc, m, h, spent) })
	return sealer, false, err
}

// fill returns the sealer of a subject's newest generation. It makes one if there is none, or if the newest is not above spent,
// which has sealed all that it may.
func (s *subjects) fill(ctx context.Context, id subjectID, kc crypto.KeyContext, m match, h *home, spent int) (*Sealer, error) {
	if err := s.sealing.refused(id); err != nil {
		return nil, err
	}
	for range 5 { // others make and erase keys at the same time
		set, seen := s.core.set.Load(), s.lastSeq()
		rows, err := s.store.Generations(ctx, id.index, id.tag)
		if err != nil {
			return nil, classified("keystore.subject_keys", kc, err)
		}
		if err := s.lost.still(id, rows, kc); err != nil {
			return nil, s.sealing.refuse(id, err)
		}
		next := 1
		if len(rows) > 0 {
			newest := rows[0]
			next = newest.Generation + 1
			switch {
			case newest.Erased != 0:
				return nil, s.sealing.refuse(id, kc.Errorf(crypto.KindErased, "seal", "its subject was erased on %s; see `temporal-seal subjects readmit`",
					newest.ErasedAt.Format(time.DateOnly)))
			case set.revoked[newest.ID] || set.revoked[newest.Parent]: // what it sealed would not open
			case newest.ID != crypto.KeyID{} && newest.SealFor > 0 && newest.Generation > spent:
				newest.Seen = seen
				return s.sealerOf(ctx, newest, kc, m, set)
			}
		}
		if !s.parents.mayMake(kc.Namespace) {
			return nil, kc.Errorf(crypto.KindUnavailable, "seal", "its namespace makes keys of new subjects faster than %d per second; try again",
				newKeyRate).AtOnce()
		}
		row, err := h.wrap.newKey(id, kc, next)
		if err != nil {
			return nil, err
		}
		if err := s.store.PutSubjectKey(ctx, row); err != nil {
			return nil, classified("keystore.put_subject_key", kc, err)
		}
		s.parents.made.Add(1)
	}
	return nil, kc.Errorf(crypto.KindUnavailable, "seal", "others make and erase keys of the same subject all the time; try again")
}

// newKey draws a generation of a subject's key and wraps it.
func (w *wrapKey) newKey(id subjectID, kc crypto.KeyContext, generation int) (row crypto.SubjectRow, err error) {
	c := &envelope.Context{Kind: envelope.KindSubject, Key: kc.Key, Namespace: kc.Namespace, SubjectTag: id.tag[:]}
	plain, keyID, err := envelope.NewSubjectKey(c)
	if err != nil {
		return row, kc.Errorf(crypto.KindUnavailable, "derive a sealing key", "%w", err)
	}
	defer clear(plain)
	return crypto.SubjectRow{ID: keyID, Context: kc, Index: id.index, Tag: id.tag, Generation: generation,
		Parent: w.key.ID(), Wrapped: w.key.Wrap(plain, keyID, c), SealFor: subjectLife}, nil
}

// sealerOf returns the sealer of a generation that the key store has, and that a set allows. A key in memory serves only if it was unwrapped
// for the same subject: whoever writes to the key store may have put its id into another row.
func (s *subjects) sealerOf(ctx context.Context, row crypto.SubjectRow, kc crypto.KeyContext, m match, set *Set) (*Sealer, error) {
	if row.Context != kc {
		return nil, kc.Errorf(crypto.KindTampered, "seal", "the key store has the key of its subject under other names; somebody changed it")
	}
	id := subjectID{row.Index, row.Tag}
	dk := s.opening.keys.get(row.ID)
	if dk == nil || !dk.usable() || !dk.belongsTo(kc, id) {
		var err error
		if dk, err = s.unwrap(ctx, row, m); err != nil {
			return nil, err
		}
	}
	sealer := newSubjectSealer(dk)
	s.mu.Lock()
	defer s.mu.Unlock()
	if dk.cipher.Load() == nil {
		return nil, kc.Errorf(crypto.KindUnavailable, "seal", "%w", errDropped).AtOnce()
	}
	// A key that was found in memory and has left it since is not dropped with the others of its subject.
	if err := s.stillValid(&row, "seal"); err != nil {
		return nil, err
	}
	s.sealers.Add(id, sealer)
	if s.core.set.Load() != set { // a change that was under way has not seen the sealer
		s.sealers.Remove(id)
		return nil, kc.Errorf(crypto.KindUnavailable, "seal", "the configuration of keys changed while the key of a subject was read; try again").AtOnce()
	}
	return sealer, nil
}

// open returns the key of a subject for opening. The row is what the key store had.
func (s *subjects) open(ctx context.Context, row *crypto.SubjectRow, m match) (*dataKey, error) {
	kc := row.Context
	switch {
	case row.Erased != 0:
		return nil, kc.Errorf(crypto.KindErased, "open", "its subject was erased on %s", row.ErasedAt.Format(time.DateOnly))
	case len(row.Wrapped) == 0:
		return nil, kc.Errorf(crypto.KindTampered, "open", "the key store has no key in the row of its subject, and no erasure of it; somebody changed it")
	}
	if err := s.ensure(ctx, "open"); err != nil {
		return nil, crypto.About(err, kc.Key, kc.Namespace)
	}
	if err := s.unwraps.refused(row.ID); err != nil {
		return nil, err
	}
	own := *row // the flight outlives the message
	return s.unwraps.do(ctx, own.ID, func(ctx context.Context) (*dataKey, error) {
		if dk := s.opening.keys.get(own.ID); dk != nil && dk.usable() && dk.belongsTo(kc, subjectID{own.Index, own.Tag}) {
			return dk, nil
		}
		dk, err := s.unwrap(ctx, own, m)
		if err != nil {
			return nil, s.unwraps.refuse(own.ID, err)
		}
		return dk, nil
	})
}

// rows returns the rows of keys of subjects. Each has the number of the last erasure that was in force here before it was read.
func (s *subjects) rows(ctx context.Context, ids []crypto.KeyID) (map[crypto.KeyID]*crypto.SubjectRow, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	if err := s.ensure(ctx, "open"); err != nil {
		return nil, err
	}
	seen := s.lastSeq()
	rows, err := s.store.SubjectKeys(ctx, ids)
	if err != nil {
		return nil, classified("keystore.subject_keys", crypto.KeyContext{}, err)
	}
	found := make(map[crypto.KeyID]*crypto.SubjectRow, len(rows))
	for i := range rows {
		row := &rows[i]
		kc := row.Context
		if kc.Namespace != "" && len(kc.Namespace) <= envelope.MaxNamespace && kc.Key != "" && len(kc.Key) <= envelope.MaxKeyName {
			row.Seen = seen
			found[row.ID] = row
		}
	}
	return found, nil
}

// unwrap unwraps a generation of a subject's key by its wrap key, and remembers it.
func (s *subjects) unwrap(ctx context.Context, row crypto.SubjectRow, m match) (*dataKey, error) {
	kc := row.Context
	w, err := s.parents.wrapKey(ctx, row.Parent, kc, m)
	if err != nil {
		return nil, err
	}
	c := &envelope.Context{Kind: envelope.KindSubject, Key: kc.Key, Namespace: kc.Namespace, SubjectTag: row.Tag[:]}
	plain, ok := w.key.Unwrap(row.Wrapped, row.ID, c)
	if !ok {
		return nil, kc.Errorf(crypto.KindTampered, "open", "the key store has another key of a subject under the id %s...; somebody changed it",
			row.ID.String()[:8])
	}
	defer clear(plain)
	dk, err := deriveDataKey(w.proof.kek, kc, plain, row.Wrapped, c)
	if err != nil {
		return nil, err
	}
	if !dk.is(row.ID) {
		return nil, kc.Errorf(crypto.KindTampered, "open", "the key id %s... is not that of the wrapped key of its subject", row.ID.String()[:8])
	}
	dk.use = w.proof.use
	dk.subject = &subjectKey{of: s, row: row, until: time.Now().Add(row.SealFor)}
	return dk, s.add(dk)
}

// belongsTo reports whether the key is that of a subject under a namespace and key name.
func (dk *dataKey) belongsTo(kc crypto.KeyContext, id subjectID) bool {
	return dk.subject != nil && dk.context == kc && dk.subject.id() == id
}
