package rewrite

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
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
func (s *sealer) sealFailure(item int) error {
	sl, key := s.items[item].slot, s.items[item].seal
	chain := s.message.failures(sl)
	if err := s.call.meter.take(textsCost * len(chain)); err != nil {
		return err
	}
	texts, err := readTexts(chain, s.message.walk.buf)
	if err != nil {
		return err
	}
	payload, err := textsPayload(texts)
	if err != nil {
		return err
	}
	if err := s.call.meter.take(6 * len(payload)); err != nil { // three copies are made, after those that it is made of
		return err
	}
	sealed, err := sealTexts(texts, payload, s.failureLimit(item), key, &s.nonces)
	if err != nil {
		return err
	}
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

// failureLimit returns how many bytes the sealed texts of a chain of failures may take so that the server keeps them; 0 if
// there is no such limit. It depends on the sizes of what stays readable and of other payloads, and not on the texts.
func (s *sealer) failureLimit(item int) int {
	it, m := &s.items[item], &s.message
	size, limit := len(m.content(it.slot)), maxAttemptFailure
	switch {
	case it.size > 0:
		limit = it.size
	case !retriedFailures[s.call.method.name]:
		return 0
	}
	chain := m.failures(it.slot)
	rest := size
	for i := range chain {
		for _, p := range chain[i].parts {
			rest -= int(p.field.to - p.field.from)
		}
		rest += len(encodedFailure) + fieldRoom
	}
	bounds := m.place(it.slot)
	for i := item + 1; i < len(s.items) && m.place(s.items[i].slot).from < bounds.to; i++ {
		plain := len(m.content(s.items[i].slot))
		rest += it.key.PayloadSize(plain) - plain + fieldRoom*len(chain)
	}
	return max(limit-rest-fieldRoom, 1)
}

// fieldRoom is what the tag and the length of a field take at most, in bytes, and by how much a length around it may grow.
const fieldRoom = 8

// sealTexts seals the texts of a chain of failures. Texts are not compressed, since the length would show what they
// repeat, unless they do not fit a limit (0: there is none). Then they are shortened until they do, and padded to it.
func sealTexts(texts []failureTexts, payload []byte, limit int, key keyring.Envelope, nonces *envelope.Nonces) (sealed []byte, err error) {
	if limit == 0 || key.PayloadSize(len(payload)) <= limit {
		return key.AppendPayload(nil, payload, false, nonces)
	}
	for fitting := payload; ; {
		sealed, ok, err := key.AppendWithin(nil, fitting, limit, nonces)
		if ok || err != nil {
			return sealed, err
		}
		if !shorten(texts) { // what an SDK encoded itself cannot be cut
			return key.AppendPayload(nil, payload, false, nonces)
		}
		if fitting, err = textsPayload(texts); err != nil {
			return nil, err
		}
	}
}

const (
	shortenedText = "\n[shortened: the server keeps 4 KB of the failure of an attempt]"
	leastText     = 200 // shorter ones are not shortened, in bytes
)

// shorten cuts the longest stack trace in half, or else the longest message. It returns false if all are short.
func shorten(texts []failureTexts) bool {
	var longest *string
	for _, of := range []func(*failureTexts) *string{func(t *failureTexts) *string { return &t.StackTrace }, func(t *failureTexts) *string { return &t.Message }} {
		for i := range texts {
			if text := of(&texts[i]); len(*text) > leastText && (longest == nil || len(*text) > len(*longest)) {
				longest = text
			}
		}
		if longest != nil {
			half := strings.TrimSuffix(*longest, shortenedText)
			*longest = strings.ToValidUTF8(half[:len(half)/2], "") + shortenedText
			return true
		}
	}
	return false
}

// textsPayload returns the Payload that holds the texts of a whole chain.
func textsPayload(texts []failureTexts) ([]byte, error) {
	first := texts[0]
	last := len(texts)
	for last > 1 && texts[last-1].empty() {
		last--
	}
	first.Causes = texts[1:last]
	doc, err := json.Marshal(&first)
	if err != nil {
		return nil, fmt.Errorf("write the failure's texts: %w", err)
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(&commonpb.Payload{Data: doc,
		Metadata: map[string][]byte{"encoding": []byte("json/plain"), failureTextsKey: []byte(failureTextsForm)}})
	if err != nil {
		return nil, fmt.Errorf("write the failure's texts: %w", err)
	}
	return payload, nil
}

// readTexts returns the texts of a whole chain.
func readTexts(chain []failureParts, buf []byte) ([]failureTexts, error) {
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
	return texts, nil
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
		return t, false, errors.New("the texts of this failure are not a JSON document")
	}
	return t, true, nil
}

// FailureTexts is what is hidden of a failure and its causes.
type FailureTexts = failureTexts

// OpenedFailure returns the texts that an opened payload holds of a chain of failures; ok is false if it holds something else.
func OpenedFailure(payload []byte) (t FailureTexts, ok bool, err error) {
	return readFailureTexts(payload)
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
		text := redactedText
		if gone, is := it.destroyed(); is {
			text = gone.Text()
		}
		m.putPart(f, failMessage, []byte(text))
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
