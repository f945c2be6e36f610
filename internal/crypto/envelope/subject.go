package envelope

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

const (
	// MaxSubject is the most bytes that the text of a subject has.
	MaxSubject = 256
	// WrappedSubjectSize is the length of a subject's key that a WrapKey has wrapped: nonce, key and tag.
	WrappedSubjectSize = nonceSize + DataKeySize + tagSize
	// maxSubjectNumber is the first integer that JSON readers may confuse with another one.
	maxSubjectNumber = 1 << 53
)

// ID derives the id of a data key of any kind.
func ID(dataKey []byte, c *Context) (id crypto.KeyID, err error) {
	named, err := expand(dataKey, "id", c)
	if err != nil {
		return id, err
	}
	return crypto.KeyID(named[:len(id)]), nil
}

// WrapKey wraps the keys of subjects. It is immutable.
type WrapKey struct {
	id  crypto.KeyID
	gcm cipher.AEAD
}

// NewWrapKey derives a WrapKey from its data key, for a key name and a namespace as envelopes have it.
func NewWrapKey(dataKey []byte, key, namespace string) (*WrapKey, error) {
	c := &Context{Kind: KindWrap, Key: key, Namespace: namespace}
	id, err := ID(dataKey, c)
	if err != nil {
		return nil, err
	}
	derived, err := expand(dataKey, "wrap", c)
	if err != nil {
		return nil, err
	}
	defer clear(derived)
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	return &WrapKey{id, gcm}, err
}

// ID is the id of the wrap key.
func (w *WrapKey) ID() crypto.KeyID { return w.id }

// Wrap wraps the key of a subject. Its id is bound in, and what it is for.
func (w *WrapKey) Wrap(dataKey []byte, id crypto.KeyID, c *Context) []byte {
	return w.gcm.Seal(nil, nil, dataKey, w.associated(id, c))
}

// Unwrap is Wrap's inverse. ok is false if the wrapped key is not that of the id and the context under this wrap key.
func (w *WrapKey) Unwrap(wrapped []byte, id crypto.KeyID, c *Context) (dataKey []byte, ok bool) {
	if len(wrapped) != WrappedSubjectSize {
		return nil, false
	}
	dataKey, err := w.gcm.Open(nil, nil, wrapped, w.associated(id, c))
	return dataKey, err == nil
}

func (w *WrapKey) associated(id crypto.KeyID, c *Context) []byte {
	aad := append([]byte("temporal-seal/v1/wrapped\x00"), w.id[:]...)
	return c.append(append(aad, id[:]...))
}

// IndexKey makes the tags of subjects. It is immutable.
type IndexKey struct {
	id  crypto.KeyID
	key []byte
}

// NewIndexKey derives an IndexKey from its data key, for a key name and a namespace as envelopes have it.
func NewIndexKey(dataKey []byte, key, namespace string) (*IndexKey, error) {
	c := &Context{Kind: KindIndex, Key: key, Namespace: namespace}
	id, err := ID(dataKey, c)
	if err != nil {
		return nil, err
	}
	derived, err := expand(dataKey, "tag", c)
	return &IndexKey{id, derived}, err
}

// ID is the id of the index key.
func (k *IndexKey) ID() crypto.KeyID { return k.id }

// Tag returns the tag of a subject, by which the key store finds its keys.
func (k *IndexKey) Tag(subject []byte) (tag crypto.SubjectTag) {
	mac := hmac.New(sha256.New, k.key)
	mac.Write(subject)
	return crypto.SubjectTag(mac.Sum(tag[:0]))
}

// NewSubjectKey draws the key of a subject. It fails only if the derivation of its id does.
func NewSubjectKey(c *Context) (dataKey []byte, id crypto.KeyID, err error) {
	dataKey = make([]byte, DataKeySize)
	rand.Read(dataKey)
	id, err = ID(dataKey, c)
	return dataKey, id, err
}

// NotSubject is why something is no subject. Its text holds no byte of it.
type NotSubject string

func (e NotSubject) Error() string { return string(e) }

// Reasons of NotSubject.
const (
	NoSubject      NotSubject = "the payload has nothing at the place of the subject"
	SubjectType    NotSubject = "what stands at the place of the subject is neither a string nor an integer below 2^53"
	SubjectEmpty   NotSubject = "the subject is empty"
	SubjectTooLong NotSubject = "the subject is longer than 256 bytes"
	NoDocument     NotSubject = "the payload is no JSON document in which a subject could be found"
	Unreadable     NotSubject = "the payload is JSON that cannot be read, or that two readers may read differently, so it may name a subject"
)

// CheckSubject returns why a text is no subject; nil if it is one.
func CheckSubject(text []byte) error {
	switch {
	case len(text) == 0:
		return SubjectEmpty
	case len(text) > MaxSubject:
		return SubjectTooLong
	}
	return nil
}

// SubjectAt returns the subject at a JSON pointer of the document in a serialized Payload: the bytes of a string, or an integer
// below 2^53 in decimal. A document that two readers might read differently is Unreadable, as is JSON of an unknown kind.
func SubjectAt(payload []byte, pointer string) ([]byte, error) {
	start, end, ok := jsonData(payload)
	if !ok && claimsJSON(payload) {
		return nil, Unreadable
	}
	if !ok {
		return nil, NoDocument
	}
	data := payload[start:end]
	holes, _, why, ok := selectHoles(data, Selection{Fields: []string{pointer}})
	switch {
	case !ok && why != Matched:
		return nil, NoSubject
	case !ok || len(holes) != 1:
		return nil, Unreadable
	}
	return canonicalSubject(data[holes[0].start:holes[0].end])
}

// claimsJSON reports whether a Payload may be JSON of any kind by its encodings. What cannot be parsed may be.
func claimsJSON(payload []byte) bool {
	r := wire.Read(payload)
	for r.Next() && r.Type() != protowire.StartGroupType {
		if r.Number() != 1 {
			continue
		}
		key, value, err := readEntry(fieldBytes(&r))
		if err != nil || string(key) == "encoding" && bytes.HasPrefix(value, []byte("json/")) {
			return true
		}
	}
	return !atEnd(&r)
}

// canonicalSubject returns the bytes of a JSON value that is a subject.
func canonicalSubject(value []byte) ([]byte, error) {
	var text []byte
	if value[0] == '"' {
		var s string
		if json.Unmarshal(value, &s) != nil {
			return nil, SubjectType
		}
		text = []byte(s)
	} else {
		n, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil || n <= -maxSubjectNumber || n >= maxSubjectNumber || bytes.HasPrefix(value, []byte("-0")) {
			return nil, SubjectType
		}
		text = bytes.Clone(value)
	}
	if err := CheckSubject(text); err != nil {
		return nil, err
	}
	return text, nil
}

// Destroyed is why an envelope opens nowhere any more: its key was destroyed on purpose.
type Destroyed struct {
	At      time.Time
	Expired bool // its life was over; else its subject was erased
}

// Destroyed returns why the envelope opens nowhere any more, once its row was looked up; false if that is not known of it.
func (h *Header) Destroyed() (d Destroyed, is bool) {
	switch row := h.SubjectRow; {
	case row != nil && row.Erased != 0:
		return Destroyed{At: row.ErasedAt}, true
	case h.Life.Gone():
		return Destroyed{At: h.Life.End, Expired: true}, true
	}
	return d, false
}

// Is reports whether an error is that of opening such an envelope.
func (d Destroyed) Is(err error) bool {
	if d.Expired {
		return crypto.KindOf(err) == crypto.KindExpired
	}
	return crypto.KindOf(err) == crypto.KindErased
}

// Text replaces the value for readers.
func (d Destroyed) Text() string {
	what := "erased"
	if d.Expired {
		what = "expired"
	}
	return "[" + what + " on " + d.At.UTC().Format(time.DateOnly) + "]"
}

// Payload holds the text as a JSON string, which every SDK can decode.
func (d Destroyed) Payload() string {
	text := `"` + d.Text() + `"`
	return "\x0a\x16\x0a\x08encoding\x12\x0ajson/plain\x12" + string(byte(len(text))) + text
}
