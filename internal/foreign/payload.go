package foreign

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// payload is a Payload of the plain kind that codecs write: metadata, each entry once, and data.
type payload struct {
	metadata []entry
	data     []byte
}

type entry struct{ key, value []byte }

func (p *payload) get(key string) (value []byte, ok bool) {
	for _, e := range p.metadata {
		if string(e.key) == key {
			return e.value, true
		}
	}
	return nil, false
}

// has tells whether the metadata holds exactly these keys.
func (p *payload) has(keys ...string) bool {
	for _, key := range keys {
		if _, ok := p.get(key); !ok {
			return false
		}
	}
	return len(p.metadata) == len(keys)
}

// readPayload reads a Payload; ok is false for one that holds anything else, or anything twice: no codec writes that.
func readPayload(b []byte) (p payload, ok bool) {
	for rest := b; len(rest) > 0; {
		num, val, next, ok := nextField(rest)
		switch {
		case !ok || val == nil:
			return p, false
		case num == 1:
			e, ok := readEntry(val)
			if _, twice := p.get(string(e.key)); !ok || twice {
				return p, false
			}
			p.metadata = append(p.metadata, e)
		case num == 2 && p.data == nil:
			p.data = val
		default:
			return p, false
		}
		rest = next
	}
	return p, true
}

func readEntry(b []byte) (e entry, ok bool) {
	for rest := b; len(rest) > 0; {
		num, val, next, ok := nextField(rest)
		switch {
		case ok && num == 1 && val != nil && e.key == nil && utf8.Valid(val):
			e.key = val
		case ok && num == 2 && val != nil && e.value == nil:
			e.value = val
		default:
			return e, false
		}
		rest = next
	}
	return e, true
}

// wellFormed tells whether every decoder takes the bytes for a Payload. What is opened takes its place in a message, and
// would break the whole message if it were none.
func wellFormed(b []byte) bool {
	for rest := b; len(rest) > 0; {
		num, val, next, ok := nextField(rest)
		if !ok || num <= 3 && val == nil {
			return false
		}
		switch num {
		case 1:
			if !wellFormedEntry(val) {
				return false
			}
		case 3: // external_payloads: messages of plain numbers
			if !fields(val) {
				return false
			}
		}
		rest = next
	}
	return true
}

func wellFormedEntry(b []byte) bool {
	for rest := b; len(rest) > 0; {
		num, val, next, ok := nextField(rest)
		if !ok || num <= 2 && val == nil || num == 1 && !utf8.Valid(val) {
			return false
		}
		rest = next
	}
	return true
}

func fields(b []byte) bool {
	for len(b) > 0 {
		_, _, next, ok := nextField(b)
		if !ok {
			return false
		}
		b = next
	}
	return true
}

// nextField reads one protobuf field. val is nil unless the field is length-delimited, and not nil if it is. Groups are
// refused: no Payload has any.
func nextField(b []byte) (num uint64, val, rest []byte, ok bool) {
	tag, n := binary.Uvarint(b)
	if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
		return 0, nil, nil, false
	}
	num, b = tag>>3, b[n:]
	switch tag & 7 {
	case 0:
		_, n = binary.Uvarint(b)
		return num, nil, b[max(n, 0):], n > 0
	case 1:
		return num, nil, b[min(8, len(b)):], len(b) >= 8
	case 2:
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return 0, nil, nil, false
		}
		end := n + int(size)
		return num, b[n:end:end], b[end:], true
	case 5:
		return num, nil, b[min(4, len(b)):], len(b) >= 4
	}
	return 0, nil, nil, false
}

// hasEncoding tells whether any decoder could find the encoding in a Payload's metadata: where an entry, or a key or value
// in it, is there twice, any of them counts.
func hasEncoding(payload []byte, encoding string) bool {
	if !bytes.Contains(payload, []byte(encoding)) {
		return false // most payloads
	}
	for rest := payload; len(rest) > 0; {
		num, val, next, ok := nextField(rest)
		if !ok {
			return true
		}
		if num == 1 && entryHas(val, encoding) {
			return true
		}
		rest = next
	}
	return false
}

func entryHas(entry []byte, encoding string) bool {
	key, value := false, false
	for rest := entry; len(rest) > 0; {
		num, val, next, ok := nextField(rest)
		if !ok {
			return bytes.Contains(entry, []byte(encoding))
		}
		switch num {
		case 1:
			key = key || string(val) == "encoding"
		case 2:
			value = value || string(val) == encoding
		}
		rest = next
	}
	return key && value
}
