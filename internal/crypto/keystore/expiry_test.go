package keystore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// expiring is a row that seals for an hour and opens for two.
func expiring(n int) crypto.KeyRow {
	r := row(n)
	r.Context.Key = "chat"
	r.Life = &crypto.KeyLife{Read: time.Now(), SealFor: time.Hour, OpenFor: 2 * time.Hour}
	return r
}

// endAll ends the life of all keys that have one, in 2023.
func endAll(t *testing.T, s *Store) {
	t.Helper()
	endAt(t, s, time.UnixMilli(1700000000000))
}

// TestKeysExpire: a key that has expired is not handed out, is destroyed once, no write brings it back, and its error is another one than that of a lost key.
func TestKeysExpire(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s := newStore(t, uri)
		ctx, r := t.Context(), expiring(1)
		for _, r := range []crypto.KeyRow{r, row(2)} {
			if err := s.Put(ctx, r); err != nil {
				t.Fatal(err)
			}
		}
		rows, err := s.Get(ctx, []crypto.KeyID{r.ID})
		if err != nil || len(rows) != 1 || string(rows[0].Wrapped) != string(r.Wrapped) {
			t.Fatalf("rows %v, error %v", rows, err)
		}
		life := rows[0].Life
		if life == nil || !life.Seals() || !life.Opens() || life.SealFor > time.Hour || life.SealFor < 50*time.Minute ||
			life.OpenFor > 2*time.Hour || life.OpenFor < 110*time.Minute || time.Until(life.End) < time.Hour {
			t.Errorf("life %+v; want one hour to seal and two to open", life)
		}
		if rows, err := s.Get(ctx, []crypto.KeyID{row(2).ID}); err != nil || len(rows) != 1 || rows[0].Life != nil {
			t.Errorf("a key without a life: %v, error %v", rows, err)
		}
		if done, _, err := s.Expiry().DestroyExpired(ctx); err != nil || len(done) != 0 {
			t.Errorf("%d keys destroyed before their end, error %v", len(done), err)
		}

		endAll(t, s)
		expired := func(when string) {
			t.Helper()
			rows, err := s.Get(ctx, []crypto.KeyID{r.ID})
			if err != nil || len(rows) != 1 || rows[0].Wrapped != nil || !rows[0].Life.Expired() || rows[0].Context != r.Context {
				t.Errorf("%s: rows %+v, error %v; want one that has expired, without a wrapped key", when, rows, err)
			}
		}
		expired("not destroyed yet")
		if all := ids(t, s); !slices.Equal(all, []crypto.KeyID{row(2).ID}) {
			t.Errorf("all keys are %v; want the one that does not expire", all)
		}
		done, more, err := s.Expiry().DestroyExpired(ctx)
		if err != nil || more || len(done) != 1 || done[0].ID != r.ID || done[0].Context != r.Context || done[0].End.UnixMilli() != 1700000000000 {
			t.Errorf("destroyed %v, more %v, error %v", done, more, err)
		}
		if n := wraps(t, s); n != 1 {
			t.Errorf("%d wrapped keys are left; want that of the key that does not expire", n)
		}
		if done, _, err := s.Expiry().DestroyExpired(ctx); err != nil || len(done) != 0 {
			t.Errorf("destroyed %v once more, error %v", done, err)
		}
		if err := s.Put(ctx, r); crypto.KindOf(err) != crypto.KindExpired {
			t.Errorf("put again: %v", err)
		}
		if n := wraps(t, s); n != 1 {
			t.Error("a write has brought an expired key back")
		}
		expired("destroyed")
	})
}

// TestClocksDiffer: a key is destroyed once the clocks of the store and of the process both say so, and none while they differ by minutes.
func TestClocksDiffer(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s := newStore(t, uri)
		if err := s.Put(t.Context(), expiring(1)); err != nil {
			t.Fatal(err)
		}
		end := time.Now().Add(-30 * time.Second).Truncate(time.Millisecond)
		endAt(t, s, end)
		x := s.Expiry()
		for _, c := range []struct {
			ahead  time.Duration // of the store's clock
			differ bool
		}{{time.Hour, true}, {10 * 365 * 24 * time.Hour, true}, {-time.Hour, true}, {2 * time.Minute, false}} {
			setClock(x, -c.ahead)
			done, more, err := x.DestroyExpired(t.Context())
			if len(done) != 0 || more || errors.Is(err, crypto.ErrClocksDiffer) != c.differ || !c.differ && err != nil {
				t.Errorf("the store's clock is %v ahead: destroyed %v, error %v", c.ahead, done, err)
			}
		}
		if rows, err := s.Get(t.Context(), []crypto.KeyID{row(1).ID}); err != nil || len(rows) != 1 || rows[0].Life.Destroyed {
			t.Errorf("not destroyed: rows %+v, error %v", rows, err)
		}
		setClock(x, 0)
		if done, _, err := x.DestroyExpired(t.Context()); len(done) != 1 || err != nil {
			t.Errorf("the clocks agree: destroyed %v, error %v", done, err)
		}
		if rows, err := s.Get(t.Context(), []crypto.KeyID{row(1).ID}); err != nil || len(rows) != 1 || !rows[0].Life.Destroyed || !rows[0].Life.Gone() {
			t.Errorf("destroyed: rows %+v, error %v", rows, err)
		}
		s.ends.last.read = time.Time{}
		setClock(x, -time.Hour)
		if done, _, err := x.DestroyExpired(t.Context()); len(done) != 0 || !errors.Is(err, crypto.ErrClocksDiffer) {
			t.Errorf("a machine that slept while all keys were destroyed: destroyed %v, error %v", done, err)
		}
	})
}

// TestClocksDifferWhereAKeyIsMade: the end of a row is by the store's clock alone. No row is made with one while the clocks differ, since both
// would destroy the key too early once the store's clock was corrected.
func TestClocksDifferWhereAKeyIsMade(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s := newStore(t, uri)
		there := expiring(1)
		if err := s.Put(t.Context(), there); err != nil {
			t.Fatal(err)
		}
		for _, ahead := range []time.Duration{time.Hour, -time.Hour} {
			setOwnClock(s, -ahead)
			err := s.Put(t.Context(), expiring(2))
			if !errors.Is(err, crypto.ErrClocksDiffer) || crypto.KindOf(err) != crypto.KindUnavailable || !strings.Contains(err.Error(), "correct the wrong one") {
				t.Errorf("the store's clock is %v ahead: %v", ahead, err)
			}
			if all := ids(t, s); !slices.Equal(all, []crypto.KeyID{there.ID}) || wraps(t, s) != 1 {
				t.Errorf("the store's clock is %v ahead: keys %v", ahead, all)
			}
			if err := s.Put(t.Context(), expiring(1)); err != nil {
				t.Errorf("a row that is there: %v", err)
			}
		}
		if err := s.Put(t.Context(), row(3)); err != nil {
			t.Errorf("a key that does not expire: %v", err)
		}
		setOwnClock(s, 2*time.Minute)
		if err := s.Put(t.Context(), expiring(2)); err != nil {
			t.Errorf("the clocks agree: %v", err)
		}
	})
}

// TestDeleteThatDeletesNothing: a database in which a DELETE leaves rows there, without an error, destroys no key, and none counts as
// destroyed.
func TestDeleteThatDeletesNothing(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s, r := newStore(t, uri), expiring(1)
		if isTable(s) {
			return // it has no triggers
		}
		keep, drop := `CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER keep BEFORE DELETE ON temporal_seal_wraps FOR EACH ROW EXECUTE FUNCTION keep()`, "DROP TRIGGER keep ON temporal_seal_wraps"
		if s.backend.(database).tables == sqliteTables {
			keep, drop = "CREATE TRIGGER keep BEFORE DELETE ON temporal_seal_wraps BEGIN SELECT RAISE(IGNORE); END", "DROP TRIGGER keep"
		}
		if err := s.Put(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		endAll(t, s)
		sqlExec(t, s, keep)
		x := s.Expiry()
		stays := func(when string, done []crypto.ExpiredKey, err error) {
			t.Helper()
			if err == nil || !strings.Contains(err.Error(), "remove the trigger") || len(done) != 0 || wraps(t, s) != 1 {
				t.Errorf("%s: destroyed %v, error %v, %d wrapped keys", when, done, err, wraps(t, s))
			}
			if lives, err := x.Lives(t.Context(), false); err != nil || len(lives) != 1 || lives[0].Overdue != 1 || lives[0].Expired != 1 {
				t.Errorf("%s: %+v, error %v; want one that is overdue", when, lives, err)
			}
		}
		done, _, err := x.DestroyExpired(t.Context())
		stays("at its end", done, err)
		if rows, err := s.Get(t.Context(), []crypto.KeyID{r.ID}); err != nil || len(rows) != 1 || rows[0].Life.Destroyed {
			t.Errorf("it counts as destroyed: %+v, error %v", rows, err)
		}
		sqlExec(t, s, "UPDATE temporal_seal_keys SET destroyed = 1")
		done, _, err = x.DestroyReturned(t.Context())
		stays("as one that came back", done, err)
		sqlExec(t, s, drop)
		if done, _, err := x.DestroyReturned(t.Context()); err != nil || len(done) != 1 || wraps(t, s) != 0 {
			t.Errorf("without the trigger: destroyed %v, error %v", done, err)
		}
		if lives, err := x.Lives(t.Context(), false); err != nil || len(lives) != 0 {
			t.Errorf("without the trigger: %+v, error %v", lives, err)
		}
	})
}

// TestOrphans: wrapped keys without a row are counted, and those with one are not.
func TestOrphans(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s, want := newStore(t, uri), 0
		for _, r := range []crypto.KeyRow{row(1), expiring(2)} {
			if err := s.Put(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		if !isTable(s) {
			r := row(1)
			sqlExec(t, s, "DELETE FROM temporal_seal_keys WHERE id = $1", r.ID[:])
			want = 1
		}
		if n, err := s.Orphans(t.Context()); n != want || err != nil {
			t.Errorf("%d, error %v; want %d", n, err, want)
		}
	})
}

// TestPutReadsTheLife: a process that writes its row again learns that the row ends earlier, and none that it ends later.
func TestPutReadsTheLife(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s := newStore(t, uri)
		if err := s.Put(t.Context(), expiring(1)); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ change, sealFor, openFor time.Duration }{
			{time.Hour, time.Hour, 2 * time.Hour},
			{-90 * time.Minute, 30 * time.Minute, 90 * time.Minute},
		} {
			moveEnds(t, s, c.change)
			again := expiring(1)
			if err := s.Put(t.Context(), again); err != nil {
				t.Fatal(err)
			}
			if l := again.Life; l.SealFor > c.sealFor || l.SealFor < c.sealFor-5*time.Minute || l.OpenFor > c.openFor || l.OpenFor < c.openFor-5*time.Minute {
				t.Errorf("%v: it seals for %v and opens for %v; want %v and %v", c.change, l.SealFor, l.OpenFor, c.sealFor, c.openFor)
			}
		}
	})
}

// TestLivesAreCounted: what expires is counted by namespace and key name, and no file takes it out of the store.
func TestLivesAreCounted(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s := newStore(t, uri)
		ctx := t.Context()
		if err := s.Put(ctx, expiring(1)); err != nil {
			t.Fatal(err)
		}
		endAll(t, s)
		second, other := expiring(2), row(3)
		for _, r := range []crypto.KeyRow{second, other} {
			if err := s.Put(ctx, r); err != nil {
				t.Fatal(err)
			}
		}
		lives, err := s.Expiry().Lives(ctx, true)
		if err != nil || len(lives) != 2 {
			t.Fatalf("lives %v, error %v", lives, err)
		}
		if l := lives[0]; l.Context != second.Context || l.Endless != 0 || l.Expiring != 1 || l.Expired != 1 || time.Until(l.Next) < time.Hour {
			t.Errorf("%+v", l)
		}
		if l := lives[1]; l.Context != other.Context || l.Endless != 1 || l.Expiring+l.Expired != 0 || !l.Next.IsZero() {
			t.Errorf("%+v", l)
		}
		s.ends.last.read = time.Time{}
		if next, err := s.Expiry().Lives(ctx, false); err != nil || len(next) != 1 || next[0].Context != second.Context || next[0].Expiring != 1 || !next[0].Next.Equal(lives[0].Next) {
			t.Errorf("what expires next: %+v, error %v", next, err)
		}
		for _, kc := range []crypto.KeyContext{second.Context, other.Context} {
			if endless, expiring, err := s.Expiry().Has(ctx, kc); err != nil || endless != (kc == other.Context) || expiring != (kc == second.Context) {
				t.Errorf("%v: keys that do not expire: %v, keys that do: %v, error %v", kc, endless, expiring, err)
			}
		}
		if _, err := Export(ctx, s, io.Discard, func(crypto.KeyRow) {}); err == nil || !strings.Contains(err.Error(), "expire") {
			t.Errorf("an export: %v", err)
		}
	})
}

// TestOverdueKeys: a key is overdue whose wrapped key is there, by either clock, some minutes after its end.
func TestOverdueKeys(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s := newStore(t, uri)
		for n, ended := range map[int]time.Duration{1: crypto.OverdueAfter + time.Minute, 2: crypto.OverdueAfter - time.Minute, 3: -time.Hour} {
			r := expiring(n)
			if err := s.Put(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			endAt(t, s, time.Now().Add(-ended), r.ID)
		}
		x := s.Expiry()
		overdue := func(when string, want int) {
			t.Helper()
			for _, all := range []bool{false, true} {
				lives, err := x.Lives(t.Context(), all)
				if err != nil || len(lives) != 1 || lives[0].Overdue != want {
					t.Errorf("%s, all %v: %+v, error %v; want %d overdue", when, all, lives, err, want)
				}
			}
		}
		overdue("two have ended", 1)
		setClock(x, 2*time.Hour)
		overdue("the clock of the store is two hours behind", 3)
		setClock(x, -2*time.Hour)
		overdue("the clock of the store is two hours ahead", 1)
		setClock(x, 0)
		if done, _, err := x.DestroyExpired(t.Context()); err != nil || len(done) != 2 {
			t.Fatalf("destroyed %v, error %v", done, err)
		}
		overdue("two are destroyed", 0)
	})
}

// TestDestroyedKeyComesBack: a wrapped key that is there though its row says that it was destroyed is not handed out, whatever the end of
// the row is, counts as overdue, and is destroyed again. So is one whose row came back with it.
func TestDestroyedKeyComesBack(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s := newStore(t, uri)
		ctx, r := t.Context(), expiring(1)
		for _, r := range []crypto.KeyRow{r, row(2)} {
			if err := s.Put(ctx, r); err != nil {
				t.Fatal(err)
			}
		}
		endAll(t, s)
		if done, _, err := s.Expiry().DestroyExpired(ctx); err != nil || len(done) != 1 {
			t.Fatalf("destroyed %v, error %v", done, err)
		}
		comeBack := func() {
			t.Helper()
			returnWrap(t, s, r)
			if n := wraps(t, s); n != 2 {
				t.Fatalf("%d wrapped keys, want 2", n)
			}
		}
		for name, expires := range map[string]time.Time{"past": time.UnixMilli(1700000000000), "future": time.Now().Add(time.Hour)} {
			comeBack()
			endAt(t, s, expires)
			rows, err := s.Get(ctx, []crypto.KeyID{r.ID})
			if err != nil || len(rows) != 1 || rows[0].Wrapped != nil || !rows[0].Life.Gone() || rows[0].Life.Opens() || rows[0].Life.Seals() {
				t.Errorf("%s: rows %+v, error %v; want one that was destroyed, without a wrapped key", name, rows, err)
			}
			if all := ids(t, s); !slices.Equal(all, []crypto.KeyID{row(2).ID}) {
				t.Errorf("%s: all keys are %v; want the one that does not expire", name, all)
			}
			if lives, err := s.Expiry().Lives(ctx, true); err != nil || len(lives) != 2 || lives[0].Overdue != 1 || lives[0].Expired != 1 || lives[0].Expiring != 0 {
				t.Errorf("%s: %+v, error %v", name, lives, err)
			}
			if done, more, err := s.Expiry().DestroyReturned(ctx); err != nil || more || len(done) != 1 || done[0].ID != r.ID || done[0].Context != r.Context || wraps(t, s) != 1 {
				t.Errorf("%s: destroyed %v, error %v, %d wrapped keys are left", name, done, err, wraps(t, s))
			}
			if done, _, err := s.Expiry().DestroyReturned(ctx); err != nil || len(done) != 0 {
				t.Errorf("%s: destroyed %v once more, error %v", name, done, err)
			}
			if err := s.Put(ctx, r); crypto.KindOf(err) != crypto.KindExpired || wraps(t, s) != 1 {
				t.Errorf("%s: a write: %v, %d wrapped keys", name, err, wraps(t, s))
			}
		}
		comeBack()
		endAll(t, s)
		forgetDestroyed(t, s)
		if rows, err := s.Get(ctx, []crypto.KeyID{r.ID}); err != nil || len(rows) != 1 || rows[0].Wrapped != nil || !rows[0].Life.Gone() {
			t.Errorf("the row is as it was before: %+v, error %v", rows, err)
		}
		if done, _, err := s.Expiry().DestroyExpired(ctx); err != nil || len(done) != 1 || wraps(t, s) != 1 {
			t.Errorf("the row is as it was before: destroyed %v, error %v", done, err)
		}
	})
}

// TestManyKeysExpire: they are destroyed in portions, each by one of the processes that look at the same time.
func TestManyKeysExpire(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s := newStore(t, uri)
		const n = 2*perSweep + 50
		putExpiring(t, s, n)
		endAll(t, s)
		var all sync.WaitGroup
		var mu sync.Mutex
		by := map[crypto.KeyID]int{}
		for range 3 {
			all.Go(func() {
				for {
					done, _, err := s.Expiry().DestroyExpired(context.WithoutCancel(t.Context()))
					if err != nil || len(done) > perSweep {
						t.Errorf("%d at once, error %v", len(done), err)
						return
					}
					if len(done) == 0 {
						return
					}
					mu.Lock()
					for _, key := range done {
						by[key.ID]++
					}
					mu.Unlock()
				}
			})
		}
		all.Wait()
		// A process that meets another one in the same rows gets none, and looks again later.
		for {
			done, _, err := s.Expiry().DestroyExpired(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(done) == 0 {
				break
			}
			for _, key := range done {
				by[key.ID]++
			}
		}
		for id, times := range by {
			if times != 1 {
				t.Errorf("%s was destroyed by %d", id, times)
			}
		}
		if len(by) != n || wraps(t, s) != 0 {
			t.Errorf("%d destroyed, %d wrapped keys are left; want all %d gone", len(by), wraps(t, s), n)
		}
	})
}

// TestRightsForExpiry: where no key expires, the rights that the documents name for a key store are enough, and with two more, keys do.
func TestRightsForExpiry(t *testing.T) {
	uri := postgres(t)
	owner := newStore(t, uri)
	role := "limited" + strings.ToLower(rand.Text())
	grant := func(statement string) {
		t.Helper()
		if _, err := owner.backend.(database).db.Exec(statement + " TO " + role); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := owner.backend.(database).db.Exec("CREATE ROLE " + role + " LOGIN"); err != nil {
		t.Fatal(err)
	}
	grant("GRANT SELECT ON temporal_seal_meta")
	grant("GRANT SELECT, INSERT ON temporal_seal_keys, temporal_seal_wraps")
	s := openStore(t, strings.Replace(uri, "user=seal", "user="+role, 1), owner.id)
	if err := s.Put(t.Context(), row(1)); err != nil {
		t.Fatal(err)
	}
	if done, _, err := s.Expiry().DestroyExpired(t.Context()); err != nil || len(done) != 0 {
		t.Errorf("no key expires: %v, error %v", done, err)
	}
	lacks := func(right string) {
		t.Helper()
		for what, err := range map[string]error{"a key is made": s.Put(t.Context(), expiring(2)), "the rights": s.Expiry().MayDestroy(t.Context())} {
			if crypto.KindOf(err) != crypto.KindUnavailable || !errors.Is(err, crypto.ErrMayNotDestroy) || !strings.Contains(err.Error(), "GRANT "+right+" TO") {
				t.Errorf("%s by a role that lacks %s: %v", what, right, err)
			}
		}
		if endless, expiring, err := s.Expiry().Has(t.Context(), expiring(2).Context); endless || expiring || err != nil {
			t.Errorf("a key is in the store that this role cannot destroy: %v, error %v", expiring, err)
		}
	}
	lacks("UPDATE (destroyed) ON temporal_seal_keys")
	grant("GRANT UPDATE (destroyed) ON temporal_seal_keys")
	lacks("DELETE ON temporal_seal_wraps")
	grant("GRANT DELETE ON temporal_seal_wraps")
	if err := s.Expiry().MayDestroy(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Put(t.Context(), expiring(2)); err != nil {
		t.Error(err)
	}
	endAll(t, owner)
	if done, _, err := s.Expiry().DestroyExpired(t.Context()); err != nil || len(done) != 1 || wraps(t, owner) != 1 {
		t.Errorf("destroyed %v, %d wrapped keys are left, error %v", done, wraps(t, owner), err)
	}
}

// TestMigrateToExpiry: a store that lacks what keys need that expire gets it, and its keys do not expire.
func TestMigrateToExpiry(t *testing.T) {
	for name, uri := range map[string]string{"sqlite": "sqlite:" + filepath.Join(t.TempDir(), "keys.db"), "postgres": postgres(t)} {
		s := newStore(t, uri)
		change := func(statement string) {
			t.Helper()
			if _, err := s.backend.(database).db.Exec(statement); err != nil {
				t.Fatal(name, err)
			}
		}
		if err := s.Put(t.Context(), row(1)); err != nil {
			t.Fatal(err)
		}
		change("DROP INDEX temporal_seal_expiring")
		change("DROP INDEX temporal_seal_endless")
		change("DROP INDEX temporal_seal_with_end")
		change("DROP INDEX temporal_seal_destroyed")
		change("ALTER TABLE temporal_seal_keys DROP COLUMN expires")
		change("ALTER TABLE temporal_seal_keys DROP COLUMN destroyed")
		hasSchema(t, s, 1)
		if changed, err := s.Migrate(t.Context()); !changed || err != nil {
			t.Fatalf("changed %v, error %v", changed, err)
		}
		rows, err := s.Get(t.Context(), []crypto.KeyID{row(1).ID})
		if err != nil || len(rows) != 1 || rows[0].Life != nil {
			t.Errorf("rows %v, error %v", rows, err)
		}
		if err := s.Put(t.Context(), expiring(2)); err != nil {
			t.Error(err)
		}
		change("DROP INDEX temporal_seal_endless") // fails unless it was made again
		change("DROP INDEX temporal_seal_destroyed")
	}
}

// TestExpiredKeyLeavesNothingBehind: the file of SQLite and its log do not have a key that was destroyed.
func TestExpiredKeyLeavesNothingBehind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := newStore(t, "sqlite:"+path)
	r := expiring(1)
	r.Wrapped = []byte("THE-WRAPPED-KEY-THAT-HAS-TO-GO")
	if err := s.Put(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if !onDisk(t, path, r.Wrapped) {
		t.Fatal("the wrapped key is not on disk while it is in the store")
	}
	endAll(t, s)
	if done, _, err := s.Expiry().DestroyExpired(t.Context()); err != nil || len(done) != 1 {
		t.Fatalf("destroyed %v, error %v", done, err)
	}
	if onDisk(t, path, r.Wrapped) {
		t.Error("the wrapped key is still on disk")
	}
}

// TestLogIsEmptiedLater: a process that could not empty the log of SQLite after it had destroyed a key, or ended before, does so later.
func TestLogIsEmptiedLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := newStore(t, "sqlite:"+path)
	r := expiring(1)
	r.Wrapped = []byte("THE-WRAPPED-KEY-THAT-HAS-TO-GO")
	if err := s.Put(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	endAll(t, s)
	for _, statement := range []string{"UPDATE temporal_seal_keys SET destroyed = 1", "DELETE FROM temporal_seal_wraps"} {
		if _, err := s.backend.(database).db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	if !onDisk(t, path, r.Wrapped) {
		t.Fatal("the wrapped key is not in the log")
	}
	if done, _, err := s.Expiry().DestroyExpired(t.Context()); err != nil || len(done) != 0 {
		t.Fatalf("destroyed %v, error %v", done, err)
	}
	if onDisk(t, path, r.Wrapped) {
		t.Error("the wrapped key is still on disk")
	}
}

// onDisk reports whether the file of SQLite, or its log, has a text.
func onDisk(t *testing.T, path string, text []byte) bool {
	t.Helper()
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) == 0 {
		t.Fatalf("files %v, error %v", files, err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(content, text)
	})
}
