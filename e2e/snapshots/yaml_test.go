package snapshots

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// example is one document of a YAML file that names every key, one key a line.
type example struct {
	lines []string
	keys  []exampleKey
	// mappings are the keys of every mapping, by the mapping's path. Items of a list share one.
	mappings map[string]map[string]bool
}

// exampleKey is a key of an example.
type exampleKey struct {
	path  string // "listeners[].tls.cert_file"
	name  string
	kind  string // of its value, as kinds below has it
	line  int    // from 0
	depth int
	note  note
}

// note is the comment behind a key: "# default: lenient; one of: lenient, strict".
type note struct {
	standard string   // the default
	values   []string // a closed set
	names    bool     // the keys below it are names of the user's choice: "# names: of endpoints"
}

// Kinds of values.
const (
	kindText     = "text"
	kindBool     = "true or false"
	kindNumber   = "number"
	kindDuration = "duration"
	kindMapping  = "mapping"
	kindNames    = "mapping of names to texts"
	kindTexts    = "list of texts"
	kindMappings = "list of mappings"
)

// readExamples reads a file with one or more documents.
func readExamples(t *testing.T, path string) []*example {
	t.Helper()
	var all []*example
	for _, text := range strings.Split(readFile(t, path), "\n---\n") {
		parsed, err := parser.ParseBytes([]byte(text), 0)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		e := &example{lines: strings.Split(text, "\n"), mappings: map[string]map[string]bool{}}
		e.walk(t, parsed.Docs[0].Body, "", 0)
		all = append(all, e)
	}
	return all
}

func (e *example) walk(t *testing.T, n ast.Node, path string, depth int) {
	t.Helper()
	switch n := n.(type) {
	case *ast.MappingNode:
		if e.mappings[path] == nil {
			e.mappings[path] = map[string]bool{}
		}
		for _, entry := range n.Values {
			name := entry.Key.GetToken().Value
			e.mappings[path][name] = true
			k := exampleKey{path: strings.TrimPrefix(path+"."+name, "."), name: name, kind: kindOf(entry.Value),
				line: entry.Key.GetToken().Position.Line - 1, depth: depth}
			k.note = readNote(e.lines[k.line])
			if slices.ContainsFunc(e.keys, func(other exampleKey) bool { return other.line == k.line }) {
				t.Fatalf("%q: write one key a line", e.lines[k.line])
			}
			if k.note.names {
				k.kind = kindNames
				e.keys = append(e.keys, k)
				continue
			}
			e.keys = append(e.keys, k)
			e.walk(t, entry.Value, k.path, depth+1)
		}
	case *ast.SequenceNode:
		for _, item := range n.Values {
			e.walk(t, item, path+"[]", depth)
		}
	}
}

func kindOf(n ast.Node) string {
	switch n := n.(type) {
	case *ast.MappingNode:
		return kindMapping
	case *ast.SequenceNode:
		if len(n.Values) > 0 {
			if _, ok := n.Values[0].(*ast.MappingNode); ok {
				return kindMappings
			}
		}
		return kindTexts
	case *ast.BoolNode:
		return kindBool
	case *ast.IntegerNode:
		return kindNumber
	case *ast.StringNode:
		if _, err := time.ParseDuration(n.Value); err == nil {
			return kindDuration
		}
	}
	return kindText
}

func readNote(line string) (n note) {
	_, comment, found := strings.Cut(line, " # ")
	if !found {
		return n
	}
	for _, part := range strings.Split(comment, "; ") {
		if text, ok := strings.CutPrefix(part, "default: "); ok {
			n.standard = text
		}
		n.names = n.names || strings.HasPrefix(part, "names: ")
		if text, ok := strings.CutPrefix(part, "one of: "); ok {
			n.values = strings.Split(text, ", ")
		}
	}
	return n
}

// wrongValues are values that no key of a kind may have.
var wrongValues = map[string][]string{
	kindText:     {"7", "[x]", "{x: y}"},
	kindBool:     {"perhaps", "7", "[x]"},
	kindNumber:   {"many", "true", "[x]"},
	kindDuration: {"soon", "7", "[x]"},
	kindMapping:  {"x", "[x]", "7"},
	kindNames:    {"x", "[x]", "{x: [y]}"},
	kindTexts:    {"x", "[[x]]", "[{x: y}]"},
	kindMappings: {"x", "[x]", "7"},
}

var keyOnLine = regexp.MustCompile(`^(\s*(?:- )*)([A-Za-z_]+):.*$`)

// change returns the example's text with keys written differently. A change is the new name and value of the key on a
// line, such as "shadow: perhaps". What was below the key goes, and every other line stays where it is.
func (e *example) change(t *testing.T, changes map[int]string) string {
	t.Helper()
	lines := slices.Clone(e.lines)
	for at, to := range changes {
		m := keyOnLine.FindStringSubmatch(lines[at])
		if m == nil {
			t.Fatalf("%q is not a key on a line of its own", lines[at])
		}
		lines[at] = m[1] + to
		for i := at + 1; i < len(lines) && indent(lines[i]) > len(m[1]); i++ {
			lines[i] = strings.Repeat(" ", indent(lines[i])) + "#"
		}
	}
	return strings.Join(lines, "\n")
}

// indent is the number of spaces at the start of a line.
func indent(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// value is what stands behind the key on its own line.
func (e *example) value(k exampleKey) string {
	_, value, _ := strings.Cut(e.lines[k.line], k.name+":")
	value, _, _ = strings.Cut(value, " # ")
	return strings.TrimSpace(value)
}

// byDepth groups the keys that can be changed at the same time, since none is below another.
func (e *example) byDepth() [][]exampleKey {
	var all [][]exampleKey
	for _, k := range e.keys {
		for len(all) <= k.depth {
			all = append(all, nil)
		}
		all[k.depth] = append(all[k.depth], k)
	}
	return all
}

// facts lists each path with its type, its default and its values. Keys that occur more than once share a line.
func facts(t *testing.T, examples []*example) []string {
	t.Helper()
	merged := map[string]exampleKey{}
	for _, e := range examples {
		for _, k := range e.keys {
			old, seen := merged[k.path]
			if seen && old.kind != k.kind {
				t.Errorf("%s is a %s here and a %s there", k.path, old.kind, k.kind)
			}
			if k.note.standard == "" {
				k.note.standard = old.note.standard
			}
			if k.note.values == nil {
				k.note.values = old.note.values
			}
			merged[k.path] = k
		}
	}
	var lines []string
	for path, k := range merged {
		fact := path + ": " + k.kind
		if k.note.standard != "" {
			fact += ", default " + k.note.standard
		}
		if k.note.values != nil {
			fact += ", one of " + strings.Join(k.note.values, ", ")
		}
		lines = append(lines, fact)
	}
	slices.Sort(lines)
	return lines
}

// mappings returns the sorted keys of each mapping of a file. Documents of a file are parts of one example.
func mappings(examples []*example) [][]string {
	byPath := map[string]map[string]bool{}
	for _, e := range examples {
		for path, keys := range e.mappings {
			if byPath[path] == nil {
				byPath[path] = map[string]bool{}
			}
			maps.Copy(byPath[path], keys)
		}
	}
	var all [][]string
	for _, set := range byPath {
		all = append(all, slices.Sorted(maps.Keys(set)))
	}
	return all
}
