package envelope

import (
	"slices"

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
	data := payload[start:end]
	holes, at, mismatch, ok := selectHoles(data, Selection{Fields: sel.Fields, Optional: sel.Optional})
	switch {
	case mismatch != Matched:
		return dst, 0, mismatchText(sel.Fields[at], mismatch)
	case !ok:
		return dst, 0, "two readers may read the document differently"
	}
	document := make([]byte, 0, len(data)+len(`"***"`)*len(holes))
	from := 0
	for _, h := range holes {
		document = append(append(document, data[from:h.start]...), maskOf(data[h.start:h.end])...)
		from = h.end
	}
	document = append(document, data[from:]...)
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
	return dst, len(holes), ""
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

// Unmaskable returns why a document of an encoding cannot be stored with its fields masked; "" if it can. The text is for who wrote
// the selection: it quotes it.
func Unmaskable(encoding string, document []byte, fields, optional []string) string {
	if encoding == "binary/null" && len(document) == 0 && !required(Selection{Fields: fields, Optional: optional}) {
		return ""
	}
	if !jsonEncoding(encoding) {
		return "the payload is no JSON document"
	}
	switch _, at, why, ok := selectHoles(document, Selection{Fields: fields, Optional: optional}); {
	case why != Matched:
		return mismatchText(fields[at], why)
	case !ok:
		return "two readers may read the document differently"
	}
	return ""
}
