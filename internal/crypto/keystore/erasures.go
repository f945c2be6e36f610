package keystore

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// Erase is part of crypto.SubjectStore. Updating the counter first puts all erasures in one order: the next one waits for this
// transaction. The generation that it reserves keeps a process that makes a key for the subject at the same time from storing it.
func (s *Subjects) Erase(ctx context.Context, of []crypto.Erasure) ([]crypto.Erasure, error) {
	done := make([]crypto.Erasure, len(of))
	err := s.writing(ctx, "keystore.erase", func(tx *sql.Tx) error {
		for i, e := range of {
			if err := s.enter(ctx, tx, &e); err != nil {
				return err
			}
			if err := s.reserve(ctx, tx, &e, e.Seq); err != nil {
				return err
			}
			destroyed, err := tx.ExecContext(ctx, `UPDATE temporal_seal_subject_keys SET wrapped = NULL, erased = $1
WHERE index_id = $2 AND tag = $3 AND wrapped IS NOT NULL`, e.Seq, e.Index[:], e.Tag[:])
			if err != nil {
				return err
			}
			n, err := destroyed.RowsAffected()
			if err != nil {
				return err
			}
			e.Keys = int(n)
			done[i] = e
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if s.database.tables == sqliteTables {
		// The log of SQLite has pages from before the erasure until it is emptied.
		var busy, frames, moved int
		if err := s.database.db.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &frames, &moved); err != nil || busy != 0 {
			return done, unavailable("keystore.erase", fmt.Errorf("the keys are destroyed, and the log of SQLite could not be emptied: %w", err))
		}
	}
	return done, nil
}

// Readmit is part of crypto.SubjectStore. It reserves a generation that is not erased, which the next key follows.
func (s *Subjects) Readmit(ctx context.Context, e crypto.Erasure) (crypto.Erasure, error) {
	e.Readmitted = true
	err := s.writing(ctx, "keystore.readmit", func(tx *sql.Tx) error {
		if err := s.enter(ctx, tx, &e); err != nil {
			return err
		}
		return s.reserve(ctx, tx, &e, 0)
	})
	return e, err
}

// enter gives an erasure its number and its time, and writes it down. One that has a number keeps it, if that is higher than all
// others: it is entered again after the store was restored from a backup.
func (s *Subjects) enter(ctx context.Context, tx *sql.Tx, e *crypto.Erasure) error {
	var at int64
	if err := tx.QueryRowContext(ctx, s.database.statement(`UPDATE temporal_seal_meta SET seq = CASE WHEN seq < $1 THEN $1 ELSE seq + 1 END
RETURNING seq, $now`), e.Seq).Scan(&e.Seq, &at); err != nil {
		return err
	}
	if e.At.IsZero() {
		e.At = time.UnixMilli(at).UTC()
	}
	readmitted := 0
	if e.Readmitted {
		readmitted = 1
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO temporal_seal_erasures (seq, namespace, key_name, index_id, tag, at, by_whom, reason, readmitted)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		e.Seq, e.Context.Namespace, e.Context.Key, e.Index[:], e.Tag[:], e.At.UnixMilli(), e.By, e.Reason, readmitted)
	return err
}

// reserve takes the next generation of a subject, so that no process makes a key in its place. seq is the number of the erasure
// that it belongs to; 0: of none.
func (s *Subjects) reserve(ctx context.Context, tx *sql.Tx, e *crypto.Erasure, seq int64) error {
	erased := sql.NullInt64{Int64: seq, Valid: seq != 0}
	for {
		done, err := tx.ExecContext(ctx, s.database.statement(`INSERT INTO temporal_seal_subject_keys (index_id, tag, generation, created, erased)
SELECT $1, $2, COALESCE(MAX(generation), 0) + 1, $now, $3 FROM temporal_seal_subject_keys WHERE index_id = $1 AND tag = $2
ON CONFLICT DO NOTHING`), e.Index[:], e.Tag[:], erased)
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 1 {
			return err
		}
	}
}

// Erasures is part of crypto.SubjectStore. It makes sure each time that the database is the store: a copy from a backup, or another
// database, may answer now.
func (s *Subjects) Erasures(ctx context.Context, from int64) (all []crypto.Erasure, err error) {
	if err := expect(ctx, s.database.db, s.store.id); err != nil {
		return nil, unavailable("keystore.erasures", err)
	}
	err = s.reading(ctx, "keystore.erasures", fmt.Sprintf(`SELECT seq, namespace, key_name, index_id, tag, at, by_whom, reason, readmitted
FROM temporal_seal_erasures WHERE seq >= CASE WHEN $1 < 0 THEN (SELECT COALESCE(MAX(seq), 0) FROM temporal_seal_erasures) ELSE $1 END ORDER BY seq LIMIT %d`, pageSize), func(row *sql.Rows) error {
		var e crypto.Erasure
		var index, tag []byte
		var at int64
		var readmitted int
		if err := row.Scan(&e.Seq, &e.Context.Namespace, &e.Context.Key, &index, &tag, &at, &e.By, &e.Reason, &readmitted); err != nil {
			return err
		}
		if len(index) != len(e.Index) || len(tag) != len(e.Tag) {
			return fmt.Errorf("the erasure %d has an index of %d bytes and a tag of %d", e.Seq, len(index), len(tag))
		}
		e.Index, e.Tag, e.At, e.Readmitted = crypto.KeyID(index), crypto.SubjectTag(tag), time.UnixMilli(at).UTC(), readmitted != 0
		all = append(all, e)
		return nil
	}, from)
	return all, err
}

// Seen is part of crypto.SubjectStore. It forgets replicas that have been silent for a day.
func (s *Subjects) Seen(ctx context.Context, r crypto.ReplicaRow) error {
	d := s.database
	if _, err := d.db.ExecContext(ctx, d.statement(`INSERT INTO temporal_seal_replicas (id, seen, seq, max_lag) VALUES ($1, $now, $2, $3)
ON CONFLICT (id) DO UPDATE SET seen = excluded.seen, seq = excluded.seq, max_lag = excluded.max_lag`), r.ID, r.Seq, r.MaxLag.Milliseconds()); err != nil {
		return unavailable("keystore.seen", err)
	}
	if _, err := d.db.ExecContext(ctx, d.statement(`DELETE FROM temporal_seal_replicas WHERE seen < $now - 86400000`)); err != nil {
		return unavailable("keystore.seen", err)
	}
	return nil
}

// Gone is part of crypto.SubjectStore.
func (s *Subjects) Gone(ctx context.Context, id string) error {
	if _, err := s.database.db.ExecContext(ctx, `DELETE FROM temporal_seal_replicas WHERE id = $1`, id); err != nil {
		return unavailable("keystore.gone", err)
	}
	return nil
}

// Replicas is part of crypto.SubjectStore.
func (s *Subjects) Replicas(ctx context.Context) (all []crypto.ReplicaRow, err error) {
	err = s.reading(ctx, "keystore.replicas", `SELECT id, seq, $now - seen, max_lag FROM temporal_seal_replicas ORDER BY id`, func(row *sql.Rows) error {
		var r crypto.ReplicaRow
		var silent, lag int64
		err := row.Scan(&r.ID, &r.Seq, &silent, &lag)
		r.Silent, r.MaxLag = time.Duration(silent)*time.Millisecond, time.Duration(lag)*time.Millisecond
		all = append(all, r)
		return err
	})
	return all, err
}
