// Package rotation changes keys under a real Temporal server: while workers run, with several proxies and two releases of
// them at once, and it asks `temporal-seal keys scan` when a key may go.
package rotation

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const region = "eu-central-1"

// upstream is the server of the test that runs: keys of other tests, which no config of its own has, would keep a scan
// of all namespaces from a verdict.
var upstream string

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	os.Exit(code)
}

// startServer starts the server of a test.
func startServer(t *testing.T, namespaces ...string) {
	t.Helper()
	server, err := harness.StartTemporal(t.Context(), peers.TemporalOptions{Namespaces: namespaces, DynamicConfig: map[string]any{
		"frontend.rps": 10000, "frontend.namespaceRPS": 10000, "frontend.namespaceCount": 10000,
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() }) // it is not what is tested here
	upstream = server.Address
}

func startKMS(t *testing.T) *kmsstub.Server {
	t.Helper()
	s := kmsstub.New(kmsstub.Options{Region: region})
	if err := s.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// kmsKey makes a key and gives its URI.
func kmsKey(s *kmsstub.Server, alias string) (id, uri string) {
	id = s.CreateKey(false)
	s.SetAlias("alias/"+alias, id)
	return id, "awskms://alias/" + alias + "?region=" + region + "&endpoint=" + s.URL
}

var awsEnv = []string{"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true"}

func startProxy(t *testing.T, o harness.ProxyOptions) *harness.Proxy {
	t.Helper()
	o.Upstream = upstream
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	o.Env = append(o.Env, awsEnv...)
	p, err := harness.StartProxy(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func keys(active string, openOnly ...string) []harness.KeyOption {
	return []harness.KeyOption{{Name: "default", Active: active, OpenOnly: openOnly}}
}

func connect(t *testing.T, address string) workflowservice.WorkflowServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return workflowservice.NewWorkflowServiceClient(conn)
}

func plain(text string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"` + text + `"`)}
}

func payloads(text string) *commonpb.Payloads {
	return &commonpb.Payloads{Payloads: []*commonpb.Payload{plain(text)}}
}

func startRequest(namespace, id string) *workflowservice.StartWorkflowExecutionRequest {
	return &workflowservice.StartWorkflowExecutionRequest{Namespace: namespace, WorkflowId: id, RequestId: id,
		WorkflowType: &commonpb.WorkflowType{Name: "Stored"}, TaskQueue: &taskqueuepb.TaskQueue{Name: "nobody-" + id}}
}

// store starts a workflow that nobody runs.
func store(t *testing.T, c workflowservice.WorkflowServiceClient, namespace, id string) {
	t.Helper()
	q := startRequest(namespace, id)
	q.Input = payloads("input of " + id)
	if _, err := c.StartWorkflowExecution(t.Context(), q); err != nil {
		t.Fatal(err)
	}
}

// run runs the built proxy's command line and gives its exit code.
func run(t *testing.T, dir string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	bin, err := harness.BuildProxy()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), awsEnv...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// rewriteConfig puts other keys into a running proxy's config, as deployment tools do.
func rewriteConfig(t *testing.T, p *harness.Proxy, text string) {
	t.Helper()
	if err := os.WriteFile(p.Config+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p.Config+".new", p.Config); err != nil {
		t.Fatal(err)
	}
}

func configOf(t *testing.T, p *harness.Proxy) string {
	t.Helper()
	text, err := os.ReadFile(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

func newKeyFile(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".key")
	if _, stderr, code := run(t, "", "keys", "new", path); code != 0 {
		t.Fatal(stderr)
	}
	return "local:" + path
}

// keyStore is what STORE=postgres adds to a test: payloads are sealed by reference to a key store in PostgreSQL, which crashes.
type keyStore struct {
	*testing.T
	dir    string
	server *peers.Postgres // nil: there is none
	extra  string          // of the config
	form   string          // of envelopes
}

func startKeyStore(t *testing.T) *keyStore {
	t.Helper()
	k := &keyStore{T: t, form: "self-contained"}
	if os.Getenv("STORE") == "" {
		return k
	}
	var err error
	if k.dir, err = os.MkdirTemp("", "pg"); err != nil { // a socket lies in it, whose path has to be short
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(k.dir) })
	k.start()
	t.Cleanup(func() { k.server.Kill() })
	id, stderr, code := run(t, "", "keystore", "init", k.server.URL())
	if code != 0 {
		t.Fatal(stderr)
	}
	k.form, k.extra = "reference", fmt.Sprintf("key_store: {url: %q, id: %q}\n", k.server.URL(), strings.TrimSpace(id))
	return k
}

func (k *keyStore) start() {
	k.Helper()
	var err error
	if k.server, err = peers.StartPostgres(k.Context(), k.dir); err != nil {
		k.Fatal(err)
	}
}

func (k *keyStore) keys(active string, openOnly ...string) []harness.KeyOption {
	all := keys(active, openOnly...)
	all[0].Reference = k.server != nil
	return all
}

// crash kills the database, and starts it again a second later.
func (k *keyStore) crash() {
	k.Helper()
	if k.server != nil {
		k.server.Kill()
		time.Sleep(time.Second)
		k.start()
	}
}

// complete checks that payloads were sealed by reference, and that no row is missing that they name.
func (k *keyStore) complete(p *harness.Proxy) {
	k.Helper()
	if k.server == nil {
		return
	}
	for _, command := range [][]string{{"keystore", "check"}, {"keystore", "recover", "--rate", "2000"}} {
		stdout, stderr, code := run(k.T, "", append(command, "--config", p.Config)...)
		if code != 0 || command[1] == "recover" && (strings.HasPrefix(stdout, "0 ") || !strings.Contains(stdout, " by reference, 0 without a row:")) {
			k.Errorf("%s: exit code %d\n%s%s", strings.Join(command, " "), code, stdout, stderr)
		}
		k.Logf("rotation: %s: %s", strings.Join(command, " "), strings.TrimSpace(stdout))
	}
}
