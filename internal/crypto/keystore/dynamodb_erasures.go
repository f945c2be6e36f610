package keystore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

const (
	// maxErasedAtOnce is how many subjects one transaction erases: it changes at most 100 items, and each takes two of them.
	maxErasedAtOnce = 49
	// countEvery is how long entries of erasures that were all there count as there. Each look reads as many items.
	countEvery = 10 * time.Minute
	// replicaLife is how long a replica is remembered that is silent.
	replicaLife = 24 * time.Hour

	replicaAttr = "r_"
)

// historyDoc is an erasure or readmission in the historyItem of its subject.
type historyDoc struct {
	Seq        int64 `json:"seq"`
	At         int64 `json:"at"`
	Readmitted bool  `json:"readmitted,omitempty"`
}

// erasureDoc is the content of an erasureItem.
type erasureDoc struct {
	Namespace  string   `json:"namespace,omitempty"`
	Key        string   `json:"key_name,omitempty"`
	Index      hexBytes `json:"index"`
	Tag        hexBytes `json:"tag"`
	At         int64    `json:"at"`
	By         string   `json:"by"`
	Reason     string   `json:"reason"`
	Readmitted bool     `json:"readmitted,omitempty"`
}

// replicaDoc is what a process has in the item of replicas.
type replicaDoc struct {
	Seen   int64 `json:"seen"`
	Seq    int64 `json:"seq"`
	MaxLag int64 `json:"max_lag"`
}

// erasedAfter returns the first erasure of the subject with a number above that of made; nil if there is none.
func (s *subject) erasedAfter(made int64) (first *historyDoc) {
	for i := range s.history {
		if e := &s.history[i]; !e.Readmitted && e.Seq > made && (first == nil || e.Seq < first.Seq) {
			first = e
		}
	}
	return first
}

// last returns the last erasure or readmission of the subject; nil if there is none.
func (s *subject) last() (last *historyDoc) {
	for i := range s.history {
		if e := &s.history[i]; last == nil || e.Seq > last.Seq {
			last = e
		}
	}
	return last
}

// reserve takes the next generation after an erasure or readmission that is in the history, so that the next key is a later one. It counts
// as made after the erasure with the number made. An erasure that fills a gap before a later one reserves nothing.
func (s *subject) reserve(e *crypto.Erasure, made int64, now time.Time) {
	s.doc.Namespace, s.doc.Key = e.Context.Namespace, e.Context.Key
	if last := s.last(); last != nil && last.Seq > e.Seq {
		return
	}
	next := 1
	for _, g := range s.doc.Generations {
		next = max(next, g.Generation+1)
	}
	s.doc.Generations = append(s.doc.Generations, generationDoc{Generation: next, Created: now.UnixMilli(), Made: made})
}

// destroy destroys the keys that were made before an erasure, and returns their ids.
func (s *subject) destroy() (ids []crypto.KeyID) {
	for i := range s.doc.Generations {
		g := &s.doc.Generations[i]
		e := s.erasedAfter(g.Made)
		if e == nil {
			continue
		}
		g.Erased, g.ErasedAt = e.Seq, e.At
		if g.Wrapped != nil {
			g.Wrapped = nil
			ids = append(ids, g.ID.keyID())
		}
	}
	return ids
}

func erasurePK(seq int64) string { return erasureItem + strconv.FormatInt(seq, 10) }

// Erase is part of crypto.SubjectStore. One transaction enters the erasure under all key names: from then on no process uses or makes a key of the
// subject. A second one destroys the keys. It has to meet no process that makes keys, however fast.
func (s *tableSubjects) Erase(ctx context.Context, of []crypto.Erasure) ([]crypto.Erasure, error) {
	if len(of) > maxErasedAtOnce {
		return nil, notConfigured("one transaction of DynamoDB erases a subject under at most %d key names, and the namespace has %d: "+
			"erase under each by itself, with --key", maxErasedAtOnce, len(of))
	}
	return s.items.enterAndSettle(ctx, "keystore.erase", of)
}

// Readmit is part of crypto.SubjectStore. It reserves a generation that is not erased, which the next key follows.
func (s *tableSubjects) Readmit(ctx context.Context, e crypto.Erasure) (crypto.Erasure, error) {
	e.Readmitted = true
	done, err := s.items.enterAndSettle(ctx, "keystore.readmit", []crypto.Erasure{e})
	if len(done) == 0 {
		return crypto.Erasure{}, err
	}
	return done[0], err
}

// EnterLost is part of crypto.SubjectStore.
func (s *tableSubjects) EnterLost(ctx context.Context, e crypto.Erasure) error {
	_, err := s.items.enter(ctx, "keystore.erase", []crypto.Erasure{e})
	return err
}

// enterAndSettle returns what it has entered, with an error too.
func (s *subjectItems) enterAndSettle(ctx context.Context, op string, of []crypto.Erasure) ([]crypto.Erasure, error) {
	done, err := s.enter(ctx, op, of)
	if err != nil {
		return nil, err
	}
	if err := s.settle(ctx, op, done); err != nil {
		for i := range done {
			done[i].Destroyed = nil
		}
		return done, unavailable(op, fmt.Errorf("number %d is entered and in force, and the rows of the subject's keys could not be changed yet; "+
			"repeat the command: %w", done[0].Seq, err))
	}
	return done, nil
}

// enter enters erasures or readmissions in one transaction. One without a key name is of nobody. The number in the item meta
// puts all of them in one order: a transaction that has read another one than it finds fails, and starts again.
func (s *subjectItems) enter(ctx context.Context, op string, of []crypto.Erasure) (done []crypto.Erasure, err error) {
	err = s.change(ctx, op, func() ([]types.TransactWriteItem, error) {
		pks := []string{metaItem}
		for _, e := range of {
			pks = append(pks, erasurePK(e.Seq), subjectPK(historyItem, e.Index, e.Tag))
		}
		r, err := s.read(ctx, op, pks...)
		if err != nil {
			return nil, err
		}
		before, err := s.seq(r)
		if err != nil {
			return nil, err
		}
		last := before
		var changes []types.TransactWriteItem
		done = slices.Clone(of)
		for i := range done {
			e := &done[i]
			if e.Seq == 0 || r.items[erasurePK(e.Seq)] != nil {
				e.Seq = last + 1
			}
			last = max(last, e.Seq)
			if e.At.IsZero() {
				e.At = r.now.UTC().Truncate(time.Millisecond)
			}
			some, err := r.entered(e)
			if err != nil {
				return nil, err
			}
			changes = append(changes, some...)
		}
		return append(changes, s.counted(before, last)), nil
	})
	if err != nil {
		return nil, err
	}
	return done, nil
}

// entered returns the changes that enter an erasure.
func (r records) entered(e *crypto.Erasure) ([]types.TransactWriteItem, error) {
	fresh := records{table: r.table} // the number has no entry
	entry := fresh.put(erasurePK(e.Seq), erasureDoc{Namespace: e.Context.Namespace, Key: e.Context.Key, Index: e.Index[:],
		Tag: e.Tag[:], At: e.At.UnixMilli(), By: e.By, Reason: e.Reason, Readmitted: e.Readmitted})
	if e.Context.Key == "" {
		return []types.TransactWriteItem{entry}, nil
	}
	of, err := r.subjectOf(e.Index, e.Tag)
	if err != nil {
		return nil, err
	}
	of.history = append(of.history, historyDoc{Seq: e.Seq, At: e.At.UnixMilli(), Readmitted: e.Readmitted})
	return []types.TransactWriteItem{entry, r.put(of.historyPK, of.history)}, nil
}

// settle destroys, in one transaction, the keys of subjects whose erasures are entered, notes which, and reserves the next generations.
func (s *subjectItems) settle(ctx context.Context, op string, of []crypto.Erasure) error {
	return s.change(ctx, op, func() (changes []types.TransactWriteItem, err error) {
		for i := range of {
			e := &of[i]
			found, r, _, err := s.subject(ctx, op, e.Index, e.Tag)
			if err != nil {
				return nil, err
			}
			made := e.Seq
			if !e.Readmitted {
				made--
			}
			found.reserve(e, made, r.now)
			e.Destroyed = found.destroy()
			changes = append(changes, r.put(found.pk, found.doc))
		}
		return changes, nil
	})
}

// counted sets the number of the last erasure, unless it has changed, or the table is another store.
func (s *subjectItems) counted(before, last int64) types.TransactWriteItem {
	condition := "store_id = :id AND seq = :before"
	if before == 0 {
		condition = "store_id = :id AND (attribute_not_exists(seq) OR seq = :before)"
	}
	return types.TransactWriteItem{Update: &types.Update{TableName: s.table.name, Key: key(metaItem), UpdateExpression: aws.String("SET seq = :last"),
		ConditionExpression:       &condition,
		ExpressionAttributeValues: item{":id": &types.AttributeValueMemberS{Value: s.store.id}, ":before": numberOf(before), ":last": numberOf(last)}}}
}

// mend writes each erasure back to the history of its subject that lacks it: a part of the table was restored. Whether a key may be
// used stands in the history alone.
func (s *tableSubjects) mend(ctx context.Context, op string) error {
	for from := int64(1); ; {
		page, err := s.Erasures(ctx, from)
		if err != nil || len(page) == 0 {
			return err
		}
		of := map[string][]historyDoc{}
		for _, e := range page {
			if e.Context.Key != "" {
				pk := subjectPK(historyItem, e.Index, e.Tag)
				of[pk] = append(of[pk], historyDoc{Seq: e.Seq, At: e.At.UnixMilli(), Readmitted: e.Readmitted})
			}
		}
		if err := s.items.mend(ctx, op, of); err != nil {
			return err
		}
		from = page[len(page)-1].Seq + 1
	}
}

// mend adds to histories, by the keys of their items, what they lack.
func (s *subjectItems) mend(ctx context.Context, op string, of map[string][]historyDoc) error {
	r, err := s.read(ctx, op, slices.Collect(maps.Keys(of))...)
	if err != nil {
		return err
	}
	for pk, entered := range of {
		if whole, err := r.mended(pk, entered); err != nil {
			return err
		} else if whole == nil {
			continue
		}
		if err := s.change(ctx, op, func() ([]types.TransactWriteItem, error) {
			r, err := s.read(ctx, op, pk)
			if err != nil {
				return nil, err
			}
			whole, err := r.mended(pk, entered)
			if err != nil || whole == nil {
				return nil, err
			}
			return []types.TransactWriteItem{s.table.stillStore(s.store.id), r.put(pk, whole)}, nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// mended returns the history in an item with what it lacks of the erasures that are entered; nil if it lacks none.
func (r records) mended(pk string, entered []historyDoc) (whole []historyDoc, err error) {
	var history []historyDoc
	if err := r.decode(pk, &history); err != nil {
		return nil, err
	}
	whole = history
	for _, e := range entered {
		if !slices.ContainsFunc(history, func(h historyDoc) bool { return h.Seq == e.Seq }) {
			whole = append(whole, e)
		}
	}
	if len(whole) == len(history) {
		return nil, nil
	}
	return whole, nil
}

// DestroyErased is part of crypto.SubjectStore. It reads the whole table.
func (s *tableSubjects) DestroyErased(ctx context.Context) (ids []crypto.KeyID, err error) {
	const op = "keystore.erase"
	if err := s.mend(ctx, op); err != nil {
		return nil, err
	}
	err = s.items.eachSubject(ctx, op, func(found *subject, index crypto.KeyID, tag crypto.SubjectTag, _ records) error {
		if len(found.destroy()) == 0 {
			return nil
		}
		var destroyed []crypto.KeyID
		err := s.items.change(ctx, op, func() ([]types.TransactWriteItem, error) {
			of, r, _, err := s.items.subject(ctx, op, index, tag)
			if err != nil {
				return nil, err
			}
			if destroyed = of.destroy(); len(destroyed) == 0 {
				return nil, nil
			}
			return []types.TransactWriteItem{r.put(of.pk, of.doc), r.check(of.historyPK)}, nil
		})
		ids = append(ids, destroyed...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// ErasureCounts is part of crypto.SubjectStore. Replicas come first: what one has seen was entered before. The number in the item meta is
// read before and after the entries, so that an erasure shows in all numbers or in none.
func (s *tableSubjects) ErasureCounts(ctx context.Context) (c crypto.ErasureCounts, err error) {
	const op = "keystore.erasures"
	replicas, err := s.Replicas(ctx)
	if err != nil {
		return c, err
	}
	for _, r := range replicas {
		c.Seen = max(c.Seen, r.Seq)
	}
	for range maxTries {
		if c.Counter, err = s.items.lastSeq(ctx, op); err != nil {
			return c, err
		}
		if c.Entries, c.Last, err = s.entries(ctx, op, c.Counter); err != nil {
			return c, err
		}
		after, err := s.items.lastSeq(ctx, op)
		if err != nil {
			return c, err
		}
		if after == c.Counter {
			s.note(c)
			return c, nil
		}
	}
	return c, unavailable(op, errors.New("others enter erasures all the time"))
}

// lastSeq returns the number of the last erasure, and makes sure that the table is the store.
func (s *subjectItems) lastSeq(ctx context.Context, op string) (int64, error) {
	r, err := s.read(ctx, op, metaItem)
	if err != nil {
		return 0, err
	}
	seq, err := s.seq(r)
	if err != nil {
		err = unavailable(op, err)
	}
	return seq, err
}

// entries counts the entries of erasures up to a number, and returns the highest number of one, which may be the next. Those that were
// there lately are not looked at again.
func (s *tableSubjects) entries(ctx context.Context, op string, counter int64) (n, last int64, err error) {
	s.mu.Lock()
	if s.whole <= counter && time.Since(s.wholeAt) < countEvery {
		n = max(s.whole-1, 0) // the last one of them is looked at
	}
	s.mu.Unlock()
	var pks []string
	for seq := n + 1; seq <= counter+1; seq++ {
		pks = append(pks, erasurePK(seq))
	}
	r, err := s.items.read(ctx, op, slices.Clone(pks)...)
	if err != nil {
		return 0, 0, err
	}
	last = n
	for i, pk := range pks {
		if r.items[pk] != nil {
			last = n + int64(i) + 1
		}
	}
	return n + int64(len(r.items)), last, nil
}

// note notes that all entries are there.
func (s *tableSubjects) note(c crypto.ErasureCounts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Entries != c.Counter || c.Last != c.Counter {
		s.whole, s.wholeAt = 0, time.Time{}
		return
	}
	if time.Since(s.wholeAt) >= countEvery || c.Counter < s.whole {
		s.wholeAt = time.Now()
	}
	s.whole = c.Counter
}

// Erasures is part of crypto.SubjectStore. It makes sure each time that the table is the store.
func (s *tableSubjects) Erasures(ctx context.Context, from int64) (all []crypto.Erasure, err error) {
	const op = "keystore.erasures"
	counter, err := s.items.lastSeq(ctx, op)
	if err != nil {
		return nil, err
	}
	if from < 0 {
		for to := counter; to > 0; to -= perBatch { // the last one may be lost
			some, err := s.items.erasures(ctx, op, max(to-perBatch+1, 1), to)
			if err != nil || len(some) > 0 {
				return some[max(len(some)-1, 0):], err
			}
		}
		return nil, nil
	}
	for from <= counter && len(all) < pageSize { // entries may be missing
		to := min(from+pageSize-int64(len(all))-1, counter)
		some, err := s.items.erasures(ctx, op, from, to)
		if err != nil {
			return nil, err
		}
		all, from = append(all, some...), to+1
	}
	return all, nil
}

// erasures returns the erasures with numbers from one to another.
func (s *subjectItems) erasures(ctx context.Context, op string, from, to int64) (all []crypto.Erasure, err error) {
	var pks []string
	for seq := from; seq <= to; seq++ {
		pks = append(pks, erasurePK(seq))
	}
	r, err := s.read(ctx, op, slices.Clone(pks)...)
	if err != nil {
		return nil, err
	}
	for i, pk := range pks {
		if r.items[pk] == nil {
			continue
		}
		var doc erasureDoc
		if err := r.decode(pk, &doc); err != nil {
			return nil, err
		}
		e := crypto.Erasure{Seq: from + int64(i), Context: crypto.KeyContext{Namespace: doc.Namespace, Key: doc.Key}, At: time.UnixMilli(doc.At).UTC(),
			By: doc.By, Reason: doc.Reason, Readmitted: doc.Readmitted}
		if len(doc.Index) != len(e.Index) || len(doc.Tag) != len(e.Tag) {
			return nil, unavailable(op, fmt.Errorf("the erasure %d has an index of %d bytes and a tag of %d", e.Seq, len(doc.Index), len(doc.Tag)))
		}
		e.Index, e.Tag = crypto.KeyID(doc.Index), crypto.SubjectTag(doc.Tag)
		all = append(all, e)
	}
	return all, nil
}

// Seen is part of crypto.SubjectStore. It forgets replicas that have been silent for a day, unless they have seen an erasure that the
// store lacks.
func (s *tableSubjects) Seen(ctx context.Context, replica crypto.ReplicaRow) error {
	const op = "keystore.seen"
	r, err := s.items.read(ctx, op, metaItem, replicasItem)
	if err != nil {
		return err
	}
	seq, err := s.items.seq(r)
	if err != nil {
		return unavailable(op, err)
	}
	content, _ := json.Marshal(replicaDoc{Seen: r.now.UnixMilli(), Seq: replica.Seq, MaxLag: replica.MaxLag.Milliseconds()})
	names := map[string]string{"#own": replicaAttr + replica.ID}
	var remove []string
	for name, value := range r.items[replicasItem] {
		other, ok := replicaOf(name, value)
		if ok && name != names["#own"] && r.now.UnixMilli()-other.Seen > replicaLife.Milliseconds() && other.Seq <= seq && len(remove) < perBatch {
			place := "#r" + strconv.Itoa(len(remove))
			names[place], remove = name, append(remove, place)
		}
	}
	update := "SET #own = :own"
	if len(remove) > 0 {
		update += " REMOVE " + strings.Join(remove, ", ")
	}
	if _, err := s.items.table.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{TableName: s.items.table.name, Key: key(replicasItem), UpdateExpression: &update,
		ExpressionAttributeNames: names, ExpressionAttributeValues: item{":own": &types.AttributeValueMemberS{Value: string(content)}}}); err != nil {
		return s.items.table.failed(op, err)
	}
	return nil
}

func replicaOf(name string, value types.AttributeValue) (doc replicaDoc, ok bool) {
	ok = strings.HasPrefix(name, replicaAttr) && json.Unmarshal([]byte(text(value)), &doc) == nil
	return doc, ok
}

// Gone is part of crypto.SubjectStore.
func (s *tableSubjects) Gone(ctx context.Context, id string) error {
	if _, err := s.items.table.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{TableName: s.items.table.name, Key: key(replicasItem),
		UpdateExpression: aws.String("REMOVE #own"), ExpressionAttributeNames: map[string]string{"#own": replicaAttr + id}}); err != nil {
		return s.items.table.failed("keystore.gone", err)
	}
	return nil
}

// Replicas is part of crypto.SubjectStore.
func (s *tableSubjects) Replicas(ctx context.Context) (all []crypto.ReplicaRow, err error) {
	r, err := s.items.read(ctx, "keystore.replicas", replicasItem)
	for name, value := range r.items[replicasItem] {
		if doc, ok := replicaOf(name, value); ok {
			all = append(all, crypto.ReplicaRow{ID: strings.TrimPrefix(name, replicaAttr), Seq: doc.Seq,
				Silent: r.now.Sub(time.UnixMilli(doc.Seen)), MaxLag: time.Duration(doc.MaxLag) * time.Millisecond})
		}
	}
	slices.SortFunc(all, func(a, b crypto.ReplicaRow) int { return strings.Compare(a.ID, b.ID) })
	return all, err
}
