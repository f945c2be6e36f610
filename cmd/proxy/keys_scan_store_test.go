package main

import (
	"path/filepath"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
)

// TestKeysThatOneKEKAloneWraps: a key of the store needs the key encryption key asked about unless another one that the config has
// wrapped it as well, whatever the kind of the key.
func TestKeysThatOneKEKAloneWraps(t *testing.T) {
	uri, ctx := "sqlite:"+filepath.Join(t.TempDir(), "keys.db"), t.Context()
	id, _, err := keystore.Init(ctx, uri)
	if err != nil {
		t.Fatal(err)
	}
	store, err := keystore.New(uri, id)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	old, current, gone := crypto.KEKRef{1}, crypto.KEKRef{2}, crypto.KEKRef{3}
	row := func(id byte, kind uint8, kek crypto.KEKRef) crypto.KeyRow {
		return crypto.KeyRow{ID: crypto.KeyID{id}, Kind: kind, Context: crypto.KeyContext{Namespace: "clinic", Key: "phi"}, KEK: kek, Wrapped: []byte{kek[0]}}
	}
	put := func(rows ...crypto.KeyRow) {
		t.Helper()
		for _, r := range rows {
			if err := store.Put(ctx, r); err != nil {
				t.Fatal(err)
			}
		}
	}
	known := func(r crypto.KeyRow) bool { return r.KEK == current }
	want := func(n int) {
		t.Helper()
		if got, err := wrappedAlone(ctx, store, old, known); err != nil || got != n {
			t.Errorf("%d keys need the key, want %d; error %v", got, n, err)
		}
	}
	want(0)
	put(row(10, 0, current), row(11, 0, old), row(11, 0, current))
	want(0)
	put(row(12, 0, old))
	want(1)
	put(row(13, 0, old), row(13, 0, gone)) // the other one is not in the config
	want(2)
	if err := store.Subjects().PutParent(ctx, crypto.ParentRow{KeyRow: row(14, crypto.RowIndex, old)}); err != nil {
		t.Fatal(err)
	}
	want(3)
	put(row(14, crypto.RowIndex, current), row(12, 0, current), row(13, 0, current))
	want(0)
}
