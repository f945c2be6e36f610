package main

import (
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
