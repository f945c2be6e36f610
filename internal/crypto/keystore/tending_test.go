package keystore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
)

// keyFile makes a key file and returns its URI.
func keyFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "seal.key")
	if err := localkey.Create(file, time.Now()); err != nil {
		t.Fatal(err)
	}
	return "local:" + file
}

// kept is a store that several keyrings use one after the other.
type kept struct{ crypto.KeyStore }

func (kept) Close() error { return nil }

// keysWith opens a keyring that seals by reference, as a process does that starts now.
func keysWith(t *testing.T, store crypto.KeyStore, log *slog.Logger, active string, openOnly ...string) *keyring.Keyring {
	t.Helper()
	k, err := keyring.New(t.Context(), keyring.Options{Store: kept{store}, Open: localkey.Open, Log: log,
		Keys: []keyring.KeyConfig{{Name: "default", Active: active, OpenOnly: openOnly, Reference: true}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	k.Confirm("ns")
	return k
}

var quiet = slog.New(slog.DiscardHandler)

// sealed seals n payloads, and returns them and how many are by reference.
func sealed(t *testing.T, k *keyring.Keyring, n int) (all []envelope.Sealed, references int) {
	t.Helper()
	for range n {
		s, _, err := k.Sealer(t.Context(), "ns", "default")
		if err != nil {
			t.Fatal(err)
		}
		raw, err := s.AppendPayload(nil, []byte("\x12\x06secret"), false, new(envelope.Nonces))
		if err != nil {
			t.Fatal(err)
		}
		one, _, err := envelope.ParsePayload(raw)
		if err != nil {
			t.Fatal(err)
		}
		if one.Header.Reference() {
			references++
		}
		all = append(all, one)
	}
	return all, references
}

// opens opens an envelope as a call would that holds it alone.
func opens(ctx context.Context, k *keyring.Keyring, s envelope.Sealed) error {
	header := *s.Header // opening fills in the names
	s.Header = &header
	out, _, err := k.Open(ctx, nil, &s, "ns", new(keyring.Run))
	if err == nil && string(out) != "\x12\x06secret" {
		return fmt.Errorf("opened %q", out)
	}
	return err
}

// TestRewrap: after it, a key encryption key can be taken out of the configuration although no payload was touched.
func TestRewrap(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		store := newStore(t, uri)
		before, after := keyFile(t), keyFile(t)
		envelopes, references := sealed(t, keysWith(t, store, quiet, before), 6)
		if references != 2 {
			t.Fatalf("%d of 6 envelopes are by reference", references)
		}
		mine := func(_ crypto.KeyRow, err error) { t.Error(err) }
		both := keysWith(t, store, quiet, after, before)
		if n, added, err := both.Rows().Rewrap(t.Context(), mine); n != 1 || added != 1 || err != nil {
			t.Errorf("%d data keys, %d added, error %v", n, added, err)
		}
		if n, added, err := both.Rows().Rewrap(t.Context(), mine); n != 1 || added != 0 || err != nil {
			t.Errorf("again: %d data keys, %d added, error %v", n, added, err)
		}
		alone := keysWith(t, store, quiet, after)
		if err := opens(t.Context(), alone, envelopes[5]); err != nil {
			t.Errorf("without the earlier key: %v", err)
		}
		if err := opens(t.Context(), alone, envelopes[0]); crypto.KindOf(err) != crypto.KindNotConfigured {
			t.Errorf("a self-contained one, which rewrapping does not reach: %v", err)
		}
		if n, err := alone.Rows().Verify(t.Context(), mine); n != 2 || err != nil {
			t.Errorf("check: %d rows, error %v", n, err)
		}
		// A row that holds another key than its id names is wrapped by nobody.
		bad := crypto.KeyRow{ID: crypto.KeyID{1, 2, 3}, Context: crypto.KeyContext{Namespace: "ns", Key: "default"}}
		if err := store.All(t.Context(), func(r crypto.KeyRow) error {
			bad.KEK, bad.Wrapped = r.KEK, r.Wrapped
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := store.Put(t.Context(), bad); err != nil {
			t.Fatal(err)
		}
		var failed []crypto.KeyRow
		third := keysWith(t, store, quiet, keyFile(t), before, after)
		if n, added, err := third.Rows().Rewrap(t.Context(), func(r crypto.KeyRow, err error) {
			failed = append(failed, r)
			if crypto.KindOf(err) != crypto.KindTampered {
				t.Errorf("a row with another key: %v", err)
			}
		}); n != 2 || added != 1 || err != nil || len(failed) != 1 || failed[0].ID != bad.ID {
			t.Errorf("%d data keys, %d added, failed %v, error %v", n, added, failed, err)
		}
	})
}

// TestRestore: an anchor makes a lost row again, and nothing else does.
func TestRestore(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		store := newStore(t, uri)
		key := keyFile(t)
		envelopes, _ := sealed(t, keysWith(t, store, quiet, key), 6)
		if n := ids(t, store); len(n) != 1 {
			t.Fatalf("%d rows", len(n))
		}
		loseWraps(t, store, ids(t, store)...)
		cold := keysWith(t, store, quiet, key)
		if err := opens(t.Context(), cold, envelopes[5]); crypto.KindOf(err) != crypto.KindUnavailable {
			t.Errorf("without its row: %v", err)
		}
		planted := *envelopes[0].Header
		planted.Wrapped = bytes.Repeat([]byte("x"), len(planted.Wrapped))
		if err := cold.Rows().Restore(t.Context(), &planted); err == nil {
			t.Error("restored from an anchor with another wrapped key")
		}
		if err := cold.Rows().Restore(t.Context(), envelopes[0].Header); err != nil {
			t.Fatal(err)
		}
		if err := opens(t.Context(), keysWith(t, store, quiet, key), envelopes[5]); err != nil {
			t.Errorf("after it was restored: %v", err)
		}
	})
}

func never(crypto.KeyContext) bool { return false }

// TestImportOfNamesThatExpire: a file brings no row that does not expire under a name whose keys do.
func TestImportOfNamesThatExpire(t *testing.T) {
	from, to := newStore(t, "sqlite:"+filepath.Join(t.TempDir(), "from.db")), newStore(t, "sqlite:"+filepath.Join(t.TempDir(), "to.db"))
	for i := range 2 {
		if err := from.Put(t.Context(), row(i)); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if _, err := Export(t.Context(), from, &out, none(t)); err != nil {
		t.Fatal(err)
	}
	n, err := Import(t.Context(), to, &out, func(kc crypto.KeyContext) bool { return kc == row(1).Context })
	if n != 0 || crypto.KindOf(err) != crypto.KindNotConfigured || !strings.Contains(err.Error(), "would not expire") {
		t.Errorf("%d rows, error %v", n, err)
	}
	if all := ids(t, to); len(all) != 0 {
		t.Errorf("%d rows of a refused file are in the store", len(all))
	}
}

// TestExport: what one store has moves to another, whole or not at all.
func TestExport(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		from := newStore(t, uri)
		for i := range 3 {
			if err := from.Put(t.Context(), row(i)); err != nil {
				t.Fatal(err)
			}
		}
		var out bytes.Buffer
		if n, err := Export(t.Context(), from, &out, none(t)); n != 3 || err != nil {
			t.Fatalf("%d rows, error %v", n, err)
		}
		to := newStore(t, "sqlite:"+filepath.Join(t.TempDir(), "other.db"))
		lines := strings.SplitAfter(out.String(), "\n")
		for what, text := range map[string]string{
			"nothing": "", "no export": "{}\n", "cut off": strings.Join(lines[:3], ""), "a row left out": lines[0] + strings.Join(lines[2:], ""),
			"of a newer release": `{"temporal_seal_key_store":2}`, "with a broken row": lines[0] + strings.Replace(lines[1], `"id":"`, `"id":"0`, 1) + lines[4],
		} {
			if n, err := Import(t.Context(), to, strings.NewReader(text), never); n != 0 || err == nil {
				t.Errorf("%s: %d rows, error %v", what, n, err)
			}
		}
		for range 2 {
			if n, err := Import(t.Context(), to, strings.NewReader(out.String()), never); n != 3 || err != nil {
				t.Fatalf("%d rows, error %v", n, err)
			}
		}
		var again bytes.Buffer
		slices.Sort(lines[1 : len(lines)-2]) // DynamoDB has no order
		if _, err := Export(t.Context(), to, &again, none(t)); err != nil || again.String() != strings.Join(lines, "") {
			t.Errorf("error %v, exported again:\n%s\nwant\n%s", err, again.String(), out.String())
		}
		differs := strings.Replace(out.String(), `"namespace":"eu/clinic"`, `"namespace":"eu/other"`, 1)
		if n, err := Import(t.Context(), to, strings.NewReader(differs), never); n != 0 || crypto.KindOf(err) != crypto.KindTampered {
			t.Errorf("a row that differs: %d rows, error %v", n, err)
		}
	})
}

// TestBrokenRows: rows that somebody broke are named, and keep no other row from being used, checked, wrapped anew or exported.
func TestBrokenRows(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		store := newStore(t, uri)
		key, next := keyFile(t), keyFile(t)
		var all []crypto.KeyID
		var envelopes []envelope.Sealed
		for range 3 {
			some, _ := sealed(t, keysWith(t, store, quiet, key), 6)
			all, envelopes = append(all, some[5].Header.ID), append(envelopes, some[5])
		}
		breakRows(t, store, all[1], all[2])
		if rows, err := store.Get(t.Context(), all); err != nil || len(rows) != 2 {
			t.Errorf("%d rows, error %v; want those of the first two", len(rows), err)
		}
		for _, e := range envelopes[:2] {
			if err := opens(t.Context(), keysWith(t, store, quiet, key), e); err != nil {
				t.Error(err)
			}
		}
		named := func(what string, got []error) {
			t.Helper()
			text := fmt.Sprint(got)
			for _, reason := range [][2]string{{"kek_ref of its row", "the wrap \"x\""}, {"its wrapped key is missing"}, {"17 bytes", "the key of an item"}} {
				if !strings.Contains(text, reason[0]) && (reason[1] == "" || !strings.Contains(text, reason[1])) {
					t.Errorf("%s does not say %q: %s", what, reason, text)
				}
			}
			if len(got) != 3 {
				t.Errorf("%s names %d broken rows: %s", what, len(got), text)
			}
		}
		var bad []error
		if n, err := keysWith(t, store, quiet, key).Rows().Verify(t.Context(), func(_ crypto.KeyRow, err error) { bad = append(bad, err) }); err != nil || n != 5 {
			t.Errorf("%d rows, error %v", n, err)
		}
		named("check", bad)
		var out bytes.Buffer
		bad = nil
		if n, err := Export(t.Context(), store, &out, func(r crypto.KeyRow) { bad = append(bad, r.Broken) }); err != nil || n != 2 {
			t.Errorf("%d rows exported, error %v", n, err)
		}
		named("export", bad)
		to := newStore(t, "sqlite:"+filepath.Join(t.TempDir(), "other.db"))
		if n, err := Import(t.Context(), to, &out, never); n != 2 || err != nil {
			t.Errorf("%d rows imported, error %v", n, err)
		}
		bad = nil
		n, added, err := keysWith(t, store, quiet, next, key).Rows().Rewrap(t.Context(), func(_ crypto.KeyRow, err error) { bad = append(bad, err) })
		if n != 4 || added != 2 || err != nil || len(bad) != 2 {
			t.Errorf("%d keys, %d wrapped anew, failed %v, error %v", n, added, bad, err)
		}
	})
}

// TestEmptyRowsAreNotExported: no import would take them.
func TestEmptyRowsAreNotExported(t *testing.T) {
	store := newStore(t, "sqlite:"+filepath.Join(t.TempDir(), "keys.db"))
	for i := range 2 {
		if err := store.Put(t.Context(), row(i)); err != nil {
			t.Fatal(err)
		}
	}
	execute(t, store.backend.(database).db, "UPDATE temporal_seal_wraps SET wrapped = x'' WHERE wrapped = CAST('wrapped 1' AS BLOB)")
	var out bytes.Buffer
	left := 0
	if n, err := Export(t.Context(), store, &out, func(r crypto.KeyRow) { left++ }); n != 1 || left != 1 || err != nil {
		t.Errorf("%d rows exported, %d left out, error %v", n, left, err)
	}
	to := newStore(t, "sqlite:"+filepath.Join(t.TempDir(), "other.db"))
	if n, err := Import(t.Context(), to, &out, never); n != 1 || err != nil {
		t.Errorf("%d rows imported, error %v", n, err)
	}
	store.Close()
	if _, err := Export(t.Context(), store, io.Discard, none(t)); err == nil {
		t.Error("a store that is closed is exported")
	}
}

// none fails a test if an export leaves a row out.
func none(t *testing.T) func(crypto.KeyRow) {
	return func(r crypto.KeyRow) { t.Errorf("the row of %s was left out: %v", r.ID, r.Broken) }
}

// interrupted is a store in which another command does something right before a row is put.
type interrupted struct {
	*Store
	by func()
}

func (s *interrupted) Put(ctx context.Context, row crypto.KeyRow) error {
	by := s.by
	if s.by = nil; by != nil {
		by()
	}
	return s.Store.Put(ctx, row)
}

func (*interrupted) Close() error { return nil }

// TestRewrapTwiceAtOnce: of two commands that wrap the same data key, the first one's row stays, and neither takes it for a forgery.
func TestRewrapTwiceAtOnce(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		store := newStore(t, uri)
		before, after := keyFile(t), keyFile(t)
		envelopes, _ := sealed(t, keysWith(t, store, quiet, before), 6)
		mine := func(_ crypto.KeyRow, err error) { t.Error(err) }
		late := &interrupted{Store: store, by: func() {
			if n, added, err := keysWith(t, store, quiet, after, before).Rows().Rewrap(t.Context(), mine); n != 1 || added != 1 || err != nil {
				t.Errorf("the first: %d data keys, %d added, error %v", n, added, err)
			}
		}}
		if n, added, err := keysWith(t, late, quiet, after, before).Rows().Rewrap(t.Context(), mine); n != 1 || added != 0 || err != nil {
			t.Errorf("the second: %d data keys, %d added, error %v", n, added, err)
		}
		if err := opens(t.Context(), keysWith(t, store, quiet, after), envelopes[5]); err != nil {
			t.Error(err)
		}
		// A row that is there and unwraps to another key stays what it is: a forgery.
		third := keyFile(t)
		late.by = func() {
			kek, err := localkey.Open(t.Context(), third)
			if err != nil {
				t.Error(err)
				return
			}
			h := envelopes[0].Header
			if err := store.Put(t.Context(), crypto.KeyRow{ID: h.ID, Context: crypto.KeyContext{Namespace: h.Namespace, Key: h.Key},
				KEK: kek.Ref(), KEKURI: third, Wrapped: []byte("forged")}); err != nil {
				t.Error(err)
			}
		}
		var failed []error
		_, added, err := keysWith(t, late, quiet, third, before, after).Rows().Rewrap(t.Context(), func(_ crypto.KeyRow, err error) { failed = append(failed, err) })
		if added != 0 || err != nil || len(failed) != 1 || crypto.KindOf(failed[0]) != crypto.KindTampered {
			t.Errorf("a forged row: %d added, failed %v, error %v", added, failed, err)
		}
	})
}

// TestReplicasRace: ten replicas that start at once seal and open each other's envelopes.
func TestReplicasRace(t *testing.T) {
	t.Run("postgres", func(t *testing.T) { replicasRace(t, postgres(t)) })
	t.Run("dynamodb", func(t *testing.T) { replicasRace(t, dynamoDB(t)) })
}

func replicasRace(t *testing.T, uri string) {
	first := newStore(t, uri)
	key := keyFile(t)
	var mu sync.Mutex
	var all []envelope.Sealed
	referring := 0
	replicas := make([]*keyring.Keyring, 10)
	for i := range replicas {
		replicas[i] = keysWith(t, openStore(t, uri, first.id), quiet, key)
	}
	var wg sync.WaitGroup
	for _, k := range replicas {
		wg.Go(func() {
			envelopes, references := sealed(t, k, 10)
			mu.Lock()
			defer mu.Unlock()
			switch references {
			case 6:
				referring++
			case 0: // the store did not take the row within the time that a call has: then it carries on self-contained
			default:
				t.Errorf("%d of 10 envelopes are by reference", references)
			}
			all = append(all, envelopes...)
		})
	}
	wg.Wait()
	if referring < 2 {
		t.Errorf("%d of 10 replicas refer to the store", referring)
	}
	for _, k := range replicas {
		wg.Go(func() {
			for _, s := range all {
				if err := opens(t.Context(), k, s); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n, err := replicas[0].Rows().Verify(t.Context(), func(_ crypto.KeyRow, err error) { t.Error(err) }); n < referring || n > 10 || err != nil {
		t.Errorf("%d rows, error %v; %d replicas refer to theirs", n, err, referring)
	}
}
