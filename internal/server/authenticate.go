package server

import (
	"context"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/temporal-seal/temporal-seal/internal/auth"
)

// authenticate finds out who calls, before a byte of the request is waited for.
func (c *call) authenticate() (err error) {
	c.id, err = c.listener.authenticate(c.ctx)
	return err
}

// authenticate identifies the caller by the connection and the headers alone.
func (l *listener) authenticate(ctx context.Context) (*auth.Identity, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	shown := auth.Shown{Headers: md}
	if info, ok := infoOf(ctx); ok {
		if info, ok := info.AuthInfo.(credentials.TLSInfo); ok {
			shown.TLS = &info.State
		}
	}
	return l.Identify(shown)
}

// connectionInfo is what gRPC hands from a connection to its calls: how the connection is protected, and the connection.
type connectionInfo struct {
	credentials.AuthInfo
	conn *connection
}

// connectionCredentials are TLS, or none, whose calls find the connection that they came on.
type connectionCredentials struct {
	credentials.TransportCredentials
}

func (c connectionCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	return conn, connectionInfo{info, raw.(*connection)}, nil
}

func (c connectionCredentials) Clone() credentials.TransportCredentials {
	return connectionCredentials{c.TransportCredentials.Clone()}
}

func infoOf(ctx context.Context) (info connectionInfo, ok bool) {
	if p, known := peer.FromContext(ctx); known {
		info, ok = p.AuthInfo.(connectionInfo)
	}
	return info, ok
}

// connectionOf returns the connection that a call came on. Nil: it came on none, as in tests.
func connectionOf(ctx context.Context) *connection {
	info, _ := infoOf(ctx)
	return info.conn
}
