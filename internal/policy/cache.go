package policy

import (
	"encoding/binary"
	"hash/maphash"
	"sync/atomic"
	"unsafe"
)

const (
	cacheWays = 4
	// maxCacheKey bounds the memory that long names of callers can take up in the cache. A longer key is
	// not kept.
	maxCacheKey = 1 << 10
	// maxCacheBytes is what all entries may take, some 500 bytes each. maxEntry is what one may: verdicts
	// can hold texts that rules make of a caller's.
	maxCacheBytes = 16 << 20
	maxEntry      = maxCacheBytes / 256
	entryOverhead = 160
)

// cache is the policy cache: verdicts by all that the rules can read of a payload and its call. It is a
// table of fixed size in which an entry has four places: lookups take no lock and allocate nothing, and a
// new entry replaces one of four, and more where all of them take too many bytes. It belongs to one Policy, so a verdict cannot outlive the revision that
// gave it.
type cache struct {
	seed maphash.Seed
	mask uint64
	slot []atomic.Pointer[cacheEntry]

	bytes atomic.Int64
	hand  atomic.Uint64 // the slot that was emptied last for want of bytes
}

// cacheEntry is one verdict. It is immutable.
type cacheEntry struct {
	hash    uint64
	key     string
	verdict Verdict
	content bool // the verdict depends on the payload's content, so there is none to keep
}

// newCache makes a cache of at least size entries. For a negative size it returns nil, which is a cache
// that keeps nothing.
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

// put keeps an entry, unless it is too large. Its strings must be its own.
func (m *cache) put(e *cacheEntry) {
	if m == nil || len(e.key) > maxCacheKey || e.size() > maxEntry {
		return
	}
	set := (e.hash & m.mask) * cacheWays
	place := set + e.hash>>60%cacheWays
	for i := range uint64(cacheWays) {
		if old := m.slot[set+i].Load(); old == nil || (old.hash == e.hash && old.key == e.key) {
			place = set + i
			break
		}
	}
	m.replace(place, e)
	for m.bytes.Load() > maxCacheBytes {
		m.replace(m.hand.Add(1)%uint64(len(m.slot)), nil)
	}
}

// replace puts an entry, or nil, in the place of another.
func (m *cache) replace(i uint64, e *cacheEntry) {
	old := m.slot[i].Swap(e)
	m.bytes.Add(e.size() - old.size())
}

// size is what an entry takes, or nil, in bytes.
func (e *cacheEntry) size() int64 {
	if e == nil {
		return 0
	}
	v := &e.verdict
	n := entryOverhead + len(e.key) + len(v.Key) + len(v.Reason) + len(v.Subject.Pointer) + len(v.Subject.Fact) + len(v.Subject.Default)
	for _, pointers := range [][]string{v.Fields, v.Clear, v.Optional, v.masked().Fields, v.masked().Optional} {
		for _, p := range pointers {
			n += len(p) + int(unsafe.Sizeof(p))
		}
	}
	return int64(n)
}

// appendKey appends all that the query reads of the input, apart from content: two payloads with the
// same key get the same verdict. r is what it can read, or has read. It fails if the caller's claims are not
// JSON values.
func (q *query) appendKey(b []byte, in *Input, r MemberSet) ([]byte, error) {
	b = binary.LittleEndian.AppendUint32(b, q.id)
	class := kindClass(in.Kind)
	if in.Apart {
		class = apartClass
	}
	if q.masks && q.direction == Request && in.maskable() {
		class |= maskableClass // what is unknown refuses it, and not the others: see missesMask
	}
	b = append(b, class)
	if q.namespace == "" {
		r |= readNamespace // its default key and the keys' ranks depend on it
	}
	missing := in.unknown()
	for i := range members {
		m := &members[i]
		switch {
		case r&m.read == 0 || m.text == nil:
		case missing&m.read != 0:
			b = append(b, unknown)
		case AllFacts&^in.Known&m.read != 0:
			b = append(b, notApplicable)
		default:
			b = appendText(append(b, known), *m.text(in))
		}
	}
	if r&readCallerClaims == 0 && len(q.reads.claims) == 0 {
		return b, nil
	}
	return q.appendClaims(b, in.caller())
}

// How a member of a key is there.
const (
	unknown byte = iota
	notApplicable
	known
)

// appendClaims appends hashes of the claims that rules read, all of them or single ones.
func (q *query) appendClaims(b []byte, c *Caller) ([]byte, error) {
	if err := c.prepare(); err != nil {
		return b, err
	}
	if q.reads.bits&readCallerClaims != 0 {
		return append(b, c.allClaims[:]...), nil
	}
	for _, name := range q.reads.claims {
		if sum, ok := c.claims[name]; ok {
			b = append(append(b, known), sum[:]...)
		} else {
			b = append(b, notApplicable)
		}
	}
	return b, nil
}

// apartClass is the class of payloads apart from any message, which have no kind of the other classes.
const apartClass = 3

// maskableClass is added to the class of payloads that may be masked, in queries with rules that mask.
const maskableClass = 1 << 7

// kindClass separates the kinds that unite treats differently whatever the rules say.
func kindClass(kind string) byte {
	switch kind {
	case KindSearchAttribute:
		return 1
	case KindReason, KindText:
		return 2
	}
	return 0
}

// appendText appends a string behind its length, so that different lists of strings never give the same
// bytes.
func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
