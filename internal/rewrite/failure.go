package rewrite

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// The texts of a chain of failures are sealed as one payload, which becomes the
// encoded_attributes of the first failure. It holds a JSON document of the form
// that SDKs write there themselves (message and stack_trace), so that the Web UI
// can show it through a codec server, with the causes below it.
const (
	encodedFailure   = "Encoded failure" // what SDKs replace an encoded message by
	failureTextsKey  = "failure-texts"   // metadata that only our documents have
	failureTextsForm = "v1"

	numFailureMessage    = 1
	numFailureStackTrace = 3
	numFailureAttributes = 20
)

// failureTexts is what is hidden of one failure. EncodedAttributes is a serialized
// Payload; it may be present and empty.
type failureTexts struct {
	Message           string         `json:"message"`
	StackTrace        string         `json:"stack_trace"`
	EncodedAttributes *[]byte        `json:"encoded_attributes,omitempty"`
	Causes            []failureTexts `json:"causes,omitempty"`
}

// empty reports whether there is nothing to hide.
func (t *failureTexts) empty() bool {
	return t.Message == "" && t.StackTrace == "" && t.EncodedAttributes == nil
}

// hasTexts reports whether a chain holds anything to hide.
func (m *Message) hasTexts(s *slot) bool {
	return slices.ContainsFunc(m.failures(s), func(f failureParts) bool {
		return !f.message.value.empty() || !f.stack.value.empty() || !f.attributes.field.empty()
	})
}

// markedFailure reports whether a failure of a chain has the marker of a sealed
// value.
func (c *call) markedFailure(chain []failureParts, buf []byte) bool {
	for i := range chain {
		f := &chain[i]
		if !f.attributes.field.empty() && c.marked(f.attributes.value.of(buf)) ||
			envelope.MarkedText(f.message.value.of(buf)) || envelope.MarkedText(f.stack.value.of(buf)) {
			return true
		}
	}
	return false
}

// sealFailure seals the texts of a whole chain as one payload. It always includes
// encoded_attributes: if failures that look encoded were left alone, clear text could
// pass.
func (s *sealer) sealFailure(sl *slot, key *keyring.Sealer) error {
	doc, err := readTexts(s.message.failures(sl), s.message.walk.buf)
	if err != nil {
		return err
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(&commonpb.Payload{Data: doc,
		Metadata: map[string][]byte{"encoding": []byte("json/plain"), failureTextsKey: []byte(failureTextsForm)}})
	if err != nil {
		return fmt.Errorf("write the failure's texts: %w", err)
	}
	sealed, err := key.AppendPayload(nil, payload, true)
	if err != nil {
		return err
	}
	s.message.hideTexts(sl, sealed)
	return nil
}

// hideTexts plans the edits that replace the texts of a whole chain by a sealed
// payload.
func (m *Message) hideTexts(s *slot, sealed []byte) {
	chain := m.failures(s)
	for i := range chain {
		f := &chain[i]
		if !f.message.value.empty() {
			m.putText(f, f.message.field, numFailureMessage, []byte(encodedFailure))
		}
		m.putText(f, f.stack.field, numFailureStackTrace, nil)
		if i == 0 {
			m.putText(f, f.attributesSpan(), numFailureAttributes, sealed)
		} else {
			m.putText(f, f.attributes.field, numFailureAttributes, nil)
		}
	}
}

// readTexts returns the document with the texts of a whole chain.
func readTexts(chain []failureParts, buf []byte) ([]byte, error) {
	texts := make([]failureTexts, len(chain))
	for i := range chain {
		f, t := &chain[i], &texts[i]
		t.Message, t.StackTrace = string(f.message.value.of(buf)), string(f.stack.value.of(buf))
		if !f.attributes.field.empty() {
			value := f.attributes.value.of(buf)
			t.EncodedAttributes = &value
		}
		if !utf8.ValidString(t.Message) || !utf8.ValidString(t.StackTrace) {
			return nil, errors.New("a failure's message or stack trace is not UTF-8, which protobuf requires of a string")
		}
	}
	last := len(texts)
	for last > 1 && texts[last-1].empty() {
		last--
	}
	texts[0].Causes = texts[1:last]
	doc, err := json.Marshal(&texts[0])
	if err != nil {
		return nil, fmt.Errorf("write the failure's texts: %w", err)
	}
	return doc, nil
}

// putText plans to write a field of a failure at a place. If the value is nil, it
// removes what is there.
func (m *Message) putText(f *failureParts, at span, num protowire.Number, value []byte) {
	switch {
	case value != nil:
		m.edit(at, f.box, m.storeField(num, value))
	case !at.empty():
		m.edit(at, f.box, span{})
	}
}

// messageSpan returns where the message of a failure is, or belongs.
func (f *failureParts) messageSpan() span { return f.message.field.or(f.content.from) }

// stackSpan returns where the stack trace of a failure is, or belongs.
func (f *failureParts) stackSpan() span { return f.stack.field.or(f.stackPlace) }

// attributesSpan returns where encoded_attributes is, or belongs.
func (f *failureParts) attributesSpan() span { return f.attributes.field.or(f.attributesPlace) }

// readFailureTexts returns the document in an opened payload. ok is false for a
// payload of the codec of an SDK.
func readFailureTexts(payload []byte) (t failureTexts, ok bool, err error) {
	form := ""
	var doc []byte
	r := wire.Read(payload)
	for r.Next() {
		switch {
		case !r.Bytes():
		case r.Number() == 2:
			doc = r.Value()
		case r.Number() == 1:
			if key, value := readEntry(r.Value()); string(key) == failureTextsKey {
				form = string(value)
			}
		}
	}
	if r.Err() != nil || form == "" {
		return t, false, r.Err()
	}
	if form != failureTextsForm {
		return t, false, fmt.Errorf("the texts of this failure have the form %q, which a newer release wrote; "+
			"upgrade this proxy", form)
	}
	if err := json.Unmarshal(doc, &t); err != nil {
		return t, false, errors.New("the texts of this failure are no JSON document")
	}
	return t, true, nil
}

// openFailure plans the edits that restore the failure that had the envelope, and its
// causes, from what was opened into the arena behind `from`. Where the server or a
// worker wrapped the failure in another one, the envelope is in one of the causes.
func (o *opener) openFailure(it *openItem, from int) error {
	m, s := &o.message, o.slot(it)
	chain := m.failures(s)[it.failure:]
	f := &chain[0]
	if it.action == policy.Redact {
		m.arena = m.arena[:from]
		m.putText(f, f.attributes.field, numFailureAttributes, nil)
		m.putText(f, f.messageSpan(), numFailureMessage, []byte(redactedText))
		return nil
	}
	opened := m.arena[from:]
	var texts failureTexts
	var ok bool
	var err error
	if it.foreign == nil {
		texts, ok, err = readFailureTexts(opened)
	}
	if err != nil {
		return o.call.fail(KindOpening, s.f.path, err)
	}
	if !ok { // the codec of an SDK encoded it: restore the payload that it made
		m.putText(f, f.attributes.field, numFailureAttributes, bytes.Clone(opened))
		return nil
	}
	clear(opened)
	m.arena = m.arena[:from]
	m.restoreTexts(f, &texts)
	for i := 1; i < len(chain) && i <= len(texts.Causes); i++ {
		cause := &chain[i]
		if !cause.attributes.field.empty() && o.call.marked(cause.attributes.value.of(m.walk.buf)) {
			break // another envelope holds the texts from here on
		}
		m.restoreTexts(cause, &texts.Causes[i-1])
	}
	return nil
}

// restoreTexts plans the edits that restore the texts of one failure.
func (m *Message) restoreTexts(f *failureParts, t *failureTexts) {
	var message, stack, attributes []byte
	if t.Message != "" {
		message = []byte(t.Message)
	}
	if t.StackTrace != "" {
		stack = []byte(t.StackTrace)
	}
	if t.EncodedAttributes != nil {
		attributes = *t.EncodedAttributes
	}
	m.putText(f, f.messageSpan(), numFailureMessage, message)
	m.putText(f, f.stackSpan(), numFailureStackTrace, stack)
	m.putText(f, f.attributesSpan(), numFailureAttributes, attributes)
}
