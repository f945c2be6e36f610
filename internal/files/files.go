// Package files keeps what a listener or an upstream needs of secrets and certificates, read from files and read again
// when they change. It owns when a file is looked at; it never decides whom a certificate or token stands for.
package files

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// Watched is a value made from files, made again when one of them changes. Rotated certificates and tokens are taken
// up without a restart; files that cannot be read leave the last good value in place.
type Watched[T any] struct {
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

// Recheck is how often files are looked at, at most.
const Recheck = time.Second

// Watch reads the files for the first time.
func Watch[T any](log *slog.Logger, parse func([][]byte) (T, error), files ...string) (*Watched[T], error) {
	w := &Watched[T]{files: files, parse: parse, log: log}
	var err error
	if w.stamps, err = w.stat(); err != nil {
		return nil, err
	}
	w.value, err = w.read()
	w.checked = time.Now()
	return w, err
}

// Get gives the value as it is now.
func (w *Watched[T]) Get() T {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.checked) < Recheck {
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

func (w *Watched[T]) stat() ([]stamp, error) {
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

func (w *Watched[T]) read() (T, error) {
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

// Pair watches a certificate and its key.
func Pair(log *slog.Logger, certFile, keyFile string) (*Watched[*tls.Certificate], error) {
	return Watch(log, func(contents [][]byte) (*tls.Certificate, error) {
		pair, err := tls.X509KeyPair(contents[0], contents[1])
		if err != nil {
			return nil, fmt.Errorf("%s and %s are no certificate and its key: %w", certFile, keyFile, err)
		}
		return &pair, nil
	}, certFile, keyFile)
}

// Authorities watches the certificates of authorities.
func Authorities(log *slog.Logger, file string) (*Watched[*x509.CertPool], error) {
	return Watch(log, func(contents [][]byte) (*x509.CertPool, error) {
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
	w, err := Watch(log, func(contents [][]byte) (string, error) {
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
