package keystore

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
)

// The items of keys of subjects, by what their keys start with. Each is read and replaced as a whole: its content is one text in JSON,
// and its version, which every change raises, keeps a change from undoing another one. Index keys and wrap keys themselves are items
// like those of data keys.
const (
	namespaceItem  = "n#"         // and a namespace: which index key and wrap keys its key names have
	namespacesItem = "namespaces" // the namespaces that have such an item
	subjectItem    = "s#"         // and an index key and a tag: the generations of a subject's key
	historyItem    = "h#"         // and an index key and a tag: the erasures and readmissions of a subject
	idItem         = "i#"         // and the id of a generation: the subject
	erasureItem    = "e#"         // and a number: an erasure
	replicasItem   = "replicas"   // an attribute for each process

	attrDoc     = "doc"
	attrVersion = "version"
	attrNames   = "names" // of the item of namespaces
	attrSeq     = "seq"   // of the item meta: the number of the last erasure
)

// parentsDoc is what a key name has in a namespaceItem.
type parentsDoc struct {
	Index hexBytes  `json:"index,omitempty"`
	Wraps []wrapDoc `json:"wraps,omitempty"`
}

type wrapDoc struct {
	ID         hexBytes `json:"id"`
	Generation int      `json:"generation"`
	SealUntil  int64    `json:"seal_until"` // times are in Unix milliseconds
}

// subjectDoc is the content of a subjectItem.
type subjectDoc struct {
	Namespace   string          `json:"namespace"`
	Key         string          `json:"key_name"`
	Generations []generationDoc `json:"generations"`
}

// generationDoc is a generation of a subject's key. One without an id was only reserved. Erased says what became of the key; whether it
// may be used is for the subject's erasures to say too: made is the number of the last erasure of any subject when it was made.
type generationDoc struct {
	Generation int      `json:"generation"`
	ID         hexBytes `json:"id,omitempty"`
	Parent     hexBytes `json:"parent,omitempty"`
	Wrapped    hexBytes `json:"wrapped,omitempty"`
	SealUntil  int64    `json:"seal_until,omitempty"`
	Created    int64    `json:"created"`
	Made       int64    `json:"made"`
	Erased     int64    `json:"erased,omitempty"`
	ErasedAt   int64    `json:"erased_at,omitempty"`
}

// idDoc is the content of an idItem.
type idDoc struct {
	Index hexBytes `json:"index"`
	Tag   hexBytes `json:"tag"`
}

// hexBytes is in hex in JSON.
type hexBytes []byte

// MarshalText is part of encoding.TextMarshaler.
func (b hexBytes) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, b), nil }

// UnmarshalText is part of encoding.TextUnmarshaler.
func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

// keyID returns the bytes as the id of a key; zero if they have another length.
func (b hexBytes) keyID() (id crypto.KeyID) {
	if len(b) == len(id) {
		copy(id[:], b)
	}
	return id
}

// tableSubjects is a crypto.SubjectStore: the part of a store in DynamoDB that holds keys of subjects.
type tableSubjects struct {
	items *subjectItems

	mu      sync.Mutex // guards the rest
	whole   int64      // the erasures up to this number were all there
	wholeAt time.Time
}

// subjectItems are the items of a table that have keys of subjects.
type subjectItems struct {
	store *Store
	table *table
}

// records are items that were read, by their keys.
type records struct {
	table *table
	op    string
	items map[string]item
	now   time.Time // by DynamoDB's clock
}

// read reads items. The read of each sees all that was written before.
func (s *subjectItems) read(ctx context.Context, op string, pks ...string) (r records, err error) {
	if err := s.store.Check(ctx); err != nil {
		return r, unavailable(op, err)
	}
	slices.Sort(pks)
	r = records{table: s.table, op: op}
	r.items, r.now, err = s.table.items(ctx, op, slices.Compact(pks))
	if err != nil && crypto.KindOf(err) != crypto.KindUnavailable { // such as a table that is being restored
		err = unavailable(op, err)
	}
	return r, err
}

// decode puts the content of an item into doc, which stays as it is if there is no item.
func (r records) decode(pk string, doc any) error {
	it := r.items[pk]
	if it == nil {
		return nil
	}
	if err := json.Unmarshal([]byte(text(it[attrDoc])), doc); err != nil {
		return unavailable(r.op, fmt.Errorf("the item %.20s... has no content that can be read", pk))
	}
	return nil
}

func (r records) version(pk string) int64 {
	version, _ := strconv.ParseInt(number(r.items[pk][attrVersion]), 10, 64)
	return version
}

// put has an item replaced that was read, or made that was not there, unless somebody has changed it meanwhile.
func (r records) put(pk string, doc any) types.TransactWriteItem {
	content, _ := json.Marshal(doc) // it has texts, numbers and bytes alone
	made := key(pk)
	made[attrDoc] = &types.AttributeValueMemberS{Value: string(content)}
	made[attrVersion] = numberOf(r.version(pk) + 1)
	put := &types.Put{TableName: r.table.name, Item: made}
	put.ConditionExpression, put.ExpressionAttributeNames, put.ExpressionAttributeValues = r.unchanged(pk)
	return types.TransactWriteItem{Put: put}
}

// check has a transaction fail if somebody has changed an item since it was read.
func (r records) check(pk string) types.TransactWriteItem {
	check := &types.ConditionCheck{TableName: r.table.name, Key: key(pk)}
	check.ConditionExpression, check.ExpressionAttributeNames, check.ExpressionAttributeValues = r.unchanged(pk)
	return types.TransactWriteItem{ConditionCheck: check}
}

func (r records) unchanged(pk string) (condition *string, names map[string]string, values item) {
	if r.items[pk] == nil {
		return aws.String("attribute_not_exists(pk)"), nil, nil
	}
	return aws.String("#version = :version"), map[string]string{"#version": attrVersion}, item{":version": numberOf(r.version(pk))}
}

// seq returns the number of the last erasure, if the item meta is that of the store.
func (s *subjectItems) seq(r records) (int64, error) {
	meta := r.items[metaItem]
	if err := s.table.expectIn(meta, s.store.id); err != nil {
		return 0, err
	}
	if meta[attrSeq] == nil {
		return 0, nil
	}
	seq, err := strconv.ParseInt(number(meta[attrSeq]), 10, 64)
	if err != nil {
		return 0, unavailable(r.op, errors.New("the item meta has a seq that is no number"))
	}
	return seq, nil
}

func numberOf(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

// change has what plan returns written in one transaction, or nothing of it. plan is called anew if somebody else has changed
// meanwhile what it has read. Without changes nothing is written.
func (s *subjectItems) change(ctx context.Context, op string, plan func() ([]types.TransactWriteItem, error)) error {
	pause := backoff.Backoff{First: 20 * time.Millisecond, Max: time.Second, Jitter: 0.5}
	for try := 1; ; try++ {
		changes, err := plan()
		if err != nil || len(changes) == 0 {
			return err
		}
		_, err = s.table.client.TransactWriteItems(ctx, &dynamodb.TransactWriteItemsInput{TransactItems: changes})
		if err == nil {
			return nil
		}
		again, err := s.table.refused(ctx, op, err, s.store.id)
		if !again || try == maxTries || pause.Wait(ctx) != nil {
			return err
		}
	}
}

// Parents is part of crypto.SubjectStore.
func (s *tableSubjects) Parents(ctx context.Context, kc crypto.KeyContext) ([]crypto.ParentRow, error) {
	const op = "keystore.parents"
	of, r, err := s.items.namespace(ctx, op, kc.Namespace)
	if err != nil || of[kc.Key] == nil {
		return nil, err
	}
	wraps := slices.SortedFunc(slices.Values(of[kc.Key].Wraps), func(a, b wrapDoc) int { return b.Generation - a.Generation })
	wraps = append(wraps, wrapDoc{ID: of[kc.Key].Index})
	ids := make([]crypto.KeyID, len(wraps))
	for i, w := range wraps {
		ids[i] = w.ID.keyID()
	}
	found, err := s.items.table.get(ctx, ids)
	if err != nil {
		return nil, err
	}
	var rows []crypto.ParentRow
	for i, w := range wraps {
		for _, row := range found {
			if row.ID == ids[i] && row.Context == kc && row.Kind != 0 {
				rows = append(rows, crypto.ParentRow{KeyRow: row, Generation: w.Generation, Current: w.SealUntil > r.now.UnixMilli()})
			}
		}
	}
	return rows, nil
}

// namespace returns what the key names of a namespace have.
func (s *subjectItems) namespace(ctx context.Context, op, namespace string, more ...string) (map[string]*parentsDoc, records, error) {
	of := map[string]*parentsDoc{}
	r, err := s.read(ctx, op, append(more, namespaceItem+namespace)...)
	if err == nil {
		err = r.decode(namespaceItem+namespace, &of)
	}
	return of, r, err
}

// Parent is part of crypto.SubjectStore. Only Parents has generations.
func (s *tableSubjects) Parent(ctx context.Context, id crypto.KeyID) (all []crypto.ParentRow, err error) {
	if err := s.items.store.Check(ctx); err != nil {
		return nil, unavailable("keystore.parents", err)
	}
	rows, err := s.items.table.get(ctx, []crypto.KeyID{id})
	for _, row := range rows {
		if row.Kind != 0 {
			all = append(all, crypto.ParentRow{KeyRow: row})
		}
	}
	return all, err
}

// PutParent is part of crypto.SubjectStore.
func (s *tableSubjects) PutParent(ctx context.Context, p crypto.ParentRow) error {
	const op = "keystore.put_parent"
	return s.items.change(ctx, op, func() ([]types.TransactWriteItem, error) {
		names, r, err := s.items.namespace(ctx, op, p.Context.Namespace)
		if err != nil {
			return nil, err
		}
		of := names[p.Context.Key]
		if of == nil {
			of = &parentsDoc{}
			names[p.Context.Key] = of
		}
		if p.Kind == crypto.RowIndex {
			if of.Index != nil { // another one has its place
				return nil, nil
			}
			of.Index = p.ID[:]
		} else {
			if slices.ContainsFunc(of.Wraps, func(w wrapDoc) bool { return w.Generation == p.Generation }) {
				return nil, nil
			}
			of.Wraps = append(of.Wraps, wrapDoc{ID: p.ID[:], Generation: p.Generation, SealUntil: r.now.Add(parentLife).UnixMilli()})
		}
		return []types.TransactWriteItem{s.items.table.stillStore(s.items.store.id), r.put(namespaceItem+p.Context.Namespace, names),
			{Put: &types.Put{TableName: s.items.table.name, Item: itemOf(&p.KeyRow), ConditionExpression: aws.String("attribute_not_exists(pk)")}},
			{Update: &types.Update{TableName: s.items.table.name, Key: key(namespacesItem), UpdateExpression: aws.String("ADD #names :names"),
				ExpressionAttributeNames:  map[string]string{"#names": attrNames},
				ExpressionAttributeValues: item{":names": &types.AttributeValueMemberSS{Value: []string{p.Context.Namespace}}}}}}, nil
	})
}

// subjectPK returns the key of an item of a subject.
func subjectPK(kind string, index crypto.KeyID, tag crypto.SubjectTag) string {
	return kind + index.String() + "," + hex.EncodeToString(tag[:])
}

// subject is what a table has of a subject.
type subject struct {
	pk, historyPK string
	doc           subjectDoc
	history       []historyDoc
}

// subjectOf returns what was read of a subject.
func (r records) subjectOf(index crypto.KeyID, tag crypto.SubjectTag) (s subject, err error) {
	s.pk, s.historyPK = subjectPK(subjectItem, index, tag), subjectPK(historyItem, index, tag)
	if err = r.decode(s.pk, &s.doc); err == nil {
		err = r.decode(s.historyPK, &s.history)
	}
	return s, err
}

// generation returns the generation at i as a row.
func (s *subject) generation(i int, index crypto.KeyID, tag crypto.SubjectTag, now time.Time) crypto.SubjectRow {
	g := &s.doc.Generations[i]
	row := crypto.SubjectRow{ID: g.ID.keyID(), Context: crypto.KeyContext{Namespace: s.doc.Namespace, Key: s.doc.Key}, Index: index, Tag: tag,
		Generation: g.Generation, Parent: g.Parent.keyID(), Wrapped: g.Wrapped,
		SealFor: time.UnixMilli(g.SealUntil).Sub(now), Created: time.UnixMilli(g.Created).UTC()}
	erased, at := g.Erased, g.ErasedAt
	if e := s.erasedAfter(g.Made); e != nil {
		erased, at = e.Seq, e.At
	}
	if row.Erased = erased; erased != 0 {
		row.ErasedAt = time.UnixMilli(at).UTC()
	}
	return row
}

// SubjectKeys is part of crypto.SubjectStore.
func (s *tableSubjects) SubjectKeys(ctx context.Context, ids []crypto.KeyID) (rows []crypto.SubjectRow, err error) {
	const op = "keystore.subject_keys"
	pks := make([]string, len(ids))
	for i, id := range ids {
		pks[i] = idItem + id.String()
	}
	named, err := s.items.read(ctx, op, slices.Clone(pks)...)
	if err != nil || len(named.items) == 0 {
		return nil, err
	}
	of := make(map[string]idDoc, len(named.items))
	var more []string
	for _, pk := range pks {
		var doc idDoc
		if err := named.decode(pk, &doc); err != nil {
			return nil, err
		}
		if len(doc.Index) == len(crypto.KeyID{}) && len(doc.Tag) == len(crypto.SubjectTag{}) {
			of[pk] = doc
			index, tag := crypto.KeyID(doc.Index), crypto.SubjectTag(doc.Tag)
			more = append(more, subjectPK(subjectItem, index, tag), subjectPK(historyItem, index, tag))
		}
	}
	r, err := s.items.read(ctx, op, more...)
	if err != nil {
		return nil, err
	}
	for i, pk := range pks {
		doc, ok := of[pk]
		if !ok {
			continue
		}
		index, tag := crypto.KeyID(doc.Index), crypto.SubjectTag(doc.Tag)
		found, err := r.subjectOf(index, tag)
		if err != nil {
			return nil, err
		}
		for n := range found.doc.Generations {
			if found.doc.Generations[n].ID.keyID() == ids[i] {
				rows = append(rows, found.generation(n, index, tag, r.now))
			}
		}
	}
	return rows, nil
}

// Generations is part of crypto.SubjectStore. It makes sure each time that the table is the store: a key that was made is used once it is
// found here.
func (s *tableSubjects) Generations(ctx context.Context, index crypto.KeyID, tag crypto.SubjectTag) (rows []crypto.SubjectRow, err error) {
	found, r, _, err := s.items.subject(ctx, "keystore.subject_keys", index, tag)
	if err != nil {
		return nil, err
	}
	for i := range found.doc.Generations {
		rows = append(rows, found.generation(i, index, tag, r.now))
	}
	slices.SortFunc(rows, func(a, b crypto.SubjectRow) int { return b.Generation - a.Generation })
	return rows, nil
}

// subject reads what the store has of a subject, and the number of the last erasure.
func (s *subjectItems) subject(ctx context.Context, op string, index crypto.KeyID, tag crypto.SubjectTag) (of subject, r records, seq int64, err error) {
	r, err = s.read(ctx, op, metaItem, subjectPK(subjectItem, index, tag), subjectPK(historyItem, index, tag))
	if err == nil {
		if seq, err = s.seq(r); err != nil {
			err = unavailable(op, err)
		}
	}
	if err == nil {
		of, err = r.subjectOf(index, tag)
	}
	return of, r, seq, err
}

// PutSubjectKey is part of crypto.SubjectStore. The row's SealFor starts now. The transaction fails if an erasure of the subject was
// entered since its items were read. It names no item that other subjects have too: transactions on one item exclude each other.
func (s *tableSubjects) PutSubjectKey(ctx context.Context, row crypto.SubjectRow) error {
	const op = "keystore.put_subject_key"
	return s.items.change(ctx, op, func() ([]types.TransactWriteItem, error) {
		of, r, seq, err := s.items.subject(ctx, op, row.Index, row.Tag)
		if err != nil {
			return nil, err
		}
		taken := slices.ContainsFunc(of.doc.Generations, func(g generationDoc) bool { return g.Generation == row.Generation })
		if last := of.last(); taken || last != nil && !last.Readmitted {
			return nil, nil
		}
		of.doc.Namespace, of.doc.Key = row.Context.Namespace, row.Context.Key
		of.doc.Generations = append(of.doc.Generations, generationDoc{Generation: row.Generation, ID: row.ID[:], Parent: row.Parent[:],
			Wrapped: row.Wrapped, SealUntil: r.now.Add(row.SealFor).UnixMilli(), Created: r.now.UnixMilli(), Made: seq})
		return []types.TransactWriteItem{r.put(of.pk, of.doc), r.check(of.historyPK),
			r.put(idItem+row.ID.String(), idDoc{row.Index[:], row.Tag[:]})}, nil
	})
}

// IndexKeys is part of crypto.SubjectStore.
func (s *tableSubjects) IndexKeys(ctx context.Context, namespace string) (all []crypto.KeyContext, err error) {
	names, _, err := s.items.namespace(ctx, "keystore.index_keys", namespace)
	for name, of := range names {
		if of.Index != nil {
			all = append(all, crypto.KeyContext{Namespace: namespace, Key: name})
		}
	}
	slices.SortFunc(all, func(a, b crypto.KeyContext) int { return cmp.Compare(a.Key, b.Key) })
	return all, err
}

// LostIndexKeys is part of crypto.SubjectStore. It looks at what namespaces have, and not at each subject.
func (s *tableSubjects) LostIndexKeys(ctx context.Context) (all []string, err error) {
	const op = "keystore.index_keys"
	r, err := s.items.read(ctx, op, namespacesItem)
	if err != nil {
		return nil, err
	}
	names, _ := r.items[namespacesItem][attrNames].(*types.AttributeValueMemberSS)
	if names == nil {
		return nil, nil
	}
	pks, needed := make([]string, len(names.Value)), map[crypto.KeyID]string{}
	for i, namespace := range names.Value {
		pks[i] = namespaceItem + namespace
	}
	if r, err = s.items.read(ctx, op, pks...); err != nil {
		return nil, err
	}
	for _, namespace := range names.Value {
		of := map[string]*parentsDoc{}
		if err := r.decode(namespaceItem+namespace, &of); err != nil {
			return nil, err
		}
		if len(of) == 0 {
			all = append(all, fmt.Sprintf("those of namespace %q", namespace))
		}
		for name, parents := range of {
			what := fmt.Sprintf("that of key %q in namespace %q", name, namespace)
			if parents.Index == nil {
				all = append(all, what)
			} else {
				needed[parents.Index.keyID()] = what
			}
		}
	}
	ids := make([]crypto.KeyID, 0, len(needed))
	for id := range needed {
		ids = append(ids, id)
	}
	rows, err := s.items.table.get(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		delete(needed, row.ID)
	}
	for _, what := range needed {
		all = append(all, what)
	}
	slices.Sort(all)
	return all, nil
}

// SubjectCounts is part of crypto.SubjectStore. It reads the whole table.
func (s *tableSubjects) SubjectCounts(ctx context.Context) (all []crypto.SubjectCount, err error) {
	counts := map[crypto.KeyContext]*crypto.SubjectCount{}
	err = s.items.eachSubject(ctx, "keystore.subject_counts", func(of *subject, _ crypto.KeyID, _ crypto.SubjectTag, _ records) error {
		kc := crypto.KeyContext{Namespace: of.doc.Namespace, Key: of.doc.Key}
		c := counts[kc]
		if c == nil {
			c = &crypto.SubjectCount{Context: kc}
			counts[kc] = c
		}
		c.Subjects++
		for _, g := range of.doc.Generations {
			if g.Wrapped != nil {
				c.Keys++
			}
		}
		if last := of.last(); last != nil && !last.Readmitted {
			c.Erased++
		}
		return nil
	})
	for _, c := range counts {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(a, b crypto.SubjectCount) int {
		return cmp.Or(cmp.Compare(a.Context.Namespace, b.Context.Namespace), cmp.Compare(a.Context.Key, b.Context.Key))
	})
	return all, err
}

// AllSubjectKeys is part of crypto.SubjectStore. It reads the whole table. Before, it completes the histories of subjects, so that a key shows
// as erased whose history was restored.
func (s *tableSubjects) AllSubjectKeys(ctx context.Context, visit func(crypto.SubjectRow) error) error {
	if err := s.mend(ctx, "keystore.subject_keys"); err != nil {
		return err
	}
	return s.items.eachSubject(ctx, "keystore.subject_keys", func(of *subject, index crypto.KeyID, tag crypto.SubjectTag, r records) error {
		for i := range of.doc.Generations {
			row := of.generation(i, index, tag, r.now)
			if row.ID == (crypto.KeyID{}) || row.Wrapped == nil && row.Erased != 0 {
				continue
			}
			if err := visit(row); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachSubject calls visit for every subject.
func (s *subjectItems) eachSubject(ctx context.Context, op string, visit func(*subject, crypto.KeyID, crypto.SubjectTag, records) error) error {
	if err := s.store.Check(ctx); err != nil {
		return unavailable(op, err)
	}
	pages := dynamodb.NewScanPaginator(s.table.client, &dynamodb.ScanInput{TableName: s.table.name, ConsistentRead: aws.Bool(true),
		FilterExpression: aws.String("begins_with(pk, :kind)"), ExpressionAttributeValues: item{":kind": &types.AttributeValueMemberS{Value: subjectItem}}})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return s.table.failed(op, err)
		}
		var pks []string
		for _, it := range page.Items {
			of := strings.TrimPrefix(text(it[attrPK]), subjectItem)
			pks = append(pks, subjectItem+of, historyItem+of)
		}
		r, err := s.read(ctx, op, pks...)
		if err != nil {
			return err
		}
		for _, it := range page.Items {
			index, tag, err := subjectIn(strings.TrimPrefix(text(it[attrPK]), subjectItem))
			if err != nil {
				return unavailable(op, err)
			}
			of, err := r.subjectOf(index, tag)
			if err == nil {
				err = visit(&of, index, tag, r)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// subjectIn returns the index key and the tag in the key of an item of a subject.
func subjectIn(text string) (index crypto.KeyID, tag crypto.SubjectTag, err error) {
	first, second, _ := strings.Cut(text, ",")
	a, err1 := hex.DecodeString(first)
	b, err2 := hex.DecodeString(second)
	if err1 != nil || err2 != nil || len(a) != len(index) || len(b) != len(tag) {
		return index, tag, errors.New("the key of an item is not s#, the id of an index key and a tag")
	}
	return crypto.KeyID(a), crypto.SubjectTag(b), nil
}
