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
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	temporalseal "github.com/temporal-seal/temporal-seal"
	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/codecserver"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
	"github.com/temporal-seal/temporal-seal/internal/policy"
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

// running is what serves, and what ends with it.
type running struct {
	server  *server.Server
	codec   *codecserver.Server // nil: none
	admin   *admin
	records *audit.Log
	spans   *sdktrace.TracerProvider
	log     *slog.Logger
}

// untilSignal serves until a signal, and then drains. It calls ready once all listeners serve.
func (r *running) untilSignal(by config.Drain, ready func()) error {
	signals := make(chan os.Signal, 2) // from here on a signal means a drain
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	served := make(chan error, 2)
	listeners := 1
	go func() { served <- r.server.Serve() }()
	if r.codec != nil {
		listeners++
		go func() { served <- r.codec.Serve() }()
	}
	r.server.SetReady(true)
	ready()
	select {
	case err := <-served:
		return fmt.Errorf("a listener failed: %w", err)
	case got := <-signals:
		r.admin.shut()
		go dieAtSecond(signals, r.log)
		drain(r.server, r.codec, by, got, r.log)
	}
	for range listeners {
		if err := <-served; err != nil {
			r.log.Error("a listener failed while shutting down", "error", err)
		}
	}
	var last sync.WaitGroup // each may take its full time where the other side hangs
	last.Go(func() { closeAudit(r.records, r.log) })
	flush(r.spans, r.log)
	last.Wait()
	r.log.Info("stopped")
	return nil
}

// flush exports the last traces, if there are any and somebody takes them.
func flush(spans *sdktrace.TracerProvider, log *slog.Logger) {
	if spans == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := spans.Shutdown(ctx); err != nil {
		log.Warn("the last traces could not be exported", "error", err)
	}
}

// OpenKeys opens the configured keys and checks that they answer.
func OpenKeys(
	ctx context.Context, c *config.Config, timeout time.Duration,
	open func(context.Context, string) (crypto.Provider, error),
	trace func(context.Context, string, crypto.KeyContext) (context.Context, func(error)), log *slog.Logger,
) (*keyring.Keyring, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	keys, err := keyring.New(ctx, keyring.Options{
		Keys: c.KeyConfigs(), Open: open, Grants: c.KeyGrants(), Realm: c.Realm, RevokedDataKeys: c.DataKeyIDs(),
		DataKeyLife: c.DataKeyLife, Trace: trace, Log: log,
	})
	if err != nil {
		return nil, PrefixLines("keys", err)
	}
	return keys, nil
}

// PolicyOptions say where the policy comes from. keys nil: without knowing which keys there are.
func PolicyOptions(c *config.Config, keys *keyring.Keyring) (policy.Options, error) {
	o := policy.Options{File: c.Policy.File, Namespaces: c.Policy.Namespaces, Shipped: temporalseal.ShippedPolicy}
	if keys != nil {
		o.KeyRank, o.DefaultKey = keys.Rank, keys.DefaultKey
	}
	b := c.Policy.Bundle
	if b == nil {
		return o, nil
	}
	o.Bundle = &policy.Bundle{URL: b.URL, TokenFile: b.TokenFile, Algorithm: b.Algorithm, Scope: b.Scope, Folder: b.Folder, Poll: b.Poll}
	if b.PublicKeyFile != "" {
		key, err := os.ReadFile(b.PublicKeyFile)
		if err != nil {
			return o, fmt.Errorf("policy.bundle.public_key_file: %w", err)
		}
		o.Bundle.PublicKey = string(key)
	}
	return o, nil
}

func newEngine(ctx context.Context, c *config.Config, keys *keyring.Keyring, registry prometheus.Registerer) (*policy.Engine, error) {
	options, err := PolicyOptions(c, keys)
	if err != nil {
		return nil, err
	}
	engine, err := policy.NewEngine(ctx, options)
	if err != nil {
		return nil, PolicyError(err)
	}
	registry.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "temporal_seal_policy_evaluations_total", Help: "Decisions that had to be evaluated, since the memo held none for them."},
			func() float64 { all, _ := engine.Evaluations(); return float64(all) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "temporal_seal_policy_content_evaluations_total", Help: "Of those, decisions that hung on a payload's content, so that the memo never holds them."},
			func() float64 { _, withContent := engine.Evaluations(); return float64(withContent) }))
	return engine, nil
}

// tryPolicy loads the policy without keys, if it is in files.
func tryPolicy(ctx context.Context, c *config.Config) error {
	if c.Policy.Bundle != nil {
		return nil
	}
	options, err := PolicyOptions(c, nil)
	if err != nil {
		return err
	}
	_, err = policy.Load(ctx, options)
	return PolicyError(err)
}

// PolicyError tells one fault per place: the compiler often finds several in one typing mistake.
func PolicyError(err error) error {
	if err == nil {
		return nil
	}
	var lines []string
	told := map[string]bool{}
	for line := range strings.SplitSeq(strings.TrimRight(PrefixLines("policy: ", err).Error(), "\n"), "\n") {
		if parts := strings.SplitN(line, ":", 4); len(parts) == 4 {
			place := parts[1] + ":" + parts[2]
			if told[place] {
				continue
			}
			told[place] = true
		}
		lines = append(lines, line)
	}
	return errors.New(strings.Join(lines, "\n"))
}

// PrefixLines says of each of several joined errors where it belongs.
func PrefixLines(prefix string, err error) error {
	lines := strings.Split(strings.TrimRight(err.Error(), "\n"), "\n")
	for i, line := range lines {
		if !strings.HasPrefix(line, prefix) {
			lines[i] = prefix + line
		}
	}
	return errors.New(strings.Join(lines, "\n"))
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

// drain stops serving without losing a call: see Server.Drain.
func drain(server *server.Server, codec *codecserver.Server, c config.Drain, got os.Signal, log *slog.Logger) {
	log.Info("shutting down", "signal", got.String(), "connections", server.Connections(), "time", c.Time.String())
	ctx, cancel := context.WithTimeout(context.Background(), c.Delay+c.Time)
	defer cancel()
	server.SetReady(false)
	if c.After == "worker" {
		server.WaitForCallers(ctx)
	}
	time.Sleep(c.Delay) // load balancers need time to see that this one is not ready
	cut := make(chan error, 1)
	go func() { cut <- codec.Shutdown(ctx) }()
	ended := server.Drain(ctx)
	if err := <-cut; err != nil || !ended {
		log.Warn("calls were still running after the drain time and were cut", "time", c.Time.String())
	}
}

func dieAtSecond(signals <-chan os.Signal, log *slog.Logger) {
	got := <-signals
	log.Warn("second signal: stopping at once, running calls are cut", "signal", got.String())
	os.Exit(1)
}
