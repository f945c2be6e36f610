package policy

import (
	"encoding/binary"
	"hash/maphash"
	"sync/atomic"
)

const (
	cacheWays = 4
	// maxCacheKey bounds what a flood of long names can make the cache hold.
	maxCacheKey = 1 << 10
)

// cache remembers verdicts. It is a table of fixed size in which an entry has four
// places: lookups take no lock and allocate nothing, and what is new pushes out one
// of four. It belongs to one Policy, so nothing in it can outlive a reload.
type cache struct {
	seed maphash.Seed
	mask uint64
	slot []atomic.Pointer[cacheEntry]
}

// remembered is immutable.
type cacheEntry struct {
	hash    uint64
	key     string
	verdict Verdict
	content bool // the verdict hangs on the content: there is none to remember
}

// newCache makes a cache of at least size entries; nil, which remembers nothing, for
// a negative size.
func newCache(size int) *cache {
	if size < 0 {
		return nil
	}
	sets := uint64(1)
	for sets*cacheWays < uint64(size) {
		sets *= 2
	}
	return &cache{seed: maphash.MakeSeed(), mask: sets - 1, slot: make([]atomic.Pointer[cacheEntry], sets*cacheWays)}
}

// get returns the entry for a key, or nil, and the key's hash.
func (m *cache) get(key []byte) (*cacheEntry, uint64) {
	if m == nil {
		return nil, 0
	}
	h := maphash.Bytes(m.seed, key)
	set := (h & m.mask) * cacheWays
	for i := range uint64(cacheWays) {
		if e := m.slot[set+i].Load(); e != nil && e.hash == h && e.key == string(key) {
			return e, h
		}
	}
	return nil, h
}

// put keeps an entry. Its strings must be its own.
func (m *cache) put(e *cacheEntry) {
	if m == nil {
		return
	}
	set := (e.hash & m.mask) * cacheWays
	for i := range uint64(cacheWays) {
		if old := m.slot[set+i].Load(); old == nil || (old.hash == e.hash && old.key == e.key) {
			m.slot[set+i].Store(e)
			return
		}
	}
	m.slot[set+e.hash>>60%cacheWays].Store(e)
}

// appendKey writes what the query can read of the input, and nothing else: two
// payloads with the same key get the same verdict. It fails on claims that are no JSON.
func (q *query) appendKey(b []byte, in *Input) ([]byte, error) {
	b = binary.LittleEndian.AppendUint32(b, q.id)
	class := kindClass(in.Kind)
	if in.Apart {
		class = apartClass
	}
	b = append(b, class)
	r := q.reads.bits
	if q.namespace == "" || r&readNamespace != 0 {
		b = appendText(b, in.Namespace) // its default key and the keys' ranks hang on it
	}
	b = appendIf(b, r&readRPC != 0, in.RPC)
	b = appendIf(b, r&readKind != 0, in.Kind)
	b = appendIf(b, r&readName != 0, in.Name)
	b = appendIf(b, r&readPath != 0, in.Path)
	b = appendIf(b, r&readEncoding != 0, in.Encoding)
	b = appendIf(b, r&readType != 0, in.Type)
	b = appendIf(b, r&readSealedNamespace != 0, in.SealedNamespace)
	b = appendIf(b, r&readSealedKey != 0, in.SealedKey)
	for i := range factTable {
		if f := &factTable[i]; r&f.read != 0 {
			b = appendFact(b, in, f.fact, f.field)
		}
	}
	return q.appendCaller(b, in.Caller)
}

func (q *query) appendCaller(b []byte, c *Caller) ([]byte, error) {
	if c == nil {
		c = anonymous
	}
	r := q.reads.bits
	b = appendIf(b, r&readCallerKind != 0, c.Kind)
	b = appendIf(b, r&readCallerSubject != 0, c.Subject)
	b = appendIf(b, r&readCallerListener != 0, c.Listener)
	if r&readCallerClaims == 0 && len(q.reads.claims) == 0 {
		return b, nil
	}
	if err := c.prepare(); err != nil {
		return b, err
	}
	if r&readCallerClaims != 0 {
		return append(b, c.allClaims[:]...), nil
	}
	for _, name := range q.reads.claims {
		if sum, ok := c.claims[name]; ok {
			b = append(append(b, 1), sum[:]...)
		} else {
			b = append(b, 0)
		}
	}
	return b, nil
}

// apartClass is the class of payloads apart from any message, which have no kind of the other classes.
const apartClass = 3

// kindClass tells apart the kinds for which the contract itself differs.
func kindClass(kind string) byte {
	switch kind {
	case KindSearchAttribute:
		return 1
	case KindReason:
		return 2
	}
	return 0
}

func appendFact(b []byte, in *Input, f FactSet, field func(*Input) *string) []byte {
	switch {
	case in.Known&f != 0:
		return appendText(append(b, 2), *field(in))
	case in.NotApplicable&f != 0:
		return append(b, 1)
	}
	return append(b, 0)
}

func appendIf(b []byte, read bool, s string) []byte {
	if !read {
		return b
	}
	return appendText(b, s)
}

// appendText writes a string so that no two lists of strings run together alike.
func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
