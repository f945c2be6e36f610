package keystore

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// between stands between a client and moto. It passes calls on, unless answer returns an answer of its own, or nil.
type between struct {
	mu     sync.Mutex
	calls  map[string]int
	hidden atomic.Bool // the header Date of answers
	answer func(op string, call int, body map[string]any) (status int, answer any)
}

// dynamoDBWith returns the URI of a table of which a test answers some calls in DynamoDB's place: what moto never answers.
func dynamoDBWith(t *testing.T) (uri string, b *between) {
	t.Helper()
	uri = dynamoDB(t)
	endpoint, err := moto()
	if err != nil {
		t.Fatal(err)
	}
	behind, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	b = &between{calls: map[string]int{}}
	pass := httputil.NewSingleHostReverseProxy(behind)
	pass.ModifyResponse = func(resp *http.Response) error {
		if b.hidden.Load() {
			resp.Header.Del("Date")
		}
		return nil
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.hidden.Load() {
			w.Header()["Date"] = nil // or the server would add it
		}
		raw, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(raw))
		var body map[string]any
		_ = json.Unmarshal(raw, &body)
		_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		b.mu.Lock()
		b.calls[op]++
		call, answer := b.calls[op], b.answer
		b.mu.Unlock()
		if answer != nil {
			if status, out := answer(op, call, body); out != nil {
				w.Header().Set("Content-Type", "application/x-amz-json-1.0")
				w.WriteHeader(status)
				_ = json.NewEncoder(w).Encode(out)
				return
			}
		}
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return strings.Replace(uri, endpoint, server.URL, 1), b
}

// answers has calls answered by a function from now on, and counts them anew.
func (b *between) answers(answer func(op string, call int, body map[string]any) (int, any)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.calls)
	b.answer = answer
}

func (b *between) count(op string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls[op]
}

// TestDynamoDBLeavesItemsOut: DynamoDB may return fewer items than it was asked for, and names those that are left.
func TestDynamoDBLeavesItemsOut(t *testing.T) {
	uri, b := dynamoDBWith(t)
	s := newStore(t, uri)
	if err := putAll(t.Context(), s, 0, 3); err != nil {
		t.Fatal(err)
	}
	all := ids(t, s)
	b.answers(func(op string, call int, body map[string]any) (int, any) {
		if op != "BatchGetItem" {
			return 0, nil
		}
		for _, of := range body["RequestItems"].(map[string]any) {
			if of.(map[string]any)["ConsistentRead"] != true {
				t.Error("a read that may be behind what was written")
			}
		}
		if call == 1 {
			return http.StatusOK, map[string]any{"Responses": map[string]any{}, "UnprocessedKeys": body["RequestItems"]}
		}
		return 0, nil
	})
	if rows, err := s.Get(t.Context(), all); err != nil || len(rows) != 3 || b.count("BatchGetItem") != 2 {
		t.Errorf("%d rows after %d calls, error %v", len(rows), b.count("BatchGetItem"), err)
	}
	b.answers(func(op string, _ int, body map[string]any) (int, any) {
		if op != "BatchGetItem" {
			return 0, nil
		}
		return http.StatusOK, map[string]any{"Responses": map[string]any{}, "UnprocessedKeys": body["RequestItems"]}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if rows, err := s.Get(ctx, all); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("DynamoDB leaves all out for good: %d rows, error %v", len(rows), err)
	}
}

// TestDynamoDBWritesOnce: a write that meets another one is tried again; one that the service refuses is not.
func TestDynamoDBWritesOnce(t *testing.T) {
	uri, b := dynamoDBWith(t)
	s := newStore(t, uri)
	refuse := func(code string, times int) {
		b.answers(func(op string, call int, _ map[string]any) (int, any) {
			if op != "PutItem" || call > times {
				return 0, nil
			}
			return http.StatusBadRequest, map[string]any{"__type": "com.amazonaws.dynamodb.v20120810#" + code, "message": "no"}
		})
	}
	refuse("ConditionalCheckFailedException", 2)
	if err := s.Put(t.Context(), row(1)); err != nil || b.count("PutItem") != 3 {
		t.Errorf("two conflicts: %d tries, error %v", b.count("PutItem"), err)
	}
	refuse("ItemCollectionSizeLimitExceededException", 100)
	if err := s.Put(t.Context(), row(2)); crypto.KindOf(err) != crypto.KindUnavailable || b.count("PutItem") != 1 {
		t.Errorf("refused for good: %d tries, error %v", b.count("PutItem"), err)
	}
	refuse("TransactionConflictException", 1000)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Put(ctx, row(2)); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("conflicts without end: %v", err)
	}
	second := row(1) // another wrap of the key that is there
	second.KEK = crypto.KEKRef{8}
	b.answers(func(op string, _ int, _ map[string]any) (int, any) {
		if op != "UpdateItem" {
			return 0, nil
		}
		return http.StatusBadRequest, map[string]any{"__type": "com.amazonaws.dynamodb.v20120810#AccessDeniedException", "message": "no"}
	})
	if err := s.Put(t.Context(), second); crypto.KindOf(err) != crypto.KindUnavailable || b.count("UpdateItem") != 1 {
		t.Errorf("another wrap is refused: %d tries, error %v", b.count("UpdateItem"), err)
	}
	b.answers(nil)
	if err := s.Put(t.Context(), row(1)); err != nil || b.count("PutItem") != 0 {
		t.Errorf("a row that is there was written %d times, error %v", b.count("PutItem"), err)
	}
	for _, op := range []string{"GetItem", "PutItem", "Scan", "BatchGetItem"} {
		b.answers(func(is string, _ int, _ map[string]any) (int, any) {
			if is != op {
				return 0, nil
			}
			return http.StatusBadRequest, map[string]any{"__type": "com.amazonaws.dynamodb.v20120810#AccessDeniedException", "message": "no"}
		})
		err := s.Put(t.Context(), row(3))
		if op == "Scan" {
			err = s.All(t.Context(), func(crypto.KeyRow) error { return nil })
		}
		if crypto.KindOf(err) != crypto.KindUnavailable || !strings.Contains(err.Error(), "AccessDenied") {
			t.Errorf("%s is denied: %v", op, err)
		}
	}
}

// TestDynamoDBItems: what is no item of a store is refused, and nothing is taken for a row that is none.
func TestDynamoDBItems(t *testing.T) {
	uri := dynamoDB(t)
	s := newStore(t, uri)
	b := s.backend.(*table)
	put := func(it item) {
		t.Helper()
		if _, err := b.client.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: b.name, Item: it}); err != nil {
			t.Fatal(err)
		}
	}
	put(key("s#of a subject"))
	other := row(7)
	other.Kind = crypto.RowWrap
	put(itemOf(&other))
	if rows, err := s.Get(t.Context(), []crypto.KeyID{other.ID}); err != nil || len(rows) != 0 {
		t.Errorf("a wrap key is taken for a data key: %v, error %v", rows, err)
	}
	if n := ids(t, s); len(n) != 1 {
		t.Errorf("%d keys beside an item that is none: %v", len(n), n)
	}
	for what, change := range map[string]func(it item){
		"the id":        func(it item) { maps.Copy(it, key(keyItem+"00")) },
		"the kind":      func(it item) { delete(it, attrKind) },
		"the reference": func(it item) { it[attrWraps] = &types.AttributeValueMemberM{Value: item{"x": wrapOf(new(row(1)))}} },
		"the wrap": func(it item) {
			it[attrWraps] = &types.AttributeValueMemberM{Value: item{row(1).KEK.String(): it[attrKind]}}
		},
	} {
		it := itemOf(new(row(1)))
		change(it)
		if rows := rowsOf(it); len(rows) != 1 || rows[0].Broken == nil {
			t.Errorf("%s is broken: %v", what, rows)
		}
	}
	if _, err := b.client.CreateTable(t.Context(), &dynamodb.CreateTableInput{TableName: aws.String(*b.name + "-other"), BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("id"), AttributeType: types.ScalarAttributeTypeS}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("id"), KeyType: types.KeyTypeHash}}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Init(t.Context(), strings.Replace(uri, *b.name, *b.name+"-other", 1)); crypto.KindOf(err) != crypto.KindNotConfigured {
		t.Errorf("a table with another key: %v", err)
	}
	meta := key(metaItem)
	meta[attrStore] = &types.AttributeValueMemberS{Value: s.id}
	meta[attrSchema] = &types.AttributeValueMemberN{Value: strconv.Itoa(schemaVersion + 1)}
	put(meta)
	if err := s.Put(t.Context(), row(1)); crypto.KindOf(err) != crypto.KindNewer {
		t.Errorf("a store that a newer release made: %v", err)
	}
}

// TestDynamoDBChecksTheStoreWhileItWrites: the table may become another store between the check and the write.
func TestDynamoDBChecksTheStoreWhileItWrites(t *testing.T) {
	uri, b := dynamoDBWith(t)
	s := newStore(t, uri)
	b.answers(func(op string, _ int, _ map[string]any) (int, any) {
		if op == "PutItem" {
			direct := openStore(t, uri, s.id)
			becomes(t, direct, "another")
		}
		return 0, nil
	})
	if err := s.Put(t.Context(), row(1)); crypto.KindOf(err) != crypto.KindNotConfigured {
		t.Errorf("%v", err)
	}
	b.answers(nil)
	if err := s.Put(t.Context(), row(2)); crypto.KindOf(err) != crypto.KindNotConfigured || b.count("PutItem") != 0 {
		t.Errorf("another store got %d rows, error %v", b.count("PutItem"), err)
	}
}

// TestDynamoDBInsertsDoNotMeet: replicas insert rows at the same time, and no two requests write or check the same item, of which
// DynamoDB would refuse one. The emulator refuses none, so the test does.
func TestDynamoDBInsertsDoNotMeet(t *testing.T) {
	uri, b := dynamoDBWith(t)
	first := newStore(t, uri)
	if err := first.Put(t.Context(), row(10)); err != nil { // the first key of the name
		t.Fatal(err)
	}
	var mu sync.Mutex
	busy, refused := map[string]bool{}, 0
	b.answers(func(op string, _ int, body map[string]any) (int, any) {
		if op != "PutItem" && op != "UpdateItem" && op != "TransactWriteItems" {
			return 0, nil
		}
		items := itemsOf(body)
		mu.Lock()
		for _, pk := range items {
			if busy[pk] {
				refused++
				mu.Unlock()
				return http.StatusBadRequest, map[string]any{"__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
					"CancellationReasons": []any{map[string]any{"Code": "TransactionConflict"}}}
			}
		}
		for _, pk := range items {
			busy[pk] = true
		}
		mu.Unlock()
		time.Sleep(100 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		for _, pk := range items {
			delete(busy, pk)
		}
		return 0, nil
	})
	var wg sync.WaitGroup
	for i := range 10 {
		s := openStore(t, uri, first.id)
		wg.Go(func() {
			if err := s.Put(t.Context(), row(i)); err != nil {
				t.Errorf("replica %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if refused > 0 {
		t.Errorf("DynamoDB would have refused %d writes of 10 replicas", refused)
	}
}

// itemsOf returns the keys of the items that a request names.
func itemsOf(v any) (all []string) {
	switch v := v.(type) {
	case map[string]any:
		if pk, ok := v[attrPK].(map[string]any); ok {
			all = append(all, pk["S"].(string))
		}
		for _, part := range v {
			all = append(all, itemsOf(part)...)
		}
	case []any:
		for _, part := range v {
			all = append(all, itemsOf(part)...)
		}
	}
	return all
}

// TestDynamoDBErasesInTwoSteps: once an erasure is entered, no key of the subject is used or made, also if the process that erases ends
// before it has destroyed the keys. The next one destroys them.
func TestDynamoDBErasesInTwoSteps(t *testing.T) {
	uri, b := dynamoDBWith(t)
	s, ctx := newSubjects(t, uri), t.Context()
	in := index(t, s)
	first := subjectRow(in, 1, 1)
	if err := s.PutSubjectKey(ctx, first); err != nil {
		t.Fatal(err)
	}
	erasure := []crypto.Erasure{{Context: clinic, Index: in, Tag: first.Tag, By: "dpo", Reason: "ticket 7"}}
	direct := openStore(t, uri, s.store.id).Subjects().(*tableSubjects)
	b.answers(func(op string, call int, _ map[string]any) (int, any) {
		if op == "TransactWriteItems" && call == 1 { // what makes a key has read its items
			if _, err := direct.items.enter(ctx, "keystore.erase", erasure); err != nil {
				t.Error(err)
			}
		}
		return 0, nil
	})
	if err := s.PutSubjectKey(ctx, subjectRow(in, 1, 2)); err != nil {
		t.Fatal(err)
	}
	rows, err := s.Generations(ctx, in, first.Tag)
	if err != nil || len(rows) != 1 || rows[0].Erased != 1 || rows[0].Wrapped == nil {
		t.Errorf("while a key was made: %+v, error %v", rows, err)
	}
	b.answers(func(op string, call int, _ map[string]any) (int, any) {
		if op == "TransactWriteItems" && call > 1 {
			return http.StatusBadRequest, map[string]any{"__type": "com.amazonaws.dynamodb.v20120810#AccessDeniedException", "message": "no"}
		}
		return 0, nil
	})
	done, err := s.Erase(ctx, erasure)
	if crypto.KindOf(err) != crypto.KindUnavailable || !strings.Contains(err.Error(), "number 2 is entered and in force") ||
		len(done) != 1 || done[0].Seq != 2 || len(done[0].Destroyed) != 0 {
		t.Errorf("the second step fails: %+v, error %v", done, err)
	}
	b.answers(nil)
	done, err = s.Erase(ctx, erasure)
	if err != nil || len(done) != 1 || done[0].Seq != 3 || len(done[0].Destroyed) != 1 || done[0].Destroyed[0] != first.ID {
		t.Errorf("%+v, error %v", done, err)
	}
	for _, it := range s.scan(t, "") {
		for name, value := range it {
			if strings.Contains(text(value), hex.EncodeToString(first.Wrapped)) {
				t.Errorf("the wrapped key is still in %s of %s", name, text(it[attrPK]))
			}
		}
	}
	b.answers(func(op string, call int, _ map[string]any) (int, any) {
		if op == "TransactWriteItems" && call > 1 {
			return http.StatusBadRequest, map[string]any{"__type": "com.amazonaws.dynamodb.v20120810#AccessDeniedException", "message": "no"}
		}
		return 0, nil
	})
	if e, err := s.Readmit(ctx, erasure[0]); err == nil || e.Seq != 4 || !e.Readmitted {
		t.Errorf("the second step of a readmission fails: %+v, error %v", e, err)
	}
	b.answers(nil)
	many := make([]crypto.Erasure, maxErasedAtOnce+1)
	if _, err := s.Erase(ctx, many); crypto.KindOf(err) != crypto.KindNotConfigured || !strings.Contains(err.Error(), "--key") {
		t.Errorf("more key names than one transaction takes: %v", err)
	}
	if _, err := s.Erase(ctx, many[1:]); err == nil { // all of one subject, which DynamoDB refuses
		t.Error("a transaction that changes an item twice")
	}
}

// TestDynamoDBHistoriesAreRestored: the histories of subjects and their keys come back from before an erasure whose entry is there. Whoever looks
// at all keys writes the erasure back, so that the key is out of use and destroyed.
func TestDynamoDBHistoriesAreRestored(t *testing.T) {
	uri, _ := dynamoDBWith(t)
	s, ctx := newSubjects(t, uri), t.Context()
	in := index(t, s)
	erased, back, other := subjectRow(in, 1, 1), subjectRow(in, 2, 1), subjectRow(in, 3, 1)
	for _, r := range []crypto.SubjectRow{erased, back, other} {
		if err := s.PutSubjectKey(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	restore, _ := s.backup(t)
	for _, r := range []crypto.SubjectRow{erased, back} {
		if _, err := s.Erase(ctx, []crypto.Erasure{{Context: clinic, Index: in, Tag: r.Tag}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Readmit(ctx, crypto.Erasure{Context: clinic, Index: in, Tag: back.Tag}); err != nil {
		t.Fatal(err)
	}
	if err := s.EnterLost(ctx, crypto.Erasure{Reason: "of nobody"}); err != nil {
		t.Fatal(err)
	}
	again := func() {
		restore()
		s.lose(t, s.scan(t, historyItem)...)
	}
	again()
	seen := map[crypto.KeyID]bool{}
	if err := s.AllSubjectKeys(ctx, func(r crypto.SubjectRow) error {
		seen[r.ID] = true
		if (r.Erased == 0) != (r.ID == other.ID) {
			t.Errorf("a look at all keys shows %+v", r)
		}
		return nil
	}); err != nil || len(seen) != 3 {
		t.Errorf("%d keys, error %v", len(seen), err)
	}
	again()
	ids, err := s.DestroyErased(ctx)
	if err != nil || len(ids) != 2 || slices.Contains(ids, other.ID) {
		t.Errorf("destroyed %v, error %v", ids, err)
	}
	for tag, readmitted := range map[crypto.SubjectTag]bool{erased.Tag: false, back.Tag: true} {
		if err := s.PutSubjectKey(ctx, subjectRow(in, tag[0], 5)); err != nil {
			t.Fatal(err)
		}
		rows, err := s.Generations(ctx, in, tag)
		if err != nil || (rows[0].Generation == 5) != readmitted || readmitted && rows[0].Erased != 0 {
			t.Errorf("the subject %v has %+v, error %v", tag, rows, err)
		}
	}
	if ids, err := s.DestroyErased(ctx); err != nil || len(ids) != 0 {
		t.Errorf("destroyed again %v, error %v", ids, err)
	}
}

// TestDynamoDBSubjectsFail: whatever DynamoDB refuses, and an item that is broken, is an error that holds tasks, and never looks like a
// subject without keys or erasures.
func TestDynamoDBSubjectsFail(t *testing.T) {
	uri, b := dynamoDBWith(t)
	s, ctx := newSubjects(t, uri), t.Context()
	in := index(t, s)
	of := subjectRow(in, 1, 1)
	if err := s.PutSubjectKey(ctx, of); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Erase(ctx, []crypto.Erasure{{Context: clinic, Index: in, Tag: crypto.SubjectTag{2}}}); err != nil {
		t.Fatal(err)
	}
	other := parent(crypto.RowWrap, 1, 1)
	reads := map[string]func() error{
		"Parents":       func() error { _, err := s.Parents(ctx, clinic); return err },
		"SubjectKeys":   func() error { _, err := s.SubjectKeys(ctx, []crypto.KeyID{of.ID}); return err },
		"Generations":   func() error { _, err := s.Generations(ctx, in, of.Tag); return err },
		"ErasureCounts": func() error { _, err := s.ErasureCounts(ctx); return err },
		"Erasures":      func() error { _, err := s.Erasures(ctx, 1); return err },
		"the last one":  func() error { _, err := s.Erasures(ctx, -1); return err },
		"IndexKeys":     func() error { _, err := s.IndexKeys(ctx, clinic.Namespace); return err },
		"LostIndexKeys": func() error { _, err := s.LostIndexKeys(ctx); return err },
		"Counts":        func() error { _, err := s.SubjectCounts(ctx); return err },
		"AllKeys":       func() error { return s.AllSubjectKeys(ctx, func(crypto.SubjectRow) error { return nil }) },
		"PutSubjectKey": func() error { return s.PutSubjectKey(ctx, subjectRow(in, 1, 2)) },
		"PutParent":     func() error { return s.PutParent(ctx, other) },
		"Readmit": func() error {
			_, err := s.Readmit(ctx, crypto.Erasure{Context: clinic, Index: in, Tag: of.Tag})
			return err
		},
		"DestroyErased": func() error { _, err := s.DestroyErased(ctx); return err },
	}
	calls := maps.Clone(reads)
	calls["Replicas"] = func() error { _, err := s.Replicas(ctx); return err }
	calls["Seen"] = func() error { return s.Seen(ctx, crypto.ReplicaRow{ID: "a"}) }
	calls["Gone"] = func() error { return s.Gone(ctx, "a") }
	calls["Parent"] = func() error { _, err := s.Parent(ctx, in); return err }
	calls["EnterLost"] = func() error { return s.EnterLost(ctx, crypto.Erasure{Seq: 9}) }
	for what, call := range calls {
		failed := 0
		for n := 1; ; n++ { // each of the requests that the call makes, in turn
			requests := 0
			b.answers(func(string, int, map[string]any) (int, any) {
				if requests++; requests == n {
					return http.StatusBadRequest, map[string]any{"__type": "com.amazonaws.dynamodb.v20120810#AccessDeniedException", "message": "no"}
				}
				return 0, nil
			})
			err := call()
			if requests < n {
				break
			}
			if failed++; crypto.KindOf(err) != crypto.KindUnavailable || !strings.Contains(err.Error(), "AccessDenied") {
				t.Errorf("%s, request %d is denied: %v", what, n, err)
			}
		}
		b.answers(nil)
		if failed == 0 {
			t.Errorf("%s makes no request", what)
		}
	}
	for _, it := range s.scan(t, "") {
		if it[attrDoc] != nil {
			it[attrDoc] = &types.AttributeValueMemberS{Value: "{"}
			s.put(t, it)
		}
	}
	for what, read := range reads {
		if err := read(); what != "ErasureCounts" && crypto.KindOf(err) != crypto.KindUnavailable {
			t.Errorf("%s with broken items: %v", what, err)
		}
	}
	meta := s.scan(t, metaItem)[0]
	meta[attrSeq] = &types.AttributeValueMemberS{Value: "many"}
	s.put(t, meta)
	if _, err := s.ErasureCounts(ctx); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("a counter that is no number: %v", err)
	}
}

// TestDynamoDBCountsErasuresAgain: a replica that has found all entries of erasures looks at the new ones alone, for a while.
func TestDynamoDBCountsErasuresAgain(t *testing.T) {
	s, ctx := newSubjects(t, dynamoDB(t)), t.Context()
	in := index(t, s)
	for n := range byte(3) {
		if _, err := s.Erase(ctx, []crypto.Erasure{{Context: clinic, Index: in, Tag: crypto.SubjectTag{n}}}); err != nil {
			t.Fatal(err)
		}
		if c, err := s.ErasureCounts(ctx); err != nil || !c.Whole() || c.Entries != int64(n)+1 {
			t.Errorf("%+v, error %v", c, err)
		}
	}
	s.loseErasure(t, 1)
	if c, err := s.ErasureCounts(ctx); err != nil || !c.Whole() {
		t.Errorf("an entry that was there lately is looked for again: %+v, error %v", c, err)
	}
	s.SubjectStore.(*tableSubjects).wholeAt = time.Now().Add(-2 * countEvery)
	if c, err := s.ErasureCounts(ctx); err != nil || c.Whole() {
		t.Errorf("a lost entry is never found: %+v, error %v", c, err)
	}
	if c, err := s.ErasureCounts(ctx); err != nil || c.Whole() {
		t.Errorf("the second look forgets it: %+v, error %v", c, err)
	}
	s.loseErasure(t, 3)
	if all, err := s.Erasures(ctx, -1); err != nil || len(all) != 1 || all[0].Seq != 2 {
		t.Errorf("the last entry: %+v, error %v", all, err)
	}
}

// TestTableThatGoesAwayIsOutOfReach: a table that is deleted or being restored while the process runs holds tasks. It must not end
// them, as a store that is not there at the start ends the start.
func TestTableThatGoesAwayIsOutOfReach(t *testing.T) {
	uri := dynamoDB(t)
	s := newStore(t, uri)
	if err := s.Put(t.Context(), row(1)); err != nil {
		t.Fatal(err)
	}
	table := s.backend.(*table)
	if _, err := table.client.UpdateTable(t.Context(), &dynamodb.UpdateTableInput{TableName: table.name, DeletionProtectionEnabled: aws.Bool(false)}); err != nil {
		t.Fatal(err)
	}
	if _, err := table.client.DeleteTable(t.Context(), &dynamodb.DeleteTableInput{TableName: table.name}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), []crypto.KeyID{row(1).ID}); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("error %v", err)
	}
}

// TestDynamoDBMayDestroy: no key is made that expires by a process that lacks a permission to destroy it.
func TestDynamoDBMayDestroy(t *testing.T) {
	uri, b := dynamoDBWith(t)
	s := newStore(t, uri)
	for action, op := range map[string]string{"dynamodb:UpdateItem": "UpdateItem", "dynamodb:Scan": "Scan"} {
		b.answers(func(is string, _ int, _ map[string]any) (int, any) {
			if is != op {
				return 0, nil
			}
			return http.StatusBadRequest, map[string]any{"__type": "com.amazonaws.dynamodb.v20120810#AccessDeniedException", "message": "no"}
		})
		for what, err := range map[string]error{"a key is made": s.Put(t.Context(), expiring(1)), "the rights": s.Expiry().MayDestroy(t.Context())} {
			if crypto.KindOf(err) != crypto.KindUnavailable || !errors.Is(err, crypto.ErrMayNotDestroy) || !strings.Contains(err.Error(), "allow "+action) {
				t.Errorf("%s without %s: %v", what, action, err)
			}
		}
		b.answers(nil)
		if n := ids(t, s); len(n) != 0 {
			t.Errorf("a key is in the table that this process cannot destroy: %v", n)
		}
	}
	if err := s.Put(t.Context(), expiring(1)); err != nil {
		t.Error(err)
	}
}

// TestDynamoDBEndIsAskedAgain: what is destroyed is for the item to say, at the time of the write, and not for the list of an hour ago.
func TestDynamoDBEndIsAskedAgain(t *testing.T) {
	uri := dynamoDB(t)
	s := newStore(t, uri)
	for n := range 3 {
		if err := s.Put(t.Context(), expiring(n)); err != nil {
			t.Fatal(err)
		}
	}
	endAll(t, s)
	if lives, err := s.Expiry().Lives(t.Context(), false); err != nil || len(lives) != 1 || lives[0].Overdue != 3 {
		t.Fatalf("%+v, error %v", lives, err)
	}
	other := openStore(t, uri, s.id)
	endAt(t, other, time.Now().Add(time.Hour), expiring(0).ID)
	if done, _, err := other.Expiry().DestroyExpired(t.Context()); err != nil || len(done) != 2 {
		t.Fatalf("another process destroyed %v, error %v", done, err)
	}
	if done, _, err := s.Expiry().DestroyExpired(t.Context()); err != nil || len(done) != 0 || wraps(t, s) != 1 {
		t.Errorf("destroyed %v, error %v, %d wrapped keys are left; want the one whose end is later", done, err, wraps(t, s))
	}
	if lives, err := s.Expiry().Lives(t.Context(), false); err != nil || len(lives) != 1 || lives[0].Overdue != 0 || lives[0].Expiring != 1 {
		t.Errorf("%+v, error %v", lives, err)
	}
}

// TestDynamoDBLooksOnceAnHour: the table is read once an hour, and keys that end meanwhile are destroyed all the same.
func TestDynamoDBLooksOnceAnHour(t *testing.T) {
	uri, b := dynamoDBWith(t)
	s := newStore(t, uri)
	if err := s.Put(t.Context(), expiring(1)); err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(2 * time.Second)
	endAt(t, s, end)
	b.answers(nil)
	x := s.Expiry()
	destroyed := 0
	for time.Now().Before(end.Add(3 * time.Second)) {
		done, _, err := x.DestroyExpired(t.Context())
		if destroyed += len(done); err != nil || len(done) > 0 && time.Now().Before(end) {
			t.Fatalf("destroyed %v at %v, error %v", done, time.Now(), err)
		}
		if _, err := x.Lives(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if destroyed != 1 || b.count("Scan") != 1 {
		t.Errorf("%d destroyed, the table was read %d times", destroyed, b.count("Scan"))
	}
}

// TestDynamoDBMigrateNamesKeys: a table of an earlier release knows after the migration that its keys do not expire.
func TestDynamoDBMigrateNamesKeys(t *testing.T) {
	s := newStore(t, dynamoDB(t))
	if err := s.Put(t.Context(), row(1)); err != nil {
		t.Fatal(err)
	}
	b := s.backend.(*table)
	if _, err := b.client.DeleteItem(t.Context(), &dynamodb.DeleteItemInput{TableName: b.name, Key: nameKey(row(1).Context)}); err != nil {
		t.Fatal(err)
	}
	hasSchema(t, s, 1)
	if changed, err := s.Migrate(t.Context()); !changed || err != nil {
		t.Fatalf("changed %v, error %v", changed, err)
	}
	if endless, expiring, err := s.Expiry().Has(t.Context(), row(1).Context); !endless || expiring || err != nil {
		t.Errorf("keys that do not expire: %v, keys that do: %v, error %v", endless, expiring, err)
	}
}

// TestDynamoDBLookGoesOn: a look through the table that did not get to its end goes on there, and its keys are destroyed once it is finished.
func TestDynamoDBLookGoesOn(t *testing.T) {
	uri, b := dynamoDBWith(t)
	s := newStore(t, uri)
	r := expiring(1)
	if err := s.Put(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	endAll(t, s)
	ended := map[string]any{"pk": map[string]any{"S": keyItem + r.ID.String()}, "kind": map[string]any{"N": "0"}, "namespace": map[string]any{"S": "ns"},
		"key_name": map[string]any{"S": "chat"}, "expires": map[string]any{"N": "1700000000000"},
		"wraps": map[string]any{"M": map[string]any{r.KEK.String(): map[string]any{"M": map[string]any{"wrapped": map[string]any{"B": "AAAA"}}}}}}
	last := map[string]any{"pk": map[string]any{"S": "k#1"}}
	b.answers(func(op string, call int, body map[string]any) (int, any) {
		switch {
		case op != "Scan":
			return 0, nil
		case call == 1:
			return http.StatusOK, map[string]any{"Items": []any{ended}, "LastEvaluatedKey": last}
		case call == 2:
			return http.StatusBadRequest, map[string]any{"__type": "com.amazonaws.dynamodb.v20120810#AccessDeniedException", "message": "no"}
		case body["ExclusiveStartKey"] == nil:
			t.Error("the look begins anew")
		}
		return http.StatusOK, map[string]any{"Items": []any{}}
	})
	if done, _, err := s.Expiry().DestroyExpired(t.Context()); err == nil || len(done) != 0 {
		t.Errorf("a look that is not finished: destroyed %v, error %v", done, err)
	}
	done, _, err := s.Expiry().DestroyExpired(t.Context())
	b.answers(nil)
	if err != nil || len(done) != 1 || done[0].ID != r.ID || wraps(t, s) != 0 {
		t.Errorf("destroyed %v, error %v, %d wrapped keys are left", done, err, wraps(t, s))
	}
}

// TestDynamoDBLookTakesLong: a look that takes longer than a call has goes on with the next one, whatever that is for, and meanwhile keys are
// destroyed and counted by what the last look has found.
func TestDynamoDBLookTakesLong(t *testing.T) {
	uri, b := dynamoDBWith(t)
	s := newStore(t, uri)
	if err := s.Put(t.Context(), expiring(1)); err != nil {
		t.Fatal(err)
	}
	endAll(t, s)
	x := s.Expiry()
	if lives, err := x.Lives(t.Context(), false); err != nil || len(lives) != 1 {
		t.Fatalf("%+v, error %v", lives, err)
	}
	s.ends.last.read = time.Now().Add(-2 * lookEvery)
	var starts atomic.Int32
	b.answers(func(op string, _ int, body map[string]any) (int, any) {
		if op != "Scan" {
			return 0, nil
		}
		time.Sleep(100 * time.Millisecond)
		if body["ExclusiveStartKey"] == nil {
			starts.Add(1)
		}
		return http.StatusOK, map[string]any{"Items": []any{}, "LastEvaluatedKey": map[string]any{"pk": map[string]any{"S": "k#1"}}}
	})
	within := func(call func(ctx context.Context) error) error {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		return call(ctx)
	}
	if err := within(func(ctx context.Context) error {
		done, _, err := x.DestroyExpired(ctx)
		if len(done) != 1 {
			t.Errorf("destroyed %v; want what the last look has found", done)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	if err := within(func(ctx context.Context) error { _, _, err := x.DestroyReturned(ctx); return err }); !errors.Is(err, crypto.ErrLookGoesOn) {
		t.Errorf("keys that came back are not all known: %v", err)
	}
	if err := within(func(ctx context.Context) error { _, err := x.Lives(ctx, false); return err }); err != nil {
		t.Errorf("the last look serves: %v", err)
	}
	if n := starts.Load(); n != 1 {
		t.Errorf("the look began %d times", n)
	}
	for range 2 {
		if err := within(func(ctx context.Context) error { _, err := x.Lives(ctx, true); return err }); err == nil {
			t.Error("all keys are counted by a look that is not finished")
		}
	}
	if n := starts.Load(); n != 2 {
		t.Errorf("the consistent look began %d times", n-1)
	}
}

// TestDynamoDBWithoutItsClock: where answers do not say what time it is, the clock of this machine alone destroys no key and gives none its end.
func TestDynamoDBWithoutItsClock(t *testing.T) {
	uri, b := dynamoDBWith(t)
	s := newStore(t, uri)
	if err := s.Put(t.Context(), expiring(1)); err != nil {
		t.Fatal(err)
	}
	endAll(t, s)
	b.hidden.Store(true)
	if done, _, err := s.Expiry().DestroyExpired(t.Context()); !errors.Is(err, errNoDate) || len(done) != 0 {
		t.Errorf("destroyed %v, error %v", done, err)
	}
	if err := s.Put(t.Context(), expiring(2)); !errors.Is(err, errNoDate) {
		t.Errorf("a key that expires: %v", err)
	}
	if err := s.Put(t.Context(), row(3)); err != nil {
		t.Errorf("a key that does not expire: %v", err)
	}
	if n := wraps(t, s); n != 2 {
		t.Errorf("%d wrapped keys; want the first and the third", n)
	}
	b.hidden.Store(false)
	if done, _, err := s.Expiry().DestroyExpired(t.Context()); err != nil || len(done) != 1 {
		t.Errorf("destroyed %v, error %v", done, err)
	}
}
