package envelope

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// The names that make the forms; see the package comment.
const (
	// EncodingWhole is the `encoding` of a Payload that holds an envelope and nothing else.
	EncodingWhole = "binary/sealed.v1"
	// EncodingView is the `encoding` of a Payload whose data is JSON with some values sealed.
	EncodingView = "json/sealed.v1"
	// ViewMetadataKey is the metadata entry of a view that holds the envelope.
	ViewMetadataKey = "sealed.v1"
	// TextPrefix starts a sealed text.
	TextPrefix = "sealed.v1:"
)

// wholePrefix is metadata{"encoding": EncodingWhole} on the wire, with the tag of data after it: all of a Payload of
// form 0 that does not vary.
const wholePrefix = "\x0a\x1c" + "\x0a\x08encoding" + "\x12\x10" + EncodingWhole + "\x12"

// viewEncodingEntry is metadata{"encoding": EncodingView} on the wire.
const viewEncodingEntry = "\x0a\x1a" + "\x0a\x08encoding" + "\x12\x0e" + EncodingView

// viewEntryPrefix starts the metadata entry of a view that holds the envelope.
const viewEntryPrefix = "\x0a\x09" + ViewMetadataKey + "\x12"

const (
	tagMetadata = 0x0a
	tagData     = 0x12
)

// Sealed is a payload or text with an envelope, parsed but neither authenticated nor opened. It aliases the bytes that it
// was parsed from.
type Sealed struct {
	Form     Form
	Header   *Header // never nil where a marker was found; empty in one that could not be read
	envelope []byte
	view     []byte
	grow     func(n int) error
}

// Ask has Open call grow before it decompresses n bytes. The error of grow is then that of Open.
func (s *Sealed) Ask(grow func(n int) error) { s.grow = grow }

// PlainSize is the length of what s holds, with its padding; of what is compressed or a view that of its sealed part.
func (s *Sealed) PlainSize() int { return len(s.envelope) - s.Header.Size() - nonceSize - tagSize }

// Envelope is the envelope in s.
func (s *Sealed) Envelope() []byte { return s.envelope }

// View is the readable document of a view.
func (s *Sealed) View() []byte { return s.view }

// KeyHeader is the part of the header that chooses the data key: all of it but version and flags.
func (s *Sealed) KeyHeader() []byte { return s.envelope[idOffset:s.Header.Size()] }

// markerStart is what every marker contains.
var markerStart = []byte("sealed.")

// Marked reports whether a serialized Payload has the marker: an encoding `*/sealed.*` or a metadata key `sealed.*`.
// Whatever ParsePayload would try to open is marked, and bytes that are no well-formed Payload are marked as soon as
// they contain the marker anywhere.
func Marked(payload []byte) bool {
	r := wire.Read(payload)
	for r.Next() && r.Type() != protowire.StartGroupType {
		if r.Number() == 1 && entryMarked(fieldBytes(&r)) {
			return true
		}
	}
	return !atEnd(&r) && bytes.Contains(payload, markerStart)
}

// entryMarked looks at one entry of the metadata map. Where a key or value is there twice, any of them counts.
func entryMarked(entry []byte) bool {
	key, value := false, false
	r := wire.Read(entry)
	for r.Next() && r.Type() != protowire.StartGroupType {
		switch val := fieldBytes(&r); r.Number() {
		case 1:
			if bytes.HasPrefix(val, markerStart) {
				return true
			}
			key = key || string(val) == "encoding"
		case 2:
			value = value || bytes.Contains(val, []byte("/sealed."))
		}
	}
	return key && value || !atEnd(&r) && bytes.Contains(entry, markerStart)
}

// fieldBytes returns the content of a length-delimited field, and nil for any other.
func fieldBytes(r *wire.Reader) []byte {
	if r.Bytes() {
		return r.Value()
	}
	return nil
}

// atEnd reports whether a message was read to its end, with no groups in it: no Payload has any.
func atEnd(r *wire.Reader) bool { return r.Err() == nil && r.Type() != protowire.StartGroupType }

// MarkedText reports whether a text has the marker, of this or of a later version.
func MarkedText(s []byte) bool {
	return bytes.HasPrefix(s, []byte("sealed.v")) && textVersionEnd(s) > 0
}

// textVersionEnd returns the length of "sealed.v<digits>:" at the start of s, or 0.
func textVersionEnd(s []byte) int {
	i := len("sealed.v")
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	if i == len("sealed.v") || i == len(s) || s[i] != ':' {
		return 0
	}
	return i + 1
}

// ParsePayload reads a Payload with an envelope (form 0 or 1). marked is false for a Payload without the marker. An error
// means that it has the marker and yet is not exactly of one of the forms, which is permanent.
func ParsePayload(payload []byte) (s Sealed, marked bool, err error) {
	env, plain := plainEnvelope(payload)
	if !plain && !Marked(payload) {
		return s, false, nil
	}
	s = Sealed{Form: FormPayload, Header: new(Header), envelope: env}
	if !plain {
		err = s.parseExact(payload)
	}
	if err == nil {
		err = s.parseHeader()
	}
	return s, true, err
}

// Reader reads the payloads of one message. Their envelopes mostly share their header or a few of them: each is parsed
// once. What it returns lives until Reset. The zero value is ready; it is not safe for concurrent use.
type Reader struct {
	headers []Header
	recent  [4]struct {
		start  uint64 // of the key id, which tells most headers apart
		header *Header
		bytes  []byte
	}
	next int
	last int // of recent, the one that was found last
}

// Reset forgets what was read, and keeps the memory that it took.
func (c *Reader) Reset() {
	clear(c.headers)
	*c = Reader{headers: c.headers[:0]}
}

// ParsePayload is the function of this name. It fills in s, which is empty: a copy for each payload would take as long
// as the rest.
func (c *Reader) ParsePayload(s *Sealed, payload []byte) (marked bool, err error) {
	env, ok := plainEnvelope(payload)
	if !ok || len(env) < referenceSize {
		*s, marked, err = ParsePayload(payload)
		return marked, err
	}
	s.Form, s.envelope = FormPayload, env
	start := binary.LittleEndian.Uint64(env[idOffset:])
	for i := range c.recent {
		at := uint(c.last+i) % uint(len(c.recent))
		r := &c.recent[at]
		if n := len(r.bytes); r.start == start && r.header != nil && len(env) >= n+nonceSize+tagSize && string(env[:n]) == string(r.bytes) {
			c.last = int(at)
			s.Header = r.header
			return true, nil
		}
	}
	if len(c.headers) == cap(c.headers) {
		c.headers = make([]Header, 0, max(4, min(2*cap(c.headers), 1<<10))) // those before it stay where they are
	}
	c.headers = c.headers[:len(c.headers)+1] // the places after its end are empty; see Reset
	s.Header = &c.headers[len(c.headers)-1]
	if !s.Header.readReference(env) {
		if err := s.parseHeader(); err != nil {
			return true, err
		}
	}
	c.last = c.next % len(c.recent)
	r := &c.recent[c.last]
	r.start, r.header, r.bytes = start, s.Header, env[:s.Header.Size()]
	c.next++
	return true, nil
}

// parseExact reads a Payload that has the marker and is not written as AppendPayload writes it.
func (s *Sealed) parseExact(payload []byte) error {
	var encoding, envelope, data []byte
	r := wire.Read(payload)
	for r.Next() && r.Bytes() {
		switch {
		case r.Number() == 1:
			key, value, err := readEntry(r.Value())
			switch {
			case err != nil:
				return err
			case string(key) == "encoding" && encoding == nil:
				encoding = value
			case string(key) == ViewMetadataKey && envelope == nil:
				envelope = value
			case bytes.HasPrefix(key, []byte("sealed.v")) && string(key) != ViewMetadataKey:
				return newerPayload()
			default:
				return notExact("its metadata holds something else or an entry twice")
			}
		case r.Number() == 2 && data == nil:
			data = r.Value()
		case r.Number() == externalPayloads && sizeAlone(r.Value()):
			// It repeats what the sealed payload has, for the server: nobody vouches for it, and what opens does not have it.
		default:
			return notExact("it holds a field besides metadata, data and the sizes of external payloads")
		}
	}
	switch {
	case r.Err() != nil || len(payload) > 0 && !r.Bytes():
		return notExact("it is no well-formed Payload")
	case string(encoding) == EncodingWhole && (envelope != nil || data == nil):
		return notExact("data is missing or the metadata holds an envelope as well")
	case string(encoding) == EncodingWhole:
		s.envelope = data
	case string(encoding) == EncodingView && (envelope == nil || data == nil):
		return notExact("the envelope or the readable document is missing")
	case string(encoding) == EncodingView:
		s.Form, s.envelope, s.view = FormView, envelope, data
	case bytes.Index(encoding, []byte("/sealed.v")) > 0 && !bytes.HasSuffix(encoding, []byte("/sealed.v1")):
		return newerPayload()
	default:
		return notExact("its encoding is not one of a sealed payload")
	}
	return nil
}

// externalPayloads is the field of a Payload with the sizes of values that SDKs keep in external storage. The server counts
// them, so they stand on a sealed payload too.
const externalPayloads = 3

// sizeAlone reports whether an entry of that field holds a size and nothing else.
func sizeAlone(entry []byte) bool {
	n := 0
	r := wire.Read(entry)
	for ; r.Next(); n++ {
		if r.Number() != 1 || r.Type() != protowire.VarintType {
			return false
		}
	}
	return r.Err() == nil && n <= 1
}

// plainEnvelope recognizes a Payload of form 0 as AppendPayload writes it, which is what most payloads are.
func plainEnvelope(payload []byte) (envelope []byte, ok bool) {
	rest, ok := bytes.CutPrefix(payload, []byte(wholePrefix))
	size, n := binary.Uvarint(rest)
	if !ok || n <= 0 || size != uint64(len(rest)-n) {
		return nil, false
	}
	return rest[n:], true
}

// parseHeader reads the header of the envelope.
func (s *Sealed) parseHeader() (err error) {
	*s.Header, err = ParseHeader(s.envelope)
	if err == nil && s.Header.Form() != s.Form {
		err = notExact("the envelope inside is of another form")
	}
	return err
}

func readEntry(entry []byte) (key, value []byte, err error) {
	r := wire.Read(entry)
	for r.Next() {
		switch {
		case r.Bytes() && r.Number() == 1 && key == nil:
			key = r.Value()
		case r.Bytes() && r.Number() == 2 && value == nil:
			value = r.Value()
		default:
			return nil, nil, notExact(notKeyAndValue)
		}
	}
	switch {
	case r.Err() != nil:
		err = notExact(notKeyAndValue)
	case key == nil || value == nil:
		err = notExact("a metadata entry lacks its key or value")
	}
	return key, value, err
}

// ParseText reads a text with an envelope (form 2); see ParsePayload.
func ParseText(text []byte) (s Sealed, marked bool, err error) {
	if !MarkedText(text) {
		return s, false, nil
	}
	s.Header = new(Header)
	encoded, ours := bytes.CutPrefix(text, []byte(TextPrefix))
	if !ours {
		return s, true, newerPayload()
	}
	env := make([]byte, base64.RawURLEncoding.DecodedLen(len(encoded)))
	// Strict: else the unused bits of the last letter and line breaks could vary without being noticed.
	n, err := base64.RawURLEncoding.Strict().Decode(env, encoded)
	if err != nil || bytes.ContainsAny(encoded, "\r\n") {
		return s, true, notExact("what follows the prefix is not base64url; it was cut off or changed")
	}
	s.Form, s.envelope = FormText, env[:n]
	return s, true, s.parseHeader()
}

const notKeyAndValue = "a metadata entry is not just a key and a value"

func notExact(why string) *crypto.Error {
	return crypto.Errorf(crypto.KindMalformed, "read envelope", "the value bears the marker of a sealed one but cannot be opened: %s", why)
}

func newerPayload() *crypto.Error {
	return crypto.Errorf(crypto.KindNewer, "read envelope", "a newer release sealed this; upgrade this proxy")
}
