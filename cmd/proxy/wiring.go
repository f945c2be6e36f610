package main

import (
	"fmt"
	"log/slog"

	"github.com/temporal-seal/temporal-seal/internal/caller"
	"github.com/temporal-seal/temporal-seal/internal/files"
	"github.com/temporal-seal/temporal-seal/internal/proxy"
)

// proxyListeners turns the config's listeners into the proxy's, reading their files.
func (c *config) proxyListeners(log *slog.Logger) ([]proxy.Listener, error) {
	var listeners []proxy.Listener
	for i, l := range c.Listeners {
		made, err := l.listener(log)
		if err != nil {
			return nil, fmt.Errorf("listeners[%d]: %w", i, err)
		}
		listeners = append(listeners, made)
	}
	return listeners, nil
}

func (l *listenerConfig) listener(log *slog.Logger) (proxy.Listener, error) {
	made := proxy.Listener{Name: l.Name}
	var err error
	if l.TLS != nil {
		authority := ""
		if l.Callers != nil && l.Callers.MTLS != nil {
			authority = l.Callers.MTLS.CAFile
		}
		if made.TLS, err = files.ServerTLS(log, l.TLS.CertFile, l.TLS.KeyFile, authority, "h2"); err != nil {
			return made, fmt.Errorf("tls: %w", err)
		}
	}
	switch {
	case l.anonymous():
		made.Identify = caller.Anonymous(l.Name, l.namespaces())
	case l.Callers.MTLS != nil:
		var known []caller.Certificate
		for _, n := range l.Callers.MTLS.Names {
			known = append(known, caller.Certificate{Name: n.Name, Namespaces: n.Namespaces})
		}
		made.Identify = caller.Certificates(l.Name, known)
	case l.Callers.Token != nil:
		made.Credential = l.Callers.Token.Header
		made.Identify, err = l.Callers.Token.identify(l.Name, log)
	case l.Callers.JWT != nil:
		made.Credential = l.Callers.JWT.Header
		if made.Identify, err = l.Callers.JWT.identify(l.Name, log); err != nil {
			err = fmt.Errorf("callers.jwt: %w", err)
		}
	}
	return made, err
}

func (t *tokenConfig) identify(listener string, log *slog.Logger) (caller.Identify, error) {
	var tokens []caller.Token
	for i, e := range t.Tokens {
		value, err := files.Token(log, e.File)
		if err != nil {
			return nil, fmt.Errorf("callers.token.tokens[%d]: %w", i, err)
		}
		tokens = append(tokens, caller.Token{Subject: e.Subject, Namespaces: e.Namespaces, Value: value})
	}
	return caller.Tokens(listener, t.Header, tokens), nil
}

func (j *jwtConfig) identify(listener string, log *slog.Logger) (caller.Identify, error) {
	keys := caller.KeySetFromURL(log, j.JWKSURL)
	if j.JWKSFile != "" {
		var err error
		if keys, err = caller.KeySetFromFile(log, j.JWKSFile); err != nil {
			return nil, fmt.Errorf("jwks_file: %w", err)
		}
	}
	return caller.JWTs(listener, caller.JWT{Issuer: j.Issuer, Audience: j.Audience, Header: j.Header,
		NamespacesClaim: j.NamespacesClaim, Namespaces: j.Namespaces, Algorithms: j.Algorithms, Keys: keys})
}

// proxyUpstreams turns the config's upstreams into the proxy's, reading their files.
func (c *config) proxyUpstreams(log *slog.Logger) ([]proxy.UpstreamConfig, error) {
	var upstreams []proxy.UpstreamConfig
	for i, u := range c.Upstreams {
		made := proxy.UpstreamConfig{Namespaces: u.Namespaces, Address: u.Address, PassCredential: u.PassCredential}
		var err error
		if u.TLS != nil {
			files := proxy.UpstreamTLS{CertFile: u.TLS.CertFile, KeyFile: u.TLS.KeyFile, CAFile: u.TLS.CAFile, ServerName: u.TLS.ServerName}
			if made.TLS, err = files.Credentials(log); err != nil {
				return nil, fmt.Errorf("upstreams[%d].tls: %w", i, err)
			}
		}
		if u.APIKeyFile != "" {
			key, err := proxy.NewAPIKey(log, u.APIKeyFile)
			if err != nil {
				return nil, fmt.Errorf("upstreams[%d].api_key_file: %w", i, err)
			}
			made.APIKey = key
		}
		upstreams = append(upstreams, made)
	}
	return upstreams, nil
}
