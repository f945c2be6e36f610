package keystore

import (
	"context"
	"database/sql"
	"errors"
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
			if err := s.reserve(ctx, tx, &e, e.Seq-1); err != nil {
				return err
			}
			destroyed, err := destroy(ctx, tx, `index_id = $1 AND tag = $2 AND made < $3`, e.Index[:], e.Tag[:], e.Seq)
			if err != nil {
				return err
			}
			e.Destroyed = destroyed
			done[i] = e
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return done, s.database.emptyLog(ctx)
}

// destroy destroys the keys of subjects that a condition selects, and returns their ids.
func destroy(ctx context.Context, tx *sql.Tx, condition string, args ...any) (ids []crypto.KeyID, err error) {
	rows, err := tx.QueryContext(ctx, `UPDATE temporal_seal_subject_keys SET wrapped = NULL WHERE wrapped IS NOT NULL AND `+condition+` RETURNING id`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id []byte
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		var of crypto.KeyID
		copy(of[:], id)
		ids = append(ids, of)
	}
	return ids, rows.Err()
}

// emptyLog empties the log of SQLite, which has pages from before an erasure.
func (d database) emptyLog(ctx context.Context) error {
	if d.tables != sqliteTables {
		return nil
	}
	var busy, frames, moved int
	err := d.db.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &frames, &moved)
	if err == nil && busy != 0 {
		err = errors.New("another process reads it")
	}
	if err != nil {
		return unavailable("keystore.erase", fmt.Errorf("the keys are destroyed, and the log of SQLite could not be emptied: %w", err))
	}
	return nil
}

// DestroyErased is part of crypto.SubjectStore.
func (s *Subjects) DestroyErased(ctx context.Context) (ids []crypto.KeyID, err error) {
	err = s.writing(ctx, "keystore.erase", func(tx *sql.Tx) (err error) {
		ids, err = destroy(ctx, tx, `EXISTS (SELECT 1 FROM temporal_seal_erasures e WHERE e.index_id = temporal_seal_subject_keys.index_id
	AND e.tag = temporal_seal_subject_keys.tag AND e.readmitted = 0 AND e.seq > temporal_seal_subject_keys.made)`)
		return err
	})
	if err != nil {
		return nil, err
	}
	return ids, s.database.emptyLog(ctx)
}

// Readmit is part of crypto.SubjectStore. It reserves a generation that is not erased, which the next key follows.
func (s *Subjects) Readmit(ctx context.Context, of crypto.Erasure) (done crypto.Erasure, err error) {
	of.Readmitted = true
	err = s.writing(ctx, "keystore.readmit", func(tx *sql.Tx) error {
		done = of
		if err := s.enter(ctx, tx, &done); err != nil {
			return err
		}
		return s.reserve(ctx, tx, &done, done.Seq)
	})
	if err != nil {
		return crypto.Erasure{}, err
	}
	return done, nil
}

// EnterLost is part of crypto.SubjectStore.
func (s *Subjects) EnterLost(ctx context.Context, e crypto.Erasure) error {
	return s.writing(ctx, "keystore.erase", func(tx *sql.Tx) error { return s.enter(ctx, tx, &e) })
}

// enter gives an erasure its number and its time, and writes it down. One that has a number keeps it, if no other has it: it is entered
// again after the store was restored from a backup.
func (s *Subjects) enter(ctx context.Context, tx *sql.Tx, e *crypto.Erasure) error {
	var last, at int64
	var taken bool
	// The update holds the row until the end of the transaction.
	if err := tx.QueryRowContext(ctx, s.database.statement(`UPDATE temporal_seal_meta SET seq = seq RETURNING seq, $now`)).Scan(&last, &at); err != nil {
		return err
	}
	if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM temporal_seal_erasures WHERE seq = $1)`, e.Seq).Scan(&taken); err != nil {
		return err
	}
	if e.Seq == 0 || taken {
		e.Seq = last + 1
	}
	if _, err := tx.ExecContext(ctx, `UPDATE temporal_seal_meta SET seq = $1 WHERE seq < $1`, e.Seq); err != nil {
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

// reserve takes the next generation of a subject, so that no process makes a key in its place. The generation counts as made after
// the erasure with the number made. An erasure that fills a gap before a later one of the same subject reserves nothing.
func (s *Subjects) reserve(ctx context.Context, tx *sql.Tx, e *crypto.Erasure, made int64) error {
	var later bool
	if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM temporal_seal_erasures WHERE index_id = $1 AND tag = $2 AND seq > $3)`,
		e.Index[:], e.Tag[:], e.Seq).Scan(&later); err != nil || later {
		return err
	}
	for {
		done, err := tx.ExecContext(ctx, s.database.statement(`INSERT INTO temporal_seal_subject_keys (index_id, tag, generation, created, made)
SELECT $1, $2, COALESCE(MAX(generation), 0) + 1, $now, $3 FROM temporal_seal_subject_keys WHERE index_id = $1 AND tag = $2
ON CONFLICT DO NOTHING`), e.Index[:], e.Tag[:], made)
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 1 {
			return err
		}
	}
}

// ErasureCounts is part of crypto.SubjectStore. It is one statement, so that an erasure shows in all numbers or in none.
func (s *Subjects) ErasureCounts(ctx context.Context) (c crypto.ErasureCounts, err error) {
	err = s.reading(ctx, "keystore.erasures", `SELECT m.seq, (SELECT COALESCE(MAX(seq), 0) FROM temporal_seal_erasures),
	(SELECT count(*) FROM temporal_seal_erasures), (SELECT COALESCE(MAX(seq), 0) FROM temporal_seal_replicas) FROM temporal_seal_meta m`,
		func(row *sql.Rows) error { return row.Scan(&c.Counter, &c.Last, &c.Entries, &c.Seen) })
	return c, err
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

// Seen is part of crypto.SubjectStore. It forgets replicas that have been silent for a day, unless
// they have seen an erasure that the store lacks.
func (s *Subjects) Seen(ctx context.Context, r crypto.ReplicaRow) error {
	d := s.database
	if _, err := d.db.ExecContext(ctx, d.statement(`INSERT INTO temporal_seal_replicas (id, seen, seq, max_lag) VALUES ($1, $now, $2, $3)
ON CONFLICT (id) DO UPDATE SET seen = excluded.seen, seq = excluded.seq, max_lag = excluded.max_lag`), r.ID, r.Seq, r.MaxLag.Milliseconds()); err != nil {
		return unavailable("keystore.seen", err)
	}
	if _, err := d.db.ExecContext(ctx, d.statement(`DELETE FROM temporal_seal_replicas WHERE seen < $now - 86400000
AND seq <= (SELECT seq FROM temporal_seal_meta)`)); err != nil {
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
