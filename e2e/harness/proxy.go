package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// Root is the folder of the product's own module.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// BuildProxy builds cmd/proxy as users do, once per test process. SEAL_PROXY_BIN names a binary to use instead;
// SEAL_E2E_RACE=1 builds with the race detector.
var BuildProxy = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("SEAL_PROXY_BIN"); path != "" {
		return path, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("build the proxy: %w", err)
	}
	dir := filepath.Join(cache, "temporal-seal", "e2e", fmt.Sprint(os.Getpid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("build the proxy: %w", err)
	}
	path := filepath.Join(dir, "proxy")
	args := []string{"build", "-o", path}
	if os.Getenv("SEAL_E2E_RACE") == "1" {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/proxy")...)
	cmd.Dir = Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the proxy: %w\n%s", err, out)
	}
	return path, nil
})

// RemoveProxy removes what BuildProxy made; for the end of a test process.
func RemoveProxy() {
	if cache, err := os.UserCacheDir(); err == nil && os.Getenv("SEAL_PROXY_BIN") == "" {
		_ = os.RemoveAll(filepath.Join(cache, "temporal-seal", "e2e", fmt.Sprint(os.Getpid())))
	}
}

// ProxyOptions say how to start a proxy.
type ProxyOptions struct {
	Dir      string // for the generated config and what belongs to it; must exist
	Upstream string
	Keys     []KeyOption // none: one key "default" in a local file in Dir
	Policy   string      // text of the policy; empty: the shipped one
	// Candidate is the text of a candidate policy; empty: none.
	Candidate string
	Extra     string   // further YAML, at the top level of the config
	Env       []string // NAME=value
	Args      []string // further flags
	Binary    string   // another one than BuildProxy's
}

// KeyOption is an entry of the config's keys.
type KeyOption struct {
	Name, Active string
	Namespaces   []string
	OpenOnly     []string
	Reference    bool   // its envelopes name a row of the key store
	Life         string // after which its data keys are destroyed; "": none
}

// Proxy is a running proxy.
type Proxy struct {
	*peers.Process
	Address string // first listener
	Admin   string // host:port of /metrics, /readyz
	Config  string // path of the generated config
	Log     *Log
}

// StartProxy builds the binary if need be, writes a config and starts it. It returns once the proxy says that it serves.
func StartProxy(ctx context.Context, o ProxyOptions) (*Proxy, error) {
	bin := o.Binary
	var err error
	if bin == "" {
		if bin, err = BuildProxy(); err != nil {
			return nil, err
		}
	}
	config, err := WriteConfig(o)
	if err != nil {
		return nil, err
	}
	p := &Proxy{Config: config, Log: NewLog()}
	cmd := exec.Command(bin, append([]string{"serve", "--config", config, "--log-format", "json"}, o.Args...)...)
	cmd.Dir = o.Dir
	cmd.Env = append(os.Environ(), o.Env...)
	p.Process, err = peers.Start("proxy", cmd, p.Log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	serving, err := p.Log.Await(ctx, p.Done(), func(line map[string]any) bool { return line["msg"] == "serving" })
	if err != nil {
		p.Kill()
		return nil, fmt.Errorf("the proxy did not start: %w\n%s", err, p.Log)
	}
	listen, _ := serving["listen"].(string)
	p.Address, _, _ = strings.Cut(listen, ",")
	p.Admin, _ = serving["admin"].(string)
	return p, nil
}

// WriteConfig writes the config of a proxy, also of one that runs: it finds the whole old file or the whole new one.
func WriteConfig(o ProxyOptions) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "listeners:\n  - address: 127.0.0.1:0\nupstreams:\n  - address: %s\nadmin: 127.0.0.1:0\nkeys:\n", o.Upstream)
	if len(o.Keys) == 0 {
		o.Keys = []KeyOption{{Name: "default", Active: "local:" + filepath.Join(o.Dir, "default.key")}}
	}
	for _, k := range o.Keys {
		fmt.Fprintf(&b, "  - name: %q\n    active: %q\n", k.Name, k.Active)
		if k.Reference {
			b.WriteString("    envelope: reference\n")
		}
		if k.Life != "" {
			fmt.Fprintf(&b, "    life: %s\n", k.Life)
		}
		if len(k.Namespaces) > 0 {
			fmt.Fprintf(&b, "    namespaces: %s\n", flow(k.Namespaces))
		}
		if len(k.OpenOnly) > 0 {
			fmt.Fprintf(&b, "    open_only: %s\n", flow(k.OpenOnly))
		}
	}
	if err := writePolicies(&b, o); err != nil {
		return "", fmt.Errorf("write the policy: %w", err)
	}
	b.WriteString(o.Extra)
	path := filepath.Join(o.Dir, "proxy.yaml")
	if err := ReplaceFile(path, b.String()); err != nil {
		return "", fmt.Errorf("write the config: %w", err)
	}
	return path, nil
}

// writePolicies writes the policies, and the section of the config that names them.
func writePolicies(config *strings.Builder, o ProxyOptions) error {
	if o.Policy == "" && o.Candidate == "" {
		return nil
	}
	config.WriteString("policy:\n")
	for _, p := range []struct{ text, name, line string }{
		{o.Policy, "policy.rego", "  file: %q\n"}, {o.Candidate, "candidate.rego", "  candidate: {file: %q}\n"},
	} {
		if p.text == "" {
			continue
		}
		path := filepath.Join(o.Dir, p.name)
		if err := ReplaceFile(path, p.text); err != nil {
			return err
		}
		fmt.Fprintf(config, p.line, path)
	}
	return nil
}

// ReplaceFile puts a file in the place of another, as deployment tools do.
func ReplaceFile(path, text string) error {
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// flow writes a YAML list on one line; JSON is that.
func flow(list []string) string {
	text, _ := json.Marshal(list)
	return string(text)
}

// Get fetches a page of the admin listener.
func (p *Proxy) Get(path string) (int, string, error) {
	resp, err := http.Get("http://" + p.Admin + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// Log keeps all that a program wrote, and lets a test wait for a line.
type Log struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	wrote chan struct{} // closed and replaced at each write
}

// NewLog makes an empty log.
func NewLog() *Log { return &Log{wrote: make(chan struct{})} }

func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.wrote)
	l.wrote = make(chan struct{})
	return l.buf.Write(b)
}

func (l *Log) String() string { return string(l.Bytes()) }

// Bytes is a copy of what was written so far.
func (l *Log) Bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.buf.Bytes())
}

// Await returns the first JSON line that matches, waiting for it until the context or the program ends.
func (l *Log) Await(ctx context.Context, ended <-chan struct{}, match func(map[string]any) bool) (map[string]any, error) {
	for {
		l.mu.Lock()
		wrote := l.wrote
		l.mu.Unlock()
		for _, line := range l.Lines() {
			if match(line) {
				return line, nil
			}
		}
		select {
		case <-wrote:
		case <-ended:
			return nil, errors.New("it ended")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Lines are the whole JSON lines so far; others are left out.
func (l *Log) Lines() []map[string]any {
	var lines []map[string]any
	for text := range bytes.SplitSeq(l.Bytes(), []byte("\n")) {
		var line map[string]any
		if json.Unmarshal(text, &line) == nil {
			lines = append(lines, line)
		}
	}
	return lines
}
