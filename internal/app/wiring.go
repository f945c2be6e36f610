package app

import (
	"crypto/tls"
	"fmt"
	"log/slog"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/files"
	"github.com/temporal-seal/temporal-seal/internal/server"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

// Listeners turns the config's listeners into the proxy's, reading their files.
func Listeners(c *config.Config, log *slog.Logger) ([]server.Listener, error) {
	var listeners []server.Listener
	for i, l := range c.Listeners {
		made, err := proxyListener(&l, log)
		if err != nil {
			return nil, fmt.Errorf("listeners[%d]: %w", i, err)
		}
		listeners = append(listeners, made)
	}
	return listeners, nil
}

func proxyListener(l *config.Listener, log *slog.Logger) (server.Listener, error) {
	made := server.Listener{Name: l.Name}
	var err error
	if made.TLS, err = serverTLS(l, log, "h2"); err != nil {
		return made, err
	}
	switch {
	case l.Callers == nil:
	case l.Callers.Token != nil:
		made.Credential = l.Callers.Token.Header
	case l.Callers.JWT != nil:
		made.Credential = l.Callers.JWT.Header
	}
	made.Identify, err = identify(l, log)
	return made, err
}

// serverTLS is nil for a listener without.
func serverTLS(l *config.Listener, log *slog.Logger, protocols ...string) (*tls.Config, error) {
	if l.TLS == nil {
		return nil, nil
	}
	authority := ""
	if l.Callers != nil && l.Callers.MTLS != nil {
		authority = l.Callers.MTLS.CAFile
	}
	made, err := files.ServerTLS(log, l.TLS.CertFile, l.TLS.KeyFile, authority, protocols...)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return made, nil
}

// identify is how this listener knows its callers.
func identify(l *config.Listener, log *slog.Logger) (auth.Identify, error) {
	switch {
	case l.IsAnonymous():
		return auth.Anonymous(l.Name, l.AnonymousNamespaces()), nil
	case l.Callers.MTLS != nil:
		var known []auth.Certificate
		for _, n := range l.Callers.MTLS.Names {
			known = append(known, auth.Certificate{Name: n.Name, Namespaces: n.Namespaces})
		}
		return auth.Certificates(l.Name, known), nil
	case l.Callers.Token != nil:
		return identifyTokens(l.Callers.Token, l.Name, log)
	}
	identify, err := identifyJWT(l.Callers.JWT, l.Name, log)
	if err != nil {
		return nil, fmt.Errorf("callers.jwt: %w", err)
	}
	return identify, nil
}

func identifyTokens(t *config.Tokens, listener string, log *slog.Logger) (auth.Identify, error) {
	var tokens []auth.Token
	for i, e := range t.Tokens {
		value, err := files.Token(log, e.File)
		if err != nil {
			return nil, fmt.Errorf("callers.token.tokens[%d]: %w", i, err)
		}
		tokens = append(tokens, auth.Token{Subject: e.Subject, Namespaces: e.Namespaces, Value: value})
	}
	return auth.Tokens(listener, t.Header, tokens), nil
}

func identifyJWT(j *config.JWT, listener string, log *slog.Logger) (auth.Identify, error) {
	keys := auth.KeySetFromURL(log, j.JWKSURL)
	if j.JWKSFile != "" {
		var err error
		if keys, err = auth.KeySetFromFile(log, j.JWKSFile); err != nil {
			return nil, fmt.Errorf("jwks_file: %w", err)
		}
	}
	return auth.JWTs(listener, auth.JWT{Issuer: j.Issuer, Audience: j.Audience, Header: j.Header,
		NamespacesClaim: j.NamespacesClaim, Namespaces: j.Namespaces, Algorithms: j.Algorithms, Keys: keys})
}

// Upstreams turns the config's upstreams into the proxy's, reading their files.
func Upstreams(c *config.Config, log *slog.Logger) ([]upstream.Config, error) {
	var upstreams []upstream.Config
	for i, u := range c.Upstreams {
		made := upstream.Config{Namespaces: u.Namespaces, Address: u.Address, PassCredential: u.PassCredential}
		var err error
		if u.TLS != nil {
			files := upstream.TLS{CertFile: u.TLS.CertFile, KeyFile: u.TLS.KeyFile, CAFile: u.TLS.CAFile, ServerName: u.TLS.ServerName}
			if made.TLS, err = files.Credentials(log); err != nil {
				return nil, fmt.Errorf("upstreams[%d].tls: %w", i, err)
			}
		}
		if u.APIKeyFile != "" {
			key, err := upstream.NewAPIKey(log, u.APIKeyFile)
			if err != nil {
				return nil, fmt.Errorf("upstreams[%d].api_key_file: %w", i, err)
			}
			made.APIKey = key
		}
		upstreams = append(upstreams, made)
	}
	return upstreams, nil
}
