package keyring

import (
	"fmt"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// TestSelfContainedReadsReferences: a proxy that has the key store and still seals self-contained envelopes opens those of others by
// reference, so that all proxies can read both forms before one seals by reference.
func TestSelfContainedReadsReferences(t *testing.T) {
	s, p := defaultStore()
	keys := sqliteStore(t)
	t.Cleanup(func() { keys.Close() })
	references, n := sealMany(t, referring(t, s, p, keys), 10)
	if n != 6 {
		t.Fatalf("%d of 10 envelopes are by reference", n)
	}
	reader := newKeyring(t, Options{Keys: defaultKeys(), Open: s.open, Store: shared{keys}})
	reader.Confirm("ns")
	for _, carrier := range references {
		if got, err := open(reader, carrier, "ns"); err != nil || got != "payload" {
			t.Errorf("%q, error %v", got, err)
		}
	}
	if _, n := sealMany(t, reader, 10); n != 0 {
		t.Errorf("%d of its own envelopes are by reference", n)
	}
}

// TestSubjectsAreFoundUnderAllKeyNames: a subject is looked up, and so erased, under each key name of its namespace, or under one.
func TestSubjectsAreFoundUnderAllKeyNames(t *testing.T) {
	h := newHospital(t)
	keys := append(defaultKeys(), KeyConfig{Name: "chat", Active: "test:default"})
	k := h.ring[0]
	set, err := k.Prepare(t.Context(), keys, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	k.Commit(set)
	for _, key := range []string{"default", "chat"} {
		s, _, err := k.Subjects().Sealer(t.Context(), "ns", key, []byte("P-1"))
		if err == nil {
			_, err = s.AppendPayload(nil, []byte("x"), false, new(envelope.Nonces))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for key, want := range map[string]string{"": "[chat default]", "chat": "[chat]", "default": "[default]"} {
		found, err := k.Subjects().Find(t.Context(), "ns", key, []byte("P-1"))
		var names []string
		for _, f := range found {
			names = append(names, f.Erasure.Context.Key)
		}
		if fmt.Sprint(names) != want || err != nil {
			t.Errorf("under %q: found %v, error %v; want %s", key, names, err, want)
		}
	}
}
