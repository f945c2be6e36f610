package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/codecserver"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/server"
)

// codecServerConfig is the door of the Web UI and the command line. Without it there is none.
type codecServerConfig struct {
	Address        string           `yaml:"address"`
	TLS            *serverTLSConfig `yaml:"tls"`
	AllowedOrigins []string         `yaml:"allowed_origins"`
	Callers        *callersConfig   `yaml:"callers"`
}

const defaultCodecServer = "127.0.0.1:7335"

// defaultOrigins are those of the Web UI that comes with `temporal server start-dev`.
var defaultOrigins = []string{"http://localhost:8233", "http://127.0.0.1:8233"}

func (cs *codecServerConfig) setDefaults() {
	if cs == nil {
		return
	}
	if cs.Address == "" {
		cs.Address = defaultCodecServer
	}
	if cs.AllowedOrigins == nil && isLoopback(cs.Address) {
		cs.AllowedOrigins = defaultOrigins
	}
	cs.Callers.setDefaults()
}

// listener is the codec server as one of the listeners, whose kinds of callers are the same.
func (cs *codecServerConfig) listener() *listenerConfig {
	return &listenerConfig{Name: codecserver.Name, Address: cs.Address, TLS: cs.TLS, Callers: cs.Callers}
}

func (cs *codecServerConfig) check(d *document) {
	if cs == nil {
		return
	}
	const path = "$.codec_server"
	for i, origin := range cs.AllowedOrigins {
		if !isOrigin(origin) {
			d.add(fmt.Sprintf("%s.allowed_origins[%d]", path, i), "is no origin as browsers write it: https://ui.example.com, with the port if it is not the usual one, without a path, and without *")
		}
	}
	l := cs.listener()
	if l.anonymous() && !isLoopback(cs.Address) && checkAddress(d, path+".address", cs.Address) {
		d.add(path, "%s is reachable from other machines: say who may read, with callers: {jwt: {...}}, token or mtls, or listen on 127.0.0.1", cs.Address)
		return
	}
	l.check(d, path)
}

func isOrigin(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && text == u.Scheme+"://"+u.Host &&
		text == strings.ToLower(text) && !strings.Contains(text, "*") && !isUsualPort(u)
}

// isUsualPort tells of a port that browsers leave out, so that no page would ever match.
func isUsualPort(u *url.URL) bool {
	return u.Port() == "443" && u.Scheme == "https" || u.Port() == "80" && u.Scheme == "http"
}

// codecServer takes the codec server's address and reads its files; nil if the config wants none. What it works with is
// still to be filled in.
func (c *config) codecServer(log *slog.Logger) (*codecserver.Options, error) {
	cs := c.CodecServer
	if cs == nil {
		return nil, nil
	}
	o := &codecserver.Options{Origins: cs.AllowedOrigins, Log: log}
	var err error
	if o.TLS, err = cs.listener().serverTLS(log, "h2", "http/1.1"); err != nil {
		return nil, fmt.Errorf("codec_server: %w", err)
	}
	if o.Identify, err = cs.listener().identify(log); err != nil {
		return nil, fmt.Errorf("codec_server: %w", err)
	}
	return o, nil
}

// listenCodecServer takes the address.
func (c *config) listenCodecServer(o *codecserver.Options) error {
	if o == nil {
		return nil
	}
	var err error
	if o.Net, err = net.Listen("tcp", c.CodecServer.Address); err != nil {
		return fmt.Errorf("codec_server: cannot listen on %s: %w; stop what holds that address, or choose another", c.CodecServer.Address, errors.Unwrap(err))
	}
	return nil
}

// codecAddress is for the log; nothing where there is none.
func codecAddress(s *codecserver.Server) slog.Attr {
	if s == nil {
		return slog.Attr{}
	}
	return slog.String("codec_server", s.Net.Addr().String())
}

// newCodecServer gives it what it works with; nil if there is to be none.
func newCodecServer(o *codecserver.Options, rewriter *rewrite.Rewriter, records *audit.Log, metrics *server.Metrics, registry prometheus.Registerer, tracing *server.Tracing) *codecserver.Server {
	if o == nil {
		return nil
	}
	o.Rewriter, o.Audit, o.Rewritten, o.Failed, o.Registry = rewriter, records, metrics.Rewritten, metrics.Failed, registry
	if tracing != nil {
		o.Tracer, o.Traces = tracing.Provider.Tracer("github.com/temporal-seal/temporal-seal/internal/codecserver"), tracing.Propagator
	}
	return codecserver.New(*o)
}
