package plugin

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

const (
	maxAnswer   = 64 << 10
	idleTimeout = 10 * time.Minute // after which a connection that no key uses any more ends

	// The Keyring gives a call two seconds in all, so another try has to come quickly.
	retries = `{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.15s", "maxBackoff": "0.3s",
		"backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]}}]}`
)

// reconnecting bounds the pause before the next attempt to connect: calls fail in it, and the proxy holds tasks for a minute.
var reconnecting = grpc.ConnectParams{MinConnectTimeout: 2 * time.Second,
	Backoff: backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second}}

// endpoint is what keys have to agree on to share a connection.
type endpoint struct {
	address   string
	plain     bool
	authority [sha256.Size]byte
}

// connections are kept for all keys: each reload of the configuration opens its keys anew.
var connections struct {
	mu sync.Mutex
	by map[endpoint]*grpc.ClientConn
}

// connection returns the connection to the plug-in. It is made when the first call needs it.
func (l *location) connection() (*grpc.ClientConn, error) {
	transport, to := insecure.NewCredentials(), endpoint{address: l.address, plain: l.plain}
	if !l.plain {
		c := &tls.Config{MinVersion: tls.VersionTLS12}
		if l.authority != "" {
			pem, err := os.ReadFile(l.authority)
			if err != nil {
				return nil, fmt.Errorf("ca_file: %w", err)
			}
			if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("ca_file: %s holds no certificate in PEM", l.authority)
			}
			to.authority = sha256.Sum256(pem)
		}
		transport = credentials.NewTLS(c)
	}
	connections.mu.Lock()
	defer connections.mu.Unlock()
	if conn := connections.by[to]; conn != nil {
		return conn, nil
	}
	target := l.address
	if !strings.HasPrefix(target, "unix:") {
		target = "dns:///" + target
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(transport), grpc.WithDefaultServiceConfig(retries),
		grpc.WithDisableServiceConfig(), grpc.WithIdleTimeout(idleTimeout),
		grpc.WithConnectParams(reconnecting),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, fmt.Errorf("address: %w", err)
	}
	if connections.by == nil {
		connections.by = make(map[endpoint]*grpc.ClientConn)
	}
	connections.by[to] = conn
	return conn, nil
}

// authorized adds the token that the file holds now.
func (p *Provider) authorized(ctx context.Context, op string, kc crypto.KeyContext) (context.Context, error) {
	file := p.loc.tokenFile
	if file == "" {
		return ctx, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, kc.Internalf(crypto.KindUnavailable, op, "%s: token_file: %w", p.uri, err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || strings.ContainsAny(token, "\r\n") {
		return nil, kc.Internalf(crypto.KindUnavailable, op, "%s: token_file: %s holds no token, which is one line", p.uri, file)
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), nil
}

// failed turns a call's error into one of ours.
func (p *Provider) failed(op string, kc crypto.KeyContext, err error) error {
	kind, text := classify(op, status.Convert(err))
	if status.Code(err) == codes.Unimplemented {
		text = errors.New("the plug-in does not have this service, or something before it has no route to it; " +
			"set service=EncryptionService or service=KeyService")
	}
	if _, own, found := strings.Cut(status.Convert(err).Message(), "connection error: "); found && p.conn.GetState() != connectivity.Ready {
		// Without a connection, the client here wrote it.
		own = strings.TrimPrefix(own, "desc = ")
		if plain, err := strconv.Unquote(own); err == nil {
			own = plain
		}
		text = fmt.Errorf("%s; start the plug-in, or correct the address", strings.TrimPrefix(own, "transport: "))
	}
	return kc.Internalf(kind, op, "%s: %w", p.uri, text)
}

// classify sorts the status codes of plug-ins, as pluginpb/key.proto describes them. What is not known counts as
// unavailable: no key is dropped and no payload given up for a reason that is not understood.
func classify(op string, s *status.Status) (crypto.Kind, error) {
	text := fmt.Errorf("%s (the plug-in's log says why: its text is not repeated, since it could quote a key)", s.Code())
	switch s.Code() {
	case codes.InvalidArgument:
		if op == opUnwrap {
			return crypto.KindRejected, text
		}
		return crypto.KindNotConfigured, text
	case codes.FailedPrecondition, codes.NotFound:
		return crypto.KindRevoked, text
	case codes.PermissionDenied:
		return crypto.KindDenied, text
	}
	return crypto.KindUnavailable, text
}
