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
