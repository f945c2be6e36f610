package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// watched is a value made from files, made again when one of them changes. Rotated certificates and tokens are taken
// up without a restart; files that cannot be read leave the last good value in place.
type watched[T any] struct {
	files []string
	parse func(contents [][]byte) (T, error)
	log   *slog.Logger

	mu      sync.Mutex
	checked time.Time
	stamps  []stamp
	value   T
}

type stamp struct {
	modified time.Time
	size     int64
}

// recheck is how often files are looked at, at most.
const recheck = time.Second

func watch[T any](log *slog.Logger, parse func([][]byte) (T, error), files ...string) (*watched[T], error) {
	w := &watched[T]{files: files, parse: parse, log: log}
	var err error
	if w.stamps, err = w.stat(); err != nil {
		return nil, err
	}
	w.value, err = w.read()
	w.checked = time.Now()
	return w, err
}

func (w *watched[T]) get() T {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.checked) < recheck {
		return w.value
	}
	w.checked = time.Now()
	stamps, err := w.stat()
	if err == nil {
		if equalStamps(stamps, w.stamps) {
			return w.value
		}
		var next T
		if next, err = w.read(); err == nil {
			w.value, w.stamps = next, stamps
			w.log.Info("files read again after a change", "files", strings.Join(w.files, ","))
			return w.value
		}
	}
	w.log.Error("changed files cannot be used; going on with what they held before", "files", strings.Join(w.files, ","), "error", err)
	return w.value
}

func (w *watched[T]) stat() ([]stamp, error) {
	stamps := make([]stamp, len(w.files))
	for i, f := range w.files {
		info, err := os.Stat(f)
		if err != nil {
			return nil, err
		}
		stamps[i] = stamp{info.ModTime(), info.Size()}
	}
	return stamps, nil
}

func (w *watched[T]) read() (T, error) {
	var none T
	contents := make([][]byte, len(w.files))
	for i, f := range w.files {
		var err error
		if contents[i], err = os.ReadFile(f); err != nil {
			return none, err
		}
	}
	return w.parse(contents)
}

func equalStamps(a, b []stamp) bool {
	for i := range a {
		if !a[i].modified.Equal(b[i].modified) || a[i].size != b[i].size {
			return false
		}
	}
	return true
}

func watchPair(log *slog.Logger, certFile, keyFile string) (*watched[*tls.Certificate], error) {
	return watch(log, func(contents [][]byte) (*tls.Certificate, error) {
		pair, err := tls.X509KeyPair(contents[0], contents[1])
		if err != nil {
			return nil, fmt.Errorf("%s and %s are no certificate and its key: %w", certFile, keyFile, err)
		}
		return &pair, nil
	}, certFile, keyFile)
}

func watchAuthorities(log *slog.Logger, file string) (*watched[*x509.CertPool], error) {
	return watch(log, func(contents [][]byte) (*x509.CertPool, error) {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(contents[0]) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", file)
		}
		return pool, nil
	}, file)
}

// ServerTLS is the TLS of a listener. With a clientCAFile callers must present a certificate that it signed.
func ServerTLS(log *slog.Logger, certFile, keyFile, clientCAFile string) (*tls.Config, error) {
	pair, err := watchPair(log, certFile, keyFile)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.get(), nil }}
	if clientCAFile == "" {
		return config, nil
	}
	authorities, err := watchAuthorities(log, clientCAFile)
	if err != nil {
		return nil, err
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.ClientCAs = authorities.get()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := config.Clone()
		now.ClientCAs = authorities.get()
		return now, nil
	}
	return config, nil
}

// UpstreamTLS is the TLS towards an upstream: CAFile "" trusts the system's authorities, CertFile "" shows no
// certificate.
type UpstreamTLS struct {
	CertFile, KeyFile, CAFile, ServerName string
}

// Credentials reads the files, and again before a handshake when they have changed.
func (u UpstreamTLS) Credentials(log *slog.Logger) (credentials.TransportCredentials, error) {
	h := &handshaker{base: tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.ServerName}}
	if u.CertFile != "" {
		pair, err := watchPair(log, u.CertFile, u.KeyFile)
		if err != nil {
			return nil, err
		}
		h.base.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.get(), nil }
	}
	if u.CAFile != "" {
		authorities, err := watchAuthorities(log, u.CAFile)
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
	authorities *watched[*x509.CertPool] // nil: the system's
}

func (h *handshaker) current() credentials.TransportCredentials {
	config := h.base.Clone()
	if h.authorities != nil {
		config.RootCAs = h.authorities.get()
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

// TokenFile gives the token in a file, as it is now.
func TokenFile(log *slog.Logger, file string) (func() string, error) {
	w, err := watch(log, func(contents [][]byte) (string, error) {
		token := strings.TrimSpace(string(contents[0]))
		if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return "", fmt.Errorf("%s does not hold one token", file)
		}
		return token, nil
	}, file)
	if err != nil {
		return nil, err
	}
	return w.get, nil
}

// APIKey sends the token in a file as bearer token with every call, over TLS only.
type APIKey struct {
	token func() string
}

// NewAPIKey reads the file.
func NewAPIKey(log *slog.Logger, file string) (*APIKey, error) {
	token, err := TokenFile(log, file)
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
