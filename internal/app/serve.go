// Package app is the running proxy: it assembles all parts from a config, serves, takes over changed configs, and drains.
// Commands use parts of the assembly to check a config or to open its keys.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/temporal-seal/temporal-seal/internal/codecserver"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/server"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

// pollsEndAlone is the drain time from which on polls need no shortening: they take 60 s at most, and answering a bit.
const pollsEndAlone = 65 * time.Second

// Options are what the command line says of a proxy that serves.
type Options struct {
	config.Flags
	LogFormat, LogLevel string
	StartTimeout        time.Duration // how long keys and upstream may take to answer at start
	Version             string
}

// Serve wires everything, from top to bottom, and runs it until a signal.
func (o *Options) Serve(ctx context.Context, stderr io.Writer) error {
	log, err := newLogger(stderr, o.LogFormat, o.LogLevel)
	if err != nil {
		return err
	}
	c, text, err := o.config()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	memory := limitMemory(log)
	paceCollector(memory)
	limits := serverLimits(&c.Limits, memory)
	e, err := openEnds(c, log)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	tracing, spans, err := newTracing(ctx, o.Version, registry, log)
	if err != nil {
		return err
	}
	addresses, err := e.listen(c)
	if err != nil {
		return err
	}
	admin, err := newAdmin(c.Admin, registry, log)
	if err != nil {
		return err
	}
	defer admin.close()
	go admin.serve()
	records, err := newAudit(ctx, c, o.Version, registry, log)
	if err != nil {
		return err
	}
	if err := o.probe(ctx, e.upstreams); err != nil {
		return err
	}
	if err := makeLocalKeys(ctx, c, log); err != nil {
		return err
	}
	keys, err := OpenKeys(ctx, c, o.StartTimeout, keyservice.Open, newKMSWatch(registry).around, log)
	if err != nil {
		return err
	}
	defer keys.Close()
	others, err := ForeignReader(ctx, c, o.StartTimeout)
	if err != nil {
		return err
	}
	admin.keys.Store(keys)
	engine, err := newEngine(ctx, c, keys, registry)
	if err != nil {
		return err
	}
	rewriter, err := rewrite.New(rewrite.Options{Keys: keys, Policy: engine, Foreign: others, UnknownFields: c.UnknownFields, Shadow: c.Shadow, Accounts: records != nil, Log: log})
	if err != nil {
		return err
	}
	changes := &applier{flags: o.Flags, started: c, timeout: o.StartTimeout, keys: keys, engine: engine, rewriter: rewriter,
		report: newReport(o.File, registry, log), text: text}
	registry.MustRegister(keyMetrics{keys}, staleMetrics{changes.state.Load})
	changes.begin(wantedBy(c, others))
	go changes.follow(ctx, log)
	upstream.Learn(ctx, e.upstreams, rewriter.Join, log)
	go upstream.LearnAgain(ctx, e.upstreams, rewriter.Join, log)
	metrics := server.NewMetrics(registry)
	server, err := server.New(server.Options{
		Listeners: e.listeners, Upstreams: e.upstreams, Services: c.Services,
		Rewriter: rewriter, Keys: keys, Audit: records, PollLimit: pollLimit(c), Limits: limits,
		Metrics: metrics, Registry: registry, Tracing: tracing, Log: log,
	})
	if err != nil {
		return err
	}
	codec := newCodecServer(e.codec, rewriter, records, metrics, registry, tracing)
	r := running{server: server, codec: codec, admin: admin, records: records, spans: spans, log: log}
	return r.untilSignal(c.Drain, func() {
		admin.open(changes)
		warnAtStart(c, log)
		log.Info("serving", "listen", strings.Join(addresses, ","), "admin", admin.net.Addr().String(),
			codecAddress(codec), "upstream", upstreamList(c),
			"policy_revision", changes.state.Load().policy.Revision(), "version", o.Version)
		log.Info("limits", "connections", limits.Connections, "calls", limits.Calls, "long_polls", limits.LongPolls,
			"bytes", limits.Bytes, "connection_age", limits.ConnectionAge.String())
	})
}

// config reads the config, and returns its text too.
func (o *Options) config() (*config.Config, []byte, error) {
	text, err := o.Read()
	if err != nil {
		return nil, nil, err
	}
	c, err := o.Parse(text)
	return c, text, err
}

// ends are what callers and Temporal frontends are reached by.
type ends struct {
	listeners []server.Listener
	upstreams []upstream.Config
	codec     *codecserver.Options // nil: no codec server
}

// openEnds reads the files of all ends.
func openEnds(c *config.Config, log *slog.Logger) (e ends, err error) {
	if e.listeners, err = Listeners(c, log); err != nil {
		return e, err
	}
	if e.upstreams, err = Upstreams(c, log); err != nil {
		return e, err
	}
	e.codec, err = CodecServer(c, log)
	return e, err
}

// listen takes all addresses, and returns those of the listeners.
func (e *ends) listen(c *config.Config) ([]string, error) {
	addresses, err := listen(c, e.listeners)
	if err != nil {
		return nil, err
	}
	return addresses, listenCodecServer(c, e.codec)
}

func (o *Options) probe(ctx context.Context, upstreams []upstream.Config) error {
	ctx, cancel := context.WithTimeout(ctx, o.StartTimeout)
	defer cancel()
	return upstream.Probe(ctx, upstreams)
}

// listen takes the listeners' addresses and gives them as they are: a port 0 is chosen now.
func listen(c *config.Config, listeners []server.Listener) ([]string, error) {
	var addresses []string
	for i := range listeners {
		l := &listeners[i]
		n, err := net.Listen("tcp", c.Listeners[i].Address)
		if err != nil {
			return nil, fmt.Errorf("listener %q cannot listen on %s: %w; stop what holds that address, or choose another", l.Name, c.Listeners[i].Address, errors.Unwrap(err))
		}
		l.Net = n
		addresses = append(addresses, n.Addr().String())
	}
	return addresses, nil
}

// pollLimit is how long a poll may be held so that all of them end by themselves while the proxy drains.
func pollLimit(c *config.Config) time.Duration {
	if c.Drain.Time >= pollsEndAlone {
		return 0
	}
	return max(c.Drain.Time-5*time.Second, 5*time.Second)
}

// warn says at start what an operator should not overlook.
func warnAtStart(c *config.Config, log *slog.Logger) {
	for _, l := range c.Listeners {
		if l.IsAnonymous() && !config.IsLoopback(l.Address) {
			log.Warn("ANYONE WHO REACHES THIS LISTENER reads and writes these namespaces in clear. Let a network policy say who does", "listener", l.Name, "address", l.Address, "namespaces", strings.Join(l.AnonymousNamespaces(), ","))
		}
		if l.TLS == nil && !config.IsLoopback(l.Address) {
			log.Warn("callers of this listener talk to it without TLS: clear payloads cross the network", "listener", l.Name, "address", l.Address)
		}
	}
	if c.Shadow {
		log.Warn("SHADOW MODE: payloads are counted and pass in clear, nothing is sealed")
	}
}

func upstreamList(c *config.Config) string {
	addresses := make([]string, len(c.Upstreams))
	for i, u := range c.Upstreams {
		addresses[i] = u.Address
	}
	return strings.Join(addresses, ",")
}
