// Package keystore keeps wrapped data keys in a database, so that envelopes by reference name a row in 16 bytes instead of
// carrying their key. It holds wrapped keys alone, and decides nothing: what may be sealed or opened is package keyring's
// concern.
//
// A store has an identity, drawn when it is made, which the configuration pins. Else the proxy would seal with an empty or
// wrong database, which lacks the keys that envelopes refer to.
//
// Where does a new key store go?
//
//  1. Here: its scheme, in Known and NoStoreURI (keystore.go) and in open (sql.go), and a backend in a file of its own, as
//     dynamodb.go. What a store has to promise is in internal/crypto/store.go, what a backend does beside the interface
//     backend. Another SQL database may be a database (sql.go): look for each place that compares d.tables. A large client
//     gets a build tag, as in sqlite.go.
//  2. Its keys of subjects and its keys that expire: a crypto.SubjectStore and a crypto.ExpiryStore (internal/crypto/subject.go,
//     life.go), with a case in Store.Subjects (subjects.go) and Store.Expiry (expiry.go). A store without them has no case, and
//     the config has to refuse it where keys need them (NoSubjects and the checks of life in internal/config/keys.go).
//  3. imports_test.go: the home of the client library.
//  4. What users read: the comment of `url` in internal/config/keys.go (then `make config-docs`), the help and what an erasure
//     leaves in cmd/proxy (keystore init; remains in subjects_erase.go), keyStore in the chart's values.yaml, docs/keys.md,
//     docs/erasure.md; then `make snapshots ACCEPT=...`.
//  5. Tests: a line in stores (keystore_test.go) with its server in peers_test.go, so that each test runs on it too; a database
//     in e2e/erasure; `make test-keystore test-erasure`.
//
// Files:
//
//	keystore.go  Store, and the interface of its backends
//	sql.go       PostgreSQL and SQLite: tables and rows; sqlite.go: SQLite's driver, which a build tag leaves out
//	dynamodb.go  a table in DynamoDB
//	subjects.go  keys of subjects; erasures.go: their erasures, and the replicas that have to learn of them; both in DynamoDB:
//	             dynamodb_subjects.go, dynamodb_erasures.go
//	expiry.go    data keys that expire; dynamodb_expiry.go: in DynamoDB
//	export.go    all rows to a file and back
package keystore

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// Schemes of the URIs of stores.
const (
	SchemeSQLite   = "sqlite"
	SchemePostgres = "postgres"
	SchemeDynamoDB = "dynamodb"
)

// NoStoreURI says what the URI of a store looks like.
const NoStoreURI = "is not a key store; write sqlite:<file>, postgres://<user>@<host>/<database>?sslmode=verify-full, or dynamodb://<table>?region=<region>"

// Known reports whether a URI has the scheme of a store.
func Known(uri string) bool {
	scheme, rest, found := strings.Cut(uri, ":")
	if scheme == SchemeDynamoDB {
		_, _, err := checkDynamoDB(rest)
		return err == nil
	}
	return found && rest != "" && (scheme == SchemeSQLite || scheme == SchemePostgres)
}

// IsID reports whether a text has the form of a store's id.
func IsID(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == 16
}

// backend is what keeps the rows: a SQL database or a DynamoDB table.
type backend interface {
	// init makes the store where there is none, and returns its id.
	init(ctx context.Context) (id string, made bool, err error)
	// expect returns an error unless it is the store with an id.
	expect(ctx context.Context, id string) error
	// get returns the rows of some ids. Broken ones are left out: others of the same ids may be good.
	get(ctx context.Context, ids []crypto.KeyID) ([]crypto.KeyRow, error)
	// insert writes a row, unless one with its id and key encryption key is there, and unless it is another store than the
	// one with an id.
	insert(ctx context.Context, row *crypto.KeyRow, store string) error
	// all calls visit for every row, as crypto.KeyStore's All does.
	all(ctx context.Context, visit func(crypto.KeyRow) error) error
	// migrate brings the store with an id to this release's schema.
	migrate(ctx context.Context, id string) (changed bool, err error)
	// warnings returns by what settings rows can get lost.
	warnings(ctx context.Context) ([]string, error)
	close() error
}

// Store is a crypto.KeyStore. It is the one with its id, or does nothing.
type Store struct {
	backend  backend
	id       string
	verified atomic.Bool
	emptied  atomic.Bool // SQLite's log, since the last key was destroyed at the end of its life
	ends     ends        // of keys in DynamoDB
}

// New returns the store of a URI. It does not connect yet: a store that is out of reach at the start is used as soon as it
// answers.
func New(uri, id string) (*Store, error) {
	b, err := open(uri, false)
	return &Store{backend: b, id: id}, err
}

// Check makes sure that the database is there and is the store with the id. It asks until it has found it once.
func (s *Store) Check(ctx context.Context) error {
	if s.verified.Load() {
		return nil
	}
	err := s.backend.expect(ctx, s.id)
	s.verified.Store(err == nil)
	return err
}

// Get is part of crypto.KeyStore. Where the database is not the store, all rows are out of reach, and none is missing.
func (s *Store) Get(ctx context.Context, ids []crypto.KeyID) ([]crypto.KeyRow, error) {
	if err := s.Check(ctx); err != nil {
		return nil, unavailable("keystore.get", err)
	}
	rows, err := s.backend.get(ctx, ids)
	if err != nil && crypto.KindOf(err) != crypto.KindUnavailable { // such as a table that is being restored
		err = unavailable("keystore.get", err)
	}
	if err != nil {
		return nil, err
	}
	rows = slices.DeleteFunc(rows, func(r crypto.KeyRow) bool { return r.Kind != 0 }) // envelopes name data keys alone
	found := make(map[crypto.KeyID]bool, len(rows))
	for i := range rows {
		found[rows[i].ID] = true
	}
	if len(found) < len(ids) {
		// Another database may answer now than when the process started.
		if err = s.backend.expect(ctx, s.id); err != nil {
			return nil, unavailable("keystore.get", err)
		}
	}
	return rows, nil
}

// Put is part of crypto.KeyStore. The row is read again before it returns: a data key whose row is not known to be stored must not
// be referred to.
func (s *Store) Put(ctx context.Context, row crypto.KeyRow) error {
	if err := s.Check(ctx); err != nil {
		return err
	}
	if err := s.backend.insert(ctx, &row, s.id); err != nil {
		return err
	}
	rows, err := s.backend.get(ctx, []crypto.KeyID{row.ID})
	if err != nil {
		return err
	}
	for _, r := range rows {
		switch {
		case r.Life.Expired():
			return row.Context.Errorf(crypto.KindExpired, "keystore.put", "the life of the key %s... ended on %s",
				row.ID.String()[:8], r.Life.End.Format(time.DateOnly))
		case r.Context != row.Context, r.KEK == row.KEK && string(r.Wrapped) != string(row.Wrapped):
			return row.Context.Errorf(crypto.KindTampered, "keystore.put",
				"the key store has another key under the id %s...; somebody changed it", row.ID.String()[:8])
		case r.KEK == row.KEK:
			if row.Life != nil {
				*row.Life = *row.Life.Earlier(r.Life)
			}
			return nil
		}
	}
	return unavailable("keystore.put", errors.New("a row that was written is not there"))
}

// All is part of crypto.KeyStore.
func (s *Store) All(ctx context.Context, visit func(crypto.KeyRow) error) error {
	if err := s.Check(ctx); err != nil {
		return err
	}
	return s.backend.all(ctx, visit)
}

// Ping is part of crypto.KeyStore.
func (s *Store) Ping(ctx context.Context) error { return s.backend.expect(ctx, s.id) }

// Migrate brings the store to the schema of this release, and reports whether that changed anything. It refuses a store that a newer
// release has made.
func (s *Store) Migrate(ctx context.Context) (changed bool, err error) {
	return s.backend.migrate(ctx, s.id)
}

// Warnings returns the settings of the database by which rows can get lost that it has confirmed.
func (s *Store) Warnings(ctx context.Context) ([]string, error) { return s.backend.warnings(ctx) }

// Close ends the use of the database.
func (s *Store) Close() error { return s.backend.close() }

// Init makes the tables of a store in an empty database, or a DynamoDB table, and returns its id. One that is a store stays as it is.
func Init(ctx context.Context, uri string) (id string, made bool, err error) {
	b, err := open(uri, true)
	if err != nil {
		return "", false, err
	}
	defer b.close()
	return b.init(ctx)
}

// unavailable makes the error of a store that did not do what it was asked for. The texts of drivers name hosts, so it is
// for the operator's log.
func unavailable(op string, err error) error {
	return crypto.Internalf(crypto.KindUnavailable, op, "the key store: %w", err)
}

// errNoWrap: the row has no wrapped key, so it cannot be used.
var errNoWrap = errors.New("its wrapped key is missing")

func isBroken(r crypto.KeyRow) bool { return r.Broken != nil }

func notConfigured(format string, args ...any) error {
	return crypto.Internalf(crypto.KindNotConfigured, "open key store", format, args...)
}

func errNoStore() error {
	return notConfigured("the database has no key store; make one with: temporal-seal keystore init")
}

func errOlderSchema() error {
	return notConfigured("an earlier release made this key store; run: temporal-seal keystore migrate --config <file>")
}

func errNewerSchema() error {
	return crypto.Internalf(crypto.KindNewer, "open key store", "a newer release made this key store; upgrade this proxy")
}

func sameStore(got, want string) error {
	if got == want {
		return nil
	}
	return notConfigured("the database contains the key store %s, and key_store.id is %s: envelopes refer to keys that this one does not have", got, want)
}
