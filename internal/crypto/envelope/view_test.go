package envelope

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestViewSealsTheSelectedValues(t *testing.T) {
	p := newPair(t)
	for name, c := range map[string]struct {
		doc  string
		sel  Selection
		view string
	}{
		"one member":                    {`{"id": 7, "jwt":"abc"}`, fields("/jwt"), `{"id": 7, "jwt":"[sealed]"}`},
		"nested and spaced":             {` { "u" : { "jwt" : "x" } , "n" : 1.0e2 } `, fields("/u/jwt"), ` { "u" : { "jwt" : "[sealed]" } , "n" : 1.0e2 } `},
		"an object":                     {`{"a":{"b":[1,2]},"c":3}`, fields("/a"), `{"a":"[sealed]","c":3}`},
		"an index":                      {`[10,11,12]`, fields("/1"), `[10,"[sealed]",12]`},
		"every element":                 {`{"l":[{"p":1},{"p":2,"q":3},4]}`, fields("/l/*/p"), `{"l":[{"p":"[sealed]"},{"p":"[sealed]","q":3},4]}`},
		"a star is a name elsewhere":    {`{"*":1,"a":2}`, fields("/*"), `{"*":"[sealed]","a":2}`},
		"escaped tokens":                {`{"a/b":1,"m~n":2,"c":3}`, fields("/a~1b", "/m~0n"), `{"a/b":"[sealed]","m~n":"[sealed]","c":3}`},
		"an escaped name":               {`{"jwt":1,"\ud83d\ude00":2}`, fields("/jwt", "/😀"), `{"jwt":"[sealed]","\ud83d\ude00":"[sealed]"}`},
		"case counts":                   {`{"JWT":1,"jwt":2}`, fields("/jwt"), `{"JWT":1,"jwt":"[sealed]"}`},
		"no normalisation":              {"{\"e\\u0301\":1,\"\u00e9\":2}", fields("/\u00e9"), "{\"e\\u0301\":1,\"\u00e9\":\"[sealed]\"}"},
		"the outermost counts":          {`{"a":{"b":1}}`, fields("/a/b", "/a"), `{"a":"[sealed]"}`},
		"nothing there":                 {`{"a":1}`, optional("/b", "/a/x", "/0"), `{"a":1}`},
		"no leading zero":               {`[1,2]`, optional("/01"), `[1,2]`},
		"an element without":            {`[{"p":1},null,{"q":{}}]`, fields("/*/p"), `[{"p":"[sealed]"},null,{"q":{}}]`},
		"null where others have a list": {`[{"l":[1]},{"l":null}]`, fields("/*/l/*"), `[{"l":["[sealed]"]},{"l":null}]`},
		"no list, optional":             {`{"a":{"b":1},"c":2}`, Selection{Fields: []string{"/a/*", "/c"}, Optional: []string{"/a/*"}}, `{"a":{"b":1},"c":"[sealed]"}`},
		"a value that looks sealed":     {`{"a":"[sealed]","b":1}`, fields("/b"), `{"a":"[sealed]","b":"[sealed]"}`},
		"empty name":                    {`{"":1,"a":2}`, fields("/"), `{"":"[sealed]","a":2}`},

		"all but one":            {`{"id":7,"a":1,"b":{"c":2}}`, clear_("/id"), `{"id":7,"a":"[sealed]","b":"[sealed]"}`},
		"all but a nested one":   {`{"b":{"c":2,"d":[1]},"e":[]}`, clear_("/b/c"), `{"b":{"c":2,"d":"[sealed]"},"e":"[sealed]"}`},
		"all but a part of each": {`[{"id":1,"x":2},{"x":3},5]`, clear_("/*/id"), `[{"id":1,"x":"[sealed]"},"[sealed]","[sealed]"]`},
		"a clear object":         {`{"a":{"b":[1,{"c":2}]},"d":1}`, clear_("/a", "/a/b/0"), `{"a":{"b":[1,{"c":2}]},"d":"[sealed]"}`},
	} {
		t.Run(name, func(t *testing.T) {
			payload := payloadOf("json/plain", c.doc)
			carrier := p.AppendView([]byte("before"), []byte(payload), c.sel)
			if !bytes.HasPrefix(carrier, []byte("before")) {
				t.Fatal("what stood in dst was lost")
			}
			carrier = carrier[len("before"):]
			parsed, marked, err := ParsePayload(carrier)
			if err != nil || !marked || parsed.Form != FormView || string(parsed.View()) != c.view {
				t.Fatalf("view %q, form %v, marked %v, error %v; want %q", parsed.View(), parsed.Form, marked, err, c.view)
			}
			if got, err := p.open(carrier); err != nil || got != payload {
				t.Errorf("opened %q, error %v; want %q", got, err, payload)
			}
		})
	}
}

func fields(p ...string) Selection { return Selection{Fields: p} }
func clear_(p ...string) Selection { return Selection{Clear: p} }

// optional is a selection of fields that a document need not have.
func optional(p ...string) Selection { return Selection{Fields: p, Optional: p} }

func TestViewFallsBackToTheWhole(t *testing.T) {
	p := newPair(t)
	doc := func(json string) string { return payloadOf("json/plain", json) }
	const good = `{"a":1}`
	for name, c := range map[string]struct {
		payload string
		sel     Selection
	}{
		"binary":                  {payloadOf("binary/plain", good), fields("/a")},
		"no encoding":             {"\x12" + lengthPrefixed(good), fields("/a")},
		"encoding twice":          {doc(good) + "\x0a" + lengthPrefixed("\x0a\x08encoding\x12\x0ajson/plain"), fields("/a")},
		"data twice":              {doc(good) + "\x12" + lengthPrefixed(good), fields("/a")},
		"no data":                 {doc("")[:24], fields("/a")},
		"no protobuf":             {"\xff\xff", fields("/a")},
		"our own mark":            {doc(good) + "\x0a" + lengthPrefixed("\x0a\x09sealed.v1\x12\x01x"), fields("/a")},
		"a name twice":            {doc(`{"a":1,"a":2}`), fields("/a")},
		"a name twice, escaped":   {doc(`{"a":1,"\u0061":2}`), fields("/a")},
		"a name twice, deeper":    {doc(`{"a":1,"b":[{"c":1,"c":2}]}`), fields("/a")},
		"a name twice, in a hole": {doc(`{"a":{"c":1,"c":2}}`), fields("/a")},
		"too deep":                {doc(`{"a":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`), fields("/a")},
		"half a surrogate pair":   {doc(`{"a":"\ud83d"}`), fields("/a")},
		"not UTF-8":               {doc("{\"a\":\"\xff\"}"), fields("/a")},
		"a byte order mark":       {doc("\ufeff" + good), fields("/a")},
		"a comment":               {doc(good + "//"), fields("/a")},
		"two documents":           {doc(good + good), fields("/a")},
		"a trailing comma":        {doc(`{"a":1,}`), fields("/a")},
		"a leading zero":          {doc(`{"a":01}`), fields("/a")},
		"a bare point":            {doc(`{"a":1.}`), fields("/a")},
		"NaN":                     {doc(`{"a":NaN}`), fields("/a")},
		"a control character":     {doc("{\"a\":\"\t\"}"), fields("/a")},
		"an unknown escape":       {doc(`{"a":"\x"}`), fields("/a")},
		"cut off":                 {doc(`{"a":[1,`), fields("/a")},
		"the empty pointer":       {doc(good), fields("")},
		"no slash":                {doc(good), fields("a")},
		"a bad tilde":             {doc(good), fields("/a~2")},
		"no selection":            {doc(good), Selection{}},
		"both ways":               {doc(good), Selection{Fields: []string{"/a"}, Clear: []string{"/a"}}},
		"nothing clear is there":  {doc(good), clear_("/b")},
		"the whole is clear":      {doc(good), clear_("")},
	} {
		t.Run(name, func(t *testing.T) {
			carrier := p.AppendView(nil, []byte(c.payload), c.sel)
			if parsed, _, err := ParsePayload(carrier); err != nil || parsed.Form != FormPayload {
				t.Fatalf("form %v, error %v; want it sealed whole", parsed.Form, err)
			}
			if got, err := p.open(carrier); err != nil || got != c.payload {
				t.Errorf("opened %q, error %v; want %q", got, err, c.payload)
			}
		})
	}
}

// TestFieldsThatDoNotFitSealTheWhole: a rule that names a member means to protect it. Where it finds none, the document may
// have it under another name.
func TestFieldsThatDoNotFitSealTheWhole(t *testing.T) {
	p := newPair(t)
	for name, c := range map[string]struct {
		doc  string
		sel  Selection
		text string
		why  Mismatch
	}{
		"no such member":              {`{"a":1}`, fields("/b"), "/b", NotFound},
		"one of two":                  {`{"a":1}`, fields("/a", "/b"), "/b", NotFound},
		"an optional one and another": {`{"a":1}`, Selection{Fields: []string{"/c", "/b"}, Optional: []string{"/c"}}, "/b", NotFound},
		"another case":                {`{"Token":1}`, fields("/token"), "/token", NotFound},
		"deeper":                      {`{"a":{"c":1}}`, fields("/a/b"), "/a/b", NotFound},
		"below a number":              {`{"a":1}`, fields("/a/b"), "/a/b", NotFound},
		"below null":                  {`{"a":null}`, fields("/a/*"), "/a/*", NotFound},
		"no elements":                 {`{"a":[]}`, fields("/a/*"), "/a/*", NotFound},
		"in no element":               {`[{"q":1},{}]`, fields("/*/p"), "/*/p", NotFound},
		"an index too high":           {`[1]`, fields("/1"), "/1", NotFound},
		"an object for a list":        {`{"a":{"x":{"b":1}}}`, fields("/a/*/b"), "/a/*/b", NotAnArray},
		"a text for a list":           {`{"a":"x"}`, fields("/a/*"), "/a/*", NotAnArray},
		"an object in one of two":     {`[{"l":[1]},{"l":{"k":2}}]`, fields("/*/l/*"), "/*/l/*", NotAnArray},
		"the whole is an object":      {`{"a":1}`, fields("/*"), "/*", NotAnArray},
		"the whole is a number":       {`7`, fields("/a"), "/a", NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			want := c.text + map[Mismatch]string{NotFound: " leads to nothing in this document", NotAnArray: " has * where this document has no array"}[c.why]
			if text := Unmatched("json/protobuf", []byte(c.doc), c.sel.Fields, c.sel.Optional); text != want {
				t.Errorf("%q, want %q", text, want)
			}
			payload := payloadOf("json/plain", c.doc)
			carrier, why := p.writer.AppendView(nil, []byte(payload), c.sel, new(Nonces))
			if parsed, _, err := ParsePayload(carrier); err != nil || parsed.Form != FormPayload || why != c.why {
				t.Fatalf("form %v, reason %d, error %v; want it sealed whole", parsed.Form, why, err)
			}
			if got, err := p.open(carrier); err != nil || got != payload {
				t.Errorf("opened %q, error %v; want %q", got, err, payload)
			}
		})
	}
	for _, fits := range []Selection{fields("/a"), optional("/b")} {
		if text := Unmatched("json/plain", []byte(`{"a":1}`), fits.Fields, fits.Optional); text != "" {
			t.Errorf("%v: %q", fits, text)
		}
	}
	if text := Unmatched("binary/plain", []byte(`{"a":1}`), []string{"/b"}, nil); text != "" {
		t.Errorf("what is no document: %q", text)
	}
}

// FuzzSelectHoles: what the scanner takes is JSON. (The reverse does not hold: it refuses names that are
// there twice, deep nesting and half surrogate pairs.)
func FuzzSelectHoles(f *testing.F) {
	for _, doc := range []string{`{"a":[1,{"b":"\u00e9\ud83d\ude00"}],"c":-1.5e+3}`, `[[[]]]`, `"x"`, ` {"a" : null } `, `{"a":1,"a":2}`, `{"\ud800":1}`, "\xff", `{"a":tru}`} {
		f.Add([]byte(doc), "/a/0", true)
		f.Add([]byte(doc), "/a/*/b", false)
	}
	f.Fuzz(func(t *testing.T, doc []byte, pointer string, invert bool) {
		sel := fields(pointer)
		if invert {
			sel = clear_(pointer)
		} else {
			sel.Optional = sel.Fields
		}
		holes, _, _, ok := selectHoles(doc, sel)
		if !ok {
			return
		}
		if !json.Valid(doc) {
			t.Fatalf("%q was taken for JSON", doc)
		}
		view, patch := cut(doc, holes, []byte("p"), []byte("s"))
		if !json.Valid(view) {
			t.Errorf("the view %q of %q is no JSON", view, doc)
		}
		if got, ok := appendPatched(nil, view, patch); !ok || string(got) != "p"+string(doc)+"s" {
			t.Errorf("restored %q, want %q", got, "p"+string(doc)+"s")
		}
	})
}

// TestViewHidesWhatWasSelected: on random documents no selected value is left in the view, and everything comes back.
func TestViewHidesWhatWasSelected(t *testing.T) {
	p := newPair(t)
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"id", "jwt", "list", "x"}
		var value func(depth int) any
		value = func(depth int) any {
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				return rapid.SampledFrom([]any{1.5, true, nil, "text", "[sealed]"}).Draw(t, "scalar")
			case 1:
				return "SECRET"
			case 2:
				list := make([]any, rapid.IntRange(0, 3).Draw(t, "n"))
				for i := range list {
					if depth > 0 {
						list[i] = value(depth - 1)
					}
				}
				return list
			}
			m := map[string]any{}
			for _, n := range names {
				if depth > 0 && rapid.Bool().Draw(t, n) {
					m[n] = value(depth - 1)
				}
			}
			return m
		}
		doc := map[string]any{"jwt": "SECRET", "list": []any{map[string]any{"jwt": "SECRET"}}, "x": value(4)}
		encoded, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		payload := payloadOf("json/plain", string(encoded))
		carrier := p.AppendView(nil, []byte(payload), fields("/jwt", "/list/*/jwt", "/x"))
		if bytes.Contains(carrier, []byte("SECRET")) {
			t.Fatal("a selected value is readable")
		}
		if got, err := p.open(carrier); err != nil || got != payload {
			t.Fatalf("opened %q, error %v; want %q", got, err, payload)
		}
	})
}

func TestPatchThatDoesNotFit(t *testing.T) {
	view, patch := cut([]byte(`{"a":1,"b":22}`), []span{{5, 6}, {11, 13}}, []byte("pp"), []byte("s"))
	if _, ok := appendPatched(nil, view, patch); !ok {
		t.Fatal("the right patch does not fit")
	}
	for i := range patch {
		if _, ok := appendPatched(nil, view, patch[:i]); ok {
			t.Errorf("cut off at %d it still fits", i)
		}
	}
	for name, c := range map[string]struct{ view, patch string }{
		"something left over":    {string(view), string(patch) + "x"},
		"another view":           {strings.Replace(string(view), "sealed", "opened", 1), string(patch)},
		"a shorter view":         {string(view[:20]), string(patch)},
		"no view":                {"", string(patch)},
		"descending offsets":     {string(view), string(patch[:15]) + string(patch[24:34]) + string(patch[15:24])},
		"a hole that is no hole": {string(view), strings.Replace(string(patch), "\x00\x00\x00\x05", "\x00\x00\x00\x06", 1)},
		"a far offset":           {string(view), strings.Replace(string(patch), "\x00\x00\x00\x05", "\xff\xff\xff\xff", 1)},
	} {
		if out, ok := appendPatched(nil, []byte(c.view), []byte(c.patch)); ok {
			t.Errorf("%s: it fits and gives %q", name, out)
		}
	}
}
