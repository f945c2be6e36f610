package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// node is a field of an encoded message. Where its descriptor says that it holds a message and its bytes are one, its
// fields are its children.
type node struct {
	number protowire.Number
	kind   protowire.Type
	value  []byte // of a scalar: its encoding; of bytes without children: the content
	kids   []*node
	holds  protoreflect.MessageDescriptor // nil: no message
	style  style
}

// style is how a node is encoded. The zero value is what every encoder writes.
type style struct {
	longTag    int  // superfluous bytes of the tag's varint
	longLength int  // superfluous bytes of the length's varint
	overrun    bool // a length that goes past the end of every message
	group      bool // as a group instead of a length and a message
	wrongType  bool // as a varint where bytes belong, and the reverse
}

// pastTheEnd is more than any generated message has. A shorter overrun would read values that differ between two runs.
const pastTheEnd = 64 << 20

var errNoMessage = errors.New("not an encoded message")

// parse reads the fields of an encoded message. What does not parse below a field stays in its value.
func parse(b []byte, d protoreflect.MessageDescriptor) ([]*node, error) {
	var nodes []*node
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, errNoMessage
		}
		b = b[n:]
		n = protowire.ConsumeFieldValue(number, kind, b)
		if n < 0 {
			return nil, errNoMessage
		}
		one := &node{number: number, kind: kind, value: b[:n]}
		if kind == protowire.BytesType {
			one.value, _ = protowire.ConsumeBytes(b)
			one.descend(d)
		}
		nodes = append(nodes, one)
		b = b[n:]
	}
	return nodes, nil
}

func (n *node) descend(d protoreflect.MessageDescriptor) {
	if d == nil {
		return
	}
	field := d.Fields().ByNumber(n.number)
	if field == nil || field.Message() == nil {
		return
	}
	if kids, err := parse(n.value, field.Message()); err == nil {
		n.kids, n.holds = kids, field.Message()
	}
}

// encode appends the nodes in their styles.
func encode(b []byte, nodes []*node) []byte {
	for _, n := range nodes {
		b = n.encode(b)
	}
	return b
}

func (n *node) encode(b []byte) []byte {
	kind := n.kind
	switch {
	case n.style.group && n.holds != nil:
		b = appendLong(b, protowire.EncodeTag(n.number, protowire.StartGroupType), n.style.longTag)
		b = encode(b, n.kids)
		return protowire.AppendTag(b, n.number, protowire.EndGroupType)
	case n.style.wrongType && kind == protowire.BytesType:
		return protowire.AppendVarint(protowire.AppendTag(b, n.number, protowire.VarintType), uint64(len(n.value)))
	case n.style.wrongType:
		return protowire.AppendBytes(protowire.AppendTag(b, n.number, protowire.BytesType), n.value)
	}
	b = appendLong(b, protowire.EncodeTag(n.number, kind), n.style.longTag)
	if kind != protowire.BytesType {
		return append(b, n.value...)
	}
	value := n.value
	if n.holds != nil {
		value = encode(nil, n.kids)
	}
	length := len(value)
	if n.style.overrun {
		length += pastTheEnd
	}
	b = appendLong(b, uint64(length), n.style.longLength)
	return append(b, value...)
}

// appendLong appends a varint with superfluous bytes. Ten bytes are the most that decoders read.
func appendLong(b []byte, v uint64, more int) []byte {
	more = min(more, 10-protowire.SizeVarint(v))
	if more <= 0 {
		return protowire.AppendVarint(b, v)
	}
	b = protowire.AppendVarint(b, v)
	b[len(b)-1] |= 0x80
	for range more - 1 {
		b = append(b, 0x80)
	}
	return append(b, 0)
}

// all are the nodes of a tree, parents first.
func all(nodes []*node) []*node {
	var list []*node
	for _, n := range nodes {
		list = append(append(list, n), all(n.kids)...)
	}
	return list
}

// spoil changes the encoding of a message in up to three places, in ways that keep or break its meaning. What it does
// follows from the random numbers and the tree's shape alone: two trees of one shape are changed alike.
func spoil(r *rand.Rand, nodes []*node) ([]*node, bool) {
	cut := false
	for range 1 + r.IntN(3) {
		list := all(nodes)
		if len(list) == 0 {
			return nodes, cut
		}
		n := list[r.IntN(len(list))]
		switch r.IntN(13) {
		case 0:
			n.style.longLength = 1 + r.IntN(9)
		case 1:
			n.style.longTag = 1 + r.IntN(8)
		case 2:
			split(r, nodes, n)
		case 3:
			r.Shuffle(len(n.kids), func(i, j int) { n.kids[i], n.kids[j] = n.kids[j], n.kids[i] })
		case 4:
			again := *n
			nodes = append(nodes, &again) // of the root: at the end, where the last one wins
		case 5:
			n.add(unknown(r))
		case 6:
			n.style.wrongType = true
		case 7:
			n.style.group = true
		case 8:
			if n.holds == nil && n.kind == protowire.BytesType {
				n.value = []byte("\xff\xfe invalid UTF-8")
			}
		case 9:
			if n.holds != nil {
				n.kids = nil
			}
		case 10:
			n.style.overrun = true
		case 11:
			nodes = append(nodes, unknown(r))
		case 12:
			cut = true
		}
	}
	return nodes, cut
}

// add puts a field into a message.
func (n *node) add(kid *node) {
	if n.holds != nil {
		n.kids = append(n.kids, kid)
	}
}

// split makes two occurrences of a field out of one. Decoders merge them if the field is no list.
func split(r *rand.Rand, nodes []*node, n *node) {
	if n.holds == nil || len(n.kids) < 2 {
		return
	}
	at := 1 + r.IntN(len(n.kids)-1)
	rest := *n
	rest.kids = n.kids[at:]
	for _, parent := range all(nodes) {
		for i, kid := range parent.kids {
			if kid == n {
				n.kids = n.kids[:at:at]
				parent.kids = append(parent.kids[:i+1:i+1], append([]*node{&rest}, parent.kids[i+1:]...)...)
				return
			}
		}
	}
}

// unknown is a field that no descriptor has. Some of them look like a payload.
func unknown(r *rand.Rand) *node {
	number := protowire.Number(1000 + r.IntN(20000))
	switch r.IntN(5) {
	case 0:
		return &node{number: number, kind: protowire.VarintType, value: protowire.AppendVarint(nil, r.Uint64())}
	case 1:
		return &node{number: number, kind: protowire.Fixed32Type, value: []byte{1, 2, 3, 4}}
	case 2:
		return &node{number: number, kind: protowire.Fixed64Type, value: []byte{1, 2, 3, 4, 5, 6, 7, 8}}
	case 3:
		return &node{number: number, kind: protowire.BytesType, value: []byte("unknown")}
	}
	entry := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "encoding")
	entry = protowire.AppendString(protowire.AppendTag(entry, 2, protowire.BytesType), "json/plain")
	payload := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), entry)
	payload = protowire.AppendString(protowire.AppendTag(payload, 2, protowire.BytesType), `"UNKNOWN"`)
	return &node{number: number, kind: protowire.BytesType, value: payload}
}

// inside returns the bytes of the first field on a path of names in an encoded message.
func inside(message protoreflect.FullName, b []byte, path ...protoreflect.Name) ([]byte, error) {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(message)
	if err != nil {
		return nil, err
	}
	inner := d.(protoreflect.MessageDescriptor)
	for _, name := range path {
		fields, err := parse(b, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", inner.FullName(), err)
		}
		f := inner.Fields().ByName(name)
		at := slices.IndexFunc(fields, func(n *node) bool { return f != nil && n.number == f.Number() })
		if at < 0 {
			return nil, fmt.Errorf("%s has no %s", inner.FullName(), name)
		}
		b, inner = fields[at].value, f.Message()
	}
	return b, nil
}
