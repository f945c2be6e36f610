package envelope

import (
	"bytes"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

func TestMarked(t *testing.T) {
	entry := func(k, v string) string {
		return "\x0a" + lengthPrefixed("\x0a"+lengthPrefixed(k)+"\x12"+lengthPrefixed(v))
	}
	for name, c := range map[string]struct {
		payload string
		want    bool
	}{
		"nothing":                          {"", false},
		"plain":                            {payloadOf("json/plain", "sealed.v1 /sealed.v1"), false},
		"whole":                            {payloadOf(EncodingWhole, "x"), true},
		"view":                             {payloadOf(EncodingView, "x"), true},
		"a later version":                  {payloadOf("binary/sealed.v7", "x"), true},
		"a form of others":                 {payloadOf("x/y/sealed.q", "x"), true},
		"the envelope's entry alone":       {entry("sealed.v1", ""), true},
		"its entry in a later version":     {entry("sealed.v2", ""), true},
		"another key's value":              {entry("messageType", "acme/sealed.Doc"), false},
		"a key that ends alike":            {entry("unsealed.v1", ""), false},
		"encoding twice, the first is it":  {entry("encoding", EncodingWhole) + entry("encoding", "json/plain"), true},
		"encoding twice, the second is it": {entry("encoding", "json/plain") + entry("encoding", EncodingWhole), true},
		"value twice in an entry":          {"\x0a" + lengthPrefixed("\x0a\x08encoding\x12\x01x\x12"+lengthPrefixed(EncodingWhole)), true},
		"value before key":                 {"\x0a" + lengthPrefixed("\x12"+lengthPrefixed(EncodingWhole)+"\x0a\x08encoding"), true},
		"behind an unknown field":          {"\x1a\x01x\x25abcd\x29abcdefgh\x30\x01" + entry("encoding", EncodingWhole), true},
		"a long-winded tag":                {"\x8a\x00" + payloadOf(EncodingWhole, "")[1:], true},
		"within a group":                   {"\x0b" + entry("encoding", EncodingWhole) + "\x0c", true},
		"after what is no field":           {"\xff\xff" + entry("encoding", EncodingWhole), true},
		"bytes that are no Payload":        {"\xff\xff", false},
	} {
		if got := Marked([]byte(c.payload)); got != c.want {
			t.Errorf("%s: marked %v, want %v", name, got, c.want)
		}
	}
	for text, want := range map[string]bool{"": false, "sealed": false, "sealed.v": false, "sealed.v1": false, "sealed.v:": false,
		"sealed.v1:": true, "sealed.v12:x": true, " sealed.v1:x": false, "sealed.vx1:": false} {
		if got := MarkedText([]byte(text)); got != want {
			t.Errorf("text %q: marked %v, want %v", text, got, want)
		}
	}
}

// TestMarkedButNoEnvelope: what has the marker and holds anything else cannot be opened, for good.
func TestMarkedButNoEnvelope(t *testing.T) {
	p := newPair(t)
	good := p.AppendPayload(nil, []byte("payload"), false)
	sealed, _, err := ParsePayload(good)
	if err != nil {
		t.Fatal(err)
	}
	env := string(sealed.Envelope())
	view := p.AppendView(nil, []byte(payloadOf("json/plain", `{"a":1}`)), fields("/a"))
	entry := func(k, v string) string {
		return "\x0a" + lengthPrefixed("\x0a"+lengthPrefixed(k)+"\x12"+lengthPrefixed(v))
	}
	for name, payload := range map[string]string{
		"another metadata entry":      entry("messageType", "x") + string(good),
		"the encoding twice":          entry("encoding", EncodingWhole) + string(good),
		"data twice":                  string(good) + "\x12" + lengthPrefixed(env),
		"no data":                     entry("encoding", EncodingWhole),
		"data that is a number":       entry("encoding", EncodingWhole) + "\x10\x01",
		"an external text":            string(good) + "\x1a\x03\x0a\x01x",
		"an external size twice":      string(good) + "\x1a\x04\x08\x01\x08\x01",
		"an external number":          string(good) + "\x18\x01",
		"an unknown field":            string(good) + "\x20\x01",
		"a third field in an entry":   "\x0a" + lengthPrefixed("\x0a\x08encoding\x12\x10"+EncodingWhole+"\x18\x01") + "\x12" + lengthPrefixed(env),
		"a whole with a view's entry": string(good) + entry("sealed.v1", env),
		"a view without its entry":    payloadOf(EncodingView, `{"a":"[sealed]"}`),
		"a view without data":         entry("encoding", EncodingView) + entry("sealed.v1", env),
		"a view and something else":   entry("messageType", "x") + string(view),
		"an entry without encoding":   entry("sealed.v1", env) + "\x12\x00",
		"another form":                payloadOf("text/sealed.v1", env),
		"a group":                     string(good) + "\x1b\x1c",
		"nothing that can be read":    string(good) + "\xff",
	} {
		s, marked, err := ParsePayload([]byte(payload))
		if !marked || crypto.KindOf(err) != crypto.KindMalformed {
			t.Errorf("%s: marked %v, form %v, error %v; want it marked and malformed", name, marked, s.Form, err)
		}
	}
	for name, text := range map[string]string{
		"nothing after the mark": TextPrefix, "not base64url": TextPrefix + "a+/=", "a line break": TextPrefix + "QUJD\nREVG",
		"loose bits": TextPrefix + "QUJDR", "too short": TextPrefix + "QUJD",
	} {
		if _, marked, err := ParseText([]byte(text)); !marked || crypto.KindOf(err) != crypto.KindMalformed {
			t.Errorf("%s: marked %v, error %v; want it marked and malformed", name, marked, err)
		}
	}
	for name, payload := range map[string]string{"one": string(good) + "\x1a\x02\x08\x01", "two, one of them empty": string(good) + "\x1a\x00\x1a\x03\x08\x80\x01"} {
		if got, err := p.open([]byte(payload)); err != nil || got != "payload" {
			t.Errorf("sizes of external payloads, %s: %q, %v", name, got, err)
		}
	}
	reordered := "\x12" + lengthPrefixed(env) + entry("encoding", EncodingWhole)
	if got, err := p.open([]byte(reordered)); err != nil || got != "payload" {
		t.Errorf("data before metadata, as another writer may order it: %q, %v", got, err)
	}
}

// bearsMark is what the mark means to a reader of Payloads that was generated from their definition.
func bearsMark(p *commonpb.Payload) bool {
	for k, v := range p.GetMetadata() {
		if strings.HasPrefix(k, "sealed.") || k == "encoding" && bytes.Contains(v, []byte("/sealed.")) {
			return true
		}
	}
	return false
}

// checkMark holds the invariant that the mark rule rests on: what anybody can read as marked, and what ParsePayload
// would open, counts as marked.
func checkMark(t interface {
	Helper()
	Fatalf(string, ...any)
}, payload []byte) {
	t.Helper()
	marked := Marked(payload)
	if _, would, _ := ParsePayload(payload); would != marked {
		t.Fatalf("%x: ParsePayload says marked %v, Marked says %v", payload, would, marked)
	}
	var p commonpb.Payload
	if proto.Unmarshal(payload, &p) == nil && bearsMark(&p) && !marked {
		t.Fatalf("%x reads as %v and does not count as marked", payload, &p)
	}
}

func FuzzMarked(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(carrierOf(&v))
	}
	f.Add([]byte(payloadOf("json/plain", "x")))
	f.Add([]byte("\x0b" + payloadOf(EncodingWhole, "x") + "\x0c"))
	f.Add([]byte("\x8a\x80\x00" + payloadOf(EncodingWhole, "x")[1:]))
	f.Fuzz(func(t *testing.T, payload []byte) { checkMark(t, payload) })
}

// TestMarkedOnOddPayloads does what a fuzzer seldom finds: Payloads that are put together oddly and still can be read.
func TestMarkedOnOddPayloads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var payload []byte
		for range rapid.IntRange(0, 4).Draw(t, "fields") {
			payload = append(payload, oddField(t, 2)...)
		}
		checkMark(t, payload)
	})
}

func oddField(t *rapid.T, depth int) (b []byte) {
	num := rapid.SampledFrom([]int{1, 1, 1, 2, 2, 3, 9}).Draw(t, "number")
	wire := rapid.SampledFrom([]int{2, 2, 2, 2, 0, 1, 5, 3}).Draw(t, "wire type")
	b = append(b, byte(num<<3|wire)|0x80)
	for range rapid.IntRange(0, 2).Draw(t, "long-winded") {
		b = append(b, 0x80)
	}
	b = append(b, 0)
	switch wire {
	case 0:
		return append(b, 0x81, 0)
	case 1:
		return append(b, "abcdefgh"...)
	case 5:
		return append(b, "abcd"...)
	case 3:
		if depth > 0 {
			b = append(b, oddField(t, depth-1)...)
		}
		return append(b, byte(num<<3|4))
	}
	content := []byte(rapid.SampledFrom([]string{"encoding", "json/plain", EncodingWhole, "x/sealed.v9", "sealed.v1", "sealed.", "y", ""}).Draw(t, "content"))
	if depth > 0 && rapid.Bool().Draw(t, "nested") {
		content = nil
		for range rapid.IntRange(0, 3).Draw(t, "nested fields") {
			content = append(content, oddField(t, depth-1)...)
		}
	}
	return append(append(b, byte(len(content))|0x80, byte(len(content)>>7)), content...)
}

func FuzzOpen(f *testing.F) {
	p := newPair(f)
	for _, payload := range []string{"", payloadOf("json/plain", `{"a":1}`), strings.Repeat("long ", 100)} {
		f.Add(p.AppendPayload(nil, []byte(payload), true))
		f.Add(p.AppendView(nil, []byte(payload), fields("/a")))
		f.Add(p.AppendText(nil, []byte(payload)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) (Sealed, bool, error){ParsePayload, ParseText} {
			sealed, marked, err := parse(b)
			if err != nil || !marked {
				continue
			}
			if got := AppendHeader(nil, sealed.Header); !bytes.Equal(got, sealed.Envelope()[:len(got)]) {
				t.Errorf("the header of %x is written back as %x", sealed.Envelope(), got)
			}
			dst := []byte("dst")
			if out, err := p.Open(dst, &sealed); err != nil && string(out) != "dst" {
				t.Errorf("a failed attempt gave %q", out)
			}
		}
	})
}

func FuzzDecompress(f *testing.F) {
	for _, n := range []int{0, 10, 300, 10_000} {
		f.Add(zstdEncoder().EncodeAll(bytes.Repeat([]byte("abc "), n), nil))
	}
	f.Add([]byte("\x28\xb5\x2f\xfd\xa0\xff\xff\xff\xff\x01\x00\x00"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		out, err := appendDecompressed([]byte("dst"), frame, len(frame), nil)
		if err != nil && string(out) != "dst" {
			t.Errorf("a failed attempt gave %q", out)
		}
		if len(out)-3 > maxRatio*len(frame) {
			t.Errorf("%d bytes out of %d", len(out)-3, len(frame))
		}
	})
}
