package faults

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frontend speaks HTTP/2 frame by frame, so that it can do what no server would. It answers everything with an empty
// message, but the calls that a script is for.
type frontend struct {
	address string
	net     net.Listener

	mu     sync.Mutex
	script func(*request)
	seen   int // requests for the script that arrived whole
	began  int // and those of which only the headers did
	conns  map[*conn]bool
	mute   bool // reads, and says nothing at all
}

// conn is one of its connections.
type conn struct {
	net.Conn
	f   *frontend
	mu  sync.Mutex // held to write
	fr  *http2.Framer
	buf bytes.Buffer
	enc *hpack.Encoder
}

// request is a call for the script. phase tells what has arrived of it: the script is run at each.
type request struct {
	*conn
	stream uint32
	phase  phase
	nth    int // of all requests for the script, from 1
}

type phase int

const (
	headersArrived phase = iota
	messageArrived
)

// scripted is the method that scripts are for.
const scripted = "/temporal.api.workflowservice.v1.WorkflowService/StartWorkflowExecution"

func startFrontend(t *testing.T) *frontend {
	t.Helper()
	f := &frontend{conns: map[*conn]bool{}}
	f.listen(t, "127.0.0.1:0")
	t.Cleanup(f.stop)
	return f
}

func (f *frontend) listen(t *testing.T, address string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	f.net, f.address = l, l.Addr().String()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f.serve(c)
		}
	}()
}

// stop is a crash: all connections are reset.
func (f *frontend) stop() {
	f.net.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		c.reset()
	}
}

func (f *frontend) play(script func(*request)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script, f.seen, f.began = script, 0, 0
}

func (f *frontend) arrived() (began, whole int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.began, f.seen
}

func (f *frontend) setMute(mute bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mute = mute
}

func (f *frontend) muted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mute
}

func (f *frontend) serve(raw net.Conn) {
	c := &conn{Conn: raw, f: f, fr: http2.NewFramer(raw, raw)}
	c.enc = hpack.NewEncoder(&c.buf)
	c.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.mu.Lock()
	f.conns[c] = true
	f.mu.Unlock()
	defer func() {
		raw.Close()
		f.mu.Lock()
		delete(f.conns, c)
		f.mu.Unlock()
	}()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(raw, preface); err != nil {
		return
	}
	if err := c.write(func() error {
		return c.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 100})
	}); err != nil {
		return
	}
	calls := map[uint32]bool{} // by stream: is it for the script
	for {
		frame, err := c.fr.ReadFrame()
		if err != nil {
			return
		}
		if f.muted() {
			continue
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = c.write(c.fr.WriteSettingsAck) // a connection that broke shows at the next read
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				_ = c.write(func() error { return c.fr.WritePing(true, frame.Data) })
			}
		case *http2.MetaHeadersFrame:
			path := frame.PseudoValue("path")
			calls[frame.StreamID] = path == scripted
			switch {
			case calls[frame.StreamID]:
				f.run(c, frame.StreamID, headersArrived)
			case strings.HasPrefix(path, "/grpc.reflection."):
				(&request{conn: c, stream: frame.StreamID}).headers(true, ":status", "200", "content-type", "application/grpc", "grpc-status", "12")
			}
		case *http2.DataFrame:
			n := uint32(len(frame.Data()))
			if n > 0 {
				_ = c.write(func() error { return c.fr.WriteWindowUpdate(0, n) })
			}
			if !frame.StreamEnded() {
				_ = c.write(func() error { return c.fr.WriteWindowUpdate(frame.StreamID, n) })
				continue
			}
			if calls[frame.StreamID] {
				f.run(c, frame.StreamID, messageArrived)
			} else {
				(&request{conn: c, stream: frame.StreamID}).answer(nil)
			}
		}
	}
}

func (f *frontend) run(c *conn, stream uint32, p phase) {
	f.mu.Lock()
	if p == headersArrived {
		f.began++
	} else {
		f.seen++
	}
	script, nth := f.script, f.began
	f.mu.Unlock()
	r := &request{conn: c, stream: stream, phase: p, nth: nth}
	if script != nil {
		script(r)
	} else if p == messageArrived {
		r.answer(nil)
	}
}

func (c *conn) write(do func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return do()
}

// reset ends the connection without a goodbye.
func (c *conn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // what is closed then is reset
	}
	c.Conn.Close()
}

// answer is what a server does: headers, a message, trailers.
func (r *request) answer(message []byte) {
	r.headers(false, ":status", "200", "content-type", "application/grpc")
	r.message(message)
	r.headers(true, "grpc-status", "0")
}

func (r *request) headers(end bool, pairs ...string) {
	_ = r.write(func() error {
		r.buf.Reset()
		for i := 0; i < len(pairs); i += 2 {
			_ = r.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}) // into memory
		}
		return r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: r.stream, BlockFragment: r.buf.Bytes(), EndHeaders: true, EndStream: end})
	})
}

func (r *request) message(b []byte) {
	r.data(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...), false)
}

func (r *request) data(b []byte, end bool) {
	_ = r.write(func() error { return r.fr.WriteData(r.stream, end, b) })
}

func (r *request) rst(code http2.ErrCode) {
	_ = r.write(func() error { return r.fr.WriteRSTStream(r.stream, code) })
}

// goAway says goodbye: streams above last were not looked at.
func (r *request) goAway(last uint32) {
	_ = r.write(func() error { return r.fr.WriteGoAway(last, http2.ErrCodeNo, []byte("restarting")) })
}

// faults are what a frontend, or what is in front of it, can do to a call. mayRepeat: it says that it has not looked at
// it.
var faults = []struct {
	name      string
	play      func(*request)
	codes     string // gRPC codes that the caller may see, by name
	mayRepeat bool
}{
	{"hangs", func(r *request) {}, "DeadlineExceeded", false},
	{"hangs after its headers", func(r *request) {
		if r.phase == messageArrived {
			r.headers(false, ":status", "200", "content-type", "application/grpc")
		}
	}, "DeadlineExceeded", false},
	{"hangs within its message", func(r *request) {
		if r.phase == messageArrived {
			r.headers(false, ":status", "200", "content-type", "application/grpc")
			r.data([]byte{0, 0, 0, 0, 10, 1}, false)
		}
	}, "DeadlineExceeded", false},
	{"hangs before its trailers", func(r *request) {
		if r.phase == messageArrived {
			r.headers(false, ":status", "200", "content-type", "application/grpc")
			r.message(nil)
		}
	}, "DeadlineExceeded", false},
	{"resets the connection after the headers", func(r *request) { r.reset() }, "Unavailable", false},
	{"resets the connection after the message", func(r *request) {
		if r.phase == messageArrived {
			r.reset()
		}
	}, "Unavailable", false},
	{"resets the connection after its headers", func(r *request) {
		if r.phase == messageArrived {
			r.headers(false, ":status", "200", "content-type", "application/grpc")
			time.Sleep(20 * time.Millisecond) // a reset overtakes what was not read yet
			r.reset()
		}
	}, "Unavailable", false},
	{"resets the connection before its trailers", func(r *request) {
		if r.phase == messageArrived {
			r.headers(false, ":status", "200", "content-type", "application/grpc")
			r.message(nil)
			time.Sleep(20 * time.Millisecond)
			r.reset()
		}
	}, "Unavailable", false},
	{"resets the stream", func(r *request) {
		if r.phase == messageArrived {
			r.rst(http2.ErrCodeInternal)
		}
	}, "Internal", false},
	{"refuses every stream", func(r *request) {
		if r.phase == headersArrived {
			r.rst(http2.ErrCodeRefusedStream)
		}
	}, "Unavailable", true},
	{"answers garbage", func(r *request) {
		if r.phase == messageArrived {
			r.answer(bytes.Repeat([]byte{0xff}, 20))
		}
	}, "Internal", false},
	{"answers with a page of a web server", func(r *request) {
		if r.phase == messageArrived {
			r.headers(false, ":status", "502", "content-type", "text/html")
			r.data([]byte("<html>bad gateway</html>"), true)
		}
	}, "Unavailable Unknown", false},
	{"answers HTTP 503 without a word", func(r *request) {
		if r.phase == messageArrived {
			r.headers(true, ":status", "503")
		}
	}, "Unavailable", false},
	{"answers with another content type", func(r *request) {
		if r.phase == messageArrived {
			r.headers(false, ":status", "200", "content-type", "application/json")
			r.data([]byte("{}"), true)
		}
	}, "Unknown", false},
	{"answers with more than any SDK takes", func(r *request) {
		if r.phase == messageArrived {
			r.headers(false, ":status", "200", "content-type", "application/grpc")
			r.data([]byte{0, 0x7f, 0xff, 0xff, 0xff}, false)
		}
	}, "ResourceExhausted", false},
	{"answers with two messages", func(r *request) {
		if r.phase == messageArrived {
			r.headers(false, ":status", "200", "content-type", "application/grpc")
			r.message(nil)
			r.message(nil)
			r.headers(true, "grpc-status", "0")
		}
	}, "Internal", false},
	{"answers with a message that breaks off", func(r *request) {
		if r.phase == messageArrived {
			r.headers(false, ":status", "200", "content-type", "application/grpc")
			r.data([]byte{0, 0, 0, 0, 10, 1}, false)
			r.headers(true, "grpc-status", "0")
		}
	}, "Internal", false},
	{"answers without a status", func(r *request) {
		if r.phase == messageArrived {
			r.headers(false, ":status", "200", "content-type", "application/grpc")
			r.message(nil)
			r.headers(true, "grpc-message", "all is well")
		}
	}, "Unknown Internal", false},
	{"speaks no HTTP/2 any more", func(r *request) {
		if r.phase == messageArrived {
			_ = r.write(func() error { _, err := r.Write([]byte(strings.Repeat("no such thing ", 20))); return err })
		}
	}, "Unavailable Internal", false},
}
