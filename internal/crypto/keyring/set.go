package keyring

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
	"github.com/temporal-seal/temporal-seal/internal/x/glob"
)

// KeyConfig is one entry of `keys` in the configuration.
type KeyConfig struct {
	// Name is what policies say. It may hold one `*`; what the star stands for is {1} in the URIs. In these, {namespace} is
	// the namespace that seals, or that sealed.
	Name string
	// Namespaces that may use the key, with `*` for any run of characters. Empty: all.
	Namespaces []string
	// Active is the URI of the key encryption key that new data keys are made with.
	Active string
	// OpenOnly are URIs of earlier ones, which still open what they sealed.
	OpenOnly []string
	// SubjectRequired refuses to seal without the key of a subject.
	SubjectRequired bool
	// Reference has envelopes name a row of the key store instead of carrying their data key.
	Reference bool
	// Life is how long data keys open after they have stopped sealing, before they are destroyed; 0: for good. It needs Reference.
	Life time.Duration
	// Endless has data keys made that do not expire, where the key store has such of the name that do.
	Endless bool
}

// Grant lets what was sealed in From be opened for a call in To, with `*` for any run of characters in both. From may also
// name another realm: "realm/namespace". Without a slash it names namespaces of this realm alone.
type Grant struct{ From, To string }

// Set is the keys, grants and revoked data keys of one configuration, checked and ready to look up in. It is immutable:
// Keyring.Prepare makes it, and Keyring.Commit puts it in force.
type Set struct {
	entries []keyEntry
	grants  map[Grant]bool // without a star
	starred []Grant
	revoked map[crypto.KeyID]bool
	realm   string                    // "" or ends in "/"
	bounds  map[string]string         // of namespaces with another name in envelopes: that name
	locals  map[string][]string       // of such a name: the namespaces
	found   map[string]*keyhealth.Key // by URI: the key encryption keys that Prepare looked up

	unanswered []Unanswered
}

// Unanswered is an entry whose active key did not answer when the set was prepared. Every call that needs it tries it again;
// if it was open already, it goes on as in an outage.
type Unanswered struct {
	Entry int // its place in the configuration
	Err   error
}

// Unanswered lists the entries whose active keys did not answer.
func (s *Set) Unanswered() []Unanswered { return s.unanswered }

type keyEntry struct {
	KeyConfig
	prefix, suffix string // around the star of a wildcard name
	wildcard       bool
	perNamespace   bool // a URI has the placeholder of the namespace
}

func newSet(opt *Options, keys []KeyConfig, grants []Grant, revokedDataKeys []crypto.KeyID) (*Set, error) {
	t := &Set{grants: make(map[Grant]bool), revoked: make(map[crypto.KeyID]bool), found: make(map[string]*keyhealth.Key),
		bounds: opt.SealedAs, locals: make(map[string][]string)}
	if opt.Realm != "" {
		t.realm = opt.Realm + "/"
	}
	for _, local := range slices.Sorted(maps.Keys(opt.SealedAs)) {
		name := opt.SealedAs[local]
		t.locals[name] = append(t.locals[name], local)
	}
	var errs []error
	for i, c := range keys {
		e := keyEntry{KeyConfig: c}
		e.prefix, e.suffix, e.wildcard = strings.Cut(c.Name, "*")
		e.perNamespace = slices.ContainsFunc(e.uris(), func(uri string) bool { return strings.Contains(uri, ofNamespace) })
		if err := e.check(); err != nil {
			errs = append(errs, fmt.Errorf("keys[%d] %q: %w", i, c.Name, err))
		}
		t.entries = append(t.entries, e)
	}
	for _, g := range grants {
		if strings.Contains(g.From+g.To, "*") {
			t.starred = append(t.starred, g)
			continue
		}
		if name, ok := t.bounds[g.From]; ok {
			g.From = name
		}
		t.grants[g] = true
	}
	for _, id := range revokedDataKeys {
		t.revoked[id] = true
	}
	return t, errors.Join(errs...)
}

func (e *keyEntry) check() error {
	if len(e.Name) == 0 || len(e.Name) > envelope.MaxKeyName || strings.Contains(e.suffix, "*") {
		return fmt.Errorf("a key name has 1 to %d bytes and at most one *", envelope.MaxKeyName)
	}
	if e.Active == "" {
		return errors.New("active is missing: the URI of the key encryption key to seal with")
	}
	if e.Life > 0 && e.Endless {
		return errors.New("endless gives the life up; remove one of them")
	}
	if e.Life > 0 && (!e.Reference || e.SubjectRequired) {
		return errors.New("life needs envelopes by reference, and keys of subjects have none; a self-contained envelope would outlive its end")
	}
	for _, uri := range e.uris() {
		if strings.Contains(uri, star) && !e.wildcard {
			return fmt.Errorf("%s: {1} is there, but the name has no * that it could stand for", uri)
		}
	}
	return nil
}

// Placeholders in URIs.
const (
	star        = "{1}"         // what the * in the name stands for
	ofNamespace = "{namespace}" // the namespace that seals, or that sealed
)

// isPattern reports whether a URI has a placeholder.
func isPattern(uri string) bool {
	return strings.Contains(uri, star) || strings.Contains(uri, ofNamespace)
}

func (e *keyEntry) uris() []string { return append([]string{e.Active}, e.OpenOnly...) }

// serves reports whether the entry is meant for a key name in a namespace, and what the star in the name stands for.
func (e *keyEntry) serves(namespace, key string) (value string, ok bool) {
	value, starts := strings.CutPrefix(key, e.prefix)
	value, ends := strings.CutSuffix(value, e.suffix)
	if !starts || !ends || e.wildcard && !safeStar(value) || !e.wildcard && value != "" {
		return "", false
	}
	return value, len(e.Namespaces) == 0 || glob.MatchAny(e.Namespaces, namespace)
}

// safeStar keeps the names of keys and namespaces, which come from policies, callers and envelopes, from writing URIs: what a
// placeholder stands for can't add a parameter, leave a folder or name another host.
func safeStar(s string) bool {
	return len(s) >= 1 && len(s) <= 64 && s[0] != '.' && strings.Trim(s, safeBytes) == ""
}

const safeBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

// nameURI reports whether a URI of an entry is this one, with whatever its placeholders stand for.
func nameURI(pattern, uri string) bool {
	return pattern == uri || isPattern(pattern) && glob.Match(strings.NewReplacer(star, "*", ofNamespace, "*").Replace(pattern), uri)
}

// names reports whether any entry has the URI.
func (s *Set) names(uri string) bool {
	return slices.ContainsFunc(s.entries, func(e keyEntry) bool {
		return slices.ContainsFunc(e.uris(), func(u string) bool { return nameURI(u, uri) })
	})
}

// match is the entry that serves a key name in a namespace.
type match struct {
	entry *keyEntry
	rank  int // the entry's place in the configuration
	// What the placeholders in the URIs stand for.
	star, namespace string
}

// active returns the URI of the key encryption key to seal with.
func (m match) active() string { return m.filled(m.entry.Active) }

// filled returns a URI with what its placeholders stand for.
func (m match) filled(uri string) string {
	return strings.ReplaceAll(strings.ReplaceAll(uri, star, m.star), ofNamespace, m.namespace)
}

// each yields the URIs of all key encryption keys, the active one first.
func (m match) each(yield func(uri string) bool) {
	if !yield(m.active()) {
		return
	}
	for _, uri := range m.entry.OpenOnly {
		if !yield(m.filled(uri)) {
			return
		}
	}
}

// has reports whether a URI is that of one of the key encryption keys.
func (m match) has(uri string) bool {
	for u := range m.each {
		if u == uri {
			return true
		}
	}
	return false
}

// find returns the first entry that serves a key name in a namespace.
func (s *Set) find(namespace, key string) (m match, ok bool) {
	for i := range s.entries {
		if m, ok := s.match(i, namespace, key); ok {
			return m, true
		}
	}
	return m, false
}

// RequiresSubject reports whether nothing may be sealed under a key name in a namespace but with the key of a subject.
func (s *Set) RequiresSubject(namespace, key string) bool {
	if !slices.ContainsFunc(s.entries, func(e keyEntry) bool { return e.SubjectRequired }) {
		return false
	}
	m, ok := s.find(namespace, key)
	return ok && m.entry.SubjectRequired
}

// Expiring returns the place in the configuration of the entry that serves data keys of a context; false: there is none, or it has no life.
func (s *Set) Expiring(kc crypto.KeyContext) (entry int, ok bool) {
	m, ok := s.findSealed(kc.Namespace, kc.Key)
	return m.rank, ok && m.entry.Life > 0
}

// WithoutLife returns the place in the configuration of the entry that serves data keys of a context, if it has no life and does not say
// that one was given up.
func (s *Set) WithoutLife(kc crypto.KeyContext) (entry int, ok bool) {
	m, ok := s.findSealed(kc.Namespace, kc.Key)
	return m.rank, ok && m.entry.Life == 0 && !m.entry.Endless
}

// hidesEnd reports whether a data key that was taken from an envelope, before its entry got a life, opens envelopes by reference too: then
// the key store has not said when it ends.
func (s *Set) hidesEnd(dk *dataKey) bool {
	if dk.life.Load() != nil || dk.carried || dk.subject != nil {
		return false
	}
	_, ok := s.Expiring(dk.context)
	return ok
}

// match returns an entry if it serves a key name in a namespace. Its URIs get the name that envelopes have of the namespace, so
// that one which is renamed keeps its keys.
func (s *Set) match(i int, namespace, key string) (m match, ok bool) {
	e, name := &s.entries[i], s.canonical(namespace)
	star, ok := e.serves(namespace, key)
	if !ok || e.perNamespace && !safeStar(name) {
		return m, false
	}
	return match{e, i, star, name}, true
}

// Rank returns the place in the configuration of the entry that serves key in namespace; false: none does.
func (s *Set) Rank(namespace, key string) (int, bool) {
	m, ok := s.find(namespace, key)
	return m.rank, ok
}

// DefaultKey returns "default" if an entry of this name serves the namespace, else the first that does and has no
// wildcard.
func (s *Set) DefaultKey(namespace string) (string, bool) {
	if m, ok := s.find(namespace, "default"); ok && !m.entry.wildcard {
		return "default", true
	}
	for name := range s.plainKeys(namespace) {
		return name, true
	}
	return "", false
}

// plainKeys yields the names without a wildcard of the entries that serve a namespace.
func (s *Set) plainKeys(namespace string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range s.entries {
			e := &s.entries[i]
			if _, ok := s.match(i, namespace, e.Name); ok && !e.wildcard && !yield(e.Name) {
				return
			}
		}
	}
}

// findSealed returns the first entry that serves a key name in the namespace of an envelope, or in one that is sealed under
// that name.
func (s *Set) findSealed(bound, key string) (m match, ok bool) {
	local := s.local(bound)
	locals := s.locals[local]
	if len(locals) == 0 {
		return s.find(local, key)
	}
	for _, namespace := range append([]string{local}, locals...) {
		if next, serves := s.find(namespace, key); serves && (!ok || next.rank < m.rank) {
			m, ok = next, true
		}
	}
	return m, ok
}

// KeyContext is what data keys are bound to that seal with a key in a namespace.
func (s *Set) KeyContext(namespace, key string) crypto.KeyContext {
	return crypto.KeyContext{Namespace: s.bound(namespace), Key: key}
}

// bound returns the name of a namespace in envelopes.
func (s *Set) bound(namespace string) string { return s.realm + s.canonical(namespace) }

// canonical is bound without the realm.
func (s *Set) canonical(namespace string) string {
	if name, ok := s.bounds[namespace]; ok {
		return name
	}
	return namespace
}

// local is bound's inverse. Names of another realm stay as they are: only a grant can name them.
func (s *Set) local(bound string) string {
	return strings.TrimPrefix(bound, s.realm)
}

// Granted reports whether a grant lets an envelope of the namespace bound be opened for a call in namespace. With a realm
// set, a bare name in a grant means this realm; another realm has to be named.
func (s *Set) Granted(bound, namespace string) bool {
	local, ours := strings.CutPrefix(bound, s.realm)
	return ours && s.granted(local, namespace) || strings.Contains(bound, "/") && s.granted(bound, namespace)
}

func (s *Set) granted(from, to string) bool {
	return s.grants[Grant{From: from, To: to}] || slices.ContainsFunc(s.starred, func(g Grant) bool {
		matches := func(name string) bool {
			return strings.Contains(g.From, "/") == strings.Contains(name, "/") && glob.Match(g.From, name)
		}
		return glob.Match(g.To, to) && (matches(from) || slices.ContainsFunc(s.locals[from], matches))
	})
}

// MayOpen returns an error unless an envelope may be opened for a call in namespace: it was sealed there, or a grant
// allows it.
func (s *Set) MayOpen(h *envelope.Header, namespace string) error {
	if local, ours := strings.CutPrefix(h.Namespace, s.realm); ours && s.isBound(local, namespace) || s.Granted(h.Namespace, namespace) {
		return nil
	}
	if err := s.otherRealm(h, namespace); err != nil {
		return err
	}
	from := s.local(h.Namespace)
	if namespace == "" { // no grant would name it
		return h.Errorf(crypto.KindForeign, "open", "it was sealed in namespace %q, and the call names no namespace: name one that may open it", from)
	}
	return h.Errorf(crypto.KindForeign, "open", "it was sealed in namespace %q, which namespace %q may not open: "+
		"add {from: %[1]q, to: %[2]q} to `grants` in the proxy's config if it may", from, namespace)
}

// otherRealm returns the error for an envelope of the call's namespace in another realm, as it is after the config's realm was
// changed; nil if it is of another namespace.
func (s *Set) otherRealm(h *envelope.Header, namespace string) error {
	realm, local, has := strings.Cut(h.Namespace, "/")
	if !has {
		realm, local = "", h.Namespace
	}
	configured := strings.TrimSuffix(s.realm, "/")
	if realm == configured || h.Namespace != namespace && !s.isBound(local, namespace) {
		return nil
	}
	switch {
	case realm == "":
		return h.Errorf(crypto.KindForeign, "open", "it was sealed without a realm, and the config has the realm %q: remove `realm` from the config", configured)
	case configured == "":
		return h.Errorf(crypto.KindForeign, "open", "it was sealed in the realm %q, and the config has none: set `realm: %[1]s`, or grant {from: %[2]q, to: %[3]q}",
			realm, h.Namespace, local)
	}
	return h.Errorf(crypto.KindForeign, "open", "it was sealed in the realm %q, and the config has the realm %q: set `realm: %[1]s`, or grant {from: %[3]q, to: %[4]q}",
		realm, configured, h.Namespace, local)
}

// isBound reports whether envelopes of a namespace have a name.
func (s *Set) isBound(name, namespace string) bool {
	if other, ok := s.bounds[namespace]; ok {
		return name == other
	}
	return name == namespace
}

// SealedIn returns the namespace of an envelope as callers in a namespace know it: without this realm, and with their own
// name if the envelope is bound to the name by which their namespace is sealed. Names of another realm stay as they are.
func (s *Set) SealedIn(bound, namespace string) string {
	local, ours := strings.CutPrefix(bound, s.realm)
	if ours && s.isBound(local, namespace) {
		return namespace
	}
	return local
}
