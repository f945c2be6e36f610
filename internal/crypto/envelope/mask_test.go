package envelope

import (
	"strings"
	"testing"
)

// maskOne masks a payload, and checks that nothing is appended where it cannot be masked.
func maskOne(t *testing.T, payload string, sel Selection) (out string, n int, why string) {
	t.Helper()
	b, n, why := AppendMasked([]byte("before"), []byte(payload), sel)
	out, ok := strings.CutPrefix(string(b), "before")
	if !ok || why != "" && (out != "" || n != 0) {
		t.Fatalf("appended %q, %d masked, why %q", b, n, why)
	}
	return out, n, why
}

func TestMask(t *testing.T) {
	for name, c := range map[string]struct {
		doc  string
		sel  Selection
		want string
		n    int
	}{
		"text":                {`{"a":"CANARY","b":"x"}`, fields("/a"), `{"a":"***","b":"x"}`, 1},
		"an empty text":       {`{"a":""}`, fields("/a"), `{"a":"***"}`, 1},
		"number":              {`{"a":-12.5e+30}`, fields("/a"), `{"a":0}`, 1},
		"a huge number":       {`{"a":` + strings.Repeat("9", 400) + `}`, fields("/a"), `{"a":0}`, 1},
		"booleans":            {`{"a":true,"b":false}`, fields("/a", "/b"), `{"a":false,"b":false}`, 2},
		"null":                {`{"a":null}`, fields("/a"), `{"a":null}`, 1},
		"object":              {`{"a":{"CANARY":[1,{}]},"b":1}`, fields("/a"), `{"a":{},"b":1}`, 1},
		"array":               {`{"a":[[1],"CANARY"],"b":1}`, fields("/a"), `{"a":[],"b":1}`, 1},
		"spaces stay":         {" { \"a\" :\n\"CANARY\" } ", fields("/a"), " { \"a\" :\n\"***\" } ", 1},
		"elements":            {`{"l":[{"s":"CANARY"},{"t":1},{"s":2}]}`, fields("/l/*/s"), `{"l":[{"s":"***"},{"t":1},{"s":0}]}`, 2},
		"an index":            {`["CANARY","b"]`, fields("/0"), `["***","b"]`, 1},
		"the outermost":       {`{"a":{"b":"CANARY"}}`, fields("/a/b", "/a"), `{"a":{}}`, 1},
		"an escaped name":     {`{"\u0061":"CANARY"}`, fields("/a"), `{"\u0061":"***"}`, 1},
		"escaped tokens":      {`{"a/b":"CANARY","m~n":"CANARY"}`, fields("/a~1b", "/m~0n"), `{"a/b":"***","m~n":"***"}`, 2},
		"quotes and brackets": {`{"a":"}\"]CANARY","b":1}`, fields("/a"), `{"a":"***","b":1}`, 1},
		"masked before":       {`{"a":"***","b":{}}`, fields("/a", "/b"), `{"a":"***","b":{}}`, 2},
		"not there":           {`{"b":1}`, optional("/a", "/b/c"), `{"b":1}`, 0},
		"there":               {`{"a":1}`, optional("/a", "/b"), `{"a":0}`, 1},
	} {
		t.Run(name, func(t *testing.T) {
			for _, encoding := range []string{"json/plain", "json/protobuf"} {
				got, n, why := maskOne(t, payloadOf(encoding, c.doc), c.sel)
				if why != "" || got != payloadOf(encoding, c.want) || n != c.n {
					t.Errorf("%s: got %q, %d masked, why %q; want %q", encoding, got, n, why, payloadOf(encoding, c.want))
				}
			}
			if _, _, why := MaskDocument("json/plain", []byte(c.doc), c.sel.Fields, c.sel.Optional); why != "" {
				t.Errorf("said to be impossible: %s", why)
			}
		})
	}
}

// TestMaskKeepsMetadata: every other field of the payload stays as it is, wherever its data stands.
func TestMaskKeepsMetadata(t *testing.T) {
	plain := payloadOf("json/plain", `{"a":"CANARY"}`)
	after := plain + "\x0a\x06\x0a\x01x\x12\x01y"
	got, _, why := maskOne(t, after, fields("/a"))
	if want := payloadOf("json/plain", `{"a":"***"}`) + "\x0a\x06\x0a\x01x\x12\x01y"; why != "" || got != want {
		t.Errorf("got %q, why %q; want %q", got, why, want)
	}
}

// TestMasksTellNothing: masks are the same for all values of a type, however long.
func TestMasksTellNothing(t *testing.T) {
	for _, pair := range [][2]string{{`""`, `"` + strings.Repeat("x", 1000) + `"`}, {`1`, `1e400`}, {`[]`, `[1,2,3]`}, {`{}`, `{"a":{"b":[]}}`}, {`true`, `false`}} {
		a, _, _ := maskOne(t, payloadOf("json/plain", `{"a":`+pair[0]+`}`), fields("/a"))
		b, _, _ := maskOne(t, payloadOf("json/plain", `{"a":`+pair[1]+`}`), fields("/a"))
		if a != b || a == "" {
			t.Errorf("%s and %s become %q and %q", pair[0], pair[1], a, b)
		}
	}
}

func TestNotMasked(t *testing.T) {
	for name, c := range map[string]struct {
		encoding, doc string
		sel           Selection
	}{
		"renamed":                 {"json/plain", `{"b":"CANARY"}`, fields("/a")},
		"one of two":              {"json/plain", `{"a":"CANARY"}`, fields("/a", "/b")},
		"no element":              {"json/plain", `{"l":[]}`, fields("/l/*")},
		"no array":                {"json/plain", `{"l":{"x":1}}`, fields("/l/*")},
		"twice":                   {"json/plain", `{"a":"CANARY","a":1}`, optional("/a")},
		"twice elsewhere":         {"json/plain", `{"a":"CANARY","b":1,"b":2}`, fields("/a")},
		"twice by an escape":      {"json/plain", `{"a":"CANARY","\u0061":1}`, fields("/a")},
		"not JSON":                {"json/plain", `{"a":"CANARY"`, optional("/a")},
		"more behind it":          {"json/plain", `{"a":"CANARY"}{}`, fields("/a")},
		"a comment":               {"json/plain", `{"a":"CANARY"/**/}`, fields("/a")},
		"not UTF-8":               {"json/plain", "{\"a\":\"CANARY\xff\"}", fields("/a")},
		"too deep":                {"json/plain", strings.Repeat(`{"a":`, 70) + "1" + strings.Repeat("}", 70), fields("/a")},
		"empty":                   {"json/plain", ``, optional("/a")},
		"bytes":                   {"binary/plain", `{"a":"CANARY"}`, optional("/a")},
		"null, and one has to be": {"binary/null", ``, fields("/a")},
		"null with data":          {"binary/null", `{"a":"CANARY"}`, optional("/a")},
		"other encoding":          {"json/PLAIN", `{"a":"CANARY"}`, fields("/a")},
		"sealed":                  {"binary/sealed.v1", `{"a":"CANARY"}`, optional("/a")},
		"sealed in part":          {"json/sealed.v1", `{"a":"CANARY"}`, optional("/a")},
		"no pointer":              {"json/plain", `{"a":"CANARY"}`, optional("a")},
		"no fields":               {"json/plain", `{"a":"CANARY"}`, Selection{}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, why := maskOne(t, payloadOf(c.encoding, c.doc), c.sel); why == "" || strings.Contains(why, "CANARY") {
				t.Errorf("why %q", why)
			}
			if _, _, why := MaskDocument(c.encoding, []byte(c.doc), c.sel.Fields, c.sel.Optional); why == "" {
				t.Error("not said to be impossible")
			}
		})
	}
	for name, payload := range map[string]string{
		"two documents":        payloadOf("json/plain", `{"a":1}`) + "\x12\x02{}",
		"two encodings":        payloadOf("json/plain", "") + payloadOf("json/plain", `{"a":1}`),
		"no encoding":          "\x12\x07" + `{"a":1}`,
		"the marker":           payloadOf("json/plain", `{"a":1}`) + "\x0a\x0f\x0a\x0bsealed.note\x12\x00",
		"nothing":              "",
		"null and more":        payloadOf("binary/null", "") + "\x1a\x00",
		"malformed":            "\x0a\xff",
		"a malformed entry":    "\x0a\x03\x0a\xffx",
		"null twice, not null": payloadOf("binary/null", "") + payloadOf("binary/plain", ""),
	} {
		if _, _, why := maskOne(t, payload, optional("/a")); why == "" {
			t.Errorf("%s: masked", name)
		}
	}
}

// TestMaskMemory: each value that may be masked counts, and no more of a document without `*`.
func TestMaskMemory(t *testing.T) {
	payload := payloadOf("json/plain", "["+strings.Repeat("0,", 99_999)+"0]")
	if n := MaskMemory([]byte(payload), []string{"/*"}); n < 100_000*37 || n > 100_010*37 {
		t.Errorf("%d bytes for 100,000 values", n)
	}
	if n := MaskMemory([]byte(payload), []string{"/1", "/2"}); n != 2*37 {
		t.Errorf("%d bytes for two", n)
	}
}

// TestMaskOfNothing: a payload without a value passes where no member has to be there.
func TestMaskOfNothing(t *testing.T) {
	null := payloadOf("binary/null", "")
	if got, n, why := maskOne(t, null, optional("/a")); got != null || n != 0 || why != "" {
		t.Errorf("got %q, %d, why %q", got, n, why)
	}
	if _, _, why := MaskDocument("binary/null", nil, []string{"/a"}, []string{"/a"}); why != "" {
		t.Error(why)
	}
}
