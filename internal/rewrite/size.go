package rewrite

import (
	"context"
	"fmt"

	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
)

// Sizes in bytes that a Temporal server with the default configuration accepts:
// of a message, and of a field in it such as a list of payloads or a memo
// (docs.temporal.io/cloud/limits and the server's limit.blobSize.error).
const (
	maxMessage = 4 << 20
	maxField   = 2 << 20
	// maxSummary is the size of the summary of a standalone activity or Nexus
	// operation (limit.userMetadataSummarySize); those of workflows may be larger.
	maxSummary = 400
)

// maxAttemptFailure is the size of the failure of an attempt that is retried. The server cuts a larger one, and drops its
// encoded_attributes (limit.mutableStateActivityFailureSize.error; common/failure.Truncate in its source).
const maxAttemptFailure = 4 << 10

// retriedFailures are the RPCs whose failure is limited to maxAttemptFailure if the activity is retried.
var retriedFailures = map[string]bool{"RespondActivityTaskFailed": true, "RespondActivityTaskFailedById": true}

// summaryPlaceholder replaces a summary that does not fit once it is sealed. The Web
// UI loses it, but the call succeeds.
const summaryPlaceholder = redactedPayload

// limitedSummaries are the RPCs whose user metadata is limited to maxSummary.
var limitedSummaries = map[string]bool{"StartActivityExecution": true, "StartNexusOperationExecution": true}

// sealSummary seals a summary within its limit: compressed and padded to the limit, or
// replaced by a placeholder if that does not fit.
func (s *sealer) sealSummary(sl *slot, key keyring.Envelope) (err error) {
	m := &s.message
	from := len(m.arena)
	var ok bool
	if m.arena, ok, err = key.AppendWithin(m.arena, m.content(sl), maxSummary, &s.nonces); err != nil {
		return err
	}
	if !ok {
		m.arena = append(m.arena, summaryPlaceholder...)
	}
	m.edit(m.place(sl), sl.box, m.added(from))
	return nil
}

// tooLarge returns an error if the message, or a field, exceeds its limit although it
// is compressed.
func (s *sealer) tooLarge(growth int) error {
	if s.message.crosses(growth) {
		plain := len(s.message.walk.buf)
		return s.call.fail(KindTooLarge, "", fmt.Errorf("the message has %d bytes in clear and %d sealed and compressed, "+
			"and the server takes %d; send less at once", plain, plain+growth, maxMessage))
	}
	for i := range s.items {
		sl := s.items[i].slot
		if b := s.message.crossing(sl); b != nil {
			plain := b.end - b.start
			return s.call.fail(KindTooLarge, sl.f.path, fmt.Errorf("the field has %d bytes in clear and %d sealed and compressed, "+
				"and the server takes %d; make the payload smaller", plain, plain+b.delta, maxField))
		}
	}
	return nil
}

// envelopeRoom is what an envelope with the longest usual names adds to a payload, in
// bytes. It is used if no key is at hand to measure it.
const envelopeRoom = 512

// lowerLimits subtracts the size of an envelope from the limits of a namespace.
// Workers check sizes before they send, and then fail early where the server would
// terminate the workflow: with an activity input just below the limit.
func (c *call) lowerLimits(ctx context.Context, in []byte) ([]byte, error) {
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
	if key, ok := c.state.Keys.DefaultKey(name); ok {
		if s, _, err := c.state.Keys.Sealer(ctx, name, key); err == nil {
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
