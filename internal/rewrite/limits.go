package rewrite

import (
	"context"

	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
)

// envelopeRoom is what an envelope with the longest usual names adds to a
// payload; used where no key is at hand to measure it.
const envelopeRoom = 512

// lowerLimits takes the room of an envelope off the sizes that a namespace
// says it accepts. Workers that check sizes before they send then refuse in
// plain terms what the server would refuse sealed: an activity argument just
// under the server's limit would otherwise terminate its workflow.
func (c *Call) lowerLimits(ctx context.Context, in []byte) ([]byte, error) {
	m := new(workflowpb.DescribeNamespaceResponse)
	if err := proto.Unmarshal(in, m); err != nil {
		return nil, c.fail(KindMalformed, "", err)
	}
	limits := m.GetNamespaceInfo().GetLimits()
	if limits == nil {
		return in, nil
	}
	room := int64(envelopeRoom)
	name := m.GetNamespaceInfo().GetName()
	if key, ok := c.r.keys.DefaultKey(name); ok {
		if s, _, err := c.r.keys.Sealer(ctx, name, key); err == nil {
			room = int64(s.PayloadSize(0))
		}
	}
	lower := func(v *int64) {
		if *v > room {
			*v -= room
		}
	}
	lower(&limits.BlobSizeLimitError)
	lower(&limits.MemoSizeLimitError)
	out, err := proto.Marshal(m)
	if err != nil {
		return nil, c.fail(KindMalformed, "", err)
	}
	return out, nil
}
