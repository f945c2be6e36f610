package keyring

import (
	"errors"
	"fmt"
	"strings"
)

// KeyConfig is one entry of `keys` in the configuration.
type KeyConfig struct {
	// Name is what policies say. It may hold one `*`; what the star stands for is {1} in the URIs.
	Name string
	// Namespaces that may use the key, with `*` for any run of characters. Empty: all.
	Namespaces []string
	// Active is the URI of the key encryption key that new data keys are made with.
	Active string
	// OpenOnly are URIs of earlier ones, which still open what they sealed.
	OpenOnly []string
}

// Grant lets what was sealed in From be opened for a call in To. From may also name another realm: "realm/namespace".
type Grant struct{ From, To string }

// keyTable is the configured keys and grants, checked and ready to look up in.
type keyTable struct {
	entries []keyEntry
	grants  map[Grant]bool
	revoked map[[idSize]byte]bool // data-key ids
	realm   string                // "" or ends in "/"
}

type keyEntry struct {
	KeyConfig
	prefix, suffix string // around the star of a wildcard name
	wildcard       bool
}

func newKeyTable(opt KeyringOptions) (*keyTable, error) {
	t := &keyTable{grants: make(map[Grant]bool), revoked: make(map[[idSize]byte]bool)}
	if opt.Realm != "" {
		t.realm = opt.Realm + "/"
	}
	var errs []error
	for i, c := range opt.Keys {
		e := keyEntry{KeyConfig: c}
		e.prefix, e.suffix, e.wildcard = strings.Cut(c.Name, "*")
		if err := e.check(); err != nil {
			errs = append(errs, fmt.Errorf("keys[%d] %q: %w", i, c.Name, err))
		}
		t.entries = append(t.entries, e)
	}
	for _, g := range opt.Grants {
		t.grants[g] = true
	}
	for _, id := range opt.RevokedDataKeys {
		t.revoked[id] = true
	}
	return t, errors.Join(errs...)
}

func (e *keyEntry) check() error {
	if len(e.Name) == 0 || len(e.Name) > maxKeyName || strings.Contains(e.suffix, "*") {
		return fmt.Errorf("a key name has 1 to %d bytes and at most one *", maxKeyName)
	}
	if e.Active == "" {
		return errors.New("active is missing: the URI of the key encryption key to seal with")
	}
	for _, uri := range e.uris() {
		if strings.Contains(uri, star) && !e.wildcard {
			return fmt.Errorf("%s: {1} is there, but the name has no * that it could stand for", uri)
		}
	}
	return nil
}

// star stands in URIs for what the * in the name stands for.
const star = "{1}"

func fillIn(uri, value string) string { return strings.ReplaceAll(uri, star, value) }

func (e *keyEntry) uris() []string { return append([]string{e.Active}, e.OpenOnly...) }

// serves tells whether the entry is meant for a key name in a namespace, and what the star in the name stands for.
func (e *keyEntry) serves(namespace, key string) (value string, ok bool) {
	if e.wildcard {
		if len(key) < len(e.prefix)+len(e.suffix) || !strings.HasPrefix(key, e.prefix) || !strings.HasSuffix(key, e.suffix) {
			return "", false
		}
		value = key[len(e.prefix) : len(key)-len(e.suffix)]
		if !safeStar(value) {
			return "", false
		}
	} else if key != e.Name {
		return "", false
	}
	if len(e.Namespaces) == 0 {
		return value, true
	}
	for _, p := range e.Namespaces {
		if MatchStar(p, namespace) {
			return value, true
		}
	}
	return "", false
}

// safeStar keeps a policy's or an envelope's key name from writing URIs: what the star stands for can't add a parameter,
// leave a folder or name another host.
func safeStar(s string) bool {
	if len(s) == 0 || len(s) > 64 || s[0] == '.' {
		return false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

// MatchStar matches a whole name against a pattern in which each * stands for any run of characters.
func MatchStar(pattern, name string) bool {
	head, rest, more := strings.Cut(pattern, "*")
	if !more {
		return pattern == name
	}
	if !strings.HasPrefix(name, head) {
		return false
	}
	name = name[len(head):]
	for {
		var part string
		part, rest, more = strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(name, part)
		}
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name = name[i+len(part):]
	}
}

// names tells whether any entry has the URI, with whatever its star stands for.
func (t *keyTable) names(uri string) bool {
	for i := range t.entries {
		for _, u := range t.entries[i].uris() {
			if u == uri || strings.Contains(u, star) && MatchStar(strings.ReplaceAll(u, star, "*"), uri) {
				return true
			}
		}
	}
	return false
}

// names tells whether the entry has the URI where its star stands for value.
func (e *keyEntry) names(value, uri string) bool {
	for _, u := range e.uris() {
		if fillIn(u, value) == uri {
			return true
		}
	}
	return false
}

// find gives the first entry that serves a key name in a namespace.
func (t *keyTable) find(namespace, key string) (e *keyEntry, value string, rank int, ok bool) {
	for i := range t.entries {
		if value, ok := t.entries[i].serves(namespace, key); ok {
			return &t.entries[i], value, i, true
		}
	}
	return nil, "", 0, false
}

func (t *keyTable) defaultKey(namespace string) (string, bool) {
	if e, _, _, ok := t.find(namespace, "default"); ok && !e.wildcard {
		return "default", true
	}
	for i := range t.entries {
		if e := &t.entries[i]; !e.wildcard {
			if _, ok := e.serves(namespace, e.Name); ok {
				return e.Name, true
			}
		}
	}
	return "", false
}

// bound is the name that envelopes of a namespace bear.
func (t *keyTable) bound(namespace string) string { return t.realm + namespace }

// local is bound's inverse. Names of another realm stay as they are: only a grant can name them.
func (t *keyTable) local(bound string) string {
	if local, ok := strings.CutPrefix(bound, t.realm); ok {
		return local
	}
	return bound
}

// opens tells whether an envelope of the namespace bound may be opened for a call in namespace.
func (t *keyTable) opens(bound, namespace string) bool {
	if local, ok := strings.CutPrefix(bound, t.realm); ok {
		if local == namespace {
			return true
		}
		if t.grants[Grant{From: local, To: namespace}] {
			return true
		}
	}
	// With a realm set, a bare name in a grant means this realm; another realm has to be named.
	return strings.Contains(bound, "/") && t.grants[Grant{From: bound, To: namespace}]
}
