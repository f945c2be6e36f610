package operator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// namespaces are those of the shared Temporal server.
var namespaces = []string{"default", "orders", "billing", "clinic", "team-a", "team-b", "team-c"}

// temporal starts the server that all scenarios share.
var temporal = sync.OnceValues(func() (*peers.Process, error) {
	return harness.StartTemporal(context.Background(), peers.TemporalOptions{Namespaces: namespaces,
		DynamicConfig: map[string]any{"frontend.enableCancelWorkerPollsOnShutdown": true}})
})

var temporalUsed atomic.Bool

func stopTemporal() {
	if temporalUsed.Load() {
		if p, err := temporal(); err == nil {
			_ = p.Stop()
		}
	}
}

// site is what one scenario works with.
type site struct {
	*testing.T
	dir string
	// name is unique in the suite: for workflow ids and task queues.
	name   string
	kms    *kmsstub.Server // a key of its own is behind alias/default
	script *blackbox.Script
}

// credentials are those that the KMS stub accepts.
var credentials = []string{"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true"}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{T: t, dir: t.TempDir(), kms: kmsstub.New(kmsstub.Options{})}
	s.name = regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(t.Name(), "-")
	s.kms.SetAlias("alias/default", s.kms.CreateKey(false))
	s.ok(s.kms.Start("127.0.0.1:0"))
	t.Cleanup(s.kms.Close)
	return s
}

func (s *site) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// want is an error unless a condition holds.
func (s *site) want(ok bool, format string, args ...any) {
	s.Helper()
	if !ok {
		s.Errorf(format, args...)
	}
}

// contains requires that a text holds all of these parts.
func (s *site) contains(what, text string, parts ...string) {
	s.Helper()
	for _, part := range parts {
		if part = s.expand(part); !strings.Contains(text, part) {
			s.Errorf("%s does not contain %q:\n%s", what, part, text)
		}
	}
}

// lacks requires that a text holds none of these parts.
func (s *site) lacks(what, text string, parts ...string) {
	s.Helper()
	for _, part := range parts {
		if part = s.expand(part); strings.Contains(text, part) {
			s.Errorf("%s contains %q:\n%s", what, part, text)
		}
	}
}

// eventually tries until a check holds, for 30 seconds.
func (s *site) eventually(check func() error) {
	s.Helper()
	s.within(30*time.Second, check)
}

// within tries until a check holds, for at most a time.
func (s *site) within(limit time.Duration, check func() error) {
	s.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("after %s: %v", limit, err)
		}
	}
}

// expand replaces the variables of a text; doc.go lists them.
func (s *site) expand(text string) string {
	s.Helper()
	query := "region=eu-central-1&endpoint=" + s.kms.URL
	text = strings.NewReplacer("${key}", "awskms://alias/default?"+query, "${kms}", query, "${dir}", s.dir).Replace(text)
	if strings.Contains(text, "${temporal}") {
		temporalUsed.Store(true)
		server, err := temporal()
		s.ok(err)
		text = strings.ReplaceAll(text, "${temporal}", server.Address)
	}
	if strings.Contains(text, "${frontend}") {
		text = strings.ReplaceAll(text, "${frontend}", s.frontend().Address)
	}
	return text
}

// frontend is the scenario's scripted frontend.
func (s *site) frontend() *blackbox.Script {
	s.Helper()
	if s.script == nil {
		var err error
		s.script, err = blackbox.StartScript()
		s.ok(err)
		s.Cleanup(s.script.Stop)
	}
	return s.script
}

// write puts a text into a file of the scenario's folder, in one step as deployment tools do, and returns its path. A file whose
// name ends in .key or .token has mode 0600.
func (s *site) write(name, text string) string {
	s.Helper()
	path := filepath.Join(s.dir, name)
	s.ok(os.MkdirAll(filepath.Dir(path), 0o755))
	mode := os.FileMode(0o644)
	if strings.HasSuffix(name, ".key") || strings.HasSuffix(name, ".token") {
		mode = 0o600
	}
	s.ok(os.WriteFile(path+".new", []byte(s.expand(text)), mode))
	s.ok(os.Rename(path+".new", path))
	return path
}

// printed is what a command of the binary did.
type printed struct {
	stdout, stderr string
	code           int
}

// all is both outputs.
func (p printed) all() string { return p.stdout + p.stderr }

// run runs a command of the built binary in the scenario's folder.
func (s *site) run(args ...string) printed {
	s.Helper()
	bin, err := harness.BuildProxy()
	s.ok(err)
	for i := range args {
		args[i] = s.expand(args[i])
	}
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, &stdout, &stderr
	cmd.Env = append(os.Environ(), credentials...)
	if err := cmd.Run(); err != nil {
		if _, ended := errors.AsType[*exec.ExitError](err); !ended || ctx.Err() != nil {
			s.Fatalf("%v: %v\n%s", args, err, stderr.String())
		}
	}
	return printed{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// proxy is a running proxy.
type proxy struct {
	*peers.Process
	site      *site
	log       *harness.Log
	config    string   // path of the config file
	address   string   // of the first listener
	listeners []string // in the order of the config
	codec     string   // of the codec server; "": none
	admin     string
}

// launch starts a proxy with a config, "" for none, and does not wait for it to serve. Its addresses are known after
// awaitServing.
func (s *site) launch(config string, args ...string) *proxy {
	s.Helper()
	bin, err := harness.BuildProxy()
	s.ok(err)
	s.ok(os.MkdirAll(filepath.Join(s.dir, "proxies"), 0o755))
	files, err := os.ReadDir(filepath.Join(s.dir, "proxies"))
	s.ok(err)
	p := &proxy{site: s, log: harness.NewLog()}
	command := []string{"serve", "--log-format", "json"}
	if config != "" {
		p.config = s.write(fmt.Sprintf("proxies/%d.yaml", len(files)), config)
		command = append(command, "--config", p.config)
	}
	for _, arg := range args {
		command = append(command, s.expand(arg))
	}
	cmd := exec.Command(bin, command...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), credentials...)
	p.Process, err = peers.Start("proxy", cmd, p.log)
	s.ok(err)
	s.Cleanup(func() {
		p.Kill()
		if s.Failed() {
			s.Logf("the log of the proxy of %s:\n%s", p.config, p.log)
		}
	})
	return p
}

// serve starts a proxy with a config and waits until it serves.
func (s *site) serve(config string, args ...string) *proxy {
	s.Helper()
	p := s.launch(config, args...)
	p.awaitServing()
	return p
}

// awaitServing waits for the line that names the proxy's addresses.
func (p *proxy) awaitServing() {
	p.site.Helper()
	line := p.awaitLog("serving")
	text := func(field string) string { v, _ := line[field].(string); return v }
	p.listeners = strings.Split(text("listen"), ",")
	p.address, p.codec, p.admin = p.listeners[0], text("codec_server"), text("admin")
}

// awaitLog waits up to 30 seconds for a line with this message and, in pairs, these fields.
func (p *proxy) awaitLog(message string, fields ...string) map[string]any {
	p.site.Helper()
	ctx, cancel := context.WithTimeout(p.site.Context(), 30*time.Second)
	defer cancel()
	line, err := p.log.Await(ctx, p.Done(), func(line map[string]any) bool { return matches(line, message, fields) })
	if err != nil {
		p.site.Fatalf("no line %q with %v in the log: %v", message, fields, err)
	}
	return line
}

// logged counts the lines with this message and, in pairs, these fields.
func (p *proxy) logged(message string, fields ...string) int {
	n := 0
	for _, line := range p.log.Lines() {
		if matches(line, message, fields) {
			n++
		}
	}
	return n
}

func matches(line map[string]any, message string, fields []string) bool {
	if line["msg"] != message {
		return false
	}
	for i := 0; i+1 < len(fields); i += 2 {
		if fmt.Sprint(line[fields[i]]) != fields[i+1] {
			return false
		}
	}
	return true
}

// signal sends a signal to the proxy.
func (p *proxy) signal(sig syscall.Signal) { p.site.Helper(); p.site.ok(syscall.Kill(p.PID(), sig)) }

// reconfigure puts another text in the place of the proxy's config. It applies by itself within seconds; SIGHUP makes it apply at
// once.
func (p *proxy) reconfigure(config string) {
	p.site.Helper()
	p.site.write(filepath.Join("proxies", filepath.Base(p.config)), config)
	p.signal(syscall.SIGHUP)
}

// get fetches a page of the admin listener.
func (p *proxy) get(path string) (int, string) {
	p.site.Helper()
	resp, err := http.Get("http://" + p.admin + path)
	p.site.ok(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	p.site.ok(err)
	return resp.StatusCode, string(body)
}

// metric adds up the series of a metric that have, in pairs, these labels. found is false if there is none.
func (p *proxy) metric(name string, labels ...string) (sum float64, found bool) {
	p.site.Helper()
	_, page := p.get("/metrics")
	for line := range strings.Lines(page) {
		series, value, ok := cutLast(strings.TrimSpace(line), ' ')
		of, rest, _ := strings.Cut(series, "{")
		if !ok || of != name || !hasLabels("{"+rest, labels) {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		p.site.ok(err)
		sum, found = sum+number, true
	}
	return sum, found
}

func hasLabels(set string, labels []string) bool {
	for i := 0; i+1 < len(labels); i += 2 {
		label := labels[i] + "=" + strconv.Quote(labels[i+1])
		if !strings.Contains(set, "{"+label) && !strings.Contains(set, ","+label) {
			return false
		}
	}
	return true
}

func cutLast(text string, sep byte) (before, after string, found bool) {
	i := strings.LastIndexByte(text, sep)
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+1:], true
}

// client is an SDK's client of an address: a proxy's, or that of the server for what passes by.
func (s *site) client(address, namespace string) client.Client {
	s.Helper()
	c, err := client.NewLazyClient(client.Options{HostPort: address, Namespace: namespace,
		Logger: sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))})
	s.ok(err)
	s.Cleanup(c.Close)
	return c
}

// raw is a client without an SDK.
func (s *site) raw(address string) workflowservice.WorkflowServiceClient {
	s.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	s.ok(err)
	s.Cleanup(func() { _ = conn.Close() })
	return workflowservice.NewWorkflowServiceClient(conn)
}

// work runs a worker on the task queue s.name until the scenario ends.
func (s *site) work(c client.Client, register func(worker.Registry)) worker.Worker {
	s.Helper()
	w := worker.New(c, s.name, worker.Options{MaxConcurrentWorkflowTaskPollers: 2, MaxConcurrentActivityTaskPollers: 2})
	register(w)
	s.ok(w.Start())
	s.Cleanup(w.Stop)
	return w
}

// start starts a workflow on the task queue s.name, with the id s.name and a suffix.
func (s *site) start(c client.Client, suffix, kind string, args ...any) client.WorkflowRun {
	s.Helper()
	run, err := c.ExecuteWorkflow(s.Context(), client.StartWorkflowOptions{ID: s.name + suffix, TaskQueue: s.name}, kind, args...)
	s.ok(err)
	return run
}
