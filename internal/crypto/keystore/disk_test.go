//go:build linux

package keystore

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// smallDisk mounts a disk of a few megabytes, which only root may.
func smallDisk(t *testing.T, megabytes string) string {
	t.Helper()
	dir := shortDir(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0777,size="+megabytes+"m"); err != nil {
		t.Skipf("this user may not mount a small disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fill writes a file until the disk is full.
func fill(t *testing.T, dir string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "filler")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for piece := make([]byte, 1<<10); err == nil; {
		_, err = f.Write(piece)
	}
	if !strings.Contains(err.Error(), "no space") {
		t.Fatal(err)
	}
	return file
}

// TestFullDisk: the disk of a database is full, and has room again.
func TestFullDisk(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		disk := smallDisk(t, "1")
		fullDisk(t, disk, newStore(t, "sqlite:"+filepath.Join(disk, "keys.db")))
	})
	t.Run("postgres", func(t *testing.T) {
		uri := postgres(t)
		disk := smallDisk(t, "16")
		own := filepath.Join(disk, "tables")
		if err := os.Mkdir(own, 0o700); err != nil {
			t.Fatal(err)
		}
		if os.Getuid() == 0 {
			if err := os.Chown(own, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
		db, err := sql.Open("pgx", uri)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		name := "small" + strings.ToLower(filepath.Base(disk))
		execute(t, db, "CREATE TABLESPACE "+name+" LOCATION '"+own+"'", "CREATE DATABASE "+name+" TABLESPACE "+name)
		t.Cleanup(func() { // before the disk goes
			if db, err := sql.Open("pgx", uri); err == nil {
				_, _ = db.Exec("DROP DATABASE " + name + " WITH (FORCE)")
				_, _ = db.Exec("DROP TABLESPACE " + name)
				db.Close()
			}
		})
		fullDisk(t, disk, newStore(t, strings.Replace(uri, uri[:strings.Index(uri, "?")], "postgres:///"+name, 1)))
	})
}

func fullDisk(t *testing.T, disk string, store *Store) {
	key := keyFile(t)
	before, _ := sealed(t, keysWith(t, store, quiet, key), 6)
	s := stored{key: key, store: store, reference: before[5], reads: true}
	filler := fill(t, disk)
	full := false
	for i := 0; i < 5000 && !full; i++ { // what the database has already taken from the disk is used first
		err := store.Put(t.Context(), row(i))
		if full = err != nil; full && crypto.KindOf(err) != crypto.KindUnavailable {
			t.Errorf("a full disk: %v", err)
		}
	}
	if !full {
		t.Fatal("the disk is full, and 5000 rows were written")
	}
	s.during(t, false)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	db := store.backend.(database).db
	execute(t, db, "DELETE FROM temporal_seal_wraps WHERE kek_uri = 'local:seal.key'", "DELETE FROM temporal_seal_keys WHERE namespace = 'eu/clinic'")
	s.after(t)
}

// TestFailover: a primary is lost whose newest rows its standby has not received, and the standby takes its place. A process that seals with
// a lost row writes it again; until then what refers to it is held, and everything else opens.
func TestFailover(t *testing.T) {
	postgres(t) // skips where there is none
	if _, err := exec.LookPath(program("pg_basebackup")); err != nil {
		t.Skip("pg_basebackup is not installed")
	}
	primary := newServer(t, "initdb", "-U", "seal", "--auth=trust", "-N")
	primary.start(t)
	standby := newServer(t, "pg_basebackup", "-R", "-X", "stream", "-c", "fast", "-h", primary.dir, "-U", "seal")
	standby.start(t)
	uri := "postgres:///postgres?user=seal&host=" + primary.dir + "," + standby.dir
	store := newStore(t, uri)
	key := keyFile(t)
	old, _ := sealed(t, keysWith(t, store, quiet, key), 6)
	eventually(t, "the standby has the first row", func() bool {
		var rows int
		err := standby.db.QueryRow("SELECT count(*) FROM temporal_seal_wraps").Scan(&rows)
		return err == nil && rows == 1
	})
	execute(t, standby.db, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
	eventually(t, "the standby receives nothing any more", func() bool {
		var receivers int
		err := standby.db.QueryRow("SELECT count(*) FROM pg_stat_wal_receiver").Scan(&receivers)
		return err == nil && receivers == 0
	})
	checked := &gated{Store: store}
	running := keysWith(t, checked, quiet, key)
	newest, references := sealed(t, running, 6)
	if references != 2 {
		t.Fatalf("%d of 6 envelopes are by reference", references)
	}
	checked.gate.Lock() // the minute until rows are checked again
	primary.kill()
	if err := opens(t.Context(), keysWith(t, store, quiet, key), old[5]); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("while there is only a standby: %v", err)
	}
	execute(t, standby.db, "SELECT pg_promote()")
	eventually(t, "the store answers", func() bool { return store.Ping(t.Context()) == nil })
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
	checked.gate.Unlock()
	running.Commit(running.Current()) // rows are checked after changes, too
	eventually(t, "the process that seals with the lost row writes it again", func() bool {
		return opens(t.Context(), keysWith(t, store, quiet, key), newest[5]) == nil
	})
	if n, err := keysWith(t, store, quiet, key).Rows().Verify(t.Context(), func(_ crypto.KeyRow, err error) { t.Error(err) }); n != 2 || err != nil {
		t.Errorf("check: %d rows, error %v", n, err)
	}
}

// gated is a store into which nothing is put while the gate is locked.
type gated struct {
	*Store
	gate sync.RWMutex
}

func (s *gated) Put(ctx context.Context, row crypto.KeyRow) error {
	if !s.gate.TryRLock() {
		return unavailable("keystore.put", errors.New("the gate is locked"))
	}
	defer s.gate.RUnlock()
	return s.Store.Put(ctx, row)
}

// pgServer is a PostgreSQL server of one test.
type pgServer struct {
	dir string // of its data and its socket
	db  *sql.DB
	cmd *exec.Cmd
}

// newServer makes the data of a server by a program.
func newServer(t *testing.T, by string, args ...string) *pgServer {
	t.Helper()
	s := &pgServer{dir: shortDir(t)}
	if os.Getuid() == 0 {
		if err := os.Chown(s.dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := asUser(exec.Command(program(by), append(args, "-D", filepath.Join(s.dir, "data"))...)).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", by, err, out)
	}
	var err error
	if s.db, err = sql.Open("pgx", "postgres:///postgres?user=seal&host="+s.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.db.Close() })
	return s
}

func (s *pgServer) start(t *testing.T) {
	t.Helper()
	s.cmd = asUser(exec.Command(program("postgres"), "-D", filepath.Join(s.dir, "data"), "-k", s.dir, "-c", "listen_addresses="))
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	eventually(t, "PostgreSQL answers", func() bool { return s.db.Ping() == nil })
}

// kill ends the server as a crash does.
func (s *pgServer) kill() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Signal(syscall.SIGQUIT)
		_ = s.cmd.Wait()
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within a minute: %s", what)
}
