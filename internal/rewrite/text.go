package rewrite

import (
	"bytes"
	"context"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// textField stands for a text in an error answer, which has no place in a message.
var textField = field{kind: policy.KindFailure, path: "status.message", na: policy.AllFacts}

// openSealedText opens a text for which the policy says so.
func (c *Call) openSealedText(ctx context.Context, sealed *keyring.Sealed) ([]byte, bool) {
	c.walk.reset(nil)
	c.walk.scopes = append(c.walk.scopes, scope{parent: -1})
	c.describe()
	s := slot{f: &textField}
	c.facts(&s)
	c.in.SealedNamespace, c.in.SealedKey = sealed.Header.Namespace, sealed.Header.Key
	v, err := c.decide(ctx, policy.Response, &s, head{})
	if err != nil {
		return nil, false
	}
	if v.Action != policy.Open {
		outcome := Kept // a placeholder within another text helps nobody
		if v.Action == policy.Deny {
			outcome = Denied
		}
		c.handled(s.f.kind, sealed.Header, outcome)
		return nil, false
	}
	text, hit, err := c.r.keys.Open(ctx, nil, sealed, c.namespace)
	if err != nil {
		c.response.Unopened++
		c.handled(s.f.kind, sealed.Header, Failed)
		return nil, false
	}
	c.handled(s.f.kind, sealed.Header, Opened)
	c.response.used(sealed.Header.Key, len(text), hit)
	return text, true
}

// openWholeText opens a text that is sealed from its first letter to its last.
func (c *Call) openWholeText(ctx context.Context, text []byte) ([]byte, bool) {
	sealed, marked, err := keyring.ParseText(text)
	if !marked || err != nil {
		return nil, false
	}
	return c.openSealedText(ctx, &sealed)
}

// Text opens the sealed texts within a longer one, which its caller wants opened. It needs a policy's word like any other
// sealed value.
func (c *Call) Text(ctx context.Context, text []byte) (out []byte, changed bool) {
	for {
		at := bytes.Index(text, []byte(keyring.TextPrefix))
		if at < 0 {
			return append(out, text...), changed
		}
		end := at + len(keyring.TextPrefix)
		for end < len(text) && isBase64URL(text[end]) {
			end++
		}
		out = append(out, text[:at]...)
		if clear, ok := c.openWholeText(ctx, text[at:end]); ok {
			out, changed = append(out, clear...), true
		} else {
			out = append(out, text[at:end]...)
		}
		text = text[end:]
	}
}

func isBase64URL(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '-' || b == '_'
}
