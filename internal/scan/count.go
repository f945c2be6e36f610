package scan

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// counter counts the envelopes in answers of the server.
type counter struct {
	options    *Options
	found      *Namespace
	system     bool        // the workflows that are looked at now are the server's own
	references []reference // of the page that is walked
}

// count counts the payloads in an answer of the server. Where this build does not know the place of an
// envelope, its marker still shows in the bytes: then the count is not complete, and the report has that.
func (w *walk) count(answer proto.Message, where string) {
	n := w.found
	raw, err := proto.Marshal(answer)
	if err != nil {
		n.unread(where + ": " + err.Error())
		return
	}
	rpc := strings.TrimSuffix(string(answer.ProtoReflect().Descriptor().Name()), "Response")
	rewriter := w.scanner.options.Rewriter
	m := rewriter.Method("/temporal.api.workflowservice.v1.WorkflowService/" + rpc)
	if m == nil {
		n.unread(where + ": " + rpc + " is not known to this release")
		return
	}
	markers := countMarkers(raw)
	if err := rewriter.Visit(m, raw, func(f rewrite.Found) {
		markers -= countMarkers(f.Payload)
		w.counter.payload(f, where)
	}); err != nil {
		n.unread(where + ": " + err.Error())
		return
	}
	if markers > 0 {
		n.unread(fmt.Sprintf("%s: %d sealed values stand where this release does not look; upgrade it", where, markers))
	}
}

// countMarkers counts what looks like the marker of a sealed payload or text. It finds them in any field,
// known or not, because protobuf holds bytes and texts as they are.
func countMarkers(b []byte) int {
	return bytes.Count(b, []byte("/sealed.v")) + bytes.Count(b, []byte(envelope.TextPrefix))
}

// payload counts one payload. Those of the server's own workflows are never sealed, and do not count as
// clear.
func (c *counter) payload(f rewrite.Found, where string) {
	n := c.found
	switch {
	case f.Err != nil:
		n.unread(where + ": " + f.Path + ": " + f.Err.Error())
		return
	case f.Marked:
		c.envelope(f.Sealed.Header, where)
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
	if !c.system {
		n.Clear[f.Kind]++
	}
	c.within(p.GetData(), where)
}

// sealedStart is how a sealed payload starts on the wire, up to the length of its envelope.
const sealedStart = "\x0a\x1c\x0a\x08encoding\x12\x10" + envelope.EncodingWhole + "\x12"

// within counts the sealed payloads in a clear one. The payloads of the server's own workflows, which run
// schedules and batches, and of its own operations hold requests, as protobuf or as JSON.
func (c *counter) within(data []byte, where string) {
	for rest := data; ; {
		i := bytes.Index(rest, []byte(sealedStart))
		if i < 0 {
			break
		}
		rest = rest[i:]
		size, used := binary.Uvarint(rest[len(sealedStart):])
		end := len(sealedStart) + used + int(min(size, uint64(len(rest))))
		if used <= 0 || end > len(rest) {
			c.found.unread(where + ": a sealed payload within a payload is cut off")
			return
		}
		c.sealedPayload(rest[:end], where)
		rest = rest[end:]
	}
	if !bytes.Contains(data, []byte(encodingInJSON)) {
		return
	}
	var document any
	if json.Unmarshal(data, &document) == nil {
		c.inJSON(document, where)
	}
}

// encodingInJSON is the encoding of a sealed payload in the JSON form of a payload.
var encodingInJSON = base64.StdEncoding.EncodeToString([]byte(envelope.EncodingWhole))

// inJSON counts the sealed payloads in a JSON document, at any depth. Such a payload has exactly the
// metadata that sealing leaves: its encoding.
func (c *counter) inJSON(v any, where string) {
	switch v := v.(type) {
	case []any:
		for _, member := range v {
			c.inJSON(member, where)
		}
	case map[string]any:
		metadata, _ := v["metadata"].(map[string]any)
		data, _ := v["data"].(string)
		if metadata["encoding"] == encodingInJSON && len(metadata) == 1 {
			if envelope, err := base64.StdEncoding.DecodeString(data); err == nil {
				c.sealedPayload(binary.AppendUvarint([]byte(sealedStart), uint64(len(envelope))), where, envelope...)
				return
			}
		}
		for _, member := range v {
			c.inJSON(member, where)
		}
	}
}

// sealedPayload counts one payload that was found within another one. rest is appended to it without
// changing the bytes after payload, which may belong to the next one.
func (c *counter) sealedPayload(payload []byte, where string, rest ...byte) {
	sealed, _, err := envelope.ParsePayload(append(payload[:len(payload):len(payload)], rest...))
	if err != nil {
		c.found.unread(where + ": within a payload: " + strings.TrimPrefix(err.Error(), "read "))
		return
	}
	c.envelope(sealed.Header, where)
}

// reference is an envelope by reference, and where it stands.
type reference struct {
	id      crypto.KeyID
	subject bool
	where   string
}

// envelope counts one envelope. What key one by reference depends on stands in its row, which is looked up at the end of the page.
func (c *counter) envelope(h *envelope.Header, where string) {
	if c.options.Found != nil {
		c.options.Found(h, where)
	}
	if h.Reference() {
		c.references = append(c.references, reference{h.ID, h.Subject(), where})
		return
	}
	c.found.sealed(h, where)
}

// resolve counts the envelopes by reference of a page by their rows in the key store.
func (c *counter) resolve(ctx context.Context) {
	references, n := c.references, c.found
	c.references = nil
	if len(references) == 0 {
		return
	}
	if c.options.Rows == nil {
		for _, r := range references {
			n.unread(r.where + ": an envelope by reference names no key; its key store does: give the config that has key_store")
		}
		return
	}
	var ids, subjects []crypto.KeyID
	asked := map[crypto.KeyID]bool{}
	for _, r := range references {
		switch {
		case asked[r.id]:
		case r.subject && c.options.Subjects != nil:
			subjects = append(subjects, r.id)
		default:
			ids = append(ids, r.id)
		}
		asked[r.id] = true
	}
	rows, err := c.options.Rows(ctx, ids)
	var ofSubjects map[crypto.KeyID]crypto.KeyRow
	if err == nil && len(subjects) > 0 {
		ofSubjects, err = c.options.Subjects(ctx, subjects)
	}
	for _, r := range references {
		row, found := rows[r.id]
		if r.subject {
			row, found = ofSubjects[r.id]
		}
		switch {
		case err != nil:
			n.unread(r.where + ": " + err.Error())
		case !found:
			n.unread(fmt.Sprintf("%s: the key store has no row for the data key %s, so it does not open; see keystore recover", r.where, r.id))
		case r.subject && len(row.Wrapped) == 0:
			n.Erased++
		case row.Life.Expired():
			n.Expired++
		default:
			n.sealed(&envelope.Header{ID: r.id, KEK: row.KEK, Key: row.Context.Key, Namespace: row.Context.Namespace}, r.where)
		}
	}
}
