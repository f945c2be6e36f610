package envelope

import (
	"bytes"
	"slices"
	"strings"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// masks stand in the place of masked values, by the first byte of the value: one for each JSON type. They are constant, so that
// neither the length of a text nor the members of an object remain.
var masks = [...]string{'"': `"***"`, '{': `{}`, '[': `[]`, 't': `false`, 'f': `false`, 'n': `null`}

// maskOf returns the mask of a JSON value.
func maskOf(value []byte) string {
	if c := value[0]; int(c) < len(masks) && masks[c] != "" {
		return masks[c]
	}
	return "0" // a number
}

// AppendMasked appends a Payload with the values that a selection names masked, each by a value of the same JSON type. masked is how
// many there are. If some may remain, why says so, and nothing is appended: the payload must not be stored then. Only Fields
// and Optional of the selection count.
func AppendMasked(dst, payload []byte, sel Selection) (out []byte, masked int, why string) {
	start, end, ok := jsonData(payload)
	if !ok || Marked(payload) {
		if emptyPayload(payload) && !required(sel) {
			return append(dst, payload...), 0, ""
		}
		return dst, 0, "the payload is no JSON document"
	}
	document, masked, why := maskDocument(payload[start:end], Selection{Fields: sel.Fields, Optional: sel.Optional})
	if why != "" {
		return dst, 0, why
	}
	defer clear(document)
	for r := wire.Read(payload); r.Next(); {
		_, to := r.Bounds()
		if r.Number() != 2 {
			dst = append(dst, payload[r.At():to]...)
			continue
		}
		dst = append(dst, tagData)
		dst = protowire.AppendBytes(dst, document)
	}
	return dst, masked, ""
}

// MaskMemory returns a bound of what it takes to mask fields of a payload, in bytes, beside twice the payload: the places of the values,
// in a list that grows, and longer masks.
func MaskMemory(payload []byte, fields []string) int {
	most := len(fields)
	if slices.ContainsFunc(fields, func(f string) bool { return strings.Contains(f, "/*") }) {
		most += bytes.Count(payload, []byte(",")) // which separate values
	}
	return most * (2*int(unsafe.Sizeof(span{})) + len(`"***"`))
}

// maskDocument returns a JSON document with the values that a selection names masked, as AppendMasked does.
func maskDocument(data []byte, sel Selection) (document []byte, masked int, why string) {
	holes, at, mismatch, ok := selectHoles(data, sel)
	switch {
	case mismatch != Matched:
		return nil, 0, mismatchText(sel.Fields[at], mismatch)
	case !ok:
		return nil, 0, "two readers may read the document differently"
	}
	document = make([]byte, 0, len(data)+len(`"***"`)*len(holes))
	from := 0
	for _, h := range holes {
		document = append(append(document, data[from:h.start]...), maskOf(data[h.start:h.end])...)
		from = h.end
	}
	return append(document, data[from:]...), len(holes), ""
}

// required reports whether a selection names a field that has to be there.
func required(sel Selection) bool {
	return slices.ContainsFunc(sel.Fields, func(f string) bool { return !slices.Contains(sel.Optional, f) })
}

// emptyPayload reports whether a Payload holds no value at all, as SDKs write it: no data, of the encoding binary/null.
func emptyPayload(payload []byte) bool {
	null := false
	r := wire.Read(payload)
	for r.Next() {
		switch {
		case !r.Bytes() || r.Number() > 2, r.Number() == 2 && len(r.Value()) > 0:
			return false
		case r.Number() == 1:
			key, value, err := readEntry(r.Value())
			if err != nil || string(key) == "encoding" && string(value) != "binary/null" {
				return false
			}
			null = null || string(key) == "encoding"
		}
	}
	return r.Err() == nil && null
}

// MaskDocument masks fields of a document of an encoding, as AppendMasked does. masked is how many values that are. why is for who
// wrote the selection: it quotes it.
func MaskDocument(encoding string, document []byte, fields, optional []string) (out []byte, masked int, why string) {
	sel := Selection{Fields: fields, Optional: optional}
	if encoding == "binary/null" && len(document) == 0 && !required(sel) {
		return document, 0, ""
	}
	if !jsonEncoding(encoding) {
		return nil, 0, "the payload is no JSON document"
	}
	return maskDocument(document, sel)
}
