package rewrite

import (
	"fmt"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// Found is one payload of a response, as the server holds it.
type Found struct {
	Kind, Path string
	Payload    []byte // serialized
	// Marked reports whether the payload has our marker. Sealed is then what it holds,
	// unless Err is set.
	Marked bool
	Sealed envelope.Sealed
	Err    error
}

// Visit calls visit for every payload of a response that could be sealed, and opens
// none. What visit gets aliases the response.
func (r *Rewriter) Visit(m *Method, answer []byte, visit func(Found)) error {
	m = m.latest()
	w := walk{plan: m.plan, method: m.name, response: true}
	if err := w.runRegular(m.response, answer); err != nil {
		return fmt.Errorf("%s: the bytes are not a %s: %w", m.name, m.response.name.Name(), err)
	}
	for i := range w.slots {
		s := &w.slots[i]
		switch s.f.op {
		case opPayload:
			b := &w.boxes[s.box]
			visit(found(s.f, w.buf[b.start:b.end]))
		case opFailure:
			for _, f := range w.failures[s.failure.from:s.failure.to] {
				if !f.attributes.field.empty() {
					visit(found(s.f, f.attributes.value.of(w.buf)))
				}
			}
		}
	}
	return nil
}

// found parses a payload at a site.
func found(f *field, payload []byte) Found {
	v := Found{Kind: f.kind, Path: f.path, Payload: payload}
	v.Sealed, v.Marked, v.Err = envelope.ParsePayload(payload)
	return v
}
