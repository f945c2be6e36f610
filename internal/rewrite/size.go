package rewrite

import (
	"context"
	"fmt"

	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
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

// Sizes that Temporal accepts where nobody configured others: a message, and
// a field in it such as a list of payloads or a memo
// (docs.temporal.io/cloud/limits and the server's limit.blobSize.error).
const (
	maxMessage = 4 << 20
	maxField   = 2 << 20
	// maxSummary is the size of the summary of a standalone activity or Nexus
	// operation (limit.userMetadataSummarySize); workflows take larger ones.
	maxSummary = 400
)

// summaryPlaceholder stands for a summary that does not fit once it is sealed.
// It is lost to the Web UI; the call that it describes is worth more.
const summaryPlaceholder = redactedPayload

// limitedSummaries are the RPCs whose user metadata keeps to maxSummary.
var limitedSummaries = map[string]bool{"StartActivityExecution": true, "StartNexusOperationExecution": true}

// sealSummary seals a summary in the room that it has: compressed if need be,
// and if it does not fit then, a placeholder takes its place.
func (c *Call) sealSummary(sealer *keyring.Sealer, at span, box int32) (err error) {
	from := int32(len(c.arena))
	if c.arena, err = sealer.AppendPayload(c.arena, at.of(c.walk.buf), true); err != nil {
		return err
	}
	if len(c.arena)-int(from) > maxSummary {
		c.arena = append(c.arena[:from], summaryPlaceholder...)
	}
	c.edit(at, box, span{from, int32(len(c.arena))})
	return nil
}

// crosses tells whether a field fits the limit in clear and not when sealed.
func (b *box) crosses() bool {
	plain := b.end - b.start
	return plain <= maxField && plain+b.delta > maxField
}

// compressWhatCrosses marks the slots that make a field, or the message, go
// over a limit which the clear one kept; it tells whether there are any. The
// server would terminate a workflow for what passes without the proxy.
func (c *Call) compressWhatCrosses(growth int) bool {
	whole := len(c.walk.buf) <= maxMessage && len(c.walk.buf)+growth > maxMessage
	found := false
	for i := range c.plans {
		p := &c.plans[i]
		if whole || c.withinCrossing(c.walk.slots[p.slot].box) {
			p.verdict.Compress, found = true, true
		}
	}
	return found
}

func (c *Call) withinCrossing(i int32) bool {
	for ; i >= 0; i = c.walk.boxes[i].parent {
		if c.walk.boxes[i].crosses() {
			return true
		}
	}
	return false
}

// tooLarge is the error for what does not fit even when it is compressed.
func (c *Call) tooLarge(growth int) error {
	if plain := len(c.walk.buf); plain <= maxMessage && plain+growth > maxMessage {
		return c.fail(KindTooLarge, "", fmt.Errorf("the message has %d bytes in clear and %d sealed and compressed, and the server takes %d; "+
			"send less at once", plain, plain+growth, maxMessage))
	}
	for i := range c.plans {
		s := &c.walk.slots[c.plans[i].slot]
		for j := s.box; j >= 0; j = c.walk.boxes[j].parent {
			if b := &c.walk.boxes[j]; b.crosses() {
				return c.fail(KindTooLarge, s.f.path, fmt.Errorf("the field has %d bytes in clear and %d sealed and compressed, and the server takes %d; "+
					"make the payload smaller", b.end-b.start, b.end-b.start+b.delta, maxField))
			}
		}
	}
	return nil
}
