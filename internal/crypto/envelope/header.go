package envelope

import (
	"crypto/hkdf"
	"crypto/sha256"
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
	suite1   = 1

	flagZstd   = 1 << 0
	flagPadded = 1 << 1
	formShift  = 2
	formMask   = 3 << formShift
	knownFlags = flagZstd | flagPadded | formMask

	fixedHeader  = 64
	saltOffset   = 16
	SaltSize     = 16
	idOffset     = 32
	IDSize       = 32
	nonceSize    = 12
	tagSize      = 16
	DataKeySize  = 32
	MaxKeyName   = 128
	MaxNamespace = 1000
	MaxWrapped   = 1024

	infoDataKeyID  = "temporal-seal/v1/data-key-id"
	infoPayloadKey = "temporal-seal/v1/suite1/payload-key"
)

// Header is the readable, authenticated start of an envelope. Key, Namespace and Wrapped may alias the envelope.
// Nothing in it is to be trusted before the envelope was opened.
type Header struct {
	Version, Suite, Flags byte
	Key, Namespace        string
	KEK                   crypto.KEKRef
	Salt                  [SaltSize]byte
	DataKeyID             [IDSize]byte
	Wrapped               []byte
}

// Form is the form that the flags name.
func (h *Header) Form() Form { return Form(h.Flags & formMask >> formShift) }

// Size is the length of the header.
func (h *Header) Size() int { return fixedHeader + len(h.Key) + len(h.Namespace) + len(h.Wrapped) }

// ParseHeader reads the header of an envelope and checks every length against the bytes at hand.
func ParseHeader(env []byte) (h Header, _ error) {
	const op = "read envelope"
	if len(env) < fixedHeader+nonceSize+tagSize {
		return h, crypto.Errorf(crypto.KindMalformed, op, "%d bytes are too few for an envelope; it was cut off or is no envelope", len(env))
	}
	h.Version, h.Suite, h.Flags = env[0], env[1], env[2]
	if h.Version != version1 || h.Suite != suite1 || h.Flags&^knownFlags != 0 || h.Form() > FormText {
		return h, crypto.Errorf(crypto.KindNewer, op, "version %d, suite %d, flags %#02x were written by a newer release; upgrade this proxy",
			h.Version, h.Suite, h.Flags)
	}
	l1, l2, l3 := int(env[3]), int(binary.BigEndian.Uint16(env[4:])), int(binary.BigEndian.Uint16(env[6:]))
	if l1 < 1 || l1 > MaxKeyName || l2 < 1 || l2 > MaxNamespace || l3 > MaxWrapped {
		return h, crypto.Errorf(crypto.KindMalformed, op, "lengths %d, %d, %d of key name, namespace and wrapped key are out of range", l1, l2, l3)
	}
	if len(env) < fixedHeader+l1+l2+l3+nonceSize+tagSize {
		return h, crypto.Errorf(crypto.KindMalformed, op, "the header promises more than the envelope's %d bytes; it was cut off", len(env))
	}
	if h.Form() == FormView && h.Flags&flagZstd != 0 {
		return h, crypto.Errorf(crypto.KindMalformed, op, "a view is never compressed")
	}
	h.KEK = crypto.KEKRef(env[8:saltOffset])
	h.Salt = [SaltSize]byte(env[saltOffset:idOffset])
	h.DataKeyID = [IDSize]byte(env[idOffset:fixedHeader])
	h.Key = aliasString(env[fixedHeader : fixedHeader+l1])
	h.Namespace = aliasString(env[fixedHeader+l1 : fixedHeader+l1+l2])
	h.Wrapped = env[fixedHeader+l1+l2 : fixedHeader+l1+l2+l3]
	return h, nil
}

// AppendHeader is ParseHeader's inverse. The caller has checked the lengths.
func AppendHeader(dst []byte, h *Header) []byte {
	dst = append(dst, h.Version, h.Suite, h.Flags, byte(len(h.Key)))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(h.Namespace)))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(h.Wrapped)))
	dst = append(dst, h.KEK[:]...)
	dst = append(dst, h.Salt[:]...)
	dst = append(dst, h.DataKeyID[:]...)
	dst = append(dst, h.Key...)
	dst = append(dst, h.Namespace...)
	return append(dst, h.Wrapped...)
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

// DeriveDataKeyID derives the id by which envelopes name a data key.
func DeriveDataKeyID(dataKey []byte) (id [IDSize]byte, err error) {
	out, err := expand(dataKey, infoDataKeyID, IDSize)
	copy(id[:], out)
	return id, err
}

func derivePayloadKey(dataKey []byte, salt *[SaltSize]byte) ([]byte, error) {
	return expand(dataKey, infoPayloadKey+string(salt[:]), 32)
}

// expand is HKDF-Expand. There is nothing to extract: data keys are uniformly random.
func expand(key []byte, info string, size int) ([]byte, error) {
	return hkdf.Expand(sha256.New, key, info, size)
}
