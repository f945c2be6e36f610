package keystore

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// These change keys that expire as somebody with access to the database can.

// sqlExec executes a statement in a SQL database.
func sqlExec(t *testing.T, s *Store, statement string, args ...any) {
	t.Helper()
	if _, err := s.backend.(database).db.Exec(statement, args...); err != nil {
		t.Fatal(err)
	}
}

// changeItems changes the items of all keys that have an end or were destroyed.
func changeItems(t *testing.T, s *Store, change func(it item)) {
	t.Helper()
	b := s.backend.(*table)
	out, err := b.client.Scan(t.Context(), &dynamodb.ScanInput{TableName: b.name, ConsistentRead: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range out.Items {
		if it[attrExpires] == nil && it[attrDestroyed] == nil {
			continue
		}
		change(it)
		if _, err := b.client.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: b.name, Item: it}); err != nil {
			t.Fatal(err)
		}
	}
	s.ends.last.read = time.Time{} // as an hour later
}

func isTable(s *Store) bool {
	_, ok := s.backend.(*table)
	return ok
}

// endAt sets the end of keys: of these, or of all that have one.
func endAt(t *testing.T, s *Store, at time.Time, ids ...crypto.KeyID) {
	t.Helper()
	if isTable(s) {
		changeItems(t, s, func(it item) {
			if id := rowsOf(it)[0].ID; len(ids) == 0 || slices.Contains(ids, id) {
				it[attrExpires] = millis(at)
			}
		})
		return
	}
	if len(ids) == 0 {
		sqlExec(t, s, "UPDATE temporal_seal_keys SET expires = $1 WHERE expires > 0", at.UnixMilli())
	}
	for _, id := range ids {
		sqlExec(t, s, "UPDATE temporal_seal_keys SET expires = $1 WHERE id = $2", at.UnixMilli(), id[:])
	}
}

// moveEnds moves the times of all keys that have an end.
func moveEnds(t *testing.T, s *Store, by time.Duration) {
	t.Helper()
	if isTable(s) {
		changeItems(t, s, func(it item) {
			for _, attr := range []string{attrExpires, attrSealUntil} {
				it[attr] = &types.AttributeValueMemberN{Value: strconv.FormatInt(millisOf(it[attr])+by.Milliseconds(), 10)}
			}
		})
		return
	}
	sqlExec(t, s, "UPDATE temporal_seal_keys SET seal_until = seal_until + $1, expires = expires + $1 WHERE expires > 0", by.Milliseconds())
}

// forgetDestroyed takes back that keys were destroyed.
func forgetDestroyed(t *testing.T, s *Store) {
	t.Helper()
	if isTable(s) {
		changeItems(t, s, func(it item) { delete(it, attrDestroyed) })
		return
	}
	sqlExec(t, s, "UPDATE temporal_seal_keys SET destroyed = 0")
}

// returnWrap brings the wrapped key of a row back.
func returnWrap(t *testing.T, s *Store, r crypto.KeyRow) {
	t.Helper()
	if isTable(s) {
		changeItems(t, s, func(it item) {
			if rowsOf(it)[0].ID == r.ID {
				it[attrWraps] = itemOf(&r)[attrWraps]
			}
		})
		return
	}
	sqlExec(t, s, "INSERT INTO temporal_seal_wraps (id, kek_ref, kek_uri, wrapped) VALUES ($1, $2, $3, $4)", r.ID[:], r.KEK[:], r.KEKURI, r.Wrapped)
}

// setClock sets the clock of the process.
func setClock(x crypto.ExpiryStore, by time.Duration) {
	now := func() time.Time { return time.Now().Add(by) }
	switch x := x.(type) {
	case *expiry:
		x.now = now
	case *tableExpiry:
		x.now = now
	}
}

// setOwnClock sets the clock by which a store compares where it makes keys.
func setOwnClock(s *Store, by time.Duration) {
	now := func() time.Time { return time.Now().Add(by) }
	switch b := s.backend.(type) {
	case database:
		b.now = now
		s.backend = b
	case *table:
		b.now = now
	}
}

// wraps returns how many wrapped keys there are.
func wraps(t *testing.T, s *Store) (n int) {
	t.Helper()
	if b, ok := s.backend.(*table); ok {
		out, err := b.client.Scan(t.Context(), &dynamodb.ScanInput{TableName: b.name, ConsistentRead: aws.Bool(true)})
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range out.Items {
			n += len(wrapsOf(it))
		}
		return n
	}
	if err := s.backend.(database).db.QueryRow("SELECT count(*) FROM temporal_seal_wraps").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// putExpiring puts n rows that expire at once.
func putExpiring(t *testing.T, s *Store, n int) {
	t.Helper()
	if b, ok := s.backend.(*table); ok {
		for some := range slices.Chunk(rowNumbers(0, n), 25) {
			var writes []types.WriteRequest
			for _, i := range some {
				r := expiring(i)
				it := item{attrExpires: millis(time.Now().Add(r.Life.OpenFor)), attrSealUntil: millis(time.Now().Add(r.Life.SealFor))}
				maps.Copy(it, itemOf(&r))
				writes = append(writes, types.WriteRequest{PutRequest: &types.PutRequest{Item: it}})
			}
			if _, err := b.client.BatchWriteItem(t.Context(), &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{*b.name: writes}}); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	tx, err := s.backend.(database).db.BeginTx(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		r := expiring(i)
		if err := s.backend.(database).insertInto(t.Context(), tx, &r); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}
