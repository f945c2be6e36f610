// Package files keeps what a listener or an upstream needs of secrets and certificates, read from files and read again
// when they change. It never decides whom a certificate or token stands for.
package files

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/x/filewatch"
)

// Recheck is how often files are looked at, at most.
const Recheck = filewatch.Recheck

// Pair watches a certificate and its key.
func Pair(log *slog.Logger, certFile, keyFile string) (*filewatch.Value[*tls.Certificate], error) {
	return filewatch.NewValue(log, func(contents [][]byte) (*tls.Certificate, error) {
		pair, err := tls.X509KeyPair(contents[0], contents[1])
		if err != nil {
			return nil, fmt.Errorf("%s and %s are no certificate and its key: %w", certFile, keyFile, err)
		}
		return &pair, nil
	}, certFile, keyFile)
}

// Authorities watches the certificates of authorities.
func Authorities(log *slog.Logger, file string) (*filewatch.Value[*x509.CertPool], error) {
	return filewatch.NewValue(log, func(contents [][]byte) (*x509.CertPool, error) {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(contents[0]) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", file)
		}
		return pool, nil
	}, file)
}

// ServerTLS is the TLS of a listener. With a clientCAFile callers must present a certificate that it signed. protocols are
// those that the listener speaks.
func ServerTLS(log *slog.Logger, certFile, keyFile, clientCAFile string, protocols ...string) (*tls.Config, error) {
	pair, err := Pair(log, certFile, keyFile)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.Get(), nil }}
	if clientCAFile == "" {
		return config, nil
	}
	authorities, err := Authorities(log, clientCAFile)
	if err != nil {
		return nil, err
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.ClientCAs = authorities.Get()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := config.Clone()
		now.ClientCAs = authorities.Get()
		return now, nil
	}
	return config, nil
}

// Token gives the token in a file, as it is now.
func Token(log *slog.Logger, file string) (func() string, error) {
	w, err := filewatch.NewValue(log, func(contents [][]byte) (string, error) {
		token := strings.TrimSpace(string(contents[0]))
		if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return "", fmt.Errorf("%s does not hold one token", file)
		}
		return token, nil
	}, file)
	if err != nil {
		return nil, err
	}
	return w.Get, nil
}
