package keyring

import (
	"context"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// MACs authenticates messages by the data keys of a Keyring.
type MACs struct{ keys *Keyring }

// MACs returns what authenticates messages.
func (k *Keyring) MACs() MACs { return MACs{k} }

// Append appends to dst a MAC of a message, by which any process with the namespace's keys knows it again: see
// [MACs.Verify]. It never waits: without a working data key of the namespace's default key it appends nothing. Nor does it with one that
// expires: a MAC carries the wrapped key, and the server keeps the token.
func (m MACs) Append(dst []byte, namespace string, message []byte) []byte {
	k := m.keys
	name, ok := k.DefaultKey(namespace)
	if !ok {
		return dst
	}
	sl := k.core.slots.find(namespace, name)
	if sl == nil {
		return dst
	}
	s := sl.usable()
	if s == nil || s.dk.life.Load() != nil {
		return dst
	}
	if key := s.dk.macKey.Load(); key != nil {
		dst = envelope.AppendMAC(dst, s.dk.envelopeHeader(), key[:], message)
	}
	return dst
}

// Verify returns nil if a MAC is that of a message and was made in the namespace. A data key that is not in memory is
// unwrapped by the key service, as for an envelope.
func (m MACs) Verify(ctx context.Context, mac []byte, namespace string, message []byte) error {
	k := m.keys
	s, err := envelope.ParseMAC(mac)
	if err != nil {
		return err
	}
	set := k.Current()
	if set.bound(namespace) != s.Header.Namespace {
		return s.Header.Errorf(crypto.KindForeign, "verify a MAC", "it was made in another namespace than %q", namespace)
	}
	dk, _, err := k.opening.dataKey(ctx, &s, set, namespace, new(Run))
	if err != nil {
		return err
	}
	key := dk.macKey.Load()
	if key == nil {
		return s.Header.Errorf(crypto.KindUnavailable, "verify a MAC", "%w", errDropped)
	}
	if !s.VerifyMAC(key[:], message) {
		return s.Header.Tampered("the MAC is not that of this message")
	}
	return nil
}
