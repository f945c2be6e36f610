package keyring

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// manySubjects are more than the memory of a process has places for.
const manySubjects = 100_000

// fill puts the keys of many subjects into the store at once, as processes have made them one by one.
func (h *hospital) fill(t *testing.T) {
	t.Helper()
	h.seal(t, 0, "first", "x") // makes the index key and the wrap key
	kc, of := crypto.KeyContext{Namespace: "ns", Key: "default"}, h.ring[0].subjects
	m, ok := h.ring[0].Current().find("ns", "default")
	if !ok {
		t.Fatal("the key is not configured")
	}
	home, err := of.parents.home(t.Context(), kc, m)
	if err != nil {
		t.Fatal(err)
	}
	h.while(t, func() {
		db, err := sql.Open("sqlite", h.path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		insert, err := tx.PrepareContext(t.Context(), `INSERT INTO temporal_seal_subject_keys (index_id, tag, generation, id, parent, wrapped, seal_until, created, made)
VALUES ($1, $2, 1, $3, $4, $5, $6, 0, 0)`)
		if err != nil {
			t.Fatal(err)
		}
		until := time.Now().Add(subjectLife).UnixMilli()
		for n := range manySubjects {
			id := subjectID{home.index.ID(), home.index.Tag([]byte(name(n)))}
			row, err := home.wrap.newKey(id, kc, 1)
			if err == nil {
				_, err = insert.ExecContext(t.Context(), id.index[:], id.tag[:], row.ID[:], row.Parent[:], row.Wrapped, until)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(insert.Close(), tx.Commit()); err != nil {
			t.Fatal(err)
		}
	})
}

func name(n int) string { return fmt.Sprintf("patient %06d", n) }

// TestHundredThousandSubjects: with 100,000 subjects in the store, what a process keeps of them is bounded, none of them takes a call to the key
// service, and one of them is erased like one of three.
func TestHundredThousandSubjects(t *testing.T) {
	if testing.Short() {
		t.Skip("it seals for thousands of subjects")
	}
	h := newHospital(t)
	h.fill(t)
	calls, before, began := h.p.count(), heap(), time.Now()
	const used = maxSubjects + maxSubjects/4
	var first, last []byte
	for n := range used {
		sealed := h.seal(t, 0, name(n), "of "+name(n))
		if n == 0 {
			first = sealed
		}
		last = sealed
	}
	each, grown := time.Since(began)/used, heap()-before
	of := h.ring[0].subjects
	if n := of.sealers.Len(); n != maxSubjects {
		t.Errorf("%d sealers are in memory, want %d", n, maxSubjects)
	}
	if n := len(of.opening.keys.subjects); n != maxDataKeys {
		t.Errorf("%d keys for opening are in memory, want %d", n, maxDataKeys)
	}
	if limit := int64(maxSubjects+maxDataKeys) * 4096; grown > limit {
		t.Errorf("%d subjects take %d bytes of memory, more than %d", used, grown, limit)
	}
	for _, sealed := range [][]byte{first, last} { // the first one's key was pushed out
		if _, err := open(h.ring[0], sealed, "ns"); err != nil {
			t.Error(err)
		}
	}
	if n := h.p.count() - calls; n > 10 { // a slow machine takes minutes, and the key is probed once in a while
		t.Errorf("the keys of %d subjects took %d calls to the key service", used, n)
	}
	counts, err := h.ring[0].Subjects().Counts(t.Context())
	if err != nil || len(counts) != 1 || counts[0].Subjects != manySubjects+1 {
		t.Errorf("counts %+v, error %v", counts, err)
	}
	began = time.Now()
	if done := h.erase(t, name(0)); len(done) != 1 || len(done[0].Destroyed) != 1 {
		t.Errorf("erased: %+v", done)
	}
	took := time.Since(began)
	h.poll(t)
	for ring, k := range h.ring {
		if _, err := open(k, first, "ns"); crypto.KindOf(err) != crypto.KindErased {
			t.Errorf("replica %d: an erased subject's: %v", ring, err)
		}
		if _, err := open(k, last, "ns"); err != nil {
			t.Errorf("replica %d: another subject's: %v", ring, err)
		}
	}
	if s, _, err := envelope.ParsePayload(first); err != nil || of.opening.keys.get(s.Header.ID) != nil {
		t.Errorf("the erased key is still in memory, error %v", err)
	}
	file, err := os.Stat(h.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d subjects in the store: %d bytes of the file for each, %v for the first seal for one, %d bytes of memory for each in use, "+
		"and %v for an erasure", manySubjects, file.Size()/manySubjects, each, grown/maxSubjects, took)
}
