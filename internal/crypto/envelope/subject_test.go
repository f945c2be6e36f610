package envelope

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The values are those that an independent program computed, beside the vectors of envelopes.
const (
	vectorIndexKey = "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f"
	vectorWrapKey  = "606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f"
	vectorSubject  = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
	vectorWrapped  = "d0d1d2d3d4d5d6d7d8d9dadbde675fc408722e68318120bd2035dafa0315a279d4de66980fdaffcebf444c91f43db59c0d9dbe9d1a773a8f6830b103"
)

func vectorTag(t *testing.T) crypto.SubjectTag {
	return crypto.SubjectTag(unhex(t, "0c371dcf3221310b423edb7004c37a7fbd032d0e464edffc793600b428628503"))
}

func TestVectorsOfSubjects(t *testing.T) {
	index, err := NewIndexKey(unhex(t, vectorIndexKey), "phi", "clinic-prod")
	if err != nil || index.ID().String() != "0a7853f38ed6d1bc80265b3ccf748aa2" {
		t.Fatalf("index key %s, error %v", index.ID(), err)
	}
	for subject, want := range map[string]string{
		"P-42":                   "0c371dcf3221310b423edb7004c37a7fbd032d0e464edffc793600b428628503",
		"42":                     "620ab6dc6991486adb3b7504602aed521073c7c8ba8ed741a7cd7d42381b7929",
		"Zoë":                    "e6c2e3e5eac05cd5b07d17145323eafac8dc134dec8a41f899fd77bede9f8c2a",
		strings.Repeat("x", 256): "c35dd6fc8897927834ca4645f1e439f214868418151389e1775206dd7b3a7186",
	} {
		if tag := index.Tag([]byte(subject)); hex.EncodeToString(tag[:]) != want {
			t.Errorf("tag of %.8s: %x", subject, tag)
		}
	}
	wrap, err := NewWrapKey(unhex(t, vectorWrapKey), "phi", "clinic-prod")
	if err != nil || wrap.ID().String() != "a93c6e2dd25ea698d5ff23b896bbf3d0" {
		t.Fatalf("wrap key %s, error %v", wrap.ID(), err)
	}
	tag := vectorTag(t)
	c := &Context{Kind: KindSubject, Key: "phi", Namespace: "clinic-prod", SubjectTag: tag[:]}
	id, err := ID(unhex(t, vectorSubject), c)
	if err != nil || id.String() != "0aa41b73f2587e99f2eabe8646498bd7" {
		t.Fatalf("subject key %s, error %v", id, err)
	}
	plain, ok := wrap.Unwrap(unhex(t, vectorWrapped), id, c)
	if !ok || hex.EncodeToString(plain) != vectorSubject {
		t.Errorf("unwrapped %x, %v", plain, ok)
	}
}

// TestWrappedSubjectKeyIsBound: a wrapped key that is put elsewhere does not unwrap.
func TestWrappedSubjectKeyIsBound(t *testing.T) {
	wrap, err := NewWrapKey(unhex(t, vectorWrapKey), "phi", "clinic-prod")
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewWrapKey(unhex(t, vectorIndexKey), "phi", "clinic-prod")
	if err != nil {
		t.Fatal(err)
	}
	tag := vectorTag(t)
	context := func() *Context {
		return &Context{Kind: KindSubject, Key: "phi", Namespace: "clinic-prod", SubjectTag: tag[:]}
	}
	key, id, err := NewSubjectKey(context())
	if err != nil {
		t.Fatal(err)
	}
	wrapped := wrap.Wrap(key, id, context())
	if got, ok := wrap.Unwrap(wrapped, id, context()); !ok || string(got) != string(key) || len(wrapped) != WrappedSubjectSize {
		t.Fatalf("unwrapped %v, %d bytes", ok, len(wrapped))
	}
	moved := vectorTag(t)
	moved[0] ^= 1
	for what, c := range map[string]*Context{
		"subject":   {Kind: KindSubject, Key: "phi", Namespace: "clinic-prod", SubjectTag: moved[:]},
		"namespace": {Kind: KindSubject, Key: "phi", Namespace: "clinic-test", SubjectTag: tag[:]},
		"key name":  {Kind: KindSubject, Key: "psi", Namespace: "clinic-prod", SubjectTag: tag[:]},
		"kind":      {Kind: KindData, Key: "phi", Namespace: "clinic-prod", SubjectTag: tag[:]},
	} {
		if _, ok := wrap.Unwrap(wrapped, id, c); ok {
			t.Errorf("it unwraps for another %s", what)
		}
	}
	if _, ok := wrap.Unwrap(wrapped, crypto.KeyID{1}, context()); ok {
		t.Error("it unwraps under another id")
	}
	if _, ok := other.Unwrap(wrapped, id, context()); ok {
		t.Error("another wrap key unwraps it")
	}
	if _, ok := wrap.Unwrap(wrapped[:WrappedSubjectSize-1], id, context()); ok {
		t.Error("it unwraps though it was cut off")
	}
}

func TestSubjectAt(t *testing.T) {
	for document, want := range map[string]string{
		`{"patient":{"id":"P-42"}}`:                             "P-42",
		`{"patient":{"id":42}}`:                                 "42",
		`{"patient":{"id":-7}}`:                                 "-7",
		`{"patient":{"id":"\u005a\u006f\u00eb"}}`:               "Zoë",
		`{"patient":{"id":9007199254740991}}`:                   "9007199254740991",
		`{"patient":{"id":9007199254740992}}`:                   SubjectType.Error(),
		`{"patient":{"id":4.0}}`:                                SubjectType.Error(),
		`{"patient":{"id":4e1}}`:                                SubjectType.Error(),
		`{"patient":{"id":-0}}`:                                 SubjectType.Error(),
		`{"patient":{"id":null}}`:                               SubjectType.Error(),
		`{"patient":{"id":["P-42"]}}`:                           SubjectType.Error(),
		`{"patient":{"id":""}}`:                                 SubjectEmpty.Error(),
		`{"patient":{"id":"` + strings.Repeat("x", 257) + `"}}`: SubjectTooLong.Error(),
		`{"patient":{}}`:                                        NoSubject.Error(),
		`[]`:                                                    NoSubject.Error(),
		`{"patient":{"id":"P-42","id":"P-43"}}`:                 Unreadable.Error(),
		`{"patient":{"id":"P-42"}`:                              Unreadable.Error(),
		`{"patient":{"id":"P-42"},"note":"\ud83d"}`:             Unreadable.Error(),
	} {
		payload := []byte("\x0a" + lengthPrefixed("\x0a\x08encoding\x12"+lengthPrefixed("json/plain")) + "\x12" + lengthPrefixed(document))
		got, err := SubjectAt(payload, "/patient/id")
		if err != nil {
			got = []byte(err.Error())
		}
		if string(got) != want {
			t.Errorf("%.60s: %s, want %s", document, got, want)
		}
	}
	if _, err := SubjectAt([]byte(payloadOf("binary/plain", "{}")), "/a"); err != NoDocument {
		t.Errorf("a document of another encoding: %v", err)
	}
	if _, err := SubjectAt([]byte(payloadOf("json/encrypted", "{}")), "/a"); err != Unreadable {
		t.Errorf("JSON of an unknown kind: %v", err)
	}
	if _, err := SubjectAt([]byte("\x0a\x02\x0a"), "/a"); err != Unreadable {
		t.Errorf("a payload that cannot be parsed: %v", err)
	}
}

func TestSubjectReference(t *testing.T) {
	h := SubjectReference(crypto.KeyID{1}, "phi", "clinic-prod")
	if !h.Reference() || !h.Subject() || h.Size() != referenceSize {
		t.Errorf("header %+v of %d bytes", h, h.Size())
	}
	if KindIndex.String() != "index" || Kind(9).String() != "unknown" {
		t.Errorf("kinds %s, %s", KindIndex, Kind(9))
	}
}
