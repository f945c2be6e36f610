package rewrite

import (
	"errors"
	"fmt"

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
	m := dynamicpb.NewMessage(d)
	if err := (proto.UnmarshalOptions{RecursionLimit: wire.MaxDepth}).Unmarshal(in, m); err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
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
	m.out.low = len(m.out.buf)
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
