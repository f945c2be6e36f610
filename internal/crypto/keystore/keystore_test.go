package keystore

import (
	"bytes"
	"crypto/rand"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// stores are the databases that each test runs on, by name. One that is not installed is left out, and a line says so.
func stores(t *testing.T, test func(t *testing.T, uri string)) {
	t.Run("sqlite", func(t *testing.T) { test(t, "sqlite:"+filepath.Join(t.TempDir(), "keys.db")) })
	t.Run("postgres", func(t *testing.T) { test(t, postgres(t)) })
	t.Run("dynamodb", func(t *testing.T) { test(t, dynamoDB(t)) })
}

// server is one PostgreSQL for all tests, started when the first needs it.
var server = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "keystore")
	if err != nil {
		return "", err
	}
	stop = append(stop, func() { os.RemoveAll(dir) })
	if os.Getuid() == 0 {
		_ = os.Chown(dir, nobody, nobody)
	}
	if out, err := asUser(exec.Command(program("initdb"), "-D", filepath.Join(dir, "data"), "-U", "seal", "--auth=trust", "-N")).CombinedOutput(); err != nil {
		return "", fmt.Errorf("initdb: %w: %s", err, out)
	}
	cmd := asUser(exec.Command(program("postgres"), "-D", filepath.Join(dir, "data"), "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off"))
	if err := cmd.Start(); err != nil {
		return "", err
	}
	stop = append(stop, func() { _ = cmd.Process.Signal(os.Interrupt); _ = cmd.Wait() })
	uri := "postgres:///postgres?user=seal&host=" + dir
	for range 100 {
		var db *sql.DB
		if db, err = sql.Open("pgx", uri); err == nil {
			if err = db.Ping(); err == nil {
				return dir, db.Close()
			}
			db.Close()
		}
		time.Sleep(100 * time.Millisecond)
	}
	return "", fmt.Errorf("postgres does not answer: %w", err)
})

var stop []func()

func TestMain(m *testing.M) {
	code := m.Run()
	for _, f := range slices.Backward(stop) {
		f()
	}
	os.Exit(code)
}

// postgres returns the URI of a database that is empty.
func postgres(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(program(name)); err != nil {
			t.Skipf("%s is not installed", name)
		}
	}
	dir, err := server()
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("pgx", "postgres:///postgres?user=seal&host="+dir)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	name := "db" + strings.ToLower(rand.Text())
	if _, err := db.Exec("CREATE DATABASE " + name); err != nil {
		t.Fatal(err)
	}
	return "postgres:///" + name + "?user=seal&host=" + dir
}

// program returns the path of one of PostgreSQL's programs, which Debian installs outside of the PATH.
func program(name string) string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		return name
	}
	return found[len(found)-1]
}

// asUser has a program run by another user where tests run as root, as whom PostgreSQL refuses to run.
func asUser(cmd *exec.Cmd) *exec.Cmd {
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

const nobody = 65534

func newStore(t *testing.T, uri string) *Store {
	t.Helper()
	id, made, err := Init(t.Context(), uri)
	if err != nil || !made {
		t.Fatalf("made %v, error %v", made, err)
	}
	return openStore(t, uri, id)
}

func openStore(t *testing.T, uri, id string) *Store {
	t.Helper()
	s, err := New(uri, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func row(n int) crypto.KeyRow {
	return crypto.KeyRow{ID: crypto.KeyID{0: byte(n >> 8), 1: byte(n), 15: 1}, Context: crypto.KeyContext{Namespace: "eu/clinic", Key: "phi"},
		KEK: crypto.KEKRef{7, 7}, KEKURI: "local:seal.key", Wrapped: fmt.Appendf(nil, "wrapped %d", n)}
}

func TestWhatIsPutIsThere(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s := newStore(t, uri)
		var ids []crypto.KeyID
		for i := range 1200 { // more than one query or page has
			r := row(i)
			ids = append(ids, r.ID)
			if i < 3 { // the rest at once, which is fast
				if err := s.Put(t.Context(), r); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := putAll(t.Context(), s, 3, 1200); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, crypto.KeyID{9, 9, 9}) // not there
		rows, err := s.Get(t.Context(), ids)
		if err != nil || len(rows) != 1200 {
			t.Fatalf("%d rows, error %v", len(rows), err)
		}
		seen := map[crypto.KeyID]bool{}
		for _, r := range rows {
			want := row(int(r.ID[0])<<8 | int(r.ID[1]))
			if seen[r.ID] {
				t.Errorf("the row of %s twice", r.ID)
			}
			if seen[r.ID] = true; !reflect.DeepEqual(r, want) {
				t.Fatalf("%+v, want %+v", r, want)
			}
		}
		n := 0
		if err := s.All(t.Context(), func(r crypto.KeyRow) error {
			n++
			delete(seen, r.ID)
			return nil
		}); err != nil || n != 1200 || len(seen) != 0 {
			t.Errorf("%d rows in all, %d of those that Get returned are not among them, error %v", n, len(seen), err)
		}
		if rows, err := s.Get(t.Context(), nil); err != nil || len(rows) != 0 {
			t.Errorf("no ids: %v, error %v", rows, err)
		}
	})
}

// TestPutTwice: a writer that does not know what came of its first try tries again with the same row.
func TestPutTwice(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s := newStore(t, uri)
		r := row(1)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := s.Put(t.Context(), r); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for what, change := range map[string]func(r *crypto.KeyRow){
			"namespace":   func(r *crypto.KeyRow) { r.Context.Namespace = "other" },
			"key name":    func(r *crypto.KeyRow) { r.Context.Key = "other" },
			"wrapped key": func(r *crypto.KeyRow) { r.Wrapped = []byte("other") },
		} {
			changed := r
			change(&changed)
			if err := s.Put(t.Context(), changed); crypto.KindOf(err) != crypto.KindTampered {
				t.Errorf("the same id with another %s: %v", what, err)
			}
		}
		second := r
		second.KEK, second.Wrapped = crypto.KEKRef{8}, []byte("by another key encryption key")
		if err := s.Put(t.Context(), second); err != nil {
			t.Error(err)
		}
		if rows, err := s.Get(t.Context(), []crypto.KeyID{r.ID}); err != nil || len(rows) != 2 {
			t.Errorf("%d rows of a key that was wrapped twice, error %v", len(rows), err)
		}
	})
}

// TestOnlyThePinnedStore: an empty database, or another store in its place, is used for nothing.
func TestOnlyThePinnedStore(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		if path, ok := strings.CutPrefix(uri, "sqlite:"); ok {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		empty := openStore(t, uri, strings.Repeat("0", 32))
		if err := empty.Put(t.Context(), row(1)); crypto.KindOf(err) != crypto.KindNotConfigured {
			t.Errorf("an empty database: %v", err)
		}
		empty.Close()
		id, made, err := Init(t.Context(), uri)
		if err != nil || !made || !IsID(id) {
			t.Fatalf("id %s, made %v, error %v", id, made, err)
		}
		if again, made, err := Init(t.Context(), uri); err != nil || made || again != id {
			t.Errorf("once more: id %s, made %v, error %v; want it left as it is", again, made, err)
		}
		other := openStore(t, uri, strings.Repeat("0", 32))
		if err := other.Put(t.Context(), row(1)); crypto.KindOf(err) != crypto.KindNotConfigured {
			t.Errorf("another store, put: %v", err)
		}
		if _, err := other.Get(t.Context(), []crypto.KeyID{row(1).ID}); crypto.KindOf(err) != crypto.KindUnavailable || !strings.Contains(err.Error(), id) {
			t.Errorf("another store, get: %v", err)
		}
		other.Close()
		right := openStore(t, uri, id)
		if err := right.Put(t.Context(), row(1)); err != nil {
			t.Error(err)
		}
		becomes(t, right, "another")
		if err := right.Put(t.Context(), row(2)); crypto.KindOf(err) != crypto.KindNotConfigured {
			t.Errorf("replaced by another store while it was in use, put: %v", err)
		}
		if _, err := right.Get(t.Context(), []crypto.KeyID{row(3).ID}); crypto.KindOf(err) != crypto.KindUnavailable || !strings.Contains(err.Error(), "another") {
			t.Errorf("replaced by another store while it was in use, get of a row that it does not have: %v", err)
		}
	})
}

func TestStoreThatIsAway(t *testing.T) {
	awsCredentials(t)
	for _, uri := range []string{"postgres://seal:hunter2@127.0.0.1:1/seal?sslmode=disable&connect_timeout=2", "dynamodb://keys?region=eu-central-1&endpoint=http://127.0.0.1:1"} {
		s := openStore(t, uri, strings.Repeat("0", 32))
		_, err := s.Get(t.Context(), []crypto.KeyID{row(1).ID})
		if crypto.KindOf(err) != crypto.KindUnavailable || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v", err)
		}
	}
	for _, uri := range []string{"mysql://x", "sqlite:", "sqlite:" + filepath.Join(t.TempDir(), "no", "folder"), "postgres://a:hunter2@h:port/x",
		"dynamodb:keys", "dynamodb://", "dynamodb://a", "dynamodb://keys?table=x", "dynamodb://keys?region=x&endpoint=http://dynamodb.example"} {
		if _, err := New(uri, ""); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error %v", uri, err)
		}
	}
}

// TestSQLiteIsForOneProcess: its locks do not hold on the file systems that replicas would share.
func TestSQLiteIsForOneProcess(t *testing.T) {
	uri := "sqlite:" + filepath.Join(t.TempDir(), "keys.db")
	first := newStore(t, uri)
	if err := first.Put(t.Context(), row(1)); err != nil {
		t.Fatal(err)
	}
	second := openStore(t, uri, first.id)
	if _, err := second.Get(t.Context(), []crypto.KeyID{row(1).ID}); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("beside another process: %v", err)
	}
}

// TestSQLiteOverwritesWhatIsDeleted: what was deleted is in none of the files once the store is closed.
func TestSQLiteOverwritesWhatIsDeleted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.db")
	s := newStore(t, "sqlite:"+file)
	kept, gone := row(1), row(2)
	kept.Wrapped, gone.Wrapped = []byte("this one stays"), bytes.Repeat([]byte("this one goes"), 9)
	for _, r := range []crypto.KeyRow{kept, gone} {
		if err := s.Put(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	loseWraps(t, s, gone.ID)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(file + "*")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, error %v", len(files), err)
	}
	var all []byte
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, text...)
	}
	if !bytes.Contains(all, kept.Wrapped) || bytes.Contains(all, gone.Wrapped[:13]) {
		t.Errorf("the row that stays is there: %v; the row that goes: %v", bytes.Contains(all, kept.Wrapped), bytes.Contains(all, gone.Wrapped[:13]))
	}
}

func TestKnown(t *testing.T) {
	for uri, want := range map[string]bool{"sqlite:keys.db": true, "postgres://seal@db.example/seal": true, "dynamodb://keys?region=eu-central-1": true,
		"sqlite:": false, "dynamodb:keys": false, "dynamodb://k": false, "mysql://db.example/seal": false, "keys.db": false} {
		if Known(uri) != want {
			t.Errorf("%s is the URI of a key store: %v", uri, !want)
		}
	}
}

// TestServersProveTheirName: a connection to another machine is verified, or there is none.
func TestServersProveTheirName(t *testing.T) {
	for uri, ok := range map[string]bool{
		"postgres://seal@db.example/seal":                                              false,
		"postgres://seal@db.example/seal?sslmode=disable":                              false,
		"postgres://seal@db.example/seal?sslmode=prefer":                               false,
		"postgres://seal@db.example/seal?sslmode=require":                              false,
		"postgres://seal@127.0.0.1,db.example/seal?sslmode=disable":                    false,
		"postgres://seal@db.example/seal?sslmode=verify-full":                          true,
		"postgres://seal@db.example,standby.example/seal?sslmode=verify-full":          true,
		"postgres://seal@127.0.0.1/seal?sslmode=disable":                               true,
		"postgres://seal@localhost/seal":                                               true,
		"postgres:///seal?user=seal&host=" + t.TempDir() + "&sslmode=disable":          true,
		"postgres://seal@db.example/seal?sslmode=verify-full&target_session_attrs=any": true,
	} {
		s, err := New(uri, strings.Repeat("0", 32))
		if (err == nil) != ok {
			t.Errorf("%s: error %v", uri, err)
		}
		if err == nil {
			s.Close()
		} else if crypto.KindOf(err) != crypto.KindNotConfigured || !strings.Contains(err.Error(), "sslmode=verify-full") {
			t.Errorf("%s: error %v does not say what to do", uri, err)
		}
	}
}

// TestKeysWithoutWraps: a key whose wraps are gone is visited as well, so that a check finds it.
func TestKeysWithoutWraps(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s := newStore(t, uri)
		if err := putAll(t.Context(), s, 0, 10); err != nil {
			t.Fatal(err)
		}
		all := ids(t, s)
		for i, lost := range [][]crypto.KeyID{all[:1], all[1:]} {
			loseWraps(t, s, lost...)
			rows, without := 0, 0
			if err := s.All(t.Context(), func(r crypto.KeyRow) error {
				rows++
				if len(r.Wrapped) == 0 {
					without++
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if want := []int{1, 10}[i]; rows != 10 || without != want {
				t.Errorf("%d keys, %d without a wrap; want 10 and %d", rows, without, want)
			}
		}
	})
}

// TestMigrate: a store with an older schema is used once it was migrated, and one with a newer schema is refused.
func TestMigrate(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		s := newStore(t, uri)
		if err := s.Put(t.Context(), row(1)); err != nil {
			t.Fatal(err)
		}
		if changed, err := s.Migrate(t.Context()); changed || err != nil {
			t.Errorf("a store of this release: changed %v, error %v", changed, err)
		}
		hasSchema(t, s, schemaVersion-1)
		if err := s.Ping(t.Context()); crypto.KindOf(err) != crypto.KindNotConfigured || !strings.Contains(err.Error(), "keystore migrate") {
			t.Errorf("an older schema: %v", err)
		}
		other := Store{backend: s.backend, id: strings.Repeat("0", 32)}
		if changed, err := other.Migrate(t.Context()); changed || crypto.KindOf(err) != crypto.KindNotConfigured {
			t.Errorf("another store: changed %v, error %v", changed, err)
		}
		if changed, err := s.Migrate(t.Context()); !changed || err != nil {
			t.Errorf("an older schema: changed %v, error %v", changed, err)
		}
		if rows, err := s.Get(t.Context(), []crypto.KeyID{row(1).ID}); err != nil || len(rows) != 1 {
			t.Errorf("after it was migrated: %d rows, error %v", len(rows), err)
		}
		hasSchema(t, s, schemaVersion+1)
		if changed, err := s.Migrate(t.Context()); changed || crypto.KindOf(err) != crypto.KindNewer {
			t.Errorf("a newer schema: changed %v, error %v", changed, err)
		}
		if err := s.Put(t.Context(), row(2)); crypto.KindOf(err) != crypto.KindNewer {
			t.Errorf("a newer schema, put: %v", err)
		}
	})
	if _, err := (&Store{backend: mustOpen(t, "sqlite:"+filepath.Join(t.TempDir(), "empty.db"))}).Migrate(t.Context()); crypto.KindOf(err) != crypto.KindNotConfigured {
		t.Errorf("an empty database: %v", err)
	}
}

func mustOpen(t *testing.T, uri string) backend {
	t.Helper()
	b, err := open(uri, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.close() })
	return b
}

// TestWarnings: what PostgreSQL may lose although it was confirmed is named, and rows are written safely all the same.
func TestWarnings(t *testing.T) {
	uri := postgres(t)
	s := newStore(t, uri)
	db := s.backend.(database).db
	name := strings.TrimPrefix(uri[:strings.Index(uri, "?")], "postgres:///")
	warned := func(want ...string) {
		t.Helper()
		again := openStore(t, uri, s.id)
		defer again.Close()
		got, err := again.Warnings(t.Context())
		if err != nil || len(got) != len(want) {
			t.Errorf("warnings %q, error %v; want %q", got, err, want)
			return
		}
		for i := range want {
			if !strings.Contains(got[i], want[i]) {
				t.Errorf("warning %q, want one with %q", got[i], want[i])
			}
		}
	}
	warned("synchronous_standby_names is empty")
	for _, value := range []string{"off", "local"} {
		if _, err := db.Exec("ALTER DATABASE " + name + " SET synchronous_commit = " + value); err != nil {
			t.Fatal(err)
		}
		warned("synchronous_commit is "+value, "synchronous_standby_names is empty")
	}
	unsafe := openStore(t, uri, s.id)
	if err := unsafe.Put(t.Context(), row(1)); err != nil {
		t.Error(err)
	}
	lite := newStore(t, "sqlite:"+filepath.Join(t.TempDir(), "keys.db"))
	if got, err := lite.Warnings(t.Context()); len(got) != 0 || err != nil {
		t.Errorf("SQLite: %q, error %v", got, err)
	}
	away := openStore(t, "postgres://seal@127.0.0.1:1/seal?sslmode=disable&connect_timeout=2", s.id)
	if _, err := away.Warnings(t.Context()); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("a store that is away: %v", err)
	}
}
