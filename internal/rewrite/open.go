package rewrite

import (
	"context"
	"errors"
	"iter"
	"slices"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

const (
	// redactedText replaces a value that the caller may not read. redactedPayload holds
	// it as a JSON string, which every SDK can decode.
	redactedText    = "[sealed]"
	redactedPayload = "\x0a\x16\x0a\x08encoding\x12\x0ajson/plain\x12\x0a\"[sealed]\""
)

// opener opens the response of a session. It finds what is sealed, has the policy
// decide about it, and opens it.
type opener struct {
	call    *call
	message Message
	decider decider
	whole   bool // everything has to open, or the response fails
	items   []openItem
	systems []*slot         // slots with inputs of operations that the server runs itself
	headers envelope.Reader // of the envelopes of items
	run     keyring.Run
	ahead   iter.Seq[*envelope.Sealed] // toOpen
	// foreign reads payloads of other tools in the namespace of the call; nil: there are none.
	foreign    *foreign.Namespace
	foreignRun foreign.Run
	opened     func(n int) error // counts what is decompressed; it outlasts the session
	stats      Stats
	account    account
	unopened   []Unopened // values, by reason
	chosen     int        // the item of which a sample is taken
}

// openItem is one sealed payload of a response, and what was decided about it.
type openItem struct {
	slot    *slot
	failure int32 // in a chain of failures: the index of the one with the envelope
	action  policy.Action
	gone    bool   // its key was destroyed, and the caller gets a placeholder
	missing string // to open it, if the policy denies it and its namespace is another one
	size    int    // of the sealed payload; its content is shorter, unless it is compressed
	sealed  envelope.Sealed
	foreign *foreign.Sealed // payload of another tool; sealed then holds only what the policy reads
}

// destroyed returns why the key of a payload is gone, if the caller gets a placeholder for that.
func (it *openItem) destroyed() (envelope.Destroyed, bool) {
	if !it.gone {
		return envelope.Destroyed{}, false
	}
	return it.sealed.Header.Destroyed()
}

// reset prepares the memory for the next session.
func (o *opener) reset() {
	o.message.reset(false)
	clear(o.items)
	clear(o.systems)
	o.items, o.systems = boundedList(o.items), boundedList(o.systems)
	o.headers.Reset()
	o.decider.input, o.run = policy.Input{}, keyring.Run{}
	o.foreign, o.foreignRun = nil, foreign.Run{}
	clear(o.unopened)
	o.unopened, o.account = o.unopened[:0], o.account[:0]
	o.stats.reset()
	o.call, o.decider.call, o.message.walk.meter = nil, nil, nil
}

// Response opens what the policy allows this caller to read. It returns `in` itself
// if nothing changed; otherwise the bytes are valid until Done.
func (s *Session) Response(ctx context.Context, in []byte) ([]byte, error) {
	o := s.opening()
	o.account, o.unopened, o.stats.Outcomes = o.account[:0], o.unopened[:0], o.stats.Outcomes[:0]
	o.run = keyring.Run{} // a task that is held is tried again, and its keys may be there by now
	m := o.call.method
	s.meter.begin(m.name, len(in))
	if m.limits {
		return o.call.lowerLimits(ctx, in)
	}
	out, err := o.open(ctx, m.response, in, m.whole)
	if err != nil {
		o.account.withhold()
		o.stats.Outcomes.Withhold()
	}
	return out, err
}

// Status opens what an error response holds: failures in the details of queries and
// multi-operations, and the sealed message of a failed query. What does not open
// stays as it is, since nothing may replace the real error.
func (s *Session) Status(ctx context.Context, st *spb.Status) *spb.Status {
	o, out := s.opening(), st
	o.run = keyring.Run{}
	if len(st.GetDetails()) > 0 {
		if raw, err := proto.Marshal(st); err == nil {
			changed, err := o.open(ctx, o.call.method.plan.status, raw, false)
			if err == nil {
				opened := new(spb.Status)
				if proto.Unmarshal(changed, opened) == nil {
					out = opened
				}
			} else if len(o.unopened) == 0 { // a message or a policy that fails as a whole
				o.noteUnopened(err, 1)
			}
			if out == st {
				o.account.withhold()
			}
		}
	}
	// The message of a failed query is exactly what its worker wrote. A sealed text within a longer message is not
	// opened: it may be a quotation, such as the id of a workflow that was requested.
	if o.call.method.name == "QueryWorkflow" {
		if text, ok := o.wholeText(ctx, []byte(out.GetMessage())); ok {
			out = proto.CloneOf(out)
			out.Message = string(text)
		}
	}
	return out
}

// open opens a message of the server.
//
// If whole is true, it fails unless everything opens, since a worker must never get
// ciphertext in the place of a value. Otherwise, what does not open stays sealed, so
// that one bad payload does not hide the others. The result of an update or query
// fails if it does not open for now, since its caller tries again.
func (o *opener) open(ctx context.Context, root *node, in []byte, whole bool) ([]byte, error) {
	m := &o.message
	o.whole, o.foreign = whole, o.call.state.Foreign.For(o.call.namespace)
	m.walk.sparse = o.foreign == nil
	if err := m.find(o.call.method, root, in, true, false); err != nil {
		return nil, err
	}
	if m.walk.tasks {
		o.call.rememberTasks(&m.walk)
	}
	if err := o.findSealed(); err != nil {
		return nil, err
	}
	if err := o.resolve(ctx); err != nil {
		return nil, err
	}
	if m.walk.tokens > 0 {
		o.authenticateTokens()
	}
	if len(o.items)+len(o.systems)+len(m.edits) == 0 {
		return m.walk.buf, nil
	}
	if err := o.decide(ctx); err != nil {
		return nil, err
	}
	replaceErased(o)
	return o.openItems(ctx)
}

// findSealed fills o.items with the payloads that have the marker of a sealed one.
func (o *opener) findSealed() error {
	o.items, o.systems = o.items[:0], o.systems[:0]
	o.headers.Reset()
	o.foreignRun = foreign.NewRun(o.opened)
	return o.message.payloads(o.addSealed)
}

// resolve has the names of envelopes by reference looked up, which the policy reads. Those that are not found stay sealed, or
// fail the response: without its names, no rule could tell whether a payload may be opened.
func (o *opener) resolve(ctx context.Context) error {
	byReference := func(it *openItem) bool { return it.foreign == nil && it.sealed.Header.Reference() }
	first := 0
	for first < len(o.items) && !byReference(&o.items[first]) {
		first++
	}
	if first == len(o.items) {
		return nil
	}
	keys := o.call.state.Keys
	keys.Resolve(ctx, func(yield func(*envelope.Sealed) bool) {
		for i := range o.items {
			if it := &o.items[i]; byReference(it) && !yield(&it.sealed) {
				return
			}
		}
	}, &o.run)
	found := 0
	for i := range o.items {
		it := &o.items[i]
		if byReference(it) {
			if err := keys.Resolved(ctx, &it.sealed, &o.run); err != nil {
				o.enter(it.slot.f.kind, it.sealed.Header, Failed)
				if err := o.keepSealed(o.call.asError(KindOpening, it.slot.f.path, err)); err != nil {
					return err
				}
				continue
			}
		}
		if found < i {
			o.items[found] = *it
		}
		found++
	}
	clear(o.items[found:])
	o.items = o.items[:found]
	return nil
}

// addSealed adds a payload to the items, if it has the marker. failure is the index
// in a chain of failures.
func (o *opener) addSealed(s *slot, failure int, value []byte) error {
	if o.message.isSystem(s) && !envelope.Marked(value) {
		o.systems = append(o.systems, s)
		return nil
	}
	if _, plain := readPlain(value); plain && o.foreign == nil {
		return nil
	}
	if err := o.call.meter.take(openCost); err != nil {
		return err
	}
	o.items = append(o.items, openItem{}) // filled in place, since copying it would take longer than finding it
	it := &o.items[len(o.items)-1]
	it.slot, it.failure, it.size = s, int32(failure), len(value)
	marked, err := o.headers.ParsePayload(&it.sealed, value)
	if err == nil && !marked && o.foreign != nil {
		if it.foreign, err = o.foreign.Parse(value, &o.foreignRun); it.foreign != nil {
			marked = true
			it.sealed.Header = &envelope.Header{Key: it.foreign.Key, Namespace: o.call.namespace}
		}
	}
	if err == nil && marked {
		return nil
	}
	sealed := it.sealed.Header
	if sealed == nil { // payload of another tool whose key cannot be read
		sealed = new(envelope.Header)
	}
	o.items = o.items[:len(o.items)-1]
	if err == nil {
		return nil
	}
	o.enter(s.f.kind, sealed, Failed)
	return o.keepSealed(o.call.asError(KindOpening, s.f.path, err))
}

// keepSealed counts a value that does not open. It returns the error if the value may not
// stay sealed.
func (o *opener) keepSealed(err error) error {
	o.noteUnopened(err, 1)
	var e *Error
	later := errors.As(err, &e) && e.Transient()
	if e != nil && (e.Kind == KindMemory || e.Kind == KindTooLarge) {
		return err // whoever reads it is to read all of it, or to try again
	}
	if o.whole || later && o.call.method.result {
		return err
	}
	o.stats.Unopened++
	if later {
		o.stats.Later++
	}
	return nil
}

// openItems opens what was decided and splices it in.
func (o *opener) openItems(ctx context.Context) (out []byte, err error) {
	ctx, traced := o.call.startSpan(ctx, "payload.open")
	defer func() { endSpan(traced, err, &o.stats) }()
	m := &o.message
	if o.ahead == nil {
		o.ahead = o.toOpen // made once, since it allocates
	}
	o.run.Ahead(o.ahead)
	defer o.run.Count()
	if sampler := o.call.sampler(); sampler != nil {
		o.chosen = sampler.choose(len(o.items))
	}
	size := 0
	for i := range o.items {
		if it := &o.items[i]; !o.inPlace(it) {
			size += it.size
		}
	}
	m.arena = slices.Grow(m.arena, size) // at once, since growing a full buffer copies it
	for i := range o.items {
		it := &o.items[i]
		if o.inPlace(it) {
			m.editItem(it.slot, i, 0)
			continue
		}
		err := o.openToArena(ctx, it)
		o.enterItem(it, err)
		if err != nil {
			if err := o.keepSealed(err); err != nil {
				return nil, err
			}
		}
	}
	for _, s := range o.systems {
		err := o.openSystem(ctx, s)
		var e *Error
		if errors.As(err, &e) {
			if err := o.keepSealed(e); err != nil {
				return nil, err
			}
		} // a message that this release cannot read holds nothing that it sealed
	}
	if len(m.edits) == 0 {
		return m.walk.buf, nil
	}
	m.out.reset(len(m.walk.buf) + len(m.arena))
	changed, err := m.splice(false, func(e *edit) (bool, error) { return o.put(ctx, e) })
	if err != nil {
		return nil, err
	}
	if !changed {
		return m.walk.buf, nil
	}
	return m.out.bytes(), nil
}

// toOpen yields the envelopes that are going to be opened.
func (o *opener) toOpen(yield func(*envelope.Sealed) bool) {
	for i := range o.items {
		if it := &o.items[i]; it.foreign == nil && it.action == policy.Open && !yield(&it.sealed) {
			return
		}
	}
}

// inPlace reports whether the content of a payload just replaces its envelope.
func (o *opener) inPlace(it *openItem) bool {
	return it.slot.f.op == opPayload && it.foreign == nil && it.action == policy.Open
}

// put opens one of our payloads to the output, as splice requires. If it does not
// open, the output stays as it was.
func (o *opener) put(ctx context.Context, e *edit) (bool, error) {
	it, out := &o.items[e.item], &o.message.out
	size := it.sealed.PlainSize()
	if it.sealed.Form == envelope.FormView {
		size = it.size // the result is at most the readable document and the sealed part
	}
	room := out.reserve(size)
	it.sealed.Ask(o.opened)
	plain, hit, err := o.call.state.Keys.Open(ctx, room, &it.sealed, o.call.namespace, &o.run)
	o.enterItem(it, err)
	if err != nil {
		return false, o.keepSealed(o.call.asError(KindOpening, it.slot.f.path, err))
	}
	o.sample(ctx, it, int(e.item), plain)
	out.prepend(plain)
	if cap(plain) != cap(room) { // it was compressed, and outgrew the reserved bytes
		clear(plain)
	}
	o.stats.used(it.sealed.Header.Key, len(plain), hit)
	return true, nil
}

// openToArena plans the edits for a sealed payload whose content does not just
// replace the envelope. A payload that is kept, or denied to a reader, stays sealed.
func (o *opener) openToArena(ctx context.Context, it *openItem) error {
	m, s := &o.message, it.slot
	from := len(m.arena)
	switch it.action {
	case policy.Open:
		arena, hit, err := o.openSealed(ctx, it)
		if err != nil {
			return o.call.asError(KindOpening, s.f.path, err)
		}
		m.arena = arena
		o.stats.used(it.sealed.Header.Key, len(arena)-from, hit)
	case policy.Redact:
		placeholder := redactedPayload
		if gone, is := it.destroyed(); is {
			placeholder = gone.Payload()
		}
		m.arena = append(m.arena, placeholder...)
	default:
		o.stats.Kept++
		return nil
	}
	if s.f.op == opFailure {
		return o.openFailure(it, from)
	}
	m.edit(m.place(s), s.box, m.added(from))
	return nil
}

// openSealed removes one layer: our envelope, or the encoding of another tool.
func (o *opener) openSealed(ctx context.Context, it *openItem) (out []byte, hit bool, err error) {
	if it.foreign != nil {
		return o.foreign.Open(ctx, o.message.arena, it.foreign, &o.foreignRun)
	}
	it.sealed.Ask(o.opened)
	return o.call.state.Keys.Open(ctx, o.message.arena, &it.sealed, o.call.namespace, &o.run)
}
