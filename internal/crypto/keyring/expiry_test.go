package keyring

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
)

// expiringRows is a key store with keys that expire, for tests with fake time. Its clock differs from that of the process.
type expiringRows struct {
	rowsInMemory
	mu   sync.Mutex
	skew time.Duration
	ends map[crypto.KeyID][2]time.Time // to seal and to open, by the store's clock
	err  error
	full error // of Put alone
	held error // of DestroyExpired alone

	lives  []crypto.KeyLives
	unread error // of Lives alone
	looks  int   // for keys that have come back
}

func newExpiringRows(skew time.Duration) *expiringRows {
	return &expiringRows{rowsInMemory: rowsInMemory{rows: map[crypto.KeyID]crypto.KeyRow{}}, skew: skew, ends: map[crypto.KeyID][2]time.Time{}}
}

func (s *expiringRows) now() time.Time { return time.Now().Add(s.skew) }

func (s *expiringRows) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *expiringRows) fill(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = err
}

func (s *expiringRows) failing() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *expiringRows) Expiry() crypto.ExpiryStore { return s }

func (s *expiringRows) Put(ctx context.Context, row crypto.KeyRow) error {
	if err := s.failing(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.full != nil {
		defer s.mu.Unlock()
		return s.full
	}
	if _, there := s.ends[row.ID]; !there && row.Life != nil {
		left := row.Life.Left()
		s.ends[row.ID] = [2]time.Time{s.now().Add(left.SealFor), s.now().Add(left.OpenFor)}
	}
	life := s.lifeOf(row.ID)
	s.mu.Unlock()
	if life.Expired() {
		return row.Context.Errorf(crypto.KindExpired, "keystore.put", "its life is over")
	}
	if row.Life != nil {
		*row.Life = *row.Life.Earlier(life)
	}
	return s.rowsInMemory.Put(ctx, row)
}

func (s *expiringRows) Get(ctx context.Context, ids []crypto.KeyID) ([]crypto.KeyRow, error) {
	if err := s.failing(); err != nil {
		return nil, err
	}
	rows, err := s.rowsInMemory.Get(ctx, ids)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range rows {
		if rows[i].Life = s.lifeOf(rows[i].ID); rows[i].Life.Expired() {
			rows[i].Wrapped = nil
		}
	}
	return rows, err
}

// lifeOf returns the life of a row as of now. The caller holds the lock.
func (s *expiringRows) lifeOf(id crypto.KeyID) *crypto.KeyLife {
	end, ok := s.ends[id]
	if !ok {
		return nil
	}
	return &crypto.KeyLife{Read: time.Now(), SealFor: end[0].Sub(s.now()), OpenFor: end[1].Sub(s.now()), End: end[1]}
}

// end moves the end of a row's life, as when somebody changed it in the database or the store's clock was set.
func (s *expiringRows) end(id crypto.KeyID, in time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends[id] = [2]time.Time{s.now().Add(in), s.now().Add(in)}
}

func (s *expiringRows) Has(_ context.Context, kc crypto.KeyContext) (endless, expiring bool, err error) {
	if err := s.failing(); err != nil {
		return false, false, err
	}
	err = s.All(context.Background(), func(r crypto.KeyRow) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, ends := s.ends[r.ID]
		endless, expiring = endless || r.Context == kc && !ends, expiring || r.Context == kc && ends
		return nil
	})
	return endless, expiring, err
}

func (s *expiringRows) MayDestroy(context.Context) error { return s.failing() }

func (s *expiringRows) DestroyReturned(context.Context) ([]crypto.ExpiredKey, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	return nil, false, s.err
}

func (s *expiringRows) DestroyExpired(ctx context.Context) (done []crypto.ExpiredKey, _ bool, _ error) {
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	return done, false, errors.Join(held, s.failing(), s.All(ctx, func(r crypto.KeyRow) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if end, ok := s.ends[r.ID]; ok && !s.now().Before(end[1]) {
			done = append(done, crypto.ExpiredKey{ID: r.ID, Context: r.Context, End: end[1]})
		}
		return nil
	}))
}

func (s *expiringRows) Lives(context.Context, bool) ([]crypto.KeyLives, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lives, s.unread
}

// overdue has the store say that keys are overdue, which it cannot destroy.
func (s *expiringRows) overdue(lives []crypto.KeyLives, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lives, s.err = lives, err
}

const hourly = time.Hour // for how long data keys seal in these tests

// chat returns a keyring whose only key has a life of two hours.
func chat(t *testing.T, s store, p *scripted, keys crypto.KeyStore) *Keyring {
	t.Helper()
	k := newKeyring(t, Options{Keys: chatKeys(p, 2*hourly), Open: s.open, Store: shared{keys}, DataKeyLife: hourly})
	k.Confirm("ns")
	return k
}

func chatKeys(p *scripted, life time.Duration) []KeyConfig {
	return []KeyConfig{{Name: "default", Active: p.uri, Reference: true, Life: life}}
}

// givenUp are the keys of chat once their life was given up.
func givenUp(p *scripted) []KeyConfig {
	keys := chatKeys(p, 0)
	keys[0].Endless = true
	return keys
}

// Expiry is what a keyring looks for.
func (s shared) Expiry() crypto.ExpiryStore { return crypto.ExpiryOf(s.KeyStore) }

// TestExpiringKeys: a key seals by reference alone, opens for its life after that by the store's clock, and then nowhere, also not in a
// process that has it in memory.
func TestExpiringKeys(t *testing.T) {
	for name, skew := range map[string]time.Duration{"same clock": 0, "the store is ahead": 30 * time.Hour, "the store is behind": -30 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			fakeTime(t, func(t *testing.T) {
				s, p := defaultStore()
				keys := newExpiringRows(skew)
				a, b := chat(t, s, p, keys), chat(t, s, p, keys)
				carriers, references := sealMany(t, a, 600)
				if references != len(carriers) {
					t.Errorf("%d of %d envelopes carry their key", len(carriers)-references, len(carriers))
				}
				time.Sleep(hourly - waitForTick)
				last := seal(t, a, "payload")
				both := [][]byte{carriers[0], last}
				for _, k := range []*Keyring{a, b} {
					if opened, errs := openResolved(t.Context(), k, both); opened != 2 {
						t.Errorf("%d of 2 open, errors %v", opened, errs)
					}
				}
				time.Sleep(2 * waitForTick)
				if fresh := keyOf(t, seal(t, a, "payload")); fresh == keyOf(t, carriers[0]) {
					t.Error("a data key seals longer than it may")
				}
				time.Sleep(2*hourly - 3*waitForTick) // just before the end of the first key
				for _, k := range []*Keyring{a, b} {
					if opened, errs := openResolved(t.Context(), k, carriers[:1]); opened != 1 {
						t.Errorf("before the end: errors %v", errs)
					}
				}
				time.Sleep(3 * waitForTick)
				want := crypto.KindExpired
				if skew > 0 { // the clock of the store alone does not decide that a value is gone for good
					want = crypto.KindUnavailable
				}
				for name, k := range map[string]*Keyring{"the sealer": a, "the reader": b, "a new process": chat(t, s, p, keys)} {
					if opened, errs := openResolved(t.Context(), k, carriers[:1]); opened != 0 || errs[want] != 1 {
						t.Errorf("%s opens %d after the end, errors %v; want %v", name, opened, errs, want)
					}
				}
				keys.fail(errors.New("connection refused"))
				if opened, errs := openResolved(t.Context(), b, carriers[:1]); opened != 0 || errs[crypto.KindUnavailable] != 1 {
					t.Errorf("the store is away: %d opened, errors %v; only the store says that a key has expired", opened, errs)
				}
			})
		})
	}
}

// TestExpiringKeysNeedTheirRows: without a row in the store nothing is sealed, neither self-contained nor at all.
func TestExpiringKeysNeedTheirRows(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		s, p := defaultStore()
		keys := newExpiringRows(0)
		k := chat(t, s, p, keys)
		keys.fail(errors.New("connection refused"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := k.Sealer(ctx, "ns", "default"); crypto.KindOf(err) != crypto.KindUnavailable {
			t.Errorf("the store is away: %v", err)
		}
		keys.fail(nil)
		keys.fill(errors.New("no space left on device"))
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if s, _, err := k.Sealer(ctx, "ns", "default"); crypto.KindOf(err) != crypto.KindUnavailable {
			t.Errorf("the store is full: a sealer %v, error %v", s != nil, err)
		}
		keys.fill(nil)
		s1 := sealer(t, k, "ns", "default")
		if _, _, err := k.Sealer(t.Context(), "claimed", "default"); crypto.KindOf(err) != crypto.KindUnavailable {
			t.Errorf("a namespace that is only claimed: %v", err)
		}
		row, ok := keys.take(s1.dk.id)
		if !ok || row.Life == nil {
			t.Fatalf("row %+v", row)
		}
		keys.fail(nil)
		s1.dk.stored.Store(false) // as the check of rows finds
		if _, err := s1.appendPayload(nil, []byte("payload"), false); crypto.KindOf(err) != crypto.KindUnavailable {
			t.Errorf("a key whose row is lost seals: %v", err)
		}
		if next := sealer(t, k, "ns", "default"); next.dk.id == s1.dk.id {
			t.Error("a key whose row is lost goes on")
		}
		none := newKeyring(t, Options{Keys: chatKeys(p, hourly), Open: s.open})
		none.Confirm("ns")
		if _, _, err := none.Sealer(t.Context(), "ns", "default"); crypto.KindOf(err) != crypto.KindNotConfigured {
			t.Errorf("without a key store: %v", err)
		}
		if _, err := NewSet(&Options{Keys: []KeyConfig{{Name: "default", Active: p.uri, Life: hourly}}}); err == nil {
			t.Error("a key with a life seals self-contained envelopes")
		}
		if _, _, err := k.Subjects().Sealer(t.Context(), "ns", "default", []byte("patient")); crypto.KindOf(err) != crypto.KindNotConfigured {
			t.Errorf("the key of a subject: %v", err)
		}
	})
}

// TestRowEndsEarlier: a sealer learns from its row, within a minute, that it ends earlier than the process thinks, and seals no more then.
func TestRowEndsEarlier(t *testing.T) {
	for name, in := range map[string]time.Duration{"it has ended": -time.Second, "it ends soon": 5 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			fakeTime(t, func(t *testing.T) {
				s, p := defaultStore()
				keys := newExpiringRows(0)
				k := chat(t, s, p, keys)
				first := sealer(t, k, "ns", "default")
				referring := seal(t, k, "payload")
				keys.end(first.dk.id, in)
				time.Sleep(max(in, 0) + rowsInterval + 2*tickInterval)
				if _, err := first.appendPayload(nil, []byte("payload"), false); err == nil {
					t.Error("a data key seals though the life of its row is over")
				}
				if next := sealer(t, k, "ns", "default"); next.dk.id == first.dk.id {
					t.Error("the sealer goes on with a key whose life is over")
				}
				if opened, errs := openResolved(t.Context(), k, [][]byte{referring}); opened != 0 || errs[crypto.KindExpired] != 1 {
					t.Errorf("%d opened, errors %v", opened, errs)
				}
			})
		})
	}
}

// TestNothingIsRestoredWithoutItsEnd: no row is made from an envelope under a name with a life, since it would not expire.
func TestNothingIsRestoredWithoutItsEnd(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		s, p := defaultStore()
		keys := newExpiringRows(0)
		k := chat(t, s, p, keys)
		h := sealer(t, k, "ns", "default").dk.envelopeHeader()
		keys.take(h.ID)
		if err := k.Rows().Restore(t.Context(), h); crypto.KindOf(err) != crypto.KindNotConfigured {
			t.Errorf("restored with the error %v", err)
		}
		if _, there := keys.take(h.ID); there {
			t.Error("the row is in the store, and does not expire")
		}
	})
}

// TestClocksDiffer: each minute the log says that no key is destroyed.
func TestClocksDiffer(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		s, p := defaultStore()
		keys := newExpiringRows(0)
		keys.fail(crypto.Internalf(crypto.KindUnavailable, "keystore.expire", "the clock: %w", crypto.ErrClocksDiffer))
		log := new(bytes.Buffer)
		k := newKeyring(t, Options{Keys: chatKeys(p, hourly), Open: s.open, Store: shared{keys}, Replica: true, Log: slog.New(slog.NewTextHandler(log, nil))})
		time.Sleep(3*sweepInterval + waitForTick)
		k.Close()
		if n := strings.Count(log.String(), "the clocks of the key store and of this machine differ"); n < 3 {
			t.Errorf("%d lines in three minutes: %s", n, log)
		}
	})
}

// TestLifeOfAKeyChanges: a life takes effect at once, and is refused where keys of the name do not expire.
func TestLifeOfAKeyChanges(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		s, p := defaultStore()
		keys := newExpiringRows(0)
		k := chat(t, s, p, keys)
		first := sealer(t, k, "ns", "default")
		if err := change(k, t.Context(), chatKeys(p, 5*hourly), nil, nil); err != nil {
			t.Fatal(err)
		}
		longer := sealer(t, k, "ns", "default")
		if longer.dk.id == first.dk.id || longer.dk.life.Load().OpenFor != 6*hourly {
			t.Errorf("a longer life: the same key %v, it opens for %v", longer.dk.id == first.dk.id, longer.dk.life.Load().OpenFor)
		}
		if err := change(k, t.Context(), chatKeys(p, 0), nil, nil); err != nil {
			t.Fatal(err)
		}
		if _, _, err := k.Sealer(t.Context(), "ns", "default"); crypto.KindOf(err) != crypto.KindNotConfigured || !strings.Contains(err.Error(), "endless: true") {
			t.Errorf("the life was taken out of the config: %v", err)
		}
		if err := change(k, t.Context(), givenUp(p), nil, nil); err != nil {
			t.Fatal(err)
		}
		if endless := sealer(t, k, "ns", "default"); endless.dk.life.Load() != nil {
			t.Error("a key whose life was given up expires")
		}
		if err := change(k, t.Context(), chatKeys(p, hourly), nil, nil); err != nil {
			t.Fatal(err)
		}
		if _, _, err := k.Sealer(t.Context(), "ns", "default"); crypto.KindOf(err) != crypto.KindNotConfigured || !strings.Contains(err.Error(), "new name") {
			t.Errorf("a name with keys that do not expire: %v", err)
		}
	})
}

// TestCarriedKeyOpensNoReference: an envelope that carries the key of a name with a life, also of one that was given up or added meanwhile, gives
// no other envelope more time.
func TestCarriedKeyOpensNoReference(t *testing.T) {
	for name, configs := range map[string]func(p *scripted) (before, after []KeyConfig){
		"a life":          func(p *scripted) (_, _ []KeyConfig) { return chatKeys(p, 2*hourly), nil },
		"a life given up": func(p *scripted) (_, _ []KeyConfig) { return givenUp(p), nil },
		"a life added":    func(p *scripted) (_, _ []KeyConfig) { return chatKeys(p, 0), chatKeys(p, 2*hourly) },
	} {
		t.Run(name, func(t *testing.T) {
			fakeTime(t, func(t *testing.T) {
				s, p := defaultStore()
				keys := newExpiringRows(0)
				before, after := configs(p)
				a := chat(t, s, p, keys)
				b := newKeyring(t, Options{Keys: before, Open: s.open, Store: shared{keys}, DataKeyLife: hourly})
				b.Confirm("ns")
				sealed := sealer(t, a, "ns", "default")
				referring, err := sealed.appendPayload(nil, []byte("payload"), false)
				if err != nil {
					t.Fatal(err)
				}
				h := sealed.dk.envelopeHeader()
				var nonces envelope.Nonces
				carrying := envelope.NewWriter(sealed.dk.cipher.Load(), h).AppendPayload(nil, []byte("payload"), false, &nonces)
				if got, err := open(b, carrying, "ns"); err != nil || got != "payload" {
					t.Fatalf("an envelope that carries its key: %q, %v", got, err)
				}
				if after != nil {
					if err := change(b, t.Context(), after, nil, nil); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(3*hourly + waitForTick)
				if opened, errs := openResolved(t.Context(), b, [][]byte{referring}); opened != 0 || errs[crypto.KindExpired] != 1 {
					t.Errorf("%d opened, errors %v", opened, errs)
				}
			})
		})
	}
}

// TestMachineThatSleptAsksAgain: a replica whose clocks stood still learns within a minute that keys in its memory have ended: since the clocks
// differ, it asks for them again. What seals goes on.
func TestMachineThatSleptAsksAgain(t *testing.T) {
	for name, slept := range map[string]time.Duration{"for longer than the life": 4 * time.Hour, "shortly": 10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			fakeTime(t, func(t *testing.T) {
				s, p := defaultStore()
				keys := newExpiringRows(0)
				referring := seal(t, chat(t, s, p, keys), "payload")
				k := newKeyring(t, Options{Keys: chatKeys(p, 2*hourly), Open: s.open, Store: shared{keys}, DataKeyLife: hourly, Replica: true})
				k.Confirm("ns")
				if opened, errs := openResolved(t.Context(), k, [][]byte{referring}); opened != 1 {
					t.Fatalf("errors %v", errs)
				}
				own := sealer(t, k, "ns", "default").dk.id
				keys.mu.Lock()
				keys.skew, keys.held = slept, crypto.ErrClocksDiffer
				keys.mu.Unlock()
				time.Sleep(sweepInterval + waitForTick)
				if memory := k.opening.keys.get(keyOf(t, referring)); memory != nil {
					t.Error("a key with a life is not asked for again")
				}
				over := slept > 3*hourly
				if opened, errs := openResolved(t.Context(), k, [][]byte{referring}); (opened == 1) == over || over && errs[crypto.KindUnavailable] != 1 {
					t.Errorf("%d opened, errors %v", opened, errs)
				}
				if !over && sealer(t, k, "ns", "default").dk.id != own {
					t.Error("the key that seals is out of use")
				}
			})
		})
	}
}

// TestExpiredKeysAreDestroyed: a replica destroys them in the store, counts them by the config's name, and logs each.
func TestExpiredKeysAreDestroyed(t *testing.T) {
	s, p := defaultStore()
	real := sqliteStore(t).KeyStore.(*keystore.Store)
	log := new(bytes.Buffer)
	k := newKeyring(t, Options{Keys: chatKeys(p, time.Second), Open: s.open, Store: shared{real}, Log: slog.New(slog.NewTextHandler(log, nil))})
	k.Confirm("ns")
	carrier := seal(t, k, "payload")
	if err := k.expiry.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := Expiries(k); len(all) != 1 || all[0].Entry != "default" || all[0].Life != time.Second || all[0].Expiring != 1 || all[0].Next.IsZero() {
		t.Errorf("%+v", all)
	}
	deadline := time.Now().Add(time.Minute)
	for all := Expiries(k); all[0].Destroyed == 0; all = Expiries(k) {
		if time.Now().After(deadline) {
			t.Fatal("no key was destroyed")
		}
		time.Sleep(50 * time.Millisecond)
		if err := k.expiry.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	id := keyOf(t, carrier)
	if text := log.String(); !strings.Contains(text, "destroyed at the end of its life") || !strings.Contains(text, id.String()) {
		t.Errorf("log: %s", text)
	}
	if opened, errs := openResolved(t.Context(), k, [][]byte{carrier}); opened != 0 || errs[crypto.KindExpired] != 1 {
		t.Errorf("%d opened, errors %v", opened, errs)
	}
	if _, err := k.Rows().Verify(t.Context(), func(r crypto.KeyRow, err error) { t.Errorf("%s does not unwrap: %v", r.ID, err) }); err != nil {
		t.Error(err)
	}
	if _, ok := k.Current().Expiring(crypto.KeyContext{Namespace: "ns", Key: "default"}); !ok {
		t.Error("the key does not expire by the config")
	}
	for k.opening.keys.get(id) != nil { // it is dropped at the next tick, every second
		if time.Now().After(deadline) {
			t.Fatal("the key is still in memory")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestDestroyedKeysAreNotedBeforeErrors: what was destroyed is counted and logged, also where the store failed after that.
func TestDestroyedKeysAreNotedBeforeErrors(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		s, p := defaultStore()
		keys := newExpiringRows(0)
		k := chat(t, s, p, keys)
		keys.end(sealer(t, k, "ns", "default").dk.id, -time.Second)
		keys.fail(errors.New("the log could not be emptied"))
		if err := k.expiry.sweep(t.Context()); err == nil {
			t.Error("the sweep hides the error of the store")
		}
		if all := Expiries(k); len(all) != 1 || all[0].Destroyed != 1 {
			t.Errorf("%+v; want the key that was destroyed", all)
		}
	})
}

// TestExpiredIsTold: the rows of keys that the config does not name any more are counted too.
func TestExpiredIsTold(t *testing.T) {
	s, p := defaultStore()
	k := chat(t, s, p, newExpiringRows(0))
	k.expiry.note(crypto.ExpiredKey{Context: crypto.KeyContext{Namespace: "ns", Key: "gone"}}, slog.LevelInfo, "destroyed")
	all := Expiries(k)
	if !slices.ContainsFunc(all, func(e Expiry) bool { return e.Entry == OtherUses && e.Destroyed == 1 }) {
		t.Errorf("%+v", all)
	}
}
