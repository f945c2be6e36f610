package keystore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/awsclient"
	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
)

const (
	// perBatch is how many items BatchGetItem returns at most.
	perBatch = 100
	// maxTries is how often a row is written that another process writes at the same time.
	maxTries = 10
	// tableWait is how long init waits for a table that it has made.
	tableWait = 2 * time.Minute
)

// An item's key is metaItem or a keyItem followed by the id of a data key in hex. A data key and its wraps are one item, so
// that one read returns all of them, and one conditional write makes both.
const (
	metaItem = "meta"
	keyItem  = "k#"

	attrPK        = "pk"
	attrStore     = "store_id"
	attrSchema    = "schema"
	attrKind      = "kind"
	attrNamespace = "namespace"
	attrKey       = "key_name"
	attrCreated   = "created_at"
	attrWraps     = "wraps" // by the reference of the key encryption key in hex
	attrKEKURI    = "kek_uri"
	attrWrapped   = "wrapped"
)

// table is a DynamoDB table.
type table struct {
	client *dynamodb.Client
	name   *string
	now    func() time.Time // by this process's clock
}

type item = map[string]types.AttributeValue

var tableNames = regexp.MustCompile(`^[A-Za-z0-9_.-]{3,255}$`)

// checkDynamoDB returns what is wrong with what follows the scheme of a URI.
func checkDynamoDB(rest string) (name string, place awsclient.Place, err error) {
	rest, ok := strings.CutPrefix(rest, "//")
	name, query, _ := strings.Cut(rest, "?")
	if !ok || !tableNames.MatchString(name) {
		return "", place, notConfigured("the URI %s", NoStoreURI)
	}
	if place, err = awsclient.ParsePlace("dynamodb://"+name, query); err != nil {
		err = notConfigured("%w", err)
	}
	return name, place, err
}

// openDynamoDB returns the table of a URI. It sends nothing yet.
func openDynamoDB(rest string) (*table, error) {
	name, place, err := checkDynamoDB(rest)
	if err != nil {
		return nil, err
	}
	cfg, err := awsclient.Load(context.Background(), place)
	if err != nil {
		return nil, notConfigured("dynamodb://%s: %w", name, err)
	}
	return &table{name: &name, now: time.Now, client: dynamodb.NewFromConfig(cfg, func(o *dynamodb.Options) {
		if place.Endpoint != "" {
			o.BaseEndpoint = &place.Endpoint
		}
	})}, nil
}

func (*table) close() error { return nil } // connections are shared

// failed makes the error of a call.
func (t *table) failed(op string, err error) error {
	if t.code(err) == "ResourceNotFoundException" {
		return notConfigured("the table %s does not exist, or is not active; for a new key store: temporal-seal keystore init", *t.name)
	}
	return unavailable(op, awsclient.Brief("DynamoDB", err))
}

func (*table) code(err error) string { return awsclient.ErrorCode("DynamoDB", err) }

// storeID returns the store's id, "" where the table has none, and the number of its schema.
func (t *table) storeID(ctx context.Context) (id string, schema int, err error) {
	meta, err := t.meta(ctx)
	if err != nil {
		return "", 0, err
	}
	return t.identity(meta)
}

// meta returns the item that has the store's id and the number of its schema; nil if there is none.
func (t *table) meta(ctx context.Context) (item, error) {
	out, err := t.client.GetItem(ctx, &dynamodb.GetItemInput{TableName: t.name, Key: key(metaItem), ConsistentRead: aws.Bool(true)})
	if err != nil {
		return nil, t.failed("open key store", err)
	}
	return out.Item, nil
}

// identity is storeID of the item meta.
func (t *table) identity(meta item) (id string, schema int, err error) {
	if id = text(meta[attrStore]); id == "" {
		return "", 0, nil
	}
	if schema, err = strconv.Atoi(number(meta[attrSchema])); err != nil {
		return "", 0, notConfigured("the item meta of the table %s has no schema", *t.name)
	}
	if schema > schemaVersion {
		return "", schema, errNewerSchema()
	}
	return id, schema, nil
}

// expect is part of backend.
func (t *table) expect(ctx context.Context, want string) error {
	meta, err := t.meta(ctx)
	if err != nil {
		return err
	}
	return t.expectIn(meta, want)
}

// expectIn is expect for the item meta.
func (t *table) expectIn(meta item, want string) error {
	schema, err := t.isStore(meta, want)
	if err == nil && schema < schemaVersion {
		return errOlderSchema()
	}
	return err
}

// isStore returns an error unless the item meta is that of the store with an id, in any schema that is not newer.
func (t *table) isStore(meta item, want string) (schema int, err error) {
	got, schema, err := t.identity(meta)
	switch {
	case err != nil:
		return 0, err
	case got == "":
		return 0, errNoStore()
	}
	return schema, sameStore(got, want)
}

// migrate is part of backend.
func (t *table) migrate(ctx context.Context, id string) (changed bool, err error) {
	meta, err := t.meta(ctx)
	if err != nil {
		return false, err
	}
	schema, err := t.isStore(meta, id)
	if err != nil || schema == schemaVersion {
		return false, err
	}
	if err := t.nameAll(ctx); err != nil {
		return false, err
	}
	_, err = t.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{TableName: t.name, Key: key(metaItem),
		UpdateExpression: aws.String("SET #schema = :now"), ConditionExpression: aws.String("store_id = :id AND #schema < :now"),
		ExpressionAttributeNames: map[string]string{"#schema": attrSchema},
		ExpressionAttributeValues: item{":id": &types.AttributeValueMemberS{Value: id},
			":now": &types.AttributeValueMemberN{Value: strconv.Itoa(schemaVersion)}}})
	if err != nil {
		return false, t.failed("migrate key store", err)
	}
	return true, nil
}

// warnings is part of backend. DynamoDB confirms a write once it is stored in several zones.
func (*table) warnings(context.Context) ([]string, error) { return nil, nil }

// init is part of backend. It makes the table, unless it is there, and protects it from being deleted.
func (t *table) init(ctx context.Context) (id string, made bool, err error) {
	if err := t.create(ctx); err != nil {
		return "", false, err
	}
	fresh := make([]byte, 16)
	rand.Read(fresh)
	meta := key(metaItem)
	meta[attrStore] = &types.AttributeValueMemberS{Value: hex.EncodeToString(fresh)}
	meta[attrSchema] = &types.AttributeValueMemberN{Value: strconv.Itoa(schemaVersion)}
	_, err = t.client.PutItem(ctx, &dynamodb.PutItemInput{TableName: t.name, Item: meta, ConditionExpression: aws.String("attribute_not_exists(pk)")})
	if err != nil && t.code(err) != "ConditionalCheckFailedException" {
		return "", false, t.failed("make key store", err)
	}
	made = err == nil
	id, _, err = t.storeID(ctx)
	return id, made, err
}

// create makes the table, unless it is there.
func (t *table) create(ctx context.Context) error {
	name := &dynamodb.DescribeTableInput{TableName: t.name}
	out, err := t.client.DescribeTable(ctx, name)
	switch {
	case err == nil:
		keys := out.Table.KeySchema
		if len(keys) != 1 || aws.ToString(keys[0].AttributeName) != attrPK {
			return notConfigured("the table %s has another key than the string pk alone; name another table", *t.name)
		}
	case t.code(err) != "ResourceNotFoundException":
		return t.failed("make key store", err)
	default:
		if _, err = t.client.CreateTable(ctx, &dynamodb.CreateTableInput{TableName: t.name,
			AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String(attrPK), AttributeType: types.ScalarAttributeTypeS}},
			KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String(attrPK), KeyType: types.KeyTypeHash}},
			BillingMode:          types.BillingModePayPerRequest, DeletionProtectionEnabled: aws.Bool(true),
		}); err != nil && t.code(err) != "ResourceInUseException" {
			return t.failed("make key store", err)
		}
	}
	if err := dynamodb.NewTableExistsWaiter(t.client).Wait(ctx, name, tableWait); err != nil {
		return unavailable("make key store", fmt.Errorf("the table %s is not active: %w", *t.name, err))
	}
	return nil
}

// get is part of backend.
func (t *table) get(ctx context.Context, ids []crypto.KeyID) (rows []crypto.KeyRow, err error) {
	pks := make([]string, len(ids))
	for i, id := range ids {
		pks[i] = keyItem + id.String()
	}
	asked := time.Now()
	found, now, err := t.items(ctx, "keystore.get", pks)
	if err != nil {
		return nil, err
	}
	for _, it := range found {
		rows = append(rows, slices.DeleteFunc(rowsAt(it, asked, now), isBroken)...)
	}
	return rows, nil
}

// items returns the items of some keys, by their keys, without those that are not there, and the time by DynamoDB's clock.
func (t *table) items(ctx context.Context, op string, pks []string) (found map[string]item, now time.Time, err error) {
	found = make(map[string]item, len(pks))
	for batch := range slices.Chunk(pks, perBatch) {
		keys := make([]item, len(batch))
		for i, pk := range batch {
			keys[i] = key(pk)
		}
		if now, err = t.batch(ctx, op, keys, found); err != nil {
			return nil, now, err
		}
	}
	return found, now, nil
}

// batch adds the items of up to perBatch keys to found. DynamoDB may leave some out, which it names: they are asked for again.
func (t *table) batch(ctx context.Context, op string, keys []item, found map[string]item) (now time.Time, err error) {
	pause := backoff.Backoff{First: 20 * time.Millisecond, Max: time.Second, Jitter: 0.5}
	for {
		out, err := t.client.BatchGetItem(ctx, &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{
			*t.name: {Keys: keys, ConsistentRead: aws.Bool(true)}}})
		if err != nil {
			return now, t.failed(op, err)
		}
		for _, it := range out.Responses[*t.name] {
			found[text(it[attrPK])] = it
		}
		if keys = out.UnprocessedKeys[*t.name].Keys; len(keys) == 0 {
			return clock(awsmiddleware.GetServerTime(out.ResultMetadata)), nil
		}
		if err := pause.Wait(ctx); err != nil {
			return now, unavailable(op, fmt.Errorf("DynamoDB leaves %d of the items out: %w", len(keys), err))
		}
	}
}

// errNoDate is why no key that expires is made or destroyed: the clock of this machine alone does not decide that.
var errNoDate = errors.New("the answer of DynamoDB has no header Date, so its clock is not known, and no key that expires is made or destroyed; " +
	"have what is between the proxy and DynamoDB pass that header on")

// clock returns the time by DynamoDB's clock, which its answers have to the second. Within the second it is that of this machine, and so it
// is for an answer without a time: then a key opens for as long as it would by this machine's clock.
func clock(at time.Time, known bool) time.Time {
	local := time.Now()
	switch {
	case !known:
		return local
	case local.Before(at):
		return at
	case local.After(at.Add(time.Second)):
		return at.Add(time.Second)
	}
	return local
}

// insert is part of backend. A row that is there is not written, since writes cost more than reads. The store's id is compared before the
// write and after it, and not by a transaction with it: all inserts of all processes would meet at the item that has the id, and
// DynamoDB refuses transactions that meet. A row that gets into another store harms nobody, since nothing refers to it.
func (t *table) insert(ctx context.Context, row *crypto.KeyRow, store string) error {
	pause := backoff.Backoff{First: 20 * time.Millisecond, Max: time.Second, Jitter: 0.5}
	for try := 1; ; try++ {
		if err := t.expect(ctx, store); err != nil {
			return err
		}
		out, err := t.client.GetItem(ctx, &dynamodb.GetItemInput{TableName: t.name, Key: keyOf(row.ID), ConsistentRead: aws.Bool(true)})
		if err != nil {
			return t.failed("keystore.put", err)
		}
		_, there := wrapsOf(out.Item)[row.KEK.String()]
		other := text(out.Item[attrNamespace]) != row.Context.Namespace || text(out.Item[attrKey]) != row.Context.Key
		if there || other && out.Item != nil {
			return nil // Put compares
		}
		at, known := awsmiddleware.GetServerTime(out.ResultMetadata)
		if out.Item == nil && row.Life != nil && !known {
			return unavailable("keystore.put", errNoDate)
		}
		now := clock(at, known)
		if out.Item != nil && rowsAt(out.Item, now, now)[0].Life.Expired() {
			return nil // Put finds out
		}
		made := itemOf(row)
		if out.Item == nil {
			if err := t.begin(ctx, row, made, now); err != nil {
				return err
			}
		}
		if err = t.write(ctx, row, out.Item, made); err == nil {
			return t.expect(ctx, store)
		}
		// Another process has written the same item meanwhile, or is about to.
		again := t.code(err) == "ConditionalCheckFailedException" || t.code(err) == "TransactionConflictException"
		if !again || try == maxTries || pause.Wait(ctx) != nil {
			return t.failed("keystore.put", err)
		}
	}
}

// write makes the item of a row, or adds a wrap to the one that is there. A key that was destroyed gets none.
func (t *table) write(ctx context.Context, row *crypto.KeyRow, there, made item) (err error) {
	wrap := wrapOf(row)
	switch {
	case there == nil:
		_, err = t.client.PutItem(ctx, &dynamodb.PutItemInput{TableName: t.name, Item: made, ConditionExpression: aws.String("attribute_not_exists(pk)")})
	case there[attrWraps] == nil:
		_, err = t.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{TableName: t.name, Key: keyOf(row.ID), UpdateExpression: aws.String("SET wraps = :wraps"),
			ConditionExpression:       aws.String("attribute_exists(pk) AND attribute_not_exists(wraps) AND attribute_not_exists(destroyed)"),
			ExpressionAttributeValues: item{":wraps": &types.AttributeValueMemberM{Value: item{row.KEK.String(): wrap}}}})
	default:
		_, err = t.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{TableName: t.name, Key: keyOf(row.ID), UpdateExpression: aws.String("SET wraps.#kek = :wrap"),
			ConditionExpression:       aws.String("attribute_exists(pk) AND attribute_not_exists(wraps.#kek) AND attribute_not_exists(destroyed)"),
			ExpressionAttributeNames:  map[string]string{"#kek": row.KEK.String()},
			ExpressionAttributeValues: item{":wrap": wrap}})
	}
	return err
}

// stillStore has a transaction fail unless the table is the store with an id, with the schema of this release.
func (t *table) stillStore(id string) types.TransactWriteItem {
	return types.TransactWriteItem{ConditionCheck: &types.ConditionCheck{TableName: t.name, Key: key(metaItem),
		ConditionExpression:      aws.String("store_id = :id AND #schema = :schema"),
		ExpressionAttributeNames: map[string]string{"#schema": attrSchema},
		ExpressionAttributeValues: item{":id": &types.AttributeValueMemberS{Value: id},
			":schema": &types.AttributeValueMemberN{Value: strconv.Itoa(schemaVersion)}}}}
}

// itemOf returns the item of a data key with one wrap.
func itemOf(row *crypto.KeyRow) item {
	made := keyOf(row.ID)
	made[attrKind] = &types.AttributeValueMemberN{Value: strconv.Itoa(int(row.Kind))}
	made[attrNamespace] = &types.AttributeValueMemberS{Value: row.Context.Namespace}
	made[attrKey] = &types.AttributeValueMemberS{Value: row.Context.Key}
	made[attrCreated] = &types.AttributeValueMemberS{Value: time.Now().UTC().Format(time.RFC3339)}
	made[attrWraps] = &types.AttributeValueMemberM{Value: item{row.KEK.String(): wrapOf(row)}}
	return made
}

func wrapOf(row *crypto.KeyRow) types.AttributeValue {
	return &types.AttributeValueMemberM{Value: item{
		attrKEKURI: &types.AttributeValueMemberS{Value: row.KEKURI}, attrWrapped: &types.AttributeValueMemberB{Value: row.Wrapped}}}
}

// refused returns the error of a transaction, and whether to try again: another one may have written the same item meanwhile, or
// be under way.
func (t *table) refused(ctx context.Context, op string, err error, store string) (again bool, _ error) {
	var canceled *types.TransactionCanceledException
	if !errors.As(err, &canceled) {
		return false, t.failed(op, err)
	}
	if err := t.expect(ctx, store); err != nil {
		return false, err
	}
	for _, reason := range canceled.CancellationReasons {
		switch aws.ToString(reason.Code) {
		case "ConditionalCheckFailed", "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded":
			again = true
		}
	}
	return again, t.failed(op, err)
}

// all is part of backend. The items come in no order.
func (t *table) all(ctx context.Context, visit func(crypto.KeyRow) error) error {
	pages := dynamodb.NewScanPaginator(t.client, &dynamodb.ScanInput{TableName: t.name, ConsistentRead: aws.Bool(true)})
	for pages.HasMorePages() {
		asked := time.Now()
		page, err := pages.NextPage(ctx)
		if err != nil {
			return t.failed("keystore.all", err)
		}
		now := clock(awsmiddleware.GetServerTime(page.ResultMetadata))
		for _, it := range page.Items {
			if !strings.HasPrefix(text(it[attrPK]), keyItem) {
				continue
			}
			for _, r := range rowsAt(it, asked, now) {
				if r.Life.Expired() {
					continue
				}
				if err := visit(r); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// rowsOf returns the rows of an item: one for each wrap, in the order of their references.
func rowsOf(it item) (rows []crypto.KeyRow) {
	row := crypto.KeyRow{Context: crypto.KeyContext{Namespace: text(it[attrNamespace]), Key: text(it[attrKey])}}
	id, err := hex.DecodeString(strings.TrimPrefix(text(it[attrPK]), keyItem))
	if err != nil || len(id) != len(row.ID) {
		row.Broken = fmt.Errorf("the key of an item, %q, is not k# and the id of a data key", text(it[attrPK]))
		return []crypto.KeyRow{row}
	}
	row.ID = crypto.KeyID(id)
	kind, err := strconv.ParseUint(number(it[attrKind]), 10, 8)
	if err != nil {
		row.Broken = errors.New("its item has no kind")
		return []crypto.KeyRow{row}
	}
	row.Kind = uint8(kind)
	wraps := wrapsOf(it)
	if len(wraps) == 0 {
		row.Broken = errNoWrap
		return []crypto.KeyRow{row}
	}
	for _, ref := range slices.Sorted(maps.Keys(wraps)) {
		r := row
		raw, err := hex.DecodeString(ref)
		if wrap, ok := wraps[ref].(*types.AttributeValueMemberM); ok {
			r.KEKURI, r.Wrapped = text(wrap.Value[attrKEKURI]), bytesOf(wrap.Value[attrWrapped])
		}
		if err != nil || len(raw) != len(r.KEK) || r.Wrapped == nil {
			r.Broken = fmt.Errorf("the wrap %q of its item is broken", ref)
		}
		copy(r.KEK[:], raw)
		rows = append(rows, r)
	}
	return rows
}

func key(pk string) item { return item{attrPK: &types.AttributeValueMemberS{Value: pk}} }

func keyOf(id crypto.KeyID) item { return key(keyItem + id.String()) }

func wrapsOf(it item) item {
	if m, ok := it[attrWraps].(*types.AttributeValueMemberM); ok {
		return m.Value
	}
	return nil
}

func text(v types.AttributeValue) string {
	if s, ok := v.(*types.AttributeValueMemberS); ok {
		return s.Value
	}
	return ""
}

func number(v types.AttributeValue) string {
	if n, ok := v.(*types.AttributeValueMemberN); ok {
		return n.Value
	}
	return ""
}

func bytesOf(v types.AttributeValue) []byte {
	if b, ok := v.(*types.AttributeValueMemberB); ok {
		return b.Value
	}
	return nil
}
