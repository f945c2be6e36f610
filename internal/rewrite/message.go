package rewrite

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// Message is the bytes of one message, what the walk found in them, and the edits to
// make. It uses no policy and no keys. Its memory is pooled with the session; reset
// is the only place that empties it.
type Message struct {
	walk     walk
	edits    []edit
	unsorted bool   // edits are not in the order of their places
	arena    []byte // what edits put in place
	out      tail   // the message with all edits made
}

// find walks a message. If a field that counts once comes twice, it works on the
// regular form of the message.
func (m *Message) find(method *Method, root *node, in []byte, response, strict bool) error {
	w := &m.walk
	w.plan, w.method, w.response, w.strict = method.plan, method.name, response, strict
	m.clearEdits()
	if err := w.runRegular(root, in); errors.Is(err, errSlots) {
		return w.fail(KindTooLarge, "", fmt.Errorf("%w; split it", err))
	} else if e, ok := errors.AsType[*Error](err); ok {
		return e
	} else if err != nil {
		return w.fail(KindMalformed, "", fmt.Errorf("the bytes are not a %s: %w", root.name.Name(), err))
	}
	if w.refused != nil {
		return w.refused
	}
	if w.irregular {
		return w.fail(KindMalformed, "", errors.New("a field that counts once comes more than once within a packed message"))
	}
	return nil
}

// regularForm decodes and encodes a message, so that every singular field comes once:
// fields are merged, and of a oneof the last member stays, as in every decoder.
// Unknown fields are kept.
func regularForm(d protoreflect.MessageDescriptor, in []byte) ([]byte, error) {
	m, err := decodeDynamic(d, in)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// errKey means that the key of a map entry comes a second time with another wire type.
// Other decoders ignore that one.
var errKey = errors.New("a key of a map comes a second time, with another wire type")

// decodeDynamic decodes a message that its descriptor alone describes.
func decodeDynamic(d protoreflect.MessageDescriptor, in []byte) (m *dynamicpb.Message, err error) {
	defer func() {
		if p := recover(); p != nil { // in unmarshalMap of protobuf-go 1.36
			m, err = nil, errKey
		}
	}()
	m = dynamicpb.NewMessage(d)
	return m, proto.UnmarshalOptions{RecursionLimit: wire.MaxDepth}.Unmarshal(in, m)
}

// place returns the bounds of a slot's content.
func (m *Message) place(s *slot) span {
	b := &m.walk.boxes[s.box]
	return span{b.start, b.end}
}

// content returns the bytes that a slot holds.
func (m *Message) content(s *slot) []byte { return m.place(s).of(m.walk.buf) }

// name returns the key of the map entry that holds a slot, or "".
func (m *Message) name(s *slot) string { return alias(s.name.of(m.walk.buf)) }

// failures returns the chain of failures of a slot: the first one and its causes.
func (m *Message) failures(s *slot) []failureParts {
	return m.walk.failures[s.failure.from:s.failure.to]
}

// payloads calls do for each payload of a response that may be sealed, until it returns an error. failure is the
// index in a chain of failures.
func (m *Message) payloads(do func(s *slot, failure int, payload []byte) error) error {
	for i := range m.walk.slots {
		s := &m.walk.slots[i]
		var err error
		switch s.f.op {
		case opPayload:
			err = do(s, 0, m.content(s))
		case opFailure:
			for j, f := range m.failures(s) {
				if p := &f.parts[failAttributes]; err == nil && !p.field.empty() {
					err = do(s, j, p.value.of(m.walk.buf))
				}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// clearEdits drops all planned edits.
func (m *Message) clearEdits() { m.edits, m.arena, m.unsorted = m.edits[:0], m.arena[:0], false }

// edit plans to replace a piece of a box by data of the arena.
func (m *Message) edit(at span, box int32, data span) {
	e := m.addEdit(at, box)
	e.data, e.item, e.size = data, noItem, data.to-data.from
}

// editItem plans to replace a slot's content by an item of the caller of splice. size
// is that of the item, or 0 if it is unknown.
func (m *Message) editItem(s *slot, item, size int) {
	e := m.addEdit(m.place(s), s.box)
	e.item, e.size = int32(item), int32(size)
}

// addEdit appends an edit. Most come in the order of their places.
func (m *Message) addEdit(at span, box int32) *edit {
	n := len(m.edits)
	m.unsorted = m.unsorted || n > 0 && at.from <= m.edits[n-1].at.from
	m.edits = append(m.edits, edit{})
	e := &m.edits[n]
	e.at, e.box = at, box
	return e
}

// replace plans to replace a slot's content.
func (m *Message) replace(s *slot, content []byte) {
	from := len(m.arena)
	m.arena = append(m.arena, content...)
	m.edit(m.place(s), s.box, m.added(from))
}

// added returns what was appended to the arena since it had a length.
func (m *Message) added(from int) span { return span{int32(from), int32(len(m.arena))} }

// storeField appends a whole length-delimited field to the arena.
func (m *Message) storeField(num protowire.Number, value []byte) span {
	from := len(m.arena)
	m.arena = protowire.AppendTag(m.arena, num, protowire.BytesType)
	m.arena = protowire.AppendBytes(m.arena, value)
	return m.added(from)
}

// reset prepares the memory for the next session. It wipes clear text, and the output
// unless everything in it is sealed.
func (m *Message) reset(sealed bool) {
	if !sealed {
		m.out.wipe()
	}
	m.out.buf = bounded(m.out.buf)
	m.out.at, m.out.low = len(m.out.buf), len(m.out.buf)
	clear(m.arena)
	m.arena, m.edits = bounded(m.arena)[:0], boundedList(m.edits)
	w := &m.walk
	w.reset(nil)
	w.slots, w.boxes = boundedList(w.slots), boundedList(w.boxes)
	w.scopes, w.failures = boundedList(w.scopes), boundedList(w.failures)
}

// bounded drops a buffer that a large message made grow.
func bounded(b []byte) []byte {
	const largest = 4 << 20
	if cap(b) > largest {
		return nil
	}
	return b
}

// boundedList empties a list, and drops one that a large message made grow.
func boundedList[T any](l []T) []T {
	const most = 1 << 14
	if cap(l) > most {
		return nil
	}
	return l[:0]
}

// withData returns a serialized Payload with other data.
func withData(payload, data []byte) []byte {
	var out []byte
	for r := wire.Read(payload); r.Next(); {
		if _, to := r.Bounds(); r.Number() != 2 {
			out = append(out, payload[r.At():to]...)
		}
	}
	out = protowire.AppendTag(out, 2, protowire.BytesType)
	return protowire.AppendBytes(out, data)
}

// isSystem reports whether a slot is the input of an operation that the server runs
// itself.
func (m *Message) isSystem(s *slot) bool {
	return s.f.system && string(m.walk.scopes[s.scope].endpoint.of(m.walk.buf)) == systemEndpoint
}

// edit replaces a piece of the message: by data of the arena, or by an item that the
// caller of splice writes to the output.
type edit struct {
	at   span // what is replaced; empty: an insertion
	box  int32
	data span // in the arena
	item int32
	size int32 // of the replacement; 0 for an item of unknown size
}

// noItem is the item of an edit that puts data of the arena in place.
const noItem = -1

// sortEdits brings edits into the order of their places. Of insertions at one place,
// that of the inner message comes first, and before what is replaced there.
func (m *Message) sortEdits() {
	slices.SortStableFunc(m.edits, func(a, b edit) int {
		return cmp.Or(cmp.Compare(a.at.from, b.at.from), -cmp.Compare(a.box, b.box), cmp.Compare(a.at.to, b.at.to))
	})
}

// growth is by how much a box grows, including the length before it.
func (b *box) growth() int32 {
	return b.delta + varintSize(uint32(b.end-b.start+b.delta)) - (b.start - b.lenPos)
}

// measure computes by how much each box grows, and returns the growth of the whole
// message.
func (m *Message) measure() int {
	boxes := m.walk.boxes
	for i := range boxes {
		boxes[i].delta = 0
	}
	total := int32(0)
	for i := range m.edits {
		e := &m.edits[i]
		boxes[e.box].delta += e.size - (e.at.to - e.at.from)
	}
	for i := len(boxes) - 1; i >= 0; i-- {
		b := &boxes[i]
		if b.delta == 0 {
			continue
		}
		if b.parent < 0 {
			total += b.growth()
		} else {
			boxes[b.parent].delta += b.growth()
		}
	}
	return int(total)
}

// splice writes the message to m.out with all edits made and the lengths around them
// corrected. Every other byte is copied.
//
// It works from the end to the start. A length stands before its content, so the size
// of the content is known when the length is written. One pass is enough, even for
// opened payloads, whose size is unknown before.
//
// measured reports that measure was called for these edits. put writes an item before
// what m.out holds; it returns false if it wrote nothing, and the piece stays.
// changed reports whether any edit was made.
func (m *Message) splice(measured bool, put func(e *edit) (bool, error)) (changed bool, err error) {
	w, out := &m.walk, &m.out
	if m.unsorted {
		m.sortEdits()
	}
	cursor, next := int32(len(w.buf)), len(w.boxes)-1
	lengths := func(from int32) { // writes the lengths of boxes that begin there or later
		for ; next >= 0 && w.boxes[next].lenPos >= from; next-- {
			b := &w.boxes[next]
			if b.delta == 0 || b.start > cursor {
				continue
			}
			out.prepend(w.buf[b.start:cursor])
			out.prependVarint(uint32(b.end - b.start + b.delta))
			cursor = b.lenPos
			if !measured && b.parent >= 0 {
				w.boxes[b.parent].delta += b.growth()
			}
		}
	}
	for i := len(m.edits) - 1; i >= 0; i-- {
		e := &m.edits[i]
		lengths(e.at.to)
		out.prepend(w.buf[e.at.to:cursor])
		cursor = e.at.from
		behind := len(out.bytes())
		made := true
		if e.item == noItem {
			out.prepend(e.data.of(m.arena))
		} else if made, err = put(e); err != nil {
			return false, err
		} else if !made {
			out.prepend(e.at.of(w.buf))
		}
		changed = changed || made
		if !measured {
			w.boxes[e.box].delta += int32(len(out.bytes())-behind) - (e.at.to - e.at.from)
		}
	}
	lengths(0)
	out.prepend(w.buf[:cursor])
	return changed, nil
}

// tail is a buffer that is filled from its end to its start.
type tail struct {
	buf []byte
	at  int // start of what was written
	low int // nothing before it and at was ever written
}

// reset empties the buffer and makes it large enough for a message of that size. A
// larger message fits as well.
func (t *tail) reset(size int) {
	t.wipe()
	if len(t.buf) < size {
		t.buf = make([]byte, size)
	}
	t.at, t.low = len(t.buf), len(t.buf)
}

// wipe clears what was written.
func (t *tail) wipe() { clear(t.buf[min(t.low, t.at):]) }

// bytes returns what was written.
func (t *tail) bytes() []byte { return t.buf[t.at:] }

// reserve returns an empty slice over the n bytes before what was written. Whoever
// fills it moves t.at.
func (t *tail) reserve(n int) []byte {
	if n > t.at {
		t.grow(n)
	}
	t.low = min(t.low, t.at-n)
	return t.buf[t.at-n : t.at-n : t.at]
}

// grow makes room for n bytes more.
func (t *tail) grow(n int) {
	grown := make([]byte, 2*len(t.buf)+n)
	at := len(grown) - len(t.bytes())
	copy(grown[at:], t.bytes())
	t.wipe()
	t.buf, t.at, t.low = grown, at, at
}

// prepend writes b before what the buffer holds. b may be in the reserved bytes.
func (t *tail) prepend(b []byte) {
	if len(b) > t.at {
		t.grow(len(b))
	}
	if t.at -= len(b); len(b) == 1 { // a tag between two lengths
		t.buf[t.at] = b[0]
		return
	}
	copy(t.buf[t.at:], b)
}

// prependVarint writes a varint before what the buffer holds.
func (t *tail) prependVarint(v uint32) {
	n := int(varintSize(v))
	if n > t.at {
		t.grow(n)
	}
	t.at -= n
	switch to := t.buf[t.at:]; n {
	case 1:
		to[0] = byte(v)
	case 2:
		to[0], to[1] = byte(v)|0x80, byte(v>>7)
	default:
		binary.PutUvarint(to, uint64(v))
	}
}

// varintSize returns the number of bytes of a varint.
func varintSize(n uint32) int32 { return int32(9*bits.Len32(n|1)+64) / 64 }

// crosses reports whether a field fits the limit in clear but not when sealed.
func (b *box) crosses() bool {
	plain := b.end - b.start
	return plain <= maxField && plain+b.delta > maxField
}

// crosses reports whether the message fits the limit in clear but not when sealed.
func (m *Message) crosses(growth int) bool {
	return len(m.walk.buf) <= maxMessage && len(m.walk.buf)+growth > maxMessage
}

// crossing returns the innermost box around a slot that exceeds the limit only when
// sealed; nil if none does.
func (m *Message) crossing(s *slot) *box {
	for i := s.box; i >= 0; i = m.walk.boxes[i].parent {
		if b := &m.walk.boxes[i]; b.crosses() {
			return b
		}
	}
	return nil
}
