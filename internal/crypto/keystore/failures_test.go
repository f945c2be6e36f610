package keystore

import (
	"context"
	"database/sql"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// faults fail a store in the ways that its database can. Each returns what heals it again.
type faults struct {
	uri   string
	fails map[string]func() (heal func())
}

// Failures of stores, and whether a process that starts during one opens what was sealed by reference before.
var failures = []struct {
	name  string
	reads bool
}{
	{"slow", true},
	{"hanging", false},
	{"restarted", false},
	{"another store", false},
	{"refuses writes", true},
	{"full", true},
}

// TestFailures: whatever a key store does, sealing goes on, nothing refers to a row that was not stored, what cannot be opened now is
// held, and everything heals.
func TestFailures(t *testing.T) {
	for name, start := range map[string]func(*testing.T) faults{"sqlite": sqliteFaults, "postgres": postgresFaults, "dynamodb": dynamoDBFaults} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			id, _, err := Init(t.Context(), f.uri)
			if err != nil {
				t.Fatal(err)
			}
			key := keyFile(t)
			for _, c := range failures {
				t.Run(c.name, func(t *testing.T) {
					store := openStore(t, f.uri, id)
					before, _ := sealed(t, keysWith(t, store, quiet, key), 6)
					s := stored{key: key, store: store, reference: before[5], reads: c.reads}
					fail, ok := f.fails[c.name]
					if !ok {
						t.Fatalf("no such failure of %s", name)
					}
					if name == "sqlite" && c.name != "restarted" {
						connection = store.backend.(database).db
					} else if name == "sqlite" {
						store.Close() // it lets one process in
					}
					heal := fail()
					s.during(t, name == "sqlite" && c.name == "restarted")
					heal()
					if name == "sqlite" && c.name == "restarted" {
						s.store = openStore(t, f.uri, id)
					}
					s.after(t)
					s.store.Close()
				})
			}
		})
	}
}

// stored is a store with a row that an envelope refers to.
type stored struct {
	key       string
	store     *Store
	reference envelope.Sealed
	reads     bool
}

// during checks a process that starts while the store fails.
func (s *stored) during(t *testing.T, closed bool) {
	t.Helper()
	fresh := keysWith(t, s.store, quiet, s.key)
	all, references := sealed(t, fresh, 8)
	for _, e := range all {
		if err := opens(t.Context(), fresh, e); err != nil {
			t.Errorf("sealed during the failure: %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	rows, err := s.store.Get(ctx, []crypto.KeyID{all[7].Header.ID})
	if references > 0 && (closed || err != nil || len(rows) == 0) {
		t.Errorf("%d envelopes refer to a row that was not stored (%d rows, error %v)", references, len(rows), err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	err = opens(ctx, keysWith(t, s.store, quiet, s.key), s.reference)
	if s.reads && err != nil || !s.reads && crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("an envelope by reference from before: %v; want it to open: %v", err, s.reads)
	}
}

// after checks that the store is used as before.
func (s *stored) after(t *testing.T) {
	t.Helper()
	var err error
	for range 100 { // a server that was restarted takes its time
		if err = opens(t.Context(), keysWith(t, s.store, quiet, s.key), s.reference); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		t.Errorf("after the failure: %v", err)
	}
	if _, references := sealed(t, keysWith(t, s.store, quiet, s.key), 8); references != 4 {
		t.Errorf("after the failure %d of 8 envelopes are by reference", references)
	}
	if n, err := keysWith(t, s.store, quiet, s.key).Rows().Verify(t.Context(), func(_ crypto.KeyRow, err error) { t.Error(err) }); err != nil || n == 0 {
		t.Errorf("check: %d rows, error %v", n, err)
	}
}

// connection is that of the SQLite store under test: no other one gets in.
var connection *sql.DB

func execute(t *testing.T, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func sqliteFaults(t *testing.T) faults {
	statements := func(begin, end string) func() func() {
		return func() func() {
			execute(t, connection, begin)
			return func() { execute(t, connection, end) }
		}
	}
	holds := func(times int, each time.Duration) func() func() {
		return func() func() {
			conn, err := connection.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for i := 0; ; i++ {
					time.Sleep(each)
					conn.Close()
					if i+1 >= times {
						return
					}
					if conn, err = connection.Conn(context.Background()); err != nil {
						return
					}
				}
			}()
			return func() { <-done }
		}
	}
	return faults{"sqlite:" + filepath.Join(t.TempDir(), "keys.db"), map[string]func() func(){
		"slow":           holds(5, 100*time.Millisecond),
		"hanging":        holds(1, 12*time.Second), // a disk that does not answer: the connection is busy
		"restarted":      func() func() { return func() {} },
		"another store":  anotherStore(t, func() *sql.DB { return connection }),
		"refuses writes": statements("PRAGMA query_only = 1", "PRAGMA query_only = 0"),
		// SQLite answers so when the disk is full.
		"full": func() func() {
			execute(t, connection, "CREATE TRIGGER full BEFORE INSERT ON temporal_seal_keys BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END")
			return func() { execute(t, connection, "DROP TRIGGER full") }
		},
	}}
}

func anotherStore(t *testing.T, db func() *sql.DB) func() func() {
	return func() func() {
		execute(t, db(), "UPDATE temporal_seal_meta SET store_id = 'x' || store_id", "ALTER TABLE temporal_seal_keys RENAME TO hidden",
			"CREATE TABLE temporal_seal_keys AS SELECT * FROM hidden LIMIT 0")
		return func() {
			execute(t, db(), "DROP TABLE temporal_seal_keys", "ALTER TABLE hidden RENAME TO temporal_seal_keys",
				"UPDATE temporal_seal_meta SET store_id = substr(store_id, 2)")
		}
	}
}

// relay passes the bytes of connections between two sockets.
type relay struct {
	mu    sync.Mutex
	pause time.Duration // before each piece
	hangs chan struct{} // closed when pieces go on
	all   []net.Conn
}

func (r *relay) serve(l net.Listener, to string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("unix", to)
		if err != nil {
			c.Close()
			continue
		}
		r.mu.Lock()
		r.all = append(r.all, c, up)
		r.mu.Unlock()
		go r.pass(up, c)
		go r.pass(c, up)
	}
}

func (r *relay) pass(to, from net.Conn) {
	defer to.Close()
	piece := make([]byte, 64<<10)
	for {
		n, err := from.Read(piece)
		if err != nil {
			return
		}
		r.mu.Lock()
		pause, hangs := r.pause, r.hangs
		r.mu.Unlock()
		time.Sleep(pause)
		if hangs != nil {
			<-hangs
		}
		if _, err := to.Write(piece[:n]); err != nil && err != io.ErrShortWrite {
			return
		}
	}
}

// postgresFaults has a server of its own, which it kills and starts again.
func postgresFaults(t *testing.T) faults {
	postgres(t) // skips where there is none
	dir := t.TempDir()
	data, sockets := filepath.Join(dir, "data"), shortDir(t)
	if os.Getuid() == 0 {
		for d := dir; d != os.TempDir() && len(d) > 1; d = filepath.Dir(d) {
			_ = os.Chmod(d, 0o755)
		}
		_, _ = os.Chown(dir, nobody, nobody), os.Chown(sockets, nobody, nobody)
	}
	if out, err := asUser(exec.Command(program("initdb"), "-D", data, "-U", "seal", "--auth=trust", "-N")).CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	var server *exec.Cmd
	start := func() {
		server = asUser(exec.Command(program("postgres"), "-D", data, "-k", sockets, "-c", "listen_addresses="))
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
	}
	start()
	t.Cleanup(func() { _ = server.Process.Signal(os.Interrupt); _ = server.Wait() })
	front := shortDir(t)
	l, err := net.Listen("unix", filepath.Join(front, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	r := new(relay)
	go r.serve(l, filepath.Join(sockets, ".s.PGSQL.5432"))
	direct, err := sql.Open("pgx", "postgres:///postgres?user=seal&host="+sockets)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { direct.Close() })
	answers := func() {
		for range 300 {
			if err = direct.Ping(); err == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Fatalf("postgres does not answer: %v", err)
	}
	answers()
	trigger := func(code string) func() func() {
		return func() func() {
			execute(t, direct, "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '"+code+"'; END $$",
				"CREATE TRIGGER refuse BEFORE INSERT ON temporal_seal_keys FOR EACH ROW EXECUTE FUNCTION refuse()")
			return func() { execute(t, direct, "DROP TRIGGER refuse ON temporal_seal_keys") }
		}
	}
	return faults{"postgres:///postgres?user=seal&host=" + front, map[string]func() func(){
		"slow": func() func() {
			r.set(20*time.Millisecond, nil)
			return func() { r.set(0, nil) }
		},
		"hanging": func() func() {
			hangs := make(chan struct{})
			r.set(0, hangs)
			return func() { r.set(0, nil); close(hangs) }
		},
		"restarted": func() func() {
			_ = server.Process.Signal(syscall.SIGQUIT) // at once, as after a crash: the next start recovers
			_ = server.Wait()
			return func() { start(); answers() }
		},
		"another store":  anotherStore(t, func() *sql.DB { return direct }),
		"refuses writes": trigger("25006"), // what a server answers that takes no writes
		"full":           trigger("53100"), // what a server answers whose disk is full
	}}
}

func (r *relay) set(pause time.Duration, hangs chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pause, r.hangs = pause, hangs
}

// shortDir is a folder whose name fits into the address of a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ks")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func dynamoDBFaults(t *testing.T) faults {
	uri, b := dynamoDBWith(t)
	answers := func(answer func(op string, call int, body map[string]any) (int, any)) func() func() {
		return func() func() {
			b.answers(answer)
			return func() { b.answers(nil) }
		}
	}
	refused := func(code string, ops ...string) func() func() {
		return answers(func(op string, _ int, _ map[string]any) (int, any) {
			for _, o := range ops {
				if op == o {
					return http.StatusBadRequest, map[string]any{"__type": "com.amazonaws.dynamodb.v20120810#" + code, "message": "no"}
				}
			}
			return 0, nil
		})
	}
	return faults{uri, map[string]func() func(){
		"slow": answers(func(string, int, map[string]any) (int, any) {
			time.Sleep(100 * time.Millisecond)
			return 0, nil
		}),
		"hanging": answers(func(string, int, map[string]any) (int, any) {
			time.Sleep(5 * time.Second)
			return http.StatusInternalServerError, map[string]any{}
		}),
		"restarted": answers(func(string, int, map[string]any) (int, any) { return http.StatusServiceUnavailable, map[string]any{} }),
		"another store": answers(func(op string, _ int, body map[string]any) (int, any) {
			switch op {
			case "GetItem":
				if _, meta := body["Key"].(map[string]any)["pk"].(map[string]any); meta && body["Key"].(map[string]any)["pk"].(map[string]any)["S"] == metaItem {
					return http.StatusOK, map[string]any{"Item": map[string]any{attrStore: map[string]any{"S": "another"}, attrSchema: map[string]any{"N": "1"}}}
				}
				return http.StatusOK, map[string]any{}
			case "BatchGetItem":
				return http.StatusOK, map[string]any{"Responses": map[string]any{}, "UnprocessedKeys": map[string]any{}}
			}
			return http.StatusBadRequest, map[string]any{"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException", "message": "no"}
		}),
		"refuses writes": refused("AccessDeniedException", "PutItem", "UpdateItem"),
		"full":           refused("ProvisionedThroughputExceededException", "PutItem", "UpdateItem"), // it has no disk that fills
	}}
}

// TestNewestRowsAreLost: after a failover that lost the newest rows, or a restore of an old backup, rows that a process seals with are
// written again, and until then what refers to them is held.
func TestNewestRowsAreLost(t *testing.T) {
	stores(t, func(t *testing.T, uri string) {
		store := newStore(t, uri)
		key := keyFile(t)
		old, _ := sealed(t, keysWith(t, store, quiet, key), 6)
		var backup strings.Builder
		if n, err := Export(t.Context(), store, &backup, none(t)); n != 1 || err != nil {
			t.Fatalf("%d rows, error %v", n, err)
		}
		running := keysWith(t, store, quiet, key)
		newest, references := sealed(t, running, 6)
		if references != 2 {
			t.Fatalf("%d of 6 envelopes are by reference", references)
		}
		lost := newest[5].Header.ID
		var row crypto.KeyRow
		rows, err := store.Get(t.Context(), []crypto.KeyID{lost})
		if err != nil || len(rows) != 1 {
			t.Fatalf("%d rows, error %v", len(rows), err)
		}
		row = rows[0]
		loseWraps(t, store, lost)
		cold := keysWith(t, store, quiet, key)
		if err := opens(t.Context(), cold, newest[5]); crypto.KindOf(err) != crypto.KindUnavailable {
			t.Errorf("its row is lost: %v", err)
		}
		if err := opens(t.Context(), cold, old[5]); err != nil {
			t.Errorf("an older one: %v", err)
		}
		if err := opens(t.Context(), running, newest[5]); err != nil {
			t.Errorf("where its data key is in memory: %v", err)
		}
		if n, err := Import(t.Context(), store, strings.NewReader(backup.String()), never); n != 1 || err != nil {
			t.Errorf("the backup: %d rows, error %v", n, err)
		}
		if err := store.Put(t.Context(), row); err != nil { // as the process that seals with it does each minute
			t.Fatal(err)
		}
		if err := opens(t.Context(), keysWith(t, store, quiet, key), newest[5]); err != nil {
			t.Errorf("its row is there again: %v", err)
		}
	})
}
