// Package history opens the payloads of saved histories with the keys alone, as JSON holds them. It asks no
// policy.
package history

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
)

// Options say with what a history is opened.
type Options struct {
	Keys *keyring.Keyring
	// Nil: payloads of other tools stay as they are.
	Foreign *foreign.Reader
	// Namespace in which the history is opened. "": each payload in the namespace that its envelope names.
	Namespace string
	// Of the config: it stands before the namespace in envelopes.
	Realm string
	// Readable has JSON payloads opened to the values that they hold. Otherwise they keep the form in which they were
	// read, with all metadata, so that SDKs can replay the history. The default is false.
	Readable bool
}

// Open returns a JSON document with every payload and text opened that is sealed, wherever it stands, how
// many these are, and a line for each that cannot be opened, which stays as it is.
func Open(ctx context.Context, document any, o Options) (plain any, opened int, problems []string) {
	h := &opener{ctx: ctx, options: o, foreign: o.Foreign.For(o.Namespace), left: maxOpened}
	plain = h.value(document, "$")
	return plain, h.opened, h.problems
}

// opener walks one document. It changes maps and lists in place, since callers have no use for the sealed
// document.
type opener struct {
	ctx     context.Context
	options Options
	// Formats that are read in the namespace.
	foreign  *foreign.Namespace
	opened   int
	problems []string
	left     int // bytes that what is compressed may still open to
}

const (
	// maxOpened is what the compressed payloads of one document may open to together.
	maxOpened = 1 << 30
	// maxPath is the length from which on a place is shortened: a document may have long names, each around many.
	maxPath = 500
)

// grow counts n bytes before they are decompressed.
func (h *opener) grow(n int) error {
	if n > h.left {
		return fmt.Errorf("what is compressed in the file opens to more than %d MiB: split the file", maxOpened>>20)
	}
	h.left -= n
	return nil
}

// within returns the place of a part of what is at path.
func within(path, part string) string {
	const more = "..."
	switch {
	case strings.HasSuffix(path, more):
		return path
	case len(path)+len(part) > maxPath:
		return path + more
	}
	return path + part
}

// value returns a part of the document with everything in it opened. path is its place for messages, such as
// $.events[3].
func (h *opener) value(v any, path string) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = h.value(v[i], within(path, fmt.Sprintf("[%d]", i)))
		}
	case map[string]any:
		if p, texts, ok := payloadOf(v); ok {
			return h.payload(p, texts, v, path)
		}
		restore := h.failure(v, path)
		for _, k := range slices.Sorted(maps.Keys(v)) {
			v[k] = h.value(v[k], within(path, "."+k))
		}
		restore()
	case string:
		return h.text(v, path)
	}
	return v
}

// encodingText is an encoding's name as people write it.
var encodingText = regexp.MustCompile(`^[a-z]+/[a-z0-9.+_-]+$`)

// payloadOf reads the JSON form of a payload: metadata and data in base64. The Web UI exports what it has
// decoded with the metadata as texts; an envelope among them is in base64 still.
func payloadOf(v any) (p *commonpb.Payload, texts, ok bool) {
	object, _ := v.(map[string]any)
	metadata, ok := object["metadata"].(map[string]any)
	if !ok || metadata["encoding"] == nil {
		return nil, false, false
	}
	encoding, _ := metadata["encoding"].(string)
	texts = encodingText.MatchString(encoding)
	if name, ok := fromBase64(encoding); ok && encodingText.Match(name) {
		texts = false
	}
	p = &commonpb.Payload{Metadata: map[string][]byte{}}
	for k, value := range metadata {
		text, isText := value.(string)
		if texts && isText && k != envelope.ViewMetadataKey {
			p.Metadata[k] = []byte(text)
		} else if p.Metadata[k], ok = fromBase64(value); !ok {
			return nil, false, false
		}
	}
	if data, given := object["data"]; given {
		p.Data, ok = fromBase64(data)
	}
	return p, texts, ok
}

// fromBase64 decodes a JSON text in base64, and reports whether it is one.
func fromBase64(v any) ([]byte, bool) {
	text, ok := v.(string)
	if !ok {
		return nil, false
	}
	b, err := base64.StdEncoding.DecodeString(text)
	return b, err == nil
}

// payload opens a payload that stands in the document as the object as, and returns what takes its place. texts is whether
// its metadata are texts.
func (h *opener) payload(p *commonpb.Payload, texts bool, as map[string]any, path string) any {
	raw, marked, err := h.openPayload(p)
	if err == nil && !marked {
		return as
	}
	var plain any
	if err == nil {
		plain, err = h.written(raw, texts)
	}
	if err != nil {
		return h.problem(as, path, err)
	}
	h.opened++
	return plain
}

// written returns the JSON form of an opened payload: that in which sealed ones stand in the document, or of a readable
// document the value that it holds.
func (h *opener) written(raw []byte, texts bool) (any, error) {
	var plain commonpb.Payload
	if err := proto.Unmarshal(raw, &plain); err != nil {
		return nil, err
	}
	value := json.RawMessage(plain.GetData())
	if h.options.Readable && string(plain.GetMetadata()["encoding"]) == "json/plain" && json.Valid(value) {
		return value, nil // as it is: numbers keep their digits, objects their order
	}
	text, err := protojson.Marshal(&plain)
	if err != nil {
		return nil, err
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil {
		return nil, err
	}
	if metadata, ok := object["metadata"].(map[string]any); ok && (texts || h.options.Readable) {
		for k, v := range plain.GetMetadata() {
			metadata[k] = string(v)
		}
	}
	return object, nil
}

// openPayload opens one layer: this product's own, or the codecs of another tool. marked is false for what
// is neither.
func (h *opener) openPayload(p *commonpb.Payload) (out []byte, marked bool, err error) {
	raw, err := proto.Marshal(p)
	if err != nil {
		return nil, true, err
	}
	sealed, marked, err := envelope.ParsePayload(raw)
	if err != nil || marked {
		if err == nil {
			out, err = h.open(&sealed)
		}
		return out, true, err
	}
	if h.options.Namespace == "" && h.options.Foreign.Marked(raw) {
		return nil, true, errors.New(
			"another tool encoded it, and does not say for which namespace: add --namespace")
	}
	run := foreign.NewRun(h.grow)
	encoded, err := h.foreign.Parse(raw, &run)
	if err != nil || encoded == nil {
		return nil, false, err
	}
	out, _, err = h.foreign.Open(h.ctx, nil, encoded, &run)
	return out, true, err
}

// text opens a sealed text, such as the message of a failure. Other texts stay as they are.
func (h *opener) text(v, path string) any {
	if !strings.HasPrefix(v, envelope.TextPrefix) {
		return v
	}
	sealed, marked, err := envelope.ParseText([]byte(v))
	if err == nil && !marked {
		return v
	}
	var plain []byte
	if err == nil {
		plain, err = h.open(&sealed)
	}
	if err != nil {
		return h.problem(v, path, err)
	}
	h.opened++
	return string(plain)
}

// open opens an envelope. Without a namespace in the options it takes the one that the envelope names, so
// that envelopes of every namespace open.
func (h *opener) open(s *envelope.Sealed) ([]byte, error) {
	namespace := h.options.Namespace
	run := new(keyring.Run)
	if namespace == "" {
		if err := h.options.Keys.Resolved(h.ctx, s, run); err != nil {
			return nil, err
		}
		namespace = s.Header.Namespace
		if h.options.Realm != "" {
			namespace = strings.TrimPrefix(namespace, h.options.Realm+"/")
		}
	}
	s.Ask(h.grow)
	plain, _, err := h.options.Keys.Open(h.ctx, nil, s, namespace, run)
	if gone, is := s.Header.Destroyed(); is && gone.Is(err) {
		if s.Form == envelope.FormText {
			return []byte(gone.Text()), nil
		}
		return []byte(gone.Payload()), nil
	}
	return plain, err
}

// problem notes why something cannot be opened, and returns it unchanged to stay in the document.
func (h *opener) problem(as any, path string, err error) any {
	h.problems = append(h.problems, strings.TrimPrefix(path, "$.")+": "+err.Error())
	return as
}
