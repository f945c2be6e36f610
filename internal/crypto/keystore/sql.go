package keystore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/x/loopback"
)

const (
	schemaVersion = 2
	maxConns      = 8
	// perQuery is how many ids stand in one query: drivers limit the number of parameters.
	perQuery = 500
	pageSize = 1000
)

// database is a SQL database. Its statements are the same for PostgreSQL and SQLite, apart from the tables.
type database struct {
	db     *sql.DB
	tables string
	now    func() time.Time // by this process's clock
}

// postgresTables and sqliteTables differ in the names of types and in the default of created_at. The kind is that of an envelope's context.
const (
	postgresTables = `
CREATE TABLE IF NOT EXISTS temporal_seal_meta (one int PRIMARY KEY CHECK (one = 1), store_id text NOT NULL, schema int NOT NULL,
	seq bigint NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS temporal_seal_keys (id bytea PRIMARY KEY, kind smallint NOT NULL, namespace text NOT NULL, key_name text NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now(), generation int NOT NULL DEFAULT 0, seal_until bigint NOT NULL DEFAULT 0,
	expires bigint NOT NULL DEFAULT 0, destroyed int NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS temporal_seal_wraps (id bytea NOT NULL, kek_ref bytea NOT NULL, kek_uri text NOT NULL, wrapped bytea NOT NULL,
	PRIMARY KEY (id, kek_ref))`
	sqliteTables = `
CREATE TABLE IF NOT EXISTS temporal_seal_meta (one int PRIMARY KEY CHECK (one = 1), store_id text NOT NULL, schema int NOT NULL,
	seq bigint NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS temporal_seal_keys (id blob PRIMARY KEY, kind int NOT NULL, namespace text NOT NULL, key_name text NOT NULL,
	created_at text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')), generation int NOT NULL DEFAULT 0,
	seal_until bigint NOT NULL DEFAULT 0, expires bigint NOT NULL DEFAULT 0, destroyed int NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS temporal_seal_wraps (id blob NOT NULL, kek_ref blob NOT NULL, kek_uri text NOT NULL, wrapped blob NOT NULL,
	PRIMARY KEY (id, kek_ref))`
)

// open returns the backend of a URI. It does not connect yet. create is whether a file is made that does not exist.
func open(uri string, create bool) (backend, error) {
	scheme, rest, _ := strings.Cut(uri, ":")
	switch scheme {
	case SchemeSQLite:
		return openSQLite(rest, create)
	case SchemeDynamoDB:
		return openDynamoDB(rest)
	case SchemePostgres:
		return openPostgres(uri)
	}
	return nil, notConfigured("the URI %s", NoStoreURI)
}

func openPostgres(uri string) (database, error) {
	c, err := pgx.ParseConfig(uri)
	if err != nil {
		return database{}, notConfigured("the postgres URI cannot be parsed") // the driver's text may hold the password
	}
	if err := verified(c); err != nil {
		return database{}, err
	}
	if c.ValidateConnect == nil { // a standby lags behind, and takes no rows
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	db := stdlib.OpenDB(*c)
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	return database{db, postgresTables, time.Now}, nil
}

// verified returns an error if a server on another machine need not prove who it is: whoever stands in its place could confirm
// rows that are never stored.
func verified(c *pgx.ConnConfig) error {
	ends := []*pgconn.FallbackConfig{{Host: c.Host, TLSConfig: c.TLSConfig}}
	for _, end := range append(ends, c.Fallbacks...) {
		local := strings.HasPrefix(end.Host, "/") || loopback.Host(end.Host)
		if !local && (end.TLSConfig == nil || end.TLSConfig.InsecureSkipVerify) {
			return notConfigured("the server %s does not have to prove its name; add sslmode=verify-full to the postgres URI", end.Host)
		}
	}
	return nil
}

// openSQLite opens a file for this process alone: SQLite's locks do not hold on the network file systems that replicas would
// share.
func openSQLite(path string, create bool) (database, error) {
	if path == "" || strings.ContainsAny(path, "?#") {
		return database{}, notConfigured("the URI %s", NoStoreURI)
	}
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	if !slices.Contains(sql.Drivers(), SchemeSQLite) {
		return database{}, notConfigured("sqlite: this build has no SQLite; use one that was built without the tag nosqlite")
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return database{}, notConfigured("sqlite: %w", err)
	}
	f.Close()
	pragmas := url.Values{"_pragma": {"busy_timeout(2000)", "locking_mode(EXCLUSIVE)", "journal_mode(WAL)", "synchronous(FULL)", "secure_delete(ON)"},
		"_txlock": {"immediate"}}
	db, err := sql.Open(SchemeSQLite, "file:"+path+"?"+pragmas.Encode())
	if err != nil {
		return database{}, notConfigured("sqlite: %w", err)
	}
	db.SetMaxOpenConns(1) // it holds the lock
	db.SetMaxIdleConns(1)
	db.SetConnMaxIdleTime(0)
	return database{db, sqliteTables, time.Now}, nil
}

// querier is a database or a transaction.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// storeID returns the store's id and the number of its schema.
func storeID(ctx context.Context, q querier) (id string, schema int, err error) {
	if err = q.QueryRowContext(ctx, `SELECT store_id, schema FROM temporal_seal_meta`).Scan(&id, &schema); err != nil {
		return "", 0, err
	}
	if schema > schemaVersion {
		return "", schema, errNewerSchema()
	}
	return id, schema, nil
}

func (d database) close() error { return d.db.Close() }

// expect is part of backend.
func (d database) expect(ctx context.Context, id string) error { return expect(ctx, d.db, id) }

// expect checks that the store has an id.
func expect(ctx context.Context, q querier, want string) error {
	got, schema, err := storeID(ctx, q)
	switch {
	case crypto.KindOf(err) == crypto.KindNewer:
		return err
	case errors.Is(err, sql.ErrNoRows) || isMissingTable(err):
		return errNoStore()
	case err != nil:
		return unavailable("open key store", err)
	}
	if err := sameStore(got, want); err != nil || schema == schemaVersion {
		return err
	}
	return errOlderSchema()
}

// migrate is part of backend.
func (d database) migrate(ctx context.Context, id string) (changed bool, err error) {
	got, schema, err := storeID(ctx, d.db)
	switch {
	case crypto.KindOf(err) == crypto.KindNewer:
		return false, err
	case errors.Is(err, sql.ErrNoRows) || isMissingTable(err):
		return false, errNoStore()
	case err != nil:
		return false, unavailable("migrate key store", err)
	}
	if err := sameStore(got, id); err != nil || schema == schemaVersion {
		return false, err
	}
	if err := d.addExpiry(ctx); err != nil {
		return false, unavailable("migrate key store", err)
	}
	if _, err := d.db.ExecContext(ctx, d.tables+d.subjectTables()+expiryIndexes); err != nil {
		return false, unavailable("migrate key store", err)
	}
	if _, err := d.db.ExecContext(ctx, `UPDATE temporal_seal_meta SET schema = $1 WHERE schema < $1`, schemaVersion); err != nil {
		return false, unavailable("migrate key store", err)
	}
	return true, nil
}

// warnings is part of backend.
func (d database) warnings(ctx context.Context) (all []string, err error) {
	if d.tables != postgresTables {
		return nil, nil
	}
	var commit, standbys string
	if err := d.db.QueryRowContext(ctx, `SELECT current_setting('synchronous_commit'), current_setting('synchronous_standby_names')`).
		Scan(&commit, &standbys); err != nil {
		return nil, unavailable("read settings", err)
	}
	if commit == "off" || commit == "local" {
		all = append(all, fmt.Sprintf("synchronous_commit is %s: the proxy waits for the disk all the same when it writes a row, "+
			"and what else writes to the database may lose it; set it to on", commit))
	}
	if standbys == "" {
		all = append(all, "synchronous_standby_names is empty: a failover can lose the newest rows, and with them what was sealed by reference to them, "+
			"unless the storage itself is replicated, as with Amazon RDS Multi-AZ or Aurora")
	}
	return all, nil
}

// isMissingTable reports whether a statement failed because the tables were never made.
func isMissingTable(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	return strings.Contains(text, "42P01") || strings.Contains(text, "no such table")
}

// init is part of backend.
func (d database) init(ctx context.Context) (id string, made bool, err error) {
	if id, _, err = storeID(ctx, d.db); err == nil {
		return id, false, nil
	}
	if _, err := d.db.ExecContext(ctx, d.tables+d.subjectTables()+expiryIndexes); err != nil {
		return "", false, unavailable("make key store", err)
	}
	fresh := make([]byte, 16)
	rand.Read(fresh)
	done, err := d.db.ExecContext(ctx, `INSERT INTO temporal_seal_meta (one, store_id, schema) VALUES (1, $1, $2) ON CONFLICT DO NOTHING`,
		hex.EncodeToString(fresh), schemaVersion)
	if err != nil {
		return "", false, unavailable("make key store", err)
	}
	n, err := done.RowsAffected()
	if err == nil {
		id, _, err = storeID(ctx, d.db)
	}
	if err != nil {
		return "", false, unavailable("make key store", err)
	}
	return id, n == 1, nil
}

// selectRows selects keys with their wraps. Those of an expired key are not handed out, also while they are still there, and neither are
// those of a destroyed one that have come back.
const selectRows = `SELECT k.id, k.kind, k.namespace, k.key_name, k.expires, k.expires - $now, k.seal_until - $now, k.destroyed,
	w.kek_ref, COALESCE(w.kek_uri, ''), w.wrapped
FROM temporal_seal_keys k LEFT JOIN temporal_seal_wraps w ON w.id = k.id AND k.destroyed = 0 AND (k.expires = 0 OR k.expires > $now) WHERE `

// get is part of backend.
func (d database) get(ctx context.Context, ids []crypto.KeyID) (rows []crypto.KeyRow, err error) {
	for len(ids) > 0 {
		n := min(len(ids), perQuery)
		marks, args := make([]string, n), make([]any, n)
		for i, id := range ids[:n] {
			marks[i], args[i] = fmt.Sprintf("$%d", i+1), id[:]
		}
		some, _, err := d.query(ctx, selectRows+`k.id IN (`+strings.Join(marks, ", ")+`)`, args...)
		if err != nil {
			return nil, unavailable("keystore.get", err)
		}
		rows, ids = append(rows, slices.DeleteFunc(some, isBroken)...), ids[n:]
	}
	return rows, nil
}

// query returns the rows that a statement selects, and the id of the last one as it is in the database.
func (d database) query(ctx context.Context, statement string, args ...any) (rows []crypto.KeyRow, last []byte, err error) {
	asked := time.Now()
	found, err := d.db.QueryContext(ctx, d.statement(statement), args...)
	if err != nil {
		return nil, nil, err
	}
	defer found.Close()
	for found.Next() {
		var r crypto.KeyRow
		var id, ref []byte
		var expires, openFor, sealFor int64
		var destroyed int
		if err := found.Scan(&id, &r.Kind, &r.Context.Namespace, &r.Context.Key, &expires, &openFor, &sealFor, &destroyed, &ref, &r.KEKURI, &r.Wrapped); err != nil {
			return nil, nil, err
		}
		r.Life = lifeOf(asked, expires, openFor, sealFor, destroyed != 0)
		switch {
		case r.Life.Expired() && ref == nil:
		case len(id) != len(r.ID):
			r.Broken = fmt.Errorf("the id %x of a row of temporal_seal_keys has %d bytes, not %d", id, len(id), len(r.ID))
		case ref == nil:
			r.Broken = errNoWrap
		case len(ref) != len(r.KEK):
			r.Broken = fmt.Errorf("kek_ref of its row in temporal_seal_wraps has %d bytes, not %d", len(ref), len(r.KEK))
		}
		copy(r.ID[:], id)
		copy(r.KEK[:], ref)
		rows, last = append(rows, r), id
	}
	return rows, last, found.Err()
}

// durable has a commit wait until it is on disk, where the database's default is not to wait. It weakens no stronger default.
const durable = `SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') IN ('off', 'local')`

// insert writes the row in one transaction, unless it is there. The transaction checks the store's id: another database may answer
// now than when the process started.
func (d database) insert(ctx context.Context, row *crypto.KeyRow, store string) error {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return unavailable("keystore.put", err)
	}
	defer tx.Rollback() // without effect after the commit
	if err := expect(ctx, tx, store); err != nil {
		return err
	}
	if d.tables == postgresTables {
		if _, err := tx.ExecContext(ctx, durable); err != nil {
			return unavailable("keystore.put", err)
		}
	}
	if err = d.insertInto(ctx, tx, row); err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return unavailable("keystore.put", err)
	}
	return nil
}

// insertInto inserts a row. An expired key gets no wrapped key again; its row is locked first, so that none is left behind by a process
// that destroys it meanwhile. A key that expires is refused to a process that could not destroy it, and while the clocks differ: its end is
// by the store's clock alone, and once that was corrected, both clocks would destroy the key too early.
func (d database) insertInto(ctx context.Context, tx *sql.Tx, row *crypto.KeyRow) error {
	var sealFor, openFor int64
	if l := row.Life.Left(); l != nil {
		sealFor, openFor = l.SealFor.Milliseconds(), max(l.OpenFor.Milliseconds(), 1)
		if err := mayDestroy(ctx, tx); err != nil {
			return err
		}
	}
	made, err := tx.ExecContext(ctx, d.statement(`INSERT INTO temporal_seal_keys (id, kind, namespace, key_name, seal_until, expires)
VALUES ($1, $2, $3, $4, CASE WHEN CAST($6 AS bigint) > 0 THEN $now + CAST($5 AS bigint) ELSE 0 END,
	CASE WHEN CAST($6 AS bigint) > 0 THEN $now + CAST($6 AS bigint) ELSE 0 END) ON CONFLICT DO NOTHING`),
		row.ID[:], int(row.Kind), row.Context.Namespace, row.Context.Key, sealFor, openFor)
	if err != nil {
		return err
	}
	if row.Life != nil {
		if err := d.agrees(ctx, tx, made); err != nil {
			return err
		}
		if _, err := lockRow.exec(ctx, tx, row.ID); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, d.statement(`INSERT INTO temporal_seal_wraps (id, kek_ref, kek_uri, wrapped)
SELECT $1, $2, $3, $4 FROM temporal_seal_keys k WHERE k.id = $1 AND k.destroyed = 0 AND (k.expires = 0 OR k.expires > $now) ON CONFLICT DO NOTHING`),
		row.ID[:], row.KEK[:], row.KEKURI, row.Wrapped)
	return err
}

// agrees returns an error if a row was made that expires and the clocks differ. The transaction is not committed then.
func (d database) agrees(ctx context.Context, tx *sql.Tx, made sql.Result) error {
	n, err := made.RowsAffected()
	if err != nil || n == 0 { // it was there
		return err
	}
	var now int64
	if err := tx.QueryRowContext(ctx, d.statement(`SELECT $now`)).Scan(&now); err != nil {
		return err
	}
	return clocksDiffer("keystore.put", time.UnixMilli(now), d.now())
}

// selectPage selects a page of keys with their wraps, and keys that have none.
var selectPage = selectRows + fmt.Sprintf(`k.id IN (SELECT id FROM temporal_seal_keys
	WHERE id > $1 AND destroyed = 0 AND (expires = 0 OR expires > $now) ORDER BY id LIMIT %d) ORDER BY k.id, w.kek_ref`, pageSize)

// all calls visit for every row, in the order of ids.
func (d database) all(ctx context.Context, visit func(crypto.KeyRow) error) error {
	after := []byte{}
	for {
		rows, last, err := d.query(ctx, selectPage, after)
		if err != nil {
			return unavailable("keystore.all", err)
		}
		if len(rows) == 0 {
			return nil
		}
		for _, r := range rows {
			if r.Life.Expired() {
				continue // meanwhile
			}
			if err := visit(r); err != nil {
				return err
			}
		}
		after = last
	}
}
