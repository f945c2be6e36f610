package upstream

import (
	"context"
	"encoding/binary"
	"net"
	"sync/atomic"

	"google.golang.org/grpc/credentials"
)

// streamLimit is how many streams the upstream allows on a connection. gRPC does not tell, so it is read from the first
// frame that the upstream sends, which in HTTP/2 has to be its settings. That they change later is rare; calls over the
// limit then wait in gRPC for one to end.
type streamLimit struct {
	told atomic.Uint64 // 0: nothing yet; else the limit plus one
}

func (l *streamLimit) known() bool { return l.told.Load() != 0 }

func (l *streamLimit) learn(limit uint32) { l.told.Store(uint64(limit) + 1) }

// usable leaves a few streams free: what has ended here may not have ended there yet.
func (l *streamLimit) usable() int {
	n := mostStreams
	if told := l.told.Load(); told != 0 && told-1 < mostStreams {
		n = int(told - 1)
	}
	return max(1, n-n/16)
}

// learning are credentials that have a look at the first frame of each connection.
type learning struct {
	credentials.TransportCredentials
	limit *streamLimit
}

func (l learning) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := l.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, err
	}
	return &settingsConn{Conn: conn, limit: l.limit}, info, nil
}

func (l learning) Clone() credentials.TransportCredentials {
	return learning{l.TransportCredentials.Clone(), l.limit}
}

// settingsConn reads along until it has seen the upstream's settings. Only one goroutine reads a connection.
type settingsConn struct {
	net.Conn
	limit *streamLimit
	seen  []byte
	over  bool
}

const (
	frameHeader       = 9
	frameSettings     = 0x4
	settingBytes      = 6
	settingMaxStreams = 0x3
	maxSettings       = 64 // more are not read along
	noStreamLimit     = 1<<32 - 1
	usualStreams      = 100 // what HTTP/2 recommends, and load balancers allow
)

func (c *settingsConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !c.over && n > 0 {
		c.look(b[:n])
	}
	return n, err
}

func (c *settingsConn) look(b []byte) {
	c.seen = append(c.seen, b[:min(len(b), frameHeader+maxSettings*settingBytes-len(c.seen))]...)
	if len(c.seen) < frameHeader {
		return
	}
	length := int(c.seen[0])<<16 | int(binary.BigEndian.Uint16(c.seen[1:]))
	if c.seen[3] != frameSettings || length > maxSettings*settingBytes {
		if c.seen[3] == frameSettings {
			c.limit.learn(usualStreams)
		}
		c.over, c.seen = true, nil // gRPC will say what is wrong with it
		return
	}
	if len(c.seen) < frameHeader+length {
		return
	}
	limit := uint32(noStreamLimit)
	for s := c.seen[frameHeader : frameHeader+length]; len(s) >= settingBytes; s = s[settingBytes:] {
		if binary.BigEndian.Uint16(s) == settingMaxStreams {
			limit = binary.BigEndian.Uint32(s[2:])
		}
	}
	c.limit.learn(limit)
	c.over, c.seen = true, nil
}
