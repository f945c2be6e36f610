package upstream

import (
	"bytes"
	"testing"

	"golang.org/x/net/http2"
)

// TestSettings reads the first frame of an upstream, whole and byte by byte.
func TestSettings(t *testing.T) {
	frame := func(write func(*http2.Framer) error) []byte {
		var b bytes.Buffer
		if err := write(http2.NewFramer(&b, nil)); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	settings := func(s ...http2.Setting) []byte {
		return frame(func(f *http2.Framer) error { return f.WriteSettings(s...) })
	}
	window := http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 16}
	streams := func(n uint32) http2.Setting { return http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: n} }
	for name, c := range map[string]struct {
		first []byte
		want  int32
	}{
		"no limit":         {settings(window), callsPerConnection},
		"no settings":      {settings(), callsPerConnection},
		"a large limit":    {settings(window, streams(1<<32-1)), callsPerConnection},
		"100":              {settings(window, streams(100)), callsPerConnection},
		"32":               {settings(streams(32), window), 30}, // a few stay free
		"1":                {settings(streams(1)), 1},
		"0":                {settings(streams(0)), 1},
		"another frame":    {frame(func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) }), 85},
		"a frame too long": {append([]byte{0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0}, make([]byte, 2*maxSettings)...), 85},
	} {
		for _, step := range []int{1, 7, len(c.first)} {
			limit := new(streamLimit)
			conn := &settingsConn{limit: limit}
			for rest := c.first; len(rest) > 0 && conn.limit != nil; {
				if limit.known() {
					t.Errorf("%s: known before the frame was complete", name)
				}
				n := min(step, len(rest))
				conn.look(rest[:n])
				rest = rest[n:]
			}
			if !limit.known() || limit.usable() != c.want || conn.seen != nil {
				t.Errorf("%s in steps of %d: %d calls, known %v, want %d", name, step, limit.usable(), limit.known(), c.want)
			}
		}
	}
}
