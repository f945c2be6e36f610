package rewrite

import (
	"context"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
)

// Status opens what an error answer holds: failures in the details of queries
// and multi-operations, and the sealed message of a failed query. What can't be opened
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
	// It is what the query's worker said and nothing else. A sealed text within a longer one is somebody's who has it quoted:
	// errors name the workflow that was asked for, say.
	if c.method.name == "QueryWorkflow" {
		if text, ok := c.openWholeText(ctx, []byte(out.GetMessage())); ok {
			out = proto.CloneOf(out)
			out.Message = string(text)
		}
	}
	return out
}

// openWholeText opens a text that is sealed from its first letter to its last.
func (c *Call) openWholeText(ctx context.Context, text []byte) ([]byte, bool) {
	sealed, marked, err := keyring.ParseText(text)
	if !marked || err != nil {
		return nil, false
	}
	return c.openSealedText(ctx, &sealed)
}
