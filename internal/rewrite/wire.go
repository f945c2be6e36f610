package rewrite

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxDepth is the nesting that protobuf-go accepts, so the server's too.
const maxDepth = protowire.DefaultRecursionLimit

// maxSlots bounds what the walk of one message remembers, some hundred bytes per slot, while an empty payload takes two
// on the wire. The longest history that Temporal keeps has 51,200 events (limit.historyCount.error).
const maxSlots = 1 << 18

var (
	errTruncated = errors.New("a length or a value goes past the end of its message")
	errVarint    = errors.New("a varint is longer than 10 bytes")
	errWireType  = errors.New("a field has an undefined wire type or an invalid number")
	errGroup     = errors.New("a group ends that did not start, or never ends")
	errSlots     = fmt.Errorf("it holds more than %d payloads and texts", maxSlots)
	errDepth     = fmt.Errorf("messages are nested deeper than %d", maxDepth)
)

// uvarint reads a varint in buf[i:end] and gives the index behind it, or a negative one.
func uvarint(buf []byte, i, end int) (uint64, int) {
	var v uint64
	for shift := uint(0); i < end; shift += 7 {
		b := buf[i]
		i++
		if b < 0x80 {
			if shift == 63 && b > 1 {
				return 0, -1
			}
			return v | uint64(b)<<shift, i
		}
		if shift == 63 {
			return 0, -1
		}
		v |= uint64(b&0x7f) << shift
	}
	return 0, -2
}

func varintError(i int) error {
	if i == -1 {
		return errVarint
	}
	return errTruncated
}

// eachField calls fn for every field of a message, groups left out. The value
// of a varint or a fixed field goes from `from` to `to` as well.
func eachField(buf []byte, i, end int, fn func(num protowire.Number, wire protowire.Type, at, lenPos, from, to int)) error {
	for i < end {
		at := i
		tag, j := uvarint(buf, i, end)
		if j < 0 {
			return varintError(j)
		}
		num, wire := protowire.Number(tag>>3), protowire.Type(tag&7)
		if tag>>3 > uint64(protowire.MaxValidNumber) || num == 0 {
			return errWireType
		}
		from := j
		switch wire {
		case protowire.VarintType:
			if _, i = uvarint(buf, j, end); i < 0 {
				return varintError(i)
			}
		case protowire.Fixed64Type:
			i = j + 8
		case protowire.Fixed32Type:
			i = j + 4
		case protowire.BytesType:
			size, k := uvarint(buf, j, end)
			if k < 0 {
				return varintError(k)
			}
			if size > uint64(end-k) {
				return errTruncated
			}
			from, i = k, k+int(size)
		case protowire.StartGroupType:
			var err error
			if i, err = skipGroup(buf, j, end, num, 1); err != nil {
				return err
			}
			continue
		case protowire.EndGroupType:
			return errGroup
		default:
			return errWireType
		}
		if i > end {
			return errTruncated
		}
		fn(num, wire, at, j, from, i)
	}
	return nil
}

// firstString gives the last field 1 of a message: a type's or a queue's name,
// a workflow id, the key of a map entry.
func firstString(buf []byte, from, to int) (span, error) {
	s := span{int32(from), int32(from)}
	if to-from >= 2 && buf[from] == 0x0a && buf[from+1] < 0x80 { // the usual: it comes first and is short
		if end := from + 2 + int(buf[from+1]); end == to || (end < to && buf[end] != 0x0a) {
			s = span{int32(from + 2), int32(end)}
			if end == to {
				return s, nil
			}
		}
	}
	err := eachField(buf, from, to, func(num protowire.Number, wire protowire.Type, _, _, from, to int) {
		if num == 1 && wire == protowire.BytesType {
			s = span{int32(from), int32(to)}
		}
	})
	return s, err
}

// skipGroup gives the index behind the end of the group num that starts at i.
// It keeps a stack of open groups instead of recursing.
func skipGroup(buf []byte, i, end int, num protowire.Number, depth int) (int, error) {
	open := []protowire.Number{num}
	for i < end {
		tag, j := uvarint(buf, i, end)
		if j < 0 {
			return 0, varintError(j)
		}
		n := protowire.Number(tag >> 3)
		if tag>>3 > uint64(protowire.MaxValidNumber) || n == 0 {
			return 0, errWireType
		}
		switch protowire.Type(tag & 7) {
		case protowire.StartGroupType:
			if len(open)+depth > maxDepth {
				return 0, errDepth
			}
			open = append(open, n)
			i = j
		case protowire.EndGroupType:
			if n != open[len(open)-1] {
				return 0, errGroup
			}
			if open = open[:len(open)-1]; len(open) == 0 {
				return j, nil
			}
			i = j
		default:
			size := protowire.ConsumeFieldValue(n, protowire.Type(tag&7), buf[j:end])
			if size < 0 {
				return 0, errTruncated
			}
			i = j + size
		}
	}
	return 0, errGroup
}
