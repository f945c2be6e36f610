package policy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// source is one policy file.
type source struct {
	name      string // the path, as errors show it
	namespace string // "" for the platform's
	text      []byte
	module    *ast.Module
}

// snapshot is every policy file as it was read, the platform's first.
type snapshot []source

// shippedName is what errors call the policy that ships.
const shippedName = "policy.rego (shipped)"

const (
	regoSuffix = ".rego"
	testSuffix = "_test.rego"
)

// allSources reads the files, or fetches the bundle once.
func allSources(ctx context.Context, opts Options) (snapshot, error) {
	if opts.Bundle == nil {
		return readSources(opts)
	}
	once := *opts.Bundle
	once.Folder = "" // what was not tried out must not become the last good one
	var files snapshot
	s, err := startBundles(ctx, once, func(_ context.Context, f snapshot) error { files = f; return nil }, func(error) {})
	if err != nil {
		return nil, err
	}
	defer s.stop()
	if err := s.wait(ctx, once); err != nil {
		return nil, err
	}
	return files, nil
}

// readSources reads the platform's file and <namespace>.rego in the folder. Tests
// are left out: a failing test must not keep a proxy from starting.
func readSources(opts Options) (snapshot, error) {
	platform := source{name: shippedName, text: opts.Shipped}
	if opts.File != "" {
		text, err := os.ReadFile(opts.File)
		if err != nil {
			return nil, &Error{Kind: BadSource, Err: fmt.Errorf("cannot read the platform's policy: %w", err)}
		}
		platform = source{name: opts.File, text: text}
	}
	all := snapshot{platform}
	if opts.Namespaces == "" {
		return all, nil
	}
	entries, err := os.ReadDir(opts.Namespaces) // sorted by name
	if err != nil {
		return nil, &Error{Kind: BadSource, Err: fmt.Errorf("cannot read the folder of the namespaces' policies: %w", err)}
	}
	var errs []error
	for _, e := range entries {
		base := e.Name()
		if !strings.HasSuffix(base, regoSuffix) || strings.HasSuffix(base, testSuffix) || strings.HasPrefix(base, ".") {
			continue
		}
		name := filepath.Join(opts.Namespaces, base)
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // taken away since the folder was listed
		}
		if err != nil {
			errs = append(errs, &Error{Kind: BadSource, Err: fmt.Errorf("cannot read a namespace's policy: %w", err)})
			continue
		}
		all = append(all, source{name: name, namespace: strings.TrimSuffix(base, regoSuffix), text: text})
	}
	return all, errors.Join(errs...)
}

// revision names the content of the sources, wherever they lie.
func (s snapshot) revision() string {
	h := sha256.New()
	for _, f := range s {
		sum := sha256.Sum256(f.text)
		fmt.Fprintf(h, "%q %x\n", f.namespace, sum)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// namespaces lists those which have a file.
func (s snapshot) namespaces() []string {
	var names []string
	for _, f := range s[1:] {
		names = append(names, f.namespace)
	}
	return names
}

// parse parses every file and holds it to what its owner may write. All faults of
// all files are reported at once.
func (s snapshot) parse() error {
	var errs []error
	for i := range s {
		m, err := parseModule(s[i].name, s[i].text)
		if err != nil {
			errs = append(errs, sourceErrors(err)...)
			continue
		}
		s[i].module = m
		errs = append(errs, owned(&s[i])...)
	}
	return errors.Join(errs...)
}

func parseModule(name string, text []byte) (*ast.Module, error) {
	return ast.ParseModuleWithOpts(name, string(text), ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities})
}

// sourceErrors turns OPA's list of errors into ours, with their places.
func sourceErrors(err error) []error {
	var list ast.Errors
	if !errors.As(err, &list) {
		return []error{&Error{Kind: BadSource, Err: err}}
	}
	var out []error
	for _, e := range list {
		out = append(out, &Error{Kind: BadSource, Location: location(e.Location), Err: errors.New(e.Message)})
	}
	return out
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
		errs = append(errs, &Error{Kind: BadSource, Location: location(loc, s.module.Package.Location), Err: fmt.Errorf(format, args...)})
	}
	want := platformPath
	if s.namespace != "" {
		want = namespacesPath.Append(ast.StringTerm(s.namespace))
	}
	if !s.module.Package.Path.Equal(want) {
		fail(s.module.Package.Location, "this file may hold only package %s, and it holds %s",
			strings.TrimPrefix(want.String(), "data."), packageName(s.module))
		return errs
	}
	for _, r := range s.module.Rules {
		name := string(r.Head.Name)
		if name == "" && len(r.Head.Reference) > 0 {
			if v, ok := r.Head.Reference[0].Value.(ast.Var); ok {
				name = string(v)
			}
		}
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
		helper := len(ref) > 2 && ref.HasPrefix(platformPath) && ast.IsConstant(ref[2].Value) && !ref.HasPrefix(namespacesPath)
		if !helper && (namespace == "" || !ref.HasPrefix(own)) {
			allowed := "data.temporal.<rule>"
			if namespace != "" {
				allowed += " and " + own.String()
			}
			errs = append(errs, &Error{Kind: BadSource, Location: location(ref[0].Location, m.Package.Location),
				Err: fmt.Errorf("%s is out of reach here; this package may refer to %s only", ref, allowed)})
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
	c.AllowNet = []string{} // no schema is fetched either
	return c
}()
