package rewrite

import (
	"cmp"
	"math/bits"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// edit replaces a piece of the message: by bytes of the arena, or by a
// payload that is sealed right into the output, whose size is known before.
type edit struct {
	at   span // what is replaced; empty: an insertion
	box  int32
	data span           // in the arena
	seal *crypto.Sealer // when set, the source is `at`
}

func (e *edit) size() int32 {
	if e.seal != nil {
		return int32(e.seal.PayloadSize(int(e.at.to - e.at.from)))
	}
	return e.data.to - e.data.from
}

// splice writes the message with all edits made and the lengths around them
// put right; growth is what measure gave. Every other byte is copied. It uses
// dst's room if there is enough.
func (c *Call) splice(dst []byte, growth int) ([]byte, error) {
	w := &c.walk
	// The walk finds things in order, but for the texts of failures and what is taken apart at the end. Insertions at
	// one place belong to the inner message first.
	if len(w.failures)+len(c.systems) > 0 {
		slices.SortStableFunc(c.edits, func(a, b edit) int {
			return cmp.Or(cmp.Compare(a.at.from, b.at.from), -cmp.Compare(a.box, b.box))
		})
	}
	out := slices.Grow(dst[:0], len(w.buf)+growth)
	cursor, next := int32(0), 0
	for i := range c.edits {
		e := &c.edits[i]
		for next < len(w.boxes) && w.boxes[next].lenPos < e.at.from {
			b := &w.boxes[next]
			next++
			if b.dirty && b.lenPos >= cursor {
				out = append(out, w.buf[cursor:b.lenPos]...)
				out = protowire.AppendVarint(out, uint64(b.end-b.start+b.delta))
				cursor = b.start
			}
		}
		out = append(out, w.buf[cursor:e.at.from]...)
		cursor = e.at.to
		if e.seal == nil {
			out = append(out, e.data.of(c.arena)...)
			continue
		}
		var err error
		if out, err = e.seal.AppendPayload(out, e.at.of(w.buf), false); err != nil {
			return nil, err
		}
	}
	// A box behind the last edit cannot be dirty.
	return append(out, w.buf[cursor:]...), nil
}

// measure finds by how much each box grows and gives the growth of the whole.
func (c *Call) measure() int {
	boxes := c.walk.boxes
	for i := range boxes {
		boxes[i].delta, boxes[i].dirty = 0, false
	}
	total := int32(0)
	grow := func(box, delta int32) {
		if box < 0 {
			total += delta
			return
		}
		boxes[box].delta += delta
		boxes[box].dirty = true
	}
	for i := range c.edits {
		e := &c.edits[i]
		grow(e.box, e.size()-(e.at.to-e.at.from))
	}
	for i := len(boxes) - 1; i >= 0; i-- {
		if b := &boxes[i]; b.dirty {
			grow(b.parent, b.delta+varintSize(b.end-b.start+b.delta)-(b.start-b.lenPos))
		}
	}
	return int(total)
}

// varintSize is the number of bytes that a length takes.
func varintSize(n int32) int32 { return int32(bits.Len32(uint32(n)|1)+6) / 7 }
