package keyring

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
)

// Rows are those of a keyring's key store, for what operators do with all of them. They are worked on maxAsking at a time, and
// failed is never called twice at once.
type Rows struct{ keys *Keyring }

// Rows returns the rows of the key store.
func (k *Keyring) Rows() Rows { return Rows{k} }

// Verify unwraps every row of the key store, and calls failed for each that does not unwrap to the data key that its id
// names. A row of a key encryption key that the configuration does not have any more is no failure if another row of the
// data key unwraps.
func (r Rows) Verify(ctx context.Context, failed func(crypto.KeyRow, error)) (rows int, err error) {
	return r.verifyKinds(ctx, func(uint8) bool { return true }, failed)
}

// VerifyParents is Verify for index keys and wrap keys alone, without which no key of a subject is found or opened.
func (r Rows) VerifyParents(ctx context.Context, failed func(crypto.KeyRow, error)) (rows int, err error) {
	return r.verifyKinds(ctx, func(kind uint8) bool { return kind != 0 }, failed)
}

func (r Rows) verifyKinds(ctx context.Context, chosen func(kind uint8) bool, failed func(crypto.KeyRow, error)) (rows int, err error) {
	err = r.eachKey(ctx, func(of []crypto.KeyRow) (bad []rowError) {
		if !chosen(of[0].Kind) {
			return nil
		}
		good := false
		for _, row := range of {
			if err := r.verify(ctx, row); err != nil {
				bad = append(bad, rowError{row, err})
			} else {
				good = true
			}
		}
		return slices.DeleteFunc(bad, func(b rowError) bool { return good && crypto.KindOf(b.err) == crypto.KindNotConfigured })
	}, func(of []crypto.KeyRow, bad []rowError) {
		if chosen(of[0].Kind) {
			rows += len(of)
		}
		for _, b := range bad {
			failed(b.row, b.err)
		}
	})
	return rows, err
}

// Rewrap adds, to every data key of the key store that the active key encryption key of its entry has not wrapped, a row that this
// one has wrapped. It calls failed for data keys for which that is not possible, and removes no row.
func (r Rows) Rewrap(ctx context.Context, failed func(crypto.KeyRow, error)) (keys, added int, err error) {
	err = r.eachKey(ctx, func(of []crypto.KeyRow) []rowError {
		fresh, err := r.rewrapped(ctx, of)
		if err == nil && fresh != nil {
			err = r.keys.core.opt.Store.Put(ctx, *fresh)
		}
		switch {
		case crypto.KindOf(err) == crypto.KindTampered && fresh != nil && r.wrappedMeanwhile(ctx, fresh):
			return nil
		case err != nil:
			return []rowError{{of[0], err}}
		case fresh != nil:
			return []rowError{{*fresh, nil}}
		}
		return nil
	}, func(_ []crypto.KeyRow, done []rowError) {
		keys++
		for _, d := range done {
			if d.err == nil {
				added++
			} else {
				failed(d.row, d.err)
			}
		}
	})
	return keys, added, err
}

// wrappedMeanwhile reports whether the store has a good row of another writer under the key encryption key of one that it did not take:
// two commands at once wrap a data key differently, and the first one's row stays.
func (r Rows) wrappedMeanwhile(ctx context.Context, fresh *crypto.KeyRow) bool {
	store := r.keys.core.opt.Store
	if fresh.Kind != 0 {
		parents, err := crypto.SubjectsOf(store).Parent(ctx, fresh.ID)
		return err == nil && slices.ContainsFunc(parents, func(p crypto.ParentRow) bool {
			return p.KEK == fresh.KEK && r.verify(ctx, p.KeyRow) == nil
		})
	}
	rows, err := store.Get(ctx, []crypto.KeyID{fresh.ID})
	return err == nil && slices.ContainsFunc(rows, func(row crypto.KeyRow) bool {
		return row.KEK == fresh.KEK && r.verify(ctx, row) == nil
	})
}

// Restore puts the row into the key store that a self-contained envelope's header has, if its data key unwraps.
func (r Rows) Restore(ctx context.Context, h *envelope.Header) error {
	row := crypto.KeyRow{ID: h.ID, Context: crypto.KeyContext{Namespace: h.Namespace, Key: h.Key}, KEK: h.KEK, Wrapped: h.Wrapped}
	if _, expires := r.keys.Current().Expiring(row.Context); expires {
		return h.Errorf(crypto.KindNotConfigured, "restore a row", "the config has a life for the key, and a row made from an envelope would not expire")
	}
	if err := r.verify(ctx, row); err != nil {
		return err
	}
	if dk := r.keys.opening.keys.get(h.ID); dk != nil {
		row.KEKURI = dk.kek.URI()
	}
	return r.keys.core.opt.Store.Put(ctx, row)
}

type rowError struct {
	row crypto.KeyRow
	err error
}

// eachKey calls work with the rows of each data key, for several data keys at a time, and done with what that returned, for one
// after the other.
func (r Rows) eachKey(ctx context.Context, work func([]crypto.KeyRow) []rowError, done func([]crypto.KeyRow, []rowError)) error {
	store := r.keys.core.opt.Store
	if store == nil {
		return crypto.Errorf(crypto.KindNotConfigured, "read rows", "no key store is configured")
	}
	var mu sync.Mutex
	var workers sync.WaitGroup
	queue := make(chan []crypto.KeyRow)
	for range maxAsking {
		workers.Go(func() {
			for rows := range queue {
				results := work(rows)
				mu.Lock()
				done(rows, results)
				mu.Unlock()
			}
		})
	}
	var group []crypto.KeyRow
	send := func() error {
		if len(group) == 0 {
			return nil
		}
		select {
		case queue <- group:
			group = nil
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := store.All(ctx, func(row crypto.KeyRow) error {
		if len(group) > 0 && group[0].ID != row.ID {
			if err := send(); err != nil {
				return err
			}
		}
		group = append(group, row)
		return nil
	})
	if err == nil {
		err = send()
	}
	close(queue)
	workers.Wait()
	return err
}

// verify has a row unwrapped.
func (r Rows) verify(ctx context.Context, row crypto.KeyRow) error {
	h := &envelope.Header{ID: row.ID}
	fill(h, row)
	if row.Broken != nil {
		return h.Errorf(crypto.KindMalformed, "verify a row", "%w", row.Broken)
	}
	if !valid(&row) {
		return h.Errorf(crypto.KindMalformed, "verify a row", "its names or its wrapped key are too long, or empty")
	}
	s := &envelope.Sealed{Header: h}
	set := r.keys.Current()
	r.keys.Confirm(set.local(h.Namespace)) // the store vouches for it
	if row.Kind != 0 {
		return r.keys.subjects.parents.verifyParent(ctx, row, set)
	}
	_, err := r.keys.opening.ask(ctx, s, sha256.Sum256(h.KeyHeader()), &asking{set: set, namespace: set.local(h.Namespace)})
	return err
}

// rewrapped returns the row of a data key under the active key encryption key of its entry; nil if it is among its rows.
func (r Rows) rewrapped(ctx context.Context, of []crypto.KeyRow) (*crypto.KeyRow, error) {
	kc := of[0].Context
	rows := slices.DeleteFunc(slices.Clone(of), func(row crypto.KeyRow) bool { return row.Broken != nil })
	if len(rows) == 0 {
		return nil, kc.Errorf(crypto.KindMalformed, "rewrap", "%w", of[0].Broken)
	}
	m, ok := r.keys.Current().findSealed(kc.Namespace, kc.Key)
	if !ok {
		return nil, kc.Errorf(crypto.KindNotConfigured, "rewrap", "no entry of `keys` in the configuration has this name and serves this namespace")
	}
	to, err := r.keys.core.keys.open(ctx, m.active())
	if err != nil {
		return nil, err
	}
	for i := range rows {
		if rows[i].KEK == to.Ref() {
			return nil, nil
		}
	}
	for i := range rows {
		var wrapped []byte
		if wrapped, err = r.rewrap(ctx, m, &rows[i], to); err != nil {
			continue
		}
		row := crypto.KeyRow{ID: rows[i].ID, Kind: rows[i].Kind, Context: kc, KEK: to.Ref(), KEKURI: to.URI(), Wrapped: wrapped, Life: rows[i].Life}
		return &row, r.verify(ctx, row)
	}
	return nil, err
}

// rewrap wraps anew what a row holds. Only verifying the result shows whether that is the data key of the row's id.
func (r Rows) rewrap(ctx context.Context, m match, row *crypto.KeyRow, to *keyhealth.Key) (wrapped []byte, err error) {
	h := &envelope.Header{ID: row.ID}
	fill(h, *row)
	candidates, err := r.keys.core.keys.candidates(ctx, m, h)
	if err != nil {
		return nil, err
	}
	wrapper, ok := to.Provider().(crypto.Wrapper)
	if !ok {
		return nil, row.Context.Internalf(crypto.KindNotConfigured, "rewrap", "%s cannot wrap a data key that exists", to.URI())
	}
	service := r.keys.core.service
	for _, from := range candidates {
		var plain []byte
		if err = service.call(ctx, from.URI(), "kms.decrypt", row.Context, func(ctx context.Context) (err error) {
			plain, err = from.Provider().UnwrapDataKey(ctx, row.Wrapped, row.Context)
			return err
		}); err != nil {
			continue
		}
		defer clear(plain)
		err = service.call(ctx, to.URI(), "kms.encrypt", row.Context, func(ctx context.Context) (err error) {
			wrapped, err = wrapper.WrapDataKey(ctx, plain, row.Context)
			return err
		})
		return wrapped, err
	}
	return nil, err
}
