package config

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/temporal-seal/temporal-seal/internal/x/spell"
)

// document is a config file that is decoded strictly: every key has to be known and every value of its type.
// It collects all problems, each with its line.
type document struct {
	file     string
	lines    map[string]int    // YAML path -> line
	flags    map[string]string // YAML path -> flag that gave the value instead
	problems []problem
	decoded  bool // all of it, so that defaults could be filled in
}

type problem struct {
	line int
	path string
	text string
}

var durationType = reflect.TypeFor[time.Duration]()

// decode fills v from YAML. A struct's fields are the keys that their yaml tags name.
func decode(file string, text []byte, v reflect.Value) *document {
	d := &document{file: file, lines: map[string]int{}}
	if problem := encodingProblem(text); problem != "" {
		d.lines["$"] = 1
		d.add("$", "%s", problem)
		return d
	}
	parsed, err := parser.ParseBytes(text, 0)
	if err != nil {
		message := err.Error()
		var located yaml.Error
		if errors.As(err, &located) {
			d.lines["$"], message = located.GetToken().Position.Line, located.GetMessage()
		}
		d.add("$", "not valid YAML: %s%s", message, remedy(text, d.lines["$"]))
		return d
	}
	d.refuse(len(parsed.Docs) > 1, "$", "the file contains several YAML documents; write one")
	if len(parsed.Docs) == 1 && parsed.Docs[0].Body != nil && !isComment(parsed.Docs[0].Body) {
		d.value(parsed.Docs[0].Body, v, "$")
	} else if len(parsed.Docs) <= 1 {
		d.add("$", "the file is empty; write the config, or leave --config out to run with local defaults")
	}
	return d
}

// encodingProblem says what keeps a text from being read as YAML, or returns "".
func encodingProblem(text []byte) string {
	switch {
	case bytes.HasPrefix(text, []byte("\xef\xbb\xbf")):
		return "the file begins with a byte order mark; save it as UTF-8 without one"
	case !utf8.Valid(text):
		return "the file is not UTF-8; save it in this encoding"
	case bytes.IndexByte(text, 0) >= 0:
		return "the file contains a zero byte; save it as UTF-8 text"
	}
	return ""
}

// remedy returns what to do about a line that is not valid YAML, where the line shows it.
func remedy(text []byte, line int) string {
	lines := strings.Split(string(text), "\n")
	if line < 1 || line > len(lines) {
		return ""
	}
	switch bad := lines[line-1]; {
	case strings.Contains(bad, "{{"):
		return "; the line contains {{, as templates do; render the file first"
	case strings.HasPrefix(strings.TrimLeft(bad, " "), "\t"):
		return "; indent with spaces in place of tabs"
	}
	return ""
}

// add notes a problem at a YAML path.
func (d *document) add(path, format string, args ...any) {
	d.problems = append(d.problems, problem{d.line(path), path, fmt.Sprintf(format, args...)})
}

// refuse adds a problem at a YAML path if the condition for it holds.
func (d *document) refuse(condition bool, path, format string, args ...any) {
	if condition {
		d.add(path, format, args...)
	}
}

// line returns the line of a path, or of the nearest path above it.
func (d *document) line(path string) int {
	for path != "" {
		if n, ok := d.lines[path]; ok {
			return n
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 0
}

// beside returns a document about the same file, for other problems.
func (d *document) beside() *document {
	return &document{file: d.file, lines: d.lines, flags: d.flags}
}

// texts lists the problems in the order of the file.
func (d *document) texts() []string {
	slices.SortStableFunc(d.problems, func(a, b problem) int { return a.line - b.line })
	lines := make([]string, len(d.problems))
	for i, p := range d.problems {
		lines[i] = d.place(p) + ": " + p.text
	}
	return lines
}

// err joins the problems, one line each.
func (d *document) err() error {
	if len(d.problems) == 0 {
		return nil
	}
	return errors.New(strings.Join(d.texts(), "\n"))
}

// at names where the value at a YAML path comes from.
func (d *document) at(path string) string { return d.place(problem{line: d.line(path), path: path}) }

// place names where a value comes from: a flag, or file, line and path.
func (d *document) place(p problem) string {
	if flag, ok := d.flags[p.path]; ok {
		return flag
	}
	place := d.file
	if p.line > 0 {
		place = fmt.Sprintf("%s:%d", d.file, p.line)
	}
	if path := strings.TrimPrefix(strings.TrimPrefix(p.path, "$"), "."); path != "" {
		place += ": " + path
	}
	return place
}

func (d *document) value(n ast.Node, v reflect.Value, path string) {
	if _, seen := d.lines[path]; !seen {
		d.lines[path] = n.GetToken().Position.Line
	}
	switch {
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), path)
	case v.Kind() == reflect.Struct:
		d.mapping(n, v, path)
	case v.Kind() == reflect.Slice:
		d.sequence(n, v, path)
	case v.Kind() == reflect.Map:
		d.names(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

func (d *document) mapping(n ast.Node, v reflect.Value, path string) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		d.add(path, "must be a mapping (key: value), not %s", describeNode(n))
		return
	}
	names := make([]string, v.NumField())
	for i := range names {
		names[i] = v.Type().Field(i).Tag.Get("yaml")
	}
	for _, entry := range m.Values {
		key := entry.Key.GetToken().Value
		at := path + "." + key
		d.lines[at] = entry.Key.GetToken().Position.Line
		i := slices.Index(names, key)
		if i < 0 {
			d.add(at, "%s", unknownKey(key, names))
			continue
		}
		if _, empty := entry.Value.(*ast.NullNode); empty {
			d.add(at, "has no value; give one, or remove the key")
			continue
		}
		d.value(entry.Value, v.Field(i), at)
	}
}

// names decodes a mapping whose keys are names of the user's choice, and whose values are texts.
func (d *document) names(n ast.Node, v reflect.Value, path string) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		d.add(path, "must be a mapping (name: value), not %s", describeNode(n))
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, entry := range m.Values {
		name, at := entry.Key.GetToken().Value, path+"."+entry.Key.GetToken().Value
		value := reflect.New(v.Type().Elem()).Elem()
		d.lines[at] = entry.Key.GetToken().Position.Line
		d.refuse(name == "", at, "the name is empty; give one, or remove the entry")
		d.value(entry.Value, value, at)
		v.SetMapIndex(reflect.ValueOf(name), value)
	}
}

// unknownKey names the key that was meant, if one is like it, and all that there are.
func unknownKey(key string, names []string) string {
	text := "unknown key; here the keys are " + strings.Join(names, ", ")
	if near := spell.Nearest(key, names); near != "" {
		text = fmt.Sprintf("unknown key; did you mean %s? Here the keys are %s", near, strings.Join(names, ", "))
	}
	return text
}

func (d *document) sequence(n ast.Node, v reflect.Value, path string) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.add(path, "must be a list, not %s", describeNode(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(s.Values), len(s.Values)))
	for i, item := range s.Values {
		d.value(item, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
}

// maxDays is how many days a duration may have, in which it is still a number of nanoseconds.
const maxDays = 100000

// parseDuration reads what time.ParseDuration does, and whole days such as 30d.
func parseDuration(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 64)
		if err == nil && n > maxDays {
			err = strconv.ErrRange
		}
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(text)
}

func (d *document) scalar(n ast.Node, v reflect.Value, path string) {
	text, isText := textOf(n)
	must := func(be string) { d.add(path, "must be %s, not %s", be, describeNode(n)) }
	switch {
	case v.Type() == durationType:
		took, err := parseDuration(text)
		if !isText || err != nil || took < 0 {
			must("a duration such as 70s or 5m")
			return
		}
		v.SetInt(int64(took))
	case v.Kind() == reflect.Bool:
		if b, ok := n.(*ast.BoolNode); ok {
			v.SetBool(b.Value)
		} else {
			must("true or false")
		}
	case v.Kind() == reflect.Int:
		var value uint64 // the parser gives negative numbers another type
		if i, ok := n.(*ast.IntegerNode); ok {
			value, _ = i.Value.(uint64)
		}
		d.refuse(value == 0 || value > math.MaxInt, path, "must be a whole number above 0")
		v.SetInt(int64(value))
	case !isText:
		must("a string")
	default:
		d.refuse(text == "", path, "is empty; give a value, or remove the key")
		v.SetString(text)
	}
}

// isComment reports whether a node is nothing but comments.
func isComment(n ast.Node) bool {
	_, ok := n.(*ast.CommentGroupNode)
	return ok
}

func textOf(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return strings.TrimSpace(n.Value.Value), true
	}
	return "", false
}

// describeNode names the type of a node, but not its value, which may be a secret in the wrong place.
func describeNode(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode, *ast.LiteralNode:
		return "a string"
	case *ast.BoolNode:
		return "true or false"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number (put it in quotes if it is a name)"
	case *ast.NullNode:
		return "nothing"
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return "a YAML anchor or alias (write it out)"
	}
	return "this"
}
