package rewrite

import (
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
)

// head is what a policy may know of a payload.
type head struct {
	encoding, messageType string
	data                  []byte
}

// plainHead is how an SDK's JSON payload starts: its metadata, and the tag of
// its data.
const plainHead = "\x0a\x16\x0a\x08encoding\x12\x0ajson/plain\x12"

// readPlain reads the usual payload, one with nothing but JSON in it, in a
// fraction of readHead's time. Such a payload bears no mark.
func readPlain(payload []byte) (h head, ok bool) {
	if len(payload) <= len(plainHead) || string(payload[:len(plainHead)]) != plainHead {
		return h, false
	}
	size, at := uvarint(payload, len(plainHead), len(payload))
	if at < 0 || size != uint64(len(payload)-at) {
		return h, false
	}
	return head{encoding: "json/plain", data: payload[at:]}, true
}

// marked tells whether an answer's copy of a payload would be opened: it bears
// our mark, or that of another tool whose payloads are read here.
func (c *Call) marked(payload []byte) bool {
	return keyring.Marked(payload) || c.others.Marked(payload)
}

// readHead reads a serialised Payload and tells whether it is marked. Of
// repeated entries the last counts, as for everyone who decodes it.
func (c *Call) readHead(payload []byte) (h head, marked bool, err error) {
	if h, ok := readPlain(payload); ok {
		return h, false, nil
	}
	err = eachField(payload, 0, len(payload), func(num protowire.Number, wire protowire.Type, _, _, from, to int) {
		switch {
		case wire != protowire.BytesType:
		case num == 2:
			h.data = payload[from:to]
		case num == 1:
			h.metadata(payload[from:to])
		}
	})
	return h, c.marked(payload), err
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
