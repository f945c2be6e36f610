// Package keystore keeps wrapped data keys in a database, so that envelopes by reference name a row in 16 bytes instead of
// carrying their key. It holds wrapped keys alone, and decides nothing: what may be sealed or opened is package keyring's
// concern.
//
// A store has an identity, drawn when it is made, which the configuration pins: an empty or another database in its place
// would be sealed with, and hold none of the keys that envelopes refer to.
package keystore

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"sync/atomic"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// Schemes of the URIs of stores.
const (
	SchemeSQLite   = "sqlite"
	SchemePostgres = "postgres"
)

// NoStoreURI says what the URI of a store looks like.
const NoStoreURI = "is no key store: sqlite:<file>, or postgres://<user>@<host>/<database>?sslmode=verify-full"

// Known reports whether a URI has the scheme of a store.
func Known(uri string) bool {
	scheme, rest, found := strings.Cut(uri, ":")
	return found && rest != "" && (scheme == SchemeSQLite || scheme == SchemePostgres)
}

// IsID reports whether a text has the form of a store's id.
func IsID(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == 16
}

// Store is a crypto.KeyStore. It is the one with its id, or does nothing.
type Store struct {
	database database
	id       string
	verified atomic.Bool
}

// New returns the store of a URI. It does not connect yet: a store that is out of reach at the start is used as soon as it
// answers.
func New(uri, id string) (*Store, error) {
	d, err := open(uri, false)
	return &Store{database: d, id: id}, err
}

// Check makes sure that the database is there and is the store with the id. It asks until it has found it once.
func (s *Store) Check(ctx context.Context) error {
	if s.verified.Load() {
		return nil
	}
	err := expect(ctx, s.database.db, s.id)
	s.verified.Store(err == nil)
	return err
}

// Get is part of crypto.KeyStore. Where the database is not the store, all rows are out of reach, and none is missing.
func (s *Store) Get(ctx context.Context, ids []crypto.KeyID) ([]crypto.KeyRow, error) {
	if err := s.Check(ctx); err != nil {
		return nil, unavailable("keystore.get", err)
	}
	rows, err := s.database.get(ctx, ids)
	found := make(map[crypto.KeyID]bool, len(rows))
	for i := range rows {
		found[rows[i].ID] = true
	}
	if err == nil && len(found) < len(ids) {
		// Another database may answer now than when the process started.
		if err = expect(ctx, s.database.db, s.id); err != nil {
			return nil, unavailable("keystore.get", err)
		}
	}
	return rows, err
}

// Put is part of crypto.KeyStore. The row is read again before it returns: a data key whose row is not known to be stored must not
// be referred to.
func (s *Store) Put(ctx context.Context, row crypto.KeyRow) error {
	if err := s.Check(ctx); err != nil {
		return err
	}
	if err := s.database.insert(ctx, &row, s.id); err != nil {
		return err
	}
	rows, err := s.database.get(ctx, []crypto.KeyID{row.ID})
	if err != nil {
		return err
	}
	for _, r := range rows {
		switch {
		case r.Context != row.Context, r.KEK == row.KEK && string(r.Wrapped) != string(row.Wrapped):
			return row.Context.Errorf(crypto.KindTampered, "keystore.put",
				"the key store has another key under the id %s...; somebody changed it", row.ID.String()[:8])
		case r.KEK == row.KEK:
			return nil
		}
	}
	return unavailable("keystore.put", errors.New("a row that was written is not there"))
}

// All calls visit for every row, in the order of ids, until it returns an error.
func (s *Store) All(ctx context.Context, visit func(crypto.KeyRow) error) error {
	if err := s.Check(ctx); err != nil {
		return err
	}
	return s.database.all(ctx, visit)
}

// Close ends the use of the database.
func (s *Store) Close() error { return s.database.db.Close() }

// Init makes the tables of a store in an empty database, and returns its id. One that has them stays as it is.
func Init(ctx context.Context, uri string) (id string, made bool, err error) {
	d, err := open(uri, true)
	if err != nil {
		return "", false, err
	}
	defer d.db.Close()
	return d.init(ctx)
}

// unavailable makes the error of a store that did not do what it was asked for. The texts of drivers name hosts, so it is
// for the operator's log.
func unavailable(op string, err error) error {
	return crypto.Internalf(crypto.KindUnavailable, op, "the key store: %w", err)
}

func notConfigured(format string, args ...any) error {
	return crypto.Internalf(crypto.KindNotConfigured, "open key store", format, args...)
}
