package scan

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

func hexID(id [32]byte) string { return hex.EncodeToString(id[:]) }

// count looks at one answer of the server's. Where this build does not know the place of an envelope, its mark still
// shows in the bytes: then the count is not whole, and that is told.
func (w *walk) count(rpc string, answer proto.Message, where string) {
	n := w.n
	raw, err := proto.Marshal(answer)
	if err != nil {
		n.unread(where + ": " + err.Error())
		return
	}
	m := w.s.Rewriter.Method("/temporal.api.workflowservice.v1.WorkflowService/" + rpc)
	if m == nil {
		n.unread(where + ": " + rpc + " is not known to this release")
		return
	}
	marks := marksIn(raw)
	if err := w.s.Rewriter.Visit(m, raw, func(f rewrite.Found) {
		marks -= marksIn(f.Payload)
		n.payload(f, where, w.ofServer)
	}); err != nil {
		n.unread(where + ": " + err.Error())
		return
	}
	if marks > 0 {
		n.unread(fmt.Sprintf("%s: %d sealed values stand where this release does not look; upgrade it", where, marks))
	}
}

func marksIn(b []byte) int {
	return bytes.Count(b, []byte("/sealed.v")) + bytes.Count(b, []byte(envelope.TextPrefix))
}

// payload counts one. What the server wrote for workflows of its own is clear by nature, and not counted as such.
func (n *Namespace) payload(f rewrite.Found, where string, ofServer bool) {
	switch {
	case f.Err != nil:
		n.unread(where + ": " + f.Path + ": " + f.Err.Error())
		return
	case f.Marked:
		n.sealed(f.Sealed.Header, where)
		return
	}
	var p commonpb.Payload
	if proto.Unmarshal(f.Payload, &p) != nil {
		n.unread(where + ": " + f.Path + ": not a payload")
		return
	}
	encoding := string(p.GetMetadata()["encoding"])
	if encoding == "binary/encrypted" {
		n.Foreign[encoding]++
		return
	}
	if !ofServer {
		n.Clear[f.Kind]++
	}
	n.within(p.GetData(), where)
}

// carrierStart is how a sealed payload starts on the wire, up to the length of its envelope.
const carrierStart = "\x0a\x1c\x0a\x08encoding\x12\x10" + envelope.EncodingWhole + "\x12"

// within looks for sealed payloads in a clear one. The server's own workflows, which run schedules and batches, and
// operations of its own hold requests in their payloads, as protobuf or as JSON.
func (n *Namespace) within(data []byte, where string) {
	for rest := data; ; {
		i := bytes.Index(rest, []byte(carrierStart))
		if i < 0 {
			break
		}
		rest = rest[i:]
		size, used := binary.Uvarint(rest[len(carrierStart):])
		end := len(carrierStart) + used + int(min(size, uint64(len(rest))))
		if used <= 0 || end > len(rest) {
			n.unread(where + ": a sealed payload within a payload is cut off")
			return
		}
		n.carrier(rest[:end], where)
		rest = rest[end:]
	}
	if !bytes.Contains(data, []byte(encodingInJSON)) {
		return
	}
	var document any
	if json.Unmarshal(data, &document) == nil {
		n.inJSON(document, where)
	}
}

// encodingInJSON is an `encoding` of ours in the JSON form of a payload.
var encodingInJSON = base64.StdEncoding.EncodeToString([]byte(envelope.EncodingWhole))

func (n *Namespace) inJSON(v any, where string) {
	switch v := v.(type) {
	case []any:
		for _, member := range v {
			n.inJSON(member, where)
		}
	case map[string]any:
		metadata, _ := v["metadata"].(map[string]any)
		data, _ := v["data"].(string)
		if metadata["encoding"] == encodingInJSON && len(metadata) == 1 {
			if envelope, err := base64.StdEncoding.DecodeString(data); err == nil {
				n.carrier(binary.AppendUvarint([]byte(carrierStart), uint64(len(envelope))), where, envelope...)
				return
			}
		}
		for _, member := range v {
			n.inJSON(member, where)
		}
	}
}

func (n *Namespace) carrier(payload []byte, where string, rest ...byte) {
	sealed, _, err := envelope.ParsePayload(append(payload[:len(payload):len(payload)], rest...))
	if err != nil {
		n.unread(where + ": within a payload: " + strings.TrimPrefix(err.Error(), "read "))
		return
	}
	n.sealed(sealed.Header, where)
}
