package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/open-policy-agent/opa/v1/ast"
)

// source is one policy file.
type source struct {
	name      string // the path, as errors show it
	namespace string // "" for the platform's
	text      []byte
	err       error // why there is no text
	module    *ast.Module
	words     map[string]bool // of the text and the module; see words
}

// Sources are all policy files as they were read, the platform's first.
type Sources []source

// shippedName is what errors call the policy that ships.
const shippedName = "policy.rego (shipped)"

const (
	regoSuffix = ".rego"
	testSuffix = "_test.rego"
)

// readSources reads the platform's file and <namespace>.rego in the folder. Tests
// are left out: a failing test must not keep a proxy from starting. What cannot be
// read is noted in its source. before are the namespaces with modules, in case that
// the folder cannot be read.
func readSources(opts Options, before []string) Sources {
	platform := source{name: shippedName, text: opts.Shipped}
	if opts.File != "" {
		platform = readSource(opts.File, "", "the platform's policy")
	}
	all := Sources{platform}
	if opts.Namespaces == "" {
		return all
	}
	entries, err := os.ReadDir(opts.Namespaces) // sorted by name
	if err != nil {
		err = badSource("", "cannot read the folder of the namespaces' policies: %w", err)
		if len(before) == 0 {
			all[0].err = errors.Join(all[0].err, err)
		}
		for _, namespace := range before {
			name := filepath.Join(opts.Namespaces, namespace+regoSuffix)
			all = append(all, source{name: name, namespace: namespace, err: err})
		}
		return all
	}
	for _, e := range entries {
		base := e.Name()
		if !strings.HasSuffix(base, regoSuffix) || strings.HasSuffix(base, testSuffix) || strings.HasPrefix(base, ".") {
			continue
		}
		s := readSource(filepath.Join(opts.Namespaces, base), strings.TrimSuffix(base, regoSuffix), "a namespace's policy")
		if !errors.Is(s.err, fs.ErrNotExist) { // else it was taken away since the folder was listed
			all = append(all, s)
		}
	}
	return all
}

func readSource(name, namespace, what string) source {
	s := source{name: name, namespace: namespace}
	var err error
	if s.text, err = os.ReadFile(name); err != nil {
		s.err = badSource("", "cannot read %s: %w", what, err)
	}
	return s
}

// Revision names the content of the sources, wherever they lie.
func (s Sources) Revision() string {
	h := sha256.New()
	for _, f := range s {
		sum := sha256.Sum256(f.text)
		fmt.Fprintf(h, "%q %x\n", f.namespace, sum)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// namespaces lists those which have a file.
func (s Sources) namespaces() []string {
	var names []string
	for _, f := range s[1:] {
		names = append(names, f.namespace)
	}
	return names
}

// parse parses every file and holds it to what its owner may write. It returns each file's faults.
func (s Sources) parse() []error {
	faults := make([]error, len(s))
	for i := range s {
		if faults[i] = s[i].err; faults[i] != nil {
			continue
		}
		m, err := parseModule(s[i].name, s[i].text)
		if err != nil {
			faults[i] = sourceError(err)
			continue
		}
		s[i].module, s[i].words = m, words(m, s[i].text)
		faults[i] = errors.Join(owned(&s[i])...)
	}
	return faults
}

// newCompiler makes a compiler of what a policy may use of OPA.
func newCompiler(c *ast.Capabilities) *ast.Compiler {
	return ast.NewCompiler().WithStrict(true).WithCapabilities(c)
}

// named are the capabilities with those builtins alone that the files may name. A compiler keeps the types of all its builtins for
// as long as its rules are used, and that is more than all else that a namespace's policy takes.
func (s Sources) named() *ast.Capabilities {
	c := *capabilities
	c.Builtins = nil
	for _, b := range capabilities.Builtins {
		last := b.Name[strings.LastIndexByte(b.Name, '.')+1:]
		hidden := b.Infix != "" || strings.HasPrefix(b.Name, "internal.") // no text has the names of these
		if hidden || slices.ContainsFunc(s, func(f source) bool { return f.words[last] }) {
			c.Builtins = append(c.Builtins, b)
		}
	}
	return &c
}

// words are all that could be a name, or a part of one, in a module and its text.
func words(m *ast.Module, text []byte) map[string]bool {
	all := map[string]bool{}
	for _, w := range bytes.FieldsFunc(text, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		all[string(w)] = true
	}
	ast.WalkRefs(m, func(r ast.Ref) bool { // a string in brackets may be written with escapes
		for _, t := range r {
			if s, ok := t.Value.(ast.String); ok {
				all[string(s)] = true
			}
		}
		return false
	})
	return all
}

// modules returns the parsed modules by the names of their files.
func (s Sources) modules() map[string]*ast.Module {
	all := map[string]*ast.Module{}
	for _, f := range s {
		all[f.name] = f.module
	}
	return all
}

func parseModule(name string, text []byte) (*ast.Module, error) {
	options := ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities}
	return ast.ParseModuleWithOpts(name, string(text), options)
}

// sourceError turns OPA's list of errors into ours, with their places.
func sourceError(err error) error {
	var list ast.Errors
	if one, ok := errors.AsType[*ast.Error](err); ok {
		list = ast.Errors{one}
	} else if !errors.As(err, &list) {
		return badSource("", "%w", err)
	}
	var out error
	for _, e := range list {
		where := location(e.Location)
		if e.Message == "empty module" { // OPA gives it no line
			where = e.Location.File + ":1"
		}
		out = errors.Join(out, badSource(where, "%s%s", e.Message, advice(e.Message)))
	}
	return out
}

// advice returns what to do about an error of OPA, where its text does not say so.
func advice(message string) string {
	name, undefined := strings.CutPrefix(message, "undefined function ")
	switch helper, shipped := strings.CutPrefix(name, "data.temporal."); {
	case message == "empty module":
		return "; the file needs at least a line such as `package temporal`"
	case !undefined:
		return ""
	case shipped:
		return "; policy.file replaces the shipped policy with its helpers: copy " + helper + " from the shipped policy into it"
	case strings.HasPrefix(name, "temporal."):
		return "; add the line `import data.temporal` below the package"
	case slices.ContainsFunc(ast.CapabilitiesForThisVersion().Builtins, func(b *ast.Builtin) bool { return b.Name == name }):
		return "; policies have no functions of time, chance, network or environment, since verdicts are cached"
	}
	return "; define it in this file, or correct the name"
}

var (
	platformPath   = ast.Ref{ast.DefaultRootDocument, ast.StringTerm("temporal")}
	namespacesPath = platformPath.Append(ast.StringTerm("namespaces"))
)

// packageName writes a package as a policy does.
func packageName(m *ast.Module) string {
	return strings.TrimPrefix(m.Package.Path.String(), "data.")
}

// owned holds a file to its own package, and request and response to being sets.
// Without the first, a team could write into another's package or the platform's;
// without the second, one rule could replace the verdicts of others.
func owned(s *source) []error {
	var errs []error
	fail := func(loc *ast.Location, format string, args ...any) {
		errs = append(errs, badSource(location(loc, s.module.Package.Location), format, args...))
	}
	want := platformPath
	if s.namespace != "" {
		want = namespacesPath.Append(ast.StringTerm(s.namespace))
	}
	if !s.module.Package.Path.Equal(want) {
		fail(s.module.Package.Location, "this file may contain package %s alone, and it contains package %s; correct the package, or rename the file",
			strings.TrimPrefix(want.String(), "data."), packageName(s.module))
		return errs
	}
	for _, r := range s.module.Rules {
		name, _ := r.Head.Ref()[0].Value.(ast.Var)
		switch {
		case name == "request" || name == "response":
			if r.Default || r.Head.RuleKind() != ast.MultiValue || len(r.Head.Reference) != 1 {
				fail(r.Location, "%s must be a set: write `%s contains {...} if {...}`", name, name)
			}
		case name == "namespaces" && s.namespace == "":
			fail(r.Location, "the platform's policy may not define `namespaces`: each namespace has a file of its own")
		}
	}
	return errs
}

// confined checks, on compiled rules, that a package leans on nothing but itself
// and the platform's helpers. The proxy unites the verdicts itself: a rule that read
// another namespace's would make one team's policy depend on another's.
func confined(m *ast.Module, namespace string) []error {
	var errs []error
	check := func(ref ast.Ref) bool {
		if !ref.HasPrefix(ast.Ref{ast.DefaultRootDocument}) {
			return false
		}
		own := namespacesPath.Append(ast.StringTerm(namespace))
		helper := len(ref) > 2 && ref.HasPrefix(platformPath) && ast.IsConstant(ref[2].Value) &&
			!ref.HasPrefix(namespacesPath)
		if !helper && (namespace == "" || !ref.HasPrefix(own)) {
			allowed := "data.temporal.<rule>"
			if namespace != "" {
				allowed += " and " + own.String()
			}
			errs = append(errs, badSource(location(ref[0].Location, m.Package.Location),
				"%s is out of reach here; this package may refer to %s only", ref, allowed))
		}
		return false
	}
	for _, r := range m.Rules {
		ast.WalkRefs(r, check)
	}
	return errs
}

// unavailable are builtins that answer differently for the same input, or reach out
// of the process: a verdict could not be remembered, or a payload could be carried off.
var unavailable = []string{
	"http.send", "net.lookup_ip_addr", "opa.runtime", "time.now_ns", "rand.intn", "uuid.rfc4122",
	"io.jwt.decode_verify", "io.jwt.encode_sign", "io.jwt.encode_sign_raw",
	"providers.aws.sign_req", "trace", "rego.parse_module", "rego.metadata.chain", "rego.metadata.rule",
}

// capabilities are what a policy may use of OPA.
var capabilities = func() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		return b.Nondeterministic || slices.Contains(unavailable, b.Name)
	})
	for _, b := range tokenBuiltins {
		if !slices.Contains(c.Builtins, b) { // OPA's list may have been made before they were registered
			c.Builtins = append(c.Builtins, b)
		}
	}
	c.AllowNet = []string{} // no schema is fetched either
	return c
}()
