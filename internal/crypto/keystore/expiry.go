package keystore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// perSweep is how many expired keys are destroyed in one transaction.
const perSweep = 100

// expiryIndexes are for the questions which keys have to be destroyed, where rows of destroyed ones stay for good, and whether there are
// keys of a name that do not expire, and such that do; and whether destroyed ones have come back.
const expiryIndexes = `;
CREATE INDEX IF NOT EXISTS temporal_seal_expiring ON temporal_seal_keys (expires) WHERE expires > 0 AND destroyed = 0;
CREATE INDEX IF NOT EXISTS temporal_seal_endless ON temporal_seal_keys (namespace, key_name) WHERE kind = 0 AND expires = 0;
CREATE INDEX IF NOT EXISTS temporal_seal_with_end ON temporal_seal_keys (namespace, key_name) WHERE kind = 0 AND expires > 0;
CREATE INDEX IF NOT EXISTS temporal_seal_destroyed ON temporal_seal_keys (id) WHERE destroyed = 1`

// addExpiry adds the columns that a store of schema 1 lacks.
func (d database) addExpiry(ctx context.Context) error {
	for _, column := range []string{"expires bigint NOT NULL DEFAULT 0", "destroyed int NOT NULL DEFAULT 0"} {
		if d.tables == postgresTables {
			column = "IF NOT EXISTS " + column
		} else {
			var there bool
			if err := d.db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM pragma_table_info('temporal_seal_keys')
WHERE $1 LIKE name || ' %')`, column).Scan(&there); err != nil {
				return err
			}
			if there {
				continue
			}
		}
		if _, err := d.db.ExecContext(ctx, `ALTER TABLE temporal_seal_keys ADD COLUMN `+column); err != nil {
			return err
		}
	}
	return nil
}

// lifeOf returns the life of a key by the columns of its row, in milliseconds; nil if it does not expire.
func lifeOf(asked time.Time, expires, openFor, sealFor int64, destroyed bool) *crypto.KeyLife {
	if expires == 0 && !destroyed {
		return nil
	}
	return &crypto.KeyLife{Read: asked, SealFor: time.Duration(sealFor) * time.Millisecond,
		OpenFor: time.Duration(openFor) * time.Millisecond, End: time.UnixMilli(expires).UTC(), Destroyed: destroyed}
}

// Expiry returns the part of the store whose data keys may expire; nil where its backend has none.
func (s *Store) Expiry() crypto.ExpiryStore {
	switch b := s.backend.(type) {
	case database:
		return &expiry{on: Subjects{s, b}, now: b.now}
	case *table:
		return &tableExpiry{store: s, table: b, now: b.now}
	}
	return nil
}

// expiry is a crypto.ExpiryStore. It works on the database as the part for keys of subjects does.
type expiry struct {
	on  Subjects
	now func() time.Time // by this process's clock
}

// maxClockDifference is by how much the clocks of the store and of this machine may differ where keys that expire are made or destroyed.
const maxClockDifference = 5 * time.Minute

// dueKeys is the condition of keys that have to be destroyed: their life is over by the store's clock and by this process's, which is the
// first parameter. One clock that is set wrong destroys none too early.
const dueKeys = `expires > 0 AND destroyed = 0 AND expires <= $now AND expires <= $1`

// DestroyExpired is part of crypto.ExpiryStore. It empties the log of SQLite until that has succeeded after the last key was destroyed, and
// once in a process, since another one may have ended in between.
func (e *expiry) DestroyExpired(ctx context.Context) (destroyed []crypto.ExpiredKey, more bool, err error) {
	return e.emptying(ctx, e.destroyDue)
}

// DestroyReturned is part of crypto.ExpiryStore.
func (e *expiry) DestroyReturned(ctx context.Context) (destroyed []crypto.ExpiredKey, more bool, err error) {
	return e.emptying(ctx, e.destroyReturned)
}

// emptying destroys keys, and empties the log of SQLite.
func (e *expiry) emptying(
	ctx context.Context, destroy func(context.Context) ([]crypto.ExpiredKey, error),
) (destroyed []crypto.ExpiredKey, more bool, err error) {
	emptied := &e.on.store.emptied
	if destroyed, err = destroy(ctx); err != nil {
		return nil, false, err
	}
	if len(destroyed) > 0 {
		emptied.Store(false)
	}
	if !emptied.Load() {
		err = e.on.database.emptyLog(ctx)
		emptied.Store(err == nil)
	}
	return destroyed, len(destroyed) == perSweep, err
}

// destroyDue destroys some keys that are due. Marking them first locks their rows. Nothing is written unless a key is due: where none
// expires, the proxy needs no right to.
func (e *expiry) destroyDue(ctx context.Context) (destroyed []crypto.ExpiredKey, err error) {
	d := e.on.database
	own := e.now()
	if due, err := e.areDue(ctx, own); err != nil || !due {
		return nil, err
	}
	err = e.on.writing(ctx, "keystore.expire", func(tx *sql.Tx) error {
		destroyed, err = queryKeys(ctx, tx, d.statement(`UPDATE temporal_seal_keys SET destroyed = 1 WHERE destroyed = 0 AND id IN
(SELECT id FROM temporal_seal_keys WHERE `+dueKeys+` ORDER BY expires LIMIT $2)
RETURNING id, namespace, key_name, expires`), own.UnixMilli(), perSweep)
		if err != nil {
			return lacks(lockRow.grant, err)
		}
		_, err = destroyWraps(ctx, tx, destroyed)
		return err
	})
	if err != nil {
		return nil, err // the transaction is not committed
	}
	return destroyed, nil
}

// returnedKeys selects keys that were destroyed and whose wrapped key is there.
const returnedKeys = `SELECT k.id, k.namespace, k.key_name, k.expires FROM temporal_seal_keys k
WHERE k.destroyed = 1 AND EXISTS (SELECT 1 FROM temporal_seal_wraps w WHERE w.id = k.id)`

// destroyReturned destroys some keys again that were destroyed and have come back.
func (e *expiry) destroyReturned(ctx context.Context) (destroyed []crypto.ExpiredKey, err error) {
	var some bool
	if err := e.on.reading(ctx, "keystore.expire", `SELECT EXISTS (`+returnedKeys+`)`,
		func(row *sql.Rows) error { return row.Scan(&some) }); err != nil || !some {
		return nil, err
	}
	err = e.on.writing(ctx, "keystore.expire", func(tx *sql.Tx) error {
		found, err := queryKeys(ctx, tx, returnedKeys+` LIMIT $1`, perSweep)
		if err != nil {
			return err
		}
		done, err := destroyWraps(ctx, tx, found)
		// Another process has destroyed the others.
		destroyed = slices.DeleteFunc(found, func(key crypto.ExpiredKey) bool { return !done[key.ID] })
		return err
	})
	if err != nil {
		return nil, err
	}
	return destroyed, nil
}

// destroyWraps deletes the wrapped keys of some keys, and returns the ids of those that it has deleted. It returns an error if one is still
// there: a trigger, a rule or row-level security can have a DELETE delete nothing, without an error.
func destroyWraps(ctx context.Context, tx *sql.Tx, keys []crypto.ExpiredKey) (done map[crypto.KeyID]bool, err error) {
	if len(keys) == 0 {
		return nil, nil
	}
	marks, args := make([]string, len(keys)), make([]any, len(keys))
	for i := range keys {
		marks[i], args[i] = fmt.Sprintf("$%d", i+1), keys[i].ID[:]
	}
	of := ` FROM temporal_seal_wraps WHERE id IN (` + strings.Join(marks, ", ") + `)`
	rows, err := tx.QueryContext(ctx, `DELETE`+of+` RETURNING id`, args...)
	if err != nil {
		return nil, lacks(deleteWraps.grant, err)
	}
	defer rows.Close()
	done = map[crypto.KeyID]bool{}
	for rows.Next() {
		var raw []byte
		if err := rows.Scan(&raw); err != nil {
			return nil, err
		}
		var id crypto.KeyID
		copy(id[:], raw)
		done[id] = true
	}
	if err := rows.Err(); err != nil {
		return nil, lacks(deleteWraps.grant, err)
	}
	var left int
	if err := tx.QueryRowContext(ctx, `SELECT count(*)`+of, args...).Scan(&left); err != nil {
		return nil, err
	}
	if left > 0 {
		return nil, fmt.Errorf("%d wrapped keys are still in temporal_seal_wraps after a DELETE without an error, so no key counts as destroyed; "+
			"remove the trigger, the rule or the policy of row-level security that keeps them there", left)
	}
	return done, nil
}

// Orphans returns how many wrapped keys have no row that says what they are for. They open nothing, and are never destroyed, since nothing
// shows when they have to be. In DynamoDB a key and its row are one item.
func (s *Store) Orphans(ctx context.Context) (n int, err error) {
	d, ok := s.backend.(database)
	if !ok {
		return 0, nil
	}
	if err := d.db.QueryRowContext(ctx, `SELECT count(*) FROM temporal_seal_wraps w
WHERE NOT EXISTS (SELECT 1 FROM temporal_seal_keys k WHERE k.id = w.id)`).Scan(&n); err != nil {
		return 0, unavailable("keystore.orphans", err)
	}
	return n, nil
}

// right is a statement about a key that destroying it needs, and what the owner of the tables has to grant for it.
type right struct{ statement, grant string }

var (
	lockRow     = right{`UPDATE temporal_seal_keys SET destroyed = destroyed WHERE id = $1`, "UPDATE (destroyed) ON temporal_seal_keys"}
	deleteWraps = right{`DELETE FROM temporal_seal_wraps WHERE id = $1`, "DELETE ON temporal_seal_wraps"}
)

func (r right) exec(ctx context.Context, tx *sql.Tx, id crypto.KeyID) (sql.Result, error) {
	done, err := tx.ExecContext(ctx, r.statement, id[:])
	return done, lacks(r.grant, err)
}

// lacks returns the error of a statement. If the database's role has no right to it, the error says what to grant.
func lacks(grant string, err error) error {
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "42501" {
		return fmt.Errorf("%w; as the owner of the tables: GRANT %s TO its role: %w", crypto.ErrMayNotDestroy, grant, err)
	}
	return err
}

// mayDestroy executes the statements that destroy a key, for one that does not exist: its id is all zeros.
func mayDestroy(ctx context.Context, tx *sql.Tx) error {
	for _, r := range []right{lockRow, deleteWraps} {
		if _, err := r.exec(ctx, tx, crypto.KeyID{}); err != nil {
			return err
		}
	}
	return nil
}

// MayDestroy is part of crypto.ExpiryStore.
func (e *expiry) MayDestroy(ctx context.Context) error {
	return e.on.writing(ctx, "keystore.expire", func(tx *sql.Tx) error { return mayDestroy(ctx, tx) })
}

// areDue reports whether there are keys that have to be destroyed. It returns an error if there are keys that expire, destroyed ones too, and
// the clocks differ: this process may have some of them in memory.
func (e *expiry) areDue(ctx context.Context, own time.Time) (due bool, err error) {
	var some bool
	var now int64
	err = e.on.reading(ctx, "keystore.expire", `SELECT EXISTS (SELECT 1 FROM temporal_seal_keys WHERE kind = 0 AND expires > 0),
	EXISTS (SELECT 1 FROM temporal_seal_keys WHERE `+dueKeys+`), $now`,
		func(row *sql.Rows) error { return row.Scan(&some, &due, &now) }, own.UnixMilli())
	if err != nil || !some {
		return false, err
	}
	return due, clocksDiffer("keystore.expire", time.UnixMilli(now), own)
}

// clocksDiffer returns an error if the time by the store's clock and that by the clock of this process differ by minutes.
func clocksDiffer(op string, now, own time.Time) error {
	if now.Sub(own).Abs() <= maxClockDifference {
		return nil
	}
	return crypto.Internalf(crypto.KindUnavailable, op, "the clock of the key store shows %s and that of this machine %s: %w",
		now.UTC().Format(time.RFC3339), own.UTC().Format(time.RFC3339), crypto.ErrClocksDiffer)
}

// queryKeys returns the keys that a statement returns.
func queryKeys(ctx context.Context, tx *sql.Tx, statement string, args ...any) (keys []crypto.ExpiredKey, err error) {
	rows, err := tx.QueryContext(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var k crypto.ExpiredKey
		var id []byte
		var end int64
		if err := rows.Scan(&id, &k.Context.Namespace, &k.Context.Key, &end); err != nil {
			return nil, err
		}
		copy(k.ID[:], id)
		k.End = time.UnixMilli(end).UTC()
		keys = append(keys, k)
	}
	return keys, rows.Err()
}

// Has is part of crypto.ExpiryStore.
func (e *expiry) Has(ctx context.Context, kc crypto.KeyContext) (endless, expiring bool, err error) {
	err = e.on.reading(ctx, "keystore.lives", `SELECT
	EXISTS (SELECT 1 FROM temporal_seal_keys WHERE kind = 0 AND expires = 0 AND namespace = $1 AND key_name = $2),
	EXISTS (SELECT 1 FROM temporal_seal_keys WHERE kind = 0 AND expires > 0 AND namespace = $1 AND key_name = $2)`,
		func(row *sql.Rows) error { return row.Scan(&endless, &expiring) }, kc.Namespace, kc.Key)
	return endless, expiring, err
}

// selectLives counts keys; $late is when a key was due at the latest that is overdue now, by the store's clock, and the first parameter the
// same by the clock of this process.
const selectLives = `SELECT namespace, key_name, sum(endless), sum(expiring), sum(expired), sum(overdue), COALESCE(min(next), 0)
FROM (SELECT k.namespace, k.key_name,
	CASE WHEN k.expires = 0 THEN 1 ELSE 0 END AS endless,
	CASE WHEN k.expires > $now AND k.destroyed = 0 THEN 1 ELSE 0 END AS expiring,
	CASE WHEN k.destroyed = 1 OR k.expires > 0 AND k.expires <= $now THEN 1 ELSE 0 END AS expired,
	CASE WHEN (k.destroyed = 1 OR k.expires > 0 AND (k.expires <= $late OR k.expires <= $1))
		AND EXISTS (SELECT 1 FROM temporal_seal_wraps w WHERE w.id = k.id) THEN 1 ELSE 0 END AS overdue,
	CASE WHEN k.expires > $now AND k.destroyed = 0 THEN k.expires END AS next
FROM temporal_seal_keys k WHERE k.kind = 0 AND $which) t GROUP BY namespace, key_name ORDER BY namespace, key_name`

// Lives is part of crypto.ExpiryStore.
func (e *expiry) Lives(ctx context.Context, all bool) (lives []crypto.KeyLives, err error) {
	// As the indexes; the second part are keys that have come back, of which the wraps are the shorter list.
	which := `k.id IN (SELECT id FROM temporal_seal_keys WHERE expires > 0 AND destroyed = 0 UNION ALL
	SELECT id FROM temporal_seal_keys WHERE destroyed = 1 AND id IN (SELECT id FROM temporal_seal_wraps))`
	if all {
		which = "1 = 1"
	}
	statement := strings.NewReplacer("$late", fmt.Sprintf("($now - %d)", crypto.OverdueAfter.Milliseconds()), "$which", which).Replace(selectLives)
	err = e.on.reading(ctx, "keystore.lives", statement, func(row *sql.Rows) error {
		var l crypto.KeyLives
		var next int64
		err := row.Scan(&l.Context.Namespace, &l.Context.Key, &l.Endless, &l.Expiring, &l.Expired, &l.Overdue, &next)
		if next > 0 {
			l.Next = time.UnixMilli(next).UTC()
		}
		lives = append(lives, l)
		return err
	}, e.now().Add(-crypto.OverdueAfter).UnixMilli())
	return lives, err
}
