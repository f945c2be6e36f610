package main

import (
	"bytes"
	"compress/zlib"
	"crypto/aes"
	"crypto/cipher"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// contents are payloads as applications and SDKs send them, and as somebody sends them who means harm. The JSON members
// are those that the profiles' policies ask for.
var contents = []struct{ encoding, data string }{
	{"json/plain", `"text"`},
	{"json/plain", `{"token":"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln","ward":"4B","patient_id":"P-1"}`},
	{"json/plain", `{"items":[{"price":1,"name":"a"},{"price":2}],"token":"t"}`},
	{"json/plain", `{"ward":"4B","diagnosis":"J45"}`},
	{"json/plain", `"emergency"`},
	{"json/plain", `"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"`},
	{"json/plain", `{"deny":true}`},
	{"json/plain", `{"token":1,"token":"twice"}`},
	{"json/plain", `12345678901234567890123456789012345678901234567890123456789012345678901234567890`},
	{"json/plain", `{"broken":`},
	{"json/plain", ``},
	{"json/plain", `null`},
	{"json/plain", `[]`},
	{"json/plain", ` { "token" : "spaced" , "ward":"\u0034B" } `},
	{"binary/plain", "\x00\x01\x02\xff"},
	{"binary/null", ""},
	{"json/protobuf", `{"name":"x"}`},
	{"binary/protobuf", "\x0a\x03abc"},
	{"", "no encoding"},
	{"my-encoding", "of its own"},
	{"_passthrough", "passes"},
	{"binary/encrypted", "nonce-and-ciphertext-of-another-tool"},
	{"binary/zlib", "x\x9c\x03\x00\x00\x00\x00\x01"},
	{"binary/sealed.v1", "pasted"},
	{"json/sealed.v1", `{"token":{"sealed":"pasted"}}`},
	{"BINARY/SEALED.V1", "pasted"},
	{"binary/sealed.v9", "of a newer release"},
	{"binary/encrypted", encryptedElsewhere()},
	{"binary/zlib", compressedElsewhere()},
}

// foreignKey and foreignKeyID are those of the codec whose payloads one profile reads.
const foreignKey, foreignKeyID = "0123456789abcdef0123456789abcdef", "test"

// elsewhere is what another tool's codec encoded.
func elsewhere() []byte {
	return marshal(&commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")},
		Data: []byte(`"SECRET OF A CODEC"`)})
}

// encryptedElsewhere is a payload as the samples of Temporal's SDKs encrypt it: nonce, ciphertext and tag of AES-GCM.
func encryptedElsewhere() string {
	block, err := aes.NewCipher([]byte(foreignKey))
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // this block has the size that GCM takes
	}
	nonce := make([]byte, gcm.NonceSize()) // the same one each time: both builds get the same bytes
	return string(gcm.Seal(nonce, nonce, elsewhere(), nil))
}

// compressedElsewhere is a payload as the SDK's zlib codec compresses it.
func compressedElsewhere() string {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	_, _ = w.Write(elsewhere()) // to memory, which takes it
	_ = w.Close()
	return b.String()
}

// payload fills one in. Content, metadata and size are drawn apart.
func (g *generator) payload(m protoreflect.Message) {
	p := m.Interface().(*commonpb.Payload)
	c := contents[g.r.IntN(len(contents))]
	p.Data = []byte(c.data)
	p.Metadata = map[string][]byte{}
	if c.encoding != "" {
		p.Metadata["encoding"] = []byte(c.encoding)
	}
	if c.encoding == "binary/encrypted" {
		p.Metadata["encryption-key-id"] = []byte(foreignKeyID)
	}
	switch g.r.IntN(12) {
	case 0:
		p.Metadata["messageType"] = []byte("temporal.api.workflowservice.v1.SignalWithStartWorkflowExecutionRequest")
	case 1:
		p.Metadata["type"] = []byte("Keyword")
	case 2:
		p.Metadata["sealed.x"] = []byte("1")
	case 3:
		p.ExternalPayloads = []*commonpb.Payload_ExternalPayloadDetails{{SizeBytes: 300000}}
	case 4:
		p.Metadata["__temporal_system_payload"] = []byte("true")
	case 5:
		p.Data = []byte(`"` + strings.Repeat("x", 200<<g.r.IntN(8)) + `"`)
		p.Metadata["encoding"] = []byte("json/plain")
	case 6:
		p.Metadata = nil
	}
}
