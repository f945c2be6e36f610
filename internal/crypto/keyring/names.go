package keyring

import "slices"

// NewSet returns the set of a configuration by its names alone, for checks: no key service is asked, and no keyring can use
// it.
func NewSet(opt *Options) (*Set, error) { return newSet(opt, opt.Keys, opt.Grants, nil) }

// FitsURI reports whether a namespace's name may stand in the URI of a key.
func FitsURI(namespace string) bool { return safeStar(namespace) }

// Names reports whether an entry serves a key name in any namespace.
func (s *Set) Names(key string) bool {
	for i := range s.entries {
		e := s.entries[i]
		e.Namespaces = nil
		if _, ok := e.serves("", key); ok {
			return true
		}
	}
	return false
}

// URIs returns the place of the entry that serves a key name in a namespace, and the URIs of its key encryption keys, the
// active one first; false: none does.
func (s *Set) URIs(namespace, key string) (entry int, uris []string, ok bool) {
	m, ok := s.find(namespace, key)
	if !ok {
		return 0, nil, false
	}
	return m.rank, slices.Collect(m.each), true
}
