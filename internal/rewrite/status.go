package rewrite

import (
	"bytes"
	"context"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// Status opens what an error answer holds: failures in the details of queries
// and multi-operations, and sealed texts in the message. What can't be opened
// stays as it is: nothing may take the place of the real error.
func (c *Call) Status(ctx context.Context, st *spb.Status) *spb.Status {
	out := st
	if len(st.GetDetails()) > 0 {
		if raw, err := proto.Marshal(st); err == nil {
			if changed, err := c.openMessage(ctx, c.method.plan.status, raw, false); err == nil {
				opened := new(spb.Status)
				if proto.Unmarshal(changed, opened) == nil {
					out = opened
				}
			}
			if out == st {
				c.withhold()
			}
		}
	}
	if text, ok := c.openText(ctx, []byte(out.GetMessage())); ok {
		out = proto.CloneOf(out)
		out.Message = string(text)
	}
	return out
}

// openText opens the sealed texts within a longer one. It needs a policy's
// word like any other sealed value.
func (c *Call) openText(ctx context.Context, text []byte) ([]byte, bool) {
	changed := false
	var out []byte
	for {
		at := bytes.Index(text, []byte(crypto.TextPrefix))
		if at < 0 {
			break
		}
		end := at + len(crypto.TextPrefix)
		for end < len(text) && isBase64URL(text[end]) {
			end++
		}
		out = append(out, text[:at]...)
		if clear, ok := c.openOneText(ctx, text[at:end]); ok {
			out, changed = append(out, clear...), true
		} else {
			out = append(out, text[at:end]...)
		}
		text = text[end:]
	}
	return append(out, text...), changed
}

func (c *Call) openOneText(ctx context.Context, text []byte) ([]byte, bool) {
	sealed, marked, err := crypto.ParseText(text)
	if !marked || err != nil {
		return nil, false
	}
	return c.openSealedText(ctx, &sealed)
}

func isBase64URL(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '-' || b == '_'
}
