package rewrite

import (
	"context"
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// The token of a task that a worker gets has a MAC behind what the server wrote, as a field that the server does not know
// and skips. The MAC is taken off before the token is forwarded. What a token says of its task counts as a fact only if
// its MAC is right: a worker could write another activity's type into it.
//
//	server's token | tag, length | MAC (see envelope.AppendMAC) | size of tag, length, MAC and size (2)
//
// The size at the end finds the MAC without reading the server's token.
const (
	macField = 2000
	macSize  = 2 // of the size
)

// appendAuthenticated appends a token with a MAC to dst. A token that is no protobuf message stays as it is.
func appendAuthenticated(dst, token []byte, keys *keyring.Keyring, namespace string) []byte {
	from := len(dst)
	dst = append(dst, token...)
	if !wellFormed(token) {
		return dst
	}
	mac := keys.MACs().Append(nil, namespace, token)
	if len(mac) == 0 {
		return dst
	}
	dst = protowire.AppendTag(dst, macField, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(len(mac)+macSize))
	dst = append(dst, mac...)
	return binary.BigEndian.AppendUint16(dst, uint16(len(dst)-from-len(token)+macSize))
}

// wellFormed reports whether a token is a protobuf message, of which the server skips fields that it does not know.
func wellFormed(token []byte) bool {
	r := wire.Read(token)
	for r.Next() {
	}
	return r.Err() == nil && len(token) > 0
}

// splitToken returns the server's part of a token, and its MAC; nil if it has none.
func splitToken(b []byte) (token, mac []byte) {
	if len(b) < macSize {
		return b, nil
	}
	size := int(binary.BigEndian.Uint16(b[len(b)-macSize:]))
	if size > len(b) {
		return b, nil
	}
	field := b[len(b)-size:]
	number, kind, n := protowire.ConsumeTag(field)
	if n < 0 || number != macField || kind != protowire.BytesType {
		return b, nil
	}
	content, m := protowire.ConsumeBytes(field[n:])
	if m < 0 || n+m != size || len(content) <= macSize {
		return b, nil
	}
	return b[:len(b)-size], content[:len(content)-macSize]
}

// WithoutMAC returns a task token as the server wrote it.
func WithoutMAC(token []byte) []byte {
	token, _ = splitToken(token)
	return token
}

// takeOffMAC returns a request whose task token has no MAC. Its bytes are the session's.
func takeOffMAC(s *Session, in []byte) ([]byte, error) {
	root := s.call.method.request
	out, from := s.bare[:0], 0
	r := wire.Read(in)
	for r.Next() {
		f := root.field(r.Number())
		if f == nil || f.op != opToken || !r.Bytes() {
			continue
		}
		token, mac := splitToken(r.Value())
		if mac == nil {
			continue
		}
		if len(out) == 0 && from == 0 {
			if err := s.call.meter.take(len(in)); err != nil {
				return nil, err
			}
		}
		_, to := r.Bounds()
		out = append(out, in[from:r.At()]...)
		out = protowire.AppendTag(out, r.Number(), protowire.BytesType)
		out = protowire.AppendBytes(out, token)
		from = to
	}
	if from == 0 {
		return in, nil
	}
	s.bare = append(out, in[from:]...)
	return s.bare, nil
}

// authenticateTokens plans the edits that put a MAC behind each task token of a response, where the policy reads facts of requests.
func (o *opener) authenticateTokens() {
	c, m := o.call, &o.message
	if !c.policy.ReadsFacts(policy.Request, c.namespace) {
		return
	}
	for i := range m.walk.scopes {
		sc := &m.walk.scopes[i]
		if sc.token.empty() {
			continue
		}
		from := len(m.arena)
		if m.arena = appendAuthenticated(m.arena, sc.token.of(m.walk.buf), c.state.Keys, c.namespace); len(m.arena)-from == int(sc.token.to-sc.token.from) {
			m.arena = m.arena[:from]
			continue // it has no MAC
		}
		m.edit(m.walk.boxes[sc.tokenBox].content(), sc.tokenBox, m.added(from))
	}
}

// vouched reports whether a proxy has handed out the token of the task that the request answers, by the token's MAC.
func (c *call) vouched(ctx context.Context, token []byte) bool {
	if c.mac == nil || !c.policy.ReadsFacts(policy.Request, c.namespace) {
		return false
	}
	if !c.checked {
		c.checked = true
		c.genuine = c.state.Keys.MACs().Verify(ctx, c.mac, c.namespace, token) == nil
	}
	return c.genuine
}
