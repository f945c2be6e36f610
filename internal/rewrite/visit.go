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
	message := Message{walk: walk{plan: m.plan, method: m.name, response: true}}
	if err := message.walk.runRegular(m.response, answer); err != nil {
		return fmt.Errorf("%s: the bytes are not a %s: %w", m.name, m.response.name.Name(), err)
	}
	return message.payloads(func(s *slot, _ int, payload []byte) error {
		v := Found{Kind: s.f.kind, Path: s.f.path, Payload: payload}
		v.Sealed, v.Marked, v.Err = envelope.ParsePayload(payload)
		visit(v)
		return nil
	})
}
