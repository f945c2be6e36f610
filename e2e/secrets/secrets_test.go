package secrets

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

// faults are the ways in which KMS refuses or does not answer; the texts that it sends along are its own.
var faults = map[string]kmsstub.Fault{
	"throttled": {Error: "ThrottlingException", Message: "Rate exceeded"}, "internal": {Error: "KMSInternalException"},
	"denied": {Error: "AccessDeniedException", Message: "not authorized to perform kms:Decrypt"}, "disabled": {Error: "DisabledException"},
	"invalid": {Error: "InvalidCiphertextException"}, "reset": {Reset: true}, "hang": {Hang: true},
}

// world is one proxy with everything that is secret about it.
type world struct {
	*testing.T
	canaries *harness.Canaries
	sweep    *harness.Sweep
	kms      *kmsstub.Server
	proxy    *harness.Proxy
	spans    *harness.Collector
	through  workflowservice.WorkflowServiceClient
	direct   workflowservice.WorkflowServiceClient
	local    string // key file
	secret   string // AWS secret access key
	told     bytes.Buffer
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, canaries: harness.NewCanaries(), kms: kmsstub.New(kmsstub.Options{Region: "eu-central-1"})}
	w.sweep = harness.NewSweep(w.canaries)
	if err := w.kms.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.kms.Close)
	w.kms.SetAlias("alias/secret-place", w.kms.CreateKey(false))
	dir := t.TempDir()
	w.local = filepath.Join(dir, "local.key")
	w.secret = w.canaries.New("AWS secret access key")
	w.command(nil, "keys", "new", w.local)
	w.readKeyFile()
	var err error
	if w.spans, err = harness.StartCollector(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.spans.Stop)
	w.proxy, err = harness.StartProxy(t.Context(), harness.ProxyOptions{
		Dir: dir, Upstream: upstream, Args: []string{"--log-level", "debug"},
		Keys: []harness.KeyOption{
			{Name: "local", Active: "local:" + w.local, Namespaces: []string{"third"}},
			{Name: "default", Active: "awskms://alias/secret-place?region=eu-central-1&endpoint=" + w.kms.URL},
		},
		Env: append(append(w.spans.Env(), w.aws()...), "GRPC_GO_LOG_SEVERITY_LEVEL=info", "GRPC_GO_LOG_VERBOSITY_LEVEL=99"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.proxy.Kill)
	w.through, w.direct = connect(t, w.proxy.Address), connect(t, upstream)
	return w
}

func (w *world) aws() []string {
	return []string{"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=" + w.secret, "AWS_EC2_METADATA_DISABLED=true"}
}

// command runs the proxy's command line and keeps what it says. leave: its standard output holds payloads by design.
func (w *world) command(leave func(string), args ...string) {
	w.Helper()
	bin, err := harness.BuildProxy()
	if err != nil {
		w.Fatal(err)
	}
	cmd := exec.CommandContext(w.Context(), bin, args...)
	cmd.Env = append(os.Environ(), w.aws()...)
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &w.told
	_ = cmd.Run() // refusals are wanted too
	if leave != nil {
		leave(stdout.String())
		return
	}
	w.told.Write(stdout.Bytes())
}

// readKeyFile makes the key in the file something to look for.
func (w *world) readKeyFile() {
	w.Helper()
	text, err := os.ReadFile(w.local)
	if err != nil {
		w.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) == 4 && words[0] == "key" {
			raw, err := base64.StdEncoding.DecodeString(words[3])
			if err != nil {
				w.Fatal(err)
			}
			w.canaries.Add("local key", string(raw))
			return
		}
	}
	w.Fatal("no key in the key file")
}

// dataKey asks KMS for the data key of a stored payload, and makes it something to look for.
func (w *world) dataKey(namespace string, p *commonpb.Payload) {
	w.Helper()
	client := kms.New(kms.Options{BaseEndpoint: aws.String(w.kms.URL), Region: "eu-central-1", Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "x", "")})
	l1, l2, l3 := int(p.Data[26]), int(binary.BigEndian.Uint16(p.Data[27:])), int(binary.BigEndian.Uint16(p.Data[29:]))
	wrapped := p.Data[31+l1+l2 : 31+l1+l2+l3]
	out, err := client.Decrypt(w.Context(), &kms.DecryptInput{CiphertextBlob: wrapped,
		EncryptionContext: map[string]string{"temporal-seal:namespace": namespace, "temporal-seal:key": "default"}})
	if err != nil {
		w.Fatal(err)
	}
	w.canaries.Add("data key of "+namespace, string(out.Plaintext))
}

// refused keeps the error that a caller receives, which names no place where keys are kept.
func (w *world) refused(what string, err error) {
	w.Helper()
	if err == nil {
		w.Errorf("%s: no error", what)
		return
	}
	raw, _ := proto.Marshal(status.Convert(err).Proto())
	w.told.Write(raw)
	for _, place := range []string{"awskms:", "secret-place", w.kms.URL, strings.TrimPrefix(w.kms.URL, "http://"), "arn:", w.local} {
		if strings.Contains(string(raw), place) {
			w.Errorf("%s: the caller's error names %s: %v", what, place, err)
		}
	}
}

func (w *world) soon() context.Context {
	ctx, cancel := context.WithTimeout(w.Context(), 1500*time.Millisecond)
	w.Cleanup(cancel)
	return ctx
}

// TestNothingTellsSecrets lets the proxy work and fail in all ways there are, has it print all that it can, kills it, and
// looks through everything it said.
func TestNothingTellsSecrets(t *testing.T) {
	w := newWorld(t)
	for _, namespace := range []string{"default", "third"} {
		if err := start(t.Context(), w.through, namespace, "w", payload(w.canaries.New("input in "+namespace)), payload(w.canaries.New("memo in "+namespace))); err != nil {
			t.Fatalf("%v\n%s", err, w.proxy.Log)
		}
	}
	stored, err := history(t.Context(), w.direct, "default", "w")
	if err != nil {
		t.Fatal(err)
	}
	w.dataKey("default", input(stored))
	opened, err := history(t.Context(), w.through, "default", "w")
	if err != nil {
		t.Fatal(err)
	}

	// Envelopes that were changed, or brought from elsewhere.
	for name, offset := range map[string]int{"kek": 18, "key id": 2, "wrapped key": 31 + 7 + 7 + 20, "tag": len(input(stored).Data) - 1} {
		bad := proto.CloneOf(input(stored))
		bad.Data[offset] ^= 1
		if err := start(t.Context(), w.direct, "default", name, bad, bad); err != nil {
			t.Fatal(err)
		}
		_, err := history(w.soon(), w.through, "default", name)
		w.refused(name, err)
	}
	if err := start(t.Context(), w.direct, "third", "stolen", input(stored), input(stored)); err != nil {
		t.Fatal(err)
	}
	_, err = history(w.soon(), w.through, "third", "stolen")
	w.refused("of another namespace", err)

	// A KMS that fails, for a namespace that has no key yet, and as the proxy's own commands meet it.
	for name, fault := range faults {
		w.kms.Always("", fault)
		w.refused(name, start(w.soon(), w.through, "other", name, payload(w.canaries.New("input while "+name)), payload("x")))
		if name != "hang" {
			w.command(nil, "check", "--config", w.proxy.Config, "--timeout", "1s")
			w.command(nil, "keys", "list", "--config", w.proxy.Config, "--timeout", "1s")
		}
		w.kms.Heal()
	}
	w.commands(opened)
	w.pages()
	w.crash()
	w.look(opened)
}

// commands has everything printed that the command line can.
func (w *world) commands(opened *workflowservice.GetWorkflowExecutionHistoryResponse) {
	w.Helper()
	w.command(nil, "check", "--config", w.proxy.Config)
	w.command(nil, "keys", "list", "--config", w.proxy.Config)
	w.command(nil, "keys", "list", "--running", "--admin", w.proxy.Admin)
	w.command(nil, "keys", "scan", "--config", w.proxy.Config, "--data-keys")
	w.command(nil, "explain", "--config", w.proxy.Config, "--namespace", "default", "--kind", "input", "--verbose", "--trace")
	sealed, err := history(w.Context(), w.direct, "default", "w")
	if err != nil {
		w.Fatal(err)
	}
	saved, err := temporalproto.CustomJSONMarshalOptions{}.Marshal(sealed.History)
	if err != nil {
		w.Fatal(err)
	}
	file := filepath.Join(w.TempDir(), "history.json")
	if err := os.WriteFile(file, saved, 0o600); err != nil {
		w.Fatal(err)
	}
	w.command(func(stdout string) {
		if secret := strings.Trim(string(input(opened).Data), `"`); !strings.Contains(stdout, secret) {
			w.Errorf("temporal-seal open does not open: %s", stdout)
		}
	}, "open", "--readable", "--config", w.proxy.Config, file)
}

func (w *world) pages() {
	w.Helper()
	for _, page := range []string{"/metrics", "/readyz", "/keys"} {
		code, text, err := w.proxy.Get(page)
		if err != nil || code != 200 {
			w.Errorf("%s: %d, %v", page, code, err)
		}
		w.told.WriteString(text)
	}
}

// crash ends the proxy as a fault in it would, with all stacks on its standard error.
func (w *world) crash() {
	w.Helper()
	for end := time.Now().Add(5 * time.Second); len(w.spans.Raw()) == 0 && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	if err := syscall.Kill(w.proxy.PID(), syscall.SIGABRT); err != nil {
		w.Fatal(err)
	}
	<-w.proxy.Done()
	if log := w.proxy.Log.String(); !strings.Contains(log, "goroutine ") {
		w.Error("it did not crash")
	}
}

// look searches. First it makes sure that it finds what is there.
func (w *world) look(opened proto.Message) {
	w.Helper()
	control := harness.NewSweep(w.canaries)
	raw, err := proto.Marshal(opened)
	if err != nil {
		w.Fatal(err)
	}
	control.Bytes("control", raw)
	if found, _ := control.Found(); len(found) == 0 {
		w.Error("what was opened is not found where it must be")
	}
	log := w.proxy.Log.Bytes()
	w.sweep.Bytes("the log", log)
	w.sweep.Bytes("the spans", w.spans.Raw())
	w.sweep.Bytes("answers, pages and commands", w.told.Bytes())
	found, searched := w.sweep.Count()
	if found > 0 {
		w.Errorf("secrets were found:\n%s", w.sweep.Report())
	}
	for _, must := range []string{"secret-place", "AccessDeniedException"} {
		if !bytes.Contains(log, []byte(must)) {
			w.Errorf("the log does not name %s, which an operator needs", must)
		}
	}
	w.Logf("secrets: %d of %d found in %d KB of log, spans, pages, answers and commands", found, w.canaries.Len(), searched>>10)
}

// TestWithoutCredentials: the AWS SDK looks for credentials in places that do not answer. What it has to say comes as one
// line of the proxy's own.
func TestWithoutCredentials(t *testing.T) {
	bin, err := harness.BuildProxy()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin, "check", "--key", "awskms://alias/x?region=eu-central-1&endpoint=http://127.0.0.1:1", "--timeout", "2s")
	cmd.Env = []string{"HOME=" + t.TempDir(), "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:1"}
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatal("no error")
	}
	own := regexp.MustCompile(`^(temporal-seal: |note: policy.rego |config |keys |policy |        the default key)`)
	for line := range strings.Lines(string(out)) {
		if !own.MatchString(line) {
			t.Errorf("a line that is not the proxy's: %s", line)
		}
	}
	if !strings.Contains(string(out), "temporal-seal: --key: ") {
		t.Error(fmt.Sprint("the key is not named: ", string(out)))
	}
}
