package rewrite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// sealing is what was decided about one slot of a request.
type sealing struct {
	slot    int32
	action  policy.Action // Seal, or Redact for a reason
	verdict policy.Verdict
}

var errNoNamespace = errors.New("the request holds a payload but names no namespace, so no key can be chosen; " +
	"set the namespace in the SDK's client options")

// Request seals what the policy wants sealed. It gives `in` itself when
// nothing changed; else the bytes live until Done. On an error nothing may be
// forwarded.
func (c *Call) Request(ctx context.Context, in []byte) ([]byte, error) {
	if c.r.shadow {
		c.shadow(ctx, in)
		return in, c.withinReach()
	}
	if err := c.find(c.method.request, in, false); err != nil {
		return nil, err
	}
	if err := c.withinReach(); err != nil {
		return nil, err
	}
	w := &c.walk
	if w.unknown > 0 {
		c.r.noteUnknown(c.method.name, w.unknown)
	}
	if len(w.slots) == 0 {
		return w.buf, nil
	}
	if err := c.decideRequest(ctx); err != nil {
		return nil, err
	}
	if len(c.plans) == 0 {
		return w.buf, nil
	}
	return c.sealPlanned(ctx)
}

// shadow decides and counts, and changes and refuses nothing. What would have
// been refused stands in the log; the rest of that message is not decided.
func (c *Call) shadow(ctx context.Context, in []byte) {
	err := c.find(c.method.request, in, false)
	if err == nil && len(c.walk.slots) > 0 {
		err = c.decideRequest(ctx)
	}
	if err != nil {
		c.r.log.Warn("shadow mode: this request would be refused", slog.String("namespace", c.namespace), slog.String("error", err.Error()))
		return
	}
	for i := range c.plans {
		if key := c.plans[i].verdict.Key; key != "" {
			c.request.used(key, len(c.content(&c.walk.slots[c.plans[i].slot])), true)
		}
	}
}

// decideRequest fills c.plans with the slots that are to change.
func (c *Call) decideRequest(ctx context.Context) (err error) {
	ctx, traced := c.span(ctx, "policy.decide")
	defer func() { c.endDecide(traced, err) }()
	c.plans, c.asked.f = c.plans[:0], nil
	c.describe()
	scope := int32(-1)
	na := policy.FactSet(0)
	for i := range c.walk.slots {
		s := &c.walk.slots[i]
		if s.scope != scope || s.f.na != na || i == 0 {
			c.facts(s)
			scope, na = s.scope, s.f.na
		}
		c.plans = append(c.plans, sealing{slot: int32(i)})
		p := &c.plans[len(c.plans)-1]
		if err := c.decideSlot(ctx, s, p); err != nil {
			return err
		}
		if p.action == policy.Pass {
			c.request.Passed++
			c.plans = c.plans[:len(c.plans)-1]
		}
	}
	return nil
}

// decideSlot asks the policy about one slot of a request and applies the
// rules that no policy can change: what bears our mark never passes.
func (c *Call) decideSlot(ctx context.Context, s *slot, p *sealing) (err error) {
	p.action = policy.Pass
	value := c.content(s)
	var h head
	marked := false
	if s.site == siteNexus || c.isSystem(s) { // decided about piece by piece, when it is taken apart
		p.action = policy.Seal
		return nil
	}
	switch s.site {
	case siteText, siteReason:
		if len(value) == 0 {
			return nil
		}
		h.data = value
		marked = keyring.MarkedText(value)
	case siteFailure:
		if !c.hasTexts(s) {
			return nil
		}
		marked = c.markedFailure(s)
	default:
		if h, marked, err = c.readHead(value); err != nil {
			return c.fail(KindMalformed, s.f.path, fmt.Errorf("the bytes are not a Payload: %w", err))
		}
		if s.memo && h.deletes() && !marked {
			return nil
		}
	}
	if marked && (s.site == siteExempt || s.site == siteAsk || s.site == siteReason) {
		return c.fail(KindDenied, s.f.path, errors.New("a sealed value is not accepted in a field that stays readable"))
	}
	if s.site == siteExempt {
		return nil
	}
	if c.asked.again(s, &h, alias(s.name.of(c.walk.buf))) {
		p.verdict = c.asked.verdict
	} else {
		if p.verdict, err = c.decideRequestSlot(ctx, s, h); err != nil {
			return err
		}
		if len(c.walk.slots) > 1 {
			c.asked = question{s.f, s.scope, c.in.Name, h.encoding, h.messageType, p.verdict}
		}
	}
	return c.judge(ctx, s, p, value, marked)
}

// question is what the policy was asked last in a message. Histories and lists
// hold many neighbours of which it would be told the same.
type question struct {
	f                           *field
	scope                       int32
	name, encoding, messageType string
	verdict                     policy.Verdict
}

// again tells whether the policy would be asked the same once more. A verdict
// that came from its memory depends on no payload's content.
func (q *question) again(s *slot, h *head, name string) bool {
	return q.verdict.Hit && q.f == s.f && q.scope == s.scope && q.name == name && q.encoding == h.encoding && q.messageType == h.messageType
}

// judge makes the plan of a verdict.
func (c *Call) judge(ctx context.Context, s *slot, p *sealing, value []byte, marked bool) error {
	v := &p.verdict
	switch v.Action {
	case policy.Deny:
		return c.fail(KindDenied, s.f.path, &DeniedError{Reason: v.Reason})
	case policy.Pass:
		if marked { // a stolen ciphertext must not come back as clear text
			return c.sealMarked(s, p)
		}
		return nil
	case policy.Redact:
		if s.site == siteReason {
			p.action = policy.Redact
			return nil
		}
	case policy.Accept:
		if s.site == sitePayload && c.acceptable(ctx, value) {
			return nil
		}
		v.Action = policy.Seal
	}
	if v.Action != policy.Seal || s.site == siteAsk || s.site == siteReason {
		return c.fail(KindPolicy, s.f.path, fmt.Errorf("the verdict %s is not one for a %s in a request", v.Action, s.f.kind))
	}
	if marked {
		v.Fields, v.Clear = nil, nil // sealed whole, so that opening takes off one layer
	}
	p.action = policy.Seal
	return nil
}

// sealMarked seals a payload that a policy would let pass, but that bears our
// mark, with the namespace's default key.
func (c *Call) sealMarked(s *slot, p *sealing) error {
	key, ok := c.r.keys.DefaultKey(c.namespace)
	if !ok {
		return c.fail(KindDenied, s.f.path, fmt.Errorf("a value that bears the mark of a sealed one can only be sealed "+
			"once more, and no key serves the namespace %q", c.namespace))
	}
	p.action, p.verdict = policy.Seal, policy.Verdict{Action: policy.Seal, Key: key}
	return nil
}

// acceptable tells whether a worker sealed a payload itself, for this
// namespace, with a key that opens here.
func (c *Call) acceptable(ctx context.Context, value []byte) bool {
	if c.caller == nil || c.caller.Kind == "anonymous" {
		return false
	}
	sealed, marked, err := keyring.ParsePayload(value)
	if err != nil {
		return false
	}
	if !marked {
		return c.acceptableTheirs(ctx, value)
	}
	opened, _, err := c.r.keys.Open(ctx, c.arena[:0], &sealed, c.namespace)
	if err != nil {
		return false
	}
	clear(opened)
	return true
}

// acceptableTheirs tells the same of another tool's payload, which a worker
// that has not moved yet encoded.
func (c *Call) acceptableTheirs(ctx context.Context, value []byte) bool {
	n := c.others.For(c.namespace)
	if n == nil {
		return false
	}
	s, err := n.Parse(value, &c.theirRun)
	if s == nil || err != nil {
		return false
	}
	opened, _, err := n.Open(ctx, c.arena[:0], s, &c.theirRun)
	if err != nil {
		return false
	}
	clear(opened)
	return true
}

// DeniedError is a policy's deny. The reason is the rule's own text.
type DeniedError struct{ Reason string }

// Error gives the rule's reason.
func (e *DeniedError) Error() string {
	if e.Reason == "" {
		return "denied by policy"
	}
	return "denied by policy: " + e.Reason
}

// sealPlanned seals every planned slot, or none: on the first failure the
// message is given up.
func (c *Call) sealPlanned(ctx context.Context) (out []byte, err error) {
	if c.namespace == "" {
		for _, p := range c.plans {
			if p.action == policy.Seal {
				return nil, c.fail(KindMalformed, "namespace", errNoNamespace)
			}
		}
	}
	ctx, traced := c.span(ctx, "payload.seal")
	defer func() { c.end(traced, err, &c.request) }()
	if err := c.planEdits(ctx); err != nil {
		return nil, err
	}
	if len(c.edits) == 0 {
		return c.walk.buf, nil
	}
	growth := c.measure()
	if c.compressWhatCrosses(growth) {
		if err := c.planEdits(ctx); err != nil {
			return nil, err
		}
		growth = c.measure()
		if err := c.tooLarge(growth); err != nil {
			return nil, err
		}
	}
	c.sent.reset(len(c.walk.buf) + growth)
	if _, err = c.splice(ctx, &c.sent, true, true); err != nil {
		return nil, err
	}
	return c.sent.bytes(), nil
}

// planEdits fills c.edits with what the planned slots become.
func (c *Call) planEdits(ctx context.Context) (err error) {
	c.edits, c.arena = c.edits[:0], c.arena[:0]
	c.request.Payloads, c.request.Bytes, c.request.Passed = 0, 0, len(c.walk.slots)-len(c.plans)
	var sealer *keyring.Sealer
	last := ""
	for i := range c.plans {
		p := &c.plans[i]
		s := &c.walk.slots[p.slot]
		if p.action == policy.Redact {
			c.replace(s, redactedReason)
			continue
		}
		if s.site == siteNexus || c.isSystem(s) {
			take := c.sealNexusFailure
			if s.site != siteNexus {
				take = c.rewriteSystem
			}
			if err := take(ctx, s); err != nil {
				return c.asError(KindMalformed, s.f.path, err)
			}
			continue
		}
		hit := true
		if sealer == nil || p.verdict.Key != last {
			if sealer, hit, err = c.r.keys.Sealer(ctx, c.namespace, p.verdict.Key); err != nil {
				return c.fail(KindSealing, s.f.path, err)
			}
			last = p.verdict.Key
		}
		c.request.used(p.verdict.Key, len(c.content(s)), hit)
		if err := c.seal(sealer, s, p); err != nil {
			return c.fail(KindSealing, s.f.path, err)
		}
	}
	return nil
}

const redactedReason = "[redacted]"

// seal plans the edits for one slot.
func (c *Call) seal(sealer *keyring.Sealer, s *slot, p *sealing) (err error) {
	b := &c.walk.boxes[s.box]
	at := span{b.start, b.end}
	switch {
	case s.site == siteFailure:
		return c.sealFailure(sealer, s)
	case s.f.summary && at.to-at.from <= maxSummary && sealer.PayloadSize(int(at.to-at.from)) > maxSummary:
		return c.sealSummary(sealer, at, s.box)
	case s.site == sitePayload && !p.verdict.Compress && len(p.verdict.Fields)+len(p.verdict.Clear) == 0:
		c.edits = append(c.edits, edit{at: at, box: s.box, seal: sealer})
		return nil
	}
	from := int32(len(c.arena))
	c.arena = slices.Grow(c.arena, 2*sealer.PayloadSize(int(at.to-at.from))) // in steps that grow, unlike crypto's
	switch {
	case s.site == siteText:
		if !utf8.Valid(at.of(c.walk.buf)) {
			return errors.New("the text is not UTF-8, which protobuf requires of a string")
		}
		c.arena, err = sealer.AppendText(c.arena, at.of(c.walk.buf))
	case p.verdict.Compress:
		c.arena, err = sealer.AppendPayload(c.arena, at.of(c.walk.buf), true)
	default:
		c.arena, err = sealer.AppendView(c.arena, at.of(c.walk.buf), keyring.Selection{Fields: p.verdict.Fields, Clear: p.verdict.Clear})
	}
	c.edits = append(c.edits, edit{at: at, box: s.box, data: span{from, int32(len(c.arena))}})
	return err
}

// content is what a slot's box holds.
func (c *Call) content(s *slot) []byte {
	b := &c.walk.boxes[s.box]
	return c.walk.buf[b.start:b.end]
}

// replace puts a text in the place of a slot's content.
func (c *Call) replace(s *slot, text string) {
	b := &c.walk.boxes[s.box]
	c.edits = append(c.edits, edit{at: span{b.start, b.end}, box: s.box, data: c.store(text)})
}

// store keeps bytes in the arena.
func (c *Call) store(text string) span {
	from := int32(len(c.arena))
	c.arena = append(c.arena, text...)
	return span{from, int32(len(c.arena))}
}

// storeField keeps a whole length-delimited field in the arena.
func (c *Call) storeField(num protowire.Number, value []byte) span {
	from := int32(len(c.arena))
	c.arena = protowire.AppendTag(c.arena, num, protowire.BytesType)
	c.arena = protowire.AppendBytes(c.arena, value)
	return span{from, int32(len(c.arena))}
}
