package keyring

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
)

// faulty is a key store of which a test decides what fails, over a real one or over rows in memory where time is fake.
type faulty struct {
	crypto.KeyStore
	mu   sync.Mutex
	err  error
	gets int
}

func (f *faulty) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *faulty) Get(ctx context.Context, ids []crypto.KeyID) ([]crypto.KeyRow, error) {
	f.mu.Lock()
	f.gets++
	err := f.err
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return f.KeyStore.Get(ctx, ids)
}

func (f *faulty) Ping(ctx context.Context) error {
	f.mu.Lock()
	err := f.err
	f.mu.Unlock()
	if err != nil {
		return err
	}
	return f.KeyStore.Ping(ctx)
}

func (f *faulty) Put(ctx context.Context, row crypto.KeyRow) error {
	f.mu.Lock()
	err := f.err
	f.mu.Unlock()
	if err != nil {
		return err
	}
	return f.KeyStore.Put(ctx, row)
}

// rowsInMemory is a key store for tests with fake time, which a database does not have.
type rowsInMemory struct {
	mu   sync.Mutex
	rows map[crypto.KeyID]crypto.KeyRow
}

func (r *rowsInMemory) Get(_ context.Context, ids []crypto.KeyID) (rows []crypto.KeyRow, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if row, ok := r.rows[id]; ok {
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func (r *rowsInMemory) Put(_ context.Context, row crypto.KeyRow) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows[row.ID] = row
	return nil
}

func (r *rowsInMemory) All(_ context.Context, visit func(crypto.KeyRow) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, row := range r.rows {
		if err := visit(row); err != nil {
			return err
		}
	}
	return nil
}

func (r *rowsInMemory) Ping(context.Context) error { return nil }

func (r *rowsInMemory) Close() error { return nil }

// take removes a row and returns it; ok is whether it was there.
func (r *rowsInMemory) take(id crypto.KeyID) (row crypto.KeyRow, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	row, ok = r.rows[id]
	delete(r.rows, id)
	return row, ok
}

// give puts a row in the place of the one with its id.
func (r *rowsInMemory) give(row crypto.KeyRow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows[row.ID] = row
}

func sqliteStore(t *testing.T) *faulty {
	t.Helper()
	uri := "sqlite:" + filepath.Join(t.TempDir(), "keys.db")
	id, _, err := keystore.Init(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	s, err := keystore.New(uri, id)
	if err != nil {
		t.Fatal(err)
	}
	return &faulty{KeyStore: s}
}

// shared is a key store that outlives the keyrings which use it.
type shared struct{ crypto.KeyStore }

func (shared) Close() error { return nil }

// referring returns a keyring that seals by reference for the namespaces ns and other.
func referring(t *testing.T, s store, p *scripted, keys crypto.KeyStore) *Keyring {
	t.Helper()
	k := newKeyring(t, Options{Keys: []KeyConfig{{Name: "default", Active: p.uri, Reference: true}}, Open: s.open, Store: shared{keys}})
	k.Confirm("ns")
	k.Confirm("other")
	return k
}

// sealMany seals some payloads and returns how many of them are by reference.
func sealMany(t *testing.T, k *Keyring, n int) (carriers [][]byte, references int) {
	t.Helper()
	for range n {
		carrier := seal(t, k, "payload")
		s, _, err := envelope.ParsePayload(carrier)
		if err != nil {
			t.Fatal(err)
		}
		if s.Header.Reference() {
			references++
		}
		carriers = append(carriers, carrier)
	}
	return carriers, references
}

// TestSealsByReference: after its first envelopes a data key is referred to, and carried once in a while; another process opens
// all of them with one question to the store.
func TestSealsByReference(t *testing.T) {
	s, p := defaultStore()
	keys := sqliteStore(t)
	k := referring(t, s, p, keys)
	carriers, references := sealMany(t, k, 1000)
	if want := 1000 - firstAnchors - 1000/anchorInterval; references != want {
		t.Errorf("%d of 1,000 envelopes are by reference, want %d", references, want)
	}
	total := 0
	for _, c := range carriers[firstAnchors:] {
		total += len(c)
	}
	reference := 46 + 32 + len("\x0a\x1c\x0a\x08encoding\x12\x10"+envelope.EncodingWhole+"\x12\x4e")
	if over := float64(total)/float64(len(carriers)-firstAnchors) - float64(reference); over < 0 || over > 1 {
		t.Errorf("anchors add %.2f bytes on average, want one at most", over)
	}
	other := referring(t, s, p, keys)
	before := keys.gets
	if opened, errs := openResolved(t.Context(), other, carriers); opened != 1000 || keys.gets != before+1 {
		t.Errorf("%d of 1,000 opened elsewhere, errors %v, %d questions to the store", opened, errs, keys.gets-before)
	}
	if opened, _ := openResolved(t.Context(), other, carriers); opened != 1000 || keys.gets != before+1 {
		t.Errorf("again: %d opened, %d questions to the store", opened, keys.gets-before)
	}
}

// openResolved opens the payloads of one message.
func openResolved(ctx context.Context, k *Keyring, carriers [][]byte) (opened int, errs map[crypto.Kind]int) {
	var reader envelope.Reader
	var run Run
	sealed := make([]envelope.Sealed, len(carriers))
	for i, c := range carriers {
		_, _ = reader.ParsePayload(&sealed[i], c)
	}
	all := func(yield func(*envelope.Sealed) bool) {
		for i := range sealed {
			if !yield(&sealed[i]) {
				return
			}
		}
	}
	k.Resolve(ctx, all, &run)
	run.Ahead(all)
	errs = make(map[crypto.Kind]int)
	for i := range sealed {
		if _, _, err := k.Open(ctx, nil, &sealed[i], "ns", &run); err != nil {
			errs[crypto.KindOf(err)]++
		} else {
			opened++
		}
	}
	return opened, errs
}

// TestReferencesAreBound: an envelope by reference opens where its data key belongs, whatever somebody did to rows.
func TestReferencesAreBound(t *testing.T) {
	s, p := defaultStore()
	keys := &rowsInMemory{rows: map[crypto.KeyID]crypto.KeyRow{}}
	k := referring(t, s, p, keys)
	carriers, _ := sealMany(t, k, 6)
	carrier := carriers[5]
	own := sealer(t, k, "ns", "default").dk.row()
	other := sealer(t, k, "other", "default").dk.row()
	for _, c := range []struct {
		what, namespace string
		change          func(r *crypto.KeyRow)
		want            crypto.Kind
	}{
		{"as it was", "ns", func(*crypto.KeyRow) {}, crypto.KindUnknown},
		{"as it was, elsewhere", "other", func(*crypto.KeyRow) {}, crypto.KindForeign},
		{"renamed to another namespace", "ns", func(r *crypto.KeyRow) { r.Context.Namespace = "other" }, crypto.KindForeign},
		{"renamed, and read there", "other", func(r *crypto.KeyRow) { r.Context.Namespace = "other" }, crypto.KindRejected},
		{"with the wrapped key of another row", "ns", func(r *crypto.KeyRow) { r.Wrapped = other.Wrapped }, crypto.KindRejected},
		{"replaced by another row", "other", func(r *crypto.KeyRow) { *r = other; r.ID = own.ID }, crypto.KindTampered},
		{"with a broken wrapped key", "ns", func(r *crypto.KeyRow) { r.Wrapped = bytes.Repeat([]byte("x"), 60) }, crypto.KindRejected},
		{"without a wrapped key", "ns", func(r *crypto.KeyRow) { r.Wrapped = nil }, crypto.KindUnavailable},
		{"of an unknown key encryption key", "ns", func(r *crypto.KeyRow) { r.KEK[0] ^= 1 }, crypto.KindNotConfigured},
		{"with another key name", "ns", func(r *crypto.KeyRow) { r.Context.Key = "phi" }, crypto.KindNotConfigured},
	} {
		row := own
		c.change(&row)
		keys.rows[own.ID] = row
		cold := referring(t, s, p, keys)
		for range 2 {
			if got, err := open(cold, carrier, c.namespace); crypto.KindOf(err) != c.want || err == nil && got != "payload" {
				t.Errorf("the row %s, in the namespace %s: %q, error %v; want kind %v", c.what, c.namespace, got, err, c.want)
			}
		}
	}
	// With the data key in memory, names come from what it was unwrapped for.
	keys.rows[own.ID] = own
	if _, err := open(k, carrier, "other"); crypto.KindOf(err) != crypto.KindForeign {
		t.Errorf("warm, elsewhere: %v", err)
	}
	s2, _, _ := envelope.ParsePayload(carrier)
	for i := range len(s2.Envelope()) * 8 {
		changed := bytes.Clone(s2.Envelope())
		changed[i/8] ^= 1 << (i % 8)
		if out, err := open(k, []byte(payloadOf(envelope.EncodingWhole, string(changed))), "ns"); err == nil {
			t.Fatalf("bit %d of byte %d flipped: opened %q", i%8, i/8, out)
		}
	}
}

// TestStoreOutage: sealing goes on with self-contained envelopes, what needs a row waits, and both heal.
func TestStoreOutage(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		s, p := defaultStore()
		keys := &faulty{KeyStore: &rowsInMemory{rows: map[crypto.KeyID]crypto.KeyRow{}}}
		k := referring(t, s, p, keys)
		before, _ := sealMany(t, k, 10)
		time.Sleep(waitForTick)
		if _, err := k.StoreHealth(); err != nil {
			t.Errorf("before the outage: %v", err)
		}
		keys.fail(errors.New("connection refused"))
		time.Sleep(pingInterval + waitForTick)
		if since, err := k.StoreHealth(); err == nil || time.Since(since) > pingInterval {
			t.Errorf("during the outage: since %v, error %v", since, err)
		}
		if _, references := sealMany(t, k, 10); references != 10 {
			t.Errorf("%d of 10 envelopes are by reference, whose row was stored before", references)
		}
		fresh := referring(t, s, p, keys)
		carriers, references := sealMany(t, fresh, 20)
		if references != 0 {
			t.Errorf("%d envelopes refer to a row that was not stored", references)
		}
		if _, err := open(fresh, before[9], "ns"); crypto.KindOf(err) != crypto.KindUnavailable {
			t.Errorf("an envelope whose row is out of reach: %v", err)
		}
		if got, err := open(fresh, carriers[19], "ns"); err != nil || got != "payload" {
			t.Errorf("a self-contained one: %q, %v", got, err)
		}
		keys.fail(nil)
		if got, err := open(fresh, before[9], "ns"); err != nil || got != "payload" {
			t.Errorf("after the outage: %q, %v", got, err)
		}
		time.Sleep(rowsInterval + waitForTick)
		if _, err := k.StoreHealth(); err != nil {
			t.Errorf("after the outage: %v", err)
		}
		if _, references := sealMany(t, fresh, 10); references != 10 {
			t.Errorf("%d of 10 envelopes are by reference a minute after the outage", references)
		}
	})
}

// takesNothing is a key store that has lost its rows and takes none.
type takesNothing struct {
	rowsInMemory
	err error
}

func (s *takesNothing) Put(ctx context.Context, row crypto.KeyRow) error {
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.rowsInMemory.Put(ctx, row)
}

// TestLostRowsAreNotReferredTo: where another store stands in the place of the one that had the row, or the row is gone and cannot be
// written again, envelopes carry their keys.
func TestLostRowsAreNotReferredTo(t *testing.T) {
	for what, failure := range map[string]error{
		"another store":         crypto.Errorf(crypto.KindNotConfigured, "keystore.put", "it is another one"),
		"a store of no writing": crypto.Errorf(crypto.KindUnavailable, "keystore.put", "it is read-only"),
	} {
		fakeTime(t, func(t *testing.T) {
			s, p := defaultStore()
			keys := &takesNothing{rowsInMemory: rowsInMemory{rows: map[crypto.KeyID]crypto.KeyRow{}}}
			k := referring(t, s, p, keys)
			other := sealer(t, k, "other", "default")
			if _, references := sealMany(t, k, 10); references != 10-firstAnchors {
				t.Errorf("%s: %d of 10 envelopes by reference at first", what, references)
			}
			keys.mu.Lock()
			keys.err = failure
			clear(keys.rows)
			keys.mu.Unlock()
			time.Sleep(rowsInterval + waitForTick)
			if _, references := sealMany(t, k, 10); references != 0 {
				t.Errorf("%s: %d of 10 envelopes refer to a row that is not there", what, references)
			}
			if other.dk.stored.Load() {
				t.Errorf("%s: the other namespace's key still counts as stored", what)
			}
		})
	}
}

// TestMissingRows: a row that is not there may come; after a while it counts as lost. One of a key that seals is inserted again.
func TestMissingRows(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		s, p := defaultStore()
		rows := &rowsInMemory{rows: map[crypto.KeyID]crypto.KeyRow{}}
		keys := &faulty{KeyStore: rows}
		k := referring(t, s, p, keys)
		carriers, _ := sealMany(t, k, 6)
		time.Sleep(waitForTick) // the first check of rows is over
		id := sealer(t, k, "ns", "default").dk.id
		row, _ := rows.take(id)
		cold := referring(t, s, p, keys)
		before := keys.gets
		for range 100 {
			_, err := open(cold, carriers[5], "ns")
			wantKind(t, err, crypto.KindUnavailable)
		}
		if n := keys.gets - before; n != 1 {
			t.Errorf("%d questions for one missing row within a second", n)
		}
		rows.give(row)
		time.Sleep(missTrust)
		if _, err := open(cold, carriers[5], "ns"); err != nil {
			t.Errorf("the row has come: %v", err)
		}
		rows.take(id)
		cold = referring(t, s, p, keys)
		_, err := open(cold, carriers[5], "ns")
		wantKind(t, err, crypto.KindUnavailable)
		k.Close() // else it inserts the row again
		time.Sleep(missLimit)
		_, err = open(cold, carriers[5], "ns")
		wantKind(t, err, crypto.KindRowMissing)

		again := referring(t, s, p, keys)
		seal(t, again, "x")
		time.Sleep(waitForTick)
		id = sealer(t, again, "ns", "default").dk.id
		rows.take(id)
		time.Sleep(rowsInterval + waitForTick)
		if _, ok := rows.take(id); !ok {
			t.Error("the lost row of a key that seals was not inserted again")
		}
	})
}

// TestUnconfirmedNamespacesInsertNothing: made-up names must not fill the store.
func TestUnconfirmedNamespacesInsertNothing(t *testing.T) {
	s, p := defaultStore()
	rows := &rowsInMemory{rows: map[crypto.KeyID]crypto.KeyRow{}}
	k := newKeyring(t, Options{Keys: []KeyConfig{{Name: "default", Active: p.uri, Reference: true}}, Open: s.open, Store: rows})
	sealer(t, k, "made-up", "default")
	if len(rows.rows) != 0 {
		t.Errorf("%d rows of a namespace that nobody has confirmed", len(rows.rows))
	}
	k.Confirm("made-up")
	for range 50 {
		time.Sleep(100 * time.Millisecond)
		rows.mu.Lock()
		n := len(rows.rows)
		rows.mu.Unlock()
		if n == 1 {
			return
		}
	}
	t.Error("no row after the upstream has confirmed the namespace")
}

func TestReferenceWithoutAStore(t *testing.T) {
	s, p := defaultStore()
	k := referring(t, s, p, &rowsInMemory{rows: map[crypto.KeyID]crypto.KeyRow{}})
	carriers, _ := sealMany(t, k, 6)
	without := newKeyring(t, Options{Keys: defaultKeys(), Open: s.open})
	_, err := open(without, carriers[5], "ns")
	wantKind(t, err, crypto.KindNotConfigured)
	if _, err := open(without, carriers[0], "ns"); err != nil {
		t.Errorf("an anchor: %v", err)
	}
}

// TestVerifyRows: every row that does not unwrap to the key of its id is named.
func TestVerifyRows(t *testing.T) {
	s, p := defaultStore()
	rows := &rowsInMemory{rows: map[crypto.KeyID]crypto.KeyRow{}}
	k := referring(t, s, p, rows)
	sealer(t, k, "ns", "default")
	bad := sealer(t, k, "other", "default").dk.row()
	bad.ID[0] ^= 1
	rows.rows[bad.ID] = bad
	var failed []crypto.KeyID
	n, err := referring(t, s, p, rows).Rows().Verify(t.Context(), func(r crypto.KeyRow, err error) {
		failed = append(failed, r.ID)
		wantKind(t, err, crypto.KindTampered)
	})
	if err != nil || n != 3 || len(failed) != 1 || failed[0] != bad.ID {
		t.Errorf("%d rows, failed %v, error %v", n, failed, err)
	}
}
