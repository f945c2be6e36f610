// Package handshake says why TLS handshakes of callers fail, in words of a closed set, and notices callers that speak TLS to a
// listener without it. It decides nothing about who may connect.
package handshake

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
)

// Cause is why a handshake failed. It is a label of a metric.
type Cause string

// The causes.
const (
	NoCertificate    Cause = "no_client_certificate"
	UnknownAuthority Cause = "unknown_authority"
	Expired          Cause = "expired_certificate"
	BadCertificate   Cause = "bad_certificate"
	Refused          Cause = "refused_by_caller"
	Plaintext        Cause = "plaintext_to_tls"
	ToPlaintext      Cause = "tls_to_plaintext"
	Unsupported      Cause = "unsupported_version_or_protocol"
	Timeout          Cause = "timeout"
	Closed           Cause = "closed"
	Other            Cause = "other"
)

// texts says of each cause what an operator can do.
var texts = map[Cause]string{
	NoCertificate:    "the caller shows no client certificate; give it one that an authority in ca_file has signed",
	UnknownAuthority: "the caller's certificate is signed by no authority in ca_file",
	Expired:          "the caller's certificate has expired or is not valid yet; renew it, or check the clocks",
	BadCertificate:   "the caller's certificate cannot be used",
	Refused:          "the caller refuses the listener's certificate; does it trust the authority, is the name that it connects to in the certificate, and is the certificate not itself one of an authority (CA:TRUE)?",
	Plaintext:        "the caller speaks no TLS, and the listener does; switch TLS on at the caller",
	ToPlaintext:      "the caller speaks TLS, and the listener does not; give the listener `tls`, or switch TLS off at the caller",
	Unsupported:      "caller and listener have no TLS version, cipher suite or protocol in common",
	Timeout:          "the caller did not finish the handshake in time",
	Closed:           "the caller closed the connection before the handshake was done",
	Other:            "the handshake failed",
}

// Causes lists all causes.
func Causes() []Cause {
	return []Cause{NoCertificate, UnknownAuthority, Expired, BadCertificate, Refused, Plaintext, ToPlaintext, Unsupported, Timeout, Closed, Other}
}

// Text is the cause in plain words, with what to do.
func (c Cause) Text() string { return texts[c] }

// ErrToPlaintext is the error of a caller that speaks TLS to a listener without it.
var ErrToPlaintext = errors.New("the first bytes are a TLS handshake")

// CauseOf returns the cause of a server's handshake error. Of errors without a type, crypto/tls's texts decide;
// TestCauses fails if a release of Go changes them.
func CauseOf(err error) Cause {
	var header tls.RecordHeaderError
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var certificate *tls.CertificateVerificationError
	var network *net.OpError
	switch {
	case errors.Is(err, ErrToPlaintext):
		return ToPlaintext
	case errors.As(err, &header):
		return Plaintext
	case errors.As(err, &unknown):
		return UnknownAuthority
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return Expired
	case errors.As(err, &certificate):
		return BadCertificate
	case errors.As(err, &network) && network.Op == "remote error":
		return Refused
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, net.ErrClosed):
		return Closed
	}
	return causeOfText(err.Error())
}

// causeOfText returns the cause of an error of which only the text is known.
func causeOfText(text string) Cause {
	for _, known := range []struct {
		part  string
		cause Cause
	}{
		{"didn't provide a certificate", NoCertificate},
		{"does not look like a TLS handshake", Plaintext},
		{"client sent an HTTP request to an HTTPS server", Plaintext},
		{"signed by unknown authority", UnknownAuthority},
		{"has expired or is not yet valid", Expired},
		{"failed to verify certificate", BadCertificate},
		{"remote error", Refused},
		{"unsupported", Unsupported},
		{"no cipher suite supported", Unsupported},
		{"missing selected ALPN", Unsupported},
		{"i/o timeout", Timeout},
		{"EOF", Closed},
		{"connection reset", Closed},
	} {
		if strings.Contains(text, known.part) {
			return known.cause
		}
	}
	return Other
}

// Failed is called for each handshake that failed, with the caller's address.
type Failed func(address string, cause Cause)

// Plain returns a listener without TLS that notices callers which speak it. Their connections go on, and fail.
func Plain(l net.Listener, failed Failed) net.Listener { return plain{l, failed} }

type plain struct {
	net.Listener
	failed Failed
}

// Accept is part of net.Listener.
func (p plain) Accept() (net.Conn, error) {
	conn, err := p.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return PlainConn(conn, p.failed), nil
}

// PlainConn is what Plain does for a connection that was accepted.
func PlainConn(conn net.Conn, failed Failed) net.Conn { return &plainConn{Conn: conn, failed: failed} }

// plainConn looks at the first byte that comes.
type plainConn struct {
	net.Conn
	failed Failed
	looked atomic.Bool
}

// handshakeRecord is the first byte of a TLS connection (RFC 8446, section 5.1). No HTTP/1 method and no HTTP/2 preface begins
// with it.
const handshakeRecord = 0x16

// Read is part of net.Conn.
func (c *plainConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.looked.Load() && !c.looked.Swap(true) && b[0] == handshakeRecord {
		c.failed(c.RemoteAddr().String(), ToPlaintext)
	}
	return n, err
}

// ErrorLog returns a log for an http.Server, which reports failed handshakes there and nowhere else. Other lines go to rest.
func ErrorLog(failed Failed, rest *log.Logger) *log.Logger {
	return log.New(errorLog{failed, rest}, "", 0)
}

type errorLog struct {
	failed Failed
	rest   *log.Logger
}

const serverLine = "http: TLS handshake error from " // what net/http writes before the address

// Write is part of io.Writer.
func (l errorLog) Write(line []byte) (int, error) {
	text, ours := strings.CutPrefix(string(line), serverLine)
	address, cause, whole := strings.Cut(text, ": ")
	if !ours || !whole {
		l.rest.Print(string(line))
		return len(line), nil
	}
	l.failed(address, causeOfText(cause))
	return len(line), nil
}
