package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/temporal-seal/temporal-seal/internal/x/filewatch"
)

// TLS names the files for TLS towards an upstream.
type TLS struct {
	CertFile, KeyFile string // the proxy's certificate; "": none
	CAFile            string // "": the system's authorities
	ServerName        string // "": that of the address
}

// Credentials reads the files, and again before a handshake when they have changed.
func (t TLS) Credentials(log *slog.Logger) (*Credentials, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	c := &Credentials{config: config, shown: new(atomic.Int64)}
	var err error
	if t.CertFile != "" {
		if c.pair, err = filewatch.Pair(log, t.CertFile, t.KeyFile); err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.pair.Get(), nil }
	}
	if t.CAFile != "" {
		if c.authorities, err = filewatch.Authorities(log, t.CAFile); err != nil {
			return nil, err
		}
	}
	c.TransportCredentials = credentials.NewTLS(config)
	return c, nil
}

// Credentials make the TLS configuration anew for each handshake, with the authorities that are in the
// file then. They know when the certificates of both sides expire.
type Credentials struct {
	credentials.TransportCredentials
	config      *tls.Config
	authorities *filewatch.Value[*x509.CertPool] // nil: the system's
	pair        *filewatch.Value[*tls.Certificate]
	shown       *atomic.Int64 // expiry of the server's certificate, in Unix seconds; 0: there was none yet
}

// ClientHandshake is part of the interface.
func (c *Credentials) ClientHandshake(
	ctx context.Context, authority string, conn net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	config := c.config.Clone()
	if c.authorities != nil {
		config.RootCAs = c.authorities.Get()
	}
	config.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error {
		c.note(raw)
		return nil
	}
	secured, info, err := credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
	if failed, ok := errors.AsType[*tls.CertificateVerificationError](err); ok && len(failed.UnverifiedCertificates) > 0 {
		c.shown.Store(failed.UnverifiedCertificates[0].NotAfter.Unix()) // it may have expired
	}
	return secured, info, err
}

// note records when the certificate that a server has shown expires.
func (c *Credentials) note(raw [][]byte) {
	if len(raw) == 0 {
		return
	}
	if leaf, err := x509.ParseCertificate(raw[0]); err == nil {
		c.shown.Store(leaf.NotAfter.Unix())
	}
}

// ServerExpiry returns when the certificate expires that a server has shown last; zero: none has shown one yet.
func (c *Credentials) ServerExpiry() time.Time {
	if at := c.shown.Load(); at != 0 {
		return time.Unix(at, 0)
	}
	return time.Time{}
}

// ClientExpiry returns when the proxy's own certificate expires; zero: there is none.
func (c *Credentials) ClientExpiry() time.Time {
	if c.pair == nil || c.pair.Get().Leaf == nil {
		return time.Time{}
	}
	return c.pair.Get().Leaf.NotAfter
}

// Clone is part of the interface.
func (c *Credentials) Clone() credentials.TransportCredentials {
	cloned := *c
	cloned.TransportCredentials = c.TransportCredentials.Clone()
	return &cloned
}

// APIKey sends the token in a file as bearer token with every call.
type APIKey struct {
	token func() string
}

// NewAPIKey reads the file.
func NewAPIKey(log *slog.Logger, file string) (*APIKey, error) {
	token, err := filewatch.Token(log, file)
	if err != nil {
		return nil, err
	}
	return &APIKey{token}, nil
}

// GetRequestMetadata returns the header that carries the key.
func (k *APIKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + k.token()}, nil
}

// RequireTransportSecurity makes gRPC refuse to send the key in clear.
func (k *APIKey) RequireTransportSecurity() bool { return true }
