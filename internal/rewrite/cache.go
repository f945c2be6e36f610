package rewrite

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// cache keeps values whose number and size are up to callers. It forgets those that were
// not used for the longest time.
type cache[K comparable, V any] struct {
	mu      sync.Mutex
	entries *simplelru.LRU[K, cached[V]]
	most    int // bytes
	bytes   int
}

// cached is a value, and the bytes that it takes.
type cached[V any] struct {
	value V
	size  int
}

// newCache returns a cache with limits of entries and of bytes.
func newCache[K comparable, V any](entries, bytes int) *cache[K, V] {
	c := &cache[K, V]{most: bytes}
	c.entries, _ = simplelru.NewLRU(entries, func(_ K, v cached[V]) { c.bytes -= v.size }) // fails for sizes below 1 only
	return c
}

// get returns a value; ok is false if it is not known.
func (c *cache[K, V]) get(key K) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, ok := c.entries.Get(key)
	return found.value, ok
}

// add stores a value of that size.
func (c *cache[K, V]) add(key K, v V, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.entries.Peek(key); ok {
		c.bytes -= old.size
	}
	c.bytes += size
	c.entries.Add(key, cached[V]{v, size})
	for c.bytes > c.most {
		c.entries.RemoveOldest()
	}
}

// size returns how many entries there are, and their bytes.
func (c *cache[K, V]) size() (entries, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entries.Len(), c.bytes
}
