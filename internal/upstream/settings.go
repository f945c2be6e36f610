package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"
)

// This file finds out how many streams an upstream allows on a connection. gRPC keeps that to itself and
// makes the calls beyond it wait, so it is read from the first frame that the upstream sends, which in HTTP/2
// has to be its settings. TestPoolGrowsWithHeldPolls fails if an upgrade of gRPC breaks this.

// streamLimit is the number of streams that are used of those that the upstream allows on a connection. That
// its settings change later is rare; calls over the limit then wait in gRPC for others to end.
type streamLimit struct {
	used atomic.Int32 // 0: not known yet
}

func (l *streamLimit) known() bool { return l.used.Load() != 0 }

// usable returns the number of calls that a connection gets.
func (l *streamLimit) usable() int32 {
	if n := l.used.Load(); n != 0 {
		return n
	}
	return callsPerConnection
}

// learn leaves a few streams free: what has ended here may not have ended there yet.
func (l *streamLimit) learn(allowed uint32) {
	n := int32(min(allowed, 2*callsPerConnection))
	l.used.Store(min(max(n-n/16, 1), callsPerConnection))
}

// settingsReader are credentials whose connections read along until the upstream's settings have arrived:
// only above TLS are the frames to be seen.
type settingsReader struct {
	credentials.TransportCredentials
	limit *streamLimit
}

func (r settingsReader) ClientHandshake(
	ctx context.Context, authority string, raw net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := r.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, err
	}
	return &settingsConn{Conn: conn, limit: r.limit}, info, nil
}

func (r settingsReader) Clone() credentials.TransportCredentials {
	return settingsReader{r.TransportCredentials.Clone(), r.limit}
}

// settingsConn is a connection of a settingsReader. Only one goroutine reads a connection.
type settingsConn struct {
	net.Conn
	limit *streamLimit // nil once it is known
	seen  []byte
}

// maxSettings bounds the bytes that are kept until the settings are complete.
const maxSettings = 1 << 10

func (c *settingsConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.limit != nil && n > 0 {
		c.look(b[:n])
	}
	return n, err
}

// look reads the first frame once it is complete. If that is not settings, gRPC ends the connection.
func (c *settingsConn) look(b []byte) {
	c.seen = append(c.seen, b[:min(len(b), maxSettings-len(c.seen))]...)
	framer := http2.NewFramer(nil, bytes.NewReader(c.seen))
	framer.SetMaxReadFrameSize(maxSettings) // its buffer has the size that the frame announces
	frame, err := framer.ReadFrame()
	if (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) && len(c.seen) < maxSettings {
		return
	}
	allowed := uint32(callsPerConnection)
	if settings, ok := frame.(*http2.SettingsFrame); ok {
		if n, ok := settings.Value(http2.SettingMaxConcurrentStreams); ok {
			allowed = n
		} else {
			allowed = 2 * callsPerConnection
		}
	}
	c.limit.learn(allowed)
	c.limit, c.seen = nil, nil
}
