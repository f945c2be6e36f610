package crypto

import (
	"context"
	"encoding/hex"
	"time"
)

// SubjectTag stands for a subject in a key store: a MAC of its text under the index key of a namespace and key name.
type SubjectTag [32]byte

// String is the start of the tag in hex, which is enough to tell subjects apart for a person.
func (t SubjectTag) String() string { return hex.EncodeToString(t[:8]) }

// Kinds of rows beside data keys, whose kind is 0. They are those of envelopes' contexts.
const (
	// RowWrap is the kind of a key that wraps the keys of subjects.
	RowWrap = 2
	// RowIndex is the kind of a key that makes the tags of subjects.
	RowIndex = 3
)

// ParentRow is a wrap key or an index key as a key store has it.
type ParentRow struct {
	KeyRow
	Generation int  // of wrap keys; 0 of index keys
	Current    bool // the time of a wrap key is not over
}

// SubjectRow is one generation of a subject's key as a key store has it.
type SubjectRow struct {
	ID         KeyID // zero of a generation that was only reserved
	Context    KeyContext
	Index      KeyID // of the index key that made the tag
	Tag        SubjectTag
	Generation int
	Parent     KeyID  // of the wrap key
	Wrapped    []byte // nil once it was erased
	// SealFor is how long the generation may still seal, by the store's clock.
	SealFor time.Duration
	Created time.Time
	// Erased is the number of the first erasure of the subject after the key was made, and ErasedAt its time; 0: there is none.
	Erased   int64
	ErasedAt time.Time
	// Seen is the number of the last erasure that the reader had processed before it read the row.
	Seen int64
}

// Erasure is one erased subject of one namespace and key name, or its readmission.
type Erasure struct {
	Seq        int64
	Context    KeyContext
	Index      KeyID
	Tag        SubjectTag
	At         time.Time
	By, Reason string
	Readmitted bool
	Destroyed  []KeyID // keys that were destroyed; only in the answer to Erase
}

// ErasureCounts are what a key store has of erasures. Each has a number of its own, so that all four are the same in a store that lacks
// none, apart from Seen, which may be lower.
type ErasureCounts struct {
	Counter int64 // the number that was given last
	Last    int64 // the highest number of an entry
	Entries int64
	Seen    int64 // the highest number that a replica has processed
}

// Whole reports whether the store lacks no erasure that anybody knows of.
func (c ErasureCounts) Whole() bool {
	return c.Entries == c.Last && c.Last == c.Counter && c.Seen <= c.Counter
}

// ReplicaRow is a process that uses keys of subjects.
type ReplicaRow struct {
	ID     string        `json:"replica"`
	Seq    int64         `json:"seq"` // of the last erasure that it has processed
	Silent time.Duration `json:"-"`   // since it was seen
	MaxLag time.Duration `json:"-"`   // after which it stops using keys of subjects
}

// SubjectCount is how many subjects a namespace and key name has in a key store.
type SubjectCount struct {
	Context                KeyContext
	Subjects, Keys, Erased int
}

// SubjectsOf returns the part of a key store that holds keys of subjects; nil if it holds none.
func SubjectsOf(store KeyStore) SubjectStore {
	if with, ok := store.(interface{ Subjects() SubjectStore }); ok {
		return with.Subjects()
	}
	return nil
}

// SubjectStore is the part of a KeyStore that holds the keys of subjects. Its errors are those of a KeyStore.
type SubjectStore interface {
	// Parents returns the index keys and the wrap keys of a context, one row for each key encryption key that wrapped them, the
	// newest wrap key first.
	Parents(ctx context.Context, kc KeyContext) ([]ParentRow, error)
	// Parent returns the rows of one wrap key or index key.
	Parent(ctx context.Context, id KeyID) ([]ParentRow, error)
	// PutParent inserts a wrap key or index key, unless another one has its place. Parents returns the one that is there.
	PutParent(ctx context.Context, row ParentRow) error
	// SubjectKeys returns the rows of some ids. Ids that the store does not have are left out.
	SubjectKeys(ctx context.Context, ids []KeyID) ([]SubjectRow, error)
	// Generations returns all generations of a subject's key, the newest first.
	Generations(ctx context.Context, index KeyID, tag SubjectTag) ([]SubjectRow, error)
	// PutSubjectKey inserts a generation of a subject's key, unless another one has its place.
	PutSubjectKey(ctx context.Context, row SubjectRow) error
	// Erase destroys all keys of a subject, in one transaction for all of its tags. Each is an Erasure without number and time. What it
	// returns with an error is entered and in force, although the keys that it does not name as destroyed may be there.
	Erase(ctx context.Context, of []Erasure) ([]Erasure, error)
	// DestroyErased destroys the keys that are there although their subject was erased after they were made, and returns their ids.
	DestroyErased(ctx context.Context) ([]KeyID, error)
	// EnterLost enters an erasure of nobody, with the number of one that was lost for good.
	EnterLost(ctx context.Context, e Erasure) error
	// ErasureCounts returns what the store has of erasures.
	ErasureCounts(ctx context.Context) (ErasureCounts, error)
	// Readmit opens a new generation for a subject that was erased. With an error too, what has a number is entered.
	Readmit(ctx context.Context, of Erasure) (Erasure, error)
	// Erasures returns the erasures with numbers from one on, in their order, up to 1000; below 0: the last one alone.
	Erasures(ctx context.Context, from int64) ([]Erasure, error)
	// Seen records that a replica has processed all erasures up to a number.
	Seen(ctx context.Context, r ReplicaRow) error
	// Gone forgets a replica that uses no keys of subjects any more.
	Gone(ctx context.Context, id string) error
	// Replicas returns the processes that were seen lately.
	Replicas(ctx context.Context) ([]ReplicaRow, error)
	// IndexKeys returns the contexts in a namespace, as envelopes have it, that have an index key.
	IndexKeys(ctx context.Context, namespace string) ([]KeyContext, error)
	// LostIndexKeys describes the index keys of any namespace that are missing although other rows need them.
	LostIndexKeys(ctx context.Context) ([]string, error)
	// SubjectCounts counts subjects by namespace and key name.
	SubjectCounts(ctx context.Context) ([]SubjectCount, error)
	// AllSubjectKeys calls visit for every generation of every subject's key that is there or should be, until it returns an error.
	AllSubjectKeys(ctx context.Context, visit func(SubjectRow) error) error
}
