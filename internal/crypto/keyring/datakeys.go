package keyring

import (
	"crypto/sha256"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
)

// dataKey is an unwrapped data key and what it is bound to. Its bytes are cleared when it is dropped, and of one that
// only fell out of a cache when no call can use it any more.
type dataKey struct {
	id      [envelope.IDSize]byte
	kek     *keyhealth.Key
	context crypto.KeyContext
	wrapped []byte
	use     *keyUse
	dropped atomic.Bool

	mu     sync.RWMutex // held for reading while a key is derived: from half a cleared secret it would be a wrong one
	secret *[envelope.DataKeySize]byte
}

var errDropped = errors.New("the data key was dropped while the call was under way; try again")

func newDataKey(key *keyhealth.Key, kc crypto.KeyContext, plain, wrapped []byte) (*dataKey, error) {
	id, err := envelope.DeriveDataKeyID(plain)
	if err != nil {
		return nil, kc.Errorf(crypto.KindUnavailable, "derive data-key id", "%w", err)
	}
	secret := [envelope.DataKeySize]byte(plain)
	dk := &dataKey{secret: &secret, id: id, kek: key, context: kc, wrapped: wrapped, use: new(keyUse)}
	runtime.AddCleanup(dk, func(secret *[envelope.DataKeySize]byte) { clear(secret[:]) }, dk.secret)
	return dk, nil
}

// header returns the header of envelopes under the key, without a salt.
func (dk *dataKey) header() envelope.Header {
	return envelope.Header{Key: dk.context.Key, Namespace: dk.context.Namespace, KEK: dk.kek.Ref(), DataKeyID: dk.id,
		Wrapped: dk.wrapped}
}

// usable reports whether the key may serve now. It is asked for every payload.
func (dk *dataKey) usable() bool { return dk.kek.Usable() && !dk.dropped.Load() }

// drop ends the use of the key and clears its bytes.
func (dk *dataKey) drop() {
	dk.dropped.Store(true)
	dk.mu.Lock()
	defer dk.mu.Unlock()
	clear(dk.secret[:])
}

func (dk *dataKey) cipher(salt *[envelope.SaltSize]byte) (envelope.Cipher, error) {
	dk.mu.RLock()
	defer dk.mu.RUnlock()
	if dk.dropped.Load() {
		return envelope.Cipher{}, errDropped
	}
	defer runtime.KeepAlive(dk)
	return envelope.NewCipher(dk.secret[:], salt)
}

// wrapID stands for a wrapped key and all that it is bound to. What is known about one says nothing about another, so
// a planted envelope can neither use nor block the data key of a good one.
type wrapID [sha256.Size]byte

func wrapIDOf(h *envelope.Header) wrapID {
	return sha256.Sum256(envelope.AppendHeader(nil,
		&envelope.Header{KEK: h.KEK, Key: h.Key, Namespace: h.Namespace, Wrapped: h.Wrapped}))
}
