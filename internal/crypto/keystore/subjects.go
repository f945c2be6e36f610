package keystore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// subjectsSchema are the tables for keys of subjects, where blob stands for the database's type of bytes. Times are in Unix milliseconds by
// the database's clock. A generation without an id was only reserved: by an erasure, or where a subject was readmitted. Which keys are
// erased is for the table of erasures to say: those made before an erasure of their subject. made is the number of the last erasure
// of any subject when the generation was made. So a table of keys that was restored by itself gives no erased key back.
const subjectsSchema = `;
CREATE UNIQUE INDEX IF NOT EXISTS temporal_seal_index_keys ON temporal_seal_keys (namespace, key_name) WHERE kind = 3;
CREATE UNIQUE INDEX IF NOT EXISTS temporal_seal_wrap_keys ON temporal_seal_keys (namespace, key_name, generation) WHERE kind = 2;
CREATE TABLE IF NOT EXISTS temporal_seal_subject_keys (index_id blob NOT NULL, tag blob NOT NULL, generation int NOT NULL, id blob UNIQUE,
	parent blob, wrapped blob, seal_until bigint NOT NULL DEFAULT 0, created bigint NOT NULL, made bigint NOT NULL,
	PRIMARY KEY (index_id, tag, generation));
CREATE TABLE IF NOT EXISTS temporal_seal_erasures (seq bigint PRIMARY KEY, namespace text NOT NULL, key_name text NOT NULL, index_id blob NOT NULL,
	tag blob NOT NULL, at bigint NOT NULL, by_whom text NOT NULL, reason text NOT NULL, readmitted int NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS temporal_seal_erasures_of ON temporal_seal_erasures (index_id, tag, seq);
CREATE TABLE IF NOT EXISTS temporal_seal_replicas (id text PRIMARY KEY, seen bigint NOT NULL, seq bigint NOT NULL, max_lag bigint NOT NULL)`

// subjectTables are the database's tables for keys of subjects.
func (d database) subjectTables() string {
	if d.tables == postgresTables {
		return strings.ReplaceAll(subjectsSchema, " blob", " bytea")
	}
	return subjectsSchema
}

// Subjects is a crypto.SubjectStore: the part of a Store in a SQL database that holds keys of subjects.
type Subjects struct {
	store    *Store
	database database
}

// Subjects returns the part of the store that holds keys of subjects; nil where its backend can hold none.
func (s *Store) Subjects() crypto.SubjectStore {
	switch b := s.backend.(type) {
	case database:
		return &Subjects{s, b}
	case *table:
		return &tableSubjects{items: &subjectItems{s, b}}
	}
	return nil
}

// clock is the expression for the time of a database in Unix milliseconds.
func (d database) clock() string {
	if d.tables == postgresTables {
		return `(extract(epoch FROM clock_timestamp()) * 1000)::bigint`
	}
	return `CAST(unixepoch('subsec') * 1000 AS INTEGER)`
}

// statement puts the expression for the database's time in the place of $now.
func (d database) statement(text string) string { return strings.ReplaceAll(text, "$now", d.clock()) }

// writing calls do in a transaction of the store that is durable once it is committed.
func (s *Subjects) writing(ctx context.Context, op string, do func(tx *sql.Tx) error) error {
	d := s.database
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return unavailable(op, err)
	}
	defer tx.Rollback() // without effect after the commit
	if err := expect(ctx, tx, s.store.id); err != nil {
		return err
	}
	if d.tables == postgresTables {
		if _, err := tx.ExecContext(ctx, durable); err != nil {
			return unavailable(op, err)
		}
	}
	if err = do(tx); err == nil {
		err = tx.Commit()
	}
	if err != nil && crypto.KindOf(err) == crypto.KindUnknown {
		return unavailable(op, err)
	}
	return err
}

// reading calls scan for each row that a statement selects.
func (s *Subjects) reading(ctx context.Context, op, statement string, scan func(row *sql.Rows) error, args ...any) error {
	if err := s.store.Check(ctx); err != nil {
		return unavailable(op, err)
	}
	rows, err := s.database.db.QueryContext(ctx, s.database.statement(statement), args...)
	if err != nil {
		return unavailable(op, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return unavailable(op, err)
		}
	}
	if err := rows.Err(); err != nil {
		return unavailable(op, err)
	}
	return nil
}

const selectParents = `SELECT k.id, k.kind, k.namespace, k.key_name, k.generation, k.seal_until > $now, w.kek_ref, w.kek_uri, w.wrapped
FROM temporal_seal_keys k JOIN temporal_seal_wraps w ON w.id = k.id WHERE k.kind IN (2, 3) AND `

// Parents is part of crypto.SubjectStore.
func (s *Subjects) Parents(ctx context.Context, kc crypto.KeyContext) ([]crypto.ParentRow, error) {
	return s.parents(ctx, selectParents+`k.namespace = $1 AND k.key_name = $2 ORDER BY k.generation DESC, w.kek_ref`, kc.Namespace, kc.Key)
}

// Parent is part of crypto.SubjectStore.
func (s *Subjects) Parent(ctx context.Context, id crypto.KeyID) ([]crypto.ParentRow, error) {
	return s.parents(ctx, selectParents+`k.id = $1 ORDER BY w.kek_ref`, id[:])
}

func (s *Subjects) parents(ctx context.Context, statement string, args ...any) (rows []crypto.ParentRow, err error) {
	err = s.reading(ctx, "keystore.parents", statement, func(row *sql.Rows) error {
		var p crypto.ParentRow
		var id, ref []byte
		if err := row.Scan(&id, &p.Kind, &p.Context.Namespace, &p.Context.Key, &p.Generation, &p.Current, &ref, &p.KEKURI, &p.Wrapped); err != nil {
			return err
		}
		if len(id) != len(p.ID) || len(ref) != len(p.KEK) {
			return fmt.Errorf("a row has an id of %d bytes and a reference of %d", len(id), len(ref))
		}
		p.ID, p.KEK = crypto.KeyID(id), crypto.KEKRef(ref)
		rows = append(rows, p)
		return nil
	}, args...)
	return rows, err
}

// parentLife is how long a wrap key wraps new keys of subjects.
const parentLife = 90 * 24 * time.Hour

// PutParent is part of crypto.SubjectStore.
func (s *Subjects) PutParent(ctx context.Context, p crypto.ParentRow) error {
	return s.writing(ctx, "keystore.put_parent", func(tx *sql.Tx) error {
		until := int64(0)
		if p.Kind == crypto.RowWrap {
			until = parentLife.Milliseconds()
		}
		done, err := tx.ExecContext(ctx, s.database.statement(`INSERT INTO temporal_seal_keys (id, kind, namespace, key_name, generation, seal_until)
VALUES ($1, $2, $3, $4, $5, $now + $6) ON CONFLICT DO NOTHING`), p.ID[:], int(p.Kind), p.Context.Namespace, p.Context.Key, p.Generation, until)
		if err != nil {
			return err
		}
		n, err := done.RowsAffected()
		if err != nil || n == 0 { // another one has its place
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO temporal_seal_wraps (id, kek_ref, kek_uri, wrapped) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			p.ID[:], p.KEK[:], p.KEKURI, p.Wrapped)
		return err
	})
}

const selectSubjectKeys = `SELECT s.id, k.namespace, k.key_name, s.index_id, s.tag, s.generation, s.parent, s.wrapped,
	s.seal_until - $now, s.created, COALESCE(e.seq, 0), COALESCE(e.at, 0)
FROM temporal_seal_subject_keys s JOIN temporal_seal_keys k ON k.id = s.index_id AND k.kind = 3
LEFT JOIN temporal_seal_erasures e ON e.seq = (SELECT MIN(x.seq) FROM temporal_seal_erasures x
	WHERE x.index_id = s.index_id AND x.tag = s.tag AND x.readmitted = 0 AND x.seq > s.made) WHERE `

// SubjectKeys is part of crypto.SubjectStore.
func (s *Subjects) SubjectKeys(ctx context.Context, ids []crypto.KeyID) (rows []crypto.SubjectRow, err error) {
	for len(ids) > 0 {
		n := min(len(ids), perQuery)
		marks, args := make([]string, n), make([]any, n)
		for i, id := range ids[:n] {
			marks[i], args[i] = fmt.Sprintf("$%d", i+1), id[:]
		}
		more, err := s.subjectKeys(ctx, selectSubjectKeys+`s.id IN (`+strings.Join(marks, ", ")+`)`, args...)
		if err != nil {
			return nil, err
		}
		rows, ids = append(rows, more...), ids[n:]
	}
	return rows, nil
}

// Generations is part of crypto.SubjectStore.
func (s *Subjects) Generations(ctx context.Context, index crypto.KeyID, tag crypto.SubjectTag) ([]crypto.SubjectRow, error) {
	return s.subjectKeys(ctx, selectSubjectKeys+`s.index_id = $1 AND s.tag = $2 ORDER BY s.generation DESC`, index[:], tag[:])
}

func (s *Subjects) subjectKeys(ctx context.Context, statement string, args ...any) (rows []crypto.SubjectRow, err error) {
	err = s.reading(ctx, "keystore.subject_keys", statement, func(row *sql.Rows) error {
		r, err := scanSubject(row)
		rows = append(rows, r)
		return err
	}, args...)
	return rows, err
}

func scanSubject(row *sql.Rows) (r crypto.SubjectRow, err error) {
	var id, index, tag, parent []byte
	var sealFor, created, erasedAt int64
	if err := row.Scan(&id, &r.Context.Namespace, &r.Context.Key, &index, &tag, &r.Generation, &parent, &r.Wrapped,
		&sealFor, &created, &r.Erased, &erasedAt); err != nil {
		return r, err
	}
	if len(index) != len(r.Index) || len(tag) != len(r.Tag) || id != nil && len(id) != len(r.ID) || parent != nil && len(parent) != len(r.Parent) {
		return r, fmt.Errorf("a row of a subject has an id of %d bytes, a tag of %d and a parent of %d", len(id), len(tag), len(parent))
	}
	copy(r.ID[:], id)
	copy(r.Parent[:], parent)
	r.Index, r.Tag = crypto.KeyID(index), crypto.SubjectTag(tag)
	r.SealFor, r.Created = time.Duration(sealFor)*time.Millisecond, time.UnixMilli(created).UTC()
	if r.Erased != 0 {
		r.ErasedAt = time.UnixMilli(erasedAt).UTC()
	}
	return r, nil
}

// PutSubjectKey is part of crypto.SubjectStore. The row's SealFor starts now. An erasure that is entered between the two statements
// takes the place of the row.
func (s *Subjects) PutSubjectKey(ctx context.Context, r crypto.SubjectRow) error {
	return s.writing(ctx, "keystore.put_subject_key", func(tx *sql.Tx) error {
		var readmitted int
		err := tx.QueryRowContext(ctx, `SELECT readmitted FROM temporal_seal_erasures WHERE index_id = $1 AND tag = $2 ORDER BY seq DESC LIMIT 1`,
			r.Index[:], r.Tag[:]).Scan(&readmitted)
		switch {
		case err == nil && readmitted == 0:
			return nil
		case err != nil && !errors.Is(err, sql.ErrNoRows):
			return err
		}
		_, err = tx.ExecContext(ctx, s.database.statement(`INSERT INTO temporal_seal_subject_keys
(index_id, tag, generation, id, parent, wrapped, seal_until, created, made)
VALUES ($1, $2, $3, $4, $5, $6, $now + $7, $now, (SELECT seq FROM temporal_seal_meta)) ON CONFLICT DO NOTHING`),
			r.Index[:], r.Tag[:], r.Generation, r.ID[:], r.Parent[:], r.Wrapped, r.SealFor.Milliseconds())
		return err
	})
}

// IndexKeys is part of crypto.SubjectStore.
func (s *Subjects) IndexKeys(ctx context.Context, namespace string) (all []crypto.KeyContext, err error) {
	err = s.reading(ctx, "keystore.index_keys", `SELECT namespace, key_name FROM temporal_seal_keys WHERE kind = 3 AND namespace = $1 ORDER BY key_name`,
		func(row *sql.Rows) error {
			var kc crypto.KeyContext
			err := row.Scan(&kc.Namespace, &kc.Key)
			all = append(all, kc)
			return err
		}, namespace)
	return all, err
}

// LostIndexKeys is part of crypto.SubjectStore.
func (s *Subjects) LostIndexKeys(ctx context.Context) (all []string, err error) {
	named := func(row *sql.Rows) error {
		var namespace, key string
		var id []byte
		if err := row.Scan(&namespace, &key, &id); err != nil {
			return err
		}
		if key != "" {
			all = append(all, fmt.Sprintf("that of key %q in namespace %q", key, namespace))
		} else {
			all = append(all, fmt.Sprintf("%x", id))
		}
		return nil
	}
	err = s.reading(ctx, "keystore.index_keys", `SELECT DISTINCT w.namespace, w.key_name, NULL FROM temporal_seal_keys w WHERE w.kind = 2 AND NOT EXISTS
	(SELECT 1 FROM temporal_seal_keys k WHERE k.kind = 3 AND k.namespace = w.namespace AND k.key_name = w.key_name)`, named)
	if err != nil || len(all) > 0 {
		return all, err
	}
	return all, s.reading(ctx, "keystore.index_keys", `SELECT '', '', o.index_id FROM
	(SELECT index_id FROM temporal_seal_subject_keys UNION SELECT index_id FROM temporal_seal_erasures WHERE key_name <> '') o
WHERE NOT EXISTS (SELECT 1 FROM temporal_seal_keys k WHERE k.id = o.index_id AND k.kind = 3)`, named)
}

// SubjectCounts is part of crypto.SubjectStore.
func (s *Subjects) SubjectCounts(ctx context.Context) (all []crypto.SubjectCount, err error) {
	err = s.reading(ctx, "keystore.subject_counts", `SELECT k.namespace, k.key_name, count(*), COALESCE(sum(t.keys), 0), COALESCE(sum(t.erased), 0)
FROM (SELECT s.index_id, s.tag, count(s.wrapped) AS keys, 1 - COALESCE((SELECT e.readmitted FROM temporal_seal_erasures e
		WHERE e.index_id = s.index_id AND e.tag = s.tag ORDER BY e.seq DESC LIMIT 1), 1) AS erased
	FROM temporal_seal_subject_keys s GROUP BY s.index_id, s.tag) t
JOIN temporal_seal_keys k ON k.id = t.index_id AND k.kind = 3 GROUP BY k.namespace, k.key_name ORDER BY k.namespace, k.key_name`,
		func(row *sql.Rows) error {
			var c crypto.SubjectCount
			err := row.Scan(&c.Context.Namespace, &c.Context.Key, &c.Subjects, &c.Keys, &c.Erased)
			all = append(all, c)
			return err
		})
	return all, err
}

// AllSubjectKeys is part of crypto.SubjectStore.
func (s *Subjects) AllSubjectKeys(ctx context.Context, visit func(crypto.SubjectRow) error) error {
	after := []byte{}
	for {
		rows, err := s.subjectKeys(ctx, selectSubjectKeys+fmt.Sprintf(`s.id > $1 AND (s.wrapped IS NOT NULL OR e.seq IS NULL) ORDER BY s.id LIMIT %d`, pageSize), after)
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, r := range rows {
			if err := visit(r); err != nil {
				return err
			}
		}
		last := rows[len(rows)-1].ID
		after = last[:]
	}
}
