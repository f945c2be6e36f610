package rewrite

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// The texts of a chain of failures are sealed as one payload, which becomes the
// encoded_attributes of the first failure. It holds a JSON document of the form
// that SDKs write there themselves (message and stack_trace), so that the Web UI
// can show it through a codec server, with the causes below it.
const (
	encodedFailure   = "Encoded failure" // what SDKs replace an encoded message by
	failureTextsKey  = "failure-texts"   // metadata that only our documents have
	failureTextsForm = "v1"

	numFailureStackTrace = 3
	numFailureAttributes = 20
)

// partNumbers are the numbers of the fields that are parts of a failure.
var partNumbers = [...]protowire.Number{failMessage: 1, failStack: numFailureStackTrace, failAttributes: numFailureAttributes}

// failureTexts is what is hidden of one failure. EncodedAttributes is a serialized
// Payload; it may be present and empty.
type failureTexts struct {
	Message           string         `json:"message"`
	StackTrace        string         `json:"stack_trace"`
	EncodedAttributes []byte         `json:"encoded_attributes,omitzero"`
	Causes            []failureTexts `json:"causes,omitempty"`
}

// empty reports whether there is nothing to hide.
func (t *failureTexts) empty() bool {
	return t.Message == "" && t.StackTrace == "" && t.EncodedAttributes == nil
}

// hasTexts reports whether a failure holds anything to hide.
func (f *failureParts) hasTexts() bool {
	p := &f.parts
	return !p[failMessage].value.empty() || !p[failStack].value.empty() || !p[failAttributes].field.empty()
}

// markedFailure reports whether a failure has the marker of a sealed value.
func (c *call) markedFailure(f *failureParts, buf []byte) bool {
	p := &f.parts
	return c.markedAttributes(f, buf) ||
		envelope.MarkedText(p[failMessage].value.of(buf)) || envelope.MarkedText(p[failStack].value.of(buf))
}

// markedAttributes reports whether a failure has encoded_attributes that would be opened in a response.
func (c *call) markedAttributes(f *failureParts, buf []byte) bool {
	p := &f.parts[failAttributes]
	return !p.field.empty() && c.marked(p.value.of(buf))
}

// sealFailure seals the texts of a whole chain as one payload. It always includes
// encoded_attributes: if failures that look encoded were left alone, clear text could
// pass.
func (s *sealer) sealFailure(sl *slot, key *keyring.Sealer) error {
	if err := s.call.meter.take(textsCost * len(s.message.failures(sl))); err != nil {
		return err
	}
	doc, err := readTexts(s.message.failures(sl), s.message.walk.buf)
	if err != nil {
		return err
	}
	if err := s.call.meter.take(6 * len(doc)); err != nil { // three copies are made, after those that it is made of
		return err
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(&commonpb.Payload{Data: doc,
		Metadata: map[string][]byte{"encoding": []byte("json/plain"), failureTextsKey: []byte(failureTextsForm)}})
	if err != nil {
		return fmt.Errorf("write the failure's texts: %w", err)
	}
	sealed, err := key.AppendPayload(nil, payload, true, &s.nonces)
	if err != nil {
		return err
	}
	chain := s.message.failures(sl)
	for i := range chain {
		f := &chain[i]
		if !f.parts[failMessage].value.empty() {
			s.message.putPart(f, failMessage, []byte(encodedFailure))
		}
		s.message.putPart(f, failStack, nil)
		s.message.putPart(f, failAttributes, sealed)
		sealed = nil // the first failure holds the texts of all
	}
	return nil
}

// readTexts returns the document with the texts of a whole chain.
func readTexts(chain []failureParts, buf []byte) ([]byte, error) {
	texts := make([]failureTexts, len(chain))
	for i := range chain {
		p, t := &chain[i].parts, &texts[i]
		t.Message, t.StackTrace = string(p[failMessage].value.of(buf)), string(p[failStack].value.of(buf))
		if !p[failAttributes].field.empty() {
			t.EncodedAttributes = p[failAttributes].value.of(buf)
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

// putPart plans to write a part of a failure where it is, or where it belongs. If the value is nil, it removes the
// part.
func (m *Message) putPart(f *failureParts, i int, value []byte) {
	p := &f.parts[i]
	if value != nil {
		m.edit(p.field.or(p.place), f.box, m.storeField(partNumbers[i], value))
	} else if !p.field.empty() {
		m.edit(p.field, f.box, span{})
	}
}

// readFailureTexts returns the document in an opened payload. ok is false for a
// payload of the codec of an SDK.
func readFailureTexts(payload []byte) (t failureTexts, ok bool, err error) {
	h, err := parseHead(payload)
	if err != nil || h.failureTexts == "" {
		return t, false, err
	}
	if h.failureTexts != failureTextsForm {
		return t, false, fmt.Errorf("the texts of this failure have the form %q, which a newer release wrote; "+
			"upgrade this proxy", h.failureTexts)
	}
	if err := json.Unmarshal(h.data, &t); err != nil {
		return t, false, errors.New("the texts of this failure are no JSON document")
	}
	return t, true, nil
}

// openFailure plans the edits that restore the failure that had the envelope, and its
// causes, from what was opened into the arena behind `from`. Where the server or a
// worker wrapped the failure in another one, the envelope is in one of the causes.
func (o *opener) openFailure(it *openItem, from int) error {
	m, s := &o.message, it.slot
	chain := m.failures(s)[it.failure:]
	f := &chain[0]
	if it.action == policy.Redact {
		m.arena = m.arena[:from]
		m.putPart(f, failAttributes, nil)
		m.putPart(f, failMessage, []byte(redactedText))
		return nil
	}
	opened := m.arena[from:]
	var texts failureTexts
	var ok bool
	var err error
	if it.foreign == nil {
		if err := o.call.meter.take(8 * len(opened)); err != nil { // the least failure has 33 bytes in JSON
			return err
		}
		texts, ok, err = readFailureTexts(opened)
	}
	if err != nil {
		return o.call.fail(KindOpening, s.f.path, err)
	}
	if !ok { // the codec of an SDK encoded it: restore the payload that it made
		m.putPart(f, failAttributes, bytes.Clone(opened))
		return nil
	}
	clear(opened)
	m.arena = m.arena[:from]
	m.restoreTexts(f, &texts)
	for i := 1; i < len(chain) && i <= len(texts.Causes); i++ {
		if o.call.markedAttributes(&chain[i], m.walk.buf) {
			break // another envelope holds the texts from here on
		}
		m.restoreTexts(&chain[i], &texts.Causes[i-1])
	}
	return nil
}

// restoreTexts plans the edits that restore the texts of one failure.
func (m *Message) restoreTexts(f *failureParts, t *failureTexts) {
	texts := [...][]byte{failStack: nil, failAttributes: t.EncodedAttributes}
	if t.Message != "" {
		texts[failMessage] = []byte(t.Message)
	}
	if t.StackTrace != "" {
		texts[failStack] = []byte(t.StackTrace)
	}
	for i, text := range texts {
		m.putPart(f, i, text)
	}
}
