package rewrite

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// The texts of a chain of failures are sealed as one payload, which takes the
// place of the first failure's encoded_attributes. It is a JSON document of
// the shape that SDKs write there themselves (message and stack_trace), so
// that a codec server shows it in the Web UI, with the causes below it.
const (
	encodedFailure   = "Encoded failure" // what SDKs put in the place of an encoded message
	failureTextsKey  = "failure-texts"   // metadata of the payload: tells our document from one of an SDK's
	failureTextsForm = "v1"

	numFailureMessage    = 1
	numFailureStackTrace = 3
	numFailureAttributes = 20
)

// failureTexts is what is hidden of one failure. encoded_attributes holds a
// serialised Payload, which may be present and empty.
type failureTexts struct {
	Message           string         `json:"message"`
	StackTrace        string         `json:"stack_trace"`
	EncodedAttributes *[]byte        `json:"encoded_attributes,omitempty"`
	Causes            []failureTexts `json:"causes,omitempty"`
}

func (t *failureTexts) empty() bool {
	return t.Message == "" && t.StackTrace == "" && t.EncodedAttributes == nil
}

// hasTexts tells whether a chain holds anything to hide.
func (c *Call) hasTexts(s *slot) bool {
	for i := range c.chain(s) {
		f := &c.chain(s)[i]
		if !f.message.value.empty() || !f.stack.value.empty() || !f.attributes.field.empty() {
			return true
		}
	}
	return false
}

// markedFailure tells whether a failure in the chain bears our mark.
func (c *Call) markedFailure(s *slot) bool {
	for i := range c.chain(s) {
		f := &c.chain(s)[i]
		if !f.attributes.field.empty() && c.marked(f.attributes.value.of(c.walk.buf)) {
			return true
		}
		if keyring.MarkedText(f.message.value.of(c.walk.buf)) || keyring.MarkedText(f.stack.value.of(c.walk.buf)) {
			return true
		}
	}
	return false
}

// sealFailure plans the edits that hide the texts of a whole chain. What
// encoded_attributes held is hidden with them, always: to leave a failure
// alone that looks encoded already would let clear text pass.
func (c *Call) sealFailure(sealer *keyring.Sealer, s *slot) error {
	buf := c.walk.buf
	chain := c.chain(s)
	texts := make([]failureTexts, len(chain))
	for i := range chain {
		f, t := &chain[i], &texts[i]
		t.Message, t.StackTrace = string(f.message.value.of(buf)), string(f.stack.value.of(buf))
		if !f.attributes.field.empty() {
			value := f.attributes.value.of(buf)
			t.EncodedAttributes = &value
		}
		if !utf8.ValidString(t.Message) || !utf8.ValidString(t.StackTrace) {
			return errors.New("a failure's message or stack trace is not UTF-8, which protobuf requires of a string")
		}
	}
	last := len(texts)
	for last > 1 && texts[last-1].empty() {
		last--
	}
	texts[0].Causes = texts[1:last]
	doc, err := json.Marshal(&texts[0])
	if err != nil {
		return fmt.Errorf("write the failure's texts: %w", err)
	}
	sealed, err := sealer.AppendPayload(nil, failurePayload(doc), true)
	if err != nil {
		return err
	}
	for i := range chain {
		f := &chain[i]
		if !f.message.value.empty() {
			c.edit(f.message.field, f.box, c.storeField(numFailureMessage, []byte(encodedFailure)))
		}
		if !f.stack.field.empty() {
			c.edit(f.stack.field, f.box, span{})
		}
		attributes := f.attributes.field
		if attributes.empty() {
			attributes = span{f.attributesPlace, f.attributesPlace}
		}
		switch {
		case i == 0:
			c.edit(attributes, f.box, c.storeField(numFailureAttributes, sealed))
		case !attributes.empty():
			c.edit(attributes, f.box, span{})
		}
	}
	return nil
}

// failurePayload is the serialised Payload around the document.
func failurePayload(doc []byte) []byte {
	entry := func(dst []byte, key, value string) []byte {
		e := protowire.AppendTag(nil, 1, protowire.BytesType)
		e = protowire.AppendString(e, key)
		e = protowire.AppendTag(e, 2, protowire.BytesType)
		e = protowire.AppendString(e, value)
		dst = protowire.AppendTag(dst, 1, protowire.BytesType)
		return protowire.AppendBytes(dst, e)
	}
	p := entry(nil, "encoding", "json/plain")
	p = entry(p, failureTextsKey, failureTextsForm)
	p = protowire.AppendTag(p, 2, protowire.BytesType)
	return protowire.AppendBytes(p, doc)
}

// readFailureTexts gives the document within an opened payload; ok is false
// for a payload that an SDK's own codec put there.
func readFailureTexts(payload []byte) (t failureTexts, ok bool, err error) {
	form := ""
	var doc []byte
	err = eachField(payload, 0, len(payload), func(num protowire.Number, wire protowire.Type, _, _, from, to int) {
		switch {
		case wire != protowire.BytesType:
		case num == 2:
			doc = payload[from:to]
		case num == 1:
			key, value := readEntry(payload[from:to])
			if string(key) == failureTextsKey {
				form = string(value)
			}
		}
	})
	if err != nil || form == "" {
		return t, false, err
	}
	if form != failureTextsForm {
		return t, false, fmt.Errorf("the texts of this failure have the form %q, which a newer release wrote; upgrade this proxy", form)
	}
	if err := json.Unmarshal(doc, &t); err != nil {
		return t, false, errors.New("the texts of this failure are no JSON document")
	}
	return t, true, nil
}

// openFailure plans the edits that restore a chain from what was opened at
// the arena's place `from`: the failure that bore the envelope and its causes.
// Where the server, or a worker, put a failure of its own in front, the
// sealed one is found among its causes.
func (c *Call) openFailure(s *slot, o *opening, from int32) error {
	chain := c.chain(s)[o.failure:]
	f := &chain[0]
	if o.action == policy.Redact {
		c.arena = c.arena[:from]
		c.edit(f.attributes.field, f.box, span{})
		c.edit(c.messagePlace(f), f.box, c.storeField(numFailureMessage, []byte(redactedText)))
		return nil
	}
	opened := c.arena[from:]
	var texts failureTexts
	var ok bool
	var err error
	if o.theirs == nil {
		texts, ok, err = readFailureTexts(opened)
	}
	if err != nil {
		return c.fail(KindOpening, s.f.path, err)
	}
	if !ok { // sealed by an SDK's codec: the payload that it wrapped comes back
		c.edit(f.attributes.field, f.box, c.storeField(numFailureAttributes, bytes.Clone(opened)))
		return nil
	}
	clear(opened)
	c.arena = c.arena[:from]
	c.restore(f, &texts)
	for i := 1; i < len(chain) && i <= len(texts.Causes); i++ {
		cause := &chain[i]
		if !cause.attributes.field.empty() && c.marked(cause.attributes.value.of(c.walk.buf)) {
			break // from here on another envelope holds the texts
		}
		c.restore(cause, &texts.Causes[i-1])
	}
	return nil
}

func (c *Call) messagePlace(f *failureParts) span {
	if f.message.field.empty() {
		return span{f.content.from, f.content.from}
	}
	return f.message.field
}

// restore plans the edits that give one failure its texts back.
func (c *Call) restore(f *failureParts, t *failureTexts) {
	put := func(at span, num protowire.Number, value []byte, present bool) {
		switch {
		case present:
			c.edit(at, f.box, c.storeField(num, value))
		case !at.empty():
			c.edit(at, f.box, span{})
		}
	}
	put(c.messagePlace(f), numFailureMessage, []byte(t.Message), t.Message != "")
	stack := f.stack.field
	if stack.empty() {
		stack = span{f.stackPlace, f.stackPlace}
	}
	put(stack, numFailureStackTrace, []byte(t.StackTrace), t.StackTrace != "")
	attributes := f.attributes.field
	if attributes.empty() {
		attributes = span{f.attributesPlace, f.attributesPlace}
	}
	if t.EncodedAttributes != nil {
		put(attributes, numFailureAttributes, *t.EncodedAttributes, true)
	} else {
		put(attributes, numFailureAttributes, nil, false)
	}
}
