package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/x/handshake"
	"github.com/temporal-seal/temporal-seal/internal/x/loopback"
)

// admin answers probes, scrapes and people. It shows no payload and takes no command.
type admin struct {
	server  *http.Server
	net     net.Listener
	changes atomic.Pointer[applier]         // set while calls should come here
	keys    atomic.Pointer[keyring.Keyring] // set once they are open
	serving atomic.Pointer[serving]         // set once calls may come
	making  turns                           // of texts
	listing turns                           // of /keys, which other machines may ask for

	explaining turns // of decisions that are explained
	probing    turns // of probes of /readyz
	log        *slog.Logger
}

const (
	// adminConnections bounds the connections. One more waits until another one ends.
	adminConnections = 256
	// scrapes bounds those that run at once. One more gets a 503; probes are answered all the same.
	scrapes = 4
	// texts bounds how many answers, other than of /healthz, /readyz and /metrics, are made at once. One more waits for its turn.
	texts = 1
	// textRest is for how many times as long as a text took no other is made in its place: with thousands of namespaces one takes
	// a core for long enough that calls notice, and somebody may load pages without an end.
	textRest = 3
	// textWait bounds how long a caller waits for a turn: what is made after the time for its answer is made for nobody.
	textWait = 10 * time.Second
	// textBytes bounds the texts that are on their way to callers, who may read slowly. One more gets a 503.
	textBytes = 32 << 20
	// probes bounds answers of /readyz, which do not wait behind pages.
	probes = 4
	// explanations is the same for decisions that are explained, which may take long: pages do not wait behind them.
	explanations = 2
)

// newAdmin takes the address. Until open is called, /readyz answers that the proxy is not ready.
func newAdmin(address string, t *telemetry, failed handshake.Failed) (*admin, error) {
	n, err := listen("admin:", address)
	if err != nil {
		return nil, fmt.Errorf("%w with --admin", err)
	}
	a := &admin{net: netutil.LimitListener(handshake.Plain(n, failed), adminConnections), log: t.log, making: newTurns(texts, textRest),
		listing: newTurns(texts, textRest), explaining: newTurns(explanations, 0), probing: newTurns(probes, 0)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", a.probing.answer(a.readyz))
	mux.HandleFunc("GET /keys", a.listing.answer(a.listKeys))
	mux.HandleFunc("GET /{$}", onLoopback(a.making.answer(a.statusPage)))
	mux.HandleFunc("GET /status", onLoopback(a.making.answer(a.statusJSON)))
	mux.HandleFunc("GET /explain", onLoopback(a.making.answer(a.explainForm)))
	mux.Handle("POST /explain", onLoopback(http.NewCrossOriginProtection().Handler(http.HandlerFunc(a.explain)).ServeHTTP))
	mux.HandleFunc("GET /candidate", onLoopback(a.making.answer(a.compared)))
	mux.HandleFunc("GET /survey", onLoopback(a.making.answer(a.surveyed)))
	mux.Handle("GET /metrics", promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: scrapes}))
	a.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(t.log.Handler(), slog.LevelDebug)}
	return a, nil
}

// turns has texts made a few at a time.
type turns struct {
	places  chan struct{} // an element for each text that is being made
	rest    int           // for how many times as long as a text took its place stays empty
	sending *atomic.Int64 // bytes of texts that are on their way
}

func newTurns(places, rest int) turns {
	return turns{make(chan struct{}, places), rest, new(atomic.Int64)}
}

// answer answers with a text that is made in its turn, and sent after that: who reads slowly keeps nobody waiting.
func (t turns) answer(text func(h http.Header, w io.Writer) (status int)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), textWait)
		defer cancel()
		select {
		case t.places <- struct{}{}:
		case <-ctx.Done():
			http.Error(w, "other pages are being made; try again", http.StatusServiceUnavailable)
			return
		}
		var b bytes.Buffer
		status := t.inPlace(func() int { return text(w.Header(), &b) })
		n := int64(b.Len())
		defer t.sending.Add(-n)
		if all := t.sending.Add(n); all > textBytes && all > n {
			http.Error(w, "too much is on its way to callers who read slowly; try again", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(status)
		_, _ = b.WriteTo(w) // the caller may be gone
	}
}

// inPlace makes a text in a place that the caller has taken.
func (t turns) inPlace(text func() (status int)) int {
	began := time.Now()
	defer func() { time.AfterFunc(time.Duration(t.rest)*time.Since(began), func() { <-t.places }) }()
	return text()
}

// open has /readyz answer that calls may come; shut that they should go elsewhere.
func (a *admin) open(s *serving) {
	a.serving.Store(s)
	a.changes.Store(s.changes)
}

func (a *admin) shut() { a.changes.Store(nil) }

// works reports whether calls should come here.
func (a *admin) works() bool {
	changes := a.changes.Load()
	return changes != nil && changes.worksNot(changes.state.Load()) == ""
}

// readyz reports whether calls should come here, and what an operator should know. Sources that are not
// in force do not take the proxy out: what was in force before them still holds.
func (a *admin) readyz(_ http.Header, w io.Writer) (status int) {
	changes := a.changes.Load()
	if changes == nil {
		fmt.Fprintln(w, "not ready: starting or shutting down")
		return http.StatusServiceUnavailable
	}
	state := changes.state.Load()
	status = http.StatusOK
	if nothing := changes.worksNot(state); nothing != "" {
		status = http.StatusServiceUnavailable
		fmt.Fprintln(w, "not ready: "+nothing)
	} else {
		fmt.Fprintln(w, "ready")
	}
	if changes.started.Shadow {
		fmt.Fprintln(w, "shadow: nothing new is sealed, payloads pass in clear")
	}
	changes.dependencies.describe(w)
	describeKeys(w, changes.keys)
	changes.candidate.describe(w)
	state.describe(w, changes.flags.File)
	return status
}

// listKeys answers which keys are in use: names, references, ids and counts. Envelopes hold the same,
// in the clear.
func (a *admin) listKeys(h http.Header, w io.Writer) (status int) {
	keys := a.keys.Load()
	if keys == nil {
		fmt.Fprintln(w, "the keys are not open yet")
		return http.StatusServiceUnavailable
	}
	return writeJSON(h, w, inUse(keys))
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

// onLoopback refuses callers from other machines, which reach an admin listener that is open for probes and scrapes, and pages
// of other sites whose name has been made to lead here.
func onLoopback(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !isLoopback(r.RemoteAddr):
			http.Error(w, "only this machine may read the names in this list: use kubectl port-forward, or call it on loopback", http.StatusForbidden)
		case !isLoopback(r.Host):
			http.Error(w, "the admin listener is reached here as localhost or by its address alone", http.StatusForbidden)
		default:
			next(w, r)
		}
	}
}

// isLoopback reports whether a host, with or without a port, is this machine's loopback.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.Trim(address, "[]")
	}
	return loopback.Host(host)
}
