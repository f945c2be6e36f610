package foreign

import (
	"bytes"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// payload is a Payload of the plain kind that codecs write: metadata, each entry once, and data.
type payload struct {
	metadata map[string][]byte
	data     []byte
}

// has reports whether the metadata holds exactly these keys.
func (p payload) has(keys ...string) bool {
	for _, key := range keys {
		if _, ok := p.metadata[key]; !ok {
			return false
		}
	}
	return len(p.metadata) == len(keys)
}

// readPayload reads a Payload. It returns an empty one for one that holds anything else, or anything twice:
// no codec writes that.
func readPayload(b []byte) payload {
	p := payload{metadata: map[string][]byte{}}
	r := wire.Read(b)
	for r.Next() {
		switch {
		case r.Number() == 1 && r.Bytes():
			key, value, ok := readEntry(r.Value())
			if _, twice := p.metadata[key]; !ok || twice {
				return payload{}
			}
			p.metadata[key] = value
		case r.Number() == 2 && r.Bytes() && p.data == nil:
			p.data = r.Value()
		default:
			return payload{}
		}
	}
	if r.Err() != nil {
		return payload{}
	}
	return p
}

func readEntry(b []byte) (key string, value []byte, ok bool) {
	var fields [3][]byte
	r := wire.Read(b)
	for r.Next() {
		n := r.Number()
		if n > 2 || !r.Bytes() || fields[n] != nil {
			return "", nil, false
		}
		fields[n] = r.Value()
	}
	return string(fields[1]), fields[2], r.Err() == nil && utf8.Valid(fields[1])
}

// wellFormed reports whether every decoder takes the bytes for a Payload. What is opened takes its place in
// a message, and would break the whole message if it were none.
func wellFormed(b []byte) bool {
	return eachField(b, func(r *wire.Reader) bool {
		switch r.Number() {
		case 1:
			return r.Bytes() && wellFormedEntry(r.Value())
		case 2:
			return r.Bytes()
		case 3: // external_payloads: messages of plain numbers
			return r.Bytes() && eachField(r.Value(), func(*wire.Reader) bool { return true })
		}
		return true
	})
}

func wellFormedEntry(b []byte) bool {
	return eachField(b, func(r *wire.Reader) bool {
		return r.Number() > 2 || r.Bytes() && (r.Number() == 2 || utf8.Valid(r.Value()))
	})
}

// eachField reports whether ok holds for every field of a message without groups. No Payload has any.
func eachField(b []byte, ok func(*wire.Reader) bool) bool {
	r := wire.Read(b)
	for r.Next() {
		if r.Type() == protowire.StartGroupType || !ok(&r) {
			return false
		}
	}
	return r.Err() == nil
}

// hasEncoding reports whether any decoder could find the encoding in a Payload's metadata: where an entry,
// or a key or value in it, is there twice, any of them counts. So does any occurrence of the encoding in
// what is malformed.
func hasEncoding(payload []byte, encoding string) bool {
	if !bytes.Contains(payload, []byte(encoding)) {
		return false // most payloads
	}
	r := wire.Read(payload)
	for r.Next() {
		if r.Type() == protowire.StartGroupType || r.Number() == 1 && r.Bytes() && entryHas(r.Value(), encoding) {
			return true
		}
	}
	return r.Err() != nil
}

func entryHas(entry []byte, encoding string) bool {
	key, value := false, false
	r := wire.Read(entry)
	for r.Next() {
		switch {
		case r.Type() == protowire.StartGroupType:
			return bytes.Contains(entry, []byte(encoding))
		case !r.Bytes():
		case r.Number() == 1:
			key = key || string(r.Value()) == "encoding"
		case r.Number() == 2:
			value = value || string(r.Value()) == encoding
		}
	}
	return key && value || r.Err() != nil && bytes.Contains(entry, []byte(encoding))
}
