package keyring

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	maxUnconfirmed = 64 // slots of namespaces that are only claimed

	// maxSlots bounds the memory of slots in bytes: room for 10,000 of short names, 3,000 of the longest. Those that were used least
	// recently leave, and have a data key made again when they are used.
	maxSlots = 32 << 20
	// maxNames is the same for the names of namespaces that exist, with or without a slot.
	maxNames = 16 << 20
)

// cost is about what a slot takes, with its data key, two forms of header, and the namespace in each of them.
func (sk slotKey) cost() int { return 3<<10 + 8*(len(sk.namespace)+len(sk.key)) }

// nameCost is about what a namespace takes that exists.
func nameCost(namespace string) int { return 256 + 2*len(namespace) }

// slotKey is a namespace as the upstream knows it, and a key name.
type slotKey struct{ namespace, key string }

// slot is the place of the working data key of one (namespace, key name). The key in it is replaced only by its
// successor, and taken out only when it was revoked or when its time and the grace period are over.
type slot struct {
	slotKey
	current atomic.Pointer[Sealer]
	// Coarse times; zero: never.
	used   atomic.Int64 // a payload was to be sealed
	missed atomic.Int64 // an envelope could not be opened, since the key service did not answer
	asked  atomic.Int64 // a poll made sure of the key

	mu       sync.Mutex // guards the rest, and current against being replaced
	made     time.Time  // of current
	renewAt  time.Time
	denied   time.Time // when a fresh data key was first refused while good ones still unwrap
	failing  time.Time // since when no data key could be had
	renewing bool
	warned   bool      // the log has a line that renewal fails
	optional bool      // the log has a line that polls do not wait for the key any more
	retryAt  time.Time // no renewal before this
}

// usable returns the working sealer, if there is one that may serve now.
func (sl *slot) usable() *Sealer {
	if s := sl.current.Load(); s != nil && s.usable() {
		return s
	}
	return nil
}

// due reports whether the working sealer needs a successor, by its age or by what it has sealed. The caller holds the lock.
func (sl *slot) due(s *Sealer, now time.Time) bool {
	return !now.Before(sl.renewAt) || s.dk.seals.Load() >= renewSeals
}

// put makes a sealer the working one. The caller holds the lock.
func (sl *slot) put(s *Sealer, renewAt time.Time) {
	sl.denied, sl.retryAt, sl.failing = time.Time{}, time.Time{}, time.Time{}
	sl.warned, sl.optional, sl.renewAt = false, false, renewAt
	sl.current.Store(s)
}

func (sl *slot) drop(match func(*dataKey) bool) {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if s := sl.current.Load(); s != nil && match(s.dk) {
		s.dk.drop()
		sl.current.Store(nil)
	}
}

// slots finds the slots, and knows which namespaces exist. Namespaces that are only claimed share a small cache, so that a
// flood of made-up names has no effect on the others.
type slots struct {
	confirmed sync.Map // slotKey -> *slot, of confirmed namespaces
	exist     sync.Map // namespace -> struct{}: those that are confirmed
	conflicts sync.Map // slotKey -> struct{}: no data key is made, since config and key store differ about its life

	mu          sync.Mutex // held while a slot is added, moved or removed
	unconfirmed *lru.Cache[slotKey, *slot]
	size        int // cost of those that are confirmed
	names       int // cost of exist
}

// lastUse is when something was last done with a slot, in nanoseconds.
func (sl *slot) lastUse() int64 { return max(sl.used.Load(), sl.missed.Load(), sl.asked.Load()) }

// store adds a slot of a namespace that exists. The caller holds the lock.
func (s *slots) store(sl *slot) {
	s.confirmed.Store(sl.slotKey, sl)
	if s.size += sl.cost(); s.size <= maxSlots {
		return
	}
	var all []*slot
	for _, v := range s.confirmed.Range {
		if other := v.(*slot); other != sl {
			all = append(all, other)
		}
	}
	slices.SortFunc(all, func(a, b *slot) int { return cmp.Compare(a.lastUse(), b.lastUse()) })
	for _, old := range all {
		if s.size <= maxSlots*7/8 {
			return
		}
		s.forget(old.slotKey)
	}
}

// forget takes out a slot. The caller holds the lock.
func (s *slots) forget(sk slotKey) {
	if _, was := s.confirmed.LoadAndDelete(sk); was {
		s.size -= sk.cost()
	}
}

// remove takes out a slot of a namespace that exists.
func (s *slots) remove(sl *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(sl.slotKey)
}

func (s *slots) find(namespace, key string) *slot {
	sk := slotKey{namespace, key}
	if v, ok := s.confirmed.Load(sk); ok {
		return v.(*slot)
	}
	sl, _ := s.unconfirmed.Get(sk)
	return sl
}

// add returns the slot of a key, which it makes if there is none. Names are copied: they may alias a message.
func (s *slots) add(namespace, key string, now int64) *slot {
	sk := slotKey{strings.Clone(namespace), strings.Clone(key)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.confirmed.Load(sk); ok {
		return v.(*slot)
	}
	if sl, ok := s.unconfirmed.Get(sk); ok {
		return sl
	}
	sl := &slot{slotKey: sk}
	sl.asked.Store(now)
	if s.exists(namespace) {
		s.store(sl)
	} else {
		s.unconfirmed.Add(sk, sl)
	}
	return sl
}

func (s *slots) exists(namespace string) bool {
	_, ok := s.exist.Load(namespace)
	return ok
}

// confirm notes that a namespace exists, and reports whether that is news.
func (s *slots) confirm(namespace string) bool {
	if s.exists(namespace) {
		return false
	}
	namespace = strings.Clone(namespace)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names += nameCost(namespace); s.names > maxNames {
		s.forgetNames()
		s.names += nameCost(namespace)
	}
	s.exist.Store(namespace, struct{}{})
	for _, sk := range s.unconfirmed.Keys() {
		if sk.namespace == namespace {
			sl, _ := s.unconfirmed.Peek(sk)
			s.store(sl)
			s.unconfirmed.Remove(sk)
		}
	}
	return true
}

// forgetNames forgets the namespaces that exist and have no slot: the next answer of the upstream confirms them again. The caller
// holds the lock.
func (s *slots) forgetNames() {
	used := map[string]bool{}
	for sk := range s.confirmed.Range {
		used[sk.(slotKey).namespace] = true
	}
	s.names = 0
	for v := range s.exist.Range {
		if name := v.(string); used[name] {
			s.names += nameCost(name)
		} else {
			s.exist.Delete(name)
		}
	}
}

// conflict notes whether config and key store differ about the life of a slot's keys.
func (s *slots) conflict(sl *slot, differ bool) {
	if differ && s.exists(sl.namespace) {
		s.conflicts.Store(sl.slotKey, struct{}{})
	} else {
		s.conflicts.Delete(sl.slotKey)
	}
}

// all returns the slots of all namespaces.
func (s *slots) all() []*slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.unconfirmed.Values()
	for _, sl := range s.confirmed.Range {
		all = append(all, sl.(*slot))
	}
	return all
}
