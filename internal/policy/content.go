package policy

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"
)

// maxContent is the largest content that rules may look into: as JSON values it
// takes some ten times its bytes. It is what a frontend accepts in one message.
const maxContent = 4 << 20

// Numbers beyond these are refused. OPA computes with all of a number's digits, so one of
// a few bytes, like 1e25000, can cost more than the rest of a document; no program that
// sends JSON means such a number.
const (
	maxNumber   = 64 // bytes
	maxExponent = 3  // digits
)

// decode returns input.content.json, or false where rules cannot see what the
// payload holds: another encoding, or JSON that two parsers may read differently.
func decode(in *Input) (ast.Value, bool) {
	switch {
	case in.Kind == KindReason:
		if !utf8.Valid(in.Data) || len(in.Data) > maxContent {
			return nil, false
		}
		return ast.String(in.Data), true
	case in.Encoding == "binary/null":
		return ast.NullValue, true
	case strings.HasPrefix(in.Encoding, "json/"):
		return decodeJSON(in.Data)
	}
	return nil, false
}

// decodeJSON builds OPA's values straight from the bytes. A name twice in an object is refused: rules would
// see one of the two values and the reader perhaps the other.
func decodeJSON(data []byte) (ast.Value, bool) {
	if len(data) > maxContent || !utf8.Valid(data) {
		return nil, false
	}
	// An escape like \ud83d without its other half stands for U+FFFD, as in encoding/json and in the
	// parsers of most languages, so that it does not make a document unreadable.
	d := jsontext.NewDecoder(bytes.NewBuffer(data), jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(true))
	v, err := nextValue(d)
	if err != nil {
		return nil, false
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return nil, false // something follows
	}
	return v, true
}

// nextValue reads a value. Its recursion is bounded: the decoder refuses what is nested deeper than 10,000
// levels.
func nextValue(d *jsontext.Decoder) (ast.Value, error) {
	t, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	switch kind := t.Kind(); kind {
	case '{', '[':
		var elems []*ast.Term // of an object, names and values in turn
		for next := d.PeekKind(); next != '}' && next != ']'; next = d.PeekKind() {
			elem, err := nextValue(d)
			if err != nil {
				return nil, err
			}
			elems = append(elems, ast.NewTerm(elem))
		}
		if _, err := d.ReadToken(); err != nil || kind == '[' {
			return ast.NewArray(elems...), err
		}
		object := ast.NewObjectWithCapacity(len(elems) / 2)
		for pair := range slices.Chunk(elems, 2) {
			object.Insert(pair[0], pair[1])
		}
		return object, nil
	case '"':
		return ast.String(t.String()), nil
	case '0':
		return number(t.String())
	case 'n':
		return ast.NullValue, nil
	}
	return ast.Boolean(t.Bool()), nil
}

// number keeps the digits as they are: OPA computes with all of them, so a large integer stays exact.
func number(text string) (ast.Value, error) {
	_, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	if len(text) > maxNumber || len(strings.TrimLeft(exponent, "+-0")) > maxExponent {
		return nil, errors.New("the number is too long or too large")
	}
	return ast.Number(text), nil
}
