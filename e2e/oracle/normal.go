package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	spb "google.golang.org/genproto/googleapis/rpc/status"
)

// A message is compared in a form in which sealed values are replaced by what they open to: nonces and data keys differ
// between any two runs. Everything else stays as it is on the wire, the order of fields and the form of varints included.

// sealedWith starts the comparable form of a sealed value that opens.
const sealedWith = "sealed with "

// sealedText starts each sealed text.
const sealedText = "sealed.v1:"

// normal writes messages in this form.
type normal struct {
	ctx  context.Context
	side *side
	deep int // sealed values around this one
	// envelopes counts the sealed values.
	envelopes int
	out       strings.Builder
	err       error
}

// maxLayers bounds how often a value may have been sealed: a case seals twice at most, and pastes once.
const maxLayers = 4

// normalize returns the comparable form of a message, a line a field.
func (s *side) normalize(ctx context.Context, b []byte, d protoreflect.MessageDescriptor) (*normal, error) {
	n := &normal{ctx: ctx, side: s}
	n.message("", b, d)
	return n, n.err
}

// normalizeStatus is normalize for a status.
func (s *side) normalizeStatus(ctx context.Context, st *spb.Status) (string, error) {
	if st == nil {
		return "OK", nil
	}
	n := &normal{ctx: ctx, side: s}
	n.line("code", fmt.Sprint(st.Code))
	n.text("message", st.Message)
	for i, detail := range st.Details {
		n.anything(fmt.Sprintf("detail %d", i), detail.TypeUrl, detail.Value)
	}
	return n.out.String(), n.err
}

func (n *normal) line(path, text string) {
	n.out.WriteString(path)
	n.out.WriteString(" = ")
	n.out.WriteString(text)
	n.out.WriteByte('\n')
}

func (n *normal) message(path string, b []byte, d protoreflect.MessageDescriptor) {
	if d != nil {
		switch d.FullName() {
		case "temporal.api.common.v1.Payload":
			if n.payload(path, b) {
				return
			}
		case "google.protobuf.Any":
			a := struct{ url, value []byte }{}
			if fields, err := parse(b, nil); err == nil && len(fields) == 2 && fields[0].number == 1 && fields[1].number == 2 {
				a.url, a.value = fields[0].value, fields[1].value
				n.anything(path, string(a.url), a.value)
				return
			}
		case "temporal.api.common.v1.DataBlob":
			if n.history(path, b) {
				return
			}
		}
	}
	whole := b
	for len(b) > 0 {
		number, kind, tag := protowire.ConsumeTag(b)
		if tag < 0 {
			n.line(path, "broken "+n.side.hex(whole))
			return
		}
		size := protowire.ConsumeFieldValue(number, kind, b[tag:])
		if size < 0 {
			n.line(path, "broken "+n.side.hex(whole))
			return
		}
		n.field(path, d, number, kind, b[:tag], b[tag:tag+size])
		b = b[tag+size:]
	}
}

// field writes one field. It names tags and lengths that are longer than need be.
func (n *normal) field(
	path string, d protoreflect.MessageDescriptor, number protowire.Number, kind protowire.Type, tag, value []byte,
) {
	name := fmt.Sprint(number)
	var f protoreflect.FieldDescriptor
	if d != nil {
		if f = d.Fields().ByNumber(number); f != nil {
			name = string(f.Name())
		}
	}
	at := path + "." + name
	if len(tag) != protowire.SizeTag(number) {
		at += fmt.Sprintf(" (tag of %d bytes)", len(tag))
	}
	if kind != protowire.BytesType {
		n.line(at, fmt.Sprintf("type %d %s", kind, n.side.hex(value)))
		return
	}
	content, _ := protowire.ConsumeBytes(value)
	if head := len(value) - len(content); head != protowire.SizeVarint(uint64(len(content))) {
		at += fmt.Sprintf(" (length of %d bytes)", head)
	}
	switch {
	case f != nil && f.Message() != nil:
		if len(content) == 0 {
			n.line(at, "empty")
		}
		n.message(at, content, f.Message())
	case f != nil && f.Kind() == protoreflect.StringKind:
		n.text(at, string(content))
	case f != nil && f.Name() == "details" && d.FullName() == "temporal.api.nexus.v1.Failure":
		n.json(at, content)
	case f != nil && f.Name() == "data" && n.failureTexts(at, content):
	case f != nil && f.Name() == "task_token":
		token, with := withoutMAC(content)
		n.line(at, n.side.hex(token)+with)
	default:
		n.line(at, n.side.hex(content))
	}
}

// withoutMAC takes the MAC off a task token, whose bytes differ from build to build with the data key, and reports whether it had one.
// The last two bytes are the size of the field with the MAC.
func withoutMAC(token []byte) (bare []byte, with string) {
	tag := protowire.AppendTag(nil, 2000, protowire.BytesType)
	if len(token) > 2 {
		from := len(token) - int(binary.BigEndian.Uint16(token[len(token)-2:]))
		if from >= 0 && bytes.HasPrefix(token[from:], tag) {
			return token[:from], ", with a MAC"
		}
	}
	return token, ""
}

// failureTexts writes the texts of a failure, which were sealed as one JSON document. A payload that the application put
// in the place of these texts stands in it in base64.
func (n *normal) failureTexts(path string, b []byte) bool {
	var doc map[string]any
	if json.Unmarshal(b, &doc) != nil {
		return false
	}
	text, _ := doc["encoded_attributes"].(string)
	raw, err := base64.StdEncoding.DecodeString(text)
	p := new(commonpb.Payload)
	if text == "" || err != nil || proto.Unmarshal(raw, p) != nil || !isSealed(p) {
		return false
	}
	doc["encoded_attributes"] = n.opened(p)
	written, _ := json.Marshal(doc)
	n.line(path, string(written))
	return true
}

func (n *normal) text(path, text string) {
	text = strings.ReplaceAll(text, n.side.own, "DIR")
	if i := strings.Index(text, sealedText); i >= 0 && !strings.HasSuffix(text, sealedText+"AAAA") {
		n.envelopes++
		n.line(path, fmt.Sprintf("%q sealed %q", text[:i], n.side.openText(n.ctx, text[i:])))
		return
	}
	n.line(path, fmt.Sprintf("%q", text))
}

// isSealed reports whether a payload bears the marker of a sealed one.
func isSealed(p *commonpb.Payload) bool {
	encoding := strings.ToLower(string(p.GetMetadata()["encoding"]))
	return encoding == "binary/sealed.v1" || encoding == "json/sealed.v1"
}

// payload writes a sealed payload as what it opens to, and reports whether it is one.
func (n *normal) payload(path string, b []byte) bool {
	p := new(commonpb.Payload)
	if proto.Unmarshal(b, p) != nil || !isSealed(p) {
		return n.system(path, p)
	}
	n.line(path, n.opened(p))
	return true
}

// opened describes a sealed payload by what it opens to, layer by layer.
func (n *normal) opened(p *commonpb.Payload) string {
	n.envelopes++
	o, err := n.side.open(n.ctx, p)
	if err != nil {
		n.err = err
	}
	if o.payload == nil || n.deep == maxLayers {
		return "sealed, does not open"
	}
	inner := &normal{ctx: n.ctx, side: n.side, deep: n.deep + 1}
	inner.message("", o.payload, p.ProtoReflect().Descriptor())
	n.envelopes += inner.envelopes
	if inner.err != nil {
		n.err = inner.err
	}
	return fmt.Sprintf(sealedWith+"%s: %s", o.keys, strings.ReplaceAll(strings.TrimSpace(inner.out.String()), "\n", "; "))
}

// system writes a payload that holds a message for the server itself, with payloads in it.
func (n *normal) system(path string, p *commonpb.Payload) bool {
	name := protoreflect.FullName(p.GetMetadata()["messageType"])
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if name == "" || err != nil || string(p.GetMetadata()["encoding"]) != "binary/protobuf" {
		return false
	}
	if m, ok := d.(protoreflect.MessageDescriptor); ok {
		n.message(path+" as "+string(name), p.GetData(), m)
		return true
	}
	return false
}

func (n *normal) anything(path, url string, value []byte) {
	n.line(path, "Any "+url)
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(url[strings.LastIndexByte(url, '/')+1:]))
	if m, ok := d.(protoreflect.MessageDescriptor); err == nil && ok {
		n.message(path, value, m)
		return
	}
	n.line(path, n.side.hex(value))
}

// history writes a blob that holds a history.
func (n *normal) history(path string, b []byte) bool {
	blob := new(commonpb.DataBlob)
	d, err := protoregistry.GlobalFiles.FindDescriptorByName("temporal.api.history.v1.History")
	if err != nil || proto.Unmarshal(b, blob) != nil || blob.GetEncodingType() != 1 {
		return false
	}
	n.line(path, "history")
	n.message(path, blob.GetData(), d.(protoreflect.MessageDescriptor))
	return true
}

// json writes a JSON document in which payloads may be sealed.
func (n *normal) json(path string, b []byte) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var doc any
	if d.Decode(&doc) != nil {
		n.line(path, fmt.Sprintf("%x", b))
		return
	}
	text, _ := json.Marshal(n.openJSON(doc))
	n.line(path, string(text))
}

func (n *normal) openJSON(doc any) any {
	switch v := doc.(type) {
	case []any:
		for i := range v {
			v[i] = n.openJSON(v[i])
		}
	case map[string]any:
		if text, ok := n.sealedJSON(v); ok {
			return text
		}
		for k := range v {
			v[k] = n.openJSON(v[k])
		}
	}
	return doc
}

// sealedJSON opens a payload in the JSON form of protobuf.
func (n *normal) sealedJSON(v map[string]any) (string, bool) {
	metadata, _ := v["metadata"].(map[string]any)
	if metadata == nil {
		return "", false
	}
	p := &commonpb.Payload{Metadata: map[string][]byte{}}
	for k, value := range metadata {
		text, _ := value.(string)
		p.Metadata[k], _ = base64.StdEncoding.DecodeString(text)
	}
	data, _ := v["data"].(string)
	p.Data, _ = base64.StdEncoding.DecodeString(data)
	if !isSealed(p) {
		return "", false
	}
	return n.opened(p), true
}

func marshal(m proto.Message) []byte {
	b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	return b
}
