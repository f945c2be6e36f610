package rewrite

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// payloadMark is how the metadata entry for `encoding` starts in every
// payload that an SDK writes: bytes without it hold no such payload.
var payloadMark = []byte("\x0a\x08encoding\x12")

// unknownField judges a field that the descriptors of this build do not have.
// In answers it passes. In requests it passes if its bytes cannot hold a
// payload: an SDK newer than this build sends such fields all the time.
func (w *walk) unknownField(n *node, num protowire.Number, raw []byte) {
	w.unknown++
	if w.response || w.refused != nil {
		return
	}
	if w.strict || bytes.Contains(raw, payloadMark) {
		why := "might hold a payload"
		if w.strict {
			why = "is refused by unknown_fields: strict"
		}
		w.refused = w.fail(KindUnknownField, string(n.name),
			fmt.Errorf("field %d is not known to this release and %s; upgrade the proxy before the SDK", num, why))
	}
}

// skippedMessage judges a known message that cannot hold a payload by what
// this build knows. The descriptors of a newer SDK may have added one.
func (w *walk) skippedMessage(n *node, num protowire.Number, raw []byte) {
	if !w.strict && !bytes.Contains(raw, payloadMark) {
		return
	}
	fd := n.desc.Fields().ByNumber(num)
	m := dynamicpb.NewMessage(fd.Message())
	if proto.Unmarshal(raw, m) != nil {
		return // the server will not read it either
	}
	w.unknownWithin(m)
}

// unknownWithin judges every unknown field in a decoded message.
func (w *walk) unknownWithin(m protoreflect.Message) {
	if u := m.GetUnknown(); len(u) > 0 {
		num, _, _ := protowire.ConsumeTag(u)
		w.unknownField(&node{name: m.Descriptor().FullName()}, num, u)
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					w.unknownWithin(v.Message())
					return true
				})
			}
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				w.unknownWithin(v.List().Get(i).Message())
			}
		default:
			w.unknownWithin(v.Message())
		}
		return true
	})
}
