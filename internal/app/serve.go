// Package app is the running proxy: it assembles all parts from a config, serves, applies changed
// configs and policies, and drains. Commands use parts of the assembly to check a config or to open its
// keys. It decides nothing about a call or a payload.
//
// Its words:
//
//   - sources: the config file and the policy. Of the policy every change applies while the proxy runs, of the
//     config file those that apply.go names
//   - state: what is in force of the sources, and why they differ from it
//   - ends: the listeners for callers, for the codec server and for operators
//
// What is where:
//
//   - serve.go: the order of the start
//   - run.go: from the first call to the end, and what ends in which order
//   - dependencies.go: upstreams and key sets that have to answer, and what the start waits for
//   - apply.go: which changes apply when; state.go: how a new state is prepared; report.go: what operators see of it;
//     candidate.go: a policy on trial beside the one in force
//   - keys.go, foreign.go, policy.go: keys, formats of other tools and the policy, from the config
//   - wiring.go: listeners, upstreams and the codec server, from the config
//   - limits.go, collector.go: what fits into the memory
//   - survey.go: the survey of live traffic; namespaces.go: metrics by namespace
//   - admin.go, status.go, keyuse.go: the admin listener and its pages; certificates.go, subjects.go, expiry.go: metrics of
//     certificates, and of keys of subjects
//   - telemetry.go, spans.go, sampler.go, audit.go: logs, traces and audit records
//   - files_unix.go, files_other.go: how many files the process may have open
package app

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/server"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

// Options are the command line of a proxy that serves. All fields are required, except where
// config.Flags says otherwise.
type Options struct {
	config.Flags
	LogFormat, LogLevel string
	StartTimeout        time.Duration // how long keys, upstreams and key sets may take before the proxy starts without them
	Version             string
}

// Serve assembles the proxy and runs it until a signal. The order matters: what fails without asking
// anybody comes first, and the admin listener answers while the rest starts, so that a probe sees a
// proxy that is alive and not ready.
func (o *Options) Serve(ctx context.Context, stderr io.Writer) error {
	begun := time.Now()
	log, err := newLogger(stderr, o.LogFormat, o.LogLevel)
	if err != nil {
		return err
	}
	o.OneDomain = true
	text, err := o.Read()
	if err != nil {
		return err
	}
	c, err := o.Parse(text)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// Limits follow from the memory, and so does the pace of the garbage collector.
	memory := limitMemory(log)
	paceCollector(memory)
	e, err := OpenEnds(c, log)
	if err != nil {
		return o.Locate(text, err)
	}
	t, err := newTelemetry(ctx, o.Version, log)
	if err != nil {
		return err
	}
	if err := e.listen(c); err != nil {
		return err
	}
	failed := newHandshakes(c, t)
	e.watch(failed)
	t.registry.MustRegister(certificateMetrics(e.certificates()))
	admin, err := newAdmin(c.Admin, t, failed.of(adminName))
	if err != nil {
		return err
	}
	defer admin.close()
	go admin.serve()
	records, err := newAudit(ctx, c.Audit, o.Version, t)
	if err != nil {
		return err
	}
	changes := &applier{flags: o.Flags, started: c, timeout: o.StartTimeout, text: text, dependencies: newDependencies(e, log)}
	defer changes.close()
	t.registry.MustRegister(changes.dependencies)
	if err := o.await(ctx, changes, func(w *waits) error {
		return changes.open(ctx, t, w, admin, records != nil)
	}); err != nil {
		return o.Locate(text, err)
	}
	go changes.follow(ctx, log)
	if changes.candidate != nil {
		go changes.candidate.follow(ctx)
	}
	// Newer servers may have fields that this build does not know: their descriptors complete the plan.
	changes.dependencies.learn(ctx, e, changes.rewriter.Join)
	changes.dependencies.follow(ctx)
	go upstream.LearnAgain(ctx, e.upstreams, changes.rewriter.Join, log)
	options := server.Options{
		Listeners: e.listeners, Upstreams: e.upstreams, Services: c.Services, NexusEndpoints: c.NexusEndpoints,
		Rewriter: changes.rewriter, Keys: changes.keys, Audit: records,
		PollLimit: pollLimit(c), Limits: serverLimits(&c.Limits, memory),
		Metrics: server.NewMetrics(t.registry, c.Metrics.Namespaces...), Tracing: t.tracing, Log: log,
	}
	grpc, err := server.New(options)
	if err != nil {
		return err
	}
	live := changes.observe(ctx, options.Metrics.Traffic, t)
	codec := newCodecServer(e.codec, &options, grpc, t.registry)
	r := running{server: grpc, codec: codec, admin: admin, records: records, spans: t.spans, log: log}
	return r.untilSignal(c.Drain, func() {
		admin.open(&serving{changes: changes, version: o.Version, begun: begun, certificates: e.certificates(),
			traffic: options.Metrics.Traffic, pollsHeld: grpc.PollsHeld, survey: live})
		grpc.SetReady(admin.works()) // before a line says that it serves
		warnAtStart(c, log)
		if o.File == "" && len(c.Grants) > 0 {
			log.Info("without a config file, on loopback, every namespace opens what another one sealed")
		}
		r.announce(c, &options, "policy_revision", changes.state.Load().policy.Revision(), "version", o.Version)
	})
}

// await asks the dependencies while open asks the keys, and logs what takes long. What does not answer in time is asked again
// later.
func (o *Options) await(ctx context.Context, changes *applier, open func(*waits) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &waits{ctx, changes.dependencies.log}
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		limited, cancel := context.WithTimeout(ctx, o.StartTimeout)
		defer cancel()
		changes.dependencies.await(limited, w)
	}()
	if err := open(w); err != nil {
		return err // nobody needs the dependencies any more
	}
	<-asked
	return nil
}

// pollLimit is how long a poll may last upstream so that all of them end by themselves while the proxy drains.
func pollLimit(c *config.Config) time.Duration {
	// From this drain time on polls need no shortening: they take 60 s at most, and answering a bit.
	if c.Drain.Time >= 65*time.Second {
		return 0
	}
	return max(c.Drain.Time-5*time.Second, 5*time.Second)
}

// warnAtStart logs what an operator should not overlook.
func warnAtStart(c *config.Config, log *slog.Logger) {
	for _, l := range c.Listeners {
		if l.IsAnonymous() && !config.IsLoopback(l.Address) {
			log.Warn("ANYONE WHO REACHES THIS LISTENER reads and writes these namespaces in clear. Let a network policy say who does",
				"listener", l.Name, "address", l.Address, "namespaces", strings.Join(l.AnonymousNamespaces(), ","))
		}
		if l.TLS == nil && !config.IsLoopback(l.Address) {
			log.Warn("callers of this listener talk to it without TLS: clear payloads cross the network",
				"listener", l.Name, "address", l.Address)
		}
	}
	for _, namespace := range c.WithoutDefaultKey() {
		log.Warn("a namespace that callers reach has no default key: its workers get no tasks; add it to an entry in keys",
			"namespace", namespace)
	}
	if c.Shadow {
		log.Warn("SHADOW MODE: nothing new is sealed, payloads pass in clear and the policy's verdicts are counted")
	}
}

// announce logs the addresses and the limits. The last fields of the first line are the caller's.
func (r *running) announce(c *config.Config, o *server.Options, last ...any) {
	var listen, upstreams []string
	for _, l := range o.Listeners {
		listen = append(listen, l.Net.Addr().String()) // for a port 0, the one that was chosen
	}
	for _, u := range c.Upstreams {
		upstreams = append(upstreams, u.Address)
	}
	fields := []any{"listen", strings.Join(listen, ","), "admin", r.admin.net.Addr().String()}
	if r.codec != nil {
		fields = append(fields, "codec_server", r.codec.Addr().String())
	}
	r.log.Info("serving", append(append(fields, "upstream", strings.Join(upstreams, ",")), last...)...)
	r.log.Info("limits", "connections", o.Limits.Connections, "calls", o.Limits.Calls, "long_polls", o.Limits.LongPolls,
		"bytes", o.Limits.Bytes, "request_bytes", o.Limits.RequestBytes, "connection_age", o.Limits.ConnectionAge.String())
}
