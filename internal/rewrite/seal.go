package rewrite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// sealer seals the request of a session. It finds payloads, has the policy decide
// about them, and seals them.
type sealer struct {
	call       *call
	message    Message
	decider    decider
	last       lastVerdict
	items      []sealItem
	nonces     envelope.Nonces // of this message alone
	foreignRun foreign.Run
	opened     func(n int) error // counts what is decompressed; it outlasts the session
	stats      *Stats            // of the session
	asked      bool              // the policy has decided about the slot
	decided    Outcomes          // of the slots, without those of nested messages
}

// sealItem is one slot of a request that changes, and what was decided about it:
// Seal or Mask, Redact for a readable text, or Drop for a search attribute or a memo's field that is deleted.
type sealItem struct {
	slot    *slot
	verdict policy.Verdict
	subject []byte // whose key seals it; nil: that of none
	masked  []byte // what is sealed in the place of the slot's payload; nil: that is
	key     *keyring.Sealer
	seal    keyring.Envelope
	size    int // that it has to fit, since the server would refuse the message otherwise; 0: any
}

var errNoNamespace = errors.New("the request contains a payload but names no namespace, so no key can be chosen; " +
	"set the namespace in the SDK's client options")

// reset prepares the memory for the next session.
func (s *sealer) reset() {
	s.message.reset(s.stats.Passed == 0 && s.stats.Payloads > 0)
	clear(s.items)
	s.items = boundedList(s.items)
	s.nonces.Reset()
	s.last = lastVerdict{}
	s.decider.input, s.foreignRun = policy.Input{}, foreign.NewRun(s.opened)
	s.stats, s.call, s.decider.call, s.message.walk.meter = nil, nil, nil, nil
}

// Request seals what the policy requires. It returns `in` itself if nothing changed;
// otherwise the bytes are valid until Done. After an error nothing may be forwarded.
func (s *Session) Request(ctx context.Context, in []byte) ([]byte, error) {
	sealer := s.call.rewriter.sealerOf(s)
	s.meter.begin(s.call.method.name, len(in))
	if s.call.mac != nil {
		var err error
		if in, err = takeOffMAC(s, in); err != nil {
			return nil, err
		}
	}
	if err := sealer.find(in); err != nil {
		return sealer.unfound(in, err)
	}
	if err := sealer.withinReach(ctx); err != nil {
		return nil, err
	}
	w := &sealer.message.walk
	if w.unknown > 0 {
		sealer.call.rewriter.logUnknown(sealer.call.method.full[1:], w.unknown)
	}
	if len(w.slots) == 0 {
		return s.call.rewriter.takeBack(s), nil
	}
	if err := sealer.decide(ctx); err != nil {
		return nil, err
	}
	if len(sealer.items) == 0 {
		return s.call.rewriter.takeBack(s), nil
	}
	return sealer.seal(ctx)
}

// find walks the request.
func (s *sealer) find(in []byte) error {
	m := s.call.method
	return s.message.find(m, m.request, in, false, s.call.rewriter.strict)
}

// withinReach checks each namespace in which the request acts. Messages that only
// mention another namespace, such as links, hold nothing to seal and are not among
// the scopes.
func (s *sealer) withinReach(ctx context.Context) error {
	if s.call.reaches == nil {
		return nil
	}
	w := &s.message.walk
	for i := range w.scopes {
		if err := s.call.reachesEndpoint(ctx, w, &w.scopes[i]); err != nil {
			return err
		}
		name := alias(w.scopes[i].namespace.of(w.buf))
		if name == "" || name == s.call.namespace || s.call.reaches(strings.Clone(name)) {
			continue
		}
		return s.call.fail(KindDenied, "namespace", fmt.Errorf("it acts in the namespace %q, which this caller does not reach", name))
	}
	return nil
}

// seal seals every decided slot or none: the first failure ends the call.
func (s *sealer) seal(ctx context.Context) (out []byte, err error) {
	seals := func(it sealItem) bool { return it.verdict.Action.Seals() }
	if s.call.namespace == "" && slices.ContainsFunc(s.items, seals) {
		return nil, s.call.fail(KindMalformed, "namespace", errNoNamespace)
	}
	ctx, traced := s.call.startSpan(ctx, "payload.seal")
	defer func() { endSpan(traced, err, s.stats) }()
	m := &s.message
	s.nonces.Expect(len(s.items))
	external := s.stats.External
	if err := s.planEdits(ctx); err != nil {
		return nil, err
	}
	if len(m.edits) == 0 {
		return m.walk.buf, nil
	}
	growth := m.measure()
	if s.fitWhatCrosses(growth) {
		s.stats.External = external
		if err := s.planEdits(ctx); err != nil {
			return nil, err
		}
		growth = m.measure()
		if err := s.tooLarge(growth); err != nil {
			return nil, err
		}
	}
	if err := s.call.meter.take(max(growth, 0)); err != nil {
		return nil, err
	}
	m.out.reset(len(m.walk.buf) + growth)
	if _, err = m.splice(true, s.put); err != nil {
		return nil, err
	}
	return m.out.bytes(), nil
}

// put seals a payload to the output, as splice requires.
func (s *sealer) put(e *edit) (bool, error) {
	out, size := &s.message.out, int(e.size)
	b, err := s.items[e.item].seal.AppendPayload(out.reserve(size), e.at.of(s.message.walk.buf), false, &s.nonces)
	if err != nil {
		return false, s.call.fail(KindSealing, "", err)
	}
	if len(b) != size {
		return false, s.call.fail(KindSealing, "", errors.New("a sealed payload has not the size that was reckoned with"))
	}
	out.at -= size
	return true, nil
}

// planEdits plans the edits for all items.
func (s *sealer) planEdits(ctx context.Context) (err error) {
	m := &s.message
	m.clearEdits()
	s.stats.Payloads, s.stats.Bytes, s.stats.Passed = 0, 0, len(m.walk.slots)-len(s.items)-s.stats.Shadow
	s.stats.NotFound, s.stats.NotAnArray, s.stats.Unattributed = 0, 0, 0
	s.stats.Outcomes = append(s.stats.Outcomes[:0], s.decided...)
	var last *sealItem
	for i := range s.items {
		if err := s.call.stillWanted(ctx, i); err != nil {
			return err
		}
		it := &s.items[i]
		sl := it.slot
		switch {
		case it.verdict.Action == policy.Redact:
			m.replace(sl, []byte(redactedReason))
			continue
		case it.verdict.Action == policy.Drop:
			m.replace(sl, emptied(sl, m.content(sl)))
			continue
		case sl.f.op == opNexusFailure:
			err = s.sealNexusFailure(ctx, sl)
		case m.isSystem(sl):
			err = s.sealSystem(ctx, sl)
		default:
			if err := s.planSeal(ctx, i, last); err != nil {
				return s.call.asError(KindSealing, sl.f.path, err)
			}
			last = it
		}
		if err != nil {
			return s.call.asError(KindMalformed, sl.f.path, err)
		}
	}
	return nil
}

// plainOf returns the bytes of an item that are sealed.
func plainOf(s *sealer, it *sealItem) []byte {
	if it.masked != nil {
		return it.masked
	}
	return s.message.content(it.slot)
}

// redactedReason replaces a reason that the policy redacts.
const redactedReason = "[redacted]"

// emptied returns a payload without its value, as SDKs write it to delete a field of the memo or a search attribute
// (binary/null). The entry itself stays: it is what deletes, and the server refuses an upsert without one. The type of a
// search attribute stays too.
func emptied(sl *slot, payload []byte) []byte {
	out := []byte("\x0a\x17\x0a\x08encoding\x12\x0bbinary/null")
	if sl.f.op != opSearchAttribute {
		return out
	}
	for r := wire.Read(payload); r.Next(); {
		if r.Number() != 1 || !r.Bytes() {
			continue
		}
		if key, _ := readEntry(r.Value()); string(key) == "type" {
			_, to := r.Bounds()
			out = append(out, payload[r.At():to]...)
		}
	}
	return out
}

// planSeal plans the edits for one slot that is sealed. last is the item before it,
// whose key is reused if it is the same.
func (s *sealer) planSeal(ctx context.Context, item int, last *sealItem) (err error) {
	m, it := &s.message, &s.items[item]
	sl, v := it.slot, &it.verdict
	var hit bool
	if it.key, hit, err = keyFor(ctx, s, it, last); err != nil {
		return err
	}
	if !it.seal.Of(it.key) { // a second plan keeps the form of the first
		it.seal = it.key.Envelope()
	}
	plain := plainOf(s, it)
	s.stats.used(v.Key, len(plain), hit)
	if it.subject == nil && policy.NamesSubjects(s.call.policy, s.call.namespace) {
		s.stats.Unattributed++
	}
	var external []byte // stays readable behind the envelope
	if sl.f.op == opPayload {
		if _, ordinary := readPlain(plain); !ordinary {
			external = appendExternal(nil, plain)
		}
	}
	switch {
	case sl.f.op == opFailure:
		return s.sealFailure(item)
	case sl.f.summary && len(plain) <= maxSummary && it.seal.PayloadSize(len(plain)) > maxSummary:
		return s.sealSummary(sl, it.seal)
	case sl.f.op == opPayload && !v.Compress && it.size == 0 && it.masked == nil && len(v.Fields)+len(v.Clear)+len(external) == 0:
		m.editItem(sl, item, it.seal.PayloadSize(len(plain)))
		return nil
	}
	from := len(m.arena)
	if err := s.call.meter.take(4 * it.seal.PayloadSize(len(plain))); err != nil {
		return err
	}
	m.arena = slices.Grow(m.arena, 2*it.seal.PayloadSize(len(plain))) // in growing steps, unlike the keyring
	switch {
	case sl.f.op == opText:
		if !utf8.Valid(plain) {
			return errors.New("the text is not UTF-8, which protobuf requires of a string")
		}
		m.arena, err = it.seal.AppendText(m.arena, plain, &s.nonces)
	case it.size > 0:
		m.arena, err = appendFitting(m.arena, plain, it.size-len(external), it.seal, &s.nonces)
	case v.Compress:
		m.arena, err = it.seal.AppendPayload(m.arena, plain, true, &s.nonces)
	default:
		var why envelope.Mismatch
		m.arena, why, err = it.seal.AppendView(m.arena, plain,
			envelope.Selection{Fields: v.Fields, Optional: v.MayMiss(), Clear: v.Clear}, &s.nonces)
		s.stats.unmatched(why)
	}
	m.arena = append(m.arena, external...)
	m.edit(m.place(sl), sl.box, m.added(from))
	return err
}

// keyFor returns the sealer of an item, and whether its data key was at hand. last is the item before it, whose key is reused if it
// is the same.
func keyFor(ctx context.Context, s *sealer, it, last *sealItem) (key *keyring.Sealer, hit bool, err error) {
	v, c := &it.verdict, s.call
	if v.Subject.Named() && it.subject == nil {
		if it.subject, err = subjectOf(ctx, s, it.slot, v.Subject); err != nil {
			return nil, false, err
		}
	}
	switch {
	case last != nil && last.verdict.Key == v.Key && bytes.Equal(last.subject, it.subject):
		return last.key, true, nil
	case it.subject == nil:
		if c.state.Keys.Current().RequiresSubject(c.namespace, v.Key) {
			return nil, false, c.fail(KindDenied, it.slot.f.path, fmt.Errorf("the config requires a subject for the key %q, and no rule names one", v.Key))
		}
		return c.state.Keys.Sealer(ctx, c.namespace, v.Key)
	}
	key, hit, err = c.state.Keys.Subjects().Sealer(ctx, c.namespace, v.Key, it.subject)
	if crypto.KindOf(err) == crypto.KindErased { // it stays so
		err = c.fail(KindDenied, it.slot.f.path, err)
	}
	return key, hit, err
}

// appendFitting appends a payload, sealed and not longer than size: compressed, and padded to that size, so that its length
// shows nothing of its content. If that is not possible, it is not compressed.
func appendFitting(dst, payload []byte, size int, key keyring.Envelope, nonces *envelope.Nonces) ([]byte, error) {
	dst, ok, err := key.AppendWithin(dst, payload, size, nonces)
	if ok || err != nil {
		return dst, err
	}
	return key.AppendPayload(dst, payload, false, nonces)
}

// leastFitted is the size of the smallest payload that is compressed to fit a limit, in bytes. A smaller one would not
// become shorter than it is in clear.
const leastFitted = 1 << 10

// fitWhatCrosses gives sizes to items that make a field or the message exceed a limit which
// it keeps in clear. They are compressed and padded to these sizes. It reports whether
// there are any. The server would terminate a workflow for a message that passes
// without the proxy.
func (s *sealer) fitWhatCrosses(growth int) bool {
	m, fitted := &s.message, false
	if m.crosses(growth) {
		fitted = s.fit(growth, maxMessage-len(m.walk.buf), func(*slot) bool { return true })
	}
	for i := range m.walk.boxes {
		if b := &m.walk.boxes[i]; b.crosses() {
			fitted = s.fit(int(b.delta), int(maxField-(b.end-b.start)), func(sl *slot) bool { return m.crossing(sl) == b }) || fitted
		}
	}
	return fitted
}

// fit gives sizes to the items that are within a field or the message, which grows by growth if nothing is compressed, so
// that it becomes no longer than it is in clear: of a message just below the limit the server makes events just below
// another limit. What the small items need is taken from the large ones, in proportion. The sizes depend on the sizes in
// clear alone. room is what is left below the limit in clear: masks that are longer than their values may exceed it.
func (s *sealer) fit(growth, room int, within func(*slot) bool) bool {
	const margin = 64 // a length may take a byte more
	sealed := growth
	large, overhead, found := 0, 0, false
	for i := range s.items {
		it := &s.items[i]
		n := len(plainOf(s, it))
		if within(it.slot) {
			growth += len(s.message.content(it.slot)) - n // or the size would tell the length of what is masked
		}
		if within(it.slot) && it.fits(n) {
			large, overhead = large+n, overhead+it.seal.PayloadSize(n)-n
		}
	}
	missing := max(growth-overhead+margin, 0) + max(sealed-growth-room, 0)
	for i := range s.items {
		it := &s.items[i]
		if n := len(plainOf(s, it)); within(it.slot) && it.fits(n) {
			size := max(n-int(int64(missing)*int64(n)/int64(large))-1, 1)
			if it.size == 0 || size < it.size {
				it.size, found = size, true
			}
		}
	}
	return found
}

// fits reports whether an item of n bytes in clear can be compressed to fit.
func (it *sealItem) fits(n int) bool {
	return it.verdict.Action.Seals() && it.key != nil && n >= leastFitted && (it.slot.f.op == opPayload || it.slot.f.op == opFailure)
}
