package survey

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/temporal-seal/temporal-seal/internal/survey/detect"
)

// looker searches one payload or text.
type looker struct {
	detector *detect.Detector
	stratum  *Stratum
	verdicts verdicts
}

func (l *looker) root() *Node { return l.stratum.Root }

// data searches the data of a payload.
func (l *looker) data(encoding string, data []byte) {
	if len(data) == 0 || encoding == "binary/null" {
		return
	}
	if strings.HasPrefix(encoding, "json/") {
		if v, ok := parse(data); ok {
			l.stratum.JSON++
			l.value(l.root(), v, nil)
			return
		}
	}
	text := string(data)
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		text = printable(data)
	}
	l.verdicts.whole()
	l.root().see(text)
	l.text(l.root(), text, nil)
}

// parse reads one JSON value.
func parse(data []byte) (v any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // a card's number keeps its digits
	if d.Decode(&v) != nil {
		return nil, false
	}
	_, err := d.Token()
	return v, err == io.EOF
}

// printable returns the texts in binary data, each on a line.
func printable(data []byte) string {
	var out strings.Builder
	for piece := range bytes.FieldsFuncSeq(data, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }) {
		if len(piece) >= 6 {
			out.Write(piece)
			out.WriteByte('\n')
		}
	}
	return out.String()
}

// value searches a value at a place: path has the names of the members that lead to it, and "*" for elements.
func (l *looker) value(n *Node, v any, path []string) {
	switch v := v.(type) {
	case map[string]any:
		n.Count++
		n.Shape.Types |= isObject
		l.object(n, v, path)
	case []any:
		n.Count++
		n.Shape.Types |= isArray
		if n.Elements == nil && len(v) > 0 && len(path) < maxDepth {
			n.Elements = new(Node)
			l.stratum.Nodes++
		}
		below := n.Elements
		if len(path) >= maxDepth {
			below = n
		}
		for _, element := range v {
			l.value(below, element, deeper(path, "*"))
		}
	case string:
		n.see(v)
		l.text(n, v, path)
	case json.Number:
		n.Count++
		n.Bytes += len(v)
		n.Shape.Types |= isNumber
		if len(v) > 10 && !strings.ContainsAny(string(v), ".eE-") {
			for _, f := range l.detector.Text(string(v)) {
				if f.Certainty == detect.Certain { // most long numbers are ids and times
					l.found(n, f, path, false)
				}
			}
		}
	default:
		n.Count++
		n.Shape.Types |= isOther
	}
}

// deeper returns a path with one more step, without changing what other paths share with it.
func deeper(path []string, step string) []string { return append(path[:len(path):len(path)], step) }

// object searches the members of an object, and their names.
func (l *looker) object(n *Node, members map[string]any, path []string) {
	if resource, ok := members["resourceType"].(string); ok {
		if f, found := detect.FHIR(resource); found {
			l.found(n, f, path, false)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(members)) { // what shares a node depends on the order
		v, at := members[name], deeper(path, name)
		child := n
		if len(path) < maxDepth {
			child = l.stratum.member(n, name, hides(l.detector, name))
		}
		for _, f := range l.detector.Text(name) {
			if f.Certainty != detect.Possible {
				l.found(child, f, at, true)
			}
		}
		if f, byName := l.detector.Name(name); byName && holds(v) {
			l.found(child, f, at, false)
		}
		l.value(child, v, at)
	}
}

// holds reports whether a value can be what its member's name says.
func holds(v any) bool {
	switch v := v.(type) {
	case nil, bool:
		return false
	case string:
		return v != ""
	case map[string]any:
		return len(v) > 0
	case []any:
		return len(v) > 0
	}
	return true
}

// text searches a text, and the JSON document that it may hold.
func (l *looker) text(n *Node, text string, path []string) {
	for _, f := range l.detector.Text(text) {
		l.found(n, f, path, false)
	}
	if start := strings.TrimLeft(text, " \n\r\t"); start == "" || start[0] != '{' && start[0] != '[' {
		return
	}
	if v, ok := parse([]byte(text)); ok {
		l.nested(n, v, path)
	}
}

// nested searches a document within a text by the names of its members: what its texts hold is found in the text.
func (l *looker) nested(n *Node, v any, path []string) {
	switch v := v.(type) {
	case map[string]any:
		if resource, ok := v["resourceType"].(string); ok {
			if f, found := detect.FHIR(resource); found {
				l.found(n, f, path, false)
			}
		}
		for name, member := range v {
			if f, byName := l.detector.Name(name); byName && holds(member) {
				l.found(n, f, path, false)
			}
			l.nested(n, member, path)
		}
	case []any:
		for _, element := range v {
			l.nested(n, element, path)
		}
	}
}

// found counts a finding, and whether policies leave it readable.
func (l *looker) found(n *Node, f detect.Finding, path []string, inName bool) {
	c := n.found(f, inName)
	c.Count++
	if inName {
		path = path[:len(path)-1] // the name belongs to the object
	}
	if !l.verdicts.inForce.covers(path) {
		c.Clear++
	}
	if !l.verdicts.candidate.covers(path) {
		c.CandidateClear++
	}
}

// maxName bounds the names that reports show, in bytes.
const maxName = 64

// hides reports whether a name may be data: one in which something is found, or that no program would give to a member.
func hides(d *detect.Detector, name string) bool {
	if len(name) > maxName || !utf8.ValidString(name) {
		return true
	}
	numerals := 0
	for _, r := range name {
		switch {
		case unicode.IsDigit(r):
			if numerals++; numerals > 3 {
				return true
			}
		case !unicode.IsLetter(r) && !strings.ContainsRune("_-.$:/", r):
			return true
		}
	}
	return len(d.Text(name)) > 0
}

// Shape is what the values at a place look like. It has no part of any of them.
type Shape struct {
	Types    shapeSet `json:"types"`
	Classes  shapeSet `json:"classes"` // of the characters of texts
	Shortest int      `json:"shortest,omitempty"`
	Longest  int      `json:"longest,omitempty"`
}

// shapeSet is a set of types, or of classes of characters.
type shapeSet uint8

const (
	isText shapeSet = 1 << iota
	isNumber
	isObject
	isArray
	isOther // true, false and null
)

const (
	hasLetters shapeSet = 1 << iota
	hasDigits
	hasSpaces
	hasOthers
)

// see counts a text.
func (n *Node) see(text string) {
	n.Count++
	n.Bytes += len(text)
	s := &n.Shape
	if s.Types&isText == 0 || len(text) < s.Shortest {
		s.Shortest = len(text)
	}
	s.Longest = max(s.Longest, len(text))
	s.Types |= isText
	for _, r := range text[:min(len(text), 1<<10)] {
		switch {
		case unicode.IsLetter(r):
			s.Classes |= hasLetters
		case unicode.IsDigit(r):
			s.Classes |= hasDigits
		case unicode.IsSpace(r):
			s.Classes |= hasSpaces
		default:
			s.Classes |= hasOthers
		}
	}
}

// merge adds another shape.
func (s *Shape) merge(o *Shape) {
	if o.Types&isText != 0 && (s.Types&isText == 0 || o.Shortest < s.Shortest) {
		s.Shortest = o.Shortest
	}
	s.Longest = max(s.Longest, o.Longest)
	s.Types |= o.Types
	s.Classes |= o.Classes
}
