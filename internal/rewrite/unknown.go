package rewrite

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// What happens to a field of a message that this build does not know:
//
//   - "known" is what the descriptors of this build have, and beyond them those that an upstream's reflection describes
//     (join.go). walk.go finds the others where payloads may be, knownMessage below in all other messages of a request. A
//     google.protobuf.Any of an unknown type counts as one of them.
//   - In a request it is refused if it might hold a payload (mayHoldPayload), and in any case with `unknown_fields: strict` in
//     the config. Otherwise it is forwarded, and logged once for each method.
//   - In an answer it passes: what is sealed in it stays sealed.
//   - The caller gets InvalidArgument, and over HTTP 400: KindUnknownField in server/errors.go and codecserver/errors.go. A
//     worker's answer with one does not fail its task: the task is left to its timeout, and the worker's SDK sees the error.
//   - In shadow mode such a request passes in clear and is logged as one that would be refused, unless its caller reaches
//     certain namespaces only (unfound in shadow.go).
//
// A method that this build does not know is another matter: Unimplemented, by unknownMethod in server/errors.go.

// unknownField counts a field that the descriptors of this build do not have, and notes that its request is refused, if it is:
// find in message.go returns that error once the walk is over. SDKs newer than this build send fields that cannot hold a payload
// all the time.
func (w *walk) unknownField(message protoreflect.FullName, num protowire.Number, raw []byte) {
	w.unknown++
	if w.response || w.refused != nil {
		return
	}
	if w.strict || mayHoldPayload(raw) {
		why := "might contain a payload"
		if w.strict {
			why = "is refused by unknown_fields: strict"
		}
		w.refused = w.fail(KindUnknownField, string(message),
			fmt.Errorf("field %d is not known to this release and %s; upgrade the proxy before the SDK", num, why))
	}
}

// encodingEntry is the start of the metadata entry for `encoding` in payloads that SDKs write.
var encodingEntry = []byte("\x0a\x08encoding\x12")

// maxUnknownDepth bounds how deep mayHoldPayload looks. Deeper messages count as ones that may hold a payload.
const maxUnknownDepth = 16

// mayHoldPayload reports whether fields whose meaning this build does not know may be or hold a Payload, in any encoding:
// one that SDKs write, or anything that a decoder could read as one.
func mayHoldPayload(fields []byte) bool {
	return bytes.Contains(fields, encodingEntry) || readsAsPayload(fields, 0)
}

// readsAsPayload reports whether bytes are a message that could be a Payload with content (metadata in field 1, data in
// field 2, external payloads in field 3, and no other field), or one that holds such a message. Most texts are no message.
func readsAsPayload(b []byte, depth int) bool {
	if depth > maxUnknownDepth {
		return len(b) > 0
	}
	content, others, within := false, false, false
	var r wire.Reader
	r.Start(b, 0, len(b), 0)
	for r.Next() {
		switch {
		case r.Type() == protowire.StartGroupType:
			within = within || groupHoldsMore(r.Value())
			continue
		case !r.Bytes():
			others = true
			continue
		case r.Number() == 1:
			entry := isEntry(r.Value())
			content, others = content || entry, others || !entry
		case r.Number() == 2:
			content = content || len(r.Value()) > 0
		case r.Number() != 3:
			others = true
		}
		within = within || len(r.Value()) > 1 && readsAsPayload(r.Value(), depth+1)
	}
	return r.Err() == nil && (within || content && !others)
}

// groupHoldsMore reports whether a group holds anything but numbers. Temporal's API has no groups.
func groupHoldsMore(content []byte) bool {
	r := wire.Read(content)
	for r.Next() { // up to the tag that ends the group
		if r.Bytes() || r.Type() == protowire.StartGroupType {
			return true
		}
	}
	return false
}

// isEntry reports whether bytes are an entry of a Payload's metadata: a key and a value.
func isEntry(b []byte) bool {
	key := false
	r := wire.Read(b)
	for r.Next() {
		if !r.Bytes() || r.Number() > 2 {
			return false
		}
		key = key || r.Number() == 1
	}
	return r.Err() == nil && key
}

// known has the fields of a message type that cannot hold a payload by the descriptors of this build. A newer SDK may have
// added one that does.
type known struct {
	name   protoreflect.FullName
	fields []knownField // by number
	high   map[protowire.Number]knownField
}

// knownField is one of them. There is no field 0.
type knownField struct {
	exists, packable bool // packable: a repeated scalar may also come packed
	wire             protowire.Type
	message          *known // nil for scalars, and for maps of scalars
}

// field returns a field by its number.
func (k *known) field(num protowire.Number) knownField {
	if int(num) < len(k.fields) {
		return k.fields[num]
	}
	return k.high[num]
}

// knownOf returns the fields of a message type, and of all below it.
func (c *compiler) knownOf(d protoreflect.MessageDescriptor) *known {
	c.plan.knownLock.Lock()
	defer c.plan.knownLock.Unlock()
	k := c.knownLocked(d)
	if c.err != nil {
		clear(c.plan.known) // some have not all their fields
	}
	return k
}

func (c *compiler) knownLocked(d protoreflect.MessageDescriptor) *known {
	if k := c.plan.known[d.FullName()]; k != nil {
		return k
	}
	k := &known{name: d.FullName()}
	fields := d.Fields()
	for i := range fields.Len() {
		if num := fields.Get(i).Number(); num < maxDense && int(num) >= len(k.fields) {
			k.fields = make([]knownField, num+1)
		}
	}
	if !c.did(fieldWork * (1 + len(k.fields) + fields.Len())) {
		return k
	}
	c.plan.known[d.FullName()] = k // before its fields, which may lead back to it
	for i := range fields.Len() {
		fd := fields.Get(i)
		f := knownField{exists: true, wire: wireType(fd)}
		f.packable = fd.IsList() && f.wire != protowire.BytesType
		if fd.Kind() == protoreflect.MessageKind && messageOf(fd) != nil {
			f.message = c.knownLocked(fd.Message())
		}
		if int(fd.Number()) < len(k.fields) {
			k.fields[fd.Number()] = f
			continue
		}
		if k.high == nil {
			k.high = make(map[protowire.Number]knownField)
		}
		k.high[fd.Number()] = f
	}
	return k
}

// knownMessage looks for unknown fields in a message that cannot hold a payload otherwise.
func (w *walk) knownMessage(k *known, from, to, depth int) error {
	if depth > wire.MaxDepth {
		return wire.ErrDepth
	}
	var r wire.Reader
	r.Start(w.buf, from, to, depth)
	for r.Next() {
		f := k.field(r.Number())
		from, to := r.Bounds()
		switch {
		case !f.exists, f.wire != r.Type() && !(f.packable && r.Bytes()):
			w.unknownField(k.name, r.Number(), w.buf[r.At():to])
		case f.message != nil:
			if err := w.knownMessage(f.message, from, to, depth+1); err != nil {
				return err
			}
		}
	}
	return r.Err()
}
