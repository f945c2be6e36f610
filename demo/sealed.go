package main

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"regexp"
	"strings"

	failurepb "go.temporal.io/api/failure/v1"
)

// What a sealed payload looks like from outside. Its header is in clear (and authenticated), so that the key can be told by whoever
// looks at the database, and by this demo.
const (
	encodingWhole = "binary/sealed.v1"
	encodingView  = "json/sealed.v1"
	headerSize    = 31 // before the names, where the envelope carries its data key
	byReference   = 1 << 4
)

// token finds JSON Web Tokens, which are too long to be shown whole.
var token = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}`)

// stored is what the server has of a slot.
type stored struct {
	verdict string // seal or pass
	key     string
	size    int    // bytes, names included
	text    string // shortened later
}

// lookAt reads a slot as the server has it.
func lookAt(s slot) stored {
	if s.failure != nil {
		return lookAtFailure(s.failure)
	}
	encoding := string(s.payload.GetMetadata()["encoding"])
	switch encoding {
	case encodingWhole:
		return sealedBytes(encoding, s.payload.GetData())
	case encodingView:
		out := sealedBytes(encoding, s.payload.GetMetadata()["sealed.v1"])
		out.text = string(s.payload.GetData())
		return out
	}
	return stored{verdict: "pass", size: len(s.payload.GetData()), text: clearText(s)}
}

// sealedBytes reads the header's names.
func sealedBytes(encoding string, envelope []byte) stored {
	out := stored{verdict: "seal", key: "?", size: len(envelope), text: base64.StdEncoding.EncodeToString(envelope)}
	if len(envelope) < headerSize || envelope[0] != 1 || envelope[1]&byReference != 0 {
		return out
	}
	keyLen, nsLen := int(envelope[26]), int(binary.BigEndian.Uint16(envelope[27:]))
	wrappedLen := int(binary.BigEndian.Uint16(envelope[29:]))
	if body := headerSize + keyLen + nsLen + wrappedLen; len(envelope) > body {
		out.key = string(envelope[headerSize : headerSize+keyLen])
		// The header is the same for all payloads of a key; what stands after it is the ciphertext.
		out.text = base64.StdEncoding.EncodeToString(envelope[body:])
	}
	return out
}

// lookAtFailure reads a failure's texts: sealed they stand in encoded_attributes, and the message is a constant.
func lookAtFailure(f *failurepb.Failure) stored {
	if f.GetEncodedAttributes() != nil {
		out := lookAt(slot{payload: f.GetEncodedAttributes()})
		if out.verdict == "seal" {
			out.text = fmt.Sprintf("%q %s", f.GetMessage(), out.text)
		}
		return out
	}
	return stored{verdict: "pass", size: len(f.GetMessage()) + len(f.GetStackTrace()), text: f.GetMessage()}
}

// clearText is a slot's value as a person reads it.
func clearText(s slot) string {
	if s.failure != nil {
		var texts []string
		for f := s.failure; f != nil; f = f.GetCause() {
			if f.GetMessage() != "" {
				texts = append(texts, f.GetMessage())
			}
		}
		return strings.Join(texts, ": ")
	}
	switch data := s.payload.GetData(); {
	case strings.HasPrefix(string(s.payload.GetMetadata()["encoding"]), "json/"):
		return token.ReplaceAllStringFunc(string(data), func(t string) string { return t[:16] + "…" + t[len(t)-6:] })
	case len(data) == 0:
		return string(s.payload.GetMetadata()["encoding"])
	default:
		return fmt.Sprintf("%q", data)
	}
}
