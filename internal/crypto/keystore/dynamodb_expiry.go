package keystore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// The item of a data key that expires has its end, and what became of it. A nameItem says of a namespace and key name whether there are data
// keys that do not expire, and such that do; it is written before the first of them.
const (
	nameItem = "l#"

	attrExpires   = "expires"    // in Unix milliseconds by DynamoDB's clock, as the next
	attrSealUntil = "seal_until" //
	attrDestroyed = "destroyed"
	attrEndless   = "endless"
	attrExpiring  = "expiring"
)

// lookEvery is how old the list of keys that expire may be. Reading it reads the whole table. A key lives for at least an hour, and is in
// the list before it ends.
const lookEvery = time.Hour

// tableExpiry is a crypto.ExpiryStore: the part of a store in DynamoDB whose data keys expire.
type tableExpiry struct {
	store *Store
	table *table
	now   func() time.Time // by this process's clock
}

// ends are the keys that expire, as the table had them when it was read.
type ends struct {
	mu      sync.Mutex
	last    endingKeys  // the latest look that is finished
	reading *endingKeys // one that is not
	next    item        // where it goes on
}

// endingKeys are the result of one look through the table.
type endingKeys struct {
	read       time.Time // when it began; zero: not yet
	consistent bool      // with all that was written before it was read
	keys       map[crypto.KeyID]*endingKey
	endless    map[crypto.KeyContext]int // keys that do not expire
	gone       map[crypto.KeyContext]int // keys that were destroyed
}

// endingKey is a key that is not destroyed, or whose wrapped key is there though it was.
type endingKey struct {
	context   crypto.KeyContext
	end       time.Time
	destroyed bool
}

// expire reports whether there are keys that are not destroyed. The caller holds the lock.
func (e *endingKeys) expire() bool {
	for _, k := range e.keys {
		if !k.destroyed {
			return true
		}
	}
	return false
}

func nameKey(kc crypto.KeyContext) item {
	return key(nameItem + strconv.Itoa(len(kc.Namespace)) + "#" + kc.Namespace + "#" + kc.Key)
}

func isYes(v types.AttributeValue) bool {
	b, ok := v.(*types.AttributeValueMemberBOOL)
	return ok && b.Value
}

func millis(at time.Time) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(at.UnixMilli(), 10)}
}

// millisOf returns a number of an item; 0 if it has none.
func millisOf(v types.AttributeValue) int64 {
	n, _ := strconv.ParseInt(number(v), 10, 64)
	return n
}

var yes = &types.AttributeValueMemberBOOL{Value: true}

// rowsAt returns the rows of an item as rowsOf does, with the life of the key at a time by DynamoDB's clock. An expired key has one row,
// without a wrapped key. A number that cannot be read is a key that has expired, since 0 stands for one that does not.
func rowsAt(it item, asked, now time.Time) []crypto.KeyRow {
	var life *crypto.KeyLife
	if it[attrExpires] != nil || isYes(it[attrDestroyed]) {
		end := max(millisOf(it[attrExpires]), 1)
		life = lifeOf(asked, end, end-now.UnixMilli(), millisOf(it[attrSealUntil])-now.UnixMilli(), isYes(it[attrDestroyed]))
	}
	if !life.Expired() {
		rows := rowsOf(it)
		for i := range rows {
			rows[i].Life = life
		}
		return rows
	}
	without := maps.Clone(it)
	delete(without, attrWraps)
	rows := rowsOf(without)
	if rows[0].Life = life; errors.Is(rows[0].Broken, errNoWrap) {
		rows[0].Broken = nil
	}
	return rows
}

// begin gives the item of a new data key its end, after all that has to be there before the key is: the right to destroy it, and the word
// that the name has such keys.
func (t *table) begin(ctx context.Context, row *crypto.KeyRow, made item, now time.Time) error {
	if row.Kind != 0 {
		return nil
	}
	attr := attrEndless
	if l := row.Life.Left(); l != nil {
		attr = attrExpiring
		if err := clocksDiffer("keystore.put", now, t.now()); err != nil { // the item's end is by DynamoDB's clock alone
			return err
		}
		made[attrSealUntil], made[attrExpires] = millis(now.Add(l.SealFor)), millis(now.Add(max(l.OpenFor, time.Millisecond)))
		if err := t.mayDestroy(ctx); err != nil {
			return err
		}
	}
	out, err := t.client.GetItem(ctx, &dynamodb.GetItemInput{TableName: t.name, Key: nameKey(row.Context), ConsistentRead: aws.Bool(true)})
	if err == nil && !isYes(out.Item[attr]) {
		err = t.setName(ctx, row.Context, attr)
	}
	if err != nil {
		return t.failed("keystore.put", err)
	}
	return nil
}

func (t *table) setName(ctx context.Context, kc crypto.KeyContext, attr string) error {
	_, err := t.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{TableName: t.name, Key: nameKey(kc), UpdateExpression: aws.String("SET #a = :yes"),
		ExpressionAttributeNames: map[string]string{"#a": attr}, ExpressionAttributeValues: item{":yes": yes}})
	return err
}

// mayDestroy makes calls that change nothing and that destroying a key needs.
func (t *table) mayDestroy(ctx context.Context) error {
	_, err := t.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{TableName: t.name, Key: keyOf(crypto.KeyID{}), UpdateExpression: aws.String("REMOVE wraps"),
		ConditionExpression: aws.String("attribute_exists(pk)")})
	action := "dynamodb:UpdateItem"
	if err == nil || t.code(err) == "ConditionalCheckFailedException" {
		_, err = t.client.Scan(ctx, &dynamodb.ScanInput{TableName: t.name, Limit: aws.Int32(1)})
		action = "dynamodb:Scan"
	}
	switch {
	case err == nil:
		return nil
	case t.code(err) == "AccessDeniedException":
		return unavailable("keystore.expire", fmt.Errorf("%w; allow %s on the table %s: %w", crypto.ErrMayNotDestroy, action, *t.name, t.failed("keystore.expire", err)))
	}
	return t.failed("keystore.expire", err)
}

// time returns the time by DynamoDB's clock, and makes sure that the table is the store.
func (x *tableExpiry) time(ctx context.Context) (time.Time, error) {
	out, err := x.table.client.GetItem(ctx, &dynamodb.GetItemInput{TableName: x.table.name, Key: key(metaItem), ConsistentRead: aws.Bool(true)})
	if err == nil {
		err = x.table.expectIn(out.Item, x.store.id)
	} else {
		err = x.table.failed("keystore.expire", err)
	}
	if err != nil {
		return time.Time{}, unavailable("keystore.expire", err)
	}
	now, known := awsmiddleware.GetServerTime(out.ResultMetadata)
	if !known {
		return time.Time{}, unavailable("keystore.expire", errNoDate)
	}
	return clock(now, known), nil
}

// look reads the whole table, unless that was done lately, in half of the time that the caller has: the other half is for keys that the last
// look has found. What it cannot finish goes on at the next call, unless that needs a consistent look and this one is not. The caller holds
// the lock.
func (x *tableExpiry) look(ctx context.Context, within time.Duration) error {
	e := &x.store.ends
	if !e.last.read.IsZero() && time.Since(e.last.read) < within {
		return nil
	}
	if e.reading == nil || within == 0 && !e.reading.consistent {
		e.next = nil
		e.reading = &endingKeys{time.Now(), within == 0, map[crypto.KeyID]*endingKey{}, map[crypto.KeyContext]int{}, map[crypto.KeyContext]int{}}
	}
	if end, ok := ctx.Deadline(); ok && within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	for pages := 0; ; pages++ {
		page, err := x.table.client.Scan(ctx, &dynamodb.ScanInput{TableName: x.table.name, ConsistentRead: &e.reading.consistent, ExclusiveStartKey: e.next,
			FilterExpression: aws.String("begins_with(pk, :k)"), ExpressionAttributeValues: item{":k": &types.AttributeValueMemberS{Value: keyItem}}})
		switch {
		case err == nil:
		case pages > 0 && ctx.Err() != nil:
			return unavailable("keystore.lives", crypto.ErrLookGoesOn)
		default:
			return x.table.failed("keystore.lives", err)
		}
		for _, it := range page.Items {
			e.reading.add(it)
		}
		if e.next = page.LastEvaluatedKey; len(e.next) == 0 {
			e.last, e.reading = *e.reading, nil
			return nil
		}
	}
}

// add takes up an item.
func (e *endingKeys) add(it item) {
	id, of, wrapped := endOf(it)
	switch {
	case of == nil:
	case of.end.IsZero() && !of.destroyed:
		e.endless[of.context]++
	case wrapped:
		e.keys[id] = of
	default:
		e.gone[of.context]++
	}
}

// endOf returns the end of the data key of an item, and whether it has a wrapped key. One without an end does not expire.
func endOf(it item) (id crypto.KeyID, of *endingKey, wrapped bool) {
	row := rowsOf(it)[0]
	if row.Kind != 0 || row.Broken != nil && !errors.Is(row.Broken, errNoWrap) && row.ID == (crypto.KeyID{}) {
		return id, nil, false
	}
	of = &endingKey{context: row.Context, destroyed: isYes(it[attrDestroyed])}
	if it[attrExpires] != nil {
		of.end = time.UnixMilli(max(millisOf(it[attrExpires]), 1)).UTC()
	}
	return row.ID, of, len(wrapsOf(it)) > 0
}

// lookLately is look. Where one is not finished, an earlier one serves; there is an error if there is none.
func (x *tableExpiry) lookLately(ctx context.Context, within time.Duration) error {
	err := x.look(ctx, within)
	if errors.Is(err, crypto.ErrLookGoesOn) && within > 0 && !x.store.ends.last.read.IsZero() {
		return nil
	}
	return err
}

// DestroyExpired is part of crypto.ExpiryStore. One conditional write marks a key and deletes its wrapped key.
func (x *tableExpiry) DestroyExpired(ctx context.Context) (destroyed []crypto.ExpiredKey, more bool, err error) {
	e := &x.store.ends
	e.mu.Lock()
	defer e.mu.Unlock()
	now, err := x.time(ctx)
	if err != nil {
		return nil, false, err
	}
	failed := x.lookLately(ctx, lookEvery)
	if !e.last.expire() && len(e.last.gone) == 0 { // also by an earlier look, if this one failed
		return nil, false, failed
	}
	own := x.now()
	if err := clocksDiffer("keystore.expire", now, own); err != nil {
		return nil, false, err
	}
	due := now
	if own.Before(now) {
		due = own
	}
	destroyed, more, err = x.destroy(ctx, func(k *endingKey) bool { return !k.destroyed && !k.end.After(due) }, &dynamodb.UpdateItemInput{
		UpdateExpression:          aws.String("SET destroyed = :yes REMOVE wraps"),
		ConditionExpression:       aws.String("expires <= :due AND attribute_not_exists(destroyed)"),
		ExpressionAttributeValues: item{":yes": yes, ":due": millis(due)}})
	return destroyed, more, cmp.Or(err, failed)
}

// DestroyReturned is part of crypto.ExpiryStore.
func (x *tableExpiry) DestroyReturned(ctx context.Context) (destroyed []crypto.ExpiredKey, more bool, err error) {
	e := &x.store.ends
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, err := x.time(ctx); err != nil {
		return nil, false, err
	}
	failed := x.look(ctx, time.Minute)
	destroyed, more, err = x.destroy(ctx, func(k *endingKey) bool { return k.destroyed }, &dynamodb.UpdateItemInput{
		UpdateExpression: aws.String("REMOVE wraps"), ConditionExpression: aws.String("destroyed = :yes AND attribute_exists(wraps)"),
		ExpressionAttributeValues: item{":yes": yes}})
	return destroyed, more, cmp.Or(err, failed)
}

// destroy makes a conditional write for each of the keys that are chosen. A key for which the condition does not hold is not what the table
// had when it was read: another process has destroyed it, or its end is another one. The caller holds the lock.
func (x *tableExpiry) destroy(
	ctx context.Context, chosen func(*endingKey) bool, write *dynamodb.UpdateItemInput,
) (destroyed []crypto.ExpiredKey, more bool, err error) {
	var ids []crypto.KeyID
	for id, k := range x.store.ends.last.keys {
		if chosen(k) {
			ids = append(ids, id)
		}
	}
	for _, id := range ids[:min(len(ids), perSweep)] {
		k := x.store.ends.last.keys[id]
		write.TableName, write.Key = x.table.name, keyOf(id)
		_, err := x.table.client.UpdateItem(ctx, write)
		switch {
		case err == nil:
			destroyed = append(destroyed, crypto.ExpiredKey{ID: id, Context: k.context, End: k.end})
			delete(x.store.ends.last.keys, id)
			x.store.ends.last.gone[k.context]++
		case x.table.code(err) == "ConditionalCheckFailedException":
			if err := x.again(ctx, id); err != nil {
				return destroyed, false, err
			}
		case x.table.code(err) == "AccessDeniedException":
			return destroyed, false, unavailable("keystore.expire", fmt.Errorf("%w; allow dynamodb:UpdateItem on the table %s: %w",
				crypto.ErrMayNotDestroy, *x.table.name, x.table.failed("keystore.expire", err)))
		default:
			return destroyed, false, x.table.failed("keystore.expire", err)
		}
	}
	return destroyed, len(ids) > perSweep, nil
}

// again reads the item of a key that is not as it was. The caller holds the lock.
func (x *tableExpiry) again(ctx context.Context, id crypto.KeyID) error {
	e := &x.store.ends.last
	out, err := x.table.client.GetItem(ctx, &dynamodb.GetItemInput{TableName: x.table.name, Key: keyOf(id), ConsistentRead: aws.Bool(true)})
	if err != nil {
		return x.table.failed("keystore.expire", err)
	}
	delete(e.keys, id)
	if out.Item == nil {
		return nil
	}
	if _, of, wrapped := endOf(out.Item); of != nil && wrapped && (!of.end.IsZero() || of.destroyed) {
		e.keys[id] = of
	}
	return nil
}

// MayDestroy is part of crypto.ExpiryStore.
func (x *tableExpiry) MayDestroy(ctx context.Context) error { return x.table.mayDestroy(ctx) }

// Has is part of crypto.ExpiryStore.
func (x *tableExpiry) Has(ctx context.Context, kc crypto.KeyContext) (endless, expiring bool, err error) {
	if err := x.store.Check(ctx); err != nil {
		return false, false, unavailable("keystore.lives", err)
	}
	out, err := x.table.client.GetItem(ctx, &dynamodb.GetItemInput{TableName: x.table.name, Key: nameKey(kc), ConsistentRead: aws.Bool(true)})
	if err != nil {
		return false, false, unavailable("keystore.lives", x.table.failed("keystore.lives", err))
	}
	return isYes(out.Item[attrEndless]), isYes(out.Item[attrExpiring]), nil
}

// Lives is part of crypto.ExpiryStore.
func (x *tableExpiry) Lives(ctx context.Context, all bool) ([]crypto.KeyLives, error) {
	e := &x.store.ends
	e.mu.Lock()
	defer e.mu.Unlock()
	now, err := x.time(ctx)
	if err != nil {
		return nil, err
	}
	within := lookEvery
	if all {
		within = 0
	}
	if err := x.lookLately(ctx, within); err != nil {
		return nil, err
	}
	lives := map[crypto.KeyContext]*crypto.KeyLives{}
	of := func(kc crypto.KeyContext) *crypto.KeyLives {
		if lives[kc] == nil {
			lives[kc] = &crypto.KeyLives{Context: kc}
		}
		return lives[kc]
	}
	for _, k := range e.last.keys {
		l, late := of(k.context), k.end.Add(crypto.OverdueAfter)
		if k.destroyed || !late.After(now) || !late.After(x.now()) {
			l.Overdue++
		}
		if k.destroyed || !k.end.After(now) {
			l.Expired++
			continue
		}
		if l.Expiring++; l.Next.IsZero() || k.end.Before(l.Next) {
			l.Next = k.end
		}
	}
	if all {
		for kc, n := range e.last.endless {
			of(kc).Endless += n
		}
		for kc, n := range e.last.gone {
			of(kc).Expired += n
		}
	}
	list := make([]crypto.KeyLives, 0, len(lives))
	for _, l := range lives {
		list = append(list, *l)
	}
	slices.SortFunc(list, func(a, b crypto.KeyLives) int {
		if c := strings.Compare(a.Context.Namespace, b.Context.Namespace); c != 0 {
			return c
		}
		return strings.Compare(a.Context.Key, b.Context.Key)
	})
	return list, nil
}

// nameAll writes the items of names whose keys an earlier release has made: none of them expires.
func (t *table) nameAll(ctx context.Context) error {
	names := map[crypto.KeyContext]bool{}
	if err := t.all(ctx, func(r crypto.KeyRow) error {
		if r.Kind == 0 && r.Context.Namespace != "" && r.Life == nil {
			names[r.Context] = true
		}
		return nil
	}); err != nil {
		return err
	}
	for kc := range names {
		if err := t.setName(ctx, kc, attrEndless); err != nil {
			return t.failed("migrate key store", err)
		}
	}
	return nil
}
