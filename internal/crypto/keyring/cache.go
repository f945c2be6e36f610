package keyring

import (
	"bytes"
	"hash/maphash"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

const (
	maxDataKeys = 4096
	maxOpeners  = 4096
	maxRefusals = 4096
)

// opener is an AEAD that has opened an envelope with this header, which goes from the lengths to the wrapped key.
// Only a right tag makes one, so envelopes with invented salts can't push the good ones out. It serves for as long as
// the configuration by which the envelope was allowed to be opened.
type opener struct {
	header []byte
	cipher envelope.Cipher
	dk     *dataKey
	set    *Set
}

// fits reports whether the AEAD may open envelopes with a header now, by the rules of a set.
func (op *opener) fits(header []byte, set *Set) bool {
	return op != nil && op.set == set && op.dk.usable() && bytes.Equal(op.header, header)
}

func newLRU[K comparable, V any](size int) *lru.Cache[K, V] {
	c, _ := lru.New[K, V](size) // it fails only for a size below 1
	return c
}

// known returns the AEAD for a header: one that the run has noted, or else one from the cache; nil if there is none.
func (o *opening) known(header []byte, set *Set, run *Run) *opener {
	for _, op := range run.recent {
		if op.fits(header, set) {
			return op
		}
	}
	if op, _ := o.openers.Get(maphash.Bytes(o.seed, header)); op.fits(header, set) {
		return op
	}
	return nil
}

func (o *opening) addOpener(op *opener) { o.openers.Add(maphash.Bytes(o.seed, op.header), op) }

func (o *opening) add(dk *dataKey) {
	h := dk.header()
	o.keys.Add(wrapIDOf(&h), dk)
}

// drop forgets the data keys that match, and the AEADs derived from them.
func (o *opening) drop(match func(*dataKey) bool) {
	for _, id := range o.keys.Keys() {
		if dk, ok := o.keys.Peek(id); ok && match(dk) {
			dk.drop()
			o.keys.Remove(id)
		}
	}
	for _, h := range o.openers.Keys() {
		if op, ok := o.openers.Peek(h); ok && match(op.dk) {
			op.dk.drop()
			o.openers.Remove(h)
		}
	}
}
