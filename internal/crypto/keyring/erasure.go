package keyring

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// waitInterval is the pause between looks at what replicas have confirmed.
const waitInterval = 500 * time.Millisecond

// Found is a subject under one key name of a namespace, with all generations of its key, the newest first.
type Found struct {
	Erasure crypto.Erasure
	Rows    []crypto.SubjectRow
}

// Find looks a subject up in a namespace, as callers know it, under all key names that have subjects there, or under one. It needs
// the key service, which unwraps the index keys.
func (s Subjects) Find(ctx context.Context, namespace, key string, subject []byte) (all []Found, err error) {
	of, set := s.keys.subjects, s.keys.Current()
	if err := of.ensure(ctx, "find a subject"); err != nil {
		return nil, err
	}
	if err := of.indexKeysThere(ctx, "find a subject"); err != nil {
		return nil, err
	}
	contexts, err := of.store.IndexKeys(ctx, set.bound(namespace))
	if err != nil {
		return nil, err
	}
	for _, kc := range contexts {
		if key != "" && key != kc.Key {
			continue
		}
		m, ok := set.findSealed(kc.Namespace, kc.Key)
		if !ok {
			return nil, kc.Errorf(crypto.KindNotConfigured, "find a subject",
				"the key store has subjects under this key name, and no entry of `keys` in the configuration has it; add the entry, or name another key")
		}
		of.core.slots.confirm(set.local(kc.Namespace)) // the store vouches for it
		rows, _, err := of.parents.rows(ctx, kc)
		if err != nil {
			return nil, err
		}
		if len(rows) == 0 {
			return nil, kc.Errorf(crypto.KindUnavailable, "find a subject", "the index key is not there any more")
		}
		index, err := of.parents.indexKey(ctx, rows, m)
		if err != nil {
			return nil, err
		}
		f := Found{Erasure: crypto.Erasure{Context: kc, Index: index.ID(), Tag: index.Tag(subject)}}
		if f.Rows, err = of.store.Generations(ctx, f.Erasure.Index, f.Erasure.Tag); err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// Erase destroys all keys of a subject that was found, in one transaction. by and reason are kept with it. What it returns with an error
// is in force.
func (s Subjects) Erase(ctx context.Context, all []Found, by, reason string) ([]crypto.Erasure, error) {
	list := make([]crypto.Erasure, len(all))
	for i, f := range all {
		list[i] = f.Erasure
		list[i].By, list[i].Reason = by, reason
	}
	return s.keys.subjects.store.Erase(ctx, list)
}

// Readmit lets a subject be sealed for again where it was erased. What was sealed before stays erased. It returns what was entered, with an
// error too.
func (s Subjects) Readmit(ctx context.Context, all []Found, by, reason string) (done []crypto.Erasure, err error) {
	for _, f := range all {
		if len(f.Rows) == 0 || f.Rows[0].Erased == 0 {
			continue
		}
		e := f.Erasure
		e.By, e.Reason = by, reason
		if e, err = s.keys.subjects.store.Readmit(ctx, e); e.Seq != 0 {
			done = append(done, e)
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Counts counts subjects by namespace and key name.
func (s Subjects) Counts(ctx context.Context) ([]crypto.SubjectCount, error) {
	of := s.keys.subjects
	if err := of.ensure(ctx, "count subjects"); err != nil {
		return nil, err
	}
	if err := of.indexKeysThere(ctx, "count subjects"); err != nil {
		return nil, err
	}
	return of.store.SubjectCounts(ctx)
}

// indexKeysThere returns an error if an index key is lost. Without it no subject under its key name is found, so an erasure would
// leave some of a person's keys.
func (s *subjects) indexKeysThere(ctx context.Context, op string) error {
	lost, err := s.store.LostIndexKeys(ctx)
	if err != nil || len(lost) == 0 {
		return err
	}
	return crypto.Errorf(crypto.KindTampered, op, "the key store has lost index keys of subjects, without which none of theirs is found: %s; "+
		"restore their rows of temporal_seal_keys and temporal_seal_wraps from a backup", strings.Join(lost, ", "))
}

// Wait waits until every live replica has an erasure in force, or ctx ends. A replica that has been silent for longer than its own
// limit uses no keys of subjects any more. missing are those that have not confirmed.
func (s Subjects) Wait(ctx context.Context, seq int64) (replicas, missing []crypto.ReplicaRow, err error) {
	for {
		latest, err := s.keys.subjects.store.Replicas(ctx)
		switch {
		case err != nil && ctx.Err() != nil && len(missing) > 0:
			return replicas, missing, nil // the time ended within the question, so this is the latest answer
		case err != nil:
			return replicas, missing, err
		}
		replicas = slices.DeleteFunc(latest, func(r crypto.ReplicaRow) bool { return r.Seq < seq && r.Silent > r.MaxLag })
		missing = slices.DeleteFunc(slices.Clone(replicas), func(r crypto.ReplicaRow) bool { return r.Seq >= seq })
		if len(missing) == 0 {
			return replicas, nil, nil
		}
		select {
		case <-time.After(waitInterval):
		case <-ctx.Done():
			return replicas, missing, nil
		}
	}
}

// Verify unwraps every key of a subject that is not erased, and calls failed for each that does not unwrap.
func (s Subjects) Verify(ctx context.Context, failed func(crypto.SubjectRow, error)) (keys int, err error) {
	of := s.keys.subjects
	if err := of.ensure(ctx, "verify keys of subjects"); err != nil {
		return 0, err
	}
	if err := of.indexKeysThere(ctx, "verify keys of subjects"); err != nil {
		return 0, err
	}
	err = of.store.AllSubjectKeys(ctx, func(row crypto.SubjectRow) error {
		keys++
		set := s.keys.Current()
		m, ok := set.findSealed(row.Context.Namespace, row.Context.Key)
		switch {
		case row.Erased != 0:
			failed(row, row.Context.Errorf(crypto.KindTampered, "verify", "its key is there although its subject was erased: the row was restored or changed; "+
				"`temporal-seal subjects reapply-erasures` destroys it"))
			return nil
		case !ok:
			failed(row, row.Context.Errorf(crypto.KindNotConfigured, "verify", "no entry of `keys` in the configuration has this name and serves this namespace"))
			return nil
		}
		of.core.slots.confirm(set.local(row.Context.Namespace))
		row.Seen = of.lastSeq()
		if _, err := of.open(ctx, &row, m); err != nil {
			failed(row, err)
		}
		return nil
	})
	return keys, err
}

// Reapplied is what Reapply has done.
type Reapplied struct {
	Entered   []crypto.Erasure
	Destroyed []crypto.KeyID // including those that came back with a part of the store
	Missing   []int64        // numbers of erasures that the key store still lacks
}

// Reapply enters the erasures that the key store lacks, since it was restored from a backup, and destroys the keys of erased subjects
// that came back. Erasures that the store has are left alone. If acceptLost, a reason, is not empty, entries of nobody take the place of
// those that are in no journal; the keys that these destroyed are back for good.
func (s Subjects) Reapply(ctx context.Context, journal []crypto.Erasure, acceptLost string) (r Reapplied, err error) {
	of := s.keys.subjects
	if err := of.configured("enter erasures"); err != nil {
		return r, err
	}
	there, err := allErasures(ctx, of.store)
	if err != nil {
		return r, err
	}
	slices.SortStableFunc(journal, func(a, b crypto.Erasure) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Seq, b.Seq)) })
	for _, e := range journal {
		if there.has(e) {
			continue
		}
		if e, err = there.place(e); err != nil {
			return r, err
		}
		if e, err = enterAgain(ctx, of.store, e); err != nil {
			return r, err
		}
		there = append(there, e)
		r.Entered = append(r.Entered, e)
		r.Destroyed = append(r.Destroyed, e.Destroyed...)
	}
	more, err := of.store.DestroyErased(ctx)
	if err != nil {
		return r, err
	}
	r.Destroyed = append(r.Destroyed, more...)
	counts, err := of.store.ErasureCounts(ctx)
	if err != nil {
		return r, err
	}
	for _, seq := range there.missing(max(counts.Counter, counts.Seen)) {
		if acceptLost == "" {
			r.Missing = append(r.Missing, seq)
		} else if err := of.store.EnterLost(ctx, crypto.Erasure{Seq: seq, Reason: acceptLost}); err != nil {
			return r, err
		}
	}
	return r, nil
}

func enterAgain(ctx context.Context, store crypto.SubjectStore, e crypto.Erasure) (crypto.Erasure, error) {
	if e.Readmitted {
		return store.Readmit(ctx, e)
	}
	done, err := store.Erase(ctx, []crypto.Erasure{e})
	if err != nil {
		return e, err
	}
	return done[0], nil
}

// entries are the erasures and readmissions of a key store.
type entries []crypto.Erasure

func allErasures(ctx context.Context, store crypto.SubjectStore) (all entries, err error) {
	for from := int64(1); ; {
		page, err := store.Erasures(ctx, from)
		if err != nil || len(page) == 0 {
			return all, err
		}
		all = append(all, page...)
		from = page[len(page)-1].Seq + 1
	}
}

// has reports whether an erasure was entered, under whatever number: it gets another one where its own was taken.
func (all entries) has(e crypto.Erasure) bool {
	return slices.ContainsFunc(all, func(o crypto.Erasure) bool {
		return o.Index == e.Index && o.Tag == e.Tag && o.Readmitted == e.Readmitted && o.At.UnixMilli() == e.At.UnixMilli()
	})
}

// place returns an erasure with the number that it is to be entered with, 0 for the next one. Erasures and readmissions of one subject
// have to stay in the order of their times.
func (all entries) place(e crypto.Erasure) (crypto.Erasure, error) {
	of := func(o crypto.Erasure) bool { return o.Index == e.Index && o.Tag == e.Tag }
	if slices.ContainsFunc(all, func(o crypto.Erasure) bool { return o.Seq == e.Seq || of(o) && o.Seq > e.Seq && o.At.Before(e.At) }) {
		number := e.Seq
		e.Seq = 0
		if slices.ContainsFunc(all, func(o crypto.Erasure) bool { return of(o) && o.At.After(e.At) && o.Readmitted && !e.Readmitted }) {
			return e, e.Context.Errorf(crypto.KindNotConfigured, "enter erasures", "the erasure %d cannot be entered again: its subject was readmitted "+
				"in the restored store, and its keys since then would be destroyed too; decide, and use `temporal-seal subjects erase`", number)
		}
	}
	return e, nil
}

// missing returns the numbers up to a last one that no entry has.
func (all entries) missing(last int64) (numbers []int64) {
	there := make(map[int64]bool, len(all))
	for _, e := range all {
		there[e.Seq] = true
	}
	for seq := int64(1); seq <= last; seq++ {
		if !there[seq] {
			numbers = append(numbers, seq)
		}
	}
	return numbers
}

// ErrReasonNamesSubject means that the reason of an erasure would keep what is to be erased.
var ErrReasonNamesSubject = errors.New("the reason contains the subject, and would keep it; name a ticket instead")

// CheckSubject returns why a text is no subject; nil if it is one.
func CheckSubject(text []byte) error { return envelope.CheckSubject(text) }

// CheckReason returns an error if a reason is missing or contains the subject, in whatever case.
func CheckReason(reason string, subject []byte) error {
	switch {
	case strings.TrimSpace(reason) == "":
		return errors.New("a reason is required, such as the number of the request")
	case strings.Contains(strings.ToLower(reason), strings.ToLower(string(subject))):
		return ErrReasonNamesSubject
	}
	return nil
}
