package rewrite

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// redactedText stands in the place of a value that the caller may not read.
// redactedPayload holds it as a JSON string, which every SDK can decode.
const (
	redactedText    = "[sealed]"
	redactedPayload = "\x0a\x16\x0a\x08encoding\x12\x0ajson/plain\x12\x0a\"[sealed]\""
)

// outcome is what became of one sealed payload of an answer.
type outcome uint8

const (
	left     outcome = iota // stays as it is
	opened                  // the clear bytes were appended to the arena
	redacted                // the placeholder was appended to the arena
)

// Response opens what the policy lets this caller have. It gives `in` itself
// when nothing changed; else the bytes live until Done.
func (c *Call) Response(ctx context.Context, in []byte) ([]byte, error) {
	return c.openMessage(ctx, c.method.response, in, c.method.task)
}

// openMessage opens a message of the server's. For a task everything must
// open, since a worker must not see ciphertext; elsewhere what can't be
// opened stays sealed, so that one bad payload does not hide the good ones.
func (c *Call) openMessage(ctx context.Context, n *node, in []byte, task bool) (out []byte, err error) {
	if err := c.find(n, in, true); err != nil {
		return nil, err
	}
	c.remember()
	w := &c.walk
	if !c.anySealed() {
		c.response.Passed = len(w.slots)
		return w.buf, nil
	}
	start := time.Now()
	ctx, end := c.span(ctx, "payload.open")
	defer func() {
		c.response.Crypt = time.Since(start) - c.response.Decide
		end(err, append(c.response.attributes(), attribute.Int("seal.unopened", c.response.Unopened),
			attribute.Int64("policy.decide_us", c.response.Decide.Microseconds()))...)
	}()
	c.edits, c.arena = c.edits[:0], c.arena[:0]
	c.describe()
	for i := range w.slots {
		if err := c.openSlot(ctx, &w.slots[i]); err != nil {
			if task {
				return nil, err
			}
			c.response.Unopened++
		}
	}
	if len(c.edits) == 0 || c.r.shadow {
		return w.buf, nil
	}
	if c.outs[1], err = c.splice(c.outs[1]); err != nil {
		return nil, c.fail(KindOpening, "", err)
	}
	return c.outs[1], nil
}

// anySealed tells whether a message holds anything of ours. Most answers of a
// namespace whose policy lets things pass do not.
func (c *Call) anySealed() bool {
	for i := range c.walk.slots {
		if s := &c.walk.slots[i]; s.site == siteFailure && c.markedFailure(s) || s.site == sitePayload && crypto.Marked(c.content(s)) {
			return true
		}
	}
	return false
}

func (c *Call) openSlot(ctx context.Context, s *slot) error {
	if s.site == siteFailure {
		return c.openFailure(ctx, s)
	}
	value := c.content(s)
	if !crypto.Marked(value) {
		c.response.Passed++
		return nil
	}
	from := int32(len(c.arena))
	result, err := c.openPayload(ctx, s, value)
	if err != nil || result == left {
		return err
	}
	b := &c.walk.boxes[s.box]
	c.edit(span{b.start, b.end}, s.box, span{from, int32(len(c.arena))})
	return nil
}

// openPayload decides about one sealed payload and opens it behind the end of
// the arena.
func (c *Call) openPayload(ctx context.Context, s *slot, value []byte) (outcome, error) {
	sealed, marked, err := crypto.ParsePayload(value)
	if err != nil {
		return left, c.fail(KindOpening, s.f.path, err)
	}
	if !marked { // a mark of some other kind: another tool's, or none
		c.response.Passed++
		return left, nil
	}
	c.facts(s)
	v, err := c.decideSealed(ctx, s, &sealed)
	if err != nil {
		return left, err
	}
	if c.method.task && (v.Action == policy.Keep || v.Action == policy.Redact) {
		v.Action = policy.Deny // a worker must get the value or nothing
	}
	switch v.Action {
	case policy.Open:
		out, hit, err := c.r.keys.Open(ctx, c.arena, &sealed, c.namespace)
		if err != nil {
			return left, c.fail(KindOpening, s.f.path, err)
		}
		c.arena = out
		c.response.used(sealed.Header.Key, len(value), hit)
		return opened, nil
	case policy.Keep:
		c.response.Passed++
		return left, nil
	case policy.Redact:
		c.arena = append(c.arena, redactedPayload...)
		return redacted, nil
	}
	return left, c.fail(KindDenied, s.f.path, &DeniedError{Reason: v.Reason})
}

// decideSealed asks the policy who may have an envelope opened.
func (c *Call) decideSealed(ctx context.Context, s *slot, sealed *crypto.Sealed) (policy.Verdict, error) {
	start := time.Now()
	c.in.SealedNamespace, c.in.SealedKey = sealed.Header.Namespace, sealed.Header.Key
	v, err := c.decide(ctx, policy.Response, s, head{})
	c.response.Decide += time.Since(start)
	return v, err
}

// textSlot stands for a text in an error answer, which has no place in a message.
var textSlot = slot{f: &field{kind: policy.KindFailure, path: "status.message"}}

// openSealedText opens a text for which the policy says so.
func (c *Call) openSealedText(ctx context.Context, sealed *crypto.Sealed) ([]byte, bool) {
	c.describe()
	c.in.NotApplicable = policy.AllFacts
	c.walk.reset(nil)
	v, err := c.decideSealed(ctx, &textSlot, sealed)
	if err != nil || v.Action != policy.Open {
		return nil, false
	}
	text, hit, err := c.r.keys.Open(ctx, nil, sealed, c.namespace)
	if err != nil {
		c.response.Unopened++
		return nil, false
	}
	c.response.used(sealed.Header.Key, len(text), hit)
	return text, true
}

// IsDenied tells whether the policy refused something in a message.
func IsDenied(err error) bool {
	var d *DeniedError
	return errors.As(err, &d)
}
