package keyring

import (
	"maps"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

const (
	maxDataKeys = 8192
	maxRefusals = 4096
	maxMissing  = 65536 // rows that the key store did not have; about 10 MB in all
	evictionTry = 16    // data keys among which the one that was not used for longest makes room
)

func newLRU[K comparable, V any](size int) *lru.Cache[K, V] {
	c, _ := lru.New[K, V](size) // it fails only for a size below 1
	return c
}

// dataKeys are those that opening remembers. Looking one up takes no exclusive lock, since a history may need hundreds.
// Keys of subjects have places of their own, so that a caller with many subjects pushes out no data key.
type dataKeys struct {
	core     *core
	mu       sync.RWMutex
	m        map[crypto.KeyID]*dataKey
	subjects map[crypto.KeyID]*dataKey
}

// find returns the data key of an envelope, if it is there and may serve now.
func (d *dataKeys) find(s *envelope.Sealed) *dataKey {
	dk := d.get(s.Header.ID)
	if dk == nil || !dk.opens(s) {
		return nil
	}
	d.core.touch(&dk.used)
	return dk
}

// found returns the data key that an envelope's names are from, if it may serve now.
func (d *dataKeys) found(s *envelope.Sealed) *dataKey {
	dk, _ := s.Header.Found.(*dataKey)
	if dk == nil || !dk.opens(s) {
		return nil
	}
	d.core.touch(&dk.used)
	return dk
}

// get returns the data key of an id.
func (d *dataKeys) get(id crypto.KeyID) *dataKey {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.locked(id)
}

// locked is get for a caller that holds the lock.
func (d *dataKeys) locked(id crypto.KeyID) *dataKey {
	if dk := d.m[id]; dk != nil {
		return dk
	}
	return d.subjects[id]
}

// add remembers a data key, in the place of another one if there are many.
func (d *dataKeys) add(dk *dataKey) {
	dk.used.Store(d.core.coarse.Load())
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.m
	if dk.subject != nil {
		m = d.subjects
	}
	if len(m) >= maxDataKeys && m[dk.id] == nil {
		var oldest *dataKey
		tried := 0
		for _, k := range m { // in random order
			if oldest == nil || k.used.Load() < oldest.used.Load() {
				oldest = k
			}
			if tried++; tried == evictionTry {
				break
			}
		}
		delete(m, oldest.id)
	}
	m[dk.id] = dk
}

// forget has data keys that match asked for again when an envelope needs them. Where they seal, they go on.
func (d *dataKeys) forget(match func(*dataKey) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.m, func(_ crypto.KeyID, dk *dataKey) bool { return match(dk) })
}

// drop forgets the data keys that match, and ends their use.
func (d *dataKeys) drop(match func(*dataKey) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range []map[crypto.KeyID]*dataKey{d.m, d.subjects} {
		for id, dk := range m {
			if match(dk) {
				dk.drop()
				delete(m, id)
			}
		}
	}
}
