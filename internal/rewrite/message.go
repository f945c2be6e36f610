package rewrite

import (
	"errors"
	"fmt"
	"math/bits"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// find walks a message and leaves its slots in c.walk. It gives the message
// in the regular form if it was not, and a nil message if there is nothing to
// decide about.
func (c *Call) find(n *node, in []byte, response bool) error {
	w := &c.walk
	w.response, w.strict = response, c.r.strict && !response
	w.reset(in)
	if err := w.run(n); err != nil {
		return c.unwalkable(n, err)
	}
	if w.irregular && w.refused == nil {
		regular, err := regularForm(n.desc, in)
		if err != nil {
			return c.fail(KindMalformed, "", fmt.Errorf("the bytes are not a %s: %w", n.name.Name(), err))
		}
		w.reset(regular)
		if err := w.run(n); err != nil {
			return c.unwalkable(n, err)
		}
	}
	if w.refused != nil {
		return w.refused
	}
	if w.irregular {
		return c.fail(KindMalformed, "", errors.New("a field that counts once comes more than once within a packed message"))
	}
	return nil
}

// unwalkable is the error for a message that the walk gave up.
func (c *Call) unwalkable(n *node, err error) error {
	if errors.Is(err, errSlots) {
		return c.fail(KindTooLarge, "", fmt.Errorf("%w; split it", err))
	}
	return c.fail(KindMalformed, "", fmt.Errorf("the bytes are not a %s: %w", n.name.Name(), err))
}

// span is a piece of the message, from the first byte to behind the last.
type span struct{ from, to int32 }

func (s span) of(b []byte) []byte { return b[s.from:s.to] }
func (s span) empty() bool        { return s.from == s.to }

// box is a length-delimited field around something that may change: when its
// content grows, its length is written anew, and that of all boxes around it.
type box struct {
	lenPos     int32 // where the length stands
	start, end int32 // the content
	parent     int32 // -1 at the root
	delta      int32 // by how much the content grows
}

type siteType uint8

const (
	sitePayload siteType = iota
	siteAsk              // stays readable, may be refused
	siteExempt           // stays readable
	siteText
	siteReason
	siteNexus   // a Nexus failure
	siteFailure // the texts of one chain of failures
)

// slot is one thing to decide about.
type slot struct {
	site    siteType
	memo    bool // an empty value deletes the memo's key, so it stays as it is
	f       *field
	box     int32 // its own box; for siteFailure that of the first failure
	scope   int32
	name    span
	failure span // siteFailure: indexes into walk.failures
}

// scope holds the facts that one message tells about the payloads below it.
type scope struct {
	parent int32
	known  policy.FactSet
	facts  [5]span // in the order of the policy.Fact bits
	// namespace is the one that a command addresses; token marks the task that this scope is about.
	// endpoint is that of a Nexus operation.
	namespace, token, endpoint span
	task                       bool // a task handed out in this answer
}

// failureParts is what the walk saw of one failure.
type failureParts struct {
	box            int32
	message, stack part
	attributes     part
	content        span
	// Where a stack trace and encoded_attributes belong, in the order that Go's encoder, and so the server, writes:
	// by number, but the members of the oneof failure_info (5 to 19) last.
	stackPlace, attributesPlace int32
}

// place takes the position of a field into account that comes behind a stack trace.
func (f *failureParts) place(num protowire.Number, at, end int32) {
	if f.stackPlace == end {
		f.stackPlace = at
	}
	if f.attributesPlace == end && num >= 5 && num < numFailureAttributes {
		f.attributesPlace = at
	}
}

// part is a field within a failure: the whole of it with tag and length, and
// its value.
type part struct {
	field, value span
	box          int32
}

func (s *scope) set(fact policy.FactSet, v span) {
	s.known |= fact
	s.facts[bits.TrailingZeros8(uint8(fact))] = v
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

// regularForm decodes a message and encodes it anew, so that a field that
// counts once comes once: what a decoder would merge is merged, and of a
// oneof the last member is left. Unknown fields are kept.
func regularForm(d protoreflect.MessageDescriptor, in []byte) ([]byte, error) {
	m := dynamicpb.NewMessage(d)
	if err := (proto.UnmarshalOptions{RecursionLimit: maxDepth}).Unmarshal(in, m); err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// edit replaces a piece of the message: by bytes of the arena, or by a payload that is sealed or opened right where it
// goes in the output.
type edit struct {
	at   span // what is replaced; empty: an insertion
	box  int32
	data span            // in the arena
	seal *keyring.Sealer // when set, the source is `at`
	open *opening        // when set, it is what stands at `at`
}

// size is that of what an edit puts in place. What is opened has none before.
func (e *edit) size() int32 {
	if e.seal != nil {
		return int32(e.seal.PayloadSize(int(e.at.to - e.at.from)))
	}
	return e.data.to - e.data.from
}

func (c *Call) chain(s *slot) []failureParts {
	return c.walk.failures[s.failure.from:s.failure.to]
}

func (c *Call) edit(at span, box int32, data span) {
	c.edits = append(c.edits, edit{at: at, box: box, data: data})
}
