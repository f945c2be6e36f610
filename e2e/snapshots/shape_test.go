package snapshots

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// shape is what JSON documents of one kind have in common: which members there are, and of what type.
type shape struct {
	// open are the paths of objects whose members are named by the user, "namespaces". A member is written {} there.
	open  []string
	types map[string]map[string]bool // path -> type names
	there map[string]int             // path -> number of objects or arrays that have it
	held  map[string]int             // path -> number of objects with this path
}

func newShape(open ...string) *shape {
	return &shape{open: open, types: map[string]map[string]bool{}, there: map[string]int{}, held: map[string]int{}}
}

// add takes in every document of a text: one, or one a line.
func (s *shape) add(t *testing.T, text string) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	n := 0
	for {
		var v any
		err := d.Decode(&v)
		if err == io.EOF && n > 0 {
			return
		}
		if err != nil {
			t.Fatalf("not JSON: %v in %q", err, text)
		}
		s.value("", v)
		n++
	}
}

func (s *shape) value(path string, v any) {
	if s.types[path] == nil {
		s.types[path] = map[string]bool{}
	}
	switch v := v.(type) {
	case map[string]any:
		s.types[path]["object"] = true
		s.held[path]++
		for name, member := range v {
			at := strings.TrimPrefix(path+"."+name, ".")
			if slices.Contains(s.open, path) {
				at = path + "{}"
			}
			s.there[at]++
			s.value(at, member)
		}
	case []any:
		s.types[path]["array"] = true
		for _, item := range v {
			s.value(path+"[]", item)
		}
	case string:
		s.types[path]["text"] = true
	case float64:
		s.types[path]["number"] = true
	case bool:
		s.types[path]["true or false"] = true
	case nil:
		s.types[path]["null"] = true
	}
}

// facts lists every path with its type.
func (s *shape) facts(what string) []string {
	var lines []string
	for path, types := range s.types {
		name := path
		if name == "" {
			name = "the document"
		}
		var names []string
		for n := range types {
			names = append(names, n)
		}
		slices.Sort(names)
		fact := fmt.Sprintf("%s: %s: %s", what, name, strings.Join(names, " or "))
		parent, last := "", strings.LastIndex(path, ".")
		if last >= 0 {
			parent = path[:last]
		}
		if n, isMember := s.there[path]; isMember && !strings.HasSuffix(path, "{}") && n < s.held[parent] {
			fact += ", sometimes"
		}
		lines = append(lines, fact)
	}
	return lines
}
