package rewrite

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// systemEndpoint is the Nexus endpoint whose operations the server runs
// itself: a workflow that signals with start, say. It reads their inputs,
// requests of the workflow service, so they stay requests, and the payloads
// within them are what is sealed. The endpoint decides, as it does for the
// server, never the payload's own word about itself.
const systemEndpoint = "__temporal_system"

// isSystem tells whether a slot is the input of an operation of the server's own.
func (c *Call) isSystem(s *slot) bool {
	return s.f.system && string(c.walk.scopes[s.scope].endpoint.of(c.walk.buf)) == systemEndpoint
}

// rewriteSystem plans the edit for such an input: its message is rewritten as
// one of its own, and put back in the encoding that it came in.
func (c *Call) rewriteSystem(ctx context.Context, s *slot) error {
	value := c.content(s)
	h, marked, err := c.readHead(value)
	if err != nil {
		return fmt.Errorf("the bytes are not a Payload: %w", err)
	}
	if marked && !c.walk.response {
		return c.fail(KindDenied, s.f.path, errors.New("a sealed value is not accepted as the input of an operation that the server runs itself"))
	}
	m, err := c.decodeSystem(h)
	if err != nil {
		return err
	}
	raw, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("write the input: %w", err)
	}
	out, changed, err := c.rewriteAside(ctx, s, m.Descriptor(), raw)
	if err != nil || !changed {
		return err
	}
	if strings.HasPrefix(h.encoding, "json/") {
		if err := proto.Unmarshal(out, m.Interface()); err != nil {
			return fmt.Errorf("read the rewritten input: %w", err)
		}
		if out, err = protojson.Marshal(m.Interface()); err != nil {
			return fmt.Errorf("write the input as JSON: %w", err)
		}
	}
	c.replace(s, string(withData(value, out)))
	return nil
}

func (c *Call) decodeSystem(h head) (*dynamicpb.Message, error) {
	md, err := c.method.plan.messageType(protoreflect.FullName(h.messageType))
	if err != nil {
		return nil, fmt.Errorf("the input for the endpoint %s is a message that this release does not know, so its payloads can't be found; "+
			"upgrade the proxy before the SDK", systemEndpoint)
	}
	m := dynamicpb.NewMessage(md)
	switch h.encoding {
	case "binary/protobuf":
		err = proto.Unmarshal(h.data, m)
	case "json/protobuf":
		err = protojson.UnmarshalOptions{DiscardUnknown: false}.Unmarshal(h.data, m)
	default:
		err = errors.New("encoding")
	}
	if err != nil { // its text may quote the input
		return nil, fmt.Errorf("the input for the endpoint %s is not the %s that it says it is", systemEndpoint, md.Name())
	}
	return m, nil
}

// rewriteAside rewrites a message that stands within a payload.
func (c *Call) rewriteAside(ctx context.Context, s *slot, d protoreflect.MessageDescriptor, raw []byte) (out []byte, changed bool, err error) {
	method := *c.method
	method.next = nil // it is no longer that RPC
	comp := compiler{plan: c.method.plan, method: method.name, response: c.walk.response}
	root, err := comp.compile(d, s.f.path, "")
	if err != nil {
		return nil, false, err
	}
	aside := c.r.Begin(&method, c.caller)
	defer aside.Done()
	aside.policy, aside.namespace, aside.task, aside.reaches = c.policy, c.namespace, c.task, c.reaches
	if c.walk.response {
		method.response = root
		out, err = aside.openMessage(ctx, root, raw, method.whole)
		c.response.add(&aside.response)
		for _, a := range aside.account {
			c.enter(a.Kind, a.Namespace, a.Key, a.Outcome, a.Count)
		}
		return append([]byte(nil), out...), aside.response.Payloads > 0, err
	}
	method.request = root
	out, err = aside.Request(ctx, raw)
	c.request.add(&aside.request)
	return append([]byte(nil), out...), aside.request.Payloads > 0, err
}

// withData gives a serialised Payload with other data.
func withData(payload, data []byte) []byte {
	var out []byte
	_ = eachField(payload, 0, len(payload), func(num protowire.Number, _ protowire.Type, at, _, _, to int) {
		if num != 2 {
			out = append(out, payload[at:to]...)
		}
	})
	out = protowire.AppendTag(out, 2, protowire.BytesType)
	return protowire.AppendBytes(out, data)
}
