package docs

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// inside marks a test process that has a network of its own.
const inside = "SEAL_DOCS_INSIDE"

// TestBlocks runs the commands in blocks, but for those that others look after.
func TestBlocks(t *testing.T) {
	if os.Getenv(inside) != "" {
		if err := loopbackUp(); err != nil {
			t.Fatal(err)
		}
		runBlocks(t)
		return
	}
	if _, err := harness.BuildProxy(); err != nil {
		t.Fatal(err)
	}
	if _, err := peers.BuildCLI(t.Context(), os.Stderr); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBlocks$", "-test.v")
	bin, _ := harness.BuildProxy() // it did not fail above
	cmd.Env = append(os.Environ(), inside+"=1", "SEAL_PROXY_BIN="+bin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil && len(out) == 0 {
		t.Skipf("no network namespace can be made here: %v", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	for _, d := range documents(t) {
		for _, b := range d.blocks() {
			counted.commands += len(b.commands())
		}
	}
}

// loopbackUp brings up the one interface that a new network namespace has.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// session is a reader's shell, with a Temporal server at its default address.
type session struct {
	t      *testing.T
	dir    string
	env    []string
	server *peers.Process // what the last command left running
}

// others are programs that are run by other tests than these, because of what they do here.
var others = map[string]string{
	"make":  "TestTargets looks at it",
	"az":    "no Azure can be reached in tests",
	"vault": "make test-vault sets the engine up by the same requests",
}

// before a command: what its document takes for granted.
var before = map[string]func(s *session){
	"temporal workflow show --workflow-id w --output json > history.json": func(s *session) {
		s.write("config.yaml", "keys:\n  - {name: default, active: \"local:seal.key\"}\n")
		s.run("temporal workflow start --workflow-id w --type W --task-queue q --input '\"a secret\"' --address 127.0.0.1:7333")
	},
}

// after a command: what shows that it did what the document says.
var after = map[string]func(s *session, out string){
	"temporal workflow show --workflow-id w --output json > history.json": func(s *session, _ string) {
		if saved, err := os.ReadFile(filepath.Join(s.dir, "history.json")); err != nil || bytes.Contains(saved, []byte("a secret")) {
			s.t.Errorf("the saved history is not sealed: %v", err)
		}
	},
	"temporal workflow show --address 127.0.0.1:7233 --workflow-id visit-1 --output json": func(s *session, out string) {
		if strings.Contains(out, "Holtby") || strings.Contains(out, base64.StdEncoding.EncodeToString([]byte(`{"patient"`))[:12]) {
			s.t.Errorf("the server has the value in clear:\n%s", out)
		}
	},
	"temporal workflow show --address 127.0.0.1:7333 --workflow-id visit-1 --output json": func(s *session, out string) {
		if !strings.Contains(out, "Holtby") && !strings.Contains(out, base64.StdEncoding.EncodeToString([]byte(`{"patient"`))[:12]) {
			s.t.Errorf("the value is not back through the proxy:\n%s", out)
		}
	},
	"temporal workflow show --address 127.0.0.1:7233 --workflow-id visit-2 --output json": func(s *session, out string) {
		if strings.Contains(out, "Holtby") || !strings.Contains(out, "json/sealed.v1") && !strings.Contains(out, "anNvbi9zZWFsZWQudjE") {
			s.t.Errorf("not all but the ward is sealed:\n%s", out)
		}
	},
	"temporal workflow show --address 127.0.0.1:7233 --workflow-id admission-1 --output json": func(s *session, out string) {
		if document := inputOf(s.t, out); !strings.Contains(document, `"ward"`) || strings.Contains(document, "P-100042") || strings.Contains(document, "hvs.secret") {
			s.t.Errorf("the server has %s", document)
		}
	},
	`temporal workflow show --address localhost:7343 --tls-ca-path ca.crt --grpc-meta "authorization=Bearer $(cat okafor.token)" --workflow-id admission-1 --output json`: func(s *session, out string) {
		if document := inputOf(s.t, out); !strings.Contains(document, "P-100042") || !strings.Contains(document, "hvs.secret") {
			s.t.Errorf("the doctor reads %s", document)
		}
	},
	"openssl req -x509 -newkey rsa:2048 -nodes -days 30 -CA ca.crt -CAkey ca.key -subj /CN=seal -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE -addext keyUsage=critical,digitalSignature -keyout tls.key -out tls.crt":                                     noAuthority("tls.crt"),
	"openssl req -x509 -newkey rsa:2048 -nodes -days 30 -CA ca.crt -CAkey ca.key -subj /CN=worker -addext subjectAltName=URI:spiffe://example.com/ns/clinic/worker -addext basicConstraints=critical,CA:FALSE -addext keyUsage=critical,digitalSignature -keyout worker.key -out worker.crt": noAuthority("worker.crt"),
	"printf P-100042 > subject.txt": func(s *session, _ string) { s.end() },
	"temporal workflow show --address 127.0.0.1:7333 --workflow-id visit-7 --output json": func(s *session, out string) {
		if document := inputOf(s.t, out); !strings.Contains(document, "[erased on ") || strings.Contains(document, "P-100042") {
			s.t.Errorf("after the erasure it reads %s", document)
		}
	},
	"temporal-seal open --config config.yaml history.json": func(s *session, out string) {
		if !strings.Contains(out, "a secret") && !strings.Contains(out, "ImEgc2VjcmV0Ig==") {
			s.t.Errorf("what was sealed is not in the opened history:\n%s", out)
		}
	},
}

// noAuthority requires that a certificate of the session is not one of an authority.
func noAuthority(name string) func(s *session, out string) {
	return func(s *session, _ string) {
		text, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			s.t.Error(err)
			return
		}
		block, _ := pem.Decode(text)
		if block == nil {
			s.t.Errorf("%s is no certificate", name)
			return
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err != nil || cert.IsCA {
			s.t.Errorf("%s is a certificate of an authority: %v", name, err)
		}
	}
}

// inputOf returns the data of a workflow's input, from its history in JSON.
func inputOf(t *testing.T, history string) string {
	t.Helper()
	var h struct {
		Events []struct {
			Started struct {
				Input struct{ Payloads []struct{ Data []byte } }
			} `json:"workflowExecutionStartedEventAttributes"`
		}
	}
	if err := json.Unmarshal([]byte(history), &h); err != nil || len(h.Events) == 0 || len(h.Events[0].Started.Input.Payloads) == 0 {
		t.Errorf("no input in %s: %v", history, err)
		return ""
	}
	return string(h.Events[0].Started.Input.Payloads[0].Data)
}

func runBlocks(t *testing.T) {
	dev := startDev(t)
	defer dev.Kill()
	n := 0
	for _, d := range documents(t) {
		s := newSession(t)
		for _, b := range d.blocks() {
			if b.title != "" {
				s.write(b.title, strings.Join(b.lines, "\n")+"\n")
			}
			for _, c := range b.commands() {
				program, _, _ := strings.Cut(c, " ")
				if why := others[program]; why != "" {
					t.Logf("%s: $ %s: not run, %s", b.where, c, why)
					continue
				}
				n++
				t.Logf("%s: $ %s", b.where, c)
				if prepare := before[c]; prepare != nil {
					prepare(s)
				}
				out := s.run(c)
				if check := after[c]; check != nil {
					check(s, out)
				}
			}
		}
		s.end()
	}
	if n < 4 {
		t.Errorf("only %d commands were found", n)
	}
}

// startDev starts a Temporal server at the address that it has by default.
func startDev(t *testing.T) *peers.Process {
	t.Helper()
	cli, err := peers.BuildCLI(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	log := harness.NewLog()
	p, err := peers.Start("temporal", exec.Command(cli, "server", "start-dev", "--headless", "--log-level", "error"), log)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "127.0.0.1:7233", log)
	return p
}

func await(t *testing.T, address string, log fmt.Stringer) {
	t.Helper()
	for range 600 {
		if c, err := net.Dial("tcp", address); err == nil {
			_ = c.Close()
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("nothing listens on %s: %s", address, log)
}

func newSession(t *testing.T) *session {
	t.Helper()
	s := &session{t: t, dir: t.TempDir()}
	proxy, err := harness.BuildProxy()
	if err != nil {
		t.Fatal(err)
	}
	cli, err := peers.BuildCLI(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(s.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"temporal-seal": proxy, "temporal": cli} {
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	s.env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+s.dir)
	return s
}

func (s *session) write(name, text string) {
	if err := os.MkdirAll(filepath.Dir(filepath.Join(s.dir, name)), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// serves reports whether a command runs until it is ended: the proxy without another command.
func serves(c string) bool {
	words := strings.Fields(c)
	program := filepath.Base(words[0])
	return program == "temporal-seal" && (len(words) == 1 || strings.HasPrefix(words[1], "--") || words[1] == "serve")
}

// run runs a command as the reader's shell does. A server goes on running until the next one, or the document's end.
func (s *session) run(c string) string {
	s.t.Helper()
	if serves(c) {
		s.end()
		log := harness.NewLog()
		cmd := exec.Command("sh", "-c", "exec "+c)
		cmd.Dir, cmd.Env = s.dir, s.env
		p, err := peers.Start(c, cmd, log)
		if err != nil {
			s.t.Fatal(err)
		}
		s.server = p
		await(s.t, "127.0.0.1:7333", log)
		return log.String()
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", c)
	cmd.Dir, cmd.Env = s.dir, s.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Errorf("$ %s: %v\n%s", c, err, out)
	}
	return string(out)
}

func (s *session) end() {
	if s.server != nil {
		if err := s.server.Stop(); err != nil { // by Ctrl-C: a proxy that is killed has not said to the key store that it left
			s.t.Errorf("the server that was started last: %v", err)
		}
		s.server = nil
	}
}
