package keyring

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
)

// subjectStore is a key store in a file that can be made to fail.
type subjectStore struct {
	*keystore.Store
	crypto.SubjectStore

	swap    sync.RWMutex // while the file is opened anew
	mu      sync.Mutex
	away    error              // of every poll
	between func(crypto.KeyID) // called after rows of keys were read
}

func (s *subjectStore) Subjects() crypto.SubjectStore { return s }

// Ping is what a Keyring calls by itself at any time.
func (s *subjectStore) Ping(ctx context.Context) error {
	s.swap.RLock()
	defer s.swap.RUnlock()
	return s.Store.Ping(ctx)
}

func (s *subjectStore) Erasures(ctx context.Context, from int64) ([]crypto.Erasure, error) {
	s.mu.Lock()
	away := s.away
	s.mu.Unlock()
	if away != nil {
		return nil, away
	}
	return s.SubjectStore.Erasures(ctx, from)
}

func (s *subjectStore) SubjectKeys(ctx context.Context, ids []crypto.KeyID) ([]crypto.SubjectRow, error) {
	rows, err := s.SubjectStore.SubjectKeys(ctx, ids)
	s.mu.Lock()
	between := s.between
	s.mu.Unlock()
	if between != nil && len(ids) > 0 {
		between(ids[0])
	}
	return rows, err
}

func (s *subjectStore) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// hospital is two replicas with one key store.
type hospital struct {
	store *subjectStore
	path  string
	id    string
	p     *scripted
	log   *bytes.Buffer
	ring  [2]*Keyring
}

func newHospital(t *testing.T) *hospital {
	t.Helper()
	h := &hospital{path: filepath.Join(t.TempDir(), "keys.db"), log: new(bytes.Buffer)}
	var err error
	if h.id, _, err = keystore.Init(t.Context(), "sqlite:"+h.path); err != nil {
		t.Fatal(err)
	}
	h.store = new(subjectStore)
	h.while(t, func() {})
	services, p := defaultStore()
	h.p = p
	for i := range h.ring {
		h.ring[i] = newKeyring(t, Options{Keys: defaultKeys(), Open: services.open, Store: h.store, Log: slog.New(slog.NewTextHandler(h.log, nil))})
		h.ring[i].subjects.replica = fmt.Sprint("replica ", i) // that the test polls for
		h.ring[i].Confirm("ns")
	}
	t.Cleanup(func() { h.store.Close() })
	return h
}

// while does something with the file of the store while no process has it open.
func (h *hospital) while(t *testing.T, do func()) {
	t.Helper()
	h.store.swap.Lock()
	defer h.store.swap.Unlock()
	if h.store.Store != nil {
		h.store.Close()
	}
	do()
	s, err := keystore.New("sqlite:"+h.path, h.id)
	if err != nil {
		t.Fatal(err)
	}
	h.store.Store, h.store.SubjectStore = s, s.Subjects()
}

// change changes rows of the store as somebody with rights on the database does.
func (h *hospital) change(t *testing.T, statement string) {
	t.Helper()
	h.while(t, func() {
		db, err := sql.Open("sqlite", h.path)
		if err == nil {
			_, err = db.ExecContext(t.Context(), statement)
			err = errors.Join(err, db.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

func (h *hospital) seal(t *testing.T, ring int, subject, payload string) []byte {
	t.Helper()
	s, _, err := h.ring[ring].Subjects().Sealer(t.Context(), "ns", "default", []byte(subject))
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.AppendPayload(nil, []byte(payload), false, new(envelope.Nonces))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (h *hospital) erase(t *testing.T, subject string) []crypto.Erasure {
	t.Helper()
	of := h.ring[0].Subjects()
	found, err := of.Find(t.Context(), "ns", "", []byte(subject))
	if err != nil || len(found) != 1 {
		t.Fatalf("found %v, error %v", found, err)
	}
	done, err := of.Erase(t.Context(), found, "dpo", "ticket 7")
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func (h *hospital) poll(t *testing.T) {
	t.Helper()
	for _, k := range h.ring {
		if err := k.subjects.poll(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSubjectsHaveKeysOfTheirOwn(t *testing.T) {
	h := newHospital(t)
	a, b := h.seal(t, 0, "P-1", "of P-1"), h.seal(t, 0, "P-2", "of P-2")
	again, calls := h.seal(t, 1, "P-1", "more of P-1"), 0
	ids := map[crypto.KeyID]bool{}
	for i, sealed := range [][]byte{a, b, again} {
		s, _, err := envelope.ParsePayload(sealed)
		if err != nil || !s.Header.Reference() || !s.Header.Subject() {
			t.Fatalf("envelope %d: header %+v, error %v", i, s.Header, err)
		}
		ids[s.Header.ID] = true
		for ring, k := range h.ring {
			if got, err := open(k, sealed, "ns"); err != nil || !strings.HasPrefix(got, []string{"of P-1", "of P-2", "more"}[i]) {
				t.Errorf("replica %d: %q, error %v", ring, got, err)
			}
		}
	}
	if len(ids) != 2 {
		t.Errorf("two subjects have %d keys", len(ids))
	}
	calls = h.p.count()
	for i := range 100 {
		h.seal(t, i%2, fmt.Sprint("patient ", i), "x")
	}
	if n := h.p.count() - calls; n != 0 {
		t.Errorf("the keys of 100 subjects took %d calls to the key service", n)
	}
	if n, err := h.ring[1].Subjects().Verify(t.Context(), func(_ crypto.SubjectRow, err error) { t.Error(err) }); n != 102 || err != nil {
		t.Errorf("%d keys, error %v", n, err)
	}
	if n, err := h.ring[0].Rows().VerifyParents(t.Context(), func(_ crypto.KeyRow, err error) { t.Error(err) }); n != 2 || err != nil {
		t.Errorf("%d rows of index and wrap keys, error %v", n, err)
	}
	if n, err := h.ring[0].Rows().Verify(t.Context(), func(_ crypto.KeyRow, err error) { t.Error(err) }); n != 2 || err != nil {
		t.Errorf("%d rows of wrap and index keys, error %v", n, err)
	}
	if _, err := open(h.ring[0], a, "other"); crypto.KindOf(err) != crypto.KindForeign {
		t.Errorf("in another namespace: %v", err)
	}
}

func TestErasedSubject(t *testing.T) {
	h := newHospital(t)
	a, b := h.seal(t, 0, "P-1", "of P-1"), h.seal(t, 0, "P-2", "of P-2")
	for _, k := range h.ring { // caches are warm
		for _, sealed := range [][]byte{a, b} {
			if _, err := open(k, sealed, "ns"); err != nil {
				t.Fatal(err)
			}
		}
	}
	warm, _, err := h.ring[1].Subjects().Sealer(t.Context(), "ns", "default", []byte("P-1"))
	if err != nil {
		t.Fatal(err)
	}
	done := h.erase(t, "P-1")
	if len(done[0].Destroyed) != 1 || done[0].Seq != 1 {
		t.Errorf("%+v", done)
	}
	h.poll(t)
	for i, k := range h.ring {
		if _, err := open(k, a, "ns"); crypto.KindOf(err) != crypto.KindErased || !strings.Contains(err.Error(), "erased on 20") {
			t.Errorf("replica %d: %v", i, err)
		}
		if got, err := open(k, b, "ns"); err != nil || got != "of P-2" {
			t.Errorf("replica %d: another subject: %q, error %v", i, got, err)
		}
		if _, _, err := k.Subjects().Sealer(t.Context(), "ns", "default", []byte("P-1")); crypto.KindOf(err) != crypto.KindErased {
			t.Errorf("replica %d seals for an erased subject: %v", i, err)
		}
	}
	if _, err := warm.AppendPayload(nil, []byte("x"), false, new(envelope.Nonces)); err == nil {
		t.Error("a sealer from before the erasure seals")
	}
	of := h.ring[0].Subjects()
	if replicas, missing, err := of.Wait(t.Context(), 1); err != nil || len(replicas) != 2 || len(missing) != 0 || of.LastErasure() != 1 {
		t.Errorf("replicas %v, missing %v, error %v", replicas, missing, err)
	}
	found, err := of.Find(t.Context(), "ns", "default", []byte("P-1"))
	if err != nil {
		t.Fatal(err)
	}
	if done, err := of.Readmit(t.Context(), found, "dpo", "came back"); err != nil || len(done) != 1 || done[0].Seq != 2 {
		t.Errorf("%+v, error %v", done, err)
	}
	h.poll(t)
	if got, err := open(h.ring[1], h.seal(t, 0, "P-1", "anew"), "ns"); err != nil || got != "anew" {
		t.Errorf("a subject that was readmitted: %q, error %v", got, err)
	}
	if _, err := open(h.ring[0], a, "ns"); crypto.KindOf(err) != crypto.KindErased {
		t.Errorf("what was sealed before the erasure: %v", err)
	}
	if counts, err := of.Counts(t.Context()); err != nil || len(counts) != 1 || counts[0].Subjects != 2 {
		t.Errorf("%+v, error %v", counts, err)
	}
	c := h.seal(t, 0, "P-3", "of P-3")
	if _, err := open(h.ring[1], c, "ns"); err != nil { // it has only opened, so nothing but this key is in its memory
		t.Fatal(err)
	}
	h.erase(t, "P-3")
	h.poll(t)
	if _, err := open(h.ring[1], c, "ns"); crypto.KindOf(err) != crypto.KindErased {
		t.Errorf("a replica that has only opened: %v", err)
	}
}

// TestErasedWhileARowIsRead: a key that was read before the erasure and unwrapped after it is not used.
func TestErasedWhileARowIsRead(t *testing.T) {
	h := newHospital(t)
	sealed := h.seal(t, 0, "P-1", "of P-1")
	var once sync.Once
	h.store.set(func() {
		h.store.between = func(crypto.KeyID) {
			once.Do(func() {
				h.erase(t, "P-1")
				h.poll(t)
			})
		}
	})
	if got, err := open(h.ring[1], sealed, "ns"); err == nil {
		t.Errorf("it opens after the erasure is in force: %q", got)
	}
	if _, err := open(h.ring[1], sealed, "ns"); crypto.KindOf(err) != crypto.KindErased {
		t.Errorf("afterwards: %v", err)
	}
}

// TestErasedWhileASealerIsMade: a key that was found in memory and has left it before the erasure, which therefore does not drop it,
// does not seal for the erased subject.
func TestErasedWhileASealerIsMade(t *testing.T) {
	h := newHospital(t)
	h.seal(t, 1, "P-1", "of P-1")
	of := h.ring[1].subjects
	keys := of.opening.keys.subjects
	var dk *dataKey
	for id, k := range keys {
		dk = k
		delete(keys, id)
	}
	row, set := dk.subject.row, of.core.set.Load()
	row.Seen = of.lastSeq()
	for _, id := range of.sealers.Keys() {
		of.sealers.Remove(id)
	}
	h.erase(t, "P-1")
	h.poll(t)
	of.opening.keys.add(dk) // as if it had been looked up before all that
	m, _ := set.find("ns", "default")
	if _, err := of.sealerOf(t.Context(), row, row.Context, m, set); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("a sealer of an erased subject: error %v", err)
	}
	if of.sealers.Len() != 0 {
		t.Error("the sealer of an erased subject is kept")
	}
}

// TestStoreOutOfReach: keys of subjects serve for erasure_max_lag without the key store, and no longer.
func TestStoreOutOfReach(t *testing.T) {
	h := newHospital(t)
	sealed := h.seal(t, 0, "P-1", "of P-1")
	k := h.ring[0]
	warm, _, err := k.Subjects().Sealer(t.Context(), "ns", "default", []byte("P-1"))
	if err != nil {
		t.Fatal(err)
	}
	h.store.set(func() { h.store.away = errors.New("no route to host") })
	if got, err := open(k, sealed, "ns"); err != nil || got != "of P-1" {
		t.Errorf("at once: %q, error %v", got, err)
	}
	if err := k.Subjects().Stopped(); err != nil {
		t.Errorf("at once: %v", err)
	}
	past := time.Now().Add(-k.subjects.maxLag - time.Second)
	k.subjects.polled.Store(&past)
	if _, err := open(k, sealed, "ns"); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("after erasure_max_lag: %v", err)
	}
	if _, _, err := k.Subjects().Sealer(t.Context(), "ns", "default", []byte("P-1")); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("a sealer after erasure_max_lag: %v", err)
	}
	if _, err := warm.AppendPayload(nil, []byte("x"), false, new(envelope.Nonces)); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("a sealer from before: %v", err)
	}
	if err := k.Subjects().Stopped(); err == nil {
		t.Error("nothing reports that keys of subjects are out of use")
	}
	// A machine that slept: the monotonic clock stood still.
	slept := time.Now().Round(0).Add(-k.subjects.maxLag - time.Second)
	k.subjects.polled.Store(&slept)
	if k.subjects.inForce() {
		t.Error("keys of subjects serve after the machine slept")
	}
	ahead := time.Now().Round(0).Add(time.Hour) // and one whose clock was put back
	k.subjects.polled.Store(&ahead)
	if k.subjects.inForce() {
		t.Error("keys of subjects serve after the clock was put back")
	}
	h.store.set(func() { h.store.away = nil })
	if got, err := open(k, sealed, "ns"); err != nil || got != "of P-1" {
		t.Errorf("when it answers again: %q, error %v", got, err)
	}
}

// TestRestoredStore: a store that has forgotten an erasure stops all keys of subjects until the erasure is entered again.
func TestRestoredStore(t *testing.T) {
	h := newHospital(t)
	a, b := h.seal(t, 0, "P-1", "of P-1"), h.seal(t, 0, "P-2", "of P-2")
	journal := h.erase(t, "P-3") // never sealed for
	h.poll(t)
	var backup []byte
	h.while(t, func() {
		var err error
		if backup, err = os.ReadFile(h.path); err != nil {
			t.Fatal(err)
		}
	})
	journal = append(journal, h.erase(t, "P-1")...)
	h.poll(t)
	h.while(t, func() {
		if err := os.WriteFile(h.path, backup, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	k := h.ring[0]
	if err := k.subjects.poll(); err == nil || k.subjects.inForce() {
		t.Errorf("error %v, in force %v", err, k.subjects.inForce())
	}
	if _, err := open(k, b, "ns"); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("a subject that nobody erased: %v", err)
	}
	if err := k.Subjects().Stopped(); err == nil || !strings.Contains(err.Error(), "reapply-erasures") {
		t.Errorf("why it is stopped: %v", err)
	}
	if !strings.Contains(h.log.String(), "KEYS OF SUBJECTS ARE OUT OF USE") {
		t.Errorf("log: %s", h.log)
	}
	// A command that starts now takes the missing ones from the journal.
	services := store{h.p.uri: h.p}
	command := newKeyring(t, Options{Keys: defaultKeys(), Open: services.open, Store: h.store})
	done, err := command.Subjects().Reapply(t.Context(), journal, "")
	if err != nil || len(done.Entered) != 1 || done.Entered[0].Seq != 2 || len(done.Destroyed) != 1 || len(done.Missing) != 0 {
		t.Errorf("%+v, error %v", done, err)
	}
	if err := k.subjects.poll(); err != nil {
		t.Errorf("after the erasure was entered again: %v", err)
	}
	if _, err := open(k, a, "ns"); crypto.KindOf(err) != crypto.KindErased {
		t.Errorf("the erased subject: %v", err)
	}
	if got, err := open(k, b, "ns"); err != nil || got != "of P-2" {
		t.Errorf("the other: %q, error %v", got, err)
	}
}

func TestSubjectsNeedAStore(t *testing.T) {
	k, _ := ring(t)
	if _, _, err := k.Subjects().Sealer(t.Context(), "ns", "default", []byte("P-1")); crypto.KindOf(err) != crypto.KindNotConfigured {
		t.Errorf("without a key store: %v", err)
	}
	if k.Subjects().Stopped() != nil {
		t.Error("a keyring without a key store has keys of subjects that are out of use")
	}
	h := newHospital(t)
	if _, _, err := h.ring[0].Subjects().Sealer(t.Context(), "claimed", "default", []byte("P-1")); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("in a namespace that is only claimed: %v", err)
	}
	if _, _, err := h.ring[0].Subjects().Sealer(t.Context(), "ns", "no key", []byte("P-1")); crypto.KindOf(err) != crypto.KindNotConfigured {
		t.Errorf("with a key that is not configured: %v", err)
	}
}

// TestGenerationIsSpent: a process that has sealed all that it may goes on with the next generation.
func TestGenerationIsSpent(t *testing.T) {
	h := newHospital(t)
	s, _, err := h.ring[0].Subjects().Sealer(t.Context(), "ns", "default", []byte("P-1"))
	if err != nil {
		t.Fatal(err)
	}
	s.dk.seals.Store(maxSubjectSeals)
	if _, err := s.AppendPayload(nil, []byte("x"), false, new(envelope.Nonces)); err == nil {
		t.Error("it seals more than it may")
	}
	next, _, err := h.ring[0].Subjects().Sealer(t.Context(), "ns", "default", []byte("P-1"))
	if err != nil || next.dk.id == s.dk.id || next.dk.subject.row.Generation != 2 {
		t.Errorf("the next sealer: %+v, error %v", next, err)
	}
}

// TestRevokedWrapKey: revoking a wrap key stops all keys that it wraps.
func TestRevokedWrapKey(t *testing.T) {
	h := newHospital(t)
	sealed := h.seal(t, 0, "P-1", "of P-1")
	k := h.ring[0]
	s, _, err := k.Subjects().Sealer(t.Context(), "ns", "default", []byte("P-1"))
	if err != nil {
		t.Fatal(err)
	}
	set, err := k.Prepare(t.Context(), defaultKeys(), nil, []crypto.KeyID{s.dk.subject.row.Parent})
	if err != nil {
		t.Fatal(err)
	}
	k.Commit(set)
	if _, err := open(k, sealed, "ns"); crypto.KindOf(err) != crypto.KindRevoked {
		t.Errorf("its child opens: %v", err)
	}
	if got, err := open(k, h.seal(t, 0, "P-1", "anew"), "ns"); err != nil || got != "anew" {
		t.Errorf("what is sealed afterwards: %q, error %v", got, err)
	}
}

// TestLostRows: what the key store has lost is noticed.
func TestLostRows(t *testing.T) {
	h := newHospital(t)
	h.seal(t, 0, "P-1", "of P-1")
	k := h.ring[0]
	h.change(t, "CREATE TABLE backup AS SELECT * FROM temporal_seal_subject_keys; DELETE FROM temporal_seal_subject_keys")
	k.subjects.tendRows(time.Now())
	if !strings.Contains(h.log.String(), "lost the row of a subject's key") || k.subjects.sealers.Len() != 0 {
		t.Errorf("%d sealers, log: %s", k.subjects.sealers.Len(), h.log)
	}
	for range 2 {
		if _, _, err := k.Subjects().Sealer(t.Context(), "ns", "default", []byte("P-1")); crypto.KindOf(err) != crypto.KindUnavailable || k.Subjects().Lost() != 1 {
			t.Errorf("a new key takes the place of a lost one: %v, %d lost", err, k.Subjects().Lost())
		}
	}
	h.change(t, "INSERT INTO temporal_seal_subject_keys SELECT * FROM backup")
	k.subjects.sealing.refusals.Purge()
	if got, err := open(k, h.seal(t, 0, "P-1", "again"), "ns"); err != nil || got != "again" || k.Subjects().Lost() != 0 {
		t.Errorf("when the row is back: %q, error %v", got, err)
	}
	h.change(t, "DELETE FROM temporal_seal_keys WHERE kind = 3")
	k.subjects.parents.homes.Purge()
	if _, _, err := k.Subjects().Sealer(t.Context(), "ns", "default", []byte("P-1")); crypto.KindOf(err) != crypto.KindTampered {
		t.Errorf("a lost index key: %v", err)
	}
	of := k.Subjects()
	if _, err := of.Find(t.Context(), "ns", "", []byte("P-1")); crypto.KindOf(err) != crypto.KindTampered || !strings.Contains(err.Error(), `"default"`) {
		t.Errorf("finding a subject without an index key: %v", err)
	}
	if _, err := of.Counts(t.Context()); crypto.KindOf(err) != crypto.KindTampered {
		t.Errorf("counting: %v", err)
	}
	if _, err := of.Verify(t.Context(), func(crypto.SubjectRow, error) {}); crypto.KindOf(err) != crypto.KindTampered {
		t.Errorf("verifying: %v", err)
	}
}

func TestCheckReason(t *testing.T) {
	for reason, want := range map[string]bool{"ticket 7": true, "": false, " ": false, "for P-42": false, "for p-42": false} {
		if err := CheckReason(reason, []byte("P-42")); (err == nil) != want {
			t.Errorf("reason %q: %v", reason, err)
		}
	}
}

func keyOf(t *testing.T, sealed []byte) crypto.KeyID {
	t.Helper()
	s, _, err := envelope.ParsePayload(sealed)
	if err != nil {
		t.Fatal(err)
	}
	return s.Header.ID
}

// TestIDsAreSwapped: whoever writes to the key store cannot have one subject's payloads sealed with the key of another.
func TestIDsAreSwapped(t *testing.T) {
	h := newHospital(t)
	h.ring[1].Confirm("other")
	own := keyOf(t, h.seal(t, 0, "P-1", "of P-1"))
	for namespace, subject := range map[string]string{"ns": "P-2", "other": "P-3"} {
		s, _, err := h.ring[1].Subjects().Sealer(t.Context(), namespace, "default", []byte(subject))
		if err != nil {
			t.Fatal(err)
		}
		swap := `UPDATE temporal_seal_subject_keys SET id = x'%s' WHERE id = x'%s'`
		parked := crypto.KeyID{1}
		h.change(t, fmt.Sprintf(swap, parked, s.dk.id))
		h.change(t, fmt.Sprintf(swap, s.dk.id, own))
		got, _, err := h.ring[1].Subjects().Sealer(t.Context(), "ns", "default", []byte("P-1"))
		if crypto.KindOf(err) != crypto.KindTampered {
			t.Errorf("the key of %s in %s seals for P-1 in ns: %+v, error %v", subject, namespace, got, err)
		}
		h.change(t, fmt.Sprintf(swap, own, s.dk.id))
		h.change(t, fmt.Sprintf(swap, s.dk.id, parked))
	}
	if got := keyOf(t, h.seal(t, 1, "P-1", "more")); got != own {
		t.Errorf("the key is %s, not %s", got, own)
	}
}

// TestRevokedSubjectKey: a subject's key that is revoked seals no more, since what it seals would not open.
func TestRevokedSubjectKey(t *testing.T) {
	h := newHospital(t)
	k := h.ring[0]
	revoked := keyOf(t, h.seal(t, 0, "P-1", "of P-1"))
	set, err := k.Prepare(t.Context(), defaultKeys(), nil, []crypto.KeyID{revoked})
	if err != nil {
		t.Fatal(err)
	}
	k.Commit(set)
	sealed := h.seal(t, 0, "P-1", "anew")
	if got, err := open(k, sealed, "ns"); err != nil || got != "anew" || keyOf(t, sealed) == revoked {
		t.Errorf("%q under %s, error %v", got, keyOf(t, sealed), err)
	}
	index := k.subjects.parents.homes.Values()[0].index.ID()
	if set, err = k.Prepare(t.Context(), defaultKeys(), nil, []crypto.KeyID{index}); err != nil {
		t.Fatal(err)
	}
	k.Commit(set)
	if _, _, err := k.Subjects().Sealer(t.Context(), "ns", "default", []byte("P-1")); crypto.KindOf(err) != crypto.KindRevoked {
		t.Errorf("under an index key that is revoked: %v", err)
	}
	h.erase(t, "P-1") // goes on
}

// TestTableOfKeysIsRestored: keys that come back with their table alone stay erased, and reapplying destroys them.
func TestTableOfKeysIsRestored(t *testing.T) {
	h := newHospital(t)
	sealed := h.seal(t, 0, "P-1", "of P-1")
	h.change(t, `CREATE TABLE backup AS SELECT * FROM temporal_seal_subject_keys`)
	journal := h.erase(t, "P-1")
	h.poll(t)
	h.change(t, `DELETE FROM temporal_seal_subject_keys; INSERT INTO temporal_seal_subject_keys SELECT * FROM backup`)
	h.poll(t)
	k := h.ring[0]
	if _, err := open(k, sealed, "ns"); crypto.KindOf(err) != crypto.KindErased {
		t.Errorf("it opens: %v", err)
	}
	bad := 0
	if _, err := k.Subjects().Verify(t.Context(), func(crypto.SubjectRow, error) { bad++ }); err != nil || bad != 1 {
		t.Errorf("%d keys are not good, error %v", bad, err)
	}
	for _, want := range []int{1, 0} {
		if r, err := k.Subjects().Reapply(t.Context(), journal, ""); err != nil || len(r.Entered) != 0 || len(r.Destroyed) != want {
			t.Errorf("%+v, error %v", r, err)
		}
	}
	if _, _, err := k.Subjects().Sealer(t.Context(), "ns", "default", []byte("P-1")); crypto.KindOf(err) != crypto.KindErased {
		t.Errorf("it seals: %v", err)
	}
}

// TestReapplyWithOtherNumbers: erasures and readmissions are known again by their times, so a second run changes nothing.
func TestReapplyWithOtherNumbers(t *testing.T) {
	h := newHospital(t)
	of := h.ring[0].Subjects()
	h.seal(t, 0, "P-1", "x")
	found, err := of.Find(t.Context(), "ns", "", []byte("P-1"))
	if err != nil {
		t.Fatal(err)
	}
	erased := found[0].Erasure
	erased.Seq, erased.At = 1, time.Now().Add(-2*time.Hour)
	readmitted := erased
	readmitted.Seq, readmitted.At, readmitted.Readmitted = 2, time.Now().Add(-time.Hour), true
	h.erase(t, "P-9") // has the number 1 now
	for _, want := range []int{2, 0} {
		if r, err := of.Reapply(t.Context(), []crypto.Erasure{erased, readmitted}, ""); err != nil || len(r.Entered) != want || len(r.Missing) != 0 {
			t.Errorf("%+v, error %v", r, err)
		}
		h.poll(t)
		if got, err := open(h.ring[0], h.seal(t, 0, "P-1", "after the readmission"), "ns"); err != nil || got != "after the readmission" {
			t.Errorf("%q, error %v", got, err)
		}
	}
	erased.At = erased.At.Add(-time.Hour) // another one, from before the readmission
	if _, err := of.Reapply(t.Context(), []crypto.Erasure{erased}, ""); err == nil {
		t.Error("an erasure from before the readmission destroys the keys from after it")
	}
}

// TestErasuresAreMissing: every process notices that the store lacks an erasure, until it is entered or given up.
func TestErasuresAreMissing(t *testing.T) {
	h := newHospital(t)
	sealed := h.seal(t, 0, "P-1", "of P-1")
	h.erase(t, "P-2")
	h.poll(t)
	h.change(t, `DELETE FROM temporal_seal_erasures; UPDATE temporal_seal_meta SET seq = 0; DELETE FROM temporal_seal_replicas`)
	if err := h.ring[0].subjects.poll(); err == nil {
		t.Error("a replica that knows the erasure goes on")
	}
	// Others learn of it, also those that start now.
	fresh := newKeyring(t, Options{Keys: defaultKeys(), Open: store{h.p.uri: h.p}.open, Store: h.store})
	if _, err := open(fresh, sealed, "ns"); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("a process that starts after the restore: %v", err)
	}
	h.ring[0].subjects.leave()
	if _, err := open(fresh, sealed, "ns"); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("when the one that knew has ended: %v", err)
	}
	r, err := fresh.Subjects().Reapply(t.Context(), nil, "")
	if err != nil || len(r.Missing) != 1 || r.Missing[0] != 1 {
		t.Errorf("%+v, error %v", r, err)
	}
	if r, err := fresh.Subjects().Reapply(t.Context(), nil, "the certificate is lost"); err != nil || len(r.Missing) != 0 {
		t.Errorf("%+v, error %v", r, err)
	}
	if got, err := open(fresh, sealed, "ns"); err != nil || got != "of P-1" {
		t.Errorf("afterwards: %q, error %v", got, err)
	}
}

// TestManySubjects: subjects push out no data keys, and a namespace makes only so many keys at once.
func TestManySubjects(t *testing.T) {
	h := newHospital(t)
	k := h.ring[0]
	s, _, err := k.Sealer(t.Context(), "ns", "default")
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxDataKeys + 10 {
		k.opening.keys.add(&dataKey{id: crypto.KeyID{1, byte(i), byte(i >> 8)}, subject: &subjectKey{of: k.subjects}})
	}
	if k.opening.keys.get(s.dk.id) == nil || len(k.opening.keys.subjects) != maxDataKeys {
		t.Errorf("the data key is there: %v, %d keys of subjects", k.opening.keys.get(s.dk.id) != nil, len(k.opening.keys.subjects))
	}
	h.seal(t, 0, "P-1", "x")
	k.subjects.parents.rates.Add("ns", rate.NewLimiter(0, 1))
	h.seal(t, 0, "P-2", "x")
	if _, _, err := k.Subjects().Sealer(t.Context(), "ns", "default", []byte("P-3")); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("one more: %v", err)
	}
	h.seal(t, 0, "P-1", "x") // is there
}

// TestRunOutlivesTheLag: within one run, too, the key of a subject serves for erasure_max_lag alone.
func TestRunOutlivesTheLag(t *testing.T) {
	h := newHospital(t)
	sealed := h.seal(t, 0, "P-1", "of P-1")
	k := h.ring[1]
	run := new(Run)
	for i := range 2 {
		s, _, err := envelope.ParsePayload(sealed)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = k.Open(t.Context(), nil, &s, "ns", run)
		if want := []crypto.Kind{crypto.KindUnknown, crypto.KindUnavailable}[i]; crypto.KindOf(err) != want {
			t.Errorf("envelope %d: %v", i, err)
		}
		past := time.Now().Add(-k.subjects.maxLag - time.Second)
		k.subjects.polled.Store(&past)
		h.store.set(func() { h.store.away = errors.New("no route to host") })
	}
}

// TestSubjectsAreAway: while keys of subjects are out of use, other envelopes by reference of the same message open.
func TestSubjectsAreAway(t *testing.T) {
	h := newHospital(t)
	of := h.seal(t, 0, "P-1", "of P-1")
	keys := defaultKeys()
	keys[0].Reference = true
	services := store{h.p.uri: h.p}
	writer := newKeyring(t, Options{Keys: keys, Open: services.open, Store: h.store})
	writer.Confirm("ns")
	s, _, err := writer.Sealer(t.Context(), "ns", "default")
	if err != nil {
		t.Fatal(err)
	}
	var other []byte
	for range firstAnchors + 1 {
		if other, err = s.AppendPayload(nil, []byte("of nobody"), false, new(envelope.Nonces)); err != nil {
			t.Fatal(err)
		}
	}
	h.store.set(func() { h.store.away = errors.New("no route to host") })
	reader := newKeyring(t, Options{Keys: keys, Open: services.open, Store: h.store})
	var page []*envelope.Sealed
	for _, sealed := range [][]byte{of, other} {
		s, _, err := envelope.ParsePayload(sealed)
		if err != nil || !s.Header.Reference() {
			t.Fatalf("header %+v, error %v", s.Header, err)
		}
		page = append(page, &s)
	}
	run := new(Run)
	reader.Resolve(t.Context(), slices.Values(page), run)
	if _, _, err := reader.Open(t.Context(), nil, page[0], "ns", run); crypto.KindOf(err) != crypto.KindUnavailable || !strings.Contains(err.Error(), "no route") {
		t.Errorf("that of a subject: %v", err)
	}
	if got, _, err := reader.Open(t.Context(), nil, page[1], "ns", run); err != nil || string(got) != "of nobody" {
		t.Errorf("that of nobody: %q, error %v", got, err)
	}
	nested := run.Nested()
	if _, _, err := reader.Open(t.Context(), nil, page[0], "ns", &nested); crypto.KindOf(err) != crypto.KindUnavailable || !strings.Contains(err.Error(), "no route") {
		t.Errorf("in a message within: %v", err)
	}
}
