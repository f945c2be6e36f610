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
	if q.namespace == "" {
		r |= readNamespace // its default key and the keys' ranks depend on it
	}
	for i := range members {
		m := &members[i]
		switch {
		case r&m.read == 0 || m.text == nil:
		case in.NotApplicable&m.fact != 0 && in.Known&m.fact == 0:
			b = append(b, notApplicable)
		case m.fact != 0 && in.Known&m.fact == 0:
			b = append(b, unknown)
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

// appendText writes a string so that no two lists of strings run together alike.
func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
