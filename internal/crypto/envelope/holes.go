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

// Mismatch says why a document is sealed whole although a selection names fields of it.
type Mismatch uint8

const (
	// Matched: every field that has to be there was found, or the document is sealed whole for another reason.
	Matched Mismatch = iota
	// NotFound: a pointer leads to no value.
	NotFound
	// NotAnArray: a pointer has `*` where the document has something else than an array, or null.
	NotAnArray
)

// Unmatched returns why a document of an encoding is sealed whole though a selection names fields of it; "" if they fit, or if
// it is sealed whole for another reason. Optional fields fit any document. The text is for who wrote the selection: it quotes it.
func Unmatched(encoding string, document []byte, fields, optional []string) string {
	if !jsonEncoding(encoding) {
		return ""
	}
	_, at, why, _ := selectHoles(document, Selection{Fields: fields, Optional: optional})
	if why == Matched {
		return ""
	}
	return mismatchText(fields[at], why)
}

// mismatchText says why a document does not fit a field of a selection.
func mismatchText(field string, why Mismatch) string {
	if why == NotAnArray {
		return field + " has * where this document has no array"
	}
	return field + " leads to nothing in this document"
}

// jsonEncoding reports whether the data of a Payload with the encoding is a document that may be sealed in part.
func jsonEncoding(encoding string) bool {
	return encoding == "json/plain" || encoding == "json/protobuf"
}

// selectHoles finds the values of a JSON document that a selection seals, outermost and in order. ok is false if the
// document has to be sealed whole: it is not strictly RFC 8259 and UTF-8, an object has a name twice, it is nested too
// deeply, the selection itself means all of it or can't be read, or one of its fields does not fit the document. In the last
// case at is the index of the field, and why the reason.
func selectHoles(data []byte, sel Selection) (holes []span, at int, why Mismatch, ok bool) {
	f := finder{invert: len(sel.Clear) > 0}
	pointers := sel.Fields
	if f.invert {
		if len(sel.Fields) > 0 {
			return nil, 0, Matched, false
		}
		pointers = sel.Clear
	}
	var active []pointer
	for i, p := range pointers {
		tokens, ok := splitPointer(p)
		if !ok {
			return nil, 0, Matched, false
		}
		active = append(active, pointer{tokens, i})
	}
	if len(active) == 0 {
		return nil, 0, Matched, false
	}
	f.fits = make([]fit, len(active))
	// By default the decoder refuses names that are there twice, invalid UTF-8 and half surrogate pairs.
	f.decoder = decoders.Get().(*jsontext.Decoder)
	f.decoder.Reset(bytes.NewBuffer(data))
	defer func() {
		f.decoder.Reset(bytes.NewReader(nil)) // it keeps no reference to the document
		decoders.Put(f.decoder)
	}()
	found, ok := f.value(active)
	if !ok || f.invert && !found {
		return nil, 0, Matched, false
	}
	if _, err := f.decoder.ReadToken(); err != io.EOF {
		return nil, 0, Matched, false
	}
	for i, fits := range f.fits {
		if f.invert || slices.Contains(sel.Optional, pointers[i]) {
			continue
		}
		switch {
		case fits.notArray:
			return nil, i, NotAnArray, false
		case !fits.found:
			return nil, i, NotFound, false
		}
	}
	return f.holes, 0, Matched, true
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

// pointer is what is still to go of a pointer of the selection.
type pointer struct {
	tokens []string
	index  int // of the pointer in the selection
}

// fit is what a document has for a pointer.
type fit struct {
	found    bool // a value, or one around it that is sealed as well
	notArray bool // something else than an array where the pointer has `*`
}

// finder reads a document once.
type finder struct {
	decoder *jsontext.Decoder
	invert  bool // the pointers name what stays in clear
	holes   []span
	fits    []fit
}

// value reads a value. active holds, of the pointers that led here, the tokens still to go. found reports whether one of
// them ended here or further down.
func (f *finder) value(active []pointer) (found, ok bool) {
	before := len(f.holes)
	target := slices.ContainsFunc(active, func(p pointer) bool { return len(p.tokens) == 0 })
	if target {
		for _, p := range active {
			f.fits[p.index].found = true
		}
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
		if kind != 'n' { // null stands for an array without elements in some languages
			f.noArray(active)
		}
	}
	// What is sealed: the target, or when the pointers name the clear parts, whatever holds none of them.
	if f.invert != target && !found {
		f.holes = append(f.holes[:before], span{int(start), int(f.decoder.InputOffset())})
	} else if target {
		f.holes = f.holes[:before]
	}
	return found || target, true
}

// noArray notes which of the pointers want elements of an array where there is none.
func (f *finder) noArray(active []pointer) {
	for _, p := range active {
		if p.tokens[0] == "*" {
			f.fits[p.index].notArray = true
		}
	}
}

// members reads the rest of an object or an array.
func (f *finder) members(kind jsontext.Kind, active []pointer) (found, ok bool) {
	star := false                                     // a member that is called so
	for i := 0; f.decoder.PeekKind() != kind+2; i++ { // '}' and ']' stand two after '{' and '['
		var below []pointer
		if kind == '{' {
			name, err := f.decoder.ReadToken()
			if err != nil {
				return false, false
			}
			if len(active) > 0 {
				text := name.String()
				below, star = follow(active, text, ""), star || text == "*"
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
	if kind == '{' && !star {
		f.noArray(active)
	}
	_, err := f.decoder.ReadToken()
	return found, err == nil
}

// follow takes the pointers that name a member one token further. any stands for every member; "" stands for none.
func follow(active []pointer, name, any string) (next []pointer) {
	for _, p := range active {
		if p.tokens[0] == name || any != "" && p.tokens[0] == any {
			next = append(next, pointer{p.tokens[1:], p.index})
		}
	}
	return next
}
