package snapshots

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// The binary cannot list what it never shows: a key that no example has, a metric that no call touched. The source can.
// It is only read for that: what is in it has to be in the snapshots. Only the names of environment variables are taken
// from it.

// source is what the product's Go files hold.
type source struct {
	structs   []taggedStruct
	metrics   []string
	routes    []string // of the admin listener, "GET /healthz"
	variables []string // read from the environment
	fields    []jsonField
}

// jsonField is a member of a JSON document that the product writes.
type jsonField struct{ where, name string }

// taggedStruct is a struct with YAML keys.
type taggedStruct struct {
	where string
	keys  []string // sorted
}

var readSource = sync.OnceValues(func() (*source, error) {
	s := new(source)
	for _, dir := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(harness.Root(), dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() && d.Name() == "testdata" {
				if err == nil {
					err = fs.SkipDir
				}
				return err
			}
			if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			return s.file(path)
		})
		if err != nil {
			return nil, err
		}
	}
	for _, list := range []*[]string{&s.metrics, &s.routes, &s.variables} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return s, nil
})

var (
	metricName = regexp.MustCompile(`^(temporal_seal|rpc_server|http_server)_[a-z0-9_]+$`)
	routeText  = regexp.MustCompile(`^(GET|HEAD|POST|PUT|PATCH|DELETE) /`)
)

func (s *source) file(path string) error {
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, path, nil, 0)
	if err != nil {
		return err
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if err != nil {
			return false
		}
		where := ""
		if n != nil {
			where = strings.TrimPrefix(files.Position(n.Pos()).String(), filepath.Clean(harness.Root())+"/")
		}
		switch n := n.(type) {
		case *ast.StructType:
			err = s.structType(n, where)
		case *ast.BasicLit:
			if value, notText := strconv.Unquote(n.Value); n.Kind == token.STRING && notText == nil {
				s.literal(value)
			}
		case *ast.CallExpr:
			err = s.call(n, where)
		}
		return err == nil
	})
	return err
}

func (s *source) structType(n *ast.StructType, where string) error {
	var keys []string
	for _, field := range n.Fields.List {
		if field.Tag == nil {
			continue
		}
		tag, err := strconv.Unquote(field.Tag.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		if name, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ","); name != "" && name != "-" {
			s.fields = append(s.fields, jsonField{where, name})
		}
		value, ok := reflect.StructTag(tag).Lookup("yaml")
		if !ok {
			continue
		}
		name, options, _ := strings.Cut(value, ",")
		if strings.Contains(options, "inline") {
			return fmt.Errorf("%s: this test cannot follow an inlined struct: name its keys in the struct itself", where)
		}
		if name != "" && name != "-" {
			keys = append(keys, name)
		}
	}
	if len(keys) > 0 {
		slices.Sort(keys)
		s.structs = append(s.structs, taggedStruct{where, keys})
	}
	return nil
}

func (s *source) literal(text string) {
	if metricName.MatchString(text) {
		s.metrics = append(s.metrics, text)
	}
	if routeText.MatchString(text) {
		s.routes = append(s.routes, text)
	}
}

// call notes the variable that os.Getenv and os.LookupEnv read. Its name has to be written there.
func (s *source) call(n *ast.CallExpr, where string) error {
	f, ok := n.Fun.(*ast.SelectorExpr)
	if !ok || f.Sel.Name != "Getenv" && f.Sel.Name != "LookupEnv" && f.Sel.Name != "Environ" {
		return nil
	}
	if pkg, ok := f.X.(*ast.Ident); !ok || pkg.Name != "os" && pkg.Name != "syscall" {
		return nil
	}
	if len(n.Args) == 1 {
		if literal, ok := n.Args[0].(*ast.BasicLit); ok {
			name, err := strconv.Unquote(literal.Value)
			s.variables = append(s.variables, name)
			return err
		}
	}
	return fmt.Errorf("%s: this test cannot see which variable is read here: write its name in the call", where)
}

// productSource reads the product's source, once.
func productSource(t *testing.T) *source {
	t.Helper()
	s, err := readSource()
	if err != nil {
		t.Fatal(err)
	}
	if len(s.structs) == 0 || len(s.metrics) == 0 || len(s.routes) == 0 || len(s.variables) == 0 {
		t.Fatalf("the source is not what this test can read: %d structs with YAML keys, %d metrics, %d routes, %d variables",
			len(s.structs), len(s.metrics), len(s.routes), len(s.variables))
	}
	return s
}

// everyMetricIsThere compares the metrics that the source names with a snapshot of them.
func everyMetricIsThere(t *testing.T, snapshot string) {
	for _, name := range productSource(t).metrics {
		if !strings.Contains(snapshot, "\n"+name+": type ") {
			t.Errorf("the source has a metric %s that no call of this test brings forth: extend exercise in metrics_test.go", name)
		}
	}
}

// otherFormats are packages whose JSON is not the product's own: of key services, of token issuers, within payloads.
var otherFormats = []string{"internal/auth/", "internal/crypto/", "internal/rewrite/"}

// everyFieldIsThere compares the JSON fields that the source names with snapshots of JSON documents.
func everyFieldIsThere(t *testing.T, snapshots string) {
	for _, f := range productSource(t).fields {
		if slices.ContainsFunc(otherFormats, func(dir string) bool { return strings.HasPrefix(f.where, dir) }) {
			continue
		}
		if !regexp.MustCompile(`[ .]` + regexp.QuoteMeta(f.name) + `(\[\]|\{\})?[:.]`).MatchString(snapshots) {
			t.Errorf("%s: no output of this test has the JSON field %q: extend takeJSON or takeAudit", f.where, f.name)
		}
	}
}

// documented finds names of variables in the documents.
var documented = regexp.MustCompile(`\b(?:OTEL|AWS|VAULT)_[A-Z][A-Z_]*[A-Z]\b|\bGO(?:MEMLIMIT|GC|DEBUG)\b`)

// takeEnvironment lists variables. They cannot be seen from outside: their names come from the source and the documents.
func takeEnvironment(t *testing.T) []string {
	var lines []string
	for _, name := range productSource(t).variables {
		lines = append(lines, name+": read by the program")
	}
	docs, err := filepath.Glob(filepath.Join(harness.Root(), "docs", "*.md"))
	if err != nil || len(docs) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	for _, path := range docs {
		for _, name := range documented.FindAllString(readFile(t, path), -1) {
			lines = append(lines, name+": named by the documents")
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}
