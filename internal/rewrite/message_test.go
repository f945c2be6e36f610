package rewrite

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestTailIsFilledFromItsEnd(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	var tail tail
	for range 200 {
		tail.reset(random.IntN(100))
		var want []byte
		for range random.IntN(20) {
			switch piece := bytes.Repeat([]byte{byte('a' + random.IntN(26))}, random.IntN(60)); random.IntN(3) {
			case 0:
				v := random.Uint32() >> random.IntN(32)
				tail.prependVarint(v)
				want = append(appendVarint(nil, v), want...)
			case 1: // written into the room, and shorter than was thought
				room := tail.reserve(len(piece) + random.IntN(40))
				if len(room) != 0 || cap(room) < len(piece) {
					t.Fatalf("room for %d of %d", cap(room), len(piece))
				}
				tail.prepend(append(room, piece...))
				want = append(piece, want...)
			default:
				tail.prepend(piece)
				want = append(piece, want...)
			}
		}
		if !bytes.Equal(tail.bytes(), want) {
			t.Fatalf("holds %q, want %q", tail.bytes(), want)
		}
	}
}

// What was opened must not stay in memory, not even in a buffer that became too small.
func TestTailLeavesNothingBehind(t *testing.T) {
	var tail tail
	tail.reset(64)
	old := tail.buf
	room := tail.reserve(40)
	tail.prepend(append(room, "longer before its padding came off"...)[:10])
	tail.prepend(bytes.Repeat([]byte("x"), 1000))
	if len(bytes.Trim(old, "\x00")) != 0 {
		t.Errorf("the buffer that was left holds %q", old)
	}
	now := tail.buf
	tail.wipe()
	if len(bytes.Trim(now, "\x00")) != 0 {
		t.Errorf("the wiped buffer holds %q", now)
	}
}

func appendVarint(b []byte, v uint32) []byte {
	for ; v >= 0x80; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}
