package keyring

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
)

const (
	maxHomes = 256 // pairs of namespace and key name whose index key and wrap key are in memory
	maxWraps = 1024
	homeLife = time.Hour

	// newKeyRate is how many keys of subjects one namespace makes per second after the first newKeyBurst. Each is a row for ever.
	newKeyRate  = 100
	newKeyBurst = 5000
	maxRates    = 4096 // namespaces
)

// parents holds the wrap keys and index keys of subjects.
type parents struct {
	core    *core
	store   crypto.SubjectStore // nil: there is none
	opening *opening
	homes   *lru.Cache[crypto.KeyContext, *home]
	wraps   *lru.Cache[crypto.KeyID, *wrapKey]
	making  *flights[crypto.KeyContext, *home]
	rates   *lru.Cache[string, *rate.Limiter] // of new keys of subjects, by namespace

	made, refused atomic.Int64 // new keys of subjects
}

func newParents(c *core, o *opening, store crypto.SubjectStore) parents {
	return parents{core: c, store: store, opening: o, homes: newLRU[crypto.KeyContext, *home](maxHomes),
		wraps: newLRU[crypto.KeyID, *wrapKey](maxWraps), making: newFlights[crypto.KeyContext, *home](c, refusalLife),
		rates: newLRU[string, *rate.Limiter](maxRates)}
}

// mayMake reports whether a namespace may make one more key of a subject now.
func (p *parents) mayMake(namespace string) bool {
	limiter, ok := p.rates.Get(namespace)
	if !ok {
		limiter = rate.NewLimiter(newKeyRate, newKeyBurst)
		if other, there, _ := p.rates.PeekOrAdd(namespace, limiter); there {
			limiter = other
		}
	}
	if limiter.Allow() {
		return true
	}
	p.refused.Add(1)
	return false
}

// drop forgets the wrap keys that match, and what is cheap to make anew.
func (p *parents) drop(match func(*dataKey) bool) {
	for _, id := range p.wraps.Keys() {
		if w, ok := p.wraps.Peek(id); ok && match(w.proof) {
			p.wraps.Remove(id)
		}
	}
	p.homes.Purge()
}

// home is what a namespace and key name has for its subjects.
type home struct {
	index *envelope.IndexKey
	wrap  *wrapKey
	until time.Time
}

// wrapKey is an unwrapped wrap key.
type wrapKey struct {
	key   *envelope.WrapKey
	proof *dataKey // the same wrapped key taken for a data key, by which its key encryption key is known. It seals nothing
}

// usable reports whether the wrap key's key encryption key may serve now.
func (w *wrapKey) usable() bool { return w.proof.kek.Usable() }

// home returns the index key and the newest wrap key of a namespace and key name. It makes those that are missing.
func (p *parents) home(ctx context.Context, kc crypto.KeyContext, m match) (*home, error) {
	set := p.core.set.Load()
	if h, ok := p.homes.Get(kc); ok && time.Now().Before(h.until) && h.wrap.usable() && !set.revoked[h.wrap.key.ID()] && !set.revoked[h.index.ID()] {
		return h, nil
	}
	if err := p.making.refused(kc); err != nil {
		return nil, err
	}
	return p.making.do(ctx, kc, func(ctx context.Context) (*home, error) {
		h, err := p.makeHome(ctx, kc, m)
		if err != nil {
			return nil, p.making.refuse(kc, err)
		}
		p.homes.Add(kc, h)
		return h, nil
	})
}

func (p *parents) makeHome(ctx context.Context, kc crypto.KeyContext, m match) (*home, error) {
	index, wraps, err := p.rows(ctx, kc)
	if err != nil {
		return nil, err
	}
	if len(index) == 0 {
		if len(wraps) > 0 {
			return nil, kc.Errorf(crypto.KindTampered, "seal",
				"the key store has lost the index key of its subjects: without it none is found again; restore its row from a backup")
		}
		if err := p.makeParent(ctx, kc, m, envelope.KindIndex, 0); err != nil {
			return nil, err
		}
	}
	generation := 1
	if len(wraps) > 0 {
		generation = wraps[0].Generation + 1
	}
	if wraps = p.unrevoked(wraps); len(wraps) == 0 || !wraps[0].Current {
		if err := p.makeParent(ctx, kc, m, envelope.KindWrap, generation); err != nil {
			return nil, err
		}
	}
	if index, wraps, err = p.rows(ctx, kc); err != nil { // another process may have been faster
		return nil, err
	}
	if wraps = p.unrevoked(wraps); len(index) == 0 || len(wraps) == 0 {
		return nil, kc.Errorf(crypto.KindUnavailable, "seal", "rows that were written to the key store are not there")
	}
	if id := index[0].ID; p.core.set.Load().revoked[id] {
		return nil, kc.Errorf(crypto.KindRevoked, "seal", "the index key %s... of its subjects stands in revoked_data_keys", id.String()[:8])
	}
	h := &home{until: time.Now().Add(homeLife)}
	if h.wrap, err = p.wrapKey(ctx, wraps[0].ID, kc, m); err != nil {
		return nil, err
	}
	h.index, err = p.indexKey(ctx, index, m)
	return h, err
}

// unrevoked returns the wrap keys that may wrap.
func (p *parents) unrevoked(wraps []crypto.ParentRow) []crypto.ParentRow {
	revoked := p.core.set.Load().revoked
	return slices.DeleteFunc(wraps, func(r crypto.ParentRow) bool { return revoked[r.ID] })
}

// rows returns the rows of the index key, and those of wrap keys with the newest first.
func (p *parents) rows(ctx context.Context, kc crypto.KeyContext) (index, wraps []crypto.ParentRow, err error) {
	rows, err := p.store.Parents(ctx, kc)
	if err != nil {
		return nil, nil, classified("keystore.parents", kc, err)
	}
	for _, r := range rows {
		if r.Kind == crypto.RowIndex {
			index = append(index, r)
		} else {
			wraps = append(wraps, r)
		}
	}
	return index, wraps, nil
}

// makeParent has the key service make an index key or a wrap key, and puts it into the key store unless another one is there.
func (p *parents) makeParent(ctx context.Context, kc crypto.KeyContext, m match, kind envelope.Kind, generation int) error {
	key, err := p.core.keys.open(ctx, m.active())
	if err != nil {
		return crypto.About(err, kc.Key, kc.Namespace)
	}
	var plain, wrapped []byte
	if err := p.core.service.call(ctx, key.URI(), "kms.generate_data_key", kc, func(ctx context.Context) (err error) {
		plain, wrapped, err = key.Provider().GenerateDataKey(ctx, kc)
		return err
	}); err != nil {
		key.Failed(err)
		return p.opening.explain(ctx, key, kc, err)
	}
	defer clear(plain)
	if len(plain) != envelope.DataKeySize || len(wrapped) > envelope.MaxWrapped {
		return kc.Internalf(crypto.KindNotConfigured, "kms.generate_data_key", "%s gave a data key of %d bytes wrapped in %d", key.URI(), len(plain), len(wrapped))
	}
	id, err := envelope.ID(plain, &envelope.Context{Kind: kind, Key: kc.Key, Namespace: kc.Namespace})
	if err != nil {
		return kc.Errorf(crypto.KindUnavailable, "derive a key's id", "%w", err)
	}
	row := crypto.ParentRow{KeyRow: crypto.KeyRow{ID: id, Kind: uint8(kind), Context: kc, KEK: key.Ref(), KEKURI: key.URI(), Wrapped: wrapped},
		Generation: generation}
	if err := p.store.PutParent(ctx, row); err != nil {
		return classified("keystore.put_parent", kc, err)
	}
	return nil
}

// wrapKey returns a wrap key by its id, from memory or from the key store.
func (p *parents) wrapKey(ctx context.Context, id crypto.KeyID, kc crypto.KeyContext, m match) (*wrapKey, error) {
	set := p.core.set.Load()
	if set.revoked[id] {
		return nil, kc.Errorf(crypto.KindRevoked, "open", "the wrap key %s... of its subject stands in revoked_data_keys", id.String()[:8])
	}
	if w, ok := p.wraps.Get(id); ok && w.usable() && w.proof.context == kc && m.has(w.proof.kek.URI()) {
		return w, nil
	}
	rows, err := p.store.Parent(ctx, id)
	if err != nil {
		return nil, classified("keystore.parents", kc, err)
	}
	if len(rows) == 0 || rows[0].Context != kc || rows[0].Kind != crypto.RowWrap {
		return nil, kc.Errorf(crypto.KindRowMissing, "open", "the key store has no wrap key %s...: the row was lost", id.String()[:8])
	}
	var made *envelope.WrapKey
	proof, err := p.unwrapParent(ctx, rows, m, func(plain []byte) (got crypto.KeyID, err error) {
		if made, err = envelope.NewWrapKey(plain, kc.Key, kc.Namespace); err != nil {
			return got, err
		}
		return made.ID(), nil
	})
	if err != nil {
		return nil, err
	}
	w := &wrapKey{made, proof}
	p.wraps.Add(id, w)
	return w, nil
}

// indexKey unwraps an index key.
func (p *parents) indexKey(ctx context.Context, rows []crypto.ParentRow, m match) (made *envelope.IndexKey, err error) {
	kc := rows[0].Context
	_, err = p.unwrapParent(ctx, rows, m, func(plain []byte) (got crypto.KeyID, err error) {
		if made, err = envelope.NewIndexKey(plain, kc.Key, kc.Namespace); err != nil {
			return got, err
		}
		return made.ID(), nil
	})
	return made, err
}

// unwrapParent has an index key or a wrap key unwrapped by the first key encryption key that answers. made is called with the key,
// and returns its id. The result is the same key taken for a data key, which is how key services' answers are verified.
func (p *parents) unwrapParent(
	ctx context.Context, rows []crypto.ParentRow, m match, made func(plain []byte) (crypto.KeyID, error),
) (proof *dataKey, err error) {
	for i := range rows {
		row := &rows[i]
		h := &envelope.Header{ID: row.ID}
		fill(h, row.KeyRow)
		candidates, failed := p.core.keys.candidates(ctx, m, h)
		if failed != nil {
			err = failed
			continue
		}
		for _, key := range candidates {
			if proof, err = p.unwrapBy(ctx, key, row, made); err == nil {
				proof.use = p.core.uses.of(m.entry, key)
				return proof, nil
			}
		}
	}
	return nil, err
}

func (p *parents) unwrapBy(
	ctx context.Context, key *keyhealth.Key, row *crypto.ParentRow, made func(plain []byte) (crypto.KeyID, error),
) (*dataKey, error) {
	kc := row.Context
	plain, err := p.core.service.unwrapPlain(ctx, key, kc, row.Wrapped)
	if err != nil {
		if err = p.opening.explain(ctx, key, kc, err); crypto.KindOf(err) == crypto.KindUnavailable {
			key.Failed(err)
		}
		return nil, err
	}
	defer clear(plain)
	id, err := made(plain)
	if err != nil {
		return nil, kc.Errorf(crypto.KindUnavailable, "derive a key", "%w", err)
	}
	if id != row.ID {
		return nil, kc.Errorf(crypto.KindTampered, "open", "the key store has another key under the id %s...; somebody changed it", row.ID.String()[:8])
	}
	proof, err := newDataKey(key, kc, plain, row.Wrapped)
	if err != nil {
		return nil, err
	}
	key.Answered(kc, row.Wrapped, proof.id)
	proof.parent = row.ID
	proof.drop() // only its names are needed
	return proof, nil
}

// verifyParent has a wrap key or an index key unwrapped.
func (p *parents) verifyParent(ctx context.Context, row crypto.KeyRow, set *Set) error {
	m, ok := set.findSealed(row.Context.Namespace, row.Context.Key)
	if !ok {
		return row.Context.Errorf(crypto.KindNotConfigured, "verify", "no entry of `keys` in the configuration has this name and serves this namespace")
	}
	c := &envelope.Context{Kind: envelope.Kind(row.Kind), Key: row.Context.Key, Namespace: row.Context.Namespace}
	_, err := p.unwrapParent(ctx, []crypto.ParentRow{{KeyRow: row}}, m, func(plain []byte) (crypto.KeyID, error) { return envelope.ID(plain, c) })
	return err
}
