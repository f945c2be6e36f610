package rewrite

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
)

// edit replaces a piece of the message: by bytes of the arena, or by an item that the caller of splice writes where it goes.
type edit struct {
	at   span // what is replaced; empty: an insertion
	box  int32
	data span // in the arena
	item int32
	size int32 // of what is put in place; 0 for an item whose size shows when it is written
}

const noItem = -1 // of an edit that puts data in place

// growth is by how much a box grows with the length in front of it.
func (b *box) growth() int32 {
	return b.delta + varintSize(uint32(b.end-b.start+b.delta)) - (b.start - b.lenPos)
}

// measure finds by how much each box grows and returns the growth of the whole.
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

// splice writes the message to m.out with all edits made and the lengths around them put right. Every other byte is
// copied. It goes from the end to the start: a length stands before what it is the length of, so each is known when its
// turn comes, and one pass does even for what is opened, whose size shows only then. measured reports that measure was
// called. put writes an item in front of m.out; it reports false if it left what was there. changed reports whether any
// edit was made.
func (m *Message) splice(measured bool, put func(e *edit) (bool, error)) (changed bool, err error) {
	w, out := &m.walk, &m.out
	// Insertions at one place belong to the inner message first, and stand before what is replaced there.
	byPlace := func(a, b edit) int {
		return cmp.Or(cmp.Compare(a.at.from, b.at.from), -cmp.Compare(a.box, b.box), cmp.Compare(a.at.to, b.at.to))
	}
	if !slices.IsSortedFunc(m.edits, byPlace) {
		slices.SortStableFunc(m.edits, byPlace)
	}
	cursor, next := int32(len(w.buf)), len(w.boxes)-1
	lengths := func(from int32) { // of the boxes that begin there or later
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
	at  int // where what was written begins
	low int // nothing before it was touched
}

// reset empties the buffer and makes it large enough for a message of that size. A larger one fits as well.
func (t *tail) reset(size int) {
	t.wipe()
	if len(t.buf) < size {
		t.buf = make([]byte, size)
	}
	t.at, t.low = len(t.buf), len(t.buf)
}

// wipe clears what was written.
func (t *tail) wipe() { clear(t.buf[t.low:]) }

// bytes is what was written.
func (t *tail) bytes() []byte { return t.buf[t.at:] }

// room gives an empty slice over the n bytes before what was written: whoever fills it moves at.
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

// prepend puts b in front of what was written. It may stand in the room before that.
func (t *tail) prepend(b []byte) {
	if len(b) > t.at {
		t.reserve(len(b))
	}
	t.at -= len(b)
	t.low = min(t.low, t.at)
	copy(t.buf[t.at:], b)
}

func (t *tail) prependVarint(v uint32) {
	n := int(varintSize(v))
	if n > t.at {
		t.reserve(n)
	}
	t.at -= n
	t.low = min(t.low, t.at)
	binary.PutUvarint(t.buf[t.at:], uint64(v))
}

// varintSize is the number of bytes that a length takes.
func varintSize(n uint32) int32 { return int32(9*bits.Len32(n|1)+64) / 64 }

// crosses tells whether a field fits the limit in clear and not when sealed.
func (b *box) crosses() bool {
	plain := b.end - b.start
	return plain <= maxField && plain+b.delta > maxField
}

// crosses reports whether the message fits the limit in clear and not when sealed.
func (m *Message) crosses(growth int) bool {
	return len(m.walk.buf) <= maxMessage && len(m.walk.buf)+growth > maxMessage
}

// crossing returns the innermost box around a slot that goes over the limit; nil if none does.
func (m *Message) crossing(s *slot) *box {
	for i := s.box; i >= 0; i = m.walk.boxes[i].parent {
		if b := &m.walk.boxes[i]; b.crosses() {
			return b
		}
	}
	return nil
}
