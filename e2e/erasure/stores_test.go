package erasure

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const (
	sqlite   = "sqlite"
	postgres = "postgres"
	dynamodb = "dynamodb"
)

// database is a key store in which the suite erases.
type database interface {
	name() string
	// uri is how a process of a name reaches it; with "" it is its owner's.
	uri(of string) string
	// grant gives the processes their rights, once the store is made.
	grant(c *clinic)
	// cut keeps a process from reaching it, until heal is called.
	cut(of string) (heal func())
	// rows are all that it holds, as one reads it.
	rows(c *clinic) []byte
	// wrapped are the wrapped keys of subjects that it has.
	wrapped(c *clinic) [][]byte
	// save keeps all that it holds, and restore puts it back.
	save(c *clinic) (restore func())
	// files is the folder of its files; "" where it has none.
	files() string
}

// file is a key store in SQLite. One process at a time has it open.
type file struct{ dir string }

func (*file) name() string             { return sqlite }
func (f *file) uri(string) string      { return "sqlite:" + filepath.Join(f.dir, "keys.db") }
func (f *file) files() string          { return f.dir }
func (*file) grant(*clinic)            {}
func (*file) cut(string) (heal func()) { panic("the file is on the same machine") }

// read opens the file while no process has it.
func (f *file) read(c *clinic, do func(*sql.DB) error) {
	c.Helper()
	c.while(func() {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(f.dir, "keys.db"))
		if err == nil {
			err = errors.Join(do(db), db.Close())
		}
		c.ok(err)
	})
}

func (f *file) rows(c *clinic) (all []byte) {
	c.while(func() {
		for _, name := range []string{"keys.db", "keys.db-wal"} {
			content, err := os.ReadFile(filepath.Join(f.dir, name))
			c.ok(ignoreRemoved(err))
			all = append(all, content...)
		}
	})
	return all
}

func (f *file) wrapped(c *clinic) (all [][]byte) {
	f.read(c, func(db *sql.DB) error {
		rows, err := db.Query("SELECT wrapped FROM temporal_seal_subject_keys WHERE wrapped IS NOT NULL")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var key []byte
			if err := rows.Scan(&key); err != nil {
				return err
			}
			all = append(all, key)
		}
		return rows.Err()
	})
	return all
}

func (f *file) save(c *clinic) (restore func()) {
	path := filepath.Join(f.dir, "keys.db")
	var content []byte
	f.read(c, func(db *sql.DB) error {
		_, err := db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
		return err
	})
	c.while(func() {
		var err error
		content, err = os.ReadFile(path)
		c.ok(err)
	})
	return func() {
		c.ok(os.WriteFile(path, content, 0o600))
		for _, beside := range []string{"-wal", "-shm"} {
			c.ok(ignoreRemoved(os.Remove(path + beside)))
		}
	}
}

// link is a way to a server that can be cut.
type link struct {
	listener net.Listener
	to       func() (net.Conn, error)

	mu    sync.Mutex
	isCut bool
	conns []net.Conn
}

func newLink(l net.Listener, to func() (net.Conn, error)) *link {
	k := &link{listener: l, to: to}
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			go k.serve(from)
		}
	}()
	return k
}

func (k *link) serve(from net.Conn) {
	defer from.Close()
	k.mu.Lock()
	if k.isCut {
		k.mu.Unlock()
		return
	}
	to, err := k.to()
	if err != nil {
		k.mu.Unlock()
		return
	}
	k.conns = append(k.conns, from, to)
	k.mu.Unlock()
	defer to.Close()
	go func() {
		_, _ = io.Copy(to, from) // ends with either of them
		_ = to.Close()
	}()
	_, _ = io.Copy(from, to)
}

func (k *link) cut() (heal func()) {
	k.set(true)
	return func() { k.set(false) }
}

func (k *link) set(isCut bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.isCut = isCut
	for _, conn := range k.conns {
		_ = conn.Close()
	}
	k.conns = nil
}

// links are those of the processes, by their names.
type links struct {
	mu   sync.Mutex
	all  map[string]*link
	make func(of string) (*link, error)
}

func (l *links) of(name string) *link {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all[name] == nil {
		k, err := l.make(name)
		if err != nil {
			panic(err) // loopback and sockets in folders of our own
		}
		if l.all == nil {
			l.all = map[string]*link{}
		}
		l.all[name] = k
	}
	return l.all[name]
}

// server is a key store in PostgreSQL, which listens on a socket in its folder.
type server struct {
	dir string
	links
}

func startPostgres(c *clinic) (database, string) {
	c.Helper()
	if _, err := exec.LookPath(program("initdb")); err != nil {
		return nil, "PostgreSQL is not installed"
	}
	dir, err := os.MkdirTemp("", "pg") // a short path, since sockets lie there
	c.ok(err)
	s := &server{dir: dir}
	s.make = func(of string) (*link, error) {
		folder := filepath.Join(dir, "l-"+of)
		if err := os.Mkdir(folder, 0o700); err != nil {
			return nil, err
		}
		l, err := net.Listen("unix", filepath.Join(folder, ".s.PGSQL.5432"))
		if err != nil {
			return nil, err
		}
		c.root.Cleanup(func() { _ = l.Close() })
		return newLink(l, func() (net.Conn, error) { return net.Dial("unix", filepath.Join(dir, ".s.PGSQL.5432")) }), nil
	}
	c.root.Cleanup(func() { _ = os.RemoveAll(dir) })
	if os.Getuid() == 0 {
		c.ok(os.Chown(dir, nobody, nobody))
	}
	data := s.files()
	if out, err := asUser(exec.Command(program("initdb"), "-D", data, "-U", "owner", "--auth=trust", "-N")).CombinedOutput(); err != nil {
		c.Fatalf("initdb, which is a part of PostgreSQL: %v: %s", err, out)
	}
	p := asUser(exec.Command(program("postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off"))
	c.ok(p.Start())
	c.root.Cleanup(func() { _ = p.Process.Signal(os.Interrupt); _ = p.Wait() })
	c.eventually("PostgreSQL answers", func() error {
		return exec.Command(program("psql"), "-h", dir, "-U", "owner", "-c", "CREATE DATABASE seal", "postgres").Run()
	})
	return s, ""
}

// program returns the path of one of PostgreSQL's programs, which Debian installs outside of the PATH.
func program(name string) string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	return append([]string{name}, found...)[len(found)]
}

// asUser has a program run by another user where tests run as root, as whom PostgreSQL refuses to run.
func asUser(cmd *exec.Cmd) *exec.Cmd {
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

func (*server) name() string    { return postgres }
func (s *server) files() string { return filepath.Join(s.dir, "data") }

func (s *server) uri(of string) string {
	if of == "" {
		return "postgres:///seal?host=" + s.dir + "&user=owner"
	}
	return "postgres:///seal?host=" + filepath.Dir(s.of(of).listener.Addr().String()) + "&user=seal"
}

func (s *server) grant(c *clinic)             { s.sql(c, "CREATE ROLE seal LOGIN", grants) }
func (s *server) cut(of string) (heal func()) { return s.of(of).cut() }

// sql runs statements as the owner of the key store, and returns what they select.
func (s *server) sql(c *clinic, statements ...string) string {
	c.Helper()
	args := []string{"-h", s.dir, "-U", "owner", "-v", "ON_ERROR_STOP=1", "-At"}
	for _, statement := range statements {
		args = append(args, "-c", statement) // one transaction each
	}
	out, err := exec.Command(program("psql"), append(args, "seal")...).Output()
	c.ok(err)
	return string(out)
}

func (s *server) rows(c *clinic) []byte {
	c.Helper()
	rows, err := exec.Command(program("pg_dump"), "-h", s.dir, "-U", "owner", "--data-only", "seal").Output()
	c.ok(err)
	return rows
}

func (s *server) wrapped(c *clinic) (all [][]byte) {
	c.Helper()
	for line := range strings.Lines(s.sql(c, "SELECT encode(wrapped, 'hex') FROM temporal_seal_subject_keys WHERE wrapped IS NOT NULL")) {
		key, err := hex.DecodeString(strings.TrimSpace(line))
		c.ok(err)
		all = append(all, key)
	}
	return all
}

func (s *server) save(c *clinic) (restore func()) {
	rows := s.rows(c)
	return func() {
		tables := "temporal_seal_meta, temporal_seal_keys, temporal_seal_wraps, temporal_seal_subject_keys, temporal_seal_erasures, temporal_seal_replicas"
		load := exec.Command(program("psql"), "-h", s.dir, "-U", "owner", "-v", "ON_ERROR_STOP=1", "-1", "-f", "-", "seal")
		load.Stdin = strings.NewReader("TRUNCATE " + tables + ";\n" + string(rows))
		out, err := load.CombinedOutput()
		if err != nil {
			c.Fatalf("restore: %v: %s", err, out)
		}
	}
}

// table is a key store in DynamoDB, as moto has it.
type table struct {
	table, endpoint string
	links
}

// startDynamoDB starts an emulator.
func startDynamoDB(c *clinic) (database, string) {
	c.Helper()
	endpoint, p, err := harness.StartMoto(context.Background(), os.Stderr)
	if err != nil {
		return nil, "no emulator of DynamoDB: " + err.Error()
	}
	c.root.Cleanup(func() { _ = p.Stop() })
	behind, err := url.Parse(endpoint)
	c.ok(err)
	// One call at a time: a transaction that fails in moto takes back what other calls have written meanwhile.
	var one sync.Mutex
	pass := httputil.NewSingleHostReverseProxy(behind)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		one.Lock()
		defer one.Unlock()
		pass.ServeHTTP(w, r)
	}))
	c.root.Cleanup(front.Close)
	t := &table{table: "keys-" + strings.ToLower(rand.Text()), endpoint: front.URL}
	t.make = func(string) (*link, error) {
		l, err := net.Listen("tcp", net.JoinHostPort(peers.Host, "0"))
		if err != nil {
			return nil, err
		}
		c.root.Cleanup(func() { _ = l.Close() })
		return newLink(l, func() (net.Conn, error) { return net.Dial("tcp", front.Listener.Addr().String()) }), nil
	}
	return t, ""
}

func (*table) name() string                  { return dynamodb }
func (*table) files() string                 { return "" }
func (*table) grant(*clinic)                 {}
func (t *table) cut(of string) (heal func()) { return t.of(of).cut() }

func (t *table) uri(of string) string {
	endpoint := t.endpoint
	if of != "" {
		endpoint = "http://" + t.of(of).listener.Addr().String()
	}
	return "dynamodb://" + t.table + "?region=eu-central-1&endpoint=" + endpoint
}

// call calls DynamoDB. The emulator reads of the signature the region and the service alone.
func (t *table) call(c *clinic, operation string, request map[string]any) []byte {
	c.Helper()
	body, err := json.Marshal(request)
	c.ok(err)
	q, err := http.NewRequest(http.MethodPost, t.endpoint, bytes.NewReader(body))
	c.ok(err)
	q.Header.Set("Content-Type", "application/x-amz-json-1.0")
	q.Header.Set("X-Amz-Target", "DynamoDB_20120810."+operation)
	q.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIATEST/20261129/eu-central-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0")
	a, err := http.DefaultClient.Do(q)
	c.ok(err)
	defer a.Body.Close()
	answer, err := io.ReadAll(a.Body)
	c.ok(err)
	if a.StatusCode != http.StatusOK {
		c.Fatalf("%s: %s: %s", operation, a.Status, answer)
	}
	return answer
}

// items are all of the table.
func (t *table) items(c *clinic) (all []map[string]any) {
	c.Helper()
	request := map[string]any{"TableName": t.table, "ConsistentRead": true}
	for {
		var page struct {
			Items            []map[string]any
			LastEvaluatedKey map[string]any
		}
		c.ok(json.Unmarshal(t.call(c, "Scan", request), &page))
		all = append(all, page.Items...)
		if page.LastEvaluatedKey == nil {
			return all
		}
		request["ExclusiveStartKey"] = page.LastEvaluatedKey
	}
}

func (t *table) rows(c *clinic) []byte {
	c.Helper()
	text, err := json.Marshal(t.items(c))
	c.ok(err)
	return text
}

// wrappedInItem is where a wrapped key stands in an item: in JSON within JSON.
var wrappedInItem = regexp.MustCompile(`\\"wrapped\\":\\"([0-9a-f]+)\\"`)

func (t *table) wrapped(c *clinic) (all [][]byte) {
	c.Helper()
	for _, found := range wrappedInItem.FindAllSubmatch(t.rows(c), -1) {
		key, err := hex.DecodeString(string(found[1]))
		c.ok(err)
		all = append(all, key)
	}
	return all
}

func (t *table) save(c *clinic) (restore func()) {
	saved := t.items(c)
	return func() {
		for _, item := range t.items(c) {
			t.call(c, "DeleteItem", map[string]any{"TableName": t.table, "Key": map[string]any{"pk": item["pk"]}})
		}
		for _, item := range saved {
			t.call(c, "PutItem", map[string]any{"TableName": t.table, "Item": item})
		}
	}
}

// has is an error if one of the erased keys stands in what a store holds, in whatever form, or none of the others does.
func has(rows []byte, erased, others [][]byte) error {
	in := func(keys [][]byte) bool {
		for _, key := range keys {
			if bytes.Contains(rows, key) || bytes.Contains(rows, fmt.Appendf(nil, "%x", key)) {
				return true
			}
		}
		return false
	}
	switch {
	case in(erased):
		return errors.New("it is there")
	case !in(others):
		return errors.New("keys that are there are not found either")
	}
	return nil
}
