package abuse

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// raw is an HTTP/2 client that keeps to no rule of its own.
type raw struct {
	conn net.Conn

	mu     sync.Mutex // of all that follows
	framer *http2.Framer
	block  bytes.Buffer
	enc    *hpack.Encoder
	next   uint32

	windows chan int // increments of the connection's window as negative numbers, of the stream's as positive ones
	closed  chan struct{}
}

// dialRaw connects. window is the initial window of the streams: 0 leaves answers unread.
func dialRaw(address string, window uint32) (*raw, error) {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	return rawOver(conn, window)
}

func rawOver(conn net.Conn, window uint32) (*raw, error) {
	r := &raw{conn: conn, next: 1, windows: make(chan int, 1<<16), closed: make(chan struct{})}
	r.enc = hpack.NewEncoder(&r.block)
	r.framer = http2.NewFramer(conn, conn)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return nil, err
	}
	if err := r.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}); err != nil {
		return nil, err
	}
	go r.read()
	return r, nil
}

// read answers what a client has to answer, so that the connection lives.
func (r *raw) read() {
	defer close(r.closed)
	for {
		f, err := r.framer.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if f.IsAck() {
				continue
			}
			if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
				r.window(int(v) - 65535)
			}
			r.mu.Lock()
			_ = r.framer.WriteSettingsAck()
			r.mu.Unlock()
		case *http2.PingFrame:
			if !f.IsAck() {
				r.mu.Lock()
				_ = r.framer.WritePing(true, f.Data)
				r.mu.Unlock()
			}
		case *http2.WindowUpdateFrame:
			n := int(f.Increment)
			if f.StreamID == 0 {
				n = -n
			}
			r.window(n)
		}
	}
}

func (r *raw) window(n int) {
	select {
	case r.windows <- n:
	default:
	}
}

// open begins a call, with further headers as name, value, name, value.
func (r *raw) open(method, token string, more ...string) (uint32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.block.Reset()
	headers := []string{":method", "POST", ":scheme", "http", ":path", method, ":authority", "x", "content-type", "application/grpc", "te", "trailers"}
	if token != "" {
		headers = append(headers, "authorization", "Bearer "+token)
	}
	headers = append(headers, more...)
	for i := 0; i < len(headers); i += 2 {
		_ = r.enc.WriteField(hpack.HeaderField{Name: headers[i], Value: headers[i+1]})
	}
	id := r.next
	r.next += 2
	return id, r.writeBlock(id, r.block.Bytes())
}

// writeBlock writes a header block in frames of the usual size. The caller holds the lock.
func (r *raw) writeBlock(id uint32, block []byte) error {
	const most = 16 << 10
	first := block[:min(len(block), most)]
	if err := r.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndHeaders: len(first) == len(block)}); err != nil {
		return err
	}
	for rest := block[len(first):]; len(rest) > 0; {
		part := rest[:min(len(rest), most)]
		rest = rest[len(part):]
		if err := r.framer.WriteContinuation(id, len(rest) == 0, part); err != nil {
			return err
		}
	}
	return nil
}

// data sends bytes of a message without a look at the windows.
func (r *raw) data(id uint32, end bool, b []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.framer.WriteData(id, end, b)
}

// stream sends n zero bytes as fast as the windows of the connection and of its one stream allow.
func (r *raw) stream(ctx context.Context, id uint32, n int) error {
	conn, stream := 65535, 65535
	chunk := make([]byte, 16<<10)
	for n > 0 {
		k := min(n, len(chunk))
		for conn < k || stream < k {
			select {
			case w := <-r.windows:
				if w < 0 {
					conn -= w
				} else {
					stream += w
				}
			case <-r.closed:
				return io.EOF
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		conn, stream, n = conn-k, stream-k, n-k
		if err := r.data(id, false, chunk[:k]); err != nil {
			return err
		}
	}
	return nil
}

func (r *raw) close() { _ = r.conn.Close() }

// prefix is the head of a gRPC message of n bytes.
func prefix(n int) []byte {
	b := make([]byte, 5)
	binary.BigEndian.PutUint32(b[1:], uint32(n))
	return b
}

// message is a whole gRPC message.
func message(b []byte) []byte { return append(prefix(len(b)), b...) }

// dialTLS connects with TLS and presents the certificate, if it is not empty.
func dialTLS(address string, certificate tls.Certificate) (net.Conn, error) {
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}} //nolint:gosec // an attacker asks nobody
	if len(certificate.Certificate) > 0 {
		config.Certificates = []tls.Certificate{certificate}
	}
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	secured := tls.Client(conn, config)
	_ = secured.SetDeadline(time.Now().Add(10 * time.Second))
	if err := secured.Handshake(); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("handshake: %w", err)
	}
	_ = secured.SetDeadline(time.Time{})
	return secured, nil
}
