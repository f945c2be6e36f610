package rewrite

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
)

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
	low int // nothing before was ever written
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
func (t *tail) wipe() { clear(t.buf[t.low:]) }

// bytes returns what was written.
func (t *tail) bytes() []byte { return t.buf[t.at:] }

// reserve returns an empty slice over the n bytes before what was written. Whoever
// fills it moves t.at.
func (t *tail) reserve(n int) []byte {
	if n > t.at {
		grown := make([]byte, 2*len(t.buf)+n)
		at := len(grown) - len(t.bytes())
		copy(grown[at:], t.bytes())
		t.wipe()
		t.buf, t.at, t.low = grown, at, at
	}
	t.low = min(t.low, t.at-n)
	return t.buf[t.at-n : t.at-n : t.at]
}

// prepend writes b before what the buffer holds. b may be in the reserved bytes.
func (t *tail) prepend(b []byte) {
	if len(b) > t.at {
		t.reserve(len(b))
	}
	t.at -= len(b)
	t.low = min(t.low, t.at)
	copy(t.buf[t.at:], b)
}

// prependVarint writes a varint before what the buffer holds.
func (t *tail) prependVarint(v uint32) {
	n := int(varintSize(v))
	if n > t.at {
		t.reserve(n)
	}
	t.at -= n
	t.low = min(t.low, t.at)
	binary.PutUvarint(t.buf[t.at:], uint64(v))
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
