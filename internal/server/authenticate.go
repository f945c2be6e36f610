package server

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/x/handshake"
)

// Callers are identified in gRPC's tap, which runs on the goroutine that reads the connection, before there
// is a stream. So a caller who proves no identity costs a header block and an answer of one frame, of which
// gRPC queues a few for each connection and then stops reading; with a deadline also a handler, since gRPC would keep
// the deadline's timer otherwise. One credential cannot be checked there: a JWT
// that names a key of its issuer that has to be fetched first. It is checked in the handler, a few at a time.
//
// What gRPC spends on headers before the tap cannot be saved, so a connection whose calls are refused there is
// read more slowly, and others get the time.

const (
	// mostWaiting is how many calls wait for an issuer's keys at once. Each keeps its headers in memory.
	mostWaiting = 64
	// mostRefused is how many calls of a connection may be refused for their credentials before one is not.
	// Then the connection is closed, and a flood has to begin again with a handshake.
	mostRefused = 1000
	// refusedPause is how much later the next frames of a connection are read for each call that was refused,
	// and headerPause what each byte of its headers adds: some thirty times what gRPC takes for them.
	refusedPause = 250 * time.Microsecond
	headerPause  = 256 * time.Nanosecond
	// refusedTime is how much time the caller of a call may have left that the tap refuses: gRPC keeps the
	// timer of such a call until then, and when the time of many is over at once, each gets a goroutine. Others are refused in
	// their handler, which costs more, so answeredPause is added for each where no caller has proved an identity.
	refusedTime   = 50 * time.Millisecond
	answeredPause = time.Millisecond
)

// identified is the context of a call whose caller the tap has identified. It has the headers that gRPC made
// for the call, which nothing else reads by the time that a step changes them: a copy would cost an
// allocation for each.
type identified struct {
	context.Context
	id      *auth.Identity
	headers metadata.MD
	refused error // is the answer to the call; nil: it goes on
}

type identifiedKey struct{}

// Value returns the identified itself for its own key.
func (i *identified) Value(key any) any {
	if key == (identifiedKey{}) {
		return i
	}
	return i.Context.Value(key)
}

// tap identifies the caller before a stream exists. Its error ends the call.
func (s *Server) tap(l *listener) tap.ServerInHandle {
	return func(ctx context.Context, info *tap.Info) (_ context.Context, err error) {
		defer func() {
			if p := recover(); p != nil { // gRPC would let it end the process
				err = s.panicked(info.FullMethodName, p)
			}
		}()
		conn := connectionOf(ctx)
		ctx, err = s.beforeStream(ctx, l, info, conn)
		if err == nil {
			return ctx, nil
		}
		conn.slow(refusedPause + time.Duration(headersSize(info.Header))*headerPause)
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) > refusedTime {
			if conn != nil && !conn.proved.Load() {
				conn.slow(answeredPause)
			}
			return &identified{Context: ctx, refused: err}, nil
		}
		return ctx, err
	}
}

// beforeStream identifies the caller, and returns the status to answer a call with that is refused.
func (s *Server) beforeStream(ctx context.Context, l *listener, info *tap.Info, conn *connection) (context.Context, error) {
	full, headers := info.FullMethodName, headersSize(info.Header)
	if serviceOf(full) == healthService { // its own answer is for everybody; see healthCall
		return ctx, s.admission.check(conn, nil, true, headers)
	}
	id, err := l.identify(ctx, info.Header, false)
	if errors.Is(err, auth.ErrWait) {
		return ctx, nil
	}
	conn.known(err == nil)
	if err == nil {
		ctx = &identified{Context: ctx, id: id, headers: info.Header}
		err = s.admission.check(conn, id.Caller, s.methods.isLongPoll(full), headers)
	} else {
		st := answerFor(err)
		(&refusedCall{method: full, listener: l}).log(ctx, s, st, err)
		err = st.Err()
	}
	if m := s.methods[full]; m != nil && err != nil {
		m.metrics.observe(status.Code(err), 0, trace.SpanFromContext(ctx))
	}
	return ctx, err
}

// refusedBefore returns the answer to a call that the tap has refused and left to its handler.
func refusedBefore(ctx context.Context) error {
	if i, ok := ctx.Value(identifiedKey{}).(*identified); ok {
		return i.refused
	}
	return nil
}

// authenticate finds out who calls, before a byte of the request is waited for.
func (c *call) authenticate() (err error) {
	c.id, c.headers, err = c.server.identityOf(c.ctx, c.listener)
	return err
}

// identityOf returns the identity that the tap found, and the headers of the call, which may be changed.
// Where the tap has looked for none, or could find none without waiting, this does.
func (s *Server) identityOf(ctx context.Context, l *listener) (*auth.Identity, metadata.MD, error) {
	if i, ok := ctx.Value(identifiedKey{}).(*identified); ok {
		return i.id, i.headers, nil
	}
	headers, _ := metadata.FromIncomingContext(ctx)
	id, err := l.identify(ctx, headers, false)
	if errors.Is(err, auth.ErrWait) {
		select {
		case s.waiting <- struct{}{}:
			defer func() { <-s.waiting }()
		default:
			return nil, nil, newRefusal(codes.Unavailable, "%d calls wait for the keys of the tokens' issuer already", mostWaiting)
		}
		id, err = l.identify(ctx, headers, true)
	}
	connectionOf(ctx).known(err == nil)
	return id, headers, err
}

// identify identifies the caller by the connection and the headers alone.
func (l *listener) identify(ctx context.Context, headers metadata.MD, wait bool) (*auth.Identity, error) {
	return l.Identify(auth.Credentials{Headers: headers, TLS: infoOf(ctx).tls, Wait: wait})
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
	failed handshake.Failed
}

// ServerHandshake begins to use a connection that [connections] accepted.
func (c connectionCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, auth, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		c.failed(raw.RemoteAddr().String(), handshake.CauseOf(err))
		return nil, nil, err
	}
	info := connectionInfo{AuthInfo: auth, conn: raw.(*connection)}
	if protected, ok := auth.(credentials.TLSInfo); ok {
		info.tls = &protected.State
	} else {
		conn = handshake.PlainConn(conn, c.failed)
	}
	return conn, info, nil
}

// Clone is part of the interface.
func (c connectionCredentials) Clone() credentials.TransportCredentials {
	return connectionCredentials{c.TransportCredentials.Clone(), c.failed}
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
