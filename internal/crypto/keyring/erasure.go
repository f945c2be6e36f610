package keyring

import (
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

// Erase destroys all keys of a subject that was found, in one transaction. by and reason are kept with it.
func (s Subjects) Erase(ctx context.Context, all []Found, by, reason string) ([]crypto.Erasure, error) {
	list := make([]crypto.Erasure, len(all))
	for i, f := range all {
		list[i] = f.Erasure
		list[i].By, list[i].Reason = by, reason
	}
	return s.keys.subjects.store.Erase(ctx, list)
}

// Readmit lets a subject be sealed for again where it was erased. What was sealed before stays erased.
func (s Subjects) Readmit(ctx context.Context, all []Found, by, reason string) (done []crypto.Erasure, err error) {
	for _, f := range all {
		if len(f.Rows) == 0 || f.Rows[0].Erased == 0 {
			continue
		}
		e := f.Erasure
		e.By, e.Reason = by, reason
		if e, err = s.keys.subjects.store.Readmit(ctx, e); err != nil {
			return done, err
		}
		done = append(done, e)
	}
	return done, nil
}

// Counts counts subjects by namespace and key name.
func (s Subjects) Counts(ctx context.Context) ([]crypto.SubjectCount, error) {
	of := s.keys.subjects
	if err := of.ensure(ctx, "count subjects"); err != nil {
		return nil, err
	}
	return of.store.SubjectCounts(ctx)
}

// Wait waits until every live replica has an erasure in force, or ctx ends. A replica that has been silent for longer than its own
// limit uses no keys of subjects any more. missing are those that have not confirmed.
func (s Subjects) Wait(ctx context.Context, seq int64) (replicas, missing []crypto.ReplicaRow, err error) {
	for {
		if replicas, err = s.keys.subjects.store.Replicas(ctx); err != nil {
			return replicas, missing, err
		}
		replicas = slices.DeleteFunc(replicas, func(r crypto.ReplicaRow) bool { return r.Seq < seq && r.Silent > r.MaxLag })
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
	err = of.store.AllSubjectKeys(ctx, func(row crypto.SubjectRow) error {
		keys++
		set := s.keys.Current()
		m, ok := set.findSealed(row.Context.Namespace, row.Context.Key)
		switch {
		case row.Erased != 0:
			failed(row, row.Context.Errorf(crypto.KindTampered, "verify", "its key is there although it was erased; somebody changed the row"))
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

// Reapply enters the erasures that the key store lacks, since it was restored from a backup. Those that it has are left alone.
func (s Subjects) Reapply(ctx context.Context, journal []crypto.Erasure) (done []crypto.Erasure, err error) {
	of := s.keys.subjects
	if err := of.ensure(ctx, "enter erasures"); err != nil {
		return nil, err
	}
	there := make(map[int64]crypto.Erasure)
	for from := int64(1); ; {
		page, err := of.store.Erasures(ctx, from)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			there[e.Seq] = e
		}
		from = page[len(page)-1].Seq + 1
	}
	slices.SortFunc(journal, func(a, b crypto.Erasure) int { return int(a.Seq - b.Seq) })
	for _, e := range journal {
		if known, ok := there[e.Seq]; ok && known.Index == e.Index && known.Tag == e.Tag {
			continue
		}
		var entered []crypto.Erasure
		if e.Readmitted {
			e, err = of.store.Readmit(ctx, e)
			entered = []crypto.Erasure{e}
		} else {
			entered, err = of.store.Erase(ctx, []crypto.Erasure{e})
		}
		if err != nil {
			return done, err
		}
		done = append(done, entered...)
		for _, e := range entered {
			there[e.Seq] = e
		}
	}
	return done, nil
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
