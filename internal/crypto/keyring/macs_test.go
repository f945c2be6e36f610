package keyring

import (
	"bytes"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// TestMACs: another process with the same key knows a MAC again, by one call to the key service; in another namespace, for
// another message or with a revoked data key it counts for nothing.
func TestMACs(t *testing.T) {
	s, p := defaultStore()
	grants := []Grant{{From: "ns", To: "elsewhere"}} // it opens what ns sealed, and has no tasks of it
	first := newKeyring(t, Options{Keys: defaultKeys(), Open: s.open, Grants: grants})
	second := newKeyring(t, Options{Keys: defaultKeys(), Open: s.open, Grants: grants})
	for _, k := range []*Keyring{first, second} {
		k.Confirm("ns")
	}
	message := []byte("message")
	if mac := first.MACs().Append(nil, "ns", message); mac != nil {
		t.Error("there is a MAC without a data key")
	}
	id := sealer(t, first, "ns", "default").dk.id
	mac := first.MACs().Append(nil, "ns", message)
	for _, k := range []*Keyring{first, second} {
		if err := k.MACs().Verify(t.Context(), mac, "ns", message); err != nil {
			t.Errorf("the MAC is not known again: %v", err)
		}
		wantKind(t, k.MACs().Verify(t.Context(), mac, "ns", []byte("other")), crypto.KindTampered)
		wantKind(t, k.MACs().Verify(t.Context(), mac, "elsewhere", message), crypto.KindForeign)
		wantKind(t, k.MACs().Verify(t.Context(), mac[:20], "ns", message), crypto.KindMalformed)
	}
	p.mu.Lock()
	calls := p.calls
	p.mu.Unlock()
	for range 10 {
		if err := second.MACs().Verify(t.Context(), mac, "ns", message); err != nil {
			t.Error(err)
		}
	}
	p.mu.Lock()
	if p.calls != calls {
		t.Errorf("%d more calls to the key service for the same data key", p.calls-calls)
	}
	p.mu.Unlock()
	set, err := second.Prepare(t.Context(), defaultKeys(), grants, []crypto.KeyID{id})
	if err != nil {
		t.Fatal(err)
	}
	second.Commit(set)
	wantKind(t, second.MACs().Verify(t.Context(), mac, "ns", message), crypto.KindRevoked)
	if mac := newKeyring(t, Options{Keys: []KeyConfig{{Name: "x", Active: "test:x", Namespaces: []string{"none"}}}, Open: s.open}).
		MACs().Append(nil, "ns", message); mac != nil {
		t.Error("there is a MAC in a namespace without a key")
	}
}

// TestMACsOfKeysThatExpire: no task token carries the wrapped key of a data key with a life, which outlives its end at the server.
func TestMACsOfKeysThatExpire(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		s, p := defaultStore()
		k := chat(t, s, p, newExpiringRows(0))
		wrapped := sealer(t, k, "ns", "default").dk.wrapped
		token := k.MACs().Append([]byte("token"), "ns", []byte("message"))
		if string(token) != "token" || bytes.Contains(token, wrapped) {
			t.Errorf("a MAC of %d bytes under a key that expires", len(token)-len("token"))
		}
	})
}
