package rewrite

import (
	"fmt"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// Found is one payload in an answer of the server's, as the server holds it.
type Found struct {
	Kind, Path string
	Payload    []byte // serialised
	// Marked payloads bear our mark. Sealed is what such a one holds, unless Err tells that it cannot be read.
	Marked bool
	Sealed envelope.Sealed
	Err    error
}

// Visit shows every payload in an answer that sealing and opening care about, without opening any. What it shows aliases
// the answer.
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

func found(f *field, payload []byte) Found {
	v := Found{Kind: f.kind, Path: f.path, Payload: payload}
	v.Sealed, v.Marked, v.Err = envelope.ParsePayload(payload)
	return v
}
