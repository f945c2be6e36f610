package server

import (
	"context"
	"crypto/tls"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/temporal-seal/temporal-seal/internal/auth"
)

// authenticate finds out who calls, before a byte of the request is waited for.
func (c *call) authenticate() (err error) {
	c.headers, _ = metadata.FromIncomingContext(c.ctx)
	c.id, err = c.listener.authenticate(c.ctx, c.headers)
	return err
}

// authenticate identifies the caller by the connection and the headers alone.
func (l *listener) authenticate(ctx context.Context, headers metadata.MD) (*auth.Identity, error) {
	return l.Identify(auth.Credentials{Headers: headers, TLS: infoOf(ctx).tls})
}

// connectionInfo is what gRPC hands from a connection to its calls.
type connectionInfo struct {
	credentials.AuthInfo
	conn *connection
	tls  *tls.ConnectionState // nil: plaintext
}

// connectionCredentials are TLS, or none, whose calls find the connection that they came on.
type connectionCredentials struct {
	credentials.TransportCredentials
}

// ServerHandshake begins to use a connection that [connections] accepted.
func (c connectionCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, auth, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	info := connectionInfo{AuthInfo: auth, conn: raw.(*connection)}
	if protected, ok := auth.(credentials.TLSInfo); ok {
		info.tls = &protected.State
	}
	return conn, info, nil
}

// Clone is part of the interface.
func (c connectionCredentials) Clone() credentials.TransportCredentials {
	return connectionCredentials{c.TransportCredentials.Clone()}
}

// infoOf is empty for a call whose connection was not accepted by [connections].
func infoOf(ctx context.Context) (info connectionInfo) {
	if p, ok := peer.FromContext(ctx); ok {
		info, _ = p.AuthInfo.(connectionInfo)
	}
	return info
}

// connectionOf returns the connection that a call came on.
func connectionOf(ctx context.Context) *connection { return infoOf(ctx).conn }
