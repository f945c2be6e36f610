package rewrite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// facts fills in what is known about the payloads of a scope.
func (c *Call) facts(s *slot) {
	w := &c.walk
	in := &c.in
	values := [5]*string{&in.WorkflowID, &in.WorkflowType, &in.TaskQueue, &in.ActivityID, &in.ActivityType}
	in.Known, in.NotApplicable = 0, s.f.na
	for i := s.scope; i >= 0; i = w.scopes[i].parent {
		sc := &w.scopes[i]
		if sc.known == 0 {
			continue
		}
		for bit, v := range values {
			fact := policy.FactSet(1) << bit
			if sc.known&^in.Known&fact != 0 {
				*v = alias(sc.facts[bit].of(w.buf))
				in.Known |= fact
			}
		}
	}
	if c.task != nil {
		in.NotApplicable |= c.task.na
		for bit, v := range values {
			fact := policy.FactSet(1) << bit
			if c.task.known&fact != 0 && in.Known&fact == 0 {
				*v = c.task.values[bit]
				in.Known |= fact
			}
		}
	} else if root := &w.scopes[0]; !root.token.empty() && !w.response {
		if t, ok := readToken(root.token.of(w.buf)); ok {
			for bit, v := range values {
				fact := policy.FactSet(1) << bit
				if len(t.facts[bit]) > 0 && in.Known&fact == 0 {
					*v = alias(t.facts[bit])
					in.Known |= fact
				}
			}
		}
	}
	in.NotApplicable &^= in.Known
}

// decide asks the policy about one slot.
func (c *Call) decide(ctx context.Context, d policy.Direction, s *slot, h head) (policy.Verdict, error) {
	in := &c.in
	in.Kind, in.Path, in.Name = s.f.kind, s.f.path, alias(s.name.of(c.walk.buf))
	in.Encoding, in.Type, in.Data = h.encoding, h.messageType, h.data
	decide := c.policy.Decide
	if c.method.apart {
		decide = c.policy.DecideApart
	}
	v, err := decide(ctx, d, in)
	if err != nil {
		return v, c.fail(KindPolicy, s.f.path, err)
	}
	return v, nil
}

func (c *Call) describe() {
	c.in = policy.Input{Namespace: c.namespace, RPC: c.method.name, Caller: c.caller}
}

// head is what a policy may know of a payload.
type head struct {
	encoding, messageType string
	data                  []byte
}

// plainHead is how an SDK's JSON payload starts: its metadata, and the tag of
// its data.
const plainHead = "\x0a\x16\x0a\x08encoding\x12\x0ajson/plain\x12"

// readPlain reads the usual payload, one with nothing but JSON in it, in a
// fraction of readHead's time. Such a payload bears no mark.
func readPlain(payload []byte) (h head, ok bool) {
	if len(payload) <= len(plainHead) || string(payload[:len(plainHead)]) != plainHead {
		return h, false
	}
	size, at := uvarint(payload, len(plainHead), len(payload))
	if at < 0 || size != uint64(len(payload)-at) {
		return h, false
	}
	return head{encoding: "json/plain", data: payload[at:]}, true
}

// marked tells whether an answer's copy of a payload would be opened: it bears
// our mark, or that of another tool whose payloads are read here.
func (c *Call) marked(payload []byte) bool {
	return keyring.Marked(payload) || c.others.Marked(payload)
}

// readHead reads a serialised Payload and tells whether it is marked. Of
// repeated entries the last counts, as for everyone who decodes it.
func (c *Call) readHead(payload []byte) (h head, marked bool, err error) {
	if h, ok := readPlain(payload); ok {
		return h, false, nil
	}
	err = eachField(payload, 0, len(payload), func(num protowire.Number, wire protowire.Type, _, _, from, to int) {
		switch {
		case wire != protowire.BytesType:
		case num == 2:
			h.data = payload[from:to]
		case num == 1:
			h.metadata(payload[from:to])
		}
	})
	return h, c.marked(payload), err
}

func (h *head) metadata(entry []byte) {
	key, value := readEntry(entry)
	switch string(key) {
	case "encoding":
		h.encoding = alias(value)
	case "messageType":
		h.messageType = alias(value)
	}
}

// readEntry reads an entry of a map of strings or bytes. A broken one breaks
// the message for the server as well; sealed it does no harm.
func readEntry(entry []byte) (key, value []byte) {
	_ = eachField(entry, 0, len(entry), func(num protowire.Number, wire protowire.Type, _, _, from, to int) {
		switch {
		case wire != protowire.BytesType:
		case num == 1:
			key = entry[from:to]
		case num == 2:
			value = entry[from:to]
		}
	})
	return key, value
}

// deletes tells whether the server takes a memo's value as the wish to delete
// its key: common/payload.MergeMapOfPayload in the server's source.
func (h *head) deletes() bool {
	switch string(h.data) {
	case "", "null", "[]":
		return true
	}
	return false
}

// alias is a string that lives as long as the message it points into.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// sealing is what was decided about one slot of a request.
type sealing struct {
	slot    int32
	action  policy.Action // Seal, or Redact for a reason
	verdict policy.Verdict
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

// opening is what was decided about one sealed payload of an answer.
type opening struct {
	slot    int32
	failure int32 // siteFailure: which of the chain bears the envelope
	action  policy.Action
	size    int // of the sealed payload; what is in it is shorter, unless it is compressed
	sealed  keyring.Sealed
	theirs  *foreign.Sealed // another tool's payload; sealed then holds what the policy is told of it
}

// decideResponse asks the policy about every sealed payload. Neighbours of
// which it would be told the same have the same verdict.
func (c *Call) decideResponse(ctx context.Context, whole bool) (err error) {
	ctx, traced := c.span(ctx, "policy.decide")
	defer func() { c.endDecide(traced, err) }()
	c.describe()
	facts := c.policy.ReadsFacts(policy.Response, c.namespace)
	var asked [4]*opening // a history holds a few kinds of events, in turns
	next := 0
	for i := range c.opens {
		o := &c.opens[i]
		if j := slices.IndexFunc(asked[:], func(last *opening) bool { return last != nil && c.sameQuestion(last, o, facts) }); j >= 0 {
			o.action = asked[j].action
			continue
		}
		s := &c.walk.slots[o.slot]
		c.facts(s)
		c.in.SealedNamespace, c.in.SealedKey = o.sealed.Header.Namespace, o.sealed.Header.Key
		v, err := c.decide(ctx, policy.Response, s, head{})
		if err != nil {
			return err
		}
		if c.method.task && (v.Action == policy.Keep || v.Action == policy.Redact) {
			v.Action = policy.Deny // a worker must get the value or nothing
		}
		if v.Action == policy.Deny {
			if whole {
				c.handled(s.f.kind, o.sealed.Header, Denied)
			}
			if err := c.unopened(whole, c.fail(KindDenied, s.f.path, &DeniedError{Reason: v.Reason})); err != nil {
				return err
			}
		}
		o.action = v.Action
		asked[next%len(asked)] = o
		next++
	}
	return nil
}

// sameQuestion tells whether the policy would be told the same of both. With facts it can read those of the scope.
func (c *Call) sameQuestion(a, b *opening, facts bool) bool {
	s, t := &c.walk.slots[a.slot], &c.walk.slots[b.slot]
	return s.f == t.f && (s.scope == t.scope || !facts) && s.name == t.name && a.action != policy.Deny &&
		(a.sealed.Header == b.sealed.Header || a.sealed.Header.Key == b.sealed.Header.Key && a.sealed.Header.Namespace == b.sealed.Header.Namespace)
}

// A workflow may start a child or signal a workflow in another namespace. The
// server copies the payload there, so it has to satisfy both policies: that of
// the namespace it comes from, whose key seals it, and that of the one it is
// addressed to.

// addressed gives the namespace that a command sends a slot's payload to; ""
// if it is the request's own.
func (c *Call) addressed(s *slot) string {
	w := &c.walk
	for i := s.scope; i >= 0; i = w.scopes[i].parent {
		if at := w.scopes[i].namespace; !at.empty() {
			if name := alias(at.of(w.buf)); name != c.namespace {
				return name
			}
			return ""
		}
	}
	return ""
}

// decideRequestSlot asks the policy about a slot, and that of the namespace
// which the payload is addressed to.
func (c *Call) decideRequestSlot(ctx context.Context, s *slot, h head) (policy.Verdict, error) {
	own, err := c.decide(ctx, policy.Request, s, h)
	if err != nil || own.Action == policy.Deny {
		return own, err
	}
	target := c.addressed(s)
	if target == "" {
		return own, nil
	}
	c.in.Namespace = target
	theirs, err := c.decide(ctx, policy.Request, s, h)
	c.in.Namespace = c.namespace
	if err != nil {
		return own, err
	}
	return c.both(own, theirs, target, s)
}

// both gives the stricter of two verdicts. Whatever is sealed is sealed with a
// key of the request's namespace.
func (c *Call) both(own, theirs policy.Verdict, target string, s *slot) (policy.Verdict, error) {
	hit := own.Hit && theirs.Hit
	switch {
	case theirs.Action == policy.Deny:
		own = theirs
		own.Reason = fmt.Sprintf("%s (by the policy of the namespace %q, to which it is addressed)", theirs.Reason, target)
	case theirs.Action == policy.Redact && own.Action == policy.Pass:
		own = theirs
	case theirs.Action == policy.Seal && own.Action == policy.Pass:
		key, ok := c.r.keys.DefaultKey(c.namespace)
		if !ok {
			return own, c.fail(KindDenied, s.f.path, fmt.Errorf("the policy of the namespace %q, to which it is addressed, wants it sealed, "+
				"and no key serves the namespace %q", target, c.namespace))
		}
		own = theirs
		own.Key = key
	case theirs.Action == policy.Seal && own.Action == policy.Seal:
		own.Compress = own.Compress && theirs.Compress // lengths tell more then, so both have to want it
		if !slices.Equal(own.Fields, theirs.Fields) || !slices.Equal(own.Clear, theirs.Clear) {
			own.Fields, own.Clear = nil, nil // two choices of members: the whole payload satisfies both
		}
	}
	own.Hit = hit
	return own, nil
}
