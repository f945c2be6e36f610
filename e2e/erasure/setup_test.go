// Package erasure erases one of three patients, on a real Temporal server with workers, with key stores in SQLite, PostgreSQL and DynamoDB and
// replicas of the proxy that have the keys in memory. What concerned that patient opens nowhere then, and the rest as before. Then it lets
// erasures race with sealing, with each other, and with failures of the store.
package erasure

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	sdklog "go.temporal.io/sdk/log"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const (
	queue  = "ward"
	nobody = 65534
	maxLag = time.Minute // erasure_max_lag, as short as it may be
)

const policy = `package temporal

request contains {"action": "seal", "key": "phi", "subject": {"pointer": "/patient_id"}} if input.payload.kind in {"input", "result", "signal"}

response contains {"action": "open"} if input.sealed.namespace == input.namespace
`

// grants are the proxy's rights in the key store, those of docs/keys.md and docs/erasure.md.
const grants = `GRANT SELECT, UPDATE ON temporal_seal_meta TO seal;
GRANT SELECT, INSERT ON temporal_seal_keys, temporal_seal_wraps TO seal;
GRANT SELECT, INSERT, UPDATE ON temporal_seal_subject_keys TO seal;
GRANT SELECT, INSERT ON temporal_seal_erasures TO seal;
GRANT SELECT, INSERT, UPDATE, DELETE ON temporal_seal_replicas TO seal;`

// hospital is what the clinics share: a Temporal server, and who receives the spans of the proxies.
type hospital struct {
	dir       string // of the server's database
	server    *peers.Process
	log       *harness.Log
	collector *harness.Collector
}

func namespaceOf(store string) string { return "clinic-" + store }

var stores = []string{sqlite, postgres, dynamodb}

func newHospital(t *testing.T) *hospital {
	t.Helper()
	// The emulator takes any credentials.
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "a secret that is long enough for FIPS 140")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	h := &hospital{dir: t.TempDir(), log: harness.NewLog()}
	var err error
	if h.server, err = h.start(t, filepath.Join(h.dir, "temporal.db")); err == nil {
		h.collector, err = harness.StartCollector()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.collector.Stop)
	return h
}

func (h *hospital) start(t *testing.T, db string) (*peers.Process, error) {
	t.Helper()
	var namespaces []string
	for _, store := range stores {
		namespaces = append(namespaces, namespaceOf(store))
	}
	p, err := harness.StartTemporal(t.Context(), peers.TemporalOptions{DBFile: db, Namespaces: namespaces, Log: h.log})
	if err == nil {
		t.Cleanup(func() { _ = p.Stop() }) // it is not what is tested here
	}
	return p, err
}

// backup copies the database of the running server.
func (h *hospital) backup(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "backup.db")
	db, err := sql.Open("sqlite", "file:"+filepath.Join(h.dir, "temporal.db")+"?_pragma=busy_timeout(10000)")
	if err == nil {
		_, err = db.Exec("VACUUM INTO ?", path)
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		t.Fatalf("back up the server's database: %v", err)
	}
	return path
}

// replica is a proxy with the ways to read through it.
type replica struct {
	*harness.Proxy
	name, dir string
	logs      []*harness.Log // of each time that it was started
	codec     converter.PayloadCodec
	sdk       client.Client
	raw       workflowservice.WorkflowServiceClient
}

// clinic is what the cases work with: a key store and the proxies that use it.
type clinic struct {
	*testing.T            // of the phase
	root       *testing.T // of the whole
	*hospital
	bin, dir  string
	namespace string
	db        database
	id        string        // of the key store
	direct    client.Client // past the proxies
	replicas  []*replica
	started   []*replica // those, and the ones of single cases
	idle      bool       // no proxy runs, since another process has the store to itself
	canaries  *harness.Canaries
	control   string // stands in the reason of an erasure
	patients  []*patient
	ward      ward

	mu       sync.Mutex
	commands bytes.Buffer // all that commands wrote
}

// newClinic makes a key store and starts its replicas; nil if the store's programs are not installed here.
func newClinic(t *testing.T, h *hospital, store string) *clinic {
	t.Helper()
	c := &clinic{T: t, root: t, hospital: h, dir: t.TempDir(), namespace: namespaceOf(store), canaries: harness.NewCanaries(),
		ward: ward{make(chan struct{})}}
	c.control = c.canaries.New("the reason")
	var err error
	c.bin, err = harness.BuildProxy()
	c.ok(err)
	missing := ""
	switch store {
	case sqlite:
		c.db = &file{filepath.Join(c.dir, "store")}
		c.ok(os.Mkdir(c.db.files(), 0o700))
	case postgres:
		c.db, missing = startPostgres(c)
	case dynamodb:
		c.db, missing = startDynamoDB(c)
	}
	if missing != "" {
		tally.missing = append(tally.missing, missing)
		return nil
	}
	tally.stores = append(tally.stores, store)
	c.direct = c.dial(h.server.Address)
	id, err := exec.Command(c.bin, "keystore", "init", c.db.uri("")).Output()
	c.ok(err)
	c.id = strings.TrimSpace(string(id))
	c.db.grant(c)
	for _, name := range []string{"a", "b"}[:c.size()] {
		c.replicas = append(c.replicas, c.replica(name, h.server.Address))
	}
	return c
}

// size is how many replicas the key store serves.
func (c *clinic) size() int {
	if c.alone() {
		return 1
	}
	return 2
}

// alone reports whether one process at a time has the store.
func (c *clinic) alone() bool { return c.db.name() == sqlite }

// replica starts a proxy. Its addresses stay when it is started again.
func (c *clinic) replica(name, upstream string) *replica {
	c.Helper()
	r := &replica{name: name, dir: filepath.Join(c.dir, name)}
	c.ok(os.Mkdir(r.dir, 0o700))
	ports, err := peers.FreePorts(3)
	c.ok(err)
	c.ok(harness.ReplaceFile(filepath.Join(r.dir, "policy.rego"), policy))
	c.ok(harness.ReplaceFile(filepath.Join(r.dir, "config.yaml"), fmt.Sprintf(`listeners: [{address: "127.0.0.1:%d"}]
admin: "127.0.0.1:%d"
codec_server: {address: "127.0.0.1:%d"}
upstreams: [{address: %q}]
keys: [{name: phi, active: %q}]
policy: {file: %q}
key_store: {url: %q, id: %q, erasure_max_lag: %s}
audit: {file: %q}
drain: {time: 2s}
`, ports[0], ports[1], ports[2], upstream, "local:"+filepath.Join(c.dir, "phi.key"), filepath.Join(r.dir, "policy.rego"), c.db.uri(name), c.id, maxLag,
		filepath.Join(r.dir, "audit.jsonl"))))
	c.start(r)
	c.root.Cleanup(func() { _ = r.Stop() })
	conn, err := grpc.NewClient(r.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	c.ok(err)
	c.root.Cleanup(func() { _ = conn.Close() })
	r.sdk, r.raw = c.dial(r.Address), workflowservice.NewWorkflowServiceClient(conn)
	r.codec = converter.NewRemotePayloadCodec(converter.RemotePayloadCodecOptions{Endpoint: fmt.Sprintf("http://127.0.0.1:%d", ports[2]),
		ModifyRequest: func(q *http.Request) error { q.Header.Set("X-Namespace", c.namespace); return nil }})
	c.started = append(c.started, r)
	return r
}

func (c *clinic) start(r *replica) {
	c.Helper()
	config := filepath.Join(r.dir, "config.yaml")
	p, err := harness.StartProxy(c.root.Context(), harness.ProxyOptions{Dir: r.dir, Env: c.collector.Env(), Args: []string{"--config", config}})
	c.ok(err)
	p.Config = config
	r.Proxy, r.logs = p, append(r.logs, p.Log)
}

// while does something while no proxy has the store open, if one process alone may have it.
func (c *clinic) while(do func()) {
	c.Helper()
	if !c.alone() || c.idle {
		do()
		return
	}
	c.idle = true
	for _, r := range c.replicas {
		c.ok(r.Stop())
	}
	do()
	for _, r := range c.replicas {
		c.start(r)
	}
	c.idle = false
}

func (c *clinic) ok(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *clinic) dial(address string) client.Client {
	c.Helper()
	sdk, err := client.Dial(client.Options{HostPort: address, Namespace: c.namespace, Logger: sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))})
	c.ok(err)
	c.root.Cleanup(sdk.Close)
	return sdk
}

// run runs a command of the binary with the config of the first replica, and returns its standard output.
func (c *clinic) run(stdin string, args ...string) (printed string, err error) {
	c.while(func() { printed, err = c.runAs(c.replicas[0].Config, stdin, args...) })
	return printed, err
}

// runAs is run with a config, whoever has the store.
func (c *clinic) runAs(config, stdin string, args ...string) (string, error) {
	cmd := exec.Command(c.bin, append(args, "--config", config)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if args[0] == "subjects" { // what open writes is clear text
		c.mu.Lock()
		c.commands.Write(stdout.Bytes())
		c.commands.Write(stderr.Bytes())
		c.mu.Unlock()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return stdout.String(), err
}

// of are the arguments of a command about a subject on its standard input.
func (c *clinic) of(do, reason string, flags ...string) []string {
	return append([]string{"subjects", do, "--namespace", c.namespace, "--subject-file", "-", "--yes", "--reason", reason}, flags...)
}

// subjects runs `temporal-seal subjects` for a subject.
func (c *clinic) subjects(do, subject, reason string, flags ...string) (string, error) {
	return c.run(subject+"\n", c.of(do, reason, flags...)...)
}

// erases has a patient erased, and returns the certificate.
func (c *clinic) erases(p *patient, flags ...string) (made certificate, err error) {
	printed, err := c.subjects("erase", p.id, "request "+c.control, flags...)
	return made, errors.Join(err, made.parse(printed))
}

// within repeats a check until it holds, and returns the last error after a time.
func within(limit time.Duration, check func() error) (err error) {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			return nil
		}
	}
	return err
}

// eventually fails the test if a check does not hold within a minute.
func (c *clinic) eventually(what string, check func() error) {
	c.Helper()
	if err := within(time.Minute, check); err != nil {
		c.Fatalf("%s: %v", what, err)
	}
}
