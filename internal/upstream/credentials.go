package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/temporal-seal/temporal-seal/internal/files"
	"github.com/temporal-seal/temporal-seal/internal/x/filewatch"
)

// TLS is the TLS towards an upstream: CAFile "" trusts the system's authorities, CertFile "" shows no
// certificate.
type TLS struct {
	CertFile, KeyFile, CAFile, ServerName string
}

// Credentials reads the files, and again before a handshake when they have changed.
func (u TLS) Credentials(log *slog.Logger) (credentials.TransportCredentials, error) {
	h := &handshaker{base: tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.ServerName}}
	if u.CertFile != "" {
		pair, err := files.Pair(log, u.CertFile, u.KeyFile)
		if err != nil {
			return nil, err
		}
		h.base.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.Get(), nil }
	}
	if u.CAFile != "" {
		authorities, err := files.Authorities(log, u.CAFile)
		if err != nil {
			return nil, err
		}
		h.authorities = authorities
	}
	return h, nil
}

// handshaker makes the TLS configuration anew for each handshake, so that changed authorities count.
type handshaker struct {
	base        tls.Config
	authorities *filewatch.Value[*x509.CertPool] // nil: the system's
}

func (h *handshaker) current() credentials.TransportCredentials {
	config := h.base.Clone()
	if h.authorities != nil {
		config.RootCAs = h.authorities.Get()
	}
	return credentials.NewTLS(config)
}

func (h *handshaker) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return h.current().ClientHandshake(ctx, authority, conn)
}

func (h *handshaker) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are for connections to an upstream")
}

func (h *handshaker) Info() credentials.ProtocolInfo { return h.current().Info() }

func (h *handshaker) Clone() credentials.TransportCredentials {
	return &handshaker{base: *h.base.Clone(), authorities: h.authorities}
}

// OverrideServerName is part of the interface; gRPC itself no longer calls it.
func (h *handshaker) OverrideServerName(name string) error {
	h.base.ServerName = name
	return nil
}

// APIKey sends the token in a file as bearer token with every call, over TLS only.
type APIKey struct {
	token func() string
}

// NewAPIKey reads the file.
func NewAPIKey(log *slog.Logger, file string) (*APIKey, error) {
	token, err := files.Token(log, file)
	if err != nil {
		return nil, err
	}
	return &APIKey{token}, nil
}

// GetRequestMetadata gives the header that carries the key.
func (k *APIKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + k.token()}, nil
}

// RequireTransportSecurity has gRPC refuse to send the key in clear.
func (k *APIKey) RequireTransportSecurity() bool { return true }
