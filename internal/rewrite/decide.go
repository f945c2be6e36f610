package rewrite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// Where the values of the policy's `input` come from (the list of members is in policy/input.go):
//
//   - namespace, rpc, caller: the call, by begin. The namespace is that of the request, or of its task (Identify in
//     session.go); for a command to another namespace also that one (evaluateBoth)
//   - payload.kind: the field in which the payload stands, by kindOf and kinds in sites.go when the plan is compiled
//     (compile.go); testdata/kinds.txt has all. A payload in a list has the kind of the list's field
//   - payload.path: that field; payload.name: the key of the map that holds the payload (Message.name in message.go)
//   - payload.encoding, type, external: the payload's metadata, by readHead below
//   - workflow.id, type, task_queue, activity.id, type: facts. In order: what the message says around the payload (walk.facts
//     in walk.go; sites.go has the fields in factFields), then the task that the request answers, which this process
//     remembers (tasks.go), or else its token, if that has a MAC (readToken in tasks.go, vouched in token.go)
//   - sealed.*: the envelope, and the grants of the config, by evaluateSealed
//   - content: the payload's data, decoded in policy/content.go only if a rule reads it

// decider evaluates the policy for the payloads of one message.
type decider struct {
	call    *call
	message *Message
	input   policy.Input
	shared  policy.Call // by the decisions about this message
}

// begin starts the decisions about a message.
func (d *decider) begin() {
	d.shared = policy.Call{Memory: d.call.meter}
	d.input = policy.Input{Namespace: d.call.namespace, RPC: d.call.method.name, Caller: d.call.caller, Call: &d.shared}
}

// facts sets the input's facts for the payloads of a slot's scope. They come from the
// message and, where it has none, from the task that the request answers. A fact that
// neither has is unknown, unless it does not apply to the field (policy.Input).
func (d *decider) facts(ctx context.Context, s *slot) {
	w, in := &d.message.walk, &d.input
	f := w.facts(s.scope)
	f.na = s.f.na
	if d.call.task != nil {
		f.add(&d.call.task.facts)
	} else if token := w.scopes[0].token; !token.empty() && !w.response {
		if _, fromToken, ok := readToken(token.of(w.buf)); ok && d.call.vouched(ctx, token.of(w.buf)) {
			f.add(&fromToken)
		}
	}
	in.WorkflowID, in.WorkflowType, in.TaskQueue = f.values[workflowID], f.values[workflowType], f.values[taskQueue]
	in.ActivityID, in.ActivityType = f.values[activityID], f.values[activityType]
	in.Known, in.NotApplicable = f.known, f.na&^f.known
}

// evaluate evaluates the policy for one slot.
func (d *decider) evaluate(ctx context.Context, direction policy.Direction, s *slot, h head) (v policy.Verdict, err error) {
	in := &d.input
	in.Kind, in.Path, in.Name = s.f.kind, s.f.path, d.message.name(s)
	in.Encoding, in.Type, in.External, in.Data = h.encoding, h.messageType, h.external, h.data
	if d.call.method.codec { // what the codec server gets has no kind
		v, err = d.call.policy.DecideApart(ctx, direction, in)
	} else if v, err = d.call.policy.Decide(ctx, direction, in); d.call.rewriter.trial.Active() {
		d.call.rewriter.trial.Compare(ctx, d.call.policy, direction, in, v, err)
	}
	if err != nil {
		kind := KindPolicy
		switch {
		case errors.Is(err, policy.ErrTooMany):
			kind = KindTooLarge
		case errors.Is(err, policy.ErrTwoSubjects), errors.Is(err, policy.ErrUnmaskable): // no other try has another outcome
			kind = KindDenied
		}
		return v, d.call.asError(kind, s.f.path, err)
	}
	return v, nil
}

// evaluateSealed evaluates the policy for a sealed value of a response.
func (d *decider) evaluateSealed(ctx context.Context, s *slot, h *envelope.Header) (policy.Verdict, error) {
	d.facts(ctx, s)
	keys := d.call.state.Keys.Current()
	d.input.Sealed.Namespace, d.input.Sealed.Key = keys.SealedIn(h.Namespace, d.call.namespace), h.Key
	d.input.Sealed.Granted = keys.Granted(h.Namespace, d.call.namespace)
	return d.evaluate(ctx, policy.Response, s, head{})
}

// evaluateBoth evaluates the policy for a slot of a request: that of the request's
// namespace, and that of the namespace to which a command addresses the payload. A
// workflow may start a child or signal a workflow in another namespace, or call a Nexus
// operation there. The server copies the payload there, so both policies apply. The key is one of the namespace
// that the payload comes from.
func (d *decider) evaluateBoth(ctx context.Context, s *slot, h head) (policy.Verdict, error) {
	own, err := d.evaluate(ctx, policy.Request, s, h)
	if err != nil || own.Action == policy.Deny {
		return own, err
	}
	target, known := d.addressed(ctx, s)
	if !known {
		return d.unknownTarget(own, s)
	}
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

// addressed returns the namespace to which a command addresses a slot's payload; ""
// if it is the request's own. known is false for a Nexus endpoint that leads to a
// namespace which is not known.
func (d *decider) addressed(ctx context.Context, s *slot) (target string, known bool) {
	w := &d.message.walk
	if sc := &w.scopes[s.scope]; sc.calls(w.buf) && (s.f.kind == policy.KindInput || s.f.kind == policy.KindText) {
		if target, known = d.call.endpoint(ctx, sc.endpoint.of(w.buf)); target == d.call.namespace {
			target = ""
		}
		return target, known
	}
	for i := s.scope; i >= 0; i = w.scopes[i].parent {
		if at := w.scopes[i].namespace; !at.empty() {
			if name := alias(at.of(w.buf)); name != d.call.namespace {
				return name, true
			}
			return "", true
		}
	}
	return "", true
}

// stricter returns the stricter of the verdicts of two namespaces, in the order that unite in policy/unite.go has for the
// rules within one. Whatever is sealed is sealed with a key of the request's namespace.
func (d *decider) stricter(own, theirs policy.Verdict, target string, s *slot) (policy.Verdict, error) {
	hit := own.Hit && theirs.Hit
	switch {
	case theirs.Action == policy.Deny:
		own = theirs
		own.Reason = fmt.Sprintf("%s (by the policy of the namespace %q, to which it is addressed)", theirs.Reason, target)
	case (theirs.Action == policy.Redact || theirs.Action == policy.Drop) && own.Action == policy.Pass:
		own = theirs
	case theirs.Action.Seals() && own.Action == policy.Accept,
		own.Action == policy.Pass && (theirs.Action.Seals() || theirs.Action == policy.Accept):
		key, ok := d.call.state.Keys.DefaultKey(d.call.namespace)
		if !ok {
			return own, d.call.fail(KindDenied, s.f.path, fmt.Errorf("the policy of the namespace %q, to which it is "+
				"addressed, requires it sealed, and no key serves the namespace %q", target, d.call.namespace))
		}
		own = theirs
		own.Key = key
		if own.Action == policy.Accept { // pass seals once more what accept takes as it is, so both hold for what is sealed
			own.Action = policy.Seal
		}
	case theirs.Action.Seals() && own.Action.Seals():
		if own.Subject.Named() && theirs.Subject.Named() && own.Subject != theirs.Subject {
			return own, d.call.fail(KindDenied, s.f.path, fmt.Errorf("%w: %s here, and %s by the policy of the namespace %q, to which it is addressed",
				policy.ErrTwoSubjects, own.Subject, theirs.Subject, target))
		}
		if theirs.Subject.Named() {
			own.Subject = theirs.Subject
		}
		if theirs.Action == policy.Mask {
			own.Action, own.Masked = policy.Mask, own.Masked.Join(theirs.Masked)
		}
		own.Compress = own.Compress && theirs.Compress // compression reveals more by lengths, so both have to allow it
		if !slices.Equal(own.Fields, theirs.Fields) || !slices.Equal(own.Clear, theirs.Clear) {
			own.Whole() // it satisfies both choices of members
		}
		if !slices.Equal(own.Optional, theirs.Optional) {
			own.Optional = nil
		}
	}
	own.Hit = hit
	return own, nil
}

// decide fills s.items with the slots of a request that change.
func (s *sealer) decide(ctx context.Context) (err error) {
	ctx, traced := s.call.startSpan(ctx, "policy.decide")
	defer func() { s.decider.endSpan(traced, err) }()
	s.items, s.last = s.items[:0], lastVerdict{}
	s.decider.begin()
	slots := s.message.walk.slots
	sampler, seen, chosen := s.call.sampler(), 0, nothing
	if sampler != nil {
		chosen = sampler.choose(len(slots))
	}
	for i := range slots {
		sl := &slots[i]
		if err := s.call.stillWanted(ctx, i); err != nil {
			return err
		}
		if i == 0 || sl.scope != slots[i-1].scope || sl.f.na != slots[i-1].f.na {
			s.decider.facts(ctx, sl)
		}
		if err := s.call.meter.take(sealCost); err != nil {
			return err
		}
		s.items = append(s.items, sealItem{slot: sl})
		v := &s.items[len(s.items)-1].verdict
		s.asked = false
		err := s.decideSlot(ctx, sl, v)
		shadowed := s.stats.Shadow
		if s.call.rewriter.shadow {
			err = s.inShadow(sl, v, err)
		}
		if err != nil {
			s.stats.Outcomes.refused(sl.f.kind, err)
			return err
		}
		if s.asked || s.stats.Shadow > shadowed {
			s.stats.Outcomes.decided(sl.f.kind, v.Action, s.stats.Shadow > shadowed)
			seen++
			if i == chosen {
				takeSample(s, sl, v, s.stats.Shadow > shadowed)
			}
		}
		if s.stats.Shadow > shadowed {
			s.items = s.items[:len(s.items)-1]
			continue
		}
		if v.Action == policy.Pass {
			s.stats.Passed++
			s.items = s.items[:len(s.items)-1]
		}
	}
	if sampler != nil {
		sampler.saw(seen)
	}
	s.decided = append(s.decided[:0], s.stats.Outcomes...)
	return nil
}

// decideSlot decides about one slot of a request, by the policy and by the rules that
// no policy can change: a payload with our marker never passes.
func (s *sealer) decideSlot(ctx context.Context, sl *slot, v *policy.Verdict) (err error) {
	v.Action = policy.Pass
	value := s.message.content(sl)
	var h head
	marked := false
	if sl.f.op == opNexusFailure || s.message.isSystem(sl) { // its parts are decided later, one by one
		v.Action = policy.Seal
		return nil
	}
	switch sl.f.op {
	case opText, opReadable:
		if len(value) == 0 {
			return nil
		}
		h.data = value
		marked = envelope.MarkedText(value)
	case opFailure:
		chain, has := s.message.failures(sl), false
		for i := range chain {
			has = has || chain[i].hasTexts()
			marked = marked || s.call.markedFailure(&chain[i], s.message.walk.buf)
		}
		if !has {
			return nil
		}
	default:
		if h, marked, err = s.call.readHead(value); err != nil {
			return s.call.fail(KindMalformed, sl.f.path, err)
		}
		if sl.memo && h.deletes() && !marked {
			if !deletion(value) {
				v.Action = policy.Drop
			}
			return nil
		}
	}
	if marked && (sl.f.op == opExempt || sl.f.op == opSearchAttribute || sl.f.op == opReadable) {
		return s.call.fail(KindDenied, sl.f.path,
			errors.New("a sealed value is not accepted in a field that stays readable"))
	}
	if sl.f.op == opExempt {
		return nil
	}
	if h.external {
		s.stats.External++
	}
	q := question{sl.f, sl.scope, s.message.name(sl), h.encoding, h.messageType, h.external}
	if s.last.verdict.Hit && s.last.question == q && !s.call.rewriter.trial.Active() {
		*v = s.last.verdict
	} else {
		if *v, err = s.decider.evaluateBoth(ctx, sl, h); err != nil {
			return err
		}
		if len(s.message.walk.slots) > 1 {
			s.last = lastVerdict{q, *v}
		}
	}
	s.asked = true
	if v.Action == policy.Mask {
		if err := mask(s, sl, v, h.external); err != nil {
			return err
		}
	}
	return s.apply(ctx, sl, v, value, marked)
}

// question is what the policy sees of a slot within one message, apart from the content of the payload.
type question struct {
	f                           *field
	scope                       int32
	name, encoding, messageType string
	external                    bool
}

// lastVerdict is the last verdict of a message. Neighbors in histories and lists often
// are the same question, and a verdict from the policy cache does not depend on the
// content of a payload.
type lastVerdict struct {
	question question
	verdict  policy.Verdict
}

// apply turns the policy's verdict on a slot into what is done: Seal, Mask, Redact, Drop or Pass.
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
		if sl.f.op == opReadable {
			return nil
		}
	case policy.Drop:
		if sl.f.op == opSearchAttribute {
			return nil
		}
	case policy.Accept:
		if sl.f.op == opPayload {
			ok, err := s.acceptable(ctx, value)
			if ok {
				v.Action = policy.Pass
			}
			if ok || err != nil {
				return err
			}
		}
		v.Action = policy.Seal
	}
	if !v.Action.Seals() || sl.f.op == opSearchAttribute || sl.f.op == opReadable {
		return s.call.fail(KindPolicy, sl.f.path,
			fmt.Errorf("the verdict %s is not one for a %s in a request", v.Action, sl.f.kind))
	}
	if marked {
		v.Whole() // so that opening removes one layer
	}
	return nil
}

// sealMarked seals a payload that the policy lets pass but that has our marker, with
// the namespace's default key.
func (s *sealer) sealMarked(sl *slot, v *policy.Verdict) error {
	key, ok := s.call.state.Keys.DefaultKey(s.call.namespace)
	if !ok {
		return s.call.fail(KindDenied, sl.f.path, fmt.Errorf("a value that bears the marker of a sealed one "+
			"can only be sealed once more, and no key serves the namespace %q", s.call.namespace))
	}
	*v = policy.Verdict{Action: policy.Seal, Key: key}
	return nil
}

// acceptable reports whether an identified caller sealed a payload itself, for this
// namespace and with a key that opens here, or encoded it with another tool before it
// moved to this one. The error is that of the meter.
func (s *sealer) acceptable(ctx context.Context, value []byte) (bool, error) {
	c := s.call
	if c.caller == nil || c.caller.Kind == "anonymous" {
		return false, nil
	}
	sealed, marked, err := envelope.ParsePayload(value)
	if err != nil {
		return false, nil
	}
	var opened []byte
	if marked {
		sealed.Ask(s.opened)
		opened, _, err = c.state.Keys.Open(ctx, s.message.arena[:0], &sealed, c.namespace, new(keyring.Run))
	} else {
		others := c.state.Foreign.For(c.namespace)
		var encoded *foreign.Sealed
		if encoded, err = others.Parse(value, &s.foreignRun); encoded == nil || err != nil {
			return false, refused(err)
		}
		opened, _, err = others.Open(ctx, s.message.arena[:0], encoded, &s.foreignRun)
	}
	if err != nil {
		return false, refused(err)
	}
	clear(opened)
	return true, nil
}

// refused returns the error of the meter, if err is one.
func refused(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return nil
}

// decide evaluates the policy for every sealed payload of a response. Payloads with
// the same input share a verdict.
func (o *opener) decide(ctx context.Context) (err error) {
	ctx, traced := o.call.startSpan(ctx, "policy.decide")
	defer func() { o.decider.endSpan(traced, err) }()
	o.decider.begin()
	facts := o.call.policy.ReadsFacts(policy.Response, o.call.namespace)
	trial := o.call.rewriter.trial.Active() // then each payload is decided about by itself
	var asked [4]*openItem                  // a history holds a few kinds of events by turns
	next := 0
	for i := range o.items {
		it := &o.items[i]
		same := func(last *openItem) bool { return last != nil && !trial && o.sameInput(last, it, facts) }
		if j := slices.IndexFunc(asked[:], same); j >= 0 {
			it.action = asked[j].action
			continue
		}
		s := it.slot
		v, err := o.decider.evaluateSealed(ctx, s, it.sealed.Header)
		if err != nil {
			return err
		}
		if o.call.method.task && (v.Action == policy.Keep || v.Action == policy.Redact) {
			v.Action = policy.Deny // a worker must get the value or nothing
		}
		if v.Action == policy.Deny {
			denied := o.denied(it, v.Reason)
			if o.whole {
				o.enterMissing(s.f.kind, it.sealed.Header, Denied, it.missing)
			}
			if err := o.keepSealed(o.call.fail(KindDenied, s.f.path, denied)); err != nil {
				return err
			}
		}
		it.action = v.Action
		asked[next%len(asked)] = it
		next++
	}
	return nil
}

// denied returns the error of a payload that the policy denies. It names the namespace that sealed the payload, where that
// is another one, and notes which permission is missing.
func (o *opener) denied(it *openItem, reason string) error {
	h, keys := it.sealed.Header, o.call.state.Keys.Current()
	from := keys.SealedIn(h.Namespace, o.call.namespace)
	if from == o.call.namespace || it.foreign != nil {
		return &DeniedError{Reason: reason}
	}
	if reason != policy.NoRuleOpens {
		return &DeniedError{Reason: fmt.Sprintf("%s (it was sealed in namespace %q)", cmp.Or(reason, "a rule"), from)}
	}
	if err := keys.MayOpen(h, o.call.namespace); err != nil {
		it.missing = missingGrant
		return err
	}
	it.missing = missingRule
	return &DeniedError{Reason: fmt.Sprintf("it was sealed in namespace %q; a grant lets namespace %q open it, but no rule of the "+
		"policy does: add one with the condition input.sealed.granted", from, o.call.namespace)}
}

// sameInput reports whether the policy would get the same input for both. facts
// reports whether it can read facts, which depend on the scope.
func (o *opener) sameInput(a, b *openItem, facts bool) bool {
	s, t := a.slot, b.slot
	h, k := a.sealed.Header, b.sealed.Header
	return s.f == t.f && (s.scope == t.scope || !facts) && s.name == t.name && a.action != policy.Deny &&
		(h == k || h.Key == k.Key && h.Namespace == k.Namespace)
}

// head is what a policy can read of a payload.
type head struct {
	encoding, messageType string
	external              bool // a reference to a value in external storage of an SDK
	data                  []byte
	failureTexts          string // the form of a document with the texts of failures
}

// plainHead is the start of the JSON payloads that SDKs write: the metadata, and the
// tag of the data.
const plainHead = "\x0a\x16\x0a\x08encoding\x12\x0ajson/plain\x12"

// readPlain reads such a payload in a fraction of readHead's time. It has no marker.
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

// marked reports whether a payload would be opened in a response: it has our marker,
// or that of another tool whose payloads this namespace reads.
func (c *call) marked(payload []byte) bool {
	return envelope.Marked(payload) || c.state.Foreign.Marked(payload)
}

// readHead reads a serialized Payload and reports whether it has a marker.
func (c *call) readHead(payload []byte) (h head, marked bool, err error) {
	if h, ok := readPlain(payload); ok {
		return h, false, nil
	}
	if h, err = parseHead(payload); err != nil {
		return h, false, fmt.Errorf("the bytes are not a Payload: %w", err)
	}
	return h, c.marked(payload), nil
}

// parseHead reads any serialized Payload. The last of repeated entries counts, as in
// every decoder.
func parseHead(payload []byte) (h head, err error) {
	r := wire.Read(payload)
	for r.Next() {
		switch {
		case !r.Bytes():
		case r.Number() == 2:
			h.data = r.Value()
		case r.Number() == 3:
			h.external = true
		case r.Number() == 1:
			key, value := readEntry(r.Value())
			switch string(key) {
			case "encoding":
				h.encoding = alias(value)
			case "messageType":
				h.messageType = alias(value)
			case failureTextsKey:
				h.failureTexts = alias(value)
			}
		}
	}
	h.external = h.external || h.encoding == "json/external-storage-reference" ||
		h.encoding == "json/protobuf" && h.messageType == "temporal.api.sdk.v1.ExternalStorageReference"
	return h, r.Err()
}

// readEntry reads an entry of a map of strings or bytes. It ignores errors: the
// server refuses such a message.
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

// deletes reports whether the server deletes a memo's key for this value:
// common/payload.MergeMapOfPayload in its source.
func (h *head) deletes() bool {
	switch string(h.data) {
	case "", "null", "[]":
		return true
	}
	return false
}

// deletion reports whether a payload that deletes a memo's key holds nothing else: one metadata entry, for an encoding
// that SDKs use for empty values, and the empty value.
func deletion(payload []byte) bool {
	entries := 0
	r := wire.Read(payload)
	for r.Next() {
		if r.Number() == 2 && r.Bytes() {
			continue
		}
		key, value := readEntry(r.Value())
		known := string(value) == "binary/null" || string(value) == "json/plain"
		exact := len(r.Value()) == len(key)+len(value)+4 // two tags and two short lengths
		if r.Number() != 1 || !r.Bytes() || string(key) != "encoding" || !known || !exact {
			return false
		}
		entries++
	}
	return r.Err() == nil && entries <= 1
}

// alias returns a string over the bytes of a message, without a copy.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
