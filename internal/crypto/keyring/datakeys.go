package keyring

import (
	"bytes"
	"errors"
	"sync/atomic"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
)

// dataKey is what an unwrapped data key does: its sealing key and its id. The data key itself is not kept.
type dataKey struct {
	// What opening reads for every message comes first, since hundreds of keys are far apart in memory.
	id      crypto.KeyID
	kek     *keyhealth.Key
	context crypto.KeyContext
	cipher  atomic.Pointer[envelope.Cipher] // nil once the key was dropped
	use     *keyUse
	subject *subjectKey                    // nil: it is no key of a subject
	life    atomic.Pointer[crypto.KeyLife] // nil: it does not expire
	allowed atomic.Pointer[Set]            // by which envelopes of the key may be opened; see opening.allows
	used    atomic.Int64                   // coarse time of the last look at it
	carried bool                           // by an envelope, though its entry has a life or gave one up: it opens such envelopes alone
	stored  atomic.Bool                    // the key store has its row
	agreed  atomic.Bool                    // the key store has no keys of its name that expire, if it does not

	wrapped []byte
	header  []byte                                 // the part of its envelopes' headers that names it; see envelope.Sealed.KeyHeader
	parent  crypto.KeyID                           // of the proof of a wrap key: that key
	macKey  atomic.Pointer[[envelope.MACSize]byte] // of MACs; nil once the key was dropped
	seals   atomic.Int64                           // envelopes that were sealed with it
	chosen  atomic.Int64                           // envelopes whose form was chosen
}

var errDropped = errors.New("the data key was dropped while the call was under way; try again")

func newDataKey(key *keyhealth.Key, kc crypto.KeyContext, plain, wrapped []byte) (*dataKey, error) {
	return deriveDataKey(key, kc, plain, wrapped, &envelope.Context{Kind: envelope.KindData, Key: kc.Key, Namespace: kc.Namespace})
}

// deriveDataKey derives what a data key does in a context of envelopes.
func deriveDataKey(key *keyhealth.Key, kc crypto.KeyContext, plain, wrapped []byte, derived *envelope.Context) (*dataKey, error) {
	id, cipher, err := envelope.Derive(plain, derived)
	if err != nil {
		return nil, kc.Errorf(crypto.KindUnavailable, "derive a sealing key", "%w", err)
	}
	macKey, err := envelope.DeriveMACKey(plain, derived)
	if err != nil {
		return nil, kc.Errorf(crypto.KindUnavailable, "derive a sealing key", "%w", err)
	}
	dk := &dataKey{id: id, kek: key, context: kc, wrapped: wrapped, use: new(keyUse)}
	dk.header = dk.envelopeHeader().KeyHeader()
	dk.cipher.Store(cipher)
	dk.macKey.Store((*[envelope.MACSize]byte)(macKey))
	return dk, nil
}

// envelopeHeader returns the header of self-contained envelopes under the key.
func (dk *dataKey) envelopeHeader() *envelope.Header {
	return &envelope.Header{Key: dk.context.Key, Namespace: dk.context.Namespace, KEK: dk.kek.Ref(), ID: dk.id, Wrapped: dk.wrapped}
}

// usable reports whether the key may serve now. It is asked for every payload.
func (dk *dataKey) usable() bool {
	return dk.kek.Usable() && dk.cipher.Load() != nil && (dk.subject == nil || dk.subject.of.inForce()) && dk.life.Load().Opens()
}

// opens reports whether the key may serve now and is that of an envelope. In a self-contained one all of the header has to be the
// same, so that what is known about one wrapped key says nothing about another: a planted envelope neither uses nor
// blocks the data key of a good one. The names of one by reference may come from a row that nobody has verified, and what may be
// opened was decided by them, so they have to be those that the key was unwrapped for.
func (dk *dataKey) opens(s *envelope.Sealed) bool {
	if h := s.Header; h.Reference() {
		return dk.is(h.ID) && !dk.carried && h.Namespace == dk.context.Namespace && h.Key == dk.context.Key && h.Subject() == (dk.subject != nil) && dk.usable()
	}
	return dk.usable() && bytes.Equal(dk.header, s.KeyHeader())
}

// row returns what the key store has of the key.
func (dk *dataKey) row() crypto.KeyRow {
	return crypto.KeyRow{ID: dk.id, Context: dk.context, KEK: dk.kek.Ref(), KEKURI: dk.kek.URI(), Wrapped: dk.wrapped, Life: dk.life.Load().Left()}
}

// revoked reports whether the key, or the one that wraps it, stands in a list of revoked ones.
func (dk *dataKey) revoked(ids map[crypto.KeyID]bool) bool {
	return ids[dk.id] || ids[dk.parent] || dk.subject != nil && ids[dk.subject.row.Parent]
}

// is reports whether the key has an id, which is no secret: envelopes have it in clear.
func (dk *dataKey) is(id crypto.KeyID) bool { return dk.id == id }

// drop ends the use of the key.
func (dk *dataKey) drop() {
	dk.cipher.Store(nil)
	dk.macKey.Store(nil)
}
