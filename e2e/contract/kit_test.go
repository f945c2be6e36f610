package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	stopShared()
	harness.RemoveProxy()
	os.Exit(code)
}

// setup says how a proxy is configured. The zero value is a proxy on loopback with one key in a local file, the shipped
// policy and an anonymous listener.
type setup struct {
	listeners  string            // YAML list items, two spaces deep; empty: one anonymous listener
	keys       string            // YAML list items; empty: a local key file "default"
	policy     string            // the platform's policy; empty: the shipped one
	namespaces map[string]string // rules of namespaces, without their package lines
	extra      string            // further YAML at the top level
	env, args  []string
	upstream   string // host:port; empty: the rig's script
	upstreams  string // YAML list items instead of upstream
}

// rig is a proxy between a scripted frontend and a client.
type rig struct {
	*blackbox.Script
	proxy     *harness.Proxy
	client    *blackbox.Client // of the first listener
	listeners []string         // host:port, in the order of the config
	codec     string           // host:port of the codec server; empty: none
	dir       string
	setup     setup
}

// start runs a proxy for one test.
func start(t *testing.T, s setup) *rig {
	t.Helper()
	r, err := newRig(t.TempDir(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.stop)
	return r
}

func newRig(dir string, s setup) (*rig, error) {
	script, err := blackbox.StartScript()
	if err != nil {
		return nil, err
	}
	r := &rig{Script: script, dir: dir}
	if err := r.configure(s); err != nil {
		script.Stop()
		return nil, err
	}
	own := filepath.Join(dir, "contract.yaml")
	r.proxy, err = harness.StartProxy(
		context.Background(),
		harness.ProxyOptions{Dir: dir, Upstream: script.Address, Env: s.env, Args: append([]string{"--config", own}, s.args...)},
	)
	if err != nil {
		script.Stop()
		return nil, err
	}
	for _, line := range r.proxy.Log.Lines() {
		if line["msg"] == "serving" {
			listen, _ := line["listen"].(string)
			r.listeners = strings.Split(listen, ",")
			r.codec, _ = line["codec_server"].(string)
		}
	}
	r.client, err = blackbox.Dial(r.listeners[0])
	return r, err
}

func (r *rig) stop() {
	r.client.Close()
	_ = r.proxy.Stop()
	r.Script.Stop()
}

// configure writes the config and what belongs to it. A running proxy finds whole files only.
func (r *rig) configure(s setup) error {
	r.setup = s
	if s.listeners == "" {
		s.listeners = "  - address: 127.0.0.1:0\n"
	}
	if s.upstreams == "" {
		address := s.upstream
		if address == "" {
			address = r.Address
		}
		s.upstreams = fmt.Sprintf("  - address: %s\n", address)
	}
	if s.keys == "" {
		s.keys = fmt.Sprintf("  - {name: default, active: %q}\n", "local:"+filepath.Join(r.dir, "default.key"))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "listeners:\n%supstreams:\n%sadmin: 127.0.0.1:0\nkeys:\n%s", s.listeners, s.upstreams, s.keys)
	if s.policy != "" || s.namespaces != nil {
		b.WriteString("policy:\n")
	}
	if s.policy != "" {
		path := filepath.Join(r.dir, "platform.rego")
		if err := replace(path, s.policy); err != nil {
			return err
		}
		fmt.Fprintf(&b, "  file: %q\n", path)
	}
	if s.namespaces != nil {
		folder := filepath.Join(r.dir, "namespaces")
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		for name, rules := range s.namespaces {
			text := fmt.Sprintf("package temporal.namespaces[%q]\n\n%s\n", name, rules)
			if err := replace(filepath.Join(folder, name+".rego"), text); err != nil {
				return err
			}
		}
		fmt.Fprintf(&b, "  namespaces: %q\n", folder)
	}
	b.WriteString(s.extra)
	return replace(filepath.Join(r.dir, "contract.yaml"), b.String())
}

// replace puts a file in the place of another if it holds something else: what did not change is not touched.
func replace(path, text string) error {
	if before, err := os.ReadFile(path); err == nil && string(before) == text {
		return nil
	}
	return harness.ReplaceFile(path, text)
}

// reconfigure changes the files of a running proxy.
func (r *rig) reconfigure(t *testing.T, s setup) {
	t.Helper()
	if err := r.configure(s); err != nil {
		t.Fatal(err)
	}
}

// Proxies that several tests use. They start with the first test that asks, and stop with the process.
var (
	sharedMu   sync.Mutex
	sharedRigs []*rig
	sharedDirs []string
)

func shared(s func(dir string) (setup, error)) func(*testing.T) *rig {
	once := sync.OnceValues(func() (*rig, error) {
		dir, err := os.MkdirTemp("", "contract")
		if err != nil {
			return nil, err
		}
		sharedMu.Lock()
		sharedDirs = append(sharedDirs, dir)
		sharedMu.Unlock()
		config, err := s(dir)
		if err != nil {
			return nil, err
		}
		r, err := newRig(dir, config)
		if err != nil {
			return nil, err
		}
		sharedMu.Lock()
		sharedRigs = append(sharedRigs, r)
		sharedMu.Unlock()
		return r, nil
	})
	return func(t *testing.T) *rig {
		t.Helper()
		r, err := once()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
}

func stopShared() {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	var all sync.WaitGroup
	for _, r := range sharedRigs {
		all.Go(r.stop)
	}
	all.Wait()
	for _, dir := range sharedDirs {
		_ = os.RemoveAll(dir)
	}
}

// exchange is one call of a test and what became of it.
type exchange struct {
	blackbox.Response
	call string
	rig  *rig
}

// do makes a call. Answers of the frontend are given by method.
func (r *rig) do(t *testing.T, q blackbox.Request, answers ...answer) exchange {
	t.Helper()
	return r.doVia(t, r.client, q, answers...)
}

type answer struct {
	method string
	blackbox.Answer
}

// reply is the answer with a message.
func reply(method string, m proto.Message) answer { return answer{method, blackbox.Message(m)} }

func (r *rig) doVia(t *testing.T, c *blackbox.Client, q blackbox.Request, answers ...answer) exchange {
	t.Helper()
	if q.Call == "" {
		q.Call = r.NewCall()
	}
	for _, a := range answers {
		r.Set(q.Call, a.method, a.Answer)
	}
	defer r.Forget(q.Call)
	if q.Timeout == 0 {
		q.Timeout = 20 * time.Second
	}
	return exchange{c.Do(t.Context(), q), q.Call, r}
}

// send makes a call with a message.
func (r *rig) send(t *testing.T, method string, m proto.Message, answers ...answer) exchange {
	t.Helper()
	return r.do(t, blackbox.Request{Method: method, Body: blackbox.Marshal(m)}, answers...)
}

// requests are those that reached the frontend because of the call, without what the proxy asks for itself.
func (e exchange) requests() []blackbox.Received {
	var out []blackbox.Received
	for _, q := range e.rig.Of(e.call) {
		switch q.Name() {
		case "DescribeNamespace", "GetSystemInfo", "ListWorkflowExecutions":
		default:
			out = append(out, q)
		}
	}
	return out
}

// forwarded is the one request with this method's name that reached the frontend.
func (e exchange) forwarded(t *testing.T, method string) blackbox.Received {
	t.Helper()
	var found []blackbox.Received
	for _, q := range e.rig.Of(e.call) {
		if q.Name() == method {
			found = append(found, q)
		}
	}
	if len(found) != 1 {
		t.Fatalf(
			"%d requests of %s reached the frontend, want 1 (the caller got %s: %s)",
			len(found),
			method,
			e.Code(),
			e.Status.GetMessage(),
		)
	}
	return found[0]
}

// forwardedAs decodes the one request with the method's name.
func forwardedAs[M proto.Message](t *testing.T, e exchange, method string, m M) M {
	t.Helper()
	if err := proto.Unmarshal(e.forwarded(t, method).Body, m); err != nil {
		t.Fatalf("%s: what was forwarded is no %T: %v", method, m, err)
	}
	return m
}

// answered decodes what the caller got.
func answered[M proto.Message](t *testing.T, e exchange, m M) M {
	t.Helper()
	e.want(t, "OK")
	if err := proto.Unmarshal(e.Body, m); err != nil {
		t.Fatalf("the answer is no %T: %v", m, err)
	}
	return m
}

func (e exchange) want(t *testing.T, code string) {
	t.Helper()
	if e.Code() != code {
		t.Fatalf("the caller got %s (%s), want %s", e.Code(), e.Status.GetMessage(), code)
	}
}

// refused checks that the caller got this code and that nothing was forwarded.
func (e exchange) refused(t *testing.T, code string) {
	t.Helper()
	if got := e.requests(); len(got) > 0 {
		t.Errorf(
			"%d requests reached the frontend, the first is %s; want none (the caller got %s)",
			len(got),
			got[0].Name(),
			e.Code(),
		)
	}
	if e.Code() != code {
		t.Errorf("the caller got %s (%s), want %s", e.Code(), e.Status.GetMessage(), code)
	}
}

// cameToNothing checks that nothing was forwarded and that the caller receives an error to retry after, or gave up first.
func (e exchange) cameToNothing(t *testing.T) {
	t.Helper()
	want := "Unavailable"
	if e.Code() == "DeadlineExceeded" {
		want = e.Code()
	}
	e.refused(t, want)
}

// text is a payload as SDKs write a string.
func text(s string) *commonpb.Payload {
	data, _ := json.Marshal(s) // a string always encodes
	return document(string(data))
}

// document is a payload with JSON.
func document(s string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(s)}
}

func list(payloads ...*commonpb.Payload) *commonpb.Payloads {
	return &commonpb.Payloads{Payloads: payloads}
}

func execution(workflow string) *commonpb.WorkflowExecution {
	return &commonpb.WorkflowExecution{WorkflowId: workflow, RunId: "11111111-2222-3333-4444-555555555555"}
}

// seal has the rig's first listener seal payloads.
func (r *rig) seal(t *testing.T, namespace string, clear ...*commonpb.Payload) []*commonpb.Payload {
	t.Helper()
	sealed, err := r.Seal(t.Context(), r.client, namespace, "", clear)
	if err != nil {
		t.Fatal(err)
	}
	if len(sealed) != len(clear) {
		t.Fatalf("%d payloads became %d", len(clear), len(sealed))
	}
	for i := range sealed {
		if len(clear[i].Data) > 3 && bytes.Contains(blackbox.Marshal(sealed[i]), clear[i].Data) {
			t.Fatalf("payload %d was not sealed", i)
		}
	}
	return sealed
}

// open has the rig's first listener open payloads.
func (r *rig) open(t *testing.T, namespace string, sealed ...*commonpb.Payload) []*commonpb.Payload {
	t.Helper()
	opened, err := r.Open(t.Context(), r.client, namespace, "", sealed)
	if err != nil {
		t.Fatal(err)
	}
	if len(opened) != len(sealed) {
		t.Fatalf("%d payloads became %d", len(sealed), len(opened))
	}
	return opened
}

// equal compares payloads field by field.
func equal(t *testing.T, what string, got, want proto.Message) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Errorf("%s is\n  %v\nwant\n  %v", what, got, want)
	}
}

// isSealed checks that a payload holds nothing readable of its clear form, and opens to it in a namespace.
func (r *rig) isSealed(t *testing.T, what, namespace string, got, clear *commonpb.Payload) {
	t.Helper()
	if got == nil || proto.Equal(got, clear) ||
		len(clear.GetData()) > 3 && bytes.Contains(blackbox.Marshal(got), clear.GetData()) {
		t.Errorf("%s is not sealed: %v", what, got)
		return
	}
	equal(t, what+", opened", r.open(t, namespace, got)[0], clear)
}

// eventually tries until a check holds.
func eventually(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %v", limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// admin fetches a page of the admin listener.
func (r *rig) admin(t *testing.T, path string) (int, string) {
	t.Helper()
	code, body, err := r.proxy.Get(path)
	if err != nil {
		t.Fatal(err)
	}
	return code, body
}
