package keyring

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
)

// maxUses is how many key encryption keys of wildcard entries are counted one by one. The others are counted together,
// so that key names which callers choose make no end of series.
const maxUses = 64

// OtherUses is the entry under which all further key encryption keys of wildcard entries are counted.
const OtherUses = "other"

type useID struct {
	entry string
	ref   crypto.KEKRef
}

// keyUse counts the envelopes of one entry of `keys` under one key encryption key.
type keyUse struct {
	sealed, opened atomic.Uint64
	openedAt       atomic.Int64 // coarse time
}

// uses counts the envelopes of all keys.
type uses struct {
	mu sync.Mutex
	m  map[useID]*keyUse
}

// of returns the counters of an entry for a key encryption key.
func (u *uses) of(e *keyEntry, key *keyhealth.Key) *keyUse {
	id := useID{e.Name, key.Ref()}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.m[id] == nil && (e.wildcard || e.perNamespace) && len(u.m) >= maxUses {
		id = useID{entry: OtherUses}
	}
	if u.m[id] == nil {
		u.m[id] = new(keyUse)
	}
	return u.m[id]
}

// Role is what a key encryption key is for in an entry of `keys`.
type Role string

const (
	// RoleActive: new data keys are made with it.
	RoleActive Role = "active"
	// RoleOpenOnly: it opens what it sealed before.
	RoleOpenOnly Role = "open_only"
	// RoleFormer: the entry does not name it any more, or the alias in it means another key now.
	RoleFormer Role = "former"
)

// KeyUse reports what was done with one key encryption key under one entry of `keys` since the start.
type KeyUse struct {
	Entry          string // the entry's name, its star as it stands there; or OtherUses
	KEK            crypto.KEKRef
	ARN            string // of the key encryption key; "": it has none, or is not open
	Role           Role
	Sealed, Opened uint64    // envelopes
	LastOpened     time.Time // to the second; zero: never
	Health         keyhealth.Health
}

// Uses lists the key encryption keys of all entries, those that were not used yet included as soon as they are open. It
// is bounded: the entries of the configuration, and maxUses for all wildcards together.
func (k *Keyring) Uses() []KeyUse {
	open, u := k.core.keys.named(), &k.core.uses
	all, former := make(map[useID]KeyUse), make(map[crypto.KEKRef]string)
	for _, key := range k.core.keys.moved() {
		former[key.Ref()] = key.ARN()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, n := range u.m {
		use := KeyUse{Entry: id.entry, KEK: id.ref, ARN: former[id.ref], Role: RoleFormer, Sealed: n.sealed.Load(), Opened: n.opened.Load()}
		if at := n.openedAt.Load(); at != 0 {
			use.LastOpened = time.Unix(0, at)
		}
		all[id] = use
	}
	for _, e := range k.Current().entries {
		role := RoleActive
		for _, pattern := range e.uris() {
			for uri, key := range open {
				id := useID{e.Name, key.Ref()}
				use, used := all[id]
				// The keys of an entry with placeholders are listed once they are used, which bounds them.
				if !nameURI(pattern, uri) || isPattern(pattern) && !used || used && use.Role != RoleFormer {
					continue
				}
				use.Entry, use.KEK, use.Role, use.Health, use.ARN = id.entry, id.ref, role, key.Health(), key.ARN()
				all[id] = use
			}
			role = RoleOpenOnly
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b KeyUse) int {
		return cmp.Or(cmp.Compare(a.Entry, b.Entry), cmp.Compare(a.Role, b.Role), slices.Compare(a.KEK[:], b.KEK[:]))
	})
}

// Unopened returns why active keys are not open, by the names of their entries. Calls that need them fail until they are.
func (k *Keyring) Unopened() map[string]error {
	set, unopened := k.Current(), map[string]error{}
	for _, u := range set.unanswered {
		if e := &set.entries[u.Entry]; k.core.keys.get(e.Active) == nil {
			unopened[e.Name] = u.Err
		}
	}
	return unopened
}

// MovedKey is a key encryption key that an alias meant before and that its entry does not name in another way. This keyring still
// opens what it sealed; one that starts now does not.
type MovedKey struct {
	Entry, URI  string // of `keys`, and the alias
	Before, Now string // ARNs
}

// Moved lists the keys that aliases meant before, of entries that would not open with them after a restart.
func (k *Keyring) Moved() (moved []MovedKey) {
	open, set := k.core.keys.named(), k.Current()
	for _, former := range k.core.keys.moved() {
		if former.ARN() == "" {
			continue // the key service has no aliases
		}
		for _, e := range set.entries {
			if !slices.ContainsFunc(e.uris(), func(u string) bool { return nameURI(u, former.URI()) }) || e.opensWith(open, former.Ref()) {
				continue
			}
			m := MovedKey{Entry: e.Name, URI: former.URI(), Before: former.ARN()}
			if now := open[former.URI()]; now != nil {
				m.Now = now.ARN()
			}
			if !slices.Contains(moved, m) {
				moved = append(moved, m)
			}
		}
	}
	return moved
}

// opensWith reports whether one of the open keys that the entry names has a reference.
func (e *keyEntry) opensWith(open map[string]*keyhealth.Key, ref crypto.KEKRef) bool {
	for uri, key := range open {
		if key.Ref() == ref && slices.ContainsFunc(e.uris(), func(u string) bool { return nameURI(u, uri) }) {
			return true
		}
	}
	return false
}

// WorkingKey is a data key that seals now.
type WorkingKey struct {
	Namespace, Key string
	KEK            crypto.KEKRef
	ID             crypto.KeyID // as in envelopes, and as the configuration takes it to revoke the key
	Made           time.Time
}
