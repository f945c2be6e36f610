package rewrite

import (
	"context"
	"errors"
	"slices"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// redactedText stands in the place of a value that the caller may not read.
// redactedPayload holds it as a JSON string, which every SDK can decode.
const (
	redactedText    = "[sealed]"
	redactedPayload = "\x0a\x16\x0a\x08encoding\x12\x0ajson/plain\x12\x0a\"[sealed]\""
)

// Response opens what the policy lets this caller have. It gives `in` itself
// when nothing changed; else the bytes live until Done.
func (c *Call) Response(ctx context.Context, in []byte) ([]byte, error) {
	c.account = c.account[:0]
	if c.method.limits {
		return c.lowerLimits(ctx, in)
	}
	out, err := c.openMessage(ctx, c.method.response, in, c.method.whole)
	if err != nil {
		c.withhold()
	}
	return out, err
}

// openMessage opens a message of the server's. Where it is given whole or not
// at all, everything must open, since a worker must not see ciphertext by
// mistake; elsewhere what can't be opened stays sealed, so that one bad
// payload does not hide the good ones. A result that does not open for now is
// an error as well: its caller asks again.
func (c *Call) openMessage(ctx context.Context, n *node, in []byte, whole bool) (out []byte, err error) {
	if err := c.find(n, in, true); err != nil {
		return nil, err
	}
	c.remember()
	if err := c.findSealed(whole); err != nil {
		return nil, err
	}
	if len(c.opens)+len(c.systems) == 0 {
		return c.walk.buf, nil
	}
	if err := c.decideResponse(ctx, whole); err != nil {
		return nil, err
	}
	if c.r.shadow {
		return c.walk.buf, nil
	}
	return c.openDecided(ctx, whole)
}

// findSealed fills c.opens with what bears our mark. Most answers of a
// namespace whose policy lets things pass hold nothing of it.
func (c *Call) findSealed(whole bool) error {
	c.opens, c.systems = c.opens[:0], c.systems[:0]
	c.carriers.Reset()
	c.theirs, c.theirRun = c.others.For(c.namespace), foreign.Run{}
	for i := range c.walk.slots {
		s := &c.walk.slots[i]
		switch s.site {
		case sitePayload:
			if c.isSystem(s) && !keyring.Marked(c.content(s)) {
				c.systems = append(c.systems, int32(i))
				continue
			}
			if err := c.noteSealed(i, 0, c.content(s), whole); err != nil {
				return err
			}
		case siteFailure:
			for j := range c.chain(s) {
				f := &c.chain(s)[j]
				if f.attributes.field.empty() {
					continue
				}
				if err := c.noteSealed(i, j, f.attributes.value.of(c.walk.buf), whole); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (c *Call) noteSealed(slot, failure int, value []byte, whole bool) error {
	if _, plain := readPlain(value); plain && c.theirs == nil {
		c.response.Passed++
		return nil
	}
	c.opens = append(c.opens, opening{slot: int32(slot), failure: int32(failure), size: len(value)})
	o := &c.opens[len(c.opens)-1]
	var marked bool
	var err error
	if o.sealed, marked, err = c.carriers.ParsePayload(value); err == nil && !marked && c.theirs != nil {
		if o.theirs, err = c.theirs.Parse(value, &c.theirRun); o.theirs != nil {
			marked = true
			o.sealed.Header = &keyring.Header{Key: o.theirs.Key, Namespace: c.namespace}
		}
	}
	if err == nil && marked {
		return nil
	}
	sealed := o.sealed.Header
	if sealed == nil { // another tool's, of which not even the key can be read
		sealed = new(keyring.Header)
	}
	c.opens = c.opens[:len(c.opens)-1]
	if err == nil {
		c.response.Passed++
		return nil
	}
	c.handled(c.walk.slots[slot].f.kind, sealed, Failed)
	return c.unopened(whole, c.fail(KindOpening, c.walk.slots[slot].f.path, err))
}

// unopened counts what stays sealed, where it may.
func (c *Call) unopened(whole bool, err error) error {
	var e *Error
	later := errors.As(err, &e) && e.Transient()
	if whole || later && c.method.result {
		return err
	}
	c.response.Unopened++
	if later {
		c.response.Later++
	}
	return nil
}

// openDecided opens what was decided and puts it in its place.
func (c *Call) openDecided(ctx context.Context, whole bool) (out []byte, err error) {
	ctx, traced := c.span(ctx, "payload.open")
	defer func() { c.end(traced, err, &c.response) }()
	c.edits, c.arena, c.run = c.edits[:0], c.arena[:0], keyring.Run{}
	aside := 0
	for i := range c.opens {
		if o := &c.opens[i]; !c.inPlace(o) {
			aside += o.size
		}
	}
	c.arena = slices.Grow(c.arena, aside) // at once: what opens into a full buffer moves all that is there already
	for i := range c.opens {
		o := &c.opens[i]
		s := &c.walk.slots[o.slot]
		if c.inPlace(o) {
			b := &c.walk.boxes[s.box]
			c.edits = append(c.edits, edit{at: span{b.start, b.end}, box: s.box, open: o})
			continue
		}
		err := c.openAside(ctx, s, o)
		c.handledAs(s, o, err)
		if err != nil {
			if err := c.unopened(whole, err); err != nil {
				return nil, err
			}
		}
	}
	for _, i := range c.systems {
		err := c.rewriteSystem(ctx, &c.walk.slots[i])
		var e *Error
		if errors.As(err, &e) {
			if err := c.unopened(whole, e); err != nil {
				return nil, err
			}
		} else if err != nil {
			c.response.Passed++ // a message that this release can't read holds nothing that it sealed
		}
	}
	if len(c.edits) == 0 {
		return c.walk.buf, nil
	}
	c.opened.reset(len(c.walk.buf) + len(c.arena))
	changed, err := c.splice(ctx, &c.opened, false, whole)
	if err != nil {
		return nil, err
	}
	if !changed {
		return c.walk.buf, nil
	}
	return c.opened.bytes(), nil
}

// inPlace tells whether what a payload holds is just put in its place.
func (c *Call) inPlace(o *opening) bool {
	return c.walk.slots[o.slot].site == sitePayload && o.theirs == nil && o.action == policy.Open
}

// handledAs enters into the account what became of one sealed payload.
func (c *Call) handledAs(s *slot, o *opening, err error) {
	outcome := outcomeOf(o.action)
	if err != nil {
		outcome = Failed
	}
	c.handled(s.f.kind, o.sealed.Header, outcome)
}

// openInto opens a payload of our own right in front of what was written. If it can't, the output stays as it was.
func (c *Call) openInto(ctx context.Context, out *tail, o *opening) (err error) {
	s := &c.walk.slots[o.slot]
	defer func() { c.handledAs(s, o, err) }()
	size := o.sealed.PlainSize()
	if o.sealed.Form == keyring.FormView {
		size = o.size // it holds no more than the readable document and the sealed part
	}
	room := out.room(size)
	plain, hit, err := c.r.keys.OpenNext(ctx, room, &o.sealed, c.namespace, &c.run)
	if err != nil {
		return c.fail(KindOpening, s.f.path, err)
	}
	out.prepend(plain)
	if cap(plain) != cap(room) { // it was compressed, and has grown out of its room
		clear(plain)
	}
	c.response.used(o.sealed.Header.Key, len(plain), hit)
	return nil
}

// openSealed takes off one layer: our own, or the codecs of another tool.
func (c *Call) openSealed(ctx context.Context, o *opening) (out []byte, hit bool, err error) {
	if o.theirs != nil {
		return c.theirs.Open(ctx, c.arena, o.theirs, &c.theirRun)
	}
	return c.r.keys.OpenNext(ctx, c.arena, &o.sealed, c.namespace, &c.run)
}

// openAside plans the edits for a sealed payload that is not simply put in the place of its envelope. One that is kept, or
// denied to a reader, stays as it is.
func (c *Call) openAside(ctx context.Context, s *slot, o *opening) error {
	from := int32(len(c.arena))
	switch o.action {
	case policy.Open:
		arena, hit, err := c.openSealed(ctx, o)
		if err != nil {
			return c.fail(KindOpening, s.f.path, err)
		}
		c.arena = arena
		c.response.used(o.sealed.Header.Key, len(arena)-int(from), hit)
	case policy.Redact:
		c.arena = append(c.arena, redactedPayload...)
	default:
		c.response.Passed++
		return nil
	}
	if s.site == siteFailure {
		return c.openFailure(s, o, from)
	}
	b := &c.walk.boxes[s.box]
	c.edit(span{b.start, b.end}, s.box, span{from, int32(len(c.arena))})
	return nil
}

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
