package rewrite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// systemEndpoint is the Nexus endpoint whose operations the server runs itself, such
// as a signal with start by a workflow. The server reads their inputs, which are
// requests of the workflow service. So they stay requests, and the payloads within
// them are sealed. As for the server, the endpoint decides, and never what a payload
// claims to be.
const systemEndpoint = "__temporal_system"

// nestedRewriter seals or opens a message that a payload holds, as a message of its
// own: the bytes from a session that began for it.
type nestedRewriter func(ctx context.Context, s *slot, d protoreflect.MessageDescriptor, raw []byte) (
	out []byte, changed bool, err error)

// sealSystem plans the edit for an input of the system endpoint.
func (s *sealer) sealSystem(ctx context.Context, sl *slot) error {
	h, marked, err := s.call.readHead(s.message.content(sl))
	if err != nil {
		return err
	}
	if marked {
		return s.call.fail(KindDenied, sl.f.path,
			errors.New("a sealed value is not accepted as the input of an operation that the server runs itself"))
	}
	return s.message.rewriteSystem(ctx, sl, h, s.sealNested)
}

// openSystem is sealSystem for a response.
func (o *opener) openSystem(ctx context.Context, s *slot) error {
	h, _, err := o.call.readHead(o.message.content(s))
	if err != nil {
		return err
	}
	return o.message.rewriteSystem(ctx, s, h, o.openNested)
}

// rewriteSystem plans the edit for an input of the system endpoint. Its message is
// rewritten and encoded as it was before.
func (m *Message) rewriteSystem(ctx context.Context, s *slot, h head, rewrite nestedRewriter) error {
	in, err := m.walk.plan.decodeSystem(h, m.walk.meter)
	if err != nil {
		return err
	}
	raw, err := proto.Marshal(in)
	if err != nil {
		return fmt.Errorf("write the input: %w", err)
	}
	out, changed, err := rewrite(ctx, s, in.Descriptor(), raw)
	if err != nil || !changed {
		return err
	}
	if strings.HasPrefix(h.encoding, "json/") {
		if in, err = decodeDynamic(in.Descriptor(), out); err != nil {
			return fmt.Errorf("read the rewritten input: %w", err)
		}
		if out, err = protojson.Marshal(in.Interface()); err != nil {
			return fmt.Errorf("write the input as JSON: %w", err)
		}
	}
	m.replace(s, withData(m.content(s), out))
	return nil
}

// decodeSystem decodes the message in an input of the system endpoint.
func (p *plan) decodeSystem(h head, meter *meter) (*dynamicpb.Message, error) {
	md, err := p.messageType(protoreflect.FullName(h.messageType))
	if err != nil {
		return nil, fmt.Errorf("the input for the endpoint %s is a message that this release does not know, "+
			"so its payloads can't be found; upgrade the proxy before the SDK", systemEndpoint)
	}
	if h.encoding == "binary/protobuf" {
		err = meter.takeDecoded(md, h.data, 0)
	} else {
		err = meter.takeJSON(h.data)
	}
	if err != nil {
		return nil, err
	}
	m := dynamicpb.NewMessage(md)
	switch h.encoding {
	case "binary/protobuf":
		m, err = decodeDynamic(md, h.data)
	case "json/protobuf":
		err = protojson.UnmarshalOptions{DiscardUnknown: false}.Unmarshal(h.data, m)
	default:
		err = errors.New("encoding")
	}
	if err != nil { // the text of the error may quote the input
		return nil, fmt.Errorf("the input for the endpoint %s is not a %s", systemEndpoint, md.Name())
	}
	return m, nil
}

// sealNested seals a message that a payload holds.
func (s *sealer) sealNested(
	ctx context.Context, sl *slot, d protoreflect.MessageDescriptor, raw []byte,
) (out []byte, changed bool, err error) {
	inner, err := s.call.nested(d, sl, false)
	if err != nil {
		return nil, false, err
	}
	defer inner.Done()
	out, err = inner.Request(ctx, raw)
	s.stats.add(&inner.sealed)
	return bytes.Clone(out), inner.sealed.Payloads > 0, err
}

// openNested opens a message that a payload holds.
func (o *opener) openNested(
	ctx context.Context, s *slot, d protoreflect.MessageDescriptor, raw []byte,
) (out []byte, changed bool, err error) {
	inner, err := o.call.nested(d, s, true)
	if err != nil {
		return nil, false, err
	}
	defer inner.Done()
	opener := inner.opening()
	opener.run = o.run.Nested()
	defer func() { o.run.EndNested(&opener.run) }()
	out, err = opener.open(ctx, inner.call.method.response, raw, inner.call.method.whole)
	o.stats.add(&opener.stats)
	for _, h := range opener.account {
		o.account.enter(h)
	}
	if err == nil { // else the message counts as one value
		for _, u := range opener.unopened {
			o.noteUnopened(u.Err, u.Count)
		}
	}
	return bytes.Clone(out), opener.stats.Payloads > 0, err
}

// nested begins a session for a message that a payload of this call holds.
func (c *call) nested(d protoreflect.MessageDescriptor, s *slot, response bool) (*Session, error) {
	key := nestedKey{method: c.method.name, path: s.f.path, name: string(d.FullName()), response: response}
	root, err := c.method.plan.nestedNode(d, key, c.meter)
	if err != nil {
		return nil, err
	}
	if root == nil {
		return nil, fmt.Errorf("plan: %s has more singular fields than a plan has room for", d.FullName())
	}
	method := *c.method
	method.next = nil // no later plan replaces it
	method.request, method.response = root, root
	inner := *c
	inner.method = &method
	return c.rewriter.begin(inner), nil
}
