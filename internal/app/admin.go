package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/x/handshake"
)

// admin answers probes and scrapes. It shows no payload and takes no command.
type admin struct {
	server  *http.Server
	net     net.Listener
	changes atomic.Pointer[applier]         // set while calls should come here
	keys    atomic.Pointer[keyring.Keyring] // set once they are open
	log     *slog.Logger
}

const (
	// adminConnections bounds the connections. One more waits until another one ends.
	adminConnections = 256
	// scrapes bounds those that run at once. One more gets a 503; probes are answered all the same.
	scrapes = 4
)

// newAdmin takes the address. Until open is called, /readyz answers that the proxy is not ready.
func newAdmin(address string, t *telemetry, failed handshake.Failed) (*admin, error) {
	n, err := listen("admin:", address)
	if err != nil {
		return nil, fmt.Errorf("%w with --admin", err)
	}
	a := &admin{net: netutil.LimitListener(handshake.Plain(n, failed), adminConnections), log: t.log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.HandleFunc("GET /keys", a.listKeys)
	mux.Handle("GET /metrics", promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: scrapes}))
	a.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(t.log.Handler(), slog.LevelDebug)}
	return a, nil
}

// open has /readyz answer that calls may come; shut that they should go elsewhere.
func (a *admin) open(changes *applier) { a.changes.Store(changes) }
func (a *admin) shut()                 { a.changes.Store(nil) }

// readyz reports whether calls should come here, and what an operator should know. Sources that are not
// in force do not take the proxy out: what was in force before them still holds.
func (a *admin) readyz(w http.ResponseWriter, _ *http.Request) {
	changes := a.changes.Load()
	if changes == nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "not ready: starting or shutting down")
		return
	}
	state := changes.state.Load()
	if nothing := changes.worksNot(state); nothing != "" {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "not ready: "+nothing)
	} else {
		fmt.Fprintln(w, "ready")
	}
	changes.dependencies.describe(w)
	state.describe(w, changes.flags.File)
}

// listKeys answers which keys are in use: names, references, ids and counts. Envelopes hold the same,
// in the clear.
func (a *admin) listKeys(w http.ResponseWriter, _ *http.Request) {
	keys := a.keys.Load()
	if keys == nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "the keys are not open yet")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	_ = e.Encode(inUse(keys)) // the caller may be gone
}

// serve answers until close.
func (a *admin) serve() {
	if err := a.server.Serve(a.net); !errors.Is(err, http.ErrServerClosed) {
		a.log.Error("the admin listener failed; probes and metrics are gone", "error", err)
	}
}

// close ends the listener. A scrape that runs has a second to end.
func (a *admin) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = a.server.Shutdown(ctx) // a scrape that takes longer is cut
}
