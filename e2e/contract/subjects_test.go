package contract

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// sealsPatients names the subject of each payload. Readers of other namespaces get nothing.
const sealsPatients = `package temporal

request contains {"action": "seal", "key": "default", "subject": {"pointer": "/patient"}} if not input.payload.kind in {"failure", "metadata"}
request contains {"action": "seal", "key": "default", "subject": {"pointer": "/donor"}} if input.workflow.id == "both"
response contains {"action": "open"} if input.sealed.key == "default"
`

// clinic is a proxy with a key store, that can be stopped while a command works on the store.
type clinic struct {
	*rig
	t     *testing.T
	dir   string
	setup setup
	bin   string
}

func newClinic(t *testing.T) *clinic {
	t.Helper()
	return clinicWith(t, "", sealsPatients)
}

// clinicWith has a key with further settings, and a policy.
func clinicWith(t *testing.T, ofKey, policy string) *clinic {
	t.Helper()
	c := &clinic{t: t, dir: t.TempDir()}
	var err error
	if c.bin, err = harness.BuildProxy(); err != nil {
		t.Fatal(err)
	}
	store := "sqlite:" + filepath.Join(c.dir, "keys.db")
	id, err := exec.Command(c.bin, "keystore", "init", store).Output()
	if err != nil {
		t.Fatal(err)
	}
	c.setup = setup{
		keys:   fmt.Sprintf("  - {name: default, active: %q%s}\n", "local:"+filepath.Join(c.dir, "default.key"), ofKey),
		policy: policy,
		extra: fmt.Sprintf("key_store: {url: %q, id: %q}\naudit: {file: %q}\n", store, strings.TrimSpace(string(id)),
			filepath.Join(c.dir, "audit.jsonl")),
	}
	c.start()
	t.Cleanup(func() { c.stop() })
	return c
}

func (c *clinic) start() {
	c.t.Helper()
	var err error
	if c.rig, err = newRig(c.dir, c.setup); err != nil {
		c.t.Fatal(err)
	}
}

// subjects runs a command on the store while no proxy has it open. The subject comes from a file.
func (c *clinic) subjects(subject string, args ...string) (string, error) {
	c.t.Helper()
	c.stop()
	file := filepath.Join(c.dir, "subject.txt")
	if err := os.WriteFile(file, []byte(subject+"\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	all := append(append([]string{"subjects"}, args...), "--config", filepath.Join(c.dir, "contract.yaml"), "--namespace", "clinic", "--subject-file", file)
	out, err := exec.Command(c.bin, all...).CombinedOutput()
	c.start()
	return string(out), err
}

// signaledFor seals documents by signals, one after the other.
func (c *clinic) signaledFor(documents ...string) (sealed []*commonpb.Payload) {
	c.t.Helper()
	for _, d := range documents {
		sealed = append(sealed, signaled(c.t, c.signal(c.t, "clinic", "w", document(d)))...)
	}
	return sealed
}

// history returns what a client gets for a history with a sealed input.
func (c *clinic) history(client string, sealed *commonpb.Payload) exchange {
	c.t.Helper()
	return c.do(c.t, blackbox.Request{Method: "GetWorkflowExecutionHistory", Metadata: metadata.Pairs("client-name", client),
		Body: blackbox.Marshal(&workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "clinic", Execution: execution("w")})},
		reply("GetWorkflowExecutionHistory", &workflowservice.GetWorkflowExecutionHistoryResponse{History: inputHistory(sealed)}))
}

// A payload is sealed with the key of its subject, or not at all.
func TestPayloadsAreSealedForTheirSubject(t *testing.T) {
	t.Parallel()
	c := newClinic(t)
	first := document(`{"patient":"P-1","note":"CANARY"}`)
	c.isSealed(t, "a payload with a subject", "clinic", c.signaledFor(string(first.Data))[0], first)
	for _, d := range []string{`{"note":"CANARY"}`, `{"patient":""}`, `{"patient":null}`, `"CANARY"`} {
		c.signal(t, "clinic", "w", document(d)).refused(t, "PermissionDenied")
	}
	status, body := c.admin(t, "/metrics")
	if status != 200 || !strings.Contains(body, "temporal_seal_subject_keys_usable 1") {
		t.Errorf("status %d, no metric of keys of subjects", status)
	}
}

// Two rules that name different subjects refuse the payload, with the places of both.
func TestTwoSubjectsAreRefused(t *testing.T) {
	t.Parallel()
	c := newClinic(t)
	e := c.signal(t, "clinic", "both", document(`{"patient":"CANARY","donor":"CANARY"}`))
	e.refused(t, "PermissionDenied")
	if text := e.Status.GetMessage(); !strings.Contains(text, "platform.rego:3") || !strings.Contains(text, "platform.rego:4") {
		t.Errorf("it does not say which rules: %s", text)
	}
}

// What concerns an erased subject opens nowhere, and the rest as before. Readers get a placeholder, workers never do.
func TestErasedSubjects(t *testing.T) {
	t.Parallel()
	c := newClinic(t)
	clear := []*commonpb.Payload{document(`{"patient":"P-1","note":"CANARY"}`), document(`{"patient":"P-2","note":"CANARY"}`)}
	sealed := c.signaledFor(string(clear[0].Data), string(clear[1].Data))
	for i := range sealed {
		equal(t, "before the erasure", c.open(t, "clinic", sealed[i])[0], clear[i])
	}
	if out, err := c.subjects("P-1", "erase", "--reason", "for P-1", "--yes"); err == nil || !strings.Contains(out, "contains the subject") {
		t.Errorf("a reason with the subject: %v, %s", err, out)
	}
	if out, err := c.subjects("P-1", "erase", "--reason", "ticket 7", "--dry-run", "--offline"); err != nil || !strings.Contains(out, `"dry_run": true`) {
		t.Errorf("a dry run: %v, %s", err, out)
	}
	equal(t, "after a dry run", c.open(t, "clinic", sealed[0])[0], clear[0])
	out, err := c.subjects("P-1", "erase", "--reason", "ticket 7", "--yes")
	if err != nil || !strings.Contains(out, `"destroyed_keys"`) || strings.Contains(out, "P-1") {
		t.Fatalf("error %v, certificate %s", err, out)
	}
	if record, err := os.ReadFile(filepath.Join(c.dir, "audit.jsonl")); err != nil || !strings.Contains(string(record), `"action":"erase"`) {
		t.Errorf("audit log: %s, error %v", record, err)
	}
	placeholder := document(`"[erased on ` + time.Now().UTC().Format(time.DateOnly) + `]"`)
	equal(t, "an erased payload", c.open(t, "clinic", sealed[0])[0], placeholder)
	equal(t, "another subject's", c.open(t, "clinic", sealed[1])[0], clear[1])
	e := c.history("temporal-ui", sealed[0])
	got := answered(t, e, new(workflowservice.GetWorkflowExecutionHistoryResponse))
	equal(t, "an erased payload in a history for a reader", got.GetHistory().GetEvents()[0].GetWorkflowExecutionStartedEventAttributes().
		GetInput().GetPayloads()[0], placeholder)
	c.history("temporal-go", sealed[0]).want(t, "DataLoss")
	c.signal(t, "clinic", "w", clear[0]).refused(t, "PermissionDenied")
	erasedTasks(t, c, sealed[0])
	if out, err := c.subjects("P-1", "readmit", "--reason", "ticket 8", "--yes"); err != nil {
		t.Fatalf("error %v: %s", err, out)
	}
	c.isSealed(t, "after the readmission", "clinic", c.signaledFor(string(clear[0].Data))[0], clear[0])
	equal(t, "what was erased before", c.open(t, "clinic", sealed[0])[0], placeholder)
}

// erasedTasks checks that tasks with an erased value fail with that reason, and are neither paused nor handed over.
func erasedTasks(t *testing.T, c *clinic, sealed *commonpb.Payload) {
	t.Helper()
	e := c.pollActivity(t, "clinic", reply("PollActivityTaskQueue", activityTask("activity-1", sealed)))
	e.empty(t)
	e.wantNames(t, "PollActivityTaskQueue RespondActivityTaskFailed")
	f := forwardedAs(t, e, "RespondActivityTaskFailed", new(workflowservice.RespondActivityTaskFailedRequest))
	if info := f.Failure.GetApplicationFailureInfo(); info.GetType() != "Erased" || !info.GetNonRetryable() {
		t.Errorf("the activity was failed by %v", f)
	}
	e = c.pollWorkflow(t, "clinic", reply("PollWorkflowTaskQueue", &workflowservice.PollWorkflowTaskQueueResponse{
		TaskToken: []byte("workflow-1"), WorkflowExecution: execution("w"), Attempt: 1, History: inputHistory(sealed)}))
	e.empty(t)
	e.wantNames(t, "PollWorkflowTaskQueue RespondWorkflowTaskFailed")
	w := forwardedAs(t, e, "RespondWorkflowTaskFailed", new(workflowservice.RespondWorkflowTaskFailedRequest))
	if text := w.Failure.GetMessage(); !strings.Contains(text, "was erased on") || !strings.Contains(text, "terminate the workflow") {
		t.Errorf("the workflow task was failed by %v", proto.Clone(w))
	}
}
