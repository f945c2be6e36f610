package filewatch

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"strings"
)

// Pair is a certificate and its key, in PEM files. A key that everybody on the machine can read is refused.
func Pair(log *slog.Logger, certFile, keyFile string) (*Value[*tls.Certificate], error) {
	return NewValue(log, func(contents [][]byte) (*tls.Certificate, error) {
		if err := Private(keyFile); err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(contents[0], contents[1])
		if err != nil {
			return nil, fmt.Errorf("%s and %s are not a certificate and its key: %w", certFile, keyFile, err)
		}
		return &pair, nil
	}, certFile, keyFile)
}

// Private refuses a file that others than its owner and group can read or change. The group may: a Secret that Kubernetes mounts
// belongs to root, and the proxy is in the group.
func Private(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return fmt.Errorf("%s can be read by everybody (mode %#o); run: chmod o= %s, or give the volume of a Secret defaultMode: 0440",
			file, mode, file)
	}
	return nil
}

// Authorities are the certificates of authorities, in a PEM file.
func Authorities(log *slog.Logger, file string) (*Value[*x509.CertPool], error) {
	return NewValue(log, func(contents [][]byte) (*x509.CertPool, error) {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(contents[0]) {
			return nil, fmt.Errorf("%s contains no certificate in PEM form", file)
		}
		return pool, nil
	}, file)
}

// ServerTLS is the TLS of a listener. With a clientCAFile callers must present a certificate that one of its
// authorities signed. protocols are those that the listener speaks, for ALPN.
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

// Token returns a function that returns the token in a file as it is now. White space around it does
// not count. A file that everybody on the machine can read is refused.
func Token(log *slog.Logger, file string) (func() string, error) {
	w, err := NewValue(log, func(contents [][]byte) (string, error) {
		if err := Private(file); err != nil {
			return "", err
		}
		token := strings.TrimSpace(string(contents[0]))
		if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return "", fmt.Errorf("%s must contain one token and nothing else", file)
		}
		return token, nil
	}, file)
	if err != nil {
		return nil, err
	}
	return w.Get, nil
}
