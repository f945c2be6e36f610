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
	useID
	sealed, opened atomic.Uint64
	openedAt       atomic.Int64 // coarse time
}

func (u *keyUse) countOpened(now *atomic.Int64) {
	u.opened.Add(1)
	if t := now.Load(); u.openedAt.Load() != t {
		u.openedAt.Store(t)
	}
}

// uses counts the envelopes of all keys.
type uses struct {
	mu sync.Mutex
	m  map[useID]*keyUse
}

// of returns the counters for data keys of a context.
func (u *uses) of(set *Set, key *keyhealth.Key, kc crypto.KeyContext) *keyUse {
	e, _, _, ok := set.find(set.local(kc.Namespace), kc.Key)
	u.mu.Lock()
	defer u.mu.Unlock()
	id := useID{entry: OtherUses}
	if ok {
		id = useID{e.Name, key.Ref()}
	}
	if u.m[id] == nil && ok && e.wildcard && len(u.m) >= maxUses {
		id = useID{entry: OtherUses}
	}
	if u.m[id] == nil {
		u.m[id] = &keyUse{useID: id}
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
	Role           Role
	Sealed, Opened uint64    // envelopes
	LastOpened     time.Time // to the second; zero: never
}

// roles returns what the open keys are for in the entries of a set. A URI with a star stands for all that it may name.
func (s *Set) roles(open map[string]*keyhealth.Key) map[useID]Role {
	roles := make(map[useID]Role)
	for i := range s.entries {
		e := &s.entries[i]
		for j, pattern := range e.uris() {
			role := RoleOpenOnly
			if j == 0 {
				role = RoleActive
			}
			for uri, key := range open {
				if !nameURI(pattern, uri) {
					continue
				}
				if id := (useID{e.Name, key.Ref()}); roles[id] == "" {
					roles[id] = role
				}
			}
		}
	}
	return roles
}

// list returns what was counted, with the keys of a set that were not used yet.
func (u *uses) list(set *Set, open map[string]*keyhealth.Key) []KeyUse {
	roles := set.roles(open)
	u.mu.Lock()
	defer u.mu.Unlock()
	var uses []KeyUse
	for id, u := range u.m {
		use := KeyUse{Entry: id.entry, KEK: id.ref, Role: cmp.Or(roles[id], RoleFormer), Sealed: u.sealed.Load(), Opened: u.opened.Load()}
		if at := u.openedAt.Load(); at != 0 {
			use.LastOpened = time.Unix(0, at)
		}
		uses = append(uses, use)
		delete(roles, id)
	}
	for i := range set.entries {
		if e := &set.entries[i]; e.wildcard { // its keys are listed once they are used, which bounds them
			maps.DeleteFunc(roles, func(id useID, _ Role) bool { return id.entry == e.Name })
		}
	}
	for id, role := range roles {
		uses = append(uses, KeyUse{Entry: id.entry, KEK: id.ref, Role: role})
	}
	slices.SortFunc(uses, func(a, b KeyUse) int {
		return cmp.Or(cmp.Compare(a.Entry, b.Entry), cmp.Compare(a.Role, b.Role), slices.Compare(a.KEK[:], b.KEK[:]))
	})
	return uses
}

// WorkingKey is a data key that seals now.
type WorkingKey struct {
	Namespace, Key string
	KEK            crypto.KEKRef
	DataKeyID      [32]byte // as in envelopes, and as the configuration takes it to revoke the key
	Made           time.Time
}
