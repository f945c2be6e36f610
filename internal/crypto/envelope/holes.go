package envelope

import (
	"bytes"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

const maxDepth = 64

// span is a part of a document, from start up to end.
type span struct{ start, end int }

// selectHoles finds the values of a JSON document that a selection seals, outermost and in order. ok is false if the
// document has to be sealed whole: it is not strictly RFC 8259 and UTF-8, an object has a name twice, it is nested too
// deeply, or the selection itself means all of it or can't be read.
func selectHoles(data []byte, sel Selection) (holes []span, ok bool) {
	f := finder{invert: len(sel.Clear) > 0}
	pointers := sel.Fields
	if f.invert {
		if len(sel.Fields) > 0 {
			return nil, false
		}
		pointers = sel.Clear
	}
	var active [][]string
	for _, p := range pointers {
		tokens, ok := splitPointer(p)
		if !ok {
			return nil, false
		}
		active = append(active, tokens)
	}
	if len(active) == 0 {
		return nil, false
	}
	// By default the decoder refuses names that are there twice, invalid UTF-8 and half surrogate pairs.
	f.decoder = decoders.Get().(*jsontext.Decoder)
	f.decoder.Reset(bytes.NewBuffer(data))
	defer func() {
		f.decoder.Reset(bytes.NewReader(nil)) // it keeps no reference to the document
		decoders.Put(f.decoder)
	}()
	found, ok := f.value(active)
	if !ok || f.invert && !found {
		return nil, false
	}
	_, err := f.decoder.ReadToken()
	return f.holes, err == io.EOF
}

var decoders = sync.Pool{New: func() any { return new(jsontext.Decoder) }}

// splitPointer returns the tokens of a JSON pointer other than the one that means the whole document.
func splitPointer(p string) (tokens []string, ok bool) {
	if !strings.HasPrefix(p, "/") || !utf8.ValidString(p) {
		return nil, false
	}
	for _, t := range strings.Split(p[1:], "/") {
		if strings.Count(t, "~") != strings.Count(t, "~0")+strings.Count(t, "~1") {
			return nil, false
		}
		tokens = append(tokens, strings.ReplaceAll(strings.ReplaceAll(t, "~1", "/"), "~0", "~"))
	}
	return tokens, true
}

// finder reads a document once.
type finder struct {
	decoder *jsontext.Decoder
	invert  bool // the pointers name what stays in clear
	holes   []span
}

// value reads a value. active holds, of the pointers that led here, the tokens still to go. found reports whether one of
// them ended here or further down.
func (f *finder) value(active [][]string) (found, ok bool) {
	before := len(f.holes)
	target := slices.ContainsFunc(active, func(tokens []string) bool { return len(tokens) == 0 })
	if target {
		active = nil // the outermost counts
	}
	var start int64
	switch kind := f.decoder.PeekKind(); kind {
	case '{', '[':
		if _, err := f.decoder.ReadToken(); err != nil || f.decoder.StackDepth() > maxDepth {
			return false, false
		}
		start = f.decoder.InputOffset() - 1
		if found, ok = f.members(kind, active); !ok {
			return false, false
		}
	default:
		value, err := f.decoder.ReadValue()
		if err != nil {
			return false, false
		}
		start = f.decoder.InputOffset() - int64(len(value))
	}
	// What is sealed: the target, or when the pointers name the clear parts, whatever holds none of them.
	if f.invert != target && !found {
		f.holes = append(f.holes[:before], span{int(start), int(f.decoder.InputOffset())})
	} else if target {
		f.holes = f.holes[:before]
	}
	return found || target, true
}

// members reads the rest of an object or an array.
func (f *finder) members(kind jsontext.Kind, active [][]string) (found, ok bool) {
	for i := 0; f.decoder.PeekKind() != kind+2; i++ { // '}' and ']' stand two after '{' and '['
		var below [][]string
		if kind == '{' {
			name, err := f.decoder.ReadToken()
			if err != nil {
				return false, false
			}
			if len(active) > 0 {
				below = follow(active, name.String(), "")
			}
		} else if len(active) > 0 {
			below = follow(active, strconv.Itoa(i), "*")
		}
		under, ok := f.value(below)
		if !ok {
			return false, false
		}
		found = found || under
	}
	_, err := f.decoder.ReadToken()
	return found, err == nil
}

// follow takes the pointers that name a member one token further. any stands for every member; "" stands for none.
func follow(active [][]string, name, any string) (next [][]string) {
	for _, tokens := range active {
		if tokens[0] == name || any != "" && tokens[0] == any {
			next = append(next, tokens[1:])
		}
	}
	return next
}
