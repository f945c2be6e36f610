package rewrite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// decider asks the policy about the payloads of one message.
type decider struct {
	call    *call
	message *Message
	input   policy.Input
}

// begin starts the decisions about a message.
func (d *decider) begin() {
	d.input = policy.Input{Namespace: d.call.namespace, RPC: d.call.method.name, Caller: d.call.caller}
}

// facts fills in what is known about the payloads of a slot's scope: from the message, and where that has nothing, from
// the task that a request answers.
func (d *decider) facts(s *slot) {
	w, in := &d.message.walk, &d.input
	values := [...]*string{&in.WorkflowID, &in.WorkflowType, &in.TaskQueue, &in.ActivityID, &in.ActivityType}
	in.Known, in.NotApplicable = 0, s.f.na
	for i := s.scope; i >= 0; i = w.scopes[i].parent {
		sc := &w.scopes[i]
		for fresh := sc.known &^ in.Known; fresh != 0; fresh &= fresh - 1 {
			*values[bitOf(fresh)] = alias(sc.facts[bitOf(fresh)].of(w.buf))
		}
		in.Known |= sc.known
	}
	t := d.call.task
	if root := &w.scopes[0]; t == nil && !root.token.empty() && !w.response {
		if _, fromToken, ok := readToken(root.token.of(w.buf)); ok {
			t = &fromToken
		}
	}
	if t != nil {
		for fresh := t.known &^ in.Known; fresh != 0; fresh &= fresh - 1 {
			*values[bitOf(fresh)] = t.values[bitOf(fresh)]
		}
		in.Known |= t.known
		in.NotApplicable |= t.na
	}
	in.NotApplicable &^= in.Known
}

// ask asks the policy about one slot.
func (d *decider) evaluate(ctx context.Context, direction policy.Direction, s *slot, h head) (policy.Verdict, error) {
	in := &d.input
	in.Kind, in.Path, in.Name = s.f.kind, s.f.path, d.message.name(s)
	in.Encoding, in.Type, in.Data = h.encoding, h.messageType, h.data
	decide := d.call.policy.Decide
	if d.call.method.apart {
		decide = d.call.policy.DecideApart
	}
	v, err := decide(ctx, direction, in)
	if err != nil {
		return v, d.call.fail(KindPolicy, s.f.path, err)
	}
	return v, nil
}

// evaluateSealed asks the policy about a sealed value in an answer.
func (d *decider) evaluateSealed(ctx context.Context, s *slot, h *envelope.Header) (policy.Verdict, error) {
	d.facts(s)
	d.input.SealedNamespace, d.input.SealedKey = h.Namespace, h.Key
	return d.evaluate(ctx, policy.Response, s, head{})
}

// evaluateBoth asks the policy about a slot of a request, and that of the namespace
// which the payload is addressed to. A workflow may start a child or signal a
// workflow in another namespace. The server copies the payload there, so it has
// to satisfy both policies: that of the namespace it comes from, whose key seals
// it, and that of the one it is addressed to.
func (d *decider) evaluateBoth(ctx context.Context, s *slot, h head) (policy.Verdict, error) {
	own, err := d.evaluate(ctx, policy.Request, s, h)
	if err != nil || own.Action == policy.Deny {
		return own, err
	}
	target := d.addressed(s)
	if target == "" {
		return own, nil
	}
	d.input.Namespace = target
	theirs, err := d.evaluate(ctx, policy.Request, s, h)
	d.input.Namespace = d.call.namespace
	if err != nil {
		return own, err
	}
	return d.stricter(own, theirs, target, s)
}

// addressed returns the namespace that a command sends a slot's payload to; ""
// if it is the request's own.
func (d *decider) addressed(s *slot) string {
	w := &d.message.walk
	for i := s.scope; i >= 0; i = w.scopes[i].parent {
		if at := w.scopes[i].namespace; !at.empty() {
			if name := alias(at.of(w.buf)); name != d.call.namespace {
				return name
			}
			return ""
		}
	}
	return ""
}

// both returns the stricter of two verdicts. Whatever is sealed is sealed with a
// key of the request's namespace.
func (d *decider) stricter(own, theirs policy.Verdict, target string, s *slot) (policy.Verdict, error) {
	hit := own.Hit && theirs.Hit
	switch {
	case theirs.Action == policy.Deny:
		own = theirs
		own.Reason = fmt.Sprintf("%s (by the policy of the namespace %q, to which it is addressed)", theirs.Reason, target)
	case theirs.Action == policy.Redact && own.Action == policy.Pass:
		own = theirs
	case theirs.Action == policy.Seal && own.Action == policy.Pass:
		key, ok := d.call.state.Keys.DefaultKey(d.call.namespace)
		if !ok {
			return own, d.call.fail(KindDenied, s.f.path, fmt.Errorf("the policy of the namespace %q, to which it is addressed, wants it sealed, "+
				"and no key serves the namespace %q", target, d.call.namespace))
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

// decide fills s.items with the slots of a request that are to change.
func (s *sealer) decide(ctx context.Context) (err error) {
	ctx, traced := s.call.startSpan(ctx, "policy.decide")
	defer func() { s.decider.endSpan(traced, err) }()
	s.items, s.last.f = s.items[:0], nil
	s.decider.begin()
	slots := s.message.walk.slots
	for i := range slots {
		sl := &slots[i]
		if i == 0 || sl.scope != slots[i-1].scope || sl.f.na != slots[i-1].f.na {
			s.decider.facts(sl)
		}
		s.items = append(s.items, sealItem{slot: int32(i)})
		v := &s.items[len(s.items)-1].verdict
		if err := s.decideSlot(ctx, sl, v); err != nil {
			return err
		}
		if v.Action == policy.Pass {
			s.stats.Passed++
			s.items = s.items[:len(s.items)-1]
		}
	}
	return nil
}

// decideSlot asks the policy about one slot of a request and applies the
// rules that no policy can change: what bears our mark never passes.
func (s *sealer) decideSlot(ctx context.Context, sl *slot, v *policy.Verdict) (err error) {
	v.Action = policy.Pass
	value := s.message.content(sl)
	var h head
	marked := false
	if sl.f.op == opNexusFailure || s.message.isSystem(sl) { // decided about piece by piece, when it is taken apart
		v.Action = policy.Seal
		return nil
	}
	switch sl.f.op {
	case opText, opReason:
		if len(value) == 0 {
			return nil
		}
		h.data = value
		marked = envelope.MarkedText(value)
	case opFailure:
		if !s.message.hasTexts(sl) {
			return nil
		}
		marked = s.call.markedFailure(s.message.failures(sl), s.message.walk.buf)
	default:
		if h, marked, err = s.call.readHead(value); err != nil {
			return s.call.fail(KindMalformed, sl.f.path, err)
		}
		if sl.memo && h.deletes() && !marked {
			return nil
		}
	}
	if marked && (sl.f.op == opExempt || sl.f.op == opSearchAttribute || sl.f.op == opReason) {
		return s.call.fail(KindDenied, sl.f.path, errors.New("a sealed value is not accepted in a field that stays readable"))
	}
	if sl.f.op == opExempt {
		return nil
	}
	if name := s.message.name(sl); s.last.answers(sl, &h, name) {
		*v = s.last.verdict
	} else {
		if *v, err = s.decider.evaluateBoth(ctx, sl, h); err != nil {
			return err
		}
		if len(s.message.walk.slots) > 1 {
			s.last = lastVerdict{sl.f, sl.scope, name, h.encoding, h.messageType, *v}
		}
	}
	return s.apply(ctx, sl, v, value, marked)
}

// question is what the policy was asked last in a message. Histories and lists
// hold many neighbours of which it would be told the same.
type lastVerdict struct {
	f                           *field
	scope                       int32
	name, encoding, messageType string
	verdict                     policy.Verdict
}

// again reports whether the policy would be asked the same once more. A verdict
// that came from its memory depends on no payload's content.
func (l *lastVerdict) answers(s *slot, h *head, name string) bool {
	return l.verdict.Hit && l.f == s.f && l.scope == s.scope && l.name == name && l.encoding == h.encoding && l.messageType == h.messageType
}

// apply turns the policy's verdict on a slot into what is done: Seal, Redact or Pass.
func (s *sealer) apply(ctx context.Context, sl *slot, v *policy.Verdict, value []byte, marked bool) error {
	switch v.Action {
	case policy.Deny:
		return s.call.fail(KindDenied, sl.f.path, &DeniedError{Reason: v.Reason})
	case policy.Pass:
		if marked { // a stolen ciphertext must not come back as clear text
			return s.sealMarked(sl, v)
		}
		return nil
	case policy.Redact:
		if sl.f.op == opReason {
			return nil
		}
	case policy.Accept:
		if sl.f.op == opPayload && s.acceptable(ctx, value) {
			v.Action = policy.Pass
			return nil
		}
		v.Action = policy.Seal
	}
	if v.Action != policy.Seal || sl.f.op == opSearchAttribute || sl.f.op == opReason {
		return s.call.fail(KindPolicy, sl.f.path, fmt.Errorf("the verdict %s is not one for a %s in a request", v.Action, sl.f.kind))
	}
	if marked {
		v.Fields, v.Clear = nil, nil // sealed whole, so that opening takes off one layer
	}
	return nil
}

// sealMarked seals a payload that a policy would let pass, but that bears our
// mark, with the namespace's default key.
func (s *sealer) sealMarked(sl *slot, v *policy.Verdict) error {
	key, ok := s.call.state.Keys.DefaultKey(s.call.namespace)
	if !ok {
		return s.call.fail(KindDenied, sl.f.path, fmt.Errorf("a value that bears the mark of a sealed one can only be sealed "+
			"once more, and no key serves the namespace %q", s.call.namespace))
	}
	*v = policy.Verdict{Action: policy.Seal, Key: key}
	return nil
}

// acceptable reports whether a worker sealed a payload itself, for this
// namespace, with a key that opens here; or encoded it by another tool, as one
// does that has not moved yet.
func (s *sealer) acceptable(ctx context.Context, value []byte) bool {
	c := s.call
	if c.caller == nil || c.caller.Kind == "anonymous" {
		return false
	}
	sealed, marked, err := envelope.ParsePayload(value)
	if err != nil {
		return false
	}
	if !marked {
		return s.acceptableForeign(ctx, value)
	}
	opened, _, err := c.state.Keys.Open(ctx, s.message.arena[:0], &sealed, c.namespace)
	if err != nil {
		return false
	}
	clear(opened)
	return true
}

func (s *sealer) acceptableForeign(ctx context.Context, value []byte) bool {
	n := s.call.state.Foreign.For(s.call.namespace)
	if n == nil {
		return false
	}
	sealed, err := n.Parse(value, &s.foreignRun)
	if sealed == nil || err != nil {
		return false
	}
	opened, _, err := n.Open(ctx, s.message.arena[:0], sealed, &s.foreignRun)
	if err != nil {
		return false
	}
	clear(opened)
	return true
}

// decide asks the policy about every sealed payload of an answer. Neighbours of
// which it would be told the same have the same verdict.
func (o *opener) decide(ctx context.Context) (err error) {
	ctx, traced := o.call.startSpan(ctx, "policy.decide")
	defer func() { o.decider.endSpan(traced, err) }()
	o.decider.begin()
	facts := o.call.policy.ReadsFacts(policy.Response, o.call.namespace)
	var asked [4]*openItem // a history holds a few kinds of events, in turns
	next := 0
	for i := range o.items {
		it := &o.items[i]
		if j := slices.IndexFunc(asked[:], func(last *openItem) bool { return last != nil && o.sameInput(last, it, facts) }); j >= 0 {
			it.action = asked[j].action
			continue
		}
		s := o.slot(it)
		v, err := o.decider.evaluateSealed(ctx, s, it.sealed.Header)
		if err != nil {
			return err
		}
		if o.call.method.task && (v.Action == policy.Keep || v.Action == policy.Redact) {
			v.Action = policy.Deny // a worker must get the value or nothing
		}
		if v.Action == policy.Deny {
			if o.whole {
				o.enter(s.f.kind, it.sealed.Header, Denied)
			}
			if err := o.unopened(o.call.fail(KindDenied, s.f.path, &DeniedError{Reason: v.Reason})); err != nil {
				return err
			}
		}
		it.action = v.Action
		asked[next%len(asked)] = it
		next++
	}
	return nil
}

// sameInput reports whether the policy would be told the same of both. With facts it can read those of the scope.
func (o *opener) sameInput(a, b *openItem, facts bool) bool {
	s, t := o.slot(a), o.slot(b)
	return s.f == t.f && (s.scope == t.scope || !facts) && s.name == t.name && a.action != policy.Deny &&
		(a.sealed.Header == b.sealed.Header || a.sealed.Header.Key == b.sealed.Header.Key && a.sealed.Header.Namespace == b.sealed.Header.Namespace)
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
	size, at := wire.Varint(payload, len(plainHead), len(payload))
	if at < 0 || size != uint64(len(payload)-at) {
		return h, false
	}
	return head{encoding: "json/plain", data: payload[at:]}, true
}

// marked reports whether an answer's copy of a payload would be opened: it bears
// our mark, or that of another tool whose payloads are read here.
func (c *call) marked(payload []byte) bool {
	return envelope.Marked(payload) || c.state.Foreign.Marked(payload)
}

// readHead reads a serialized Payload and reports whether it is marked. Of
// repeated entries the last counts, as for everyone who decodes it.
func (c *call) readHead(payload []byte) (h head, marked bool, err error) {
	if h, ok := readPlain(payload); ok {
		return h, false, nil
	}
	r := wire.Read(payload)
	for r.Next() {
		switch {
		case !r.Bytes():
		case r.Number() == 2:
			h.data = r.Value()
		case r.Number() == 1:
			key, value := readEntry(r.Value())
			switch string(key) {
			case "encoding":
				h.encoding = alias(value)
			case "messageType":
				h.messageType = alias(value)
			}
		}
	}
	if r.Err() != nil {
		return h, false, fmt.Errorf("the bytes are not a Payload: %w", r.Err())
	}
	return h, c.marked(payload), nil
}

// readEntry reads an entry of a map of strings or bytes. A broken one breaks
// the message for the server as well; sealed it does no harm.
func readEntry(entry []byte) (key, value []byte) {
	for r := wire.Read(entry); r.Next(); {
		switch {
		case !r.Bytes():
		case r.Number() == 1:
			key = r.Value()
		case r.Number() == 2:
			value = r.Value()
		}
	}
	return key, value
}

// deletes reports whether the server takes a memo's value as the wish to delete
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
