package wire_test

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

func TestReader(t *testing.T) {
	group := "\x1b\x08\x05\x13\x14\x1c" // group 3 { 1: 5, group 2 {} }
	message := "\x0a\x03abc" + "\x10\x96\x01" + group + "\x25abcd" + "\x29abcdefgh" + "\x32\x00"
	want := []struct {
		number protowire.Number
		kind   protowire.Type
		value  string
	}{
		{1, protowire.BytesType, "abc"}, {2, protowire.VarintType, "\x96\x01"}, {3, protowire.StartGroupType, group[1:]},
		{4, protowire.Fixed32Type, "abcd"}, {5, protowire.Fixed64Type, "abcdefgh"}, {6, protowire.BytesType, ""},
	}
	buf := []byte("before" + message + "after")
	next := len("before")
	n := 0
	r := wire.ReadIn(buf, next, next+len(message), 0)
	for r.Next() {
		w := want[n]
		if r.Number() != w.number || r.Type() != w.kind || r.Bytes() != (w.kind == protowire.BytesType) {
			t.Errorf("field %d is %d of type %d", n, r.Number(), r.Type())
		}
		if v := r.Value(); string(v) != w.value || v == nil || cap(v) != len(v) {
			t.Errorf("field %d holds %q with room for %d, want %q", n, v, cap(v), w.value)
		}
		from, to := r.Bounds()
		if r.At() != next || r.Length() != next+1 || from-r.Length() > 1 || string(buf[from:to]) != w.value {
			t.Errorf("field %d: at %d, length at %d, value at %d", n, r.At(), r.Length(), from)
		}
		next = to
		n++
	}
	if n != len(want) || r.Err() != nil || r.Next() {
		t.Errorf("%d fields, want %d; %v", n, len(want), r.Err())
	}
}

func TestMalformed(t *testing.T) {
	for _, c := range []struct {
		name, message string
		want          error
	}{
		{"a tag without its field", "\x0a", wire.ErrTruncated},
		{"a tag that is cut off", "\x80", wire.ErrTruncated},
		{"a length past the end", "\x0a\x05abc", wire.ErrTruncated},
		{"a length of 2^63", "\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", wire.ErrTruncated},
		{"a short fixed32", "\x0dabc", wire.ErrTruncated},
		{"a short fixed64", "\x09abcdefg", wire.ErrTruncated},
		{"a varint of 11 bytes", "\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", wire.ErrVarint},
		{"a varint above 64 bits", "\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02", wire.ErrVarint},
		{"field 0", "\x02\x00", wire.ErrFieldType},
		{"field 2^29", "\x82\x80\x80\x80\x10\x00", wire.ErrFieldType},
		{"wire type 6", "\x0e", wire.ErrFieldType},
		{"a group that never ends", "\x0b", wire.ErrGroup},
		{"a group that did not start", "\x0c", wire.ErrGroup},
		{"another group's end", "\x0b\x14", wire.ErrGroup},
		{"a cut value in a group", "\x0b\x0a\x05\x0c", wire.ErrTruncated},
		{"field 0 in a group", "\x0b\x00\x00\x0c", wire.ErrFieldType},
		{"groups too deep", string(bytes.Repeat([]byte{0x0b}, wire.MaxDepth+1)), wire.ErrDepth},
	} {
		r := wire.Read([]byte("\x10\x01" + c.message))
		if !r.Next() {
			t.Errorf("%s: the good field before it is not read: %v", c.name, r.Err())
		}
		if r.Next() || !errors.Is(r.Err(), c.want) || r.Next() {
			t.Errorf("%s: %v, want %v", c.name, r.Err(), c.want)
		}
	}
}

func TestFirstString(t *testing.T) {
	for message, want := range map[string]string{
		"":                          "",
		"\x0a\x03abc":               "abc",
		"\x0a\x03abc\x12\x01x":      "abc",
		"\x12\x01x\x0a\x03abc":      "abc",
		"\x0a\x01x\x0a\x03abc":      "abc",
		"\x0a\x01x\x10\x01\x0a\x00": "",
		"\x08\x01\x12\x01x":         "",
		"\x0a\x80\x01" + string(make([]byte, 128)): string(make([]byte, 128)),
	} {
		buf := []byte("before" + message + "after")
		start, end, err := wire.FirstString(buf, 6, 6+len(message))
		if err != nil || string(buf[start:end]) != want {
			t.Errorf("%q: %q, %v; want %q", message, buf[start:end], err, want)
		}
	}
	for _, message := range []string{"\x0a\x05abc", "\x0a\x01x\x12\x05", "\x0a"} {
		if _, _, err := wire.FirstString([]byte(message), 0, len(message)); err == nil {
			t.Errorf("%q is accepted", message)
		}
	}
}

// TestAllocations holds what the package promises; groups, which no message of Temporal's has, may allocate.
func TestAllocations(t *testing.T) {
	message := bytes.Repeat([]byte("\x0a\x03abc\x10\x96\x01"), 100)
	sum := 0
	if n := testing.AllocsPerRun(100, func() {
		r := wire.Read(message)
		for r.Next() {
			sum += len(r.Value())
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzReader compares with protowire, field by field.
func FuzzReader(f *testing.F) {
	for _, seed := range []string{"\x0a\x03abc\x10\x96\x01", "\x1b\x08\x05\x13\x14\x1c", "\x0d1234\x0912345678", "\x0b\x0c\x0c", "\x0a\x05abc"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		at := 0
		r := wire.Read(message)
		for r.Next() {
			num, kind, n := protowire.ConsumeField(message[at:])
			_, to := r.Bounds()
			if r.Number() != num || r.Type() != kind || r.At() != at || to != at+n {
				t.Fatalf("field %d of type %d at %d, up to %d; protowire reads field %d of type %d up to %d", r.Number(), r.Type(), r.At(), to, num, kind, at+n)
			}
			at = to
			if !r.Bytes() {
				continue
			}
			if v, _ := protowire.ConsumeBytes(message[r.Length():]); !bytes.Equal(v, r.Value()) {
				t.Fatalf("at %d: the value is %q, while protowire reads %q", r.At(), r.Value(), v)
			}
		}
		if err := r.Err(); err != nil {
			// protowire alone allows numbers from 2^29 on; proto.Unmarshal does not.
			if _, _, n := protowire.ConsumeField(message[at:]); n >= 0 && !errors.Is(err, wire.ErrFieldType) && !errors.Is(err, wire.ErrDepth) {
				t.Fatalf("at %d: %v, while protowire accepts it", at, err)
			}
			return
		}
		if at != len(message) {
			t.Fatalf("it ends at %d of %d", at, len(message))
		}
	})
}

func BenchmarkReader(b *testing.B) {
	message := bytes.Repeat([]byte("\x0a\x03abc\x10\x96\x01"), 1000)
	b.SetBytes(int64(len(message)))
	for b.Loop() {
		r := wire.Read(message)
		for r.Next() {
		}
		if r.Err() != nil {
			b.Fatal(r.Err())
		}
	}
}
