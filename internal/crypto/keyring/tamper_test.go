package keyring

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// specimen is one sealed value of some form, taken apart so that a test can put it together wrongly.
type specimen struct {
	name   string
	plain  string
	sealed envelope.Sealed
}

func specimens(t *testing.T, k *Keyring, namespace, key string) (all []specimen) {
	t.Helper()
	s := sealer(t, k, namespace, key)
	add := func(name, plain string, carrier []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		parse := envelope.ParsePayload
		if bytes.HasPrefix(carrier, []byte(envelope.TextPrefix)) {
			parse = envelope.ParseText
		}
		sealed, marked, err := parse(carrier)
		if err != nil || !marked {
			t.Fatalf("%s: marked %v, error %v", name, marked, err)
		}
		all = append(all, specimen{name, plain, sealed})
	}
	short, long := payloadOf("json/plain", `"CANARY"`), payloadOf("json/plain", `"`+strings.Repeat("CANARY", 60)+`"`)
	doc := payloadOf("json/plain", `{"a":"CANARY","b":2}`)
	carrier, err := s.appendPayload(nil, []byte(short), false)
	add("padded", short, carrier, err)
	carrier, err = s.appendPayload(nil, []byte(long), false)
	add("unpadded", long, carrier, err)
	carrier, err = s.appendPayload(nil, []byte(long), true)
	add("compressed", long, carrier, err)
	carrier, err = s.appendView([]byte(doc), fields("/a"))
	add("view", doc, carrier, err)
	carrier, err = s.appendText([]byte("a CANARY text"))
	add("text", "a CANARY text", carrier, err)
	return all
}

// with is the carrier of a specimen with other parts.
func (s specimen) with(env, view []byte) []byte {
	switch s.sealed.Form {
	case envelope.FormView:
		return payloadWith(vector{Envelope: env, View: view})
	case envelope.FormText:
		return base64.RawURLEncoding.AppendEncode([]byte(envelope.TextPrefix), env)
	}
	return []byte(payloadOf(envelope.EncodingWhole, string(env)))
}

// tryOpen opens a carrier of whatever kind. ok: it was taken for ours, and opened.
func tryOpen(t *testing.T, k *Keyring, carrier []byte, namespace string) (out []byte, ok bool, err error) {
	t.Helper()
	parse, marks := envelope.ParsePayload, envelope.Marked
	if bytes.HasPrefix(carrier, []byte("sealed")) {
		parse, marks = envelope.ParseText, envelope.MarkedText
	}
	sealed, marked, err := parse(carrier)
	if marked && !marks(carrier) {
		t.Fatalf("%x would be opened but does not count as marked", carrier)
	}
	if err != nil || !marked {
		return nil, false, err
	}
	// Behind the part in use there is room in which a failed attempt could leave plaintext.
	room := make([]byte, 3, 4096)
	copy(room, "dst")
	out, _, err = k.Open(t.Context(), room, &sealed, namespace, new(Run))
	if err != nil {
		if string(out) != "dst" || bytes.Contains(room[:cap(room)], []byte("CANARY")) {
			t.Fatalf("a failed attempt left something: %q", room[:cap(room)])
		}
		return nil, false, err
	}
	return out[3:], true, nil
}

// temperatures runs a test with the data key in memory, and with nothing in memory for each attempt.
func temperatures(t *testing.T, f func(t *testing.T, k *Keyring, attempt func(carrier []byte, namespace string) ([]byte, bool, error))) {
	for _, name := range []string{"warm", "cold"} {
		t.Run(name, func(t *testing.T) {
			p, other := newScripted("test:default"), newScripted("test:phi")
			keys := []KeyConfig{{Name: "default", Active: p.uri}, {Name: "phi", Active: other.uri}}
			k := newKeyring(t, Options{Keys: keys, Open: store{p.uri: p, other.uri: other}.open})
			k.Confirm("ns")
			k.Confirm("other")
			f(t, k, func(carrier []byte, namespace string) ([]byte, bool, error) {
				if name == "cold" {
					forget(k)
				}
				return tryOpen(t, k, carrier, namespace)
			})
		})
	}
}

// forget empties what a Keyring remembers for opening.
func forget(k *Keyring) {
	k.opening.keys.mu.Lock()
	clear(k.opening.keys.m)
	k.opening.keys.mu.Unlock()
	k.opening.flights.refusals.Purge()
}

func TestEveryBitFlipped(t *testing.T) {
	temperatures(t, func(t *testing.T, k *Keyring, attempt func([]byte, string) ([]byte, bool, error)) {
		for _, s := range specimens(t, k, "ns", "default") {
			flip := func(part []byte, carrier func([]byte) []byte) {
				for i := range len(part) * 8 {
					changed := bytes.Clone(part)
					changed[i/8] ^= 1 << (i % 8)
					if out, ok, err := attempt(carrier(changed), "ns"); ok || err == nil {
						t.Fatalf("%s: bit %d of byte %d flipped: opened %q, error %v", s.name, i%8, i/8, out, err)
					}
				}
			}
			flip(s.sealed.Envelope(), func(e []byte) []byte { return s.with(e, s.sealed.View()) })
			flip(s.sealed.View(), func(v []byte) []byte { return s.with(s.sealed.Envelope(), v) })
			// In the carrier around the envelope a flipped bit may also make it a value that is not ours.
			whole := s.with(s.sealed.Envelope(), s.sealed.View())
			for i := range len(whole) * 8 {
				changed := bytes.Clone(whole)
				changed[i/8] ^= 1 << (i % 8)
				if out, ok, _ := attempt(changed, "ns"); ok {
					t.Fatalf("%s: bit %d of the carrier flipped: opened %q", s.name, i, out)
				}
			}
			if out, ok, err := attempt(whole, "ns"); !ok || string(out) != s.plain {
				t.Fatalf("%s: untouched it does not open after all that: %v", s.name, err)
			}
		}
	})
}

func TestEveryLength(t *testing.T) {
	temperatures(t, func(t *testing.T, k *Keyring, attempt func([]byte, string) ([]byte, bool, error)) {
		for _, s := range specimens(t, k, "ns", "default") {
			env := s.sealed.Envelope()
			for n := range len(env) {
				if out, ok, err := attempt(s.with(env[:n], s.sealed.View()), "ns"); ok || err == nil {
					t.Fatalf("%s: cut off at %d: opened %q, error %v", s.name, n, out, err)
				}
			}
			for n := range len(s.sealed.View()) {
				if out, ok, err := attempt(s.with(env, s.sealed.View()[:n]), "ns"); ok || err == nil {
					t.Fatalf("%s: view cut off at %d: opened %q, error %v", s.name, n, out, err)
				}
			}
			for n := range 40 {
				longer := append(bytes.Clone(env), make([]byte, n+1)...)
				if out, ok, err := attempt(s.with(longer, s.sealed.View()), "ns"); ok || err == nil {
					t.Fatalf("%s: %d zeros appended: opened %q, error %v", s.name, n+1, out, err)
				}
			}
			whole := s.with(env, s.sealed.View())
			for n := range len(whole) {
				if out, ok, _ := attempt(whole[:n], "ns"); ok {
					t.Fatalf("%s: carrier cut off at %d: opened %q", s.name, n, out)
				}
			}
		}
	})
}

// parts are an envelope's, by name.
func parts(s envelope.Sealed) map[string]span {
	h := s.Header
	names := namesOffset + len(h.Key)
	end := h.Size()
	return map[string]span{
		"version": {0, 1}, "flags": {flagsOffset, idOffset}, "key id": {idOffset, kekOffset}, "KEK reference": {kekOffset, lengthsOffset},
		"lengths": {lengthsOffset, namesOffset}, "key name": {namesOffset, names}, "namespace": {names, names + len(h.Namespace)},
		"wrapped key": {names + len(h.Namespace), end}, "nonce": {end, end + nonceSize},
		"ciphertext": {end + nonceSize, len(s.Envelope()) - tagSize}, "tag": {len(s.Envelope()) - tagSize, len(s.Envelope())},
	}
}

// TestPartsOfAnother puts each part, and each pair of parts, of one good envelope into another one.
func TestPartsOfAnother(t *testing.T) {
	temperatures(t, func(t *testing.T, k *Keyring, attempt func([]byte, string) ([]byte, bool, error)) {
		mine := specimens(t, k, "ns", "default")
		for where, others := range map[string][]specimen{
			"same data key":                  specimens(t, k, "ns", "default"),
			"another key name":               specimens(t, k, "ns", "phi"),
			"another namespace":              specimens(t, k, "other", "default"),
			"another key name and namespace": specimens(t, k, "other", "phi"),
		} {
			for i, a := range mine {
				for _, b := range others {
					if b.sealed.Form == a.sealed.Form {
						spliceParts(t, where, a, b, attempt)
					}
				}
				if out, ok, err := attempt(a.with(a.sealed.Envelope(), a.sealed.View()), "ns"); !ok || string(out) != a.plain {
					t.Fatalf("%s %d: untouched it does not open after all that: %v", where, i, err)
				}
			}
		}
	})
}

func spliceParts(t *testing.T, where string, a, b specimen, attempt func([]byte, string) ([]byte, bool, error)) {
	t.Helper()
	pa, pb := parts(a.sealed), parts(b.sealed)
	for first := range pa {
		for second := range pa {
			var env []byte
			for _, name := range []string{"version", "flags", "key id", "KEK reference", "lengths", "key name",
				"namespace", "wrapped key", "nonce", "ciphertext", "tag"} {
				if name == first || name == second {
					env = append(env, b.sealed.Envelope()[pb[name].start:pb[name].end]...)
				} else {
					env = append(env, a.sealed.Envelope()[pa[name].start:pa[name].end]...)
				}
			}
			if bytes.Equal(env, a.sealed.Envelope()) || bytes.Equal(env, b.sealed.Envelope()) {
				continue
			}
			if out, ok, _ := attempt(a.with(env, a.sealed.View()), "ns"); ok {
				t.Fatalf("%s of %s: %s and %s taken over: opened %q", where, b.name, first, second, out)
			}
			if out, ok, _ := attempt(a.with(env, a.sealed.View()), "other"); ok {
				t.Fatalf("%s of %s: %s and %s taken over: opened in the other namespace: %q", where, b.name, first, second, out)
			}
		}
	}
}

func TestViewOfAnother(t *testing.T) {
	k, _ := ring(t)
	s := sealer(t, k, "ns", "default")
	var sealed [2]envelope.Sealed
	for i, doc := range []string{`{"a":1,"amount":10}`, `{"a":2,"amount":99}`} {
		carrier, err := s.appendView([]byte(payloadOf("json/plain", doc)), fields("/a"))
		if err != nil {
			t.Fatal(err)
		}
		if sealed[i], _, err = envelope.ParsePayload(carrier); err != nil {
			t.Fatal(err)
		}
	}
	_, err := open(k, payloadWith(vector{Envelope: sealed[0].Envelope(), View: sealed[1].View()}), "ns")
	wantKind(t, err, crypto.KindTampered)
}

// TestFormsAreNotMixedUp: an envelope of one form in a carrier of another.
func TestFormsAreNotMixedUp(t *testing.T) {
	k, _ := ring(t)
	all := specimens(t, k, "ns", "default")
	for _, a := range all {
		for _, b := range all {
			if a.sealed.Form == b.sealed.Form {
				continue
			}
			if out, ok, err := tryOpen(t, k, a.with(b.sealed.Envelope(), []byte(`{"a":"[sealed]","b":2}`)), "ns"); ok || err == nil {
				t.Errorf("%s in the carrier of %s: opened %q, error %v", b.name, a.name, out, err)
			}
		}
	}
}

// TestExactlyOneLayer: sealing what is sealed already and opening it gives back the sealed value, not its content.
func TestExactlyOneLayer(t *testing.T) {
	k, _ := ring(t)
	inner := seal(t, k, "payload")
	outer := seal(t, k, string(inner))
	if got, err := open(k, outer, "ns"); err != nil || got != string(inner) {
		t.Errorf("%q, %v; want the inner carrier", got, err)
	}
}

func TestPaddingAndFrameAreChecked(t *testing.T) {
	k, p := ring(t)
	h, dataKey := headerOf(t, k, p)
	compressor, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false))
	if err != nil {
		t.Fatal(err)
	}
	frame := compressor.EncodeAll(bytes.Repeat([]byte("CANARY text "), 40), nil)
	for name, c := range map[string]struct {
		body  string
		flags byte
	}{
		"no padding at all":          {strings.Repeat("CANARY!!", 4), flagPadded},
		"only zeros":                 {strings.Repeat("\x00", 64), flagPadded},
		"empty":                      {"", flagPadded},
		"something after":            {"CANARY\x80" + strings.Repeat("\x00", 24) + "x", flagPadded},
		"no frame":                   {"CANARY", flagZstd},
		"two frames":                 {string(frame) + string(frame), flagZstd},
		"something after a frame":    {string(frame) + "CANARY", flagZstd},
		"half a frame":               {string(frame[:len(frame)-3]), flagZstd},
		"no body":                    {"", flagZstd},
		"frame without padding":      {string(frame), flagZstd | flagPadded},
		"a changed content size":     {string(frame[:5]) + "\xff" + string(frame[6:]), flagZstd},
		"a skippable frame after it": {string(frame) + "\x50\x2a\x4d\x18\x04\x00\x00\x00abcd", flagZstd},
		"a skippable frame":          {"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd", flagZstd},
	} {
		h.Flags = c.flags
		env := forge(t, dataKey, &h, []byte(c.body))
		_, ok, err := tryOpen(t, k, []byte(payloadOf(envelope.EncodingWhole, string(env))), "ns")
		if ok || crypto.KindOf(err) != crypto.KindTampered {
			t.Errorf("%s: opened %v, error %v; want it called tampered with", name, ok, err)
		}
	}
	for _, zeros := range []int{0, 1, 25, 31, 32, 1000} {
		h.Flags = flagPadded
		env := forge(t, dataKey, &h, []byte("CANARY\x80"+strings.Repeat("\x00", zeros)))
		if got, ok, err := tryOpen(t, k, []byte(payloadOf(envelope.EncodingWhole, string(env))), "ns"); !ok || string(got) != "CANARY" {
			t.Errorf("padded by %d zeros: %q, error %v; a reader takes any number", zeros, got, err)
		}
	}
	h.Flags = flagZstd | flagPadded
	env := forge(t, dataKey, &h, append(frame, "\x80"+strings.Repeat("\x00", 100)...))
	if got, ok, err := tryOpen(t, k, []byte(payloadOf(envelope.EncodingWhole, string(env))), "ns"); !ok || len(got) != 480 {
		t.Errorf("compressed and padded: %d bytes, error %v", len(got), err)
	}
}

func TestHugeLengths(t *testing.T) {
	k, _ := ring(t)
	s, _, err := envelope.ParsePayload(seal(t, k, "payload"))
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range map[int]byte{26: 0xff, 27: 0xff, 28: 0xff, 29: 0xff, 30: 0xff} {
		env := bytes.Clone(s.Envelope())
		env[i] = b
		_, _, err := envelope.ParsePayload([]byte(payloadOf(envelope.EncodingWhole, string(env))))
		wantKind(t, err, crypto.KindMalformed)
	}
	for name, c := range map[string]string{
		"data longer than there is":     "\x0a\x1c\x0a\x08encoding\x12\x10" + envelope.EncodingWhole + "\x12" + "\xff\xff\xff\xff\x07" + "x",
		"metadata longer than there is": "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7fsealed.",
	} {
		if _, marked, err := envelope.ParsePayload([]byte(c)); !marked || crypto.KindOf(err) != crypto.KindMalformed {
			t.Errorf("%s: marked %v, error %v", name, marked, err)
		}
	}
}

func TestWrittenByANewerRelease(t *testing.T) {
	k, _ := ring(t)
	s, _, err := envelope.ParsePayload(seal(t, k, "payload"))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(env []byte){
		"version": func(env []byte) { env[0] = 2 }, "form": func(env []byte) { env[flagsOffset] |= 3 },
		"flag": func(env []byte) { env[flagsOffset] |= 0x40 }, "another flag": func(env []byte) { env[flagsOffset] |= 0x80 },
	} {
		t.Run(name, func(t *testing.T) {
			env := bytes.Clone(s.Envelope())
			change(env)
			_, err := open(k, []byte(payloadOf(envelope.EncodingWhole, string(env))), "ns")
			wantKind(t, err, crypto.KindNewer)
		})
	}
	for _, p := range []string{payloadOf("binary/sealed.v2", "x"), payloadOf("json/sealed.v12", "x"),
		payloadOf("json/plain", "x") + "\x0a" + lengthPrefixed("\x0a\x09sealed.v2\x12\x01x")} {
		_, marked, err := envelope.ParsePayload([]byte(p))
		if wantKind(t, err, crypto.KindNewer); !marked {
			t.Errorf("%q is not marked", p)
		}
	}
	_, marked, err := envelope.ParseText([]byte("sealed.v2:abc"))
	if wantKind(t, err, crypto.KindNewer); !marked {
		t.Error("a text of a later version is not marked")
	}
}

func TestTextIsWrittenInOneWayOnly(t *testing.T) {
	k, _ := ring(t)
	text, err := sealer(t, k, "ns", "default").appendText([]byte("a CANARY text"))
	if err != nil {
		t.Fatal(err)
	}
	for at := len(envelope.TextPrefix); at <= len(text); at++ {
		for _, c := range "\r\n =" {
			changed := slices.Insert(bytes.Clone(text), at, byte(c))
			if _, ok, err := tryOpen(t, k, changed, "ns"); ok || err == nil {
				t.Fatalf("with %q at %d it opens", c, at)
			}
		}
	}
}

// TestForgedWithAKnownDataKey: who got hold of a data key writes envelopes in which everything is right, except that the
// key service never wrapped this data key for those names. A warm cache must not stand in for the service's check.
func TestForgedWithAKnownDataKey(t *testing.T) {
	k, p := ring(t)
	k.Confirm("sn")
	if _, err := open(k, seal(t, k, "payload"), "ns"); err != nil {
		t.Fatal(err)
	}
	good, dataKey := headerOf(t, k, p)
	good.Flags = 0
	forged := func(namespace string, change func(h *envelope.Header)) error {
		h := good
		change(&h)
		env := forge(t, dataKey, &h, []byte("CANARY"))
		_, ok, err := tryOpen(t, k, []byte(payloadOf(envelope.EncodingWhole, string(env))), namespace)
		if ok {
			return nil
		}
		return err
	}
	if err := forged("ns", func(*envelope.Header) {}); err != nil {
		t.Fatalf("unchanged it does not open: %v", err)
	}
	wantKind(t, forged("sn", func(h *envelope.Header) { h.Namespace = "sn" }), crypto.KindRejected)
	wantKind(t, forged("ns", func(h *envelope.Header) { h.Wrapped = append(bytes.Clone(h.Wrapped), 0) }), crypto.KindRejected)
	wantKind(t, forged("ns", func(h *envelope.Header) { h.Wrapped = nil }), crypto.KindMalformed)
	wantKind(t, forged("ns", func(h *envelope.Header) { h.KEK[0] ^= 1 }), crypto.KindNotConfigured)
	wantKind(t, forged("ns", func(h *envelope.Header) { h.Key = "defaulx" }), crypto.KindNotConfigured)
	wantKind(t, forged("ns", func(h *envelope.Header) { h.ID[0] ^= 1 }), crypto.KindTampered)
}
