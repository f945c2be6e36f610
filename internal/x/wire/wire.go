// Package wire reads the fields of serialized protobuf messages in place. It allocates nothing but for nested groups, and it
// refuses what protobuf-go refuses of the encoding, so that a message that passes here has the same fields for every
// other reader. It does not check that strings are UTF-8.
package wire

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// MaxDepth is the nesting that protobuf-go, and with it the Temporal server, accepts.
const MaxDepth = protowire.DefaultRecursionLimit

// Errors of malformed messages.
var (
	ErrTruncated = errors.New("a length or a value goes past the end of its message")
	ErrVarint    = errors.New("a varint is longer than 10 bytes")
	ErrFieldType = errors.New("a field has an undefined wire type or an invalid number")
	ErrGroup     = errors.New("a group ends that did not start, or never ends")
	ErrDepth     = fmt.Errorf("messages are nested deeper than %d", MaxDepth)
)

// Reader reads the fields of one message, one after the other:
//
//	r := wire.Read(message)
//	for r.Next() {
//		... r.Number(), r.Value() ...
//	}
//	if err := r.Err(); err != nil {
//
// Its offsets are those of the buffer in which the message lies.
type Reader struct {
	buf                  []byte
	end, depth           int
	number               protowire.Number
	kind                 protowire.Type
	at, length, from, to int
	err                  error
}

// Read starts at the beginning of a whole message.
func Read(message []byte) Reader { return ReadIn(message, 0, len(message), 0) }

// ReadIn starts at the beginning of the message buf[from:to]. depth is the number of messages around it,
// which bounds how deep groups may nest.
func ReadIn(buf []byte, from, to, depth int) Reader {
	return Reader{buf: buf, to: from, end: to, depth: depth}
}

// Start has r read the message buf[from:to], as a Reader of ReadIn does. It saves hot loops a copy of the Reader.
func (r *Reader) Start(buf []byte, from, to, depth int) {
	r.buf, r.end, r.depth, r.to, r.err = buf, to, depth, from, nil
}

// Number returns the field's number.
func (r *Reader) Number() protowire.Number { return r.number }

// Type returns the field's wire type. StartGroupType stands for a whole group, and its end tag belongs to
// its value.
func (r *Reader) Type() protowire.Type { return r.kind }

// Bytes reports whether the field is length-delimited: a string, bytes, a message, or packed numbers.
func (r *Reader) Bytes() bool { return r.kind == protowire.BytesType }

// Value returns the content of a length-delimited field, or the encoded number of another. It is never nil.
func (r *Reader) Value() []byte { return r.buf[r.from:r.to:r.to] }

// Bounds returns the offsets of Value.
func (r *Reader) Bounds() (from, to int) { return r.from, r.to }

// At returns the offset of the field's tag.
func (r *Reader) At() int { return r.at }

// Length returns the offset behind the field's tag, where the length of a length-delimited field starts.
func (r *Reader) Length() int { return r.length }

// Err returns why Next returned false before the end of the message.
func (r *Reader) Err() error { return r.err }

// Jump has Next go on at an offset behind the field, where another one begins or the message ends.
func (r *Reader) Jump(to int) { r.to = to }

// Next reads a field. It returns false at the end of the message and at a malformed field. This is the hottest
// loop of the product: a field with a number below 16 and a length below 128, which is most of them, takes the
// shortest way.
func (r *Reader) Next() bool {
	buf, i, end := r.buf, r.to, r.end
	if i >= end || r.err != nil {
		return false
	}
	if tag := buf[i]; tag&0x87 == byte(protowire.BytesType) && tag>>3 != 0 && end-i > 1 && buf[i+1] < 0x80 {
		size := int(buf[i+1])
		if size > end-i-2 {
			return r.fail(ErrTruncated)
		}
		r.at, r.number, r.kind = i, protowire.Number(tag>>3), protowire.BytesType
		r.length, r.from, r.to = i+1, i+2, i+2+size
		return true
	}
	return r.next()
}

// next is Next for any field.
func (r *Reader) next() bool {
	buf, i, end := r.buf, r.to, r.end
	r.at = i
	tag := uint64(buf[i])
	if i++; tag >= 0x80 {
		if tag, i = Varint(buf, r.at, end); i < 0 {
			return r.fail(VarintError(i))
		}
	}
	if !validTag(tag) {
		return r.fail(ErrFieldType)
	}
	r.number, r.kind = protowire.Number(tag>>3), protowire.Type(tag&7)
	r.length, r.from = i, i
	switch r.kind {
	case protowire.VarintType:
		if _, i = Varint(buf, i, end); i < 0 {
			return r.fail(VarintError(i))
		}
	case protowire.Fixed64Type:
		i += 8
	case protowire.Fixed32Type:
		i += 4
	case protowire.BytesType:
		var size uint64
		if i < end && buf[i] < 0x80 {
			size = uint64(buf[i])
			i++
		} else if size, i = Varint(buf, i, end); i < 0 {
			return r.fail(VarintError(i))
		}
		if size > uint64(end-i) {
			return r.fail(ErrTruncated)
		}
		r.from = i
		i += int(size)
	case protowire.StartGroupType:
		var err error
		if i, err = skipGroup(buf, i, end, r.number, r.depth+1); err != nil {
			return r.fail(err)
		}
	case protowire.EndGroupType:
		return r.fail(ErrGroup)
	default:
		return r.fail(ErrFieldType)
	}
	if i > end {
		return r.fail(ErrTruncated)
	}
	r.to = i
	return true
}

func (r *Reader) fail(err error) bool {
	r.err = err
	return false
}

func validTag(tag uint64) bool {
	return tag>>3 != 0 && tag>>3 <= uint64(protowire.MaxValidNumber)
}

// Varint reads a varint in buf[i:end] and returns the index behind it. A negative index stands for an
// error, which VarintError names.
func Varint(buf []byte, i, end int) (uint64, int) {
	var v uint64
	for shift := uint(0); i < end; shift += 7 {
		b := buf[i]
		i++
		if b < 0x80 {
			if shift == 63 && b > 1 {
				return 0, tooLong
			}
			return v | uint64(b)<<shift, i
		}
		if shift == 63 {
			return 0, tooLong
		}
		v |= uint64(b&0x7f) << shift
	}
	return 0, cutOff
}

const (
	tooLong = -1 - iota
	cutOff
)

// VarintError returns the error for a negative index of Varint.
func VarintError(i int) error {
	if i == tooLong {
		return ErrVarint
	}
	return ErrTruncated
}

// skipGroup returns the index behind the end of the group that starts at i. It keeps a stack of open groups
// instead of recursing, since the nesting is up to whoever wrote the message.
func skipGroup(buf []byte, i, end int, num protowire.Number, depth int) (int, error) {
	open := []protowire.Number{num}
	for i < end {
		tag, j := Varint(buf, i, end)
		if j < 0 {
			return 0, VarintError(j)
		}
		if !validTag(tag) {
			return 0, ErrFieldType
		}
		n := protowire.Number(tag >> 3)
		switch protowire.Type(tag & 7) {
		case protowire.StartGroupType:
			if len(open)+depth > MaxDepth {
				return 0, ErrDepth
			}
			open = append(open, n)
			i = j
		case protowire.EndGroupType:
			if n != open[len(open)-1] {
				return 0, ErrGroup
			}
			if open = open[:len(open)-1]; len(open) == 0 {
				return j, nil
			}
			i = j
		default:
			size := protowire.ConsumeFieldValue(n, protowire.Type(tag&7), buf[j:end])
			if size < 0 {
				return 0, ErrTruncated
			}
			i = j + size
		}
	}
	return 0, ErrGroup
}

// FirstString returns the bounds of the last field 1 of the message buf[from:to]: the name of a type or a
// task queue, the id of an execution, the key of a map entry. Without such a field it is empty.
func FirstString(buf []byte, from, to int) (start, end int, err error) {
	start, end = from, from
	if to-from >= 2 && buf[from] == 0x0a && buf[from+1] < 0x80 { // usually it is the only field, or the first, and short
		if last := from + 2 + int(buf[from+1]); last == to || (last < to && buf[last] != 0x0a) {
			start, end = from+2, last
			if end == to {
				return start, end, nil
			}
		}
	}
	r := ReadIn(buf, from, to, 0)
	for r.Next() {
		if r.number == 1 && r.Bytes() {
			start, end = r.from, r.to
		}
	}
	return start, end, r.err
}
