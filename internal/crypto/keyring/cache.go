package keyring

import (
	"bytes"
	"hash/maphash"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

const (
	maxDataKeys    = 4096
	maxRefusals    = 4096
	openerShards   = 16
	openersInShard = 256
)

// openedKeys remembers what opening needs: data keys by their wrapped form, AEADs by their whole header, and for a
// short while the wrapped keys that were refused. All three are bounded.
type openedKeys struct {
	seed     maphash.Seed
	openers  [openerShards]*lru.Cache[uint64, *opener]
	keys     *lru.Cache[wrapID, *dataKey]
	refusals *lru.Cache[wrapID, refusal]
}

// opener is an AEAD that has opened an envelope with this header, which goes from the lengths to the wrapped key.
// Only a right tag makes one, so envelopes with invented salts can't push the good ones out. It serves for as long as
// the configuration by which the envelope was allowed to be opened.
type opener struct {
	header []byte
	cipher envelope.Cipher
	dk     *dataKey
	set    *Set
}

type refusal struct {
	err   error
	until time.Time
}

func newOpenedKeys() *openedKeys {
	o := &openedKeys{seed: maphash.MakeSeed(), keys: newLRU[wrapID, *dataKey](maxDataKeys), refusals: newLRU[wrapID, refusal](maxRefusals)}
	for i := range o.openers {
		o.openers[i] = newLRU[uint64, *opener](openersInShard)
	}
	return o
}

func newLRU[K comparable, V any](size int) *lru.Cache[K, V] {
	c, err := lru.New[K, V](size)
	if err != nil {
		panic("a cache of a constant size: " + err.Error())
	}
	return c
}

// opener finds the AEAD for an envelope. The hash only finds: the header itself is compared.
func (o *openedKeys) opener(header []byte) *opener {
	h := maphash.Bytes(o.seed, header)
	if op, ok := o.openers[h%openerShards].Get(h); ok && bytes.Equal(op.header, header) {
		return op
	}
	return nil
}

func (o *openedKeys) addOpener(header []byte, c envelope.Cipher, dk *dataKey, set *Set) *opener {
	h := maphash.Bytes(o.seed, header)
	op := &opener{header: bytes.Clone(header), cipher: c, dk: dk, set: set}
	o.openers[h%openerShards].Add(h, op)
	return op
}

func (o *openedKeys) add(dk *dataKey) {
	h := envelope.Header{Key: dk.context.Key, Namespace: dk.context.Namespace, KEK: dk.kek.Ref(), Wrapped: dk.wrapped}
	id := wrapIDOf(&h)
	o.keys.Add(id, dk)
	o.refusals.Remove(id)
}

// drop forgets the data keys that match, and the AEADs derived from them.
func (o *openedKeys) drop(match func(*dataKey) bool) {
	for _, id := range o.keys.Keys() {
		if dk, ok := o.keys.Peek(id); ok && match(dk) {
			dk.drop()
			o.keys.Remove(id)
		}
	}
	for _, shard := range o.openers {
		for _, h := range shard.Keys() {
			if op, ok := shard.Peek(h); ok && match(op.dk) {
				op.dk.drop()
				shard.Remove(h)
			}
		}
	}
}
