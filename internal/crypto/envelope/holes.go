package envelope

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const maxDepth = 64

// span is a part of a document, from start up to end.
type span struct{ start, end int }

// selectHoles finds the values of a JSON document that a selection seals, outermost and in order. ok is false if the
// document has to be sealed whole: it is not strictly RFC 8259 and UTF-8, an object has a name twice, it is nested too
// deeply, or the selection itself means all of it or can't be read.
func selectHoles(data []byte, sel Selection) (holes []span, ok bool) {
	invert := len(sel.Clear) > 0
	pointers := sel.Fields
	if invert {
		if len(sel.Fields) > 0 {
			return nil, false
		}
		pointers = sel.Clear
	}
	s := jsonScan{data: data, invert: invert}
	for _, p := range pointers {
		tokens, ok := splitPointer(p)
		if !ok {
			return nil, false
		}
		s.active = append(s.active, tokens)
	}
	if len(s.active) == 0 || !utf8.Valid(data) {
		return nil, false
	}
	s.space()
	found, ok := s.value(0, s.active)
	s.space()
	if !ok || s.pos != len(data) || invert && !found {
		return nil, false
	}
	return s.holes, true
}

// splitPointer gives the tokens of a JSON pointer other than the one that means the whole document.
func splitPointer(p string) (tokens []string, ok bool) {
	if !strings.HasPrefix(p, "/") || !utf8.ValidString(p) {
		return nil, false
	}
	for _, t := range strings.Split(p[1:], "/") {
		for i := 0; i < len(t); i++ {
			if t[i] == '~' && (i+1 == len(t) || t[i+1] != '0' && t[i+1] != '1') {
				return nil, false
			}
		}
		tokens = append(tokens, strings.ReplaceAll(strings.ReplaceAll(t, "~1", "/"), "~0", "~"))
	}
	return tokens, true
}

// jsonScan reads a document once. It accepts RFC 8259 and nothing else.
type jsonScan struct {
	data   []byte
	pos    int
	invert bool // the pointers name what stays in clear
	active [][]string
	holes  []span
}

// value reads a value that is depth levels deep. active holds, of the pointers that led here, the tokens still to go.
// found tells whether one of them ended here or further down.
func (s *jsonScan) value(depth int, active [][]string) (found, ok bool) {
	start, mark := s.pos, len(s.holes)
	target := slices.ContainsFunc(active, func(tokens []string) bool { return len(tokens) == 0 })
	if target {
		active = nil // the outermost counts
	}
	if s.pos == len(s.data) {
		return false, false
	}
	switch c := s.data[s.pos]; {
	case c == '{':
		found, ok = s.object(depth+1, active)
	case c == '[':
		found, ok = s.array(depth+1, active)
	case c == '"':
		_, ok = s.text()
	case c == '-' || c >= '0' && c <= '9':
		ok = s.number()
	default:
		ok = s.word("true") || s.word("false") || s.word("null")
	}
	// What is sealed: the target, or when the pointers name the clear parts, whatever holds none of them.
	if s.invert != target && !found {
		s.holes = append(s.holes[:mark], span{start, s.pos})
	} else if target {
		s.holes = s.holes[:mark]
	}
	return found || target, ok
}

func (s *jsonScan) object(depth int, active [][]string) (found, ok bool) {
	if depth > maxDepth {
		return false, false
	}
	names := make(map[string]struct{})
	s.pos++
	s.space()
	if s.take('}') {
		return false, true
	}
	for {
		name, ok := s.text()
		if !ok {
			return false, false
		}
		if _, twice := names[name]; twice {
			return false, false
		}
		names[name] = struct{}{}
		s.space()
		if !s.take(':') {
			return false, false
		}
		s.space()
		below, ok := s.value(depth, follow(active, func(token string) bool { return token == name }))
		if !ok {
			return false, false
		}
		found = found || below
		s.space()
		if s.take('}') {
			return found, true
		}
		if !s.take(',') {
			return false, false
		}
		s.space()
	}
}

func (s *jsonScan) array(depth int, active [][]string) (found, ok bool) {
	if depth > maxDepth {
		return false, false
	}
	s.pos++
	s.space()
	if s.take(']') {
		return false, true
	}
	for i := 0; ; i++ {
		index := strconv.Itoa(i)
		below, ok := s.value(depth, follow(active, func(token string) bool { return token == "*" || token == index }))
		if !ok {
			return false, false
		}
		found = found || below
		s.space()
		if s.take(']') {
			return found, true
		}
		if !s.take(',') {
			return false, false
		}
		s.space()
	}
}

// follow takes the pointers one token further.
func follow(active [][]string, matches func(token string) bool) (next [][]string) {
	for _, tokens := range active {
		if matches(tokens[0]) {
			next = append(next, tokens[1:])
		}
	}
	return next
}

func (s *jsonScan) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

func (s *jsonScan) take(c byte) bool {
	if s.pos < len(s.data) && s.data[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

func (s *jsonScan) word(w string) bool {
	if strings.HasPrefix(string(s.data[s.pos:min(len(s.data), s.pos+len(w))]), w) {
		s.pos += len(w)
		return true
	}
	return false
}

// text reads a string and gives it unescaped. Half a surrogate pair is refused: readers disagree about it.
func (s *jsonScan) text() (_ string, ok bool) {
	if !s.take('"') {
		return "", false
	}
	start := s.pos
	var out []byte
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			if out == nil {
				return string(s.data[start : s.pos-1]), true
			}
			return string(append(out, s.data[start:s.pos-1]...)), true
		case c < 0x20:
			return "", false
		case c == '\\':
			out = append(out, s.data[start:s.pos]...)
			r, ok := s.escape()
			if !ok {
				return "", false
			}
			out = utf8.AppendRune(out, r)
			start = s.pos
		default:
			s.pos++
		}
	}
	return "", false
}

func (s *jsonScan) escape() (r rune, ok bool) {
	s.pos++
	if s.pos == len(s.data) {
		return 0, false
	}
	c := s.data[s.pos]
	s.pos++
	const plain, means = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	if i := strings.IndexByte(plain, c); i >= 0 {
		return rune(means[i]), true
	}
	if c != 'u' {
		return 0, false
	}
	r, ok = s.hex4()
	if !ok || !utf16.IsSurrogate(r) {
		return r, ok
	}
	if !s.take('\\') || !s.take('u') {
		return 0, false
	}
	low, ok := s.hex4()
	r = utf16.DecodeRune(r, low)
	return r, ok && r != utf8.RuneError
}

func (s *jsonScan) hex4() (rune, bool) {
	if len(s.data)-s.pos < 4 {
		return 0, false
	}
	n := rune(0)
	for _, c := range s.data[s.pos : s.pos+4] {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			n = n<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			n = n<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	s.pos += 4
	return n, true
}

// number reads -? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?
func (s *jsonScan) number() bool {
	s.take('-')
	if !s.take('0') && !s.digits() {
		return false
	}
	if s.take('.') && !s.digits() {
		return false
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		return s.digits()
	}
	return true
}

func (s *jsonScan) digits() bool {
	start := s.pos
	for s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9' {
		s.pos++
	}
	return s.pos > start
}
