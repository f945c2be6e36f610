package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"

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
func (t TLS) Credentials(log *slog.Logger) (credentials.TransportCredentials, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CertFile != "" {
		pair, err := filewatch.Pair(log, t.CertFile, t.KeyFile)
		if err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.Get(), nil }
	}
	if t.CAFile == "" {
		return credentials.NewTLS(config), nil
	}
	authorities, err := filewatch.Authorities(log, t.CAFile)
	if err != nil {
		return nil, err
	}
	return watchedCredentials{credentials.NewTLS(config), config, authorities}, nil
}

// watchedCredentials make the TLS configuration anew for each handshake, with the authorities that are in the
// file then.
type watchedCredentials struct {
	credentials.TransportCredentials
	config      *tls.Config
	authorities *filewatch.Value[*x509.CertPool]
}

func (w watchedCredentials) ClientHandshake(
	ctx context.Context, authority string, conn net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	config := w.config.Clone()
	config.RootCAs = w.authorities.Get()
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
}

func (w watchedCredentials) Clone() credentials.TransportCredentials {
	w.TransportCredentials = w.TransportCredentials.Clone()
	return w
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
