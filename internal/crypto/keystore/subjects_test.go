package keystore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// testSubjects are the keys of subjects of a store that somebody with rights on the database changes.
type testSubjects struct {
	crypto.SubjectStore
	store *Store
}

func newSubjects(t *testing.T, uri string) testSubjects {
	t.Helper()
	s := newStore(t, uri)
	return testSubjects{s.Subjects(), s}
}

// restarted returns what a process finds that starts now.
func (s testSubjects) restarted() testSubjects { return testSubjects{s.store.Subjects(), s.store} }

// table returns the table of DynamoDB, or nil.
func (s testSubjects) table() *table {
	b, _ := s.store.backend.(*table)
	return b
}

var clinic = crypto.KeyContext{Namespace: "eu/clinic", Key: "phi"}

func parent(kind uint8, n byte, generation int) crypto.ParentRow {
	return crypto.ParentRow{KeyRow: crypto.KeyRow{ID: crypto.KeyID{kind, n}, Kind: kind, Context: clinic, KEK: crypto.KEKRef{7},
		KEKURI: "local:seal.key", Wrapped: []byte{n, 1, 2}}, Generation: generation}
}

// index puts an index key into a store and returns its id.
func index(t *testing.T, s testSubjects) crypto.KeyID {
	t.Helper()
	p := parent(crypto.RowIndex, 1, 0)
	if err := s.PutParent(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p.ID
}

func subjectRow(index crypto.KeyID, subject byte, generation int) crypto.SubjectRow {
	r := crypto.SubjectRow{Context: clinic, Index: index, Tag: crypto.SubjectTag{subject}, Generation: generation,
		Parent: crypto.KeyID{2, 1}, Wrapped: make([]byte, 60), SealFor: time.Hour}
	rand.Read(r.ID[:])
	rand.Read(r.Wrapped)
	return r
}

func TestOneParentPerPlace(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s := newSubjects(t, uri)
		for _, p := range []crypto.ParentRow{
			parent(crypto.RowIndex, 1, 0), parent(crypto.RowIndex, 2, 0), // the second comes too late
			parent(crypto.RowWrap, 1, 1), parent(crypto.RowWrap, 2, 1), parent(crypto.RowWrap, 3, 2),
		} {
			if err := s.PutParent(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
		rows, err := s.Parents(t.Context(), clinic)
		if err != nil || len(rows) != 3 || rows[0].ID != (crypto.KeyID{2, 3}) || !rows[0].Current || rows[1].ID != (crypto.KeyID{2, 1}) ||
			rows[2].ID != (crypto.KeyID{3, 1}) || rows[2].Kind != crypto.RowIndex || string(rows[2].Wrapped) != "\x01\x01\x02" {
			t.Errorf("rows %+v, error %v", rows, err)
		}
		if rows, err := s.Parent(t.Context(), crypto.KeyID{2, 1}); err != nil || len(rows) != 1 || rows[0].Context != clinic {
			t.Errorf("rows %+v, error %v", rows, err)
		}
		if rows, err := s.Parent(t.Context(), crypto.KeyID{2, 2}); err != nil || len(rows) != 0 {
			t.Errorf("a row that came too late is there: %+v, error %v", rows, err)
		}
		if all, err := s.IndexKeys(t.Context(), "eu/clinic"); err != nil || len(all) != 1 || all[0] != clinic {
			t.Errorf("%v, error %v", all, err)
		}
	})
}

func TestErase(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s, ctx := newSubjects(t, uri), t.Context()
		in := index(t, s)
		first, second, other := subjectRow(in, 1, 1), subjectRow(in, 1, 2), subjectRow(in, 2, 1)
		for _, r := range []crypto.SubjectRow{first, second, other, subjectRow(in, 1, 2)} { // the last one comes too late
			if err := s.PutSubjectKey(ctx, r); err != nil {
				t.Fatal(err)
			}
		}
		rows, err := s.Generations(ctx, in, first.Tag)
		if err != nil || len(rows) != 2 || rows[0].ID != second.ID || string(rows[1].Wrapped) != string(first.Wrapped) ||
			rows[0].SealFor < 50*time.Minute || rows[0].Context != clinic || rows[0].Erased != 0 {
			t.Fatalf("rows %+v, error %v", rows, err)
		}
		done, err := s.Erase(ctx, []crypto.Erasure{{Context: clinic, Index: in, Tag: first.Tag, By: "dpo", Reason: "ticket 7"}})
		if err != nil || len(done) != 1 || done[0].Seq != 1 || len(done[0].Destroyed) != 2 || time.Since(done[0].At).Abs() > time.Minute {
			t.Fatalf("%+v, error %v", done, err)
		}
		rows, err = s.SubjectKeys(ctx, []crypto.KeyID{first.ID, second.ID, other.ID})
		if err != nil || len(rows) != 3 {
			t.Fatalf("%d rows, error %v", len(rows), err)
		}
		for _, r := range rows {
			if erased := r.ID != other.ID; erased != (r.Erased == 1) || erased != (r.Wrapped == nil) || erased == r.ErasedAt.IsZero() {
				t.Errorf("row %+v", r)
			}
		}
		// The next generation is taken, so a process that makes a key at the same time comes too late.
		if err := s.PutSubjectKey(ctx, subjectRow(in, 1, 3)); err != nil {
			t.Fatal(err)
		}
		if rows, err := s.Generations(ctx, in, first.Tag); err != nil || rows[0].Generation != 3 || rows[0].Erased != 1 || rows[0].Wrapped != nil {
			t.Errorf("%+v, error %v", rows[0], err)
		}
		counts, err := s.SubjectCounts(ctx)
		if err != nil || len(counts) != 1 || counts[0] != (crypto.SubjectCount{Context: clinic, Subjects: 2, Keys: 1, Erased: 1}) {
			t.Errorf("%+v, error %v", counts, err)
		}
		if e, err := s.Readmit(ctx, crypto.Erasure{Context: clinic, Index: in, Tag: first.Tag, By: "dpo", Reason: "came back"}); err != nil || e.Seq != 2 {
			t.Errorf("%+v, error %v", e, err)
		}
		if rows, err := s.Generations(ctx, in, first.Tag); err != nil || rows[0].Generation != 4 || rows[0].Erased != 0 || rows[0].ID != (crypto.KeyID{}) {
			t.Errorf("%+v, error %v", rows[0], err)
		}
		all, err := s.Erasures(ctx, 1)
		if err != nil || len(all) != 2 || all[0].Readmitted || !all[1].Readmitted || all[0].Reason != "ticket 7" || all[0].Tag != first.Tag {
			t.Errorf("%+v, error %v", all, err)
		}
		n := 0
		if err := s.AllSubjectKeys(ctx, func(r crypto.SubjectRow) error { n++; return nil }); err != nil || n != 1 {
			t.Errorf("%d keys are left, error %v", n, err)
		}
	})
}

// TestEraseAgainstSeal: whatever a process that makes keys does while a subject is erased, no key of the subject is left.
func TestEraseAgainstSeal(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s, ctx := newSubjects(t, uri), t.Context()
		in := index(t, s)
		for round := range byte(10) {
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					rows, err := s.Generations(ctx, in, crypto.SubjectTag{round})
					if err != nil {
						t.Error(err)
						return
					}
					if len(rows) > 0 && rows[0].Erased != 0 {
						return
					}
					if err := s.PutSubjectKey(ctx, subjectRow(in, round, len(rows)+1)); err != nil {
						t.Error(err)
						return
					}
				}
			})
			for range 2 {
				wg.Go(func() {
					if _, err := s.Erase(ctx, []crypto.Erasure{{Context: clinic, Index: in, Tag: crypto.SubjectTag{round}}}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			rows, err := s.Generations(ctx, in, crypto.SubjectTag{round})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				if r.Wrapped != nil || r.Erased == 0 {
					t.Errorf("round %d: generation %d is there: %+v", round, r.Generation, r)
				}
			}
		}
		if all, err := s.Erasures(ctx, 1); err != nil || len(all) != 20 || all[19].Seq != 20 {
			t.Errorf("%d erasures, error %v", len(all), err)
		}
	})
}

// TestEraseIsAllOrNothing: if one of several key names fails, none is erased.
func TestEraseIsAllOrNothing(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s := newSubjects(t, uri)
		in := index(t, s)
		r := subjectRow(in, 1, 1)
		if err := s.PutSubjectKey(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Erase(ctx, []crypto.Erasure{{Context: clinic, Index: in, Tag: r.Tag}}); err == nil {
			t.Error("an erasure whose caller has left succeeded")
		}
		if rows, err := s.Generations(t.Context(), in, r.Tag); err != nil || len(rows) != 1 || rows[0].Wrapped == nil {
			t.Errorf("%+v, error %v", rows, err)
		}
	})
}

// TestErasureThatIsEnteredAgain keeps its number, so that replicas which know it go on.
func TestErasureThatIsEnteredAgain(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s, ctx := newSubjects(t, uri), t.Context()
		in := index(t, s)
		at := time.Now().Add(-time.Hour).UTC().Truncate(time.Millisecond)
		done, err := s.Erase(ctx, []crypto.Erasure{{Seq: 5, Context: clinic, Index: in, Tag: crypto.SubjectTag{1}, At: at}})
		if err != nil || done[0].Seq != 5 || !done[0].At.Equal(at) {
			t.Errorf("%+v, error %v", done, err)
		}
		if done, err := s.Erase(ctx, []crypto.Erasure{{Context: clinic, Index: in, Tag: crypto.SubjectTag{2}}}); err != nil || done[0].Seq != 6 {
			t.Errorf("%+v, error %v", done, err)
		}
	})
}

func TestReplicas(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s, ctx := newSubjects(t, uri), t.Context()
		for i := range 3 {
			for seq := range int64(2) {
				if err := s.Seen(ctx, crypto.ReplicaRow{ID: fmt.Sprint("replica", i), Seq: seq + int64(i), MaxLag: time.Minute}); err != nil {
					t.Fatal(err)
				}
			}
		}
		all, err := s.Replicas(ctx)
		if err != nil || len(all) != 3 || all[2].ID != "replica2" || all[2].Seq != 3 || all[2].MaxLag != time.Minute || all[2].Silent > time.Minute {
			t.Errorf("%+v, error %v", all, err)
		}
		if err := s.Gone(ctx, "replica2"); err != nil {
			t.Error(err)
		}
		if all, err := s.Replicas(ctx); err != nil || len(all) != 2 {
			t.Errorf("after one has gone: %+v, error %v", all, err)
		}
	})
}

// sql changes rows of a SQL database.
func (s testSubjects) sql(t *testing.T, statement string, args ...any) {
	t.Helper()
	if _, err := s.store.backend.(database).db.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

// scan returns the items of a table by what their keys start with.
func (s testSubjects) scan(t *testing.T, kind string) (all []item) {
	t.Helper()
	pages := dynamodb.NewScanPaginator(s.table().client, &dynamodb.ScanInput{TableName: s.table().name})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range page.Items {
			if strings.HasPrefix(text(it[attrPK]), kind) {
				all = append(all, it)
			}
		}
	}
	return all
}

func (s testSubjects) put(t *testing.T, items ...item) {
	t.Helper()
	for _, it := range items {
		if _, err := s.table().client.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: s.table().name, Item: it}); err != nil {
			t.Fatal(err)
		}
	}
}

func (s testSubjects) lose(t *testing.T, items ...item) {
	t.Helper()
	for _, it := range items {
		if _, err := s.table().client.DeleteItem(t.Context(), &dynamodb.DeleteItemInput{TableName: s.table().name, Key: key(text(it[attrPK]))}); err != nil {
			t.Fatal(err)
		}
	}
}

// backup returns a function that puts all keys of subjects back as they are now, and one that loses all of them.
func (s testSubjects) backup(t *testing.T) (restore, lose func()) {
	if s.table() != nil {
		kept := append(s.scan(t, subjectItem), s.scan(t, idItem)...)
		return func() { s.put(t, kept...) }, func() { s.lose(t, append(s.scan(t, subjectItem), s.scan(t, idItem)...)...) }
	}
	s.sql(t, `CREATE TABLE backup AS SELECT * FROM temporal_seal_subject_keys`)
	return func() { s.sql(t, `INSERT INTO temporal_seal_subject_keys SELECT * FROM backup`) },
		func() { s.sql(t, `DELETE FROM temporal_seal_subject_keys`) }
}

// loseWrapped takes the wrapped keys out of all rows.
func (s testSubjects) loseWrapped(t *testing.T) {
	if s.table() == nil {
		s.sql(t, `UPDATE temporal_seal_subject_keys SET wrapped = NULL`)
		return
	}
	for _, it := range s.scan(t, subjectItem) {
		var doc subjectDoc
		if err := json.Unmarshal([]byte(text(it[attrDoc])), &doc); err != nil {
			t.Fatal(err)
		}
		for i := range doc.Generations {
			doc.Generations[i].Wrapped = nil
		}
		content, _ := json.Marshal(doc)
		it[attrDoc] = &types.AttributeValueMemberS{Value: string(content)}
		s.put(t, it)
	}
}

// loseErasure loses the entry of an erasure.
func (s testSubjects) loseErasure(t *testing.T, seq int64) {
	if s.table() == nil {
		s.sql(t, `DELETE FROM temporal_seal_erasures WHERE seq = $1`, seq)
		return
	}
	s.lose(t, key(erasurePK(seq)))
}

// silent has all replicas silent for years.
func (s testSubjects) silent(t *testing.T) {
	if s.table() == nil {
		s.sql(t, `UPDATE temporal_seal_replicas SET seen = 0`)
		return
	}
	for _, it := range s.scan(t, replicasItem) {
		for name, value := range it {
			if doc, ok := replicaOf(name, value); ok {
				doc.Seen = 0
				content, _ := json.Marshal(doc)
				it[name] = &types.AttributeValueMemberS{Value: string(content)}
			}
		}
		s.put(t, it)
	}
}

// TestTableOfKeysIsRestored: the table of erasures says what is erased, so keys that come back by themselves stay erased.
func TestTableOfKeysIsRestored(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s, ctx := newSubjects(t, uri), t.Context()
		in := index(t, s)
		erased, other := subjectRow(in, 1, 1), subjectRow(in, 2, 1)
		for _, r := range []crypto.SubjectRow{erased, other} {
			if err := s.PutSubjectKey(ctx, r); err != nil {
				t.Fatal(err)
			}
		}
		restore, lose := s.backup(t)
		of := crypto.Erasure{Context: clinic, Index: in, Tag: erased.Tag}
		if _, err := s.Erase(ctx, []crypto.Erasure{of}); err != nil {
			t.Fatal(err)
		}
		lose()
		if err := s.PutSubjectKey(ctx, subjectRow(in, 1, 1)); err != nil {
			t.Fatal(err)
		}
		if rows, err := s.Generations(ctx, in, erased.Tag); err != nil || len(rows) != 0 {
			t.Errorf("a key is made for an erased subject whose rows are lost: %+v, error %v", rows, err)
		}
		restore()
		rows, err := s.SubjectKeys(ctx, []crypto.KeyID{erased.ID, other.ID})
		if err != nil || len(rows) != 2 {
			t.Fatalf("%+v, error %v", rows, err)
		}
		for _, r := range rows {
			if (r.ID == erased.ID) != (r.Erased == 1) || r.Wrapped == nil {
				t.Errorf("row %+v", r)
			}
		}
		if ids, err := s.DestroyErased(ctx); err != nil || len(ids) != 1 || ids[0] != erased.ID {
			t.Errorf("destroyed %v, error %v", ids, err)
		}
		if rows, err := s.SubjectKeys(ctx, []crypto.KeyID{erased.ID}); err != nil || rows[0].Wrapped != nil {
			t.Errorf("%+v, error %v", rows, err)
		}
		// A row without a key is one that was lost, unless an erasure says otherwise.
		s.loseWrapped(t)
		n := 0
		if err := s.AllSubjectKeys(ctx, func(r crypto.SubjectRow) error {
			n++
			if r.ID != other.ID || r.Erased != 0 {
				t.Errorf("row %+v", r)
			}
			return nil
		}); err != nil || n != 1 {
			t.Errorf("%d keys, error %v", n, err)
		}
	})
}

// TestErasureCounts: a store that lacks an erasure shows it, and one that is entered again fills the gap.
func TestErasureCounts(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s, ctx := newSubjects(t, uri), t.Context()
		in := index(t, s)
		whole := func(want bool) {
			t.Helper()
			if c, err := s.ErasureCounts(ctx); err != nil || c.Whole() != want {
				t.Errorf("%+v, error %v", c, err)
			}
		}
		of := func(seq int64, subject byte) []crypto.Erasure {
			return []crypto.Erasure{{Seq: seq, Context: clinic, Index: in, Tag: crypto.SubjectTag{subject}}}
		}
		whole(true)
		if _, err := s.Erase(ctx, of(0, 1)); err != nil {
			t.Fatal(err)
		}
		whole(true)
		if err := s.Seen(ctx, crypto.ReplicaRow{ID: "a", Seq: 2}); err != nil {
			t.Fatal(err)
		}
		whole(false) // a replica knows more
		s.silent(t)
		if err := s.Seen(ctx, crypto.ReplicaRow{ID: "b", Seq: 1}); err != nil {
			t.Fatal(err)
		}
		whole(false) // and is not forgotten
		if _, err := s.Erase(ctx, of(4, 2)); err != nil {
			t.Fatal(err)
		}
		whole(false)
		before := subjectRow(in, 3, 1)
		if err := s.PutSubjectKey(ctx, before); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Readmit(ctx, of(3, 2)[0]); err != nil { // before its erasure 4
			t.Fatal(err)
		}
		if rows, err := s.Generations(ctx, in, crypto.SubjectTag{2}); err != nil || rows[0].Erased != 4 {
			t.Errorf("%+v, error %v", rows, err)
		}
		done, err := s.Erase(ctx, of(2, 3))
		if err != nil || done[0].Seq != 2 || len(done[0].Destroyed) != 0 {
			t.Errorf("%+v, error %v", done, err)
		}
		whole(true)
		s.loseErasure(t, 2)
		s = s.restarted()
		whole(false)
		if err := s.EnterLost(ctx, crypto.Erasure{Seq: 2, By: "dpo", Reason: "lost"}); err != nil {
			t.Fatal(err)
		}
		whole(true)
		if lost, err := s.LostIndexKeys(ctx); err != nil || len(lost) != 0 {
			t.Errorf("lost index keys %v, error %v", lost, err)
		}
	})
}

// TestLostIndexKeys: whatever still needs an index key that is gone shows that it is.
func TestLostIndexKeys(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s, ctx := newSubjects(t, uri), t.Context()
		in := index(t, s)
		if err := s.PutParent(ctx, parent(crypto.RowWrap, 1, 1)); err != nil {
			t.Fatal(err)
		}
		if err := s.PutSubjectKey(ctx, subjectRow(in, 1, 1)); err != nil {
			t.Fatal(err)
		}
		if lost, err := s.LostIndexKeys(ctx); err != nil || len(lost) != 0 {
			t.Errorf("lost index keys %v, error %v", lost, err)
		}
		if s.table() == nil {
			s.sql(t, `DELETE FROM temporal_seal_keys WHERE kind = 3`)
		} else {
			s.lose(t, keyOf(in))
		}
		if lost, err := s.LostIndexKeys(ctx); err != nil || len(lost) != 1 || lost[0] != `that of key "phi" in namespace "eu/clinic"` {
			t.Errorf("beside a wrap key: %v, error %v", lost, err)
		}
		want := in.String()
		if s.table() == nil {
			s.sql(t, `DELETE FROM temporal_seal_keys`)
		} else {
			s.lose(t, key(namespaceItem+clinic.Namespace))
			want = `those of namespace "eu/clinic"`
		}
		if lost, err := s.LostIndexKeys(ctx); err != nil || len(lost) != 1 || lost[0] != want {
			t.Errorf("beside keys of subjects: %v, error %v", lost, err)
		}
		if _, err := Export(ctx, s.store, io.Discard, none(t)); err == nil {
			t.Error("a store with keys of subjects is exported without them")
		}
	})
}
