package crypto

import "context"

// KeyRow is a data key as a key store has it: what it is for, and its wrapped form under one key encryption key.
type KeyRow struct {
	ID      KeyID
	Kind    uint8 // 0: a data key; see RowWrap and RowIndex
	Context KeyContext
	KEK     KEKRef
	KEKURI  string // for people
	Wrapped []byte
	Life    *KeyLife // nil: the key does not expire
	Broken  error    // why nothing can be opened by this row; KeyStore.All visits such rows as well
}

// KeyStore is a database with wrapped data keys, which envelopes by reference name. Its errors are *Error: KindUnavailable for what may
// pass by itself, KindNotConfigured for a database that is not the store that the configuration names, KindTampered for a
// row that is not what it should be. Implementations are safe for concurrent use.
type KeyStore interface {
	// Get returns the rows of some ids, one for each key encryption key that wrapped them. Ids that the store does not have
	// are left out. It asks once for all of them. A key that has expired has one row, without a wrapped key.
	Get(ctx context.Context, ids []KeyID) ([]KeyRow, error)
	// Put makes sure that the store has a row. The life that row.Life points to becomes that of the row in the store, where this one ends
	// earlier. A key whose life is over by the store's clock is KindExpired.
	Put(ctx context.Context, row KeyRow) error
	// All calls visit for every row of every kind, until it returns an error. The rows of an id come one after the other. A row that
	// cannot be read, and a key that has no wrapped key, are visited as well, with the reason in Broken. Keys that have expired are left
	// out.
	All(ctx context.Context, visit func(KeyRow) error) error
	// Ping asks whether the database answers and is the store.
	Ping(ctx context.Context) error
	// Close ends the use of the database.
	Close() error
}
