package policy

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"

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

// decodeJSON builds OPA's values straight from the bytes. A name twice in an object
// is refused: rules would see one of the two values and the reader perhaps the other.
func decodeJSON(data []byte) (ast.Value, bool) {
	if len(data) > maxContent || !utf8.Valid(data) || !json.Valid(data) {
		return nil, false
	}
	p := jsonParser{data: data, ok: true}
	v := p.value()
	return v, p.ok
}

// jsonParser reads text that json.Valid has accepted, so it checks no syntax.
type jsonParser struct {
	data []byte
	pos  int
	ok   bool
}

func (p *jsonParser) skip() byte {
	for {
		switch c := p.data[p.pos]; c {
		case ' ', '\t', '\n', '\r', ',', ':':
			p.pos++
		default:
			return c
		}
	}
}

func (p *jsonParser) value() ast.Value {
	switch p.skip() {
	case '{':
		return p.object()
	case '[':
		return p.array()
	case '"':
		return ast.String(p.text())
	case 't':
		p.pos += len("true")
		return ast.Boolean(true)
	case 'f':
		p.pos += len("false")
		return ast.Boolean(false)
	case 'n':
		p.pos += len("null")
		return ast.NullValue
	}
	return p.number()
}

func (p *jsonParser) object() ast.Value {
	p.pos++
	var names []string
	var members [][2]*ast.Term
	for p.skip() != '}' && p.ok {
		name := p.text()
		names = append(names, name)
		members = append(members, [2]*ast.Term{ast.StringTerm(name), ast.NewTerm(p.value())})
	}
	p.pos++
	slices.Sort(names)
	if len(slices.Compact(names)) != len(members) {
		p.ok = false
		return ast.NullValue
	}
	return ast.NewObject(members...)
}

func (p *jsonParser) array() ast.Value {
	p.pos++
	var elems []*ast.Term
	for p.skip() != ']' && p.ok {
		elems = append(elems, ast.NewTerm(p.value()))
	}
	p.pos++
	return ast.NewArray(elems...)
}

func (p *jsonParser) text() string {
	start := p.pos
	p.pos++
	escaped := false
	for p.data[p.pos] != '"' {
		if p.data[p.pos] == '\\' {
			escaped = true
			p.pos++
		}
		p.pos++
	}
	p.pos++
	raw := p.data[start:p.pos]
	if !escaped {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		p.ok = false
	}
	return s
}

func (p *jsonParser) number() ast.Value {
	start := p.pos
	for p.pos < len(p.data) && bytes.IndexByte([]byte("+-.0123456789eE"), p.data[p.pos]) >= 0 {
		p.pos++
	}
	text := p.data[start:p.pos]
	if e := bytes.IndexAny(text, "eE"); len(text) > maxNumber || (e >= 0 && len(bytes.TrimLeft(text[e+1:], "+-0")) > maxExponent) {
		p.ok = false
	}
	return ast.Number(text)
}
