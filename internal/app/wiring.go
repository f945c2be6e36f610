package app

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/codecserver"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/server"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
	"github.com/temporal-seal/temporal-seal/internal/x/filewatch"
)

// Ends are what callers and Temporal frontends are reached by.
type Ends struct {
	listeners []server.Listener
	upstreams []upstream.Config
	codec     *codecserver.Options // nil: no codec server
	keySets   []keySet
}

// keySet is the public keys of a JWT issuer, which are fetched from a URL.
type keySet struct {
	listener, url string
	fetch         func() error
}

// OpenEnds reads the certificates, tokens and key sets of all ends. It opens no listener and no connection.
func OpenEnds(c *config.Config, log *slog.Logger) (*Ends, error) {
	e := &Ends{listeners: make([]server.Listener, len(c.Listeners))}
	for i := range c.Listeners {
		l, made := &c.Listeners[i], &e.listeners[i]
		made.Name = l.Name
		if l.Callers != nil && l.Callers.Token != nil {
			made.Credential = l.Callers.Token.Header
		} else if l.Callers != nil && l.Callers.JWT != nil {
			made.Credential = l.Callers.JWT.Header
		}
		var err error
		if made.TLS, made.Identify, err = e.callersOf(l, log, "h2"); err != nil {
			return nil, config.At(fmt.Sprintf("listeners[%d]", i), err)
		}
	}
	// The order of these checks is that of the errors that operators see first.
	var err error
	if e.upstreams, err = Upstreams(c, log); err != nil {
		return nil, err
	}
	if cs := c.CodecServer; cs != nil {
		e.codec = &codecserver.Options{Origins: cs.AllowedOrigins, Log: log}
		if e.codec.TLS, e.codec.Identify, err = e.callersOf(cs.Listener(), log, "h2", "http/1.1"); err != nil {
			return nil, config.At("codec_server", err)
		}
	}
	return e, nil
}

// listen takes all addresses.
func (e *Ends) listen(c *config.Config) (err error) {
	for i := range e.listeners {
		l := &e.listeners[i]
		if l.Net, err = listen(fmt.Sprintf("listener %q", l.Name), c.Listeners[i].Address); err != nil {
			return err
		}
	}
	if e.codec != nil {
		e.codec.Net, err = listen("codec_server:", c.CodecServer.Address)
	}
	return err
}

// listen takes an address. Its error starts with the name of what needs the address.
func listen(what, address string) (net.Listener, error) {
	n, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s cannot listen on %s: %w; stop what holds that address, or choose another",
			what, address, errors.Unwrap(err))
	}
	return n, nil
}

// newCodecServer makes the codec server, with what the gRPC server works with too; nil if the config
// has none.
func newCodecServer(
	o *codecserver.Options, with *server.Options, beside *server.Server, registry prometheus.Registerer,
) *codecserver.Server {
	if o == nil {
		return nil
	}
	// Payloads count in the same metrics, whichever way they come.
	o.Rewriter, o.Audit, o.Registry = with.Rewriter, with.Audit, registry
	o.Rewritten, o.Failed = with.Metrics.Rewritten, with.Metrics.Failed
	o.Count, o.Unopened = with.Metrics.Traffic.Add, beside.ReportUnopened
	o.Enter, o.RequestBytes = beside.Enter, with.Limits.RequestBytes
	if t := with.Tracing; t != nil {
		o.Tracer, o.Traces = t.Provider.Tracer("github.com/temporal-seal/temporal-seal/internal/codecserver"), t.Propagator
	}
	return codecserver.New(*o)
}

// callersOf returns the TLS of a listener, nil without one, and how it identifies its callers.
func (e *Ends) callersOf(
	l *config.Listener, log *slog.Logger, protocols ...string,
) (made *tls.Config, by auth.Identify, err error) {
	if l.TLS != nil {
		authority := "" // no client certificate is asked for
		if l.Callers != nil && l.Callers.MTLS != nil {
			authority = l.Callers.MTLS.CAFile
		}
		if made, err = filewatch.ServerTLS(log, l.TLS.CertFile, l.TLS.KeyFile, authority, protocols...); err != nil {
			return nil, nil, config.At("tls", err)
		}
	}
	by, err = e.identify(l, log)
	return made, by, err
}

// identify returns how a listener identifies its callers.
func (e *Ends) identify(l *config.Listener, log *slog.Logger) (auth.Identify, error) {
	switch {
	case l.IsAnonymous():
		return auth.Anonymous(l.Name, l.AnonymousNamespaces()), nil
	case l.Callers.MTLS != nil:
		known := make([]auth.Certificate, len(l.Callers.MTLS.Names))
		for i, n := range l.Callers.MTLS.Names {
			known[i] = auth.Certificate(n)
		}
		return auth.Certificates(l.Name, known), nil
	case l.Callers.Token != nil:
		tokens := make([]auth.Token, len(l.Callers.Token.Tokens))
		for i, t := range l.Callers.Token.Tokens {
			value, err := filewatch.Token(log, t.File)
			if err != nil {
				return nil, config.At(fmt.Sprintf("callers.token.tokens[%d].file", i), err)
			}
			tokens[i] = auth.Token{Subject: t.Subject, Namespaces: t.Namespaces, Value: value}
		}
		return auth.Tokens(l.Name, l.Callers.Token.Header, tokens), nil
	}
	// The validation of the config leaves no other kind. A file of keys has to be there now; keys from
	// a URL are fetched by the start, which does not depend on them.
	j := l.Callers.JWT
	keys := auth.KeySetFromURL(log, j.JWKSURL)
	if j.JWKSFile == "" {
		e.keySets = append(e.keySets, keySet{l.Name, j.JWKSURL, keys.Fetch})
	} else {
		var err error
		if keys, err = auth.KeySetFromFile(log, j.JWKSFile); err != nil {
			return nil, config.At("callers.jwt.jwks_file", err)
		}
	}
	by, err := auth.JWTs(l.Name, auth.JWT{Issuer: j.Issuer, Audience: j.Audience, Header: j.Header,
		NamespacesClaim: j.NamespacesClaim, Namespaces: j.Namespaces, Algorithms: j.Algorithms, Keys: keys})
	if err != nil {
		return nil, config.At("callers.jwt", err)
	}
	return by, nil
}

// Upstreams reads the certificates and API keys of the config's upstreams.
func Upstreams(c *config.Config, log *slog.Logger) ([]upstream.Config, error) {
	upstreams := make([]upstream.Config, len(c.Upstreams))
	for i, u := range c.Upstreams {
		made := &upstreams[i]
		*made = upstream.Config{Namespaces: u.Namespaces, Address: u.Address, PassCredential: u.PassCredential}
		var err error
		if u.TLS != nil {
			with, err := upstream.TLS(*u.TLS).Credentials(log)
			if err != nil {
				return nil, config.At(fmt.Sprintf("upstreams[%d].tls", i), err)
			}
			made.TLS = with
		}
		if u.APIKeyFile != "" {
			if made.APIKey, err = upstream.NewAPIKey(log, u.APIKeyFile); err != nil {
				return nil, config.At(fmt.Sprintf("upstreams[%d].api_key_file", i), err)
			}
		}
	}
	return upstreams, nil
}
