package rewrite

import (
	"bytes"
	"fmt"
	"math/bits"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// maxSlots bounds the memory for one message: a slot takes about a hundred bytes, and
// an empty payload only two on the wire. The longest history that Temporal keeps has
// 51,200 events (limit.historyCount.error).
const maxSlots = 1 << 18

// maxAnys is how deep messages may nest by google.protobuf.Any: each level has a plan of
// its own. Temporal's messages nest two deep.
const maxAnys = 16

var errAnys = fmt.Errorf("more than %d messages of the type google.protobuf.Any are nested", maxAnys)

var errSlots = fmt.Errorf("it contains more than %d payloads and texts", maxSlots)

// span is a piece of the message: the offsets of its first byte and of the byte
// behind its last.
type span struct{ from, to int32 }

// of returns the bytes of the span.
func (s span) of(b []byte) []byte { return b[s.from:s.to] }

// empty reports whether the span has no bytes.
func (s span) empty() bool { return s.from == s.to }

// or returns the span, or an empty span at a place if it has no bytes.
func (s span) or(place int32) span {
	if s.empty() {
		return span{place, place}
	}
	return s
}

// spanOf converts offsets.
func spanOf(from, to int) span { return span{int32(from), int32(to)} }

// box is a length-delimited field around something that may change. If its content
// grows, its length is written again, and so are those of all boxes around it.
type box struct {
	lenPos     int32 // offset of the length
	start, end int32 // the content
	parent     int32 // -1 at the root
	delta      int32 // by how much the content grows
}

// content is where the content of the box is.
func (b *box) content() span { return span{b.start, b.end} }

// slot is one thing to decide about. The op of its field is what it is.
type slot struct {
	f       *field
	memo    bool  // an empty value deletes a key of the memo, so it is not sealed
	box     int32 // its own box, or that of the first failure of a chain
	scope   int32
	name    span // key of the map entry that holds it
	failure span // of a chain of failures: indexes into walk.failures
}

// scope holds the facts of one message, which apply to the payloads below it.
type scope struct {
	parent int32
	known  policy.FactSet
	facts  [5]span // indexed by bitOf
	// namespace is that in which a command acts, token that of the task in this scope,
	// and endpoint that of a Nexus operation.
	namespace, token, endpoint span
	tokenBox                   int32 // of the token in a response
	task                       bool  // the message is a task for a worker
	system                     bool  // systemEndpoint is the server's own here
}

// set records where a fact is.
func (s *scope) set(fact policy.FactSet, v span) {
	s.known |= fact
	s.facts[bitOf(fact)] = v
}

// calls reports whether the message of the scope calls a Nexus operation that the server does not run itself.
func (s *scope) calls(message []byte) bool {
	return !s.endpoint.empty() && !(s.system && string(s.endpoint.of(message)) == systemEndpoint)
}

// facts returns what the message contains about a scope, which has the facts of the scopes around it too. The values
// alias the message.
func (w *walk) facts(i int32) (f facts) {
	for ; i >= 0; i = w.scopes[i].parent {
		s := &w.scopes[i]
		for fresh := s.known &^ f.known; fresh != 0; fresh &= fresh - 1 {
			f.values[bitOf(fresh)] = alias(s.facts[bitOf(fresh)].of(w.buf))
		}
		f.known |= s.known
	}
	return f
}

// facts are what is known of the workflow or activity to which payloads belong.
type facts struct {
	values    [5]string // indexed by bitOf
	known, na policy.FactSet
}

// set records a fact.
func (f *facts) set(fact policy.FactSet, value string) {
	f.values[bitOf(fact)] = value
	f.known |= fact
}

// add adds the facts that f lacks.
func (f *facts) add(o *facts) {
	for fresh := o.known &^ f.known; fresh != 0; fresh &= fresh - 1 {
		f.values[bitOf(fresh)] = o.values[bitOf(fresh)]
	}
	f.known |= o.known
	f.na |= o.na
}

// The numbers of facts: see bitOf.
const (
	workflowID = iota
	workflowType
	taskQueue
	activityID
	activityType
)

// bitOf returns the number of the first fact in a set.
func bitOf(facts policy.FactSet) int { return bits.TrailingZeros8(uint8(facts)) }

// failureParts is where the parts of one failure are: its message, its stack trace and its encoded_attributes.
type failureParts struct {
	box   int32
	parts [3]part
}

// Indexes into failureParts.parts, in the order of opFailMessage and those after it.
const (
	failMessage = iota
	failStack
	failAttributes
)

// part is a field of a failure: all of it with tag and length, and its value. place is where it belongs if it is
// missing, in the order of Go's encoder and so of the server: by number, but the members of the oneof failure_info
// (5 to 19) last.
type part struct {
	field, value span
	place        int32
}

// place notes a field that comes after the stack trace.
func (f *failureParts) place(num protowire.Number, at, end int32) {
	if stack := &f.parts[failStack]; stack.place == end {
		stack.place = at
	}
	if a := &f.parts[failAttributes]; a.place == end && num >= 5 && num < numFailureAttributes {
		a.place = at
	}
}

// walk is one pass over the bytes of one message, and what it found.
type walk struct {
	plan     *plan
	method   string
	response bool
	strict   bool // refuse every unknown field
	sparse   bool // descend only where something may be sealed; no use where the payloads of other tools are opened
	meter    *meter

	buf        []byte
	boxes      []box
	slots      []slot
	scopes     []scope
	failures   []failureParts
	name       span
	everywhere bool             // not only where markers are
	markers    envelope.Markers // of a sparse walk
	// irregular is set if a field that counts once comes twice. Such a message is legal,
	// and every decoder merges the fields. It is brought into the regular form before
	// anything is decided.
	irregular bool
	tasks     bool // the response holds a task for a worker
	tokens    int  // of tasks, in a response
	anys      int  // around what is being walked
	unknown   int  // fields that this build does not know
	refused   error
}

// reset prepares the memory for another message.
func (w *walk) reset(buf []byte) {
	w.buf = buf
	w.boxes, w.slots, w.scopes, w.failures = w.boxes[:0], w.slots[:0], w.scopes[:0], w.failures[:0]
	w.markers, w.everywhere = envelope.Markers{}, false
	w.name, w.irregular, w.tasks, w.tokens, w.anys, w.unknown, w.refused = span{}, false, false, 0, 0, 0, nil
}

// fail returns an error about a path of the message; "" stands for the whole.
func (w *walk) fail(kind Kind, path string, err error) *Error {
	return &Error{Kind: kind, RPC: w.method, Path: path, Err: err}
}

// runRegular walks a message, in its regular form if it has another one. w.buf is
// what it walked.
func (w *walk) runRegular(n *node, in []byte) error {
	w.reset(in)
	if err := w.run(n); err != nil || !w.irregular || w.refused != nil {
		return err
	}
	if err := w.meter.takeDecoded(n.desc, in, 0); err != nil {
		return err
	}
	regular, err := regularForm(n.desc, in)
	if err != nil {
		return err
	}
	w.reset(regular)
	return w.run(n)
}

// run walks a whole message.
func (w *walk) run(n *node) error {
	w.everywhere = !w.sparse
	if w.sparse {
		w.markers = envelope.FindMarkers(w.buf)
	}
	err := w.root(n)
	if err == nil && w.sparse && w.namesSystem() {
		w.reset(w.buf)
		w.everywhere = true
		err = w.root(n)
	}
	return err
}

// root walks the message that is no part of another one.
func (w *walk) root(n *node) error {
	return w.message(frame{node: n, box: -1, scope: w.scope(n, -1), failure: -1}, 0, len(w.buf))
}

// namesSystem reports whether the message may call an operation that the server runs itself. Envelopes within its input may
// be in base64, where no marker is seen. What payloads hold, which is most of a history, calls nothing.
func (w *walk) namesSystem() bool {
	from := int32(0)
	for i := range w.slots {
		if s := &w.slots[i]; s.f.op == opPayload {
			b := &w.boxes[s.box]
			if containsSystem(w.buf[from:b.start]) {
				return true
			}
			from = b.end
		}
	}
	return containsSystem(w.buf[from:])
}

// containsSystem looks for the underscores first, which are rarer than the positions at which bytes.Contains compares.
func containsSystem(b []byte) bool {
	for {
		i := bytes.IndexByte(b, systemEndpoint[0])
		if i < 0 || len(b)-i < len(systemEndpoint) {
			return false
		}
		if b = b[i:]; string(b[:len(systemEndpoint)]) == systemEndpoint {
			return true
		}
		b = b[1:]
	}
}

// scope adds a scope for a message and returns its index.
func (w *walk) scope(n *node, parent int32) int32 {
	task := w.response && n.task
	w.tasks = w.tasks || task
	w.scopes = append(w.scopes, scope{parent: parent, task: task, system: n.system})
	return int32(len(w.scopes) - 1)
}

// frame is a message that is being walked.
type frame struct {
	node    *node
	box     int32 // around the message; -1 at the root
	scope   int32
	failure int // index into walk.failures; -1 for another message
	depth   int
}

// within returns the frame of a message in this one.
func (fr *frame) within(n *node, box int32) frame {
	return frame{node: n, box: box, scope: fr.scope, failure: -1, depth: fr.depth + 1}
}

// message walks the message buf[start:end].
func (w *walk) message(fr frame, start, end int) error {
	n := fr.node
	if fr.depth > wire.MaxDepth {
		return wire.ErrDepth
	}
	if n.scope && fr.box >= 0 { // the root has its own already
		if err := w.meter.take(scopeCost); err != nil {
			return err
		}
		fr.scope = w.scope(n, fr.scope)
	}
	if n.failure {
		if err := w.meter.take(failureCost); err != nil {
			return err
		}
		fr.failure = len(w.failures)
		w.failures = append(w.failures, failureParts{box: fr.box, parts: [...]part{
			failMessage: {place: int32(start)}, failStack: {place: int32(end)}, failAttributes: {place: int32(end)}}})
	}
	var seen uint64
	var r wire.Reader
	r.Start(w.buf, start, end, fr.depth)
	for r.Next() {
		num := r.Number()
		if fr.failure >= 0 && num > numFailureStackTrace {
			w.failures[fr.failure].place(num, int32(r.At()), int32(end))
		}
		f := n.field(num)
		if f == nil || f.op == opUnknown || f.wire != r.Type() && !(f.packable && r.Bytes()) {
			_, to := r.Bounds()
			w.unknownField(n.name, num, w.buf[r.At():to])
			continue
		}
		if f.op == opSkip {
			if fr.failure < 0 {
				n.skip(&r, w.buf, end)
			}
			continue
		}
		if f.once != 0 {
			bit := uint64(1) << (f.once - 1)
			w.irregular = w.irregular || seen&bit != 0
			seen |= bit
		}
		if f.known != nil && !w.response {
			from, to := r.Bounds()
			if err := w.knownMessage(f.known, from, to, fr.depth+1); err != nil {
				return err
			}
		}
		if f.op == opSkipMessage {
			continue
		}
		if err := w.handle(&fr, f, &r); err != nil {
			return err
		}
	}
	return r.Err()
}

// skip goes on over the fields behind that of r which need no look, as there are some in a row in most messages: in a fraction of
// the time that Next takes. It stops at what is not written in a short way, and at the end.
func (n *node) skip(r *wire.Reader, buf []byte, end int) {
	_, i := r.Bounds()
	for i+1 < end && buf[i] < 0x80 && int(buf[i]>>3) < len(n.fields) {
		f := &n.fields[buf[i]>>3]
		if f.op != opSkip && (f.op != opSkipMessage || f.known != nil) || f.wire != protowire.Type(buf[i]&7) {
			break
		}
		next := i + 2
		switch f.wire {
		case protowire.VarintType:
			for next < end && next < i+5 && buf[next-1] >= 0x80 {
				next++
			}
			if buf[next-1] >= 0x80 {
				next = end + 1
			}
		case protowire.BytesType:
			if next += int(buf[i+1]); buf[i+1] >= 0x80 {
				next = end + 1
			}
		default:
			next = end + 1
		}
		if next > end {
			break
		}
		i = next
	}
	r.Jump(i)
}

// handle handles a field about which the plan has more to say than to skip it.
func (w *walk) handle(fr *frame, f *field, r *wire.Reader) error {
	from, to := r.Bounds()
	content := spanOf(from, to)
	switch f.op {
	case opFact:
		w.scopes[fr.scope].set(f.fact, content)
		return nil
	case opFactName:
		start, end, err := wire.FirstString(w.buf, from, to)
		if err == nil {
			w.scopes[fr.scope].set(f.fact, spanOf(start, end))
		}
		return err
	case opToken:
		return w.taskToken(fr, r)
	case opNamespace:
		if n := to - from; n > envelope.MaxNamespace && !w.response { // that of the call is checked before
			w.refused = w.fail(KindTooLarge, "namespace", fmt.Errorf("the name of the namespace has %d bytes, and %d are the most", n, envelope.MaxNamespace))
		}
		w.scopes[fr.scope].namespace = content
		return nil
	case opEndpoint:
		w.scopes[fr.scope].endpoint = content
		return nil
	case opFailMessage, opFailStack, opFailAttributes:
		p := &w.failures[fr.failure].parts[f.op-opFailMessage]
		p.field, p.value = spanOf(r.At(), to), content
		if f.op != opFailAttributes {
			return nil
		}
	}

	// Within a failure all is read, since its texts may be restored from the envelope of the one around it.
	if !w.everywhere && fr.failure < 0 && !w.markers.Within(from, to) && !(f.child != nil && f.child.tasks) {
		return nil
	}

	slots, tokens, boxes := len(w.slots), w.tokens, len(w.boxes)
	own := int32(boxes)
	w.boxes = append(w.boxes, box{}) // filled in place, since a copy of fresh fields makes the CPU wait
	b := &w.boxes[boxes]
	b.lenPos, b.start, b.end, b.parent = int32(r.Length()), int32(from), int32(to), fr.box
	var err error
	switch f.op {
	case opMessage:
		err = w.message(fr.within(f.child, own), from, to)
	case opMapEntry:
		outer := w.name
		var start, end int
		if start, end, err = wire.FirstString(w.buf, from, to); err == nil {
			w.name = spanOf(start, end)
			err = w.message(fr.within(f.child, own), from, to)
		}
		w.name = outer
	case opFailAttributes:
		return w.meter.take(boxCost) // the box stays, since the slot of the chain may change it
	case opFailure:
		return w.failure(fr, f, content, own)
	case opAny:
		err = w.anyMessage(fr, f, content, own)
	case opHistoryBlob:
		err = w.historyBlob(fr, f, content, own)
	default:
		err = w.slot(fr, f, own)
	}
	if len(w.slots) == slots && w.tokens == tokens {
		w.boxes = w.boxes[:boxes] // nothing in there can change
	} else if err == nil {
		err = w.meter.take(boxCost)
	}
	return err
}

// taskToken notes the token of a task, without its MAC. One in a response gets a MAC.
func (w *walk) taskToken(fr *frame, r *wire.Reader) error {
	from, to := r.Bounds()
	token, _ := splitToken(w.buf[from:to])
	sc := &w.scopes[fr.scope]
	sc.token = spanOf(from, from+len(token))
	if !w.response {
		return nil
	}
	sc.tokenBox = int32(len(w.boxes))
	w.tokens++
	w.boxes = append(w.boxes, box{lenPos: int32(r.Length()), start: int32(from), end: int32(to), parent: fr.box})
	return w.meter.take(boxCost)
}

// slot adds a slot.
func (w *walk) slot(fr *frame, f *field, own int32) error {
	n := len(w.slots)
	if n == maxSlots {
		return errSlots
	}
	if err := w.meter.take(slotCost); err != nil {
		return err
	}
	w.slots = append(w.slots, slot{})
	s := &w.slots[n]
	s.f, s.box, s.scope, s.name, s.memo = f, own, fr.scope, w.name, fr.node.memo
	return nil
}

// failure walks a failure. Unless it is the cause of another, it starts a chain.
func (w *walk) failure(fr *frame, f *field, content span, own int32) error {
	inner := fr.within(f.child, own)
	if fr.failure >= 0 {
		return w.message(inner, int(content.from), int(content.to))
	}
	first, chain := len(w.failures), len(w.slots)
	if err := w.slot(fr, f, own); err != nil {
		return err
	}
	err := w.message(inner, int(content.from), int(content.to))
	w.slots[chain].failure = spanOf(first, len(w.failures))
	return err
}

// anyMessage walks the message in a google.protobuf.Any. One of an unknown type is
// left as it is, unless it might contain a payload.
func (w *walk) anyMessage(fr *frame, f *field, content span, own int32) error {
	var name span
	value := box{parent: own}
	r := wire.ReadIn(w.buf, int(content.from), int(content.to), 0)
	for r.Next() {
		switch {
		case !r.Bytes():
		case r.Number() == 1:
			w.irregular = w.irregular || name.to != 0
			name = spanOf(r.Bounds())
		case r.Number() == 2:
			w.setContent(&value, &r)
		}
	}
	if r.Err() != nil || value.start == value.end {
		return r.Err()
	}
	full := name.of(w.buf)
	if i := bytes.LastIndexByte(full, '/'); i >= 0 {
		full = full[i+1:]
	}
	child, err := w.plan.anyNode(f, alias(full), w.response, w)
	if err != nil {
		return err
	}
	if child == nil {
		w.unknownField(fr.node.name, 2, w.buf[value.start:value.end])
		return nil
	}
	if !child.sites {
		return nil
	}
	if w.anys++; w.anys > maxAnys {
		return errAnys
	}
	err = w.boxed(fr, child, value)
	w.anys--
	return err
}

// historyBlob walks a DataBlob with a serialized history. Only the protobuf encoding
// (1) is used on the wire; others are left alone.
func (w *walk) historyBlob(fr *frame, f *field, content span, own int32) error {
	var encoding uint64
	data := box{parent: own}
	r := wire.ReadIn(w.buf, int(content.from), int(content.to), 0)
	for r.Next() {
		switch {
		case r.Number() == 1 && r.Type() == protowire.VarintType:
			encoding, _ = protowire.ConsumeVarint(r.Value())
		case r.Number() == 2 && r.Bytes():
			w.setContent(&data, &r)
		}
	}
	if r.Err() != nil || data.start == data.end || encoding != 1 {
		return r.Err()
	}
	return w.boxed(fr, f.child, data)
}

// setContent notes where the message in an Any or a DataBlob is. That field counts
// once.
func (w *walk) setContent(b *box, r *wire.Reader) {
	w.irregular = w.irregular || b.end != 0
	from, to := r.Bounds()
	b.lenPos, b.start, b.end = int32(r.Length()), int32(from), int32(to)
}

// boxed walks the message in a box.
func (w *walk) boxed(fr *frame, n *node, b box) error {
	w.boxes = append(w.boxes, b)
	return w.message(fr.within(n, int32(len(w.boxes)-1)), int(b.start), int(b.end))
}
