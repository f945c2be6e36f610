package keyring

import (
	"slices"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// TestForgedNamesNeedTheirOwnKey: names that a forged row gave to an envelope by reference decide who may read it, so the envelope does
// not open by the data key that the genuine row brought into memory since.
func TestForgedNamesNeedTheirOwnKey(t *testing.T) {
	for what, change := range map[string]func(c *crypto.KeyContext){
		"another namespace": func(c *crypto.KeyContext) { c.Namespace = "other" },
		"another key":       func(c *crypto.KeyContext) { c.Key = "public" },
	} {
		s, p := defaultStore()
		keys := &rowsInMemory{rows: map[crypto.KeyID]crypto.KeyRow{}}
		k := referring(t, s, p, keys)
		carriers, _ := sealMany(t, k, 6)
		genuine := sealer(t, k, "ns", "default").dk.row()
		cold := newKeyring(t, Options{Keys: []KeyConfig{
			{Name: "default", Active: p.uri, Reference: true}, {Name: "public", Active: p.uri, Reference: true},
		}, Open: s.open, Store: shared{keys}})
		forged := genuine
		change(&forged.Context)
		keys.rows[genuine.ID] = forged
		reader, _, err := envelope.ParsePayload(carriers[5])
		if err != nil {
			t.Fatal(err)
		}
		run := new(Run)
		cold.Resolve(t.Context(), slices.Values([]*envelope.Sealed{&reader}), run)
		if reader.Header.Namespace != forged.Context.Namespace || reader.Header.Key != forged.Context.Key {
			t.Fatalf("%s: the header has the names %q and %q", what, reader.Header.Namespace, reader.Header.Key)
		}
		keys.rows[genuine.ID] = genuine
		if _, err := open(cold, carriers[5], "ns"); err != nil {
			t.Fatalf("%s: who may read it: %v", what, err)
		}
		if out, _, err := cold.Open(t.Context(), nil, &reader, forged.Context.Namespace, run); err == nil {
			t.Errorf("%s: opened %q", what, out)
		}
	}
}
