package keyring

import (
	"cmp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
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

// useOf finds the counters for data keys of a context.
func (k *Keyring) useOf(kk *kek, kc crypto.KeyContext) *keyUse {
	table := k.set.Load()
	e, _, _, ok := table.find(table.local(kc.Namespace), kc.Key)
	k.mu.Lock()
	defer k.mu.Unlock()
	id := useID{entry: OtherUses}
	if ok {
		id = useID{e.Name, kk.ref}
	}
	if u := k.uses[id]; u != nil {
		return u
	}
	if ok && e.wildcard && len(k.uses) >= maxUses {
		id = useID{entry: OtherUses}
		if u := k.uses[id]; u != nil {
			return u
		}
	}
	u := &keyUse{useID: id}
	k.uses[id] = u
	return u
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

// KeyUse tells what was done with one key encryption key under one entry of `keys` since the start.
type KeyUse struct {
	Entry          string // the entry's name, its star as it stands there; or OtherUses
	KEK            crypto.KEKRef
	Role           Role
	Sealed, Opened uint64    // envelopes
	LastOpened     time.Time // to the second; zero: never
}

// Uses lists the key encryption keys of all entries, those that were not used yet included as soon as they are open.
// It is bounded: the entries of the configuration, and maxUses for all wildcards together.
func (k *Keyring) Uses() []KeyUse {
	table := k.set.Load()
	k.mu.Lock()
	defer k.mu.Unlock()
	roles := make(map[useID]Role)
	for i := range table.entries {
		e := &table.entries[i]
		for j, uri := range e.uris() {
			role := RoleOpenOnly
			if j == 0 {
				role = RoleActive
			}
			for opened, kk := range k.keks {
				if uri != opened && !(strings.Contains(uri, star) && MatchStar(strings.ReplaceAll(uri, star, "*"), opened)) {
					continue
				}
				if id := (useID{e.Name, kk.ref}); roles[id] == "" {
					roles[id] = role
				}
			}
		}
	}
	var uses []KeyUse
	for id, u := range k.uses {
		use := KeyUse{Entry: id.entry, KEK: id.ref, Role: cmp.Or(roles[id], RoleFormer), Sealed: u.sealed.Load(), Opened: u.opened.Load()}
		if at := u.openedAt.Load(); at != 0 {
			use.LastOpened = time.Unix(0, at)
		}
		uses = append(uses, use)
		delete(roles, id)
	}
	wild := make(map[string]bool)
	for i := range table.entries {
		wild[table.entries[i].Name] = table.entries[i].wildcard
	}
	for id, role := range roles {
		if !wild[id.entry] { // a wildcard's are listed once they are used, which bounds them
			uses = append(uses, KeyUse{Entry: id.entry, KEK: id.ref, Role: role})
		}
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

// WorkingKeys lists the data keys that seal now.
func (k *Keyring) WorkingKeys() []WorkingKey {
	var all []WorkingKey
	add := func(sl *slot) {
		if s := sl.current.Load(); s != nil && s.dk.usable() {
			all = append(all, WorkingKey{sl.namespace, sl.key, s.dk.kek.ref, s.dk.id, sl.made})
		}
	}
	k.slots.Range(func(_, value any) bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		add(value.(*slot))
		return true
	})
	k.mu.Lock()
	for _, sl := range k.unconfirmed.Values() {
		add(sl)
	}
	k.mu.Unlock()
	slices.SortFunc(all, func(a, b WorkingKey) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Key, b.Key))
	})
	return all
}
