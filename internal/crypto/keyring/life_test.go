package keyring

import (
	"bytes"
	"database/sql"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
)

func conflicts(k *Keyring) (n int) {
	for _, e := range Expiries(k) {
		n += e.Conflicts
	}
	return n
}

// TestLifeIsMissingInOneConfig: a replica whose config lacks the life of a name makes no data key of it, neither by reference nor
// self-contained. A life is given up by saying so.
func TestLifeIsMissingInOneConfig(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		s, p := defaultStore()
		keys := newExpiringRows(0)
		a := chat(t, s, p, keys)
		first := seal(t, a, "payload")
		with := func(config []KeyConfig) *Keyring {
			k := newKeyring(t, Options{Keys: config, Open: s.open, Store: shared{keys}, DataKeyLife: hourly})
			k.Confirm("ns")
			return k
		}
		carrying := chatKeys(p, 0)
		carrying[0].Reference = false
		for name, config := range map[string][]KeyConfig{"by reference": chatKeys(p, 0), "self-contained": carrying} {
			k := with(config)
			for _, namespace := range []string{"ns", "claimed"} {
				_, _, err := k.Sealer(t.Context(), namespace, "default")
				if refused := crypto.KindOf(err) == crypto.KindNotConfigured && strings.Contains(err.Error(), "add the `life`"); refused != (namespace == "ns") {
					t.Errorf("%s, namespace %s: error %v", name, namespace, err)
				}
			}
			if n := conflicts(k); n != 1 {
				t.Errorf("%s: %d namespaces without agreement; want 1", name, n)
			}
			if opened, errs := openResolved(t.Context(), k, [][]byte{first}); opened != 1 {
				t.Errorf("%s: what was sealed does not open: %v", name, errs)
			}
			if err := change(k, t.Context(), chatKeys(p, 2*hourly), nil, nil); err != nil {
				t.Fatal(err)
			}
			sealer(t, k, "ns", "default")
			if n := conflicts(k); n != 0 {
				t.Errorf("%s: %d namespaces without agreement after the life was added", name, n)
			}
		}
		if endless, _, err := keys.Has(t.Context(), crypto.KeyContext{Namespace: "ns", Key: "default"}); endless || err != nil {
			t.Errorf("keys that do not expire: %v, error %v", endless, err)
		}
		if s := sealer(t, with(givenUp(p)), "ns", "default"); s.dk.life.Load() != nil || !s.dk.stored.Load() {
			t.Error("a key whose life was given up")
		}
		if s := sealer(t, with(chatKeys(p, 0)), "ns", "default"); s.dk.life.Load() != nil {
			t.Error("a key of a name whose life was given up elsewhere")
		}
		time.Sleep(hourly + waitForTick)
		if _, _, err := a.Sealer(t.Context(), "ns", "default"); crypto.KindOf(err) != crypto.KindNotConfigured || conflicts(a) != 1 {
			t.Errorf("a replica that still has the life: %v, %d conflicts", err, conflicts(a))
		}
	})
}

// TestLifeIsMissingDuringAnOutage: a key that was made while the key store could not be asked gets no row, and is out of use, once it can.
func TestLifeIsMissingDuringAnOutage(t *testing.T) {
	for name, reference := range map[string]bool{"by reference": true, "self-contained": false} {
		t.Run(name, func(t *testing.T) {
			fakeTime(t, func(t *testing.T) {
				s, p := defaultStore()
				keys := newExpiringRows(0)
				sealer(t, chat(t, s, p, keys), "ns", "default")
				keys.fail(errors.New("connection refused"))
				config := chatKeys(p, 0)
				config[0].Reference = reference
				k := newKeyring(t, Options{Keys: config, Open: s.open, Store: shared{keys}, DataKeyLife: hourly})
				k.Confirm("ns")
				first := sealer(t, k, "ns", "default")
				carrier := seal(t, k, "payload")
				keys.fail(nil)
				time.Sleep(rowsInterval + 2*waitForTick)
				if _, _, err := k.Sealer(t.Context(), "ns", "default"); crypto.KindOf(err) != crypto.KindNotConfigured || conflicts(k) != 1 {
					t.Errorf("the key goes on: %v, %d conflicts", err, conflicts(k))
				}
				if _, there := keys.take(first.dk.id); there {
					t.Error("the key has a row, which blocks the name")
				}
				if parsed, _, err := envelope.ParsePayload(carrier); err != nil || parsed.Header.Reference() {
					t.Errorf("the envelope refers to a row: %v", err)
				}
				if got, err := open(k, carrier, "ns"); err != nil || got != "payload" {
					t.Errorf("what it has sealed: %q, %v", got, err)
				}
			})
		})
	}
}

// TestOverdueKeys: keys that should have been destroyed are counted, also while they cannot be, and one line of the log says so.
func TestOverdueKeys(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		s, p := defaultStore()
		keys := newExpiringRows(0)
		log := new(bytes.Buffer)
		k := newKeyring(t, Options{Keys: chatKeys(p, 2*hourly), Open: s.open, Store: shared{keys}, Replica: true, Log: slog.New(slog.NewTextHandler(log, nil))})
		k.Confirm("ns")
		count := func() (own, other int) {
			for _, e := range Expiries(k) {
				if e.Entry == "default" {
					own += e.Overdue
				} else {
					other += e.Overdue
				}
			}
			return own, other
		}
		if own, other := count(); own != 0 || other != 0 || len(Expiries(k)) != 1 {
			t.Errorf("%+v; want one entry with nothing overdue", Expiries(k))
		}
		gone := KeyConfig{Name: "chat", Active: p.uri}
		keys.overdue([]crypto.KeyLives{{Context: crypto.KeyContext{Namespace: "ns", Key: "default"}, Expired: 3, Overdue: 2},
			{Context: crypto.KeyContext{Namespace: "ns", Key: gone.Name}, Expired: 1, Overdue: 1}}, crypto.ErrMayNotDestroy)
		time.Sleep(3*sweepInterval + waitForTick)
		if own, other := count(); own != 2 || other != 1 {
			t.Errorf("%d and %d overdue; want 2, and 1 of a key that the config does not name", own, other)
		}
		keys.overdue(nil, nil)
		time.Sleep(sweepInterval + waitForTick)
		if own, other := count(); own != 0 || other != 0 {
			t.Errorf("%d and %d overdue after they were destroyed", own, other)
		}
		k.Close()
		if n := strings.Count(log.String(), "keys whose life is over are still in the key store"); n != 1 || !strings.Contains(log.String(), "overdue=3") {
			t.Errorf("%d lines: %s", n, log)
		}
	})
}

// TestOverdueWhileTheStoreIsAway: a key whose end is long over counts as overdue, though the key store could not be asked since.
func TestOverdueWhileTheStoreIsAway(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		s, p := defaultStore()
		keys := newExpiringRows(0)
		keys.overdue([]crypto.KeyLives{{Context: crypto.KeyContext{Namespace: "ns", Key: "default"}, Expiring: 1, Next: time.Now().Add(5 * time.Minute)}}, nil)
		k := newKeyring(t, Options{Keys: chatKeys(p, 2*hourly), Open: s.open, Store: shared{keys}, Replica: true})
		time.Sleep(waitForTick)
		keys.mu.Lock()
		keys.unread = errors.New("connection refused")
		keys.mu.Unlock()
		time.Sleep(4*time.Minute + crypto.OverdueAfter)
		if all := Expiries(k); len(all) != 1 || all[0].Overdue != 0 {
			t.Errorf("before: %+v", all)
		}
		time.Sleep(2 * time.Minute)
		if all := Expiries(k); len(all) != 1 || all[0].Overdue != 1 {
			t.Errorf("after: %+v", all)
		}
	})
}

// TestKeysThatComeBackAreLookedFor: at the start, once an hour, and each minute while they cannot be destroyed.
func TestKeysThatComeBackAreLookedFor(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		s, p := defaultStore()
		keys := newExpiringRows(0)
		newKeyring(t, Options{Keys: chatKeys(p, 2*hourly), Open: s.open, Store: shared{keys}, Replica: true})
		looks := func(after time.Duration) int {
			time.Sleep(after)
			keys.mu.Lock()
			defer keys.mu.Unlock()
			return keys.looks
		}
		if n := looks(2*sweepInterval + waitForTick); n != 1 {
			t.Errorf("%d looks after two minutes; want the one at the start", n)
		}
		if n := looks(returnInterval); n != 2 {
			t.Errorf("%d looks after an hour", n)
		}
		keys.fail(errors.New("connection refused"))
		if n := looks(returnInterval + 10*sweepInterval); n < 10 {
			t.Errorf("%d looks while they fail", n)
		}
	})
}

// TestReturnedKeysAreDestroyedAgain: a wrapped key that comes back after it was destroyed opens nothing, and is destroyed again.
func TestReturnedKeysAreDestroyedAgain(t *testing.T) {
	s, p := defaultStore()
	path := filepath.Join(t.TempDir(), "keys.db")
	id, _, err := keystore.Init(t.Context(), "sqlite:"+path)
	if err != nil {
		t.Fatal(err)
	}
	log := new(bytes.Buffer)
	start := func() (k *Keyring, destroyed func() uint64) {
		real, err := keystore.New("sqlite:"+path, id)
		if err != nil {
			t.Fatal(err)
		}
		k = newKeyring(t, Options{Keys: chatKeys(p, time.Second), Open: s.open, Store: real, Log: slog.New(slog.NewTextHandler(log, nil))})
		k.Confirm("ns")
		return k, func() uint64 {
			if err := k.expiry.sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			return Expiries(k)[0].Destroyed
		}
	}
	k, destroyed := start()
	carrier := seal(t, k, "payload")
	row := sealer(t, k, "ns", "default").dk.row()
	for deadline := time.Now().Add(time.Minute); destroyed() == 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no key was destroyed")
		}
	}
	k.Close()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec("INSERT INTO temporal_seal_wraps (id, kek_ref, kek_uri, wrapped) VALUES ($1, $2, $3, $4)", row.ID[:], row.KEK[:], row.KEKURI, row.Wrapped)
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	k, destroyed = start()
	if opened, errs := openResolved(t.Context(), k, [][]byte{carrier}); opened != 0 || errs[crypto.KindExpired] != 1 {
		t.Errorf("%d opened, errors %v", opened, errs)
	}
	if n := destroyed(); n != 1 || !strings.Contains(log.String(), "was destroyed again") || !strings.Contains(log.String(), row.ID.String()) {
		t.Errorf("%d destroyed, log %s", n, log)
	}
}
