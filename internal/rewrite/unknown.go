package rewrite

import (
	"bytes"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

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
