package envelope

import (
	"encoding/binary"
	"strings"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// Form says what an envelope's plaintext is.
type Form uint8

const (
	// FormPayload holds a whole serialized Payload.
	FormPayload Form = iota
	// FormView holds what was cut out of a JSON document that is otherwise readable.
	FormView
	// FormText holds a UTF-8 text.
	FormText
)

// String names the form.
func (f Form) String() string {
	return [...]string{"payload", "view", "text", "unknown"}[min(f, 3)]
}

const (
	version1 = 1

	formMask      = 3
	flagZstd      = 1 << 2
	flagPadded    = 1 << 3
	flagReference = 1 << 4
	flagSubject   = 1 << 5
	knownFlags    = formMask | flagZstd | flagPadded | flagReference | flagSubject

	flagsOffset   = 1
	idOffset      = 2
	referenceSize = 18 // of the whole header of an envelope by reference
	lengthsOffset = 26
	namesOffset   = 31

	nonceSize    = 12
	tagSize      = 16
	DataKeySize  = 32
	MaxKeyName   = 128
	MaxNamespace = 1000
	MaxWrapped   = 1024
)

// Header is the readable, authenticated start of an envelope. Key, Namespace and Wrapped may alias the envelope.
// Nothing in it is to be trusted before the envelope was opened.
type Header struct {
	Flags byte
	ID    crypto.KeyID // of the data key
	// The rest is empty in an envelope by reference, until its row was looked up.
	KEK            crypto.KEKRef
	Key, Namespace string
	Wrapped        []byte
	// SubjectRow is what the key store has of a subject's key; nil until it was looked up.
	SubjectRow *crypto.SubjectRow
	// Life is the same of a data key that expires.
	Life *crypto.KeyLife
	// Found is what the package that looked up the names found them by, so that it need not look again; nil: it has not. It proves
	// nothing.
	Found any
}

// Form is the form that the flags name.
func (h *Header) Form() Form { return Form(h.Flags & formMask) }

// Reference reports whether the envelope names a row of the key store instead of carrying its wrapped data key.
func (h *Header) Reference() bool { return h.Flags&flagReference != 0 }

// Subject reports whether the envelope is under the key of a subject.
func (h *Header) Subject() bool { return h.Flags&flagSubject != 0 }

// Size is the length of the header.
func (h *Header) Size() int {
	if h.Reference() {
		return referenceSize
	}
	return namesOffset + len(h.Key) + len(h.Namespace) + len(h.Wrapped)
}

// ParseHeader reads the header of an envelope and checks every length against the bytes at hand.
func ParseHeader(env []byte) (h Header, _ error) {
	const op = "read envelope"
	if len(env) < referenceSize+nonceSize+tagSize {
		return h, crypto.Errorf(crypto.KindMalformed, op, "%d bytes are too few for an envelope; it was cut off, or is not an envelope", len(env))
	}
	h.Flags, h.ID = env[flagsOffset], crypto.KeyID(env[idOffset:])
	if env[0] != version1 || h.Flags&^knownFlags != 0 || h.Form() > FormText {
		return h, crypto.Errorf(crypto.KindNewer, op, "version %d, flags %#02x were written by a newer release; upgrade this proxy",
			env[0], h.Flags)
	}
	if h.Form() == FormView && h.Flags&flagZstd != 0 {
		return h, crypto.Errorf(crypto.KindMalformed, op, "a view is never compressed")
	}
	if h.Reference() {
		return h, nil
	}
	if h.Flags&flagSubject != 0 {
		return h, crypto.Errorf(crypto.KindMalformed, op, "an envelope with a subject is always one by reference")
	}
	if len(env) < namesOffset+nonceSize+tagSize {
		return h, crypto.Errorf(crypto.KindMalformed, op, "%d bytes are too few for an envelope with its data key; it was cut off", len(env))
	}
	l1, l2, l3 := int(env[lengthsOffset]), int(binary.BigEndian.Uint16(env[lengthsOffset+1:])), int(binary.BigEndian.Uint16(env[lengthsOffset+3:]))
	if l1 < 1 || l1 > MaxKeyName || l2 < 1 || l2 > MaxNamespace || l3 < 1 || l3 > MaxWrapped {
		return h, crypto.Errorf(crypto.KindMalformed, op, "lengths %d, %d, %d of key name, namespace and wrapped key are out of range", l1, l2, l3)
	}
	namespace, wrapped := namesOffset+l1, namesOffset+l1+l2
	end := wrapped + l3
	if len(env) < end+nonceSize+tagSize {
		return h, crypto.Errorf(crypto.KindMalformed, op, "the header promises more than the envelope's %d bytes; it was cut off", len(env))
	}
	h.KEK = crypto.KEKRef(env[referenceSize:])
	h.Key, h.Namespace, h.Wrapped = aliasString(env[namesOffset:namespace]), aliasString(env[namespace:wrapped]), env[wrapped:end]
	return h, nil
}

// readReference reads the header of an envelope by reference that holds a payload, which is most of them, into an empty one. It
// reports false, and changes nothing, for any other and for one that is not valid: [ParseHeader] has the rules.
func (h *Header) readReference(env []byte) bool {
	const other = knownFlags&^(flagReference|flagSubject|flagZstd|flagPadded) | ^byte(knownFlags)
	if len(env) < referenceSize+nonceSize+tagSize || env[0] != version1 || env[flagsOffset]&flagReference == 0 || env[flagsOffset]&other != 0 {
		return false
	}
	h.Flags, h.ID = env[flagsOffset], crypto.KeyID(env[idOffset:])
	return true
}

// AppendHeader is ParseHeader's inverse. The caller has checked the lengths.
func AppendHeader(dst []byte, h *Header) []byte {
	dst = append(dst, version1, h.Flags)
	dst = append(dst, h.ID[:]...)
	if h.Reference() {
		return dst
	}
	dst = append(dst, h.KEK[:]...)
	dst = append(dst, byte(len(h.Key)))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(h.Namespace)))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(h.Wrapped)))
	dst = append(dst, h.Key...)
	dst = append(dst, h.Namespace...)
	return append(dst, h.Wrapped...)
}

// ReferenceTo returns the header of envelopes by reference under the data key of a self-contained one.
func ReferenceTo(h *Header) *Header { return &Header{Flags: flagReference, ID: h.ID} }

// SubjectReference returns the header of envelopes under the key of a subject. The names are for errors alone.
func SubjectReference(id crypto.KeyID, key, namespace string) *Header {
	return &Header{Flags: flagReference | flagSubject, ID: id, Key: key, Namespace: namespace}
}

// KeyHeader is what Sealed.KeyHeader returns for envelopes with this header.
func (h *Header) KeyHeader() []byte {
	return AppendHeader(make([]byte, 0, h.Size()), h)[idOffset:]
}

// aliasString avoids a copy per payload: the names in a header live no longer than the message they came in.
func aliasString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Errorf makes an error about the envelope. It copies the names, so it may outlive the bytes that the header aliases.
func (h *Header) Errorf(kind crypto.Kind, op, format string, args ...any) *crypto.Error {
	return crypto.Errorf(kind, op, format, args...).In(strings.Clone(h.Key), strings.Clone(h.Namespace))
}

// Tampered makes the error of an envelope that is not as it was sealed.
func (h *Header) Tampered(why string) *crypto.Error {
	return h.Errorf(crypto.KindTampered, "open", "the envelope was changed after it was sealed, or put together from pieces: %s", why)
}

// PayloadSize is the length of what AppendPayload appends under this header for a payload of n bytes that is not compressed.
func (h *Header) PayloadSize(n int) int {
	env := envelopeSize(h.Size(), bodySize(n))
	return len(wholePrefix) + protowire.SizeBytes(env)
}
