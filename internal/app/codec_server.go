package app

import (
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/codecserver"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/server"
)

// CodecServer takes the codec server's address and reads its files; nil if the config wants none. What it works with is
// still to be filled in.
func CodecServer(c *config.Config, log *slog.Logger) (*codecserver.Options, error) {
	cs := c.CodecServer
	if cs == nil {
		return nil, nil
	}
	o := &codecserver.Options{Origins: cs.AllowedOrigins, Log: log}
	var err error
	if o.TLS, err = serverTLS(cs.Listener(), log, "h2", "http/1.1"); err != nil {
		return nil, fmt.Errorf("codec_server: %w", err)
	}
	if o.Identify, err = identify(cs.Listener(), log); err != nil {
		return nil, fmt.Errorf("codec_server: %w", err)
	}
	return o, nil
}

// listenCodecServer takes the address.
func listenCodecServer(c *config.Config, o *codecserver.Options) error {
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
	return slog.String("codec_server", s.Addr().String())
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
