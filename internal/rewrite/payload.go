package rewrite

import (
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
)

// head is what a policy may know of a payload.
type head struct {
	encoding, messageType string
	data                  []byte
}

// readHead reads a serialised Payload. Of repeated entries the last counts,
// as for everyone who decodes it.
func readHead(payload []byte) (h head, err error) {
	err = eachField(payload, 0, len(payload), func(num protowire.Number, wire protowire.Type, _, _, from, to int) {
		switch {
		case wire != protowire.BytesType:
		case num == 2:
			h.data = payload[from:to]
		case num == 1:
			h.metadata(payload[from:to])
		}
	})
	return h, err
}

func (h *head) metadata(entry []byte) {
	key, value := readEntry(entry)
	switch string(key) {
	case "encoding":
		h.encoding = alias(value)
	case "messageType":
		h.messageType = alias(value)
	}
}

// readEntry reads an entry of a map of strings or bytes. A broken one breaks
// the message for the server as well; sealed it does no harm.
func readEntry(entry []byte) (key, value []byte) {
	_ = eachField(entry, 0, len(entry), func(num protowire.Number, wire protowire.Type, _, _, from, to int) {
		switch {
		case wire != protowire.BytesType:
		case num == 1:
			key = entry[from:to]
		case num == 2:
			value = entry[from:to]
		}
	})
	return key, value
}

// deletes tells whether the server takes a memo's value as the wish to delete
// its key: common/payload.MergeMapOfPayload in the server's source.
func (h *head) deletes() bool {
	switch string(h.data) {
	case "", "null", "[]":
		return true
	}
	return false
}

// alias is a string that lives as long as the message it points into.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
