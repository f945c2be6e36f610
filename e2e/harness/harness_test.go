package harness

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// A sweep that finds nothing proves something only if it would find what is there.
func TestSweepFindsEveryForm(t *testing.T) {
	forms := map[string]func(clear string) []byte{
		"clear text":     func(s string) []byte { return []byte(s) },
		"cut by a page":  func(s string) []byte { return []byte(s[:13] + "\x00\x0d" + s[13:]) },
		"hex":            func(s string) []byte { return []byte(hex.EncodeToString([]byte(s))) },
		"HEX":            func(s string) []byte { return []byte(strings.ToUpper(hex.EncodeToString([]byte(s)))) },
		"base64":         func(s string) []byte { return []byte(base64.StdEncoding.EncodeToString([]byte(s))) },
		"base64 after 1": func(s string) []byte { return []byte(base64.URLEncoding.EncodeToString([]byte("\xff" + s + "\xff"))) },
		"base64 after 2": func(s string) []byte {
			return []byte(base64.RawURLEncoding.EncodeToString([]byte("\xff\xfe" + s + "??")))
		},
		"gzip": func(s string) []byte {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			_, _ = w.Write([]byte(s))
			_ = w.Close()
			return b.Bytes()
		},
		"zlib": func(s string) []byte {
			var b bytes.Buffer
			w := zlib.NewWriter(&b)
			_, _ = w.Write([]byte(s))
			_ = w.Close()
			return b.Bytes()
		},
		"zstd": func(s string) []byte {
			w, _ := zstd.NewWriter(nil)
			return w.EncodeAll([]byte(strings.Repeat(s, 3)), nil)
		},
	}
	for name, form := range forms {
		c := NewCanaries()
		one, other := c.New("one"), c.New("other")
		_ = other
		for pad := range 9 {
			s := NewSweep(c)
			s.Bytes("here", append(append(bytes.Repeat([]byte{'x'}, pad), form(one)...), "tail"...))
			found, absent := s.Found()
			if len(found) == 0 || found[0].Site != "one" {
				t.Errorf("%s, %d bytes in: not found", name, pad)
			}
			if len(absent) != 1 || absent[0] != "other" {
				t.Errorf("%s: absent = %v, want the other canary alone", name, absent)
			}
		}
	}
}

func TestSweepOfNothing(t *testing.T) {
	c := NewCanaries()
	c.New("one")
	s := NewSweep(c)
	s.Bytes("empty", nil)
	s.Bytes("short", []byte("abc"))
	s.Bytes("noise", []byte(randomText(1<<20)))
	if n, _ := s.Count(); n != 0 {
		t.Errorf("found %s", s.Report())
	}
}
