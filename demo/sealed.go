package main

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"

	failurepb "go.temporal.io/api/failure/v1"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// Encodings of sealed payloads: as a whole, and a document of which parts are sealed.
const (
	encodingWhole = "binary/sealed.v1"
	encodingView  = "json/sealed.v1"
)

// token finds JSON Web Tokens, which are too long to be shown whole.
var token = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}`)

// stored is what the server has of a slot.
type stored struct {
	verdict string // pass, or seal and the name of the key
	size    int    // bytes, names included
	text    string // shortened later
}

func (s stored) sealed() bool { return s.verdict != "pass" }

// lookAt reads a slot as the server has it. A sealed failure has its texts in encoded_attributes, and a constant as its message.
func lookAt(s slot) stored {
	if f := s.failure; f != nil {
		out := stored{verdict: "pass", size: len(f.GetMessage()) + len(f.GetStackTrace()), text: f.GetMessage()}
		if f.GetEncodedAttributes() == nil {
			return out
		}
		if out = lookAt(slot{payload: f.GetEncodedAttributes()}); out.sealed() {
			out.text = fmt.Sprintf("%q %s", f.GetMessage(), out.text)
		}
		return out
	}
	switch string(s.payload.GetMetadata()["encoding"]) {
	case encodingWhole:
		return sealedBytes(s.payload.GetData())
	case encodingView:
		out := sealedBytes(s.payload.GetMetadata()["sealed.v1"])
		out.text = string(s.payload.GetData())
		return out
	}
	return stored{verdict: "pass", size: len(s.payload.GetData()), text: clearText(s)}
}

// sealedBytes reads the header, which is in clear (and authenticated), so that whoever looks at the database can name the key.
// It is the same for all payloads of a key; what stands after it is the ciphertext.
func sealedBytes(sealed []byte) stored {
	out := stored{verdict: "seal ?", size: len(sealed), text: base64.StdEncoding.EncodeToString(sealed)}
	if h, err := envelope.ParseHeader(sealed); err == nil && !h.Reference() {
		out.verdict, out.text = "seal "+h.Key, base64.StdEncoding.EncodeToString(sealed[h.Size():])
	}
	return out
}

// clearText is a slot's value as a person reads it.
func clearText(s slot) string {
	if s.failure != nil {
		return failureText(s.failure)
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

func failureText(f *failurepb.Failure) string {
	if f == nil {
		return ""
	}
	return strings.Trim(f.GetMessage()+": "+failureText(f.GetCause()), ": ")
}
