package keystore

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// moto is one AWS emulator for all tests, started when the first needs it.
var moto = sync.OnceValues(func() (endpoint string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	cmd := exec.Command(motoProgram(), "-H", "127.0.0.1", "-p", port)
	if err := cmd.Start(); err != nil {
		return "", err
	}
	stop = append(stop, func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	endpoint = "http://127.0.0.1:" + port
	for range 600 {
		resp, err := http.Get(endpoint + "/moto-api/")
		if err == nil {
			resp.Body.Close()
			return oneByOne(endpoint)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return "", fmt.Errorf("moto does not answer at %s", endpoint)
})

// oneByOne returns the address of a proxy that passes on one call at a time: a transaction that fails in moto takes back what other calls
// have written meanwhile.
func oneByOne(endpoint string) (string, error) {
	behind, err := url.Parse(endpoint)
	if err != nil {
		return "", err
	}
	var one sync.Mutex
	pass := httputil.NewSingleHostReverseProxy(behind)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		one.Lock()
		defer one.Unlock()
		pass.ServeHTTP(w, r)
	}))
	stop = append(stop, server.Close)
	return server.URL, nil
}

// motoProgram is where `go run ./cmd/peers moto` in e2e installs it, or else on the PATH.
func motoProgram() string {
	if cache, err := os.UserCacheDir(); err == nil {
		if found, _ := filepath.Glob(filepath.Join(cache, "temporal-seal", "moto-*", "bin", "moto_server")); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	return "moto_server"
}

// dynamoDB returns the URI of a table that does not exist yet.
func dynamoDB(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath(motoProgram()); err != nil {
		t.Skip("moto is not installed")
	}
	endpoint, err := moto()
	if err != nil {
		t.Fatal(err)
	}
	awsCredentials(t)
	return "dynamodb://keys-" + strings.ToLower(rand.Text()) + "?region=eu-central-1&endpoint=" + endpoint
}

func awsCredentials(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "a secret that is long enough for FIPS 140")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
}

// putAll puts many rows at once.
func putAll(ctx context.Context, s *Store, from, to int) error {
	if b, ok := s.backend.(*table); ok {
		for some := range slices.Chunk(rowNumbers(from, to), 25) { // as many as one request may have
			var writes []types.WriteRequest
			for _, i := range some {
				writes = append(writes, types.WriteRequest{PutRequest: &types.PutRequest{Item: itemOf(new(row(i)))}})
			}
			if _, err := b.client.BatchWriteItem(ctx, &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{*b.name: writes}}); err != nil {
				return err
			}
		}
		return nil
	}
	tx, err := s.backend.(database).db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	for _, i := range rowNumbers(from, to) {
		r := row(i)
		if err := s.backend.(database).insertInto(ctx, tx, &r); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func rowNumbers(from, to int) (all []int) {
	for i := from; i < to; i++ {
		all = append(all, i)
	}
	return all
}

// becomes makes the database another store.
func becomes(t *testing.T, s *Store, id string) {
	t.Helper()
	var err error
	if b, ok := s.backend.(*table); ok {
		_, err = b.client.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{TableName: b.name, Key: key(metaItem),
			UpdateExpression: aws.String("SET store_id = :id"), ExpressionAttributeValues: item{":id": &types.AttributeValueMemberS{Value: id}}})
	} else {
		_, err = s.backend.(database).db.Exec("UPDATE temporal_seal_meta SET store_id = $1", id)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// loseWraps deletes the wraps of some keys, and leaves the keys.
func loseWraps(t *testing.T, s *Store, ids ...crypto.KeyID) {
	t.Helper()
	for _, id := range ids {
		var err error
		if b, ok := s.backend.(*table); ok {
			_, err = b.client.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{TableName: b.name, Key: keyOf(id), UpdateExpression: aws.String("REMOVE wraps")})
		} else {
			_, err = s.backend.(database).db.Exec("DELETE FROM temporal_seal_wraps WHERE id = $1", id[:])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// ids returns the ids of all keys of a store.
func ids(t *testing.T, s *Store) (all []crypto.KeyID) {
	t.Helper()
	if err := s.All(t.Context(), func(r crypto.KeyRow) error {
		all = append(all, r.ID)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// hasSchema changes the number of a store's schema.
func hasSchema(t *testing.T, s *Store, schema int) {
	t.Helper()
	var err error
	if b, ok := s.backend.(*table); ok {
		_, err = b.client.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{TableName: b.name, Key: key(metaItem),
			UpdateExpression: aws.String("SET #schema = :n"), ExpressionAttributeNames: map[string]string{"#schema": attrSchema},
			ExpressionAttributeValues: item{":n": &types.AttributeValueMemberN{Value: strconv.Itoa(schema)}}})
	} else {
		_, err = s.backend.(database).db.Exec("UPDATE temporal_seal_meta SET schema = $1", schema)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// breakRows breaks what a store has: one of two wraps of a key, all wraps of another one, and it adds a key whose id is none.
func breakRows(t *testing.T, s *Store, one, all crypto.KeyID) {
	t.Helper()
	loseWraps(t, s, all)
	if b, ok := s.backend.(*table); ok {
		odd := itemOf(new(row(1)))
		odd[attrPK] = &types.AttributeValueMemberS{Value: keyItem + "00"}
		if _, err := b.client.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: b.name, Item: odd}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.client.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{TableName: b.name, Key: keyOf(one),
			UpdateExpression: aws.String("SET wraps.x = :x"), ExpressionAttributeValues: item{":x": wrapOf(new(row(1)))}}); err != nil {
			t.Fatal(err)
		}
		return
	}
	db := s.backend.(database).db
	for _, id := range [][]byte{one[:], bytes.Repeat([]byte{255}, 17)} {
		if len(id) != len(one) {
			if _, err := db.Exec("INSERT INTO temporal_seal_keys (id, kind, namespace, key_name) VALUES ($1, 0, 'ns', 'default')", id); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := db.Exec("INSERT INTO temporal_seal_wraps (id, kek_ref, kek_uri, wrapped) VALUES ($1, $2, 'x', $1)", id, []byte{1}); err != nil {
			t.Fatal(err)
		}
	}
}
