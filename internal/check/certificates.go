package check

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"time"
)

// soon is how long before its end a certificate is warned of.
const soon = 14 * 24 * time.Hour

// checkCertificates reads all certificates of listeners and upstreams. What cannot be read is reported by others.
func (r *run) checkCertificates() {
	for path, l := range listeners(r.config) {
		if l.TLS != nil {
			checkServer(r, path+".tls.cert_file", l.TLS.CertFile, r.checkPair(path+".tls", l.TLS.CertFile, l.TLS.KeyFile))
		}
		if l.Callers != nil && l.Callers.MTLS != nil {
			r.checkAuthorities(path+".callers.mtls.ca_file", l.Callers.MTLS.CAFile)
		}
	}
	for i, u := range r.config.Upstreams {
		if u.TLS != nil {
			path := fmt.Sprintf("$.upstreams[%d].tls", i)
			r.checkPair(path, u.TLS.CertFile, u.TLS.KeyFile)
			r.checkAuthorities(path+".ca_file", u.TLS.CAFile)
		}
	}
}

// checkPair checks that a certificate is that of its private key, and its chain's dates. It returns the certificate; nil: it cannot
// be read.
func (r *run) checkPair(path, certFile, keyFile string) *x509.Certificate {
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return nil
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		r.fail("%s: %s and %s do not fit together: %v", r.review.Place(path), certFile, keyFile, err)
		return nil
	}
	for i, raw := range pair.Certificate {
		if parsed, err := x509.ParseCertificate(raw); err == nil {
			what := "certificate"
			if i > 0 {
				what = fmt.Sprintf("certificate %d of the chain", i+1)
			}
			r.checkDates(path+".cert_file", certFile, what, parsed)
		}
	}
	return pair.Leaf
}

// checkServer warns of a listener's certificate that is one of an authority. The SDKs whose TLS is rustls refuse it, others do not,
// so a config that works with one SDK fails with the next.
func checkServer(r *run, path, file string, cert *x509.Certificate) {
	if cert != nil && cert.IsCA {
		r.warn("%s: %s: the certificate is one of an authority (CA:TRUE), which some SDKs refuse, such as Python's: issue one with basicConstraints CA:FALSE",
			r.review.Place(path), file)
	}
}

// checkAuthorities checks the dates of authorities' certificates. One that has expired beside its successor is a warning.
func (r *run) checkAuthorities(path, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		return
	}
	valid := 0
	var expired []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case block.Type != "CERTIFICATE" || err != nil:
		case time.Now().After(cert.NotAfter):
			expired = append(expired, cert)
		default:
			valid++
		}
	}
	for _, cert := range expired {
		if valid == 0 {
			r.checkDates(path, file, "authority "+cert.Subject.String(), cert)
		} else {
			r.warn("%s: %s: authority %s expired on %s: remove it", r.review.Place(path), file, cert.Subject, cert.NotAfter.UTC().Format(time.RFC3339))
		}
	}
}

// checkDates checks that a certificate is valid now and for some time.
func (r *run) checkDates(path, file, what string, cert *x509.Certificate) {
	place, now := r.review.Place(path), time.Now()
	switch {
	case now.After(cert.NotAfter):
		r.fail("%s: %s: the %s expired on %s: renew it", place, file, what, cert.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(cert.NotBefore):
		r.fail("%s: %s: the %s is not valid before %s; is the clock right?", place, file, what, cert.NotBefore.UTC().Format(time.RFC3339))
	case now.Add(soon).After(cert.NotAfter):
		r.warn("%s: %s: the %s expires on %s: renew it", place, file, what, cert.NotAfter.UTC().Format(time.RFC3339))
	}
}
