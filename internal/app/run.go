package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/codecserver"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/server"
)

// closeTime is how long the last audit records and traces may take at the end.
const closeTime = 5 * time.Second

// healthInterval is how often gRPC health is brought up to date with /readyz.
const healthInterval = time.Second

// What happens on SIGTERM or an interrupt, in this order:
//
//  1. /readyz turns to 503, and gRPC health to NOT_SERVING (untilSignal, drain). A second signal ends the process at once.
//  2. With `drain.after: worker` nothing else happens until no caller is connected; then `drain.delay` passes. All is served
//     meanwhile.
//  3. The codec server has its callers connect anew for each request.
//  4. Server.Drain (server/drain.go): callers are asked to leave by GOAWAY, and whoever connects is still served. Polls that
//     the proxy holds end empty at once, and those that come later after 5 s at most; those at the frontend were given a time
//     that ends within the drain (pollLimit in serve.go). The listeners close when no caller is left or `drain.time` is over.
//     What still runs then has server.LastCalls, and is cut.
//  5. When its last call has ended, Server.Serve stops what tasks do in the background, and closes the connections to upstreams.
//  6. Meanwhile the codec server closes its listener and waits for its requests (Shutdown).
//  7. The audit log writes what is queued, and the last traces are exported, at the same time and within closeTime.
//  8. Options.Serve ends (serve.go, its deferred calls): keys are dropped from memory and the key store is closed, and then the
//     admin listener, which has served metrics until here.

// running is what serves, and what ends with it.
type running struct {
	server  *server.Server
	codec   *codecserver.Server // nil: none
	admin   *admin
	records *audit.Log               // nil: none
	spans   *sdktrace.TracerProvider // nil: none
	log     *slog.Logger
}

// untilSignal serves until a signal, and then drains. It calls ready once all listeners are about to accept: they are open
// already. A second signal ends the process at once.
func (r *running) untilSignal(by config.Drain, ready func()) error {
	signals := make(chan os.Signal, 2) // from here on a signal means a drain
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	serve := []func() error{r.server.Serve}
	if r.codec != nil {
		serve = append(serve, r.codec.Serve)
	}
	served := make(chan error, len(serve))
	for _, f := range serve {
		go func() { served <- f() }()
	}
	ready()
	got, err := r.untilTold(signals, served)
	if err != nil {
		return err
	}
	// /readyz turns first, so that load balancers send nothing new while calls end.
	r.admin.shut()
	go func() {
		got := <-signals
		r.log.Warn("second signal: stopping at once, running calls are cut", "signal", got.String())
		os.Exit(1)
	}()
	r.drain(by, got)
	for range serve {
		if err := <-served; err != nil {
			r.log.Error("a listener failed while shutting down", "error", err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	var last sync.WaitGroup // each may take its full time where the other side hangs
	last.Go(func() {
		if err := r.records.Close(ctx); err != nil {
			r.log.Error("not all audit records were kept", "error", err)
		}
	})
	if r.spans != nil {
		if err := r.spans.Shutdown(ctx); err != nil {
			r.log.Warn("the last traces could not be exported", "error", err)
		}
	}
	last.Wait()
	r.log.Info("stopped")
	return nil
}

// untilTold waits for a signal, or the error of a listener that ends before. gRPC health reports meanwhile what /readyz does.
func (r *running) untilTold(signals <-chan os.Signal, served <-chan error) (os.Signal, error) {
	look := time.NewTicker(healthInterval)
	defer look.Stop()
	for {
		r.server.SetReady(r.admin.works())
		select {
		case err := <-served:
			return nil, fmt.Errorf("a listener failed: %w", err)
		case got := <-signals:
			return got, nil
		case <-look.C:
		}
	}
}

// drain stops serving without losing a call: see Server.Drain. First it waits for what the config
// names, a sidecar's worker or the load balancers. Both kinds of listeners accept connections until the end.
func (r *running) drain(c config.Drain, got os.Signal) {
	r.log.Info("shutting down", "signal", got.String(), "connections", r.server.Connections(), "time", c.Time.String())
	ctx, cancel := context.WithTimeout(context.Background(), c.Delay+c.Time)
	defer cancel()
	r.server.SetReady(false)
	if c.After == "worker" {
		r.server.WaitForCallers(ctx)
	}
	time.Sleep(c.Delay) // load balancers need time to see that this one is not ready
	r.codec.Leave()
	ended := r.server.Drain(ctx)
	last, cancel := context.WithTimeout(context.Background(), server.LastCalls)
	defer cancel()
	if err := r.codec.Shutdown(last); err != nil || !ended {
		r.log.Warn("calls were still running after the drain time and were cut", "time", c.Time.String())
	}
}
