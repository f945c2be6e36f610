package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/x/frame"
)

// arrivalCosts reads the table of docs/operations.md of what arriving takes, in bytes.
func arrivalCosts(t testing.TB) (costs struct{ connection, call, perByte int64 }) {
	t.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for row, cost := range map[string]*int64{
		`a connection, in KiB`:                        &costs.connection,
		`a call with its headers, in KiB`:             &costs.call,
		`a byte of a request as it arrives, in bytes`: &costs.perByte,
	} {
		found := regexp.MustCompile(`(?m)^\| ` + row + ` \| (\d+) \|`).FindSubmatch(text)
		if found == nil {
			t.Fatalf("the table has no row %q", row)
		}
		if *cost, err = strconv.ParseInt(string(found[1]), 10, 64); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(row, "KiB") {
			*cost <<= 10
		}
	}
	return costs
}

// allocated returns how many bytes a function allocates, on all goroutines.
func allocated(fn func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// recorded is a stream whose request has arrived whole.
type recorded struct {
	in       bytes.Reader
	compress string
	answered *status.Status
}

func (r *recorded) Method() string                      { return describeMethod }
func (r *recorded) SetHeader(metadata.MD) error         { return nil }
func (r *recorded) SendHeader(metadata.MD) error        { return nil }
func (r *recorded) SetTrailer(metadata.MD) error        { return nil }
func (r *recorded) RecvCompress() string                { return r.compress }
func (r *recorded) WriteStatus(s *status.Status) error  { r.answered = s; return nil }
func (r *recorded) ReadMessageHeader(head []byte) error { return whole(io.ReadFull(&r.in, head)) }

// Read returns n bytes in pieces of one HTTP/2 frame, as gRPC does.
func (r *recorded) Read(n int) (data mem.BufferSlice, err error) {
	const frameSize = 16 << 10
	for err == nil && n > 0 {
		buf := frame.Clear.Get(min(n, frameSize))
		err = whole(io.ReadFull(&r.in, *buf))
		n -= len(*buf)
		data = append(data, mem.NewBuffer(buf, frame.Clear))
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		data.Free()
		return nil, err
	}
	return data, nil
}

func whole(_ int, err error) error { return err }

func zipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// message is a message on the wire that announces a length.
func message(flag byte, length uint32, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, length), body...)
}

// FuzzMessage reads requests from arbitrary bytes. What is in memory is counted, and bounded by the limit of one request
// whatever the length says or the bytes decompress to.
func FuzzMessage(f *testing.F) {
	const limit = 256 << 10
	small, zeros := []byte("\n\x06clinic"), make([]byte, 2*limit)
	for _, seed := range []struct {
		flag   byte
		length uint32
		body   []byte
	}{
		{0, 8, small}, {0, 0, nil}, {0, 30 << 20, nil}, {0, 1<<32 - 1, small}, {0, 9, small}, {0, 7, small}, {2, 8, small},
		{0, 2 * readChunk, zeros[:2*readChunk]}, {0, limit, zeros[:limit-1]}, {0, limit + 1, zeros[:limit+1]},
		{1, 8, small},
	} {
		f.Add(message(seed.flag, seed.length, seed.body), true)
		f.Add(message(seed.flag, seed.length, seed.body), false)
	}
	for _, plain := range [][]byte{small, nil, zeros[:limit], zeros} {
		z := zipped(f, plain)
		f.Add(message(1, uint32(len(z)), z), true)
		f.Add(message(1, uint32(len(z)-1), z[:len(z)-1]), true)
	}
	a := newAdmission(Limits{Connections: 1, Calls: 1, LongPolls: 1, Bytes: MinBytes, RequestBytes: limit},
		NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	costs := arrivalCosts(f)
	f.Fuzz(func(t *testing.T, in []byte, gzipped bool) {
		stream := &recorded{in: *bytes.NewReader(in)}
		if gzipped {
			stream.compress = "gzip"
		}
		l := newLease(a.place(nil, false))
		ctx := grpc.NewContextWithServerTransportStream(t.Context(), stream)
		var got []byte
		var err error
		took := allocated(func() { got, err = readOne(ctx, l, limit) })
		if most := costs.call + costs.perByte*(int64(len(in))+l.place.bytes); took > most {
			t.Errorf("%d bytes are allocated for %d that arrive and %d that are counted; at most %d may be", took, len(in), l.place.bytes, most)
		}
		if err == nil {
			checkMessage(t, in, got, limit)
			if int64(len(got)) > l.place.bytes {
				t.Errorf("%d bytes are in memory, and %d are counted", len(got), l.place.bytes)
			}
		}
		l.giveBack()
		if n := a.inUse(); n != 0 || a.reading.Len() != 0 || a.begun.Len() != 0 {
			t.Errorf("%d bytes are still counted, %d requests are still read, %d are begun", n, a.reading.Len(), a.begun.Len())
		}
	})
}

// readOne reads the one request of a call, as the step read does.
func readOne(ctx context.Context, l *lease, limit int64) ([]byte, error) {
	r, err := newReader(ctx, limit, time.Minute)
	if err != nil {
		return nil, err
	}
	r.place = &l.place
	r.place.in.reads(r)
	defer r.close()
	data, err := r.message(ctx)
	request := frame.New(data...)
	defer request.Free()
	if err == nil {
		err = r.end()
	}
	return bytes.Clone(request.Bytes()), err
}

// checkMessage compares what was read with what the wire has.
func checkMessage(t *testing.T, in, got []byte, limit int) {
	t.Helper()
	want := in[messageHeader:]
	if n := binary.BigEndian.Uint32(in[1:]); int(n) != len(want) {
		t.Fatalf("a message of %d bytes is read where %d arrive", n, len(want))
	}
	if in[0]&1 != 0 {
		z, err := gzip.NewReader(bytes.NewReader(want))
		if err != nil {
			t.Fatalf("what cannot be decompressed is read: %v", err)
		}
		if want, err = io.ReadAll(io.LimitReader(z, int64(limit)+1)); err != nil {
			t.Fatalf("what cannot be decompressed is read: %v", err)
		}
	}
	if len(got) > limit || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes are read of %d, others than arrived or more than %d", len(got), len(want), limit)
	}
}

// frames are what a client writes behind its preface.
type frames struct {
	bytes.Buffer
	*http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
}

func newFrames() *frames {
	f := new(frames)
	f.Framer = http2.NewFramer(&f.Buffer, nil)
	f.AllowIllegalWrites = true
	f.enc = hpack.NewEncoder(&f.block)
	return f
}

// open writes the headers of a call, with more of them.
func (f *frames) open(t testing.TB, stream uint32, method string, more ...string) {
	t.Helper()
	f.block.Reset()
	pairs := append([]string{":method", "POST", ":scheme", "http", ":path", method, ":authority", "x",
		"content-type", "application/grpc", "te", "trailers"}, more...)
	for i := 0; i < len(pairs); i += 2 {
		if err := f.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}); err != nil {
			t.Fatal(err)
		}
	}
	const most = 16 << 10
	for block, first := f.block.Bytes(), true; first || len(block) > 0; first = false {
		part := block[:min(len(block), most)]
		block = block[len(part):]
		var err error
		if first {
			err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: part, EndHeaders: len(block) == 0})
		} else {
			err = f.WriteContinuation(stream, len(block) == 0, part)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// frameSeeds are an ordinary call, and what callers have sent to take the proxy down.
func frameSeeds(f *testing.F) {
	long := base64.RawStdEncoding.EncodeToString(make([]byte, 2850))
	for _, write := range []func(*frames){
		func(w *frames) {
			w.open(f, 1, describeMethod)
			_ = w.WriteData(1, true, message(0, 8, []byte("\n\x06clinic")))
		},
		func(w *frames) {
			w.open(f, 1, "/grpc.health.v1.Health/Check", "grpc-timeout", "1S")
			_ = w.WriteData(1, true, message(0, 0, nil))
		},
		func(w *frames) { // one header, thousands of times
			for stream := uint32(1); stream < 9; stream += 2 {
				w.open(f, stream, describeMethod, repeated("x-bin", long, 260)...)
			}
		},
		func(w *frames) { // a length and nothing else
			w.open(f, 1, describeMethod)
			_ = w.WriteData(1, false, message(0, 30<<20, nil))
		},
		func(w *frames) { w.open(f, 1, "/"+strings.Repeat("y", 3900)+".S/M") },
		func(w *frames) { w.open(f, 1, describeMethod, "authorization", "Bearer "+long) },
		func(w *frames) {
			for i := range uint32(20) {
				w.open(f, 2*i+1, describeMethod)
				_ = w.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
			}
		},
		func(w *frames) {
			_ = w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0},
				http2.Setting{ID: http2.SettingHeaderTableSize, Val: 1 << 30}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1<<24 - 1})
			_ = w.WritePing(false, [8]byte{1})
			_ = w.WriteWindowUpdate(0, 1<<31-1)
			_ = w.WriteGoAway(0, http2.ErrCodeNo, bytes.Repeat([]byte("g"), 1000))
			_ = w.WriteRawFrame(0xbb, 0xff, 1, make([]byte, 100))
		},
	} {
		w := newFrames()
		write(w)
		f.Add(w.Bytes())
	}
}

// repeated returns a header so many times.
func repeated(name, value string, n int) (pairs []string) {
	for range n {
		pairs = append(pairs, name, value)
	}
	return pairs
}

// FuzzFrames gives a connection arbitrary bytes behind the client's preface. They end it and nothing else, take no more than
// the table in docs/operations.md says, and leave nothing counted.
func FuzzFrames(f *testing.F) {
	frameSeeds(f)
	upstream := &frontend{}
	startFrontend(f, upstream)
	l, err := net.Listen("unix", filepath.Join(f.TempDir(), "proxy")) // which has no ports to run out of
	if err != nil {
		f.Fatal(err)
	}
	p := startProxy(f, upstream, func(o *Options) { o.Listeners[0].Net, o.Log = l, slog.New(slog.DiscardHandler) })
	costs := arrivalCosts(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		took := allocated(func() { p.converse(t, l.Addr(), in) })
		if most := costs.connection + costs.call*callsIn(in) + costs.perByte*int64(len(in)); took > most {
			t.Errorf("%d bytes are allocated for a connection with %d calls and %d bytes; at most %d may be", took, callsIn(in), len(in), most)
		}
		if n := counterOf(t, p.registry, "temporal_seal_panics_total"); n != 0 {
			t.Fatalf("%v faults", n)
		}
	})
}

// converse sends bytes on a connection of their own, and waits until the proxy has ended it and all that came with it.
func (p *proxied) converse(t *testing.T, to net.Addr, in []byte) {
	t.Helper()
	conn, err := net.Dial(to.Network(), to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var hello frames
	hello.Framer = http2.NewFramer(&hello.Buffer, nil)
	hello.WriteString(http2.ClientPreface)
	_ = hello.WriteSettings()
	go func() { // the proxy may close while this writes
		_, _ = conn.Write(append(hello.Bytes(), in...))
		_ = conn.(*net.UnixConn).CloseWrite()
	}()
	if _, err := io.Copy(io.Discard, conn); os.IsTimeout(err) {
		t.Fatal("the connection does not end")
	}
	eventually(t, func() bool {
		return p.Connections() == 0 && p.admission.inUse() == 0 && p.inside(false) == 0 && p.inside(true) == 0
	})
}

// callsIn counts the header frames in bytes that a client sends.
func callsIn(in []byte) (n int64) {
	const frameHead = 9
	for len(in) >= frameHead {
		if http2.FrameType(in[3]) == http2.FrameHeaders {
			n++
		}
		length := int(in[0])<<16 | int(in[1])<<8 | int(in[2])
		in = in[min(frameHead+length, len(in)):]
	}
	return n
}

// counterOf returns the value of a counter without labels.
func counterOf(t testing.TB, r *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}
