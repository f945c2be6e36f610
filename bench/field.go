package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"golang.org/x/sys/unix"
)

// field is all that takes part: the frontend, and each variant of what stands before it.
type field struct {
	dir      string
	frontend *process
	variants []*variant
}

type variant struct {
	name    string
	address string
	process *process // nil: direct
}

// history names the variant that stored the history which this one asks for.
func (v *variant) history() string {
	if v.name == sealedPlain {
		return sealing
	}
	return v.name
}

// takes tells if the variant takes part in a work.
func (v *variant) takes(work string) bool {
	return v.name != sealedPlain || strings.HasPrefix(work, historyWork)
}

type process struct {
	cmd  *exec.Cmd
	logs io.Closer
}

const (
	direct  = "direct"
	plain   = "relay"
	sealing = "seal"
	// sealedPlain is the relay once more, before the histories that seal stored: it tells how much of a proxy's cost is
	// that sealed bytes are more.
	sealedPlain = "relay-sealed"
)

func start(ctx context.Context, o options) (f *field, err error) {
	f = new(field)
	if f.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.stop()
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var upstream string
	if f.frontend, upstream, err = f.run(ctx, listeningLine, self, nil, "frontend"); err != nil {
		return nil, err
	}
	f.variants = append(f.variants, &variant{name: direct, address: upstream})
	for _, v := range []struct {
		name  string
		begin func(context.Context) (*process, string, error)
	}{
		{plain, func(ctx context.Context) (*process, string, error) {
			return f.run(ctx, listeningLine, self, nil, "relay", "-upstream", upstream)
		}},
		{"nginx", func(ctx context.Context) (*process, string, error) { return f.nginx(ctx, upstream) }},
		{"visitor", func(ctx context.Context) (*process, string, error) {
			return f.run(ctx, listeningLine, self, nil, "visitor", "-upstream", upstream)
		}},
		{"pass", func(ctx context.Context) (*process, string, error) {
			return f.proxy(ctx, o.proxy, upstream, "pass", "request contains {\"action\": \"pass\"}\n")
		}},
		{sealing, func(ctx context.Context) (*process, string, error) {
			return f.proxy(ctx, o.proxy, upstream, sealing, "")
		}},
		{sealedPlain, func(ctx context.Context) (*process, string, error) {
			return f.run(ctx, listeningLine, self, nil, "relay", "-upstream", upstream)
		}},
	} {
		if v.name != plain && !chosen(o.variants, v.name) {
			continue
		}
		if v.name == sealedPlain && f.variants[len(f.variants)-1].name != sealing {
			continue // nobody stores sealed histories
		}
		one := &variant{name: v.name}
		if one.process, one.address, err = v.begin(ctx); errors.Is(err, exec.ErrNotFound) {
			fmt.Fprintf(os.Stderr, "%s is left out: %v\n", v.name, err)
			continue
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", v.name, err)
		}
		f.variants = append(f.variants, one)
	}
	return f, nil
}

func (f *field) stop() {
	for _, v := range f.variants {
		v.process.end()
	}
	f.frontend.end()
	_ = os.RemoveAll(f.dir) // of the system's folder for such files
}

func (p *process) end() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may be gone
	gone := make(chan error, 1)
	go func() { gone <- p.cmd.Wait() }()
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-gone
	}
}

// run starts a program and waits until it tells where it listens.
func (f *field) run(ctx context.Context, address func(line string) string, path string, env []string, args ...string) (*process, string, error) {
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env...)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, "", err
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	_ = w.Close() // the child has its own
	if err != nil {
		_ = r.Close()
		return nil, "", err
	}
	p := &process{cmd: cmd, logs: r}
	found := make(chan string, 1)
	var said []string
	go func() {
		defer close(found)
		for lines := bufio.NewScanner(r); lines.Scan(); {
			if a := address(lines.Text()); a != "" {
				found <- a
				_, _ = io.Copy(io.Discard, r)
				return
			}
			said = append(said, lines.Text())
		}
	}()
	select {
	case a, ok := <-found:
		if !ok {
			p.end()
			return nil, "", fmt.Errorf("it ended before it listened: %s", strings.Join(said, "; "))
		}
		return p, a, nil
	case <-time.After(30 * time.Second):
		p.end()
		return nil, "", errors.New("it does not listen after 30 s")
	case <-ctx.Done():
		p.end()
		return nil, "", ctx.Err()
	}
}

func listeningLine(line string) string {
	a, _ := strings.CutPrefix(line, "listening ")
	if a == line {
		return ""
	}
	return a
}

// proxy starts the product with a policy and one of a hundred calls traced, to a collector that takes everything.
func (f *field) proxy(ctx context.Context, binary, upstream, name, rules string) (*process, string, error) {
	policy, key := filepath.Join(f.dir, name+".rego"), filepath.Join(f.dir, name+".key")
	text := "package temporal\n\nresponse contains {\"action\": \"open\"}\n\n" + rules
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		return nil, "", err
	}
	if out, err := exec.CommandContext(ctx, binary, "keys", "new", key).CombinedOutput(); err != nil {
		return nil, "", fmt.Errorf("%w: %s", err, out)
	}
	env := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + upstream, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
		"OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.01"}
	return f.run(ctx, servingLine, binary, env, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--upstream", upstream,
		"--policy", policy, "--key", "local:"+key, "--log-format", "json")
}

func servingLine(line string) string {
	var entry struct{ Msg, Listen string }
	if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != "serving" {
		return ""
	}
	return entry.Listen
}

var nginxConfig = template.Must(template.New("").Parse(`daemon off;
worker_processes auto;
pid {{.Dir}}/nginx.pid;
error_log stderr error;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path {{.Dir}}/body;
  proxy_temp_path {{.Dir}}/proxy; fastcgi_temp_path {{.Dir}}/fastcgi; uwsgi_temp_path {{.Dir}}/uwsgi; scgi_temp_path {{.Dir}}/scgi;
  client_max_body_size 0;
  client_body_buffer_size 1m;
  keepalive_requests 1000000000;
  http2_max_concurrent_streams 1024;
  upstream frontend { server {{.Upstream}}; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen {{.Address}} http2;
    location / { grpc_pass grpc://frontend; grpc_read_timeout 1h; grpc_buffer_size 256k; }
  }
}
`))

func (f *field) nginx(ctx context.Context, upstream string) (*process, string, error) {
	path, err := exec.LookPath("nginx")
	if err != nil {
		return nil, "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // nginx does not tell which port it was given, so it is given one
	if err != nil {
		return nil, "", err
	}
	address := l.Addr().String()
	_ = l.Close()
	config := filepath.Join(f.dir, "nginx.conf")
	file, err := os.Create(config)
	if err != nil {
		return nil, "", err
	}
	if err := errors.Join(nginxConfig.Execute(file, map[string]string{"Dir": f.dir, "Upstream": upstream, "Address": address}), file.Close()); err != nil {
		return nil, "", err
	}
	cmd := exec.Command(path, "-c", config, "-p", f.dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	p := &process{cmd: cmd}
	for range 100 {
		if c, err := net.Dial("tcp", address); err == nil {
			return p, address, c.Close()
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			p.end()
			return nil, "", ctx.Err()
		}
	}
	p.end()
	return nil, "", errors.New("nginx does not listen after 5 s")
}

// cpu is what the process and its children have used.
func (p *process) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, pid := range p.tree() {
		var t unix.Timespec
		// The CPU clock of another process: clock_getcpuclockid(3).
		if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
			return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
		}
		sum += time.Duration(t.Nano())
	}
	return sum, nil
}

// memory is the resident set of the process and its children, in KB.
func (p *process) memory() (int, error) {
	sum := 0
	for _, pid := range p.tree() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(b), "VmRSS:")
		kb, err := strconv.Atoi(strings.Fields(rest + " ?")[0])
		if err != nil {
			return 0, fmt.Errorf("process %d: no VmRSS: %w", pid, err)
		}
		sum += kb
	}
	return sum, nil
}

func (p *process) tree() []int {
	pid := p.cmd.Process.Pid
	pids := []int{pid}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return pids
	}
	for _, f := range strings.Fields(string(b)) {
		if child, err := strconv.Atoi(f); err == nil && !slices.Contains(pids, child) {
			pids = append(pids, child)
		}
	}
	return pids
}
