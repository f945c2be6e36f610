package keyring

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// wrappedTwice is a key store with several rows for a data key.
type wrappedTwice struct {
	rowsInMemory
	more []crypto.KeyRow

	asked func(ids []crypto.KeyID) // is called for each question
}

func (w *wrappedTwice) Get(ctx context.Context, ids []crypto.KeyID) ([]crypto.KeyRow, error) {
	if w.asked != nil {
		w.asked(ids)
	}
	rows, err := w.rowsInMemory.Get(ctx, ids)
	for _, row := range w.more {
		if slices.Contains(ids, row.ID) {
			rows = append(rows, row)
		}
	}
	return rows, err
}

// TestEveryWrapIsTried: a data key that several key encryption keys have wrapped opens as long as one of them unwraps it.
func TestEveryWrapIsTried(t *testing.T) {
	old, fresh := newScripted("test:old"), newScripted("test:new")
	s := store{old.uri: old, fresh.uri: fresh}
	keys := &wrappedTwice{rowsInMemory: rowsInMemory{rows: map[crypto.KeyID]crypto.KeyRow{}}}
	k := referring(t, s, old, keys)
	carriers, _ := sealMany(t, k, 6)
	row := sealer(t, k, "ns", "default").dk.row()
	rewrapped := row
	rewrapped.KEK, rewrapped.KEKURI, rewrapped.Wrapped = fresh.ref, fresh.uri, bytes.Repeat([]byte("n"), 60)
	fresh.blobs[string(rewrapped.Wrapped)] = old.blobs[string(row.Wrapped)]
	fresh.blobs[string(bytes.Repeat([]byte("x"), 60))] = blob{kc: row.Context}
	unavailable := &crypto.Error{Kind: crypto.KindUnavailable, Op: "kms.decrypt", Err: errors.New("no answer")}
	for _, c := range []struct {
		what      string
		second    func(r *crypto.KeyRow)
		oldFails  error
		newFails  error
		openOnly  []string
		want      crypto.Kind
		unwrapped *scripted // that is asked and answers; nil: any
	}{
		{"both answer", nil, nil, nil, []string{old.uri}, crypto.KindUnknown, fresh},
		{"the earlier key is not configured any more", nil, nil, nil, nil, crypto.KindUnknown, fresh},
		{"the active one's wrap is broken", func(r *crypto.KeyRow) { r.Wrapped = []byte("broken") }, nil, nil, []string{old.uri}, crypto.KindUnknown, nil},
		{"the active one does not answer", nil, nil, unavailable, []string{old.uri}, crypto.KindUnknown, nil},
		{"the active one's wrap holds another key", func(r *crypto.KeyRow) { r.Wrapped = bytes.Repeat([]byte("x"), 60) }, nil, nil, []string{old.uri}, crypto.KindUnknown, nil},
		{"one is broken, and the other one does not answer", func(r *crypto.KeyRow) { r.Wrapped = []byte("broken") }, unavailable, nil, []string{old.uri}, crypto.KindUnavailable, nil},
		{"one is broken, and the other one is not configured", func(r *crypto.KeyRow) { r.Wrapped = []byte("broken") }, nil, nil, nil, crypto.KindRejected, nil},
	} {
		second := rewrapped
		if c.second != nil {
			c.second(&second)
		}
		keys.more = []crypto.KeyRow{second}
		cold := newKeyring(t, Options{Keys: []KeyConfig{{Name: "default", Active: fresh.uri, OpenOnly: c.openOnly, Reference: true}},
			Open: s.open, Store: shared{keys}})
		cold.Confirm("ns")
		old.answer(c.oldFails)
		fresh.answer(c.newFails)
		before := old.count()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		got, err := openIn(ctx, cold, carriers[5], "ns")
		cancel()
		if crypto.KindOf(err) != c.want || err == nil && got != "payload" {
			t.Errorf("%s: %q, error %v; want kind %v", c.what, got, err, c.want)
		}
		if c.unwrapped == fresh && old.count() != before {
			t.Errorf("%s: the earlier key was asked", c.what)
		}
	}
}

// planted returns payloads that refer to rows which nobody has made.
func planted(t *testing.T, genuine []byte, from, n int) (all [][]byte) {
	t.Helper()
	s, _, err := envelope.ParsePayload(genuine)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		made := bytes.Clone(s.Envelope())
		binary.BigEndian.PutUint64(made[2:], uint64(from+i)) // the key id
		all = append(all, []byte(payloadOf(envelope.EncodingWhole, string(made))))
	}
	return all
}

// TestMadeUpReferences: a message with any number of made-up key ids asks the key store for a bounded number of rows, and its genuine
// ones open after a few tries.
func TestMadeUpReferences(t *testing.T) {
	const limit = 1024
	fakeTime(t, func(t *testing.T) {
		s, p := defaultStore()
		keys := &wrappedTwice{rowsInMemory: rowsInMemory{rows: map[crypto.KeyID]crypto.KeyRow{}}}
		k := referring(t, s, p, keys)
		carriers, _ := sealMany(t, k, 6)
		time.Sleep(waitForTick)
		message := append(planted(t, carriers[5], 0, 5*limit), carriers[5])
		cold := referring(t, s, p, keys)
		var mu sync.Mutex
		asked, questions := 0, 0
		keys.asked = func(ids []crypto.KeyID) {
			mu.Lock()
			defer mu.Unlock()
			asked, questions = asked+len(ids), questions+1
		}
		for try := 1; ; try++ {
			asked, questions = 0, 0
			opened, errs := openResolved(t.Context(), cold, message)
			if asked > limit || questions > 2 {
				t.Errorf("try %d: %d questions for %d rows, want at most 2 for %d", try, questions, asked, limit)
			}
			if n := errs[crypto.KindUnavailable]; n != len(message)-opened {
				t.Errorf("try %d: %d opened, errors %v", try, opened, errs)
			}
			if opened == 1 {
				break
			}
			if try > 6 {
				t.Fatal("the genuine one does not open")
			}
			time.Sleep(2 * missTrust)
		}
	})
}

// TestMissedRowsMakeWay: questions for rows that were missing before take no more than a few calls at a time, so that others go on.
func TestMissedRowsMakeWay(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		s, p := defaultStore()
		keys := &wrappedTwice{rowsInMemory: rowsInMemory{rows: map[crypto.KeyID]crypto.KeyRow{}}}
		k := referring(t, s, p, keys)
		carriers, _ := sealMany(t, k, 6)
		time.Sleep(waitForTick)
		cold := referring(t, s, p, keys)
		made := planted(t, carriers[5], 0, 20)
		openResolved(t.Context(), cold, made)
		time.Sleep(2 * missTrust)
		var mu sync.Mutex
		var busy, busiest int
		slow := make(chan struct{})
		keys.asked = func(ids []crypto.KeyID) {
			if binary.BigEndian.Uint64(ids[0][:]) >= 20 {
				return
			}
			mu.Lock()
			busy++
			busiest = max(busiest, busy)
			mu.Unlock()
			<-slow
			mu.Lock()
			busy--
			mu.Unlock()
		}
		var all sync.WaitGroup
		for _, one := range made {
			all.Go(func() { openResolved(context.Background(), cold, [][]byte{one}) })
		}
		synctest.Wait()
		if opened, errs := openResolved(t.Context(), cold, carriers[4:]); opened != 2 {
			t.Errorf("%d of 2 opened beside questions for made-up rows, errors %v", opened, errs)
		}
		close(slow)
		all.Wait()
		if busiest != maxAgain {
			t.Errorf("%d questions at once for rows that were missing before, want %d", busiest, maxAgain)
		}
	})
}

// TestRowsThatAreNotAskedForAreNotLost: a row that has been missing for long may have come back, and a call that may not ask for it,
// since others do, must not report it as lost: that ends tasks.
func TestRowsThatAreNotAskedForAreNotLost(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		s, p := defaultStore()
		keys := &wrappedTwice{rowsInMemory: rowsInMemory{rows: map[crypto.KeyID]crypto.KeyRow{}}}
		k := referring(t, s, p, keys)
		carriers, _ := sealMany(t, k, 6)
		time.Sleep(waitForTick)
		row, _ := keys.take(sealer(t, k, "ns", "default").dk.id)
		k.Close() // else it inserts the row again
		cold := referring(t, s, p, keys)
		made := planted(t, carriers[5], 0, maxAgain)
		openResolved(t.Context(), cold, slices.Concat(made, carriers[5:]))
		time.Sleep(missLimit)
		keys.give(row)
		slow := make(chan struct{})
		keys.asked = func(ids []crypto.KeyID) {
			if ids[0] != row.ID {
				<-slow
			}
		}
		var all sync.WaitGroup
		for _, one := range made {
			all.Go(func() { openResolved(context.Background(), cold, [][]byte{one}) })
		}
		synctest.Wait()
		_, err := open(cold, carriers[5], "ns")
		wantKind(t, err, crypto.KindUnavailable)
		close(slow)
		all.Wait()
		if _, err := open(cold, carriers[5], "ns"); err != nil {
			t.Errorf("the row is there: %v", err)
		}
	})
}

// TestNestedRunsShareTheirLimit: texts and messages within one message do not each get its limit of questions.
func TestNestedRunsShareTheirLimit(t *testing.T) {
	s, p := defaultStore()
	keys := &wrappedTwice{rowsInMemory: rowsInMemory{rows: map[crypto.KeyID]crypto.KeyRow{}}}
	k := referring(t, s, p, keys)
	carriers, _ := sealMany(t, k, 6)
	asked := 0
	cold := referring(t, s, p, keys)
	keys.asked = func(ids []crypto.KeyID) { asked += len(ids) }
	var run Run
	for _, one := range planted(t, carriers[5], 0, maxLookups+100) {
		sealed, _, err := envelope.ParsePayload(one)
		if err != nil {
			t.Fatal(err)
		}
		nested := run.Nested()
		wantKind(t, cold.Resolved(t.Context(), &sealed, &nested), crypto.KindUnavailable)
		run.EndNested(&nested)
	}
	if asked != maxLookups {
		t.Errorf("the key store was asked for %d rows by one message, want %d", asked, maxLookups)
	}
}

// TestAnchorsAfterARestart: a process that starts draws a data key of its own, whose first envelopes carry it. So no data key is
// referred to of which no envelope has a copy.
func TestAnchorsAfterARestart(t *testing.T) {
	s, p := defaultStore()
	keys := &rowsInMemory{rows: map[crypto.KeyID]crypto.KeyRow{}}
	anchors := map[crypto.KeyID]int{}
	for range 5 {
		k := referring(t, s, p, keys)
		carriers, references := sealMany(t, k, 10)
		if references != 10-firstAnchors {
			t.Errorf("%d of the first 10 envelopes are by reference", references)
		}
		for _, c := range carriers {
			e, _, err := envelope.ParsePayload(c)
			if err != nil {
				t.Fatal(err)
			}
			if !e.Header.Reference() {
				anchors[e.Header.ID]++
			}
		}
		k.Close()
	}
	if len(anchors) != 5 || len(keys.rows) != 5 {
		t.Errorf("5 processes: %d data keys with anchors, %d rows", len(anchors), len(keys.rows))
	}
}
