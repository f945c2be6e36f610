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
	path     []string // the names of the members that lead to what is searched now, and "*" for elements
	flat     bool     // what is searched now has no node of its own, and neither has what is in it
	most     int      // values are searched; 0: all
	values   int      // so far
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
			l.value(l.root(), v)
			return
		}
	}
	text := string(data)
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		text = printable(data)
	}
	l.verdicts.whole()
	l.root().see(text)
	l.text(l.root(), text)
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

// value searches a value at a place.
func (l *looker) value(n *Node, v any) {
	l.values++
	l.left(n, v)
	switch v := v.(type) {
	case map[string]any:
		n.Count++
		n.Shape.Types |= isObject
		l.object(n, v)
	case []any:
		n.Count++
		n.Shape.Types |= isArray
		below := n
		if len(v) > 0 && l.hasNodes() {
			below = l.stratum.elements(n)
		}
		for _, element := range v {
			if l.enough() {
				return
			}
			leave := l.enter("*", below == n)
			l.value(below, element)
			leave()
		}
	case string:
		n.see(v)
		l.text(n, v)
	case json.Number:
		n.Count++
		n.Bytes += len(v)
		n.Shape.Types |= isNumber
		if len(v) > 10 && !strings.ContainsAny(string(v), ".eE-") {
			for _, f := range l.detector.Text(string(v)) {
				if f.Certainty == detect.Certain { // most long numbers are ids and times
					l.found(n, f, false)
				}
			}
		}
	default:
		n.Count++
		n.Shape.Types |= isOther
	}
}

// hasNodes reports whether what is in the value searched now gets nodes of its own.
func (l *looker) hasNodes() bool { return !l.flat && len(l.path) < maxDepth }

// enough reports whether so many values were searched that the rest is left out.
func (l *looker) enough() bool { return l.most > 0 && l.values >= l.most }

// enter goes one step down, until leave is called. There is one path, since a copy at each step of a deep document costs much.
func (l *looker) enter(step string, flat bool) (leave func()) {
	before := l.flat
	l.path, l.flat = append(l.path, step), before || flat
	return func() { l.path, l.flat = l.path[:len(l.path)-1], before }
}

// object searches the members of an object, and their names.
func (l *looker) object(n *Node, members map[string]any) {
	if resource, ok := members["resourceType"].(string); ok {
		if f, found := detect.FHIR(resource); found {
			l.found(n, f, false)
		}
	}
	if l.hasNodes() {
		n.Objects++
	}
	for _, name := range slices.Sorted(maps.Keys(members)) { // what shares a node depends on the order
		if l.enough() {
			return
		}
		child := n
		if l.hasNodes() {
			child = l.stratum.member(n, name, hides(l.detector, name), len(members))
		}
		for _, f := range l.detector.Text(name) {
			if f.Certainty != detect.Possible {
				l.found(child, f, child != n) // the name belongs to the object
			}
		}
		v, leave := members[name], l.enter(name, child == n)
		if f, byName := l.detector.Name(name); byName && holds(v) {
			l.found(child, f, false)
		}
		l.value(child, v)
		leave()
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
func (l *looker) text(n *Node, text string) {
	for _, f := range l.detector.Text(text) {
		l.found(n, f, false)
	}
	if start := strings.TrimLeft(text, " \n\r\t"); start == "" || start[0] != '{' && start[0] != '[' {
		return
	}
	if v, ok := parse([]byte(text)); ok {
		l.nested(n, v)
	}
}

// nested searches a document within a text by the names of its members: what its texts hold is found in the text.
func (l *looker) nested(n *Node, v any) {
	switch v := v.(type) {
	case map[string]any:
		if resource, ok := v["resourceType"].(string); ok {
			if f, found := detect.FHIR(resource); found {
				l.found(n, f, false)
			}
		}
		for name, member := range v {
			if f, byName := l.detector.Name(name); byName && holds(member) {
				l.found(n, f, false)
			}
			l.nested(n, member)
		}
	case []any:
		for _, element := range v {
			l.nested(n, element)
		}
	}
}

// found counts a finding, and whether policies leave it readable.
func (l *looker) found(n *Node, f detect.Finding, inName bool) {
	c := n.found(f, inName)
	c.Count++
	if !l.verdicts.inForce.covers(l.path) {
		c.Clear++
	}
	if !l.verdicts.candidate.covers(l.path) {
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
