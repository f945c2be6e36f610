package rewrite

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"unicode/utf8"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

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
