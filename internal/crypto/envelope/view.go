package envelope

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// Selection says which members of a JSON document are sealed: Fields names them, Clear names those that are not.
// Both hold JSON pointers (RFC 6901) in which `*` stands for every element of an array. One of the two is empty.
type Selection struct {
	Fields, Clear []string
	// Optional are those of Fields that a document need not have. Without any other one the document is sealed whole.
	Optional []string
}

// viewHole stands in a view where a value was cut out.
const viewHole = `"[sealed]"`

// AppendView appends a Payload of form 1: the JSON document of payload, readable but for the selected values, which are
// sealed (form 1). What can't be cut safely is sealed whole (form 0): another encoding than json/plain and
// json/protobuf, a document that two readers might read differently, a payload with the marker. So is a document that lacks
// a field of the selection, and why says so.
func (w *Writer) AppendView(dst, payload []byte, sel Selection, nonces *Nonces) (_ []byte, why Mismatch) {
	start, end, ok := jsonData(payload)
	if !ok || Marked(payload) {
		return w.AppendPayload(dst, payload, false, nonces), Matched
	}
	data := payload[start:end]
	holes, _, why, ok := selectHoles(data, sel)
	if !ok {
		return w.AppendPayload(dst, payload, false, nonces), why
	}
	view, patch := cut(data, holes, payload[:start], payload[end:])
	defer clear(patch)
	sum := sha256.Sum256(view)
	env := envelopeSize(len(w.header), paddedSize(len(patch)))
	entry := len(viewEntryPrefix) + protowire.SizeBytes(env)
	dst = slices.Grow(dst, len(viewEncodingEntry)+1+protowire.SizeBytes(entry)+1+protowire.SizeBytes(len(view)))
	dst = append(dst, viewEncodingEntry...)
	dst = append(dst, tagMetadata)
	dst = binary.AppendUvarint(dst, uint64(entry))
	dst = append(dst, viewEntryPrefix...)
	dst = binary.AppendUvarint(dst, uint64(env))
	dst = w.appendEnvelope(dst, patch, byte(FormView), sum[:], nonces)
	dst = append(dst, tagData)
	return protowire.AppendBytes(dst, view), Matched
}

// jsonData finds the document in a Payload: its data, there once, of an encoding that is there once and is JSON.
func jsonData(payload []byte) (start, end int, ok bool) {
	encodings, datas := 0, 0
	r := wire.Read(payload)
	for r.Next() && r.Type() != protowire.StartGroupType {
		switch {
		case r.Number() == 1:
			key, value, err := readEntry(fieldBytes(&r))
			if err != nil {
				return 0, 0, false
			}
			if string(key) == "encoding" {
				if !jsonEncoding(string(value)) {
					return 0, 0, false
				}
				encodings++
			}
		case r.Number() == 2:
			if !r.Bytes() {
				return 0, 0, false
			}
			start, end = r.Bounds()
			datas++
		}
	}
	return start, end, atEnd(&r) && encodings == 1 && datas == 1
}

// cut takes the holes out of a document: the view keeps the rest, the patch all that it takes to undo it.
//
//	patch = u32 P || prefix || u32 S || suffix || u32 n || n x (u32 offset in view || u32 length || original bytes)
func cut(data []byte, holes []span, prefix, suffix []byte) (view, patch []byte) {
	size := len(data)
	for _, h := range holes {
		size += len(viewHole) - (h.end - h.start)
	}
	view = make([]byte, 0, size)
	patch = make([]byte, 0, 12+len(prefix)+len(suffix)+len(data)+8*len(holes))
	patch = appendSized(patch, prefix)
	patch = appendSized(patch, suffix)
	patch = binary.BigEndian.AppendUint32(patch, uint32(len(holes)))
	at := 0
	for _, h := range holes {
		view = append(view, data[at:h.start]...)
		patch = binary.BigEndian.AppendUint32(patch, uint32(len(view)))
		patch = appendSized(patch, data[h.start:h.end])
		view = append(view, viewHole...)
		at = h.end
	}
	return append(view, data[at:]...), patch
}

func appendSized(dst, b []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(b)))
	return append(dst, b...)
}

// appendPatched is cut's inverse: it restores the original Payload.
func appendPatched(dst, view, patch []byte) (_ []byte, ok bool) {
	prefix, patch, ok1 := sized(patch)
	suffix, patch, ok2 := sized(patch)
	if !ok1 || !ok2 || len(patch) < 4 {
		return nil, false
	}
	n, patch := binary.BigEndian.Uint32(patch), patch[4:]
	out := append(dst, prefix...)
	at := 0
	for range n {
		if len(patch) < 4 {
			return nil, false
		}
		offset := int64(binary.BigEndian.Uint32(patch))
		var value []byte
		if value, patch, ok = sized(patch[4:]); !ok {
			return nil, false
		}
		if offset < int64(at) || offset > int64(len(view)-len(viewHole)) || !bytes.HasPrefix(view[offset:], []byte(viewHole)) {
			return nil, false
		}
		out = append(append(out, view[at:offset]...), value...)
		at = int(offset) + len(viewHole)
	}
	if len(patch) != 0 {
		return nil, false
	}
	return append(append(out, view[at:]...), suffix...), true
}

func sized(b []byte) (value, rest []byte, ok bool) {
	if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
		return nil, nil, false
	}
	end := 4 + int(binary.BigEndian.Uint32(b))
	return b[4:end], b[end:], true
}
