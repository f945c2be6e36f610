// Package erasure erases one of three patients, on a real Temporal server with workers, a key store in PostgreSQL and two replicas
// of the proxy that have the keys in memory. What concerned that patient opens nowhere then, and the rest as before.
package erasure

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
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
	namespace = "clinic"
	queue     = "ward"
	nobody    = 65534
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

// replica is a proxy with the ways to read through it.
type replica struct {
	*harness.Proxy
	name  string
	codec converter.PayloadCodec
	sdk   client.Client
	raw   workflowservice.WorkflowServiceClient
}

// clinic is what the cases work with.
type clinic struct {
	*testing.T
	bin, dir   string
	server     string // its address
	postgresIn string
	direct     client.Client // past the proxies
	replicas   []*replica
	commands   bytes.Buffer // all that commands wrote
}

func newClinic(t *testing.T) *clinic {
	t.Helper()
	c := &clinic{T: t, dir: t.TempDir()}
	var err error
	c.bin, err = harness.BuildProxy()
	c.ok(err)
	c.startPostgres()
	server, err := harness.StartTemporal(t.Context(), peers.TemporalOptions{Namespaces: []string{namespace}})
	c.ok(err)
	t.Cleanup(func() { _ = server.Stop() }) // it is not what is tested here
	c.server, c.direct = server.Address, c.dial(server.Address)
	url := "postgres:///seal?host=" + c.postgresIn + "&user="
	id, err := exec.Command(c.bin, "keystore", "init", url+"owner").Output()
	c.ok(err)
	c.ok(exec.Command(program("psql"), "-h", c.postgresIn, "-U", "owner", "-v", "ON_ERROR_STOP=1", "-c", "CREATE ROLE seal LOGIN; "+grants, "seal").Run())
	for _, name := range []string{"a", "b"} {
		dir := filepath.Join(c.dir, name)
		c.ok(os.Mkdir(dir, 0o700))
		p, err := harness.StartProxy(t.Context(), harness.ProxyOptions{
			Dir: dir, Upstream: server.Address, Policy: policy, Keys: []harness.KeyOption{{Name: "phi", Active: "local:" + filepath.Join(c.dir, "phi.key")}},
			Extra: fmt.Sprintf("key_store: {url: %q, id: %q}\naudit: {file: %q}\ncodec_server: {address: \"127.0.0.1:0\"}\n",
				url+"seal", strings.TrimSpace(string(id)), filepath.Join(dir, "audit.jsonl")),
		})
		c.ok(err)
		t.Cleanup(func() { _ = p.Stop() })
		conn, err := grpc.NewClient(p.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		c.ok(err)
		t.Cleanup(func() { _ = conn.Close() })
		r := &replica{Proxy: p, name: name, sdk: c.dial(p.Address), raw: workflowservice.NewWorkflowServiceClient(conn)}
		for _, line := range p.Log.Lines() {
			if line["msg"] == "serving" {
				r.codec = converter.NewRemotePayloadCodec(converter.RemotePayloadCodecOptions{Endpoint: "http://" + fmt.Sprint(line["codec_server"]),
					ModifyRequest: func(q *http.Request) error { q.Header.Set("X-Namespace", namespace); return nil }})
			}
		}
		c.replicas = append(c.replicas, r)
	}
	return c
}

func (c *clinic) ok(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *clinic) dial(address string) client.Client {
	c.Helper()
	sdk, err := client.Dial(client.Options{HostPort: address, Namespace: namespace, Logger: sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))})
	c.ok(err)
	c.Cleanup(sdk.Close)
	return sdk
}

// startPostgres starts a server whose files lie in postgresIn. Sockets need a short path.
func (c *clinic) startPostgres() {
	c.Helper()
	if _, err := exec.LookPath(program("initdb")); err != nil {
		c.Skip("no PostgreSQL here")
	}
	var err error
	c.postgresIn, err = os.MkdirTemp("", "pg")
	c.ok(err)
	c.Cleanup(func() { _ = os.RemoveAll(c.postgresIn) })
	if os.Getuid() == 0 {
		c.ok(os.Chown(c.postgresIn, nobody, nobody))
	}
	data := filepath.Join(c.postgresIn, "data")
	if out, err := asUser(exec.Command(program("initdb"), "-D", data, "-U", "owner", "--auth=trust", "-N")).CombinedOutput(); err != nil {
		c.Fatalf("initdb, which is a part of PostgreSQL: %v: %s", err, out)
	}
	server := asUser(exec.Command(program("postgres"), "-D", data, "-k", c.postgresIn, "-c", "listen_addresses=", "-c", "fsync=off"))
	c.ok(server.Start())
	c.Cleanup(func() { _ = server.Process.Signal(os.Interrupt); _ = server.Wait() })
	c.eventually("PostgreSQL answers", func() error {
		return exec.Command(program("psql"), "-h", c.postgresIn, "-U", "owner", "-c", "CREATE DATABASE seal", "postgres").Run()
	})
}

// program returns the path of one of PostgreSQL's programs, which Debian installs outside of the PATH.
func program(name string) string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	return append([]string{name}, found...)[len(found)]
}

// asUser has a program run by another user where tests run as root, as whom PostgreSQL refuses to run.
func asUser(cmd *exec.Cmd) *exec.Cmd {
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

// run runs a command of the binary with the config of the first replica, and returns its standard output.
func (c *clinic) run(stdin string, args ...string) (string, error) {
	return c.runAs(c.replicas[0].Proxy, stdin, args...)
}

// runAs is run with the config of a proxy.
func (c *clinic) runAs(p *harness.Proxy, stdin string, args ...string) (string, error) {
	cmd := exec.Command(c.bin, append(args, "--config", p.Config)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if args[0] == "subjects" { // what open writes is clear text
		c.commands.Write(stdout.Bytes())
		c.commands.Write(stderr.Bytes())
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return stdout.String(), err
}

// subjects runs `temporal-seal subjects` for a subject on its standard input.
func (c *clinic) subjects(do, subject, reason string, flags ...string) (string, error) {
	return c.run(subject+"\n", append([]string{"subjects", do, "--namespace", namespace, "--subject-file", "-", "--yes", "--reason", reason}, flags...)...)
}

// eventually repeats a check until it holds.
func (c *clinic) eventually(what string, check func() error) {
	c.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	c.Fatalf("%s: %v", what, err)
}
