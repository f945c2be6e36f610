package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"
)

// Bounds of the content that rules may look into.
const (
	maxContent = 4 << 20 // bytes; what a frontend accepts in one message
	maxValues  = 100_000 // JSON values, members' names among them

	// valueCost is what a value takes in memory, in bytes: up to 60 for numbers and texts, 150 for objects.
	valueCost = 100
	// chargeStep is after how many values their memory is charged. As many as that are free, since the limit
	// of calls allows for them.
	chargeStep = 1000
)

// Why content is out of the rules' sight.
var (
	errUnreadable = errors.New("it is in another encoding, or JSON that two parsers may read differently")
	errTooLarge   = fmt.Errorf("it has more than %d bytes or %d JSON values", maxContent, maxValues)
)

// Numbers beyond these are refused. OPA computes with all of a number's digits, so one of
// a few bytes, like 1e25000, can cost more than the rest of a document; no program that
// sends JSON means such a number.
const (
	maxNumber   = 64 // bytes
	maxExponent = 3  // digits
)

// decode returns input.content.json. The error is errUnreadable, errTooLarge, or that of the call's memory.
func decode(in *Input) (ast.Value, error) {
	switch {
	case readable(in.Kind):
		switch {
		case len(in.Data) > maxContent:
			return nil, errTooLarge
		case !utf8.Valid(in.Data):
			return nil, errUnreadable
		}
		return ast.String(in.Data), nil
	case in.Encoding == "binary/null":
		return ast.NullValue, nil
	case strings.HasPrefix(in.Encoding, "json/"):
		return decodeJSON(in.Data, in.Call)
	}
	return nil, errUnreadable
}

// decodeJSON builds OPA's values straight from the bytes. A name twice in an object is refused: rules would
// see one of the two values and the reader perhaps the other.
func decodeJSON(data []byte, call *Call) (ast.Value, error) {
	if len(data) > maxContent {
		return nil, errTooLarge
	}
	if !utf8.Valid(data) {
		return nil, errUnreadable
	}
	// An escape like \ud83d without its other half stands for U+FFFD, as in encoding/json and in the
	// parsers of most languages, so that it does not make a document unreadable.
	d := jsontext.NewDecoder(bytes.NewBuffer(data), jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(true))
	b := builder{d: d, call: call}
	v, err := b.next()
	if err != nil {
		return nil, err
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return nil, errUnreadable // something follows
	}
	return v, nil
}

// builder makes OPA's values of JSON, and counts them.
type builder struct {
	d      *jsontext.Decoder
	call   *Call
	values int
}

// count counts a value before it is built.
func (b *builder) count() error {
	if b.values++; b.values > maxValues {
		return errTooLarge
	}
	if b.values%chargeStep == 0 {
		return b.call.charge(int64(b.values)*valueCost + b.d.InputOffset())
	}
	return nil
}

// next reads a value. Its recursion is bounded: the decoder refuses what is nested deeper than 10,000
// levels.
func (b *builder) next() (ast.Value, error) {
	if err := b.count(); err != nil {
		return nil, err
	}
	d := b.d
	t, err := d.ReadToken()
	if err != nil {
		return nil, errUnreadable
	}
	switch kind := t.Kind(); kind {
	case '{', '[':
		var elems []*ast.Term // of an object, names and values in turn
		for next := d.PeekKind(); next != '}' && next != ']'; next = d.PeekKind() {
			elem, err := b.next()
			if err != nil {
				return nil, err
			}
			elems = append(elems, ast.NewTerm(elem))
		}
		if _, err := d.ReadToken(); err != nil {
			return nil, errUnreadable
		}
		if kind == '[' {
			return ast.NewArray(elems...), nil
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
		return nil, errUnreadable
	}
	return ast.Number(text), nil
}
