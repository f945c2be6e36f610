package main

import (
	"path/filepath"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
)

// TestScanOfSubjects: a row without a key counts as erased only where an erasure says so; otherwise it is lost.
func TestScanOfSubjects(t *testing.T) {
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
	kc := crypto.KeyContext{Namespace: "clinic", Key: "phi"}
	subjects, index := store.Subjects(), crypto.ParentRow{KeyRow: crypto.KeyRow{ID: crypto.KeyID{3}, Kind: crypto.RowIndex, Context: kc, Wrapped: []byte{1}}}
	if err := subjects.PutParent(ctx, index); err != nil {
		t.Fatal(err)
	}
	for i, wrapped := range [][]byte{{1}, nil, {1}} { // there, lost, erased
		if err := subjects.PutSubjectKey(ctx, crypto.SubjectRow{ID: crypto.KeyID{1, byte(i)}, Context: kc, Index: index.ID, Tag: crypto.SubjectTag{byte(i)},
			Generation: 1, Wrapped: wrapped}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := subjects.Erase(ctx, []crypto.Erasure{{Context: kc, Index: index.ID, Tag: crypto.SubjectTag{2}}}); err != nil {
		t.Fatal(err)
	}
	rows, err := (&scanOptions{store: store}).subjects(ctx, []crypto.KeyID{{1, 0}, {1, 1}, {1, 2}})
	if err != nil || len(rows) != 2 || len(rows[crypto.KeyID{1, 0}].Wrapped) == 0 || len(rows[crypto.KeyID{1, 2}].Wrapped) != 0 {
		t.Errorf("rows %+v, error %v", rows, err)
	}
}
