package foreign

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/klauspost/compress/snappy"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// vector is a payload that another tool wrote; testdata/make_vectors.py shows how.
type vector struct {
	Name      string            `json:"name"`
	MadeBy    string            `json:"made_by"`
	Formats   []Format          `json:"formats"`
	Payload   []byte            `json:"payload"`
	OpensTo   []byte            `json:"opens_to"`
	Keys      map[string][]byte `json:"keys"`
	Namespace string            `json:"namespace"`
	Unwraps   []unwrapping      `json:"unwraps"`
}

// unwrapping is what a key service answered.
type unwrapping struct {
	Wrapped []byte            `json:"wrapped"`
	Context map[string]string `json:"context"`
	DataKey []byte            `json:"data_key"`
}

func vectors(t testing.TB) (all []vector) {
	t.Helper()
	text, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func (v *vector) namespace() string {
	if v.Namespace != "" {
		return v.Namespace
	}
	return "ns"
}

func (v *vector) unwrap(_ context.Context, wrapped []byte, bound map[string]string) ([]byte, error) {
	for _, u := range v.Unwraps {
		if bytes.Equal(u.Wrapped, wrapped) && maps.Equal(u.Context, bound) {
			return bytes.Clone(u.DataKey), nil
		}
	}
	return nil, &crypto.Error{Kind: crypto.KindDenied, Op: "kms.decrypt", Err: errors.New("not this blob in this context")}
}

func (v *vector) sources() (sources []Source) {
	for _, f := range v.Formats {
		s := Source{Namespaces: []string{v.namespace()}, Format: f}
		if f.Keyed() {
			s.Keys = v.Keys
		}
		if f.Wrapped() {
			s.Unwrap = v.unwrap
		}
		sources = append(sources, s)
	}
	return sources
}

func reader(t testing.TB, sources ...Source) *Reader {
	t.Helper()
	r, err := New(sources)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// open returns nil for a payload that is left as it is.
func open(n *Namespace, payload []byte) ([]byte, error) {
	var run Run
	s, err := n.Parse(payload, &run)
	if s == nil || err != nil {
		return nil, err
	}
	before := []byte("before")
	out, _, err := n.Open(context.Background(), bytes.Clone(before), s, &run)
	if !bytes.HasPrefix(out, before) {
		return nil, errors.New("what stood in the buffer is gone")
	}
	if err != nil && len(out) != len(before) {
		return out, errors.New("bytes were given with an error")
	}
	return out[len(before):], err
}

func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			t.Log("made by", v.MadeBy)
			r := reader(t, v.sources()...)
			got, err := open(r.For(v.namespace()), v.Payload)
			if err != nil || !bytes.Equal(got, v.OpensTo) {
				t.Fatalf("opened to %q, %v; want %q", got, err, v.OpensTo)
			}
			if !r.Marked(v.Payload) {
				t.Error("not marked, so a copy of it would pass in a request")
			}
			if n := r.For("other"); n != nil {
				t.Error("another namespace reads it too")
			}
			if got, err := open((*Reader)(nil).For(v.namespace()), v.Payload); got != nil || err != nil {
				t.Errorf("without any source: %q, %v", got, err)
			}
		})
	}
}

// TestTampered flips every bit and cuts at every length: never does anything but the original open.
func TestTampered(t *testing.T) {
	for _, v := range vectors(t) {
		if len(v.Formats) > 1 || !v.Formats[0].Keyed() && !v.Formats[0].Wrapped() {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			n := reader(t, v.sources()...).For(v.namespace())
			for i := range len(v.Payload) * 8 {
				changed := bytes.Clone(v.Payload)
				changed[i/8] ^= 1 << (i % 8)
				got, err := open(n, changed)
				if len(got) > 0 && err == nil && !bytes.Equal(got, v.OpensTo) {
					t.Fatalf("bit %d flipped, opened to %q", i, got)
				}
				if err != nil && strings.Contains(err.Error(), "Ada") {
					t.Fatalf("the error quotes the payload: %v", err)
				}
			}
			for i := range v.Payload {
				if got, err := open(n, v.Payload[:i]); len(got) > 0 && err == nil {
					t.Fatalf("cut at %d, opened to %q", i, got)
				}
			}
		})
	}
}

func TestOtherKeysAndContexts(t *testing.T) {
	all := map[string]vector{}
	for _, v := range vectors(t) {
		all[v.Name] = v
	}
	check := func(name string, v vector, want crypto.Kind, change func(*Source), namespace string) {
		t.Helper()
		s := v.sources()[0]
		change(&s)
		s.Namespaces = []string{"*"}
		got, err := open(reader(t, s).For(namespace), v.Payload)
		if crypto.KindOf(err) != want || len(got) > 0 {
			t.Errorf("%s: %q, kind %v (%v), want %v", name, got, crypto.KindOf(err), err, want)
		}
	}
	check("another key under the same id", all["samples"], crypto.KindTampered, func(s *Source) { s.Keys = map[string][]byte{"test": make([]byte, 32)} }, "ns")
	check("another key id", all["samples"], crypto.KindNotConfigured, func(s *Source) { s.Keys = map[string][]byte{"other": make([]byte, 32)} }, "ns")
	check("a context of another namespace", all["temporal-sa"], crypto.KindRejected, func(*Source) {}, "other")
	check("the wrapped key of another service", all["temporal-proxy"], crypto.KindRejected, func(s *Source) {
		s.Unwrap = func(context.Context, []byte, map[string]string) ([]byte, error) {
			return nil, &crypto.Error{Kind: crypto.KindDenied, Op: "kms.decrypt", Err: errors.New("no")}
		}
	}, "ns")

	sa := all["temporal-sa"]
	s := sa.sources()[0]
	s.Namespaces, s.SealedAs = []string{"renamed"}, "clinic"
	if got, err := open(reader(t, s).For("renamed"), sa.Payload); err != nil || !bytes.Equal(got, sa.OpensTo) {
		t.Errorf("sealed_as: %q, %v", got, err)
	}
}

// TestLeftAlone holds what is no business of these formats: it comes out as it is, without an error.
func TestLeftAlone(t *testing.T) {
	n := reader(t, Source{Namespaces: []string{"ns"}, Format: Samples, Keys: map[string][]byte{"test": make([]byte, 32)}},
		Source{Namespaces: []string{"ns"}, Format: Zlib}).For("ns")
	pair := func(kv ...string) (out map[string]string) {
		out = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			out[kv[i]] = kv[i+1]
		}
		return out
	}
	for name, p := range map[string][]byte{
		"empty":                         nil,
		"plain":                         made(pair("encoding", "json/plain"), []byte("1")),
		"ours":                          made(pair("encoding", "binary/sealed.v1"), []byte("1")),
		"a compression not configured":  made(pair("encoding", "binary/gzip"), []byte("1")),
		"zlib with more metadata":       made(pair("encoding", "binary/zlib", "uncompressed-size", "1"), []byte("1")),
		"Temporal's proxy":              made(pair("encoding", "binary/encrypted", "encryption-key-id", "test", "encryption-dek", "AAAA"), []byte("1")),
		"a codec of the application's":  made(pair("encoding", "binary/encrypted", "encryption-key-id", "test", "tenant", "7"), []byte("1")),
		"another cipher":                made(pair("encoding", "binary/encrypted", "encryption-key-id", "test", "encryption-cipher", "AES/CBC"), []byte("1")),
		"no payload":                    []byte("\x0a\xff"),
		"a payload with another member": append(made(pair("encoding", "binary/zlib"), []byte("1")), "\x1a\x02\x08\x01"...),
	} {
		if got, err := open(n, p); got != nil || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// TestLayers: a chain of codecs comes off and nothing below it, our own envelope least of all.
func TestLayers(t *testing.T) {
	key := make([]byte, 32)
	n := reader(t, Source{Namespaces: []string{"ns"}, Format: Samples, Keys: map[string][]byte{"k": key}},
		Source{Namespaces: []string{"ns"}, Format: Zlib}, Source{Namespaces: []string{"ns"}, Format: Gzip}).For("ns")
	plain := made(map[string]string{"encoding": "json/plain"}, []byte("1"))
	ours := made(map[string]string{"encoding": "binary/sealed.v1"}, []byte("an envelope"))
	enc := func(p []byte) []byte {
		a, err := newAEAD(key)
		if err != nil {
			t.Fatal(err)
		}
		return made(map[string]string{"encoding": "binary/encrypted", "encryption-key-id": "k"}, a.Seal(nil, nil, p, nil))
	}
	for _, c := range []struct {
		name     string
		in, want []byte
	}{
		{"zlib, encryption, gzip", zlibbed(enc(gzipped(plain))), plain},
		{"zlib twice", zlibbed(zlibbed(plain)), zlibbed(plain)},
		{"encrypted twice", enc(enc(plain)), enc(plain)},
		{"two compressions inside", enc(zlibbed(gzipped(plain))), gzipped(plain)},
		{"our envelope in zlib", zlibbed(ours), ours},
		{"our envelope encrypted", enc(ours), ours},
		{"nothing at all", zlibbed(nil), []byte{}},
	} {
		got, err := open(n, c.in)
		if c.name == "encrypted twice" && err == nil { // the inner nonce is random
			if v := readPayload(got).metadata["encoding"]; string(v) != "binary/encrypted" {
				t.Errorf("%s: opened to %q", c.name, got)
			}
			continue
		}
		if err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

// TestBombs: what a small payload may expand to is bounded, for one payload and for those of a message.
func TestBombs(t *testing.T) {
	const size = 1 << 16
	content := bytes.Repeat([]byte("bomb"), size/4)
	data := func(payload []byte) []byte {
		p := readPayload(payload)
		if p.metadata == nil {
			t.Fatal("no payload")
		}
		return p.data
	}
	for _, c := range []struct {
		format Format
		data   []byte
	}{{Zlib, data(zlibbed(content))}, {Gzip, data(gzipped(content))}, {Snappy, snappy.Encode(nil, content)}, {Snappy, framed(content)}} {
		if out, err := expand(c.format, c.data, &Run{expanded: maxMessage - size}); err != nil || !bytes.Equal(out, content) {
			t.Errorf("%s at its limit: %d bytes, %v", c.format, len(out), err)
		}
		if out, err := expand(c.format, c.data, &Run{expanded: maxMessage - size + 1}); !errors.Is(err, errTooLarge) || out != nil {
			t.Errorf("%s above its limit: %d bytes, %v", c.format, len(out), err)
		}
	}
	full := errors.New("no room")
	for _, c := range []Format{Zlib, Gzip} { // what may not be kept is not decompressed
		asked := 0
		in := map[Format][]byte{Zlib: data(zlibbed(content)), Gzip: data(gzipped(content))}[c]
		run := NewRun(func(n int) error {
			if asked += n; asked > size/2 {
				return full
			}
			return nil
		})
		if out, err := expand(c, in, &run); !errors.Is(err, full) || out != nil {
			t.Errorf("%s without room: %d bytes, %v", c, len(out), err)
		}
	}
	if out, err := expand(Snappy, binary.AppendUvarint(nil, maxPayload), new(Run)); err == nil {
		t.Errorf("a snappy block that promises %d bytes and holds none: %d", maxPayload, len(out))
	}
	for expanded, want := range map[int]int{0: maxPayload, maxMessage - maxPayload: maxPayload, maxMessage - 7: 7, maxMessage: 0} {
		if got := (&Run{expanded: expanded}).limit(); got != want {
			t.Errorf("after %d bytes the limit is %d, want %d", expanded, got, want)
		}
	}
	n := reader(t, Source{Namespaces: []string{"ns"}, Format: Zlib}).For("ns")
	p := zlibbed(made(map[string]string{"encoding": "binary/plain"}, content))
	run := Run{expanded: maxMessage - 2*size}
	if _, err := n.Parse(p, &run); err != nil {
		t.Errorf("the last below the limit: %v", err)
	}
	if s, err := n.Parse(p, &run); crypto.KindOf(err) != crypto.KindMalformed || s != nil {
		t.Errorf("one more: %v, %v", s, err)
	}
	if got, err := open(n, zlibbed([]byte("\x0a\xff no payload"))); crypto.KindOf(err) != crypto.KindMalformed || len(got) > 0 {
		t.Errorf("something else within zlib: %q, %v", got, err)
	}
}

func framed(content []byte) []byte {
	var b bytes.Buffer
	w := snappy.NewBufferedWriter(&b)
	_, _ = w.Write(content)
	_ = w.Close()
	return b.Bytes()
}

func TestSourcesAreChecked(t *testing.T) {
	unwrap := func(context.Context, []byte, map[string]string) ([]byte, error) { return nil, nil }
	for name, s := range map[string]Source{
		"unknown format":       {Format: "rot13"},
		"samples without keys": {Format: Samples},
		"a short key":          {Format: Samples, Keys: map[string][]byte{"k": make([]byte, 31)}},
		"keys for zlib":        {Format: Zlib, Keys: map[string][]byte{"k": make([]byte, 32)}},
		"no KMS":               {Format: TemporalSA},
		"KMS for samples":      {Format: Samples, Keys: map[string][]byte{"k": make([]byte, 32)}, Unwrap: unwrap},
	} {
		if _, err := New([]Source{s}); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// FuzzMarked: whatever the reader would try to open is marked, or a copy of it in a request would come back
// in clear.
func FuzzMarked(f *testing.F) {
	var sources []Source
	for _, v := range vectors(f) {
		f.Add(v.Payload)
		for _, s := range v.sources() {
			s.Namespaces = []string{"*"}
			sources = append(sources, s)
		}
	}
	f.Add([]byte("\x0a\x17\x0a\x08encoding\x12\x0bbinary/zlib\x0a\x16\x0a\x08encoding\x12\x0ajson/plain"))
	r := reader(f, sources...)
	n := r.For("ns")
	f.Fuzz(func(t *testing.T, payload []byte) {
		s, err := n.Parse(payload, new(Run))
		if (s != nil || err != nil) && !r.Marked(payload) {
			t.Fatalf("%x would be opened, but is not marked", payload)
		}
	})
}

func made(metadata map[string]string, data []byte) (out []byte) {
	bytesField := func(dst []byte, tag byte, b []byte) []byte {
		return append(binary.AppendUvarint(append(dst, tag), uint64(len(b))), b...)
	}
	for k, v := range metadata {
		out = bytesField(out, 0x0a, bytesField(bytesField(nil, 0x0a, []byte(k)), 0x12, []byte(v)))
	}
	return bytesField(out, 0x12, data)
}

func zlibbed(p []byte) []byte {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	_, _ = w.Write(p)
	_ = w.Close()
	return made(map[string]string{"encoding": "binary/zlib"}, b.Bytes())
}

func gzipped(p []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(p)
	_ = w.Close()
	return made(map[string]string{"encoding": "binary/gzip"}, b.Bytes())
}
