package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/x/glob"
)

// Review is what can be said about a config file without asking anybody. Each text starts with the place of what it is
// about, as the errors of Parse do.
type Review struct {
	// Config is what could be decoded.
	Config *Config
	// Decoded reports whether that is all, so that defaults are filled in.
	Decoded bool
	// Errors are those of Parse, and what a proxy would start with although it cannot work.
	Errors []string
	// Warnings are about what is probably not meant.
	Warnings []string

	document *document
}

// Review reads a config as Parse does, and looks for what is valid and yet does not work.
func (f *Flags) Review(text []byte) *Review {
	c, d, err := f.parse(text)
	r := &Review{Config: c, document: d}
	if err != nil {
		r.Errors = []string{err.Error()}
		return r
	}
	r.Errors = d.texts()
	if r.Decoded = d.decoded; r.Decoded {
		faults, doubts := d.beside(), d.beside()
		c.reviewHidden(faults)
		c.reviewReached(faults, doubts)
		r.Errors, r.Warnings = append(r.Errors, faults.texts()...), doubts.texts()
	}
	return r
}

// Place names where the value at a YAML path, such as $.keys[0].active, comes from.
func (r *Review) Place(path string) string { return r.document.at(path) }

// FieldError is a problem with the value at a path of the config that is found after its validation.
type FieldError struct {
	Path string // such as listeners[0].tls
	Err  error
}

func (e *FieldError) Error() string { return e.Path + ": " + e.Err.Error() }

func (e *FieldError) Unwrap() error { return e.Err }

// At returns an error about a path of the config. Where the error is about a path below it, it joins the two.
func At(path string, err error) *FieldError {
	if below, ok := errors.AsType[*FieldError](err); ok {
		return &FieldError{path + "." + below.Path, below.Err}
	}
	return &FieldError{path, err}
}

// Locate returns a FieldError with file and line, or the flag, in front of its path, and other errors as they are.
func (r *Review) Locate(err error) error {
	if field, ok := errors.AsType[*FieldError](err); ok {
		return fmt.Errorf("%s: %w", r.Place("$."+field.Path), field.Err)
	}
	return err
}

// Locate is Review.Locate for the text of a config that has been parsed.
func (f *Flags) Locate(text []byte, err error) error { return f.Review(text).Locate(err) }

// reach is a list of namespaces that callers reach.
type reach struct {
	path     string
	patterns []string
}

// reaches lists the namespaces that callers of all listeners reach. What a claim of their tokens lists is not known.
func (c *Config) reaches() (all []reach) {
	add := func(path string, patterns []string) {
		if patterns == nil {
			patterns = []string{"*"}
		}
		all = append(all, reach{path, patterns})
	}
	of := func(path string, l *Listener) {
		switch {
		case l.Callers == nil:
			add(path, nil)
		case l.Callers.Anonymous != nil:
			add(path+".callers.anonymous.namespaces", l.Callers.Anonymous.Namespaces)
		case l.Callers.MTLS != nil:
			for i, n := range l.Callers.MTLS.Names {
				add(fmt.Sprintf("%s.callers.mtls.names[%d].namespaces", path, i), n.Namespaces)
			}
		case l.Callers.Token != nil:
			for i, t := range l.Callers.Token.Tokens {
				add(fmt.Sprintf("%s.callers.token.tokens[%d].namespaces", path, i), t.Namespaces)
			}
		case l.Callers.JWT != nil && l.Callers.JWT.NamespacesClaim == "":
			add(path+".callers.jwt.namespaces", l.Callers.JWT.Namespaces)
		}
	}
	for i := range c.Listeners {
		of(fmt.Sprintf("$.listeners[%d]", i), &c.Listeners[i])
	}
	if c.CodecServer != nil {
		of("$.codec_server", c.CodecServer.Listener())
	}
	return all
}

// isPattern reports whether a text stands for several names.
func isPattern(text string) bool { return strings.Contains(text, "*") }

// NamedNamespaces lists the namespaces that the config names without a `*`: where it says what callers reach, which
// upstream serves a namespace, and which key.
func (c *Config) NamedNamespaces() []string {
	var names []string
	for _, r := range c.reaches() {
		names = append(names, r.patterns...)
	}
	for _, u := range c.Upstreams {
		names = append(names, u.Namespaces...)
	}
	for _, k := range c.Keys {
		names = append(names, k.Namespaces...)
	}
	names = slices.DeleteFunc(names, isPattern)
	slices.Sort(names)
	return slices.Compact(names)
}

// Serves reports whether some callers may reach a namespace, and an upstream serves it.
func (c *Config) Serves(namespace string) bool {
	claims := func(l *Listener) bool {
		return l.Callers != nil && l.Callers.JWT != nil && l.Callers.JWT.NamespacesClaim != ""
	}
	reached := slices.ContainsFunc(c.reaches(), func(r reach) bool { return glob.MatchAny(r.patterns, namespace) }) ||
		slices.ContainsFunc(c.Listeners, func(l Listener) bool { return claims(&l) }) ||
		c.CodecServer != nil && claims(c.CodecServer.Listener())
	return reached && c.routes(namespace)
}

// routes reports whether an upstream serves a namespace, or each that a pattern stands for.
func (c *Config) routes(pattern string) bool {
	return slices.ContainsFunc(c.Upstreams, func(u Upstream) bool { return covers(u.Namespaces, pattern) })
}

// hasDefaultKey reports whether a namespace, or each that a pattern stands for, has a default key.
func (c *Config) hasDefaultKey(pattern string) bool {
	sealedAs := c.SealedAs()
	return slices.ContainsFunc(c.Keys, func(k Key) bool {
		perNamespace := slices.ContainsFunc(append(k.OpenOnly[:len(k.OpenOnly):len(k.OpenOnly)], k.Active),
			func(uri string) bool { return strings.Contains(uri, "{namespace}") })
		return !isPattern(k.Name) && (len(k.Namespaces) == 0 || covers(k.Namespaces, pattern)) &&
			(!perNamespace || isPattern(pattern) || keyring.FitsURI(cmp.Or(sealedAs[pattern], pattern)))
	})
}

// covers reports whether patterns match all that another pattern does; nil matches everything. A `*` in the other one is
// matched by a `*` alone.
func covers(patterns []string, other string) bool {
	return patterns == nil || glob.MatchAny(patterns, other)
}

// WithoutDefaultKey lists the namespaces and patterns of namespaces that callers reach and that have no default key.
func (c *Config) WithoutDefaultKey() (names []string) {
	for _, r := range c.reaches() {
		for _, p := range r.patterns {
			if !c.hasDefaultKey(p) && !slices.Contains(names, p) {
				names = append(names, p)
			}
		}
	}
	return names
}

// reviewReached looks for namespaces that callers reach and that cannot work.
func (c *Config) reviewReached(faults, doubts *document) {
	seen := map[string]bool{}
	for _, r := range c.reaches() {
		for _, p := range r.patterns {
			if seen[p] {
				continue
			}
			seen[p] = true
			if !c.routes(p) {
				if isPattern(p) {
					doubts.add(r.path, "callers reach %s, and upstreams serve only some of these namespaces: calls to the others are "+
						"refused; narrow the pattern, or add an upstream", p)
				} else {
					faults.add(r.path, "no upstream serves namespace %s: add it to the namespaces of an entry in upstreams", p)
				}
			}
			if !c.hasDefaultKey(p) {
				if isPattern(p) {
					doubts.add(r.path, "callers reach %s, and only some of these namespaces have a default key: workers of the others "+
						"get no tasks; narrow the pattern, or add an entry to keys", p)
				} else {
					faults.add(r.path, "namespace %s has no default key: add it to the namespaces of an entry in keys that has no * "+
						"in its name", p)
				}
			}
		}
	}
}

// reviewHidden looks for entries that have no effect since an earlier one comes first.
func (c *Config) reviewHidden(d *document) {
	for i, u := range c.Upstreams {
		for j, p := range u.Namespaces {
			for k, before := range c.Upstreams[:i] {
				if covers(before.Namespaces, p) && !strings.Contains(before.Address, "{namespace}") {
					d.add(fmt.Sprintf("$.upstreams[%d].namespaces[%d]", i, j),
						"%s goes to upstreams[%d], which comes first and serves it too; put the entry with the narrower pattern first", p, k)
					break
				}
			}
		}
		first := slices.IndexFunc(c.Upstreams[:i], func(before Upstream) bool {
			return before.Namespaces == nil && !strings.Contains(before.Address, "{namespace}")
		})
		d.refuse(len(u.Namespaces) == 0 && first >= 0, fmt.Sprintf("$.upstreams[%d]", i),
			"is never used: upstreams[%d] comes first and serves every namespace", first)
	}
	for i, k := range c.Keys {
		for j, before := range c.Keys[:i] {
			hidden := isPattern(before.Name) && glob.Match(before.Name, k.Name)
			for _, namespace := range k.Namespaces {
				hidden = hidden && (len(before.Namespaces) == 0 || covers(before.Namespaces, namespace))
			}
			if hidden && (len(before.Namespaces) == 0 || len(k.Namespaces) > 0) {
				d.add(fmt.Sprintf("$.keys[%d].name", i),
					"%s is never used: keys[%d] %s comes first and matches it; put the entry with the narrower name first", k.Name, j, before.Name)
				break
			}
		}
	}
	for i, l := range c.Listeners {
		if l.Callers != nil && l.Callers.MTLS != nil {
			reviewNames(d, fmt.Sprintf("$.listeners[%d].callers.mtls.names", i), l.Callers.MTLS.Names)
		}
	}
	if cs := c.CodecServer; cs != nil && cs.Callers != nil && cs.Callers.MTLS != nil {
		reviewNames(d, "$.codec_server.callers.mtls.names", cs.Callers.MTLS.Names)
	}
}

// reviewNames looks for certificates that an earlier entry matches too.
func reviewNames(d *document, path string, names []Certificate) {
	for i, n := range names {
		for j, before := range names[:i] {
			// A pattern with :// matches URIs alone, and one without also matches other names.
			uris := strings.Contains(before.Name, "://") && !strings.Contains(n.Name, "://")
			if glob.Match(before.Name, n.Name) && !uris {
				d.add(fmt.Sprintf("%s[%d].name", path, i),
					"%s is never used: names[%d] %s comes first and matches it; put the entry with the narrower pattern first", n.Name, j, before.Name)
				break
			}
		}
	}
}
