package rotation

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	batchpb "go.temporal.io/api/batch/v1"
	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	sdkpb "go.temporal.io/api/sdk/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

// scanned is what `temporal-seal keys scan --output json` prints.
type scanned struct {
	Namespaces map[string]struct {
		Walked map[string]int
		Sealed []struct {
			Key, KEK  string
			SealedFor string `json:"sealed_for"`
			Count     int
			DataKeys  map[string]int `json:"data_keys"`
		}
		Clear   map[string]int
		Unread  int
		Reasons []string
	}
	Keys  map[string]string
	Asked *struct {
		KEK       string
		Envelopes int
		Unknown   []string `json:"unknown_keys"`
		MayRetire bool     `json:"may_be_retired"`
	}
}

func scan(t *testing.T, p *harness.Proxy, args ...string) (scanned, int) {
	t.Helper()
	stdout, stderr, code := run(t, "", append([]string{"keys", "scan", "--config", p.Config, "--output", "json", "--rate", "2000"}, args...)...)
	var s scanned
	if err := json.Unmarshal([]byte(stdout), &s); err != nil {
		t.Fatalf("%v\n%s%s", err, stdout, stderr)
	}
	return s, code
}

// under counts a namespace's envelopes of the key whose URI holds a text.
func (s scanned) under(namespace, uri string) (n int) {
	for _, e := range s.Namespaces[namespace].Sealed {
		if strings.Contains(s.Keys[e.KEK], uri) {
			n += e.Count
		}
	}
	return n
}

// places are all the ways in which a server holds a payload. Each test seals with a key that seals nothing else.
var places = map[string]func(t *testing.T, c workflowservice.WorkflowServiceClient, id string){
	"history": func(t *testing.T, c workflowservice.WorkflowServiceClient, id string) { store(t, c, "scan", id) },
	"memo": func(t *testing.T, c workflowservice.WorkflowServiceClient, id string) {
		q := startRequest("scan", id)
		q.Memo = &commonpb.Memo{Fields: map[string]*commonpb.Payload{"m": plain("memo")}}
		must(t)(c.StartWorkflowExecution(t.Context(), q))
	},
	"summary": func(t *testing.T, c workflowservice.WorkflowServiceClient, id string) {
		q := startRequest("scan", id)
		q.UserMetadata = &sdkpb.UserMetadata{Summary: plain("summary")}
		must(t)(c.StartWorkflowExecution(t.Context(), q))
	},
	"schedule": func(t *testing.T, c workflowservice.WorkflowServiceClient, id string) {
		must(t)(c.CreateSchedule(t.Context(), &workflowservice.CreateScheduleRequest{Namespace: "scan", ScheduleId: id, RequestId: id,
			Schedule: &schedulepb.Schedule{State: &schedulepb.ScheduleState{Paused: true}, Spec: &schedulepb.ScheduleSpec{},
				Action: &schedulepb.ScheduleAction{Action: &schedulepb.ScheduleAction_StartWorkflow{StartWorkflow: &workflowpb.NewWorkflowExecutionInfo{
					WorkflowId: id, WorkflowType: &commonpb.WorkflowType{Name: "Stored"}, TaskQueue: &taskqueuepb.TaskQueue{Name: "nobody"}, Input: payloads("scheduled")}}}}}))
	},
	"heartbeat": heartbeat,
	"batch": func(t *testing.T, c workflowservice.WorkflowServiceClient, id string) {
		store(t, connect(t, upstream), "scan", id) // in clear, past the proxy: it is the signal that is sealed
		must(t)(c.StartBatchOperation(t.Context(), &workflowservice.StartBatchOperationRequest{Namespace: "scan", JobId: id + "-job", Reason: "test",
			Executions: []*commonpb.WorkflowExecution{{WorkflowId: id}},
			Operation:  &workflowservice.StartBatchOperationRequest_SignalOperation{SignalOperation: &batchpb.BatchOperationSignal{Signal: "s", Input: payloads("signal")}}}))
	},
	"activity": func(t *testing.T, c workflowservice.WorkflowServiceClient, id string) {
		must(t)(c.StartActivityExecution(t.Context(), &workflowservice.StartActivityExecutionRequest{Namespace: "scan", ActivityId: id, RequestId: id,
			ActivityType: &commonpb.ActivityType{Name: "A"}, TaskQueue: &taskqueuepb.TaskQueue{Name: "nobody"}, Input: payloads("standalone"),
			StartToCloseTimeout: durationpb.New(time.Hour)}))
	},
}

func must(t *testing.T) func(any, error) {
	return func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// heartbeat leaves an activity running, with details that stand in no history.
func heartbeat(t *testing.T, c workflowservice.WorkflowServiceClient, id string) {
	queue := &taskqueuepb.TaskQueue{Name: "nobody-" + id}
	must(t)(c.StartWorkflowExecution(t.Context(), startRequest("scan", id)))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	task, err := c.PollWorkflowTaskQueue(ctx, &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "scan", TaskQueue: queue})
	must(t)(nil, err)
	must(t)(c.RespondWorkflowTaskCompleted(ctx, &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "scan", TaskToken: task.TaskToken,
		Commands: []*commandpb.Command{{CommandType: enumspb.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK,
			Attributes: &commandpb.Command_ScheduleActivityTaskCommandAttributes{ScheduleActivityTaskCommandAttributes: &commandpb.ScheduleActivityTaskCommandAttributes{
				ActivityId: "1", ActivityType: &commonpb.ActivityType{Name: "A"}, TaskQueue: queue,
				StartToCloseTimeout: durationpb.New(time.Hour), HeartbeatTimeout: durationpb.New(time.Hour)}}}}}))
	activity, err := c.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: "scan", TaskQueue: queue})
	must(t)(nil, err)
	must(t)(c.RecordActivityTaskHeartbeat(ctx, &workflowservice.RecordActivityTaskHeartbeatRequest{Namespace: "scan", TaskToken: activity.TaskToken, Details: payloads("beat")}))
}

// TestScanFindsEveryPlace: each place is sealed with a key of its own, so a place that the scan does not know would show
// as a key that may be retired.
func TestScanFindsEveryPlace(t *testing.T) {
	startServer(t, "scan")
	files := map[string]string{}
	var all []string
	for place := range places {
		files[place] = newKeyFile(t, place)
		all = append(all, files[place])
	}
	for place, seal := range places {
		p := startProxy(t, harness.ProxyOptions{Keys: keys(files[place], all...)})
		seal(t, connect(t, p.Address), "scan-"+place)
	}
	p := startProxy(t, harness.ProxyOptions{Keys: keys(newKeyFile(t, "next"), all...)})
	var s scanned
	eventually(t, "all is listed", func() error {
		var code int
		s, code = scan(t, p, "--namespace", "scan")
		for place := range places {
			if s.under("scan", "/"+place+".key") == 0 {
				return fmt.Errorf("nothing found of the key for %s: %+v", place, s)
			}
		}
		if n := s.Namespaces["scan"]; n.Unread != 0 || code != 0 {
			return fmt.Errorf("exit code %d, unread: %v", code, n.Reasons)
		}
		return nil
	})
	if s.Namespaces["scan"].Clear["input"] == 0 {
		t.Errorf("the clear input of a workflow was not seen: %v", s.Namespaces["scan"].Clear)
	}
	for place, uri := range files {
		if _, code := scan(t, p, "--key", uri); code != 3 {
			t.Errorf("%s: exit code %d, want 3: in use", place, code)
		}
	}
	if s, code := scan(t, p, "--key", newKeyFile(t, "unused")); code != 0 || !s.Asked.MayRetire {
		t.Errorf("a key that sealed nothing: exit code %d, %+v", code, s.Asked)
	}
	stdout, _, _ := run(t, "", "keys", "scan", "--config", p.Config, "-n", "scan", "--data-keys")
	t.Logf("\n%s", stdout)
}

// TestScanTellsWhenAKeyMayGo: after a rotation both keys are in use; when the workflows of the old one are deleted, it is
// not, which is seen in all namespaces.
func TestScanTellsWhenAKeyMayGo(t *testing.T) {
	startServer(t, "resume", "moved")
	kms := startKMS(t)
	_, before := kmsKey(kms, "before")
	_, after := kmsKey(kms, "after")
	old := startProxy(t, harness.ProxyOptions{Keys: keys(before)})
	for i := range 5 {
		store(t, connect(t, old.Address), "resume", fmt.Sprint("before-", i))
	}
	p := startProxy(t, harness.ProxyOptions{Keys: keys(after, before)})
	c := connect(t, p.Address)
	for i := range 3 {
		store(t, c, "resume", fmt.Sprint("after-", i))
	}
	eventually(t, "both keys are seen", func() error {
		s, code := scan(t, p, "--namespace", "resume", "--key", before)
		if b, a := s.under("resume", "alias/before"), s.under("resume", "alias/after"); b != 5 || a != 3 || code != 3 {
			return fmt.Errorf("%d and %d envelopes, exit code %d", b, a, code)
		}
		return nil
	})
	t.Run("it goes on where it was stopped", func(t *testing.T) { resumes(t, p) })
	for i := range 5 {
		must(t)(c.DeleteWorkflowExecution(t.Context(), &workflowservice.DeleteWorkflowExecutionRequest{Namespace: "resume",
			WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: fmt.Sprint("before-", i)}}))
	}
	eventually(t, "the old key is no longer in use", func() error {
		if s, code := scan(t, p, "--key", before); code != 0 || !s.Asked.MayRetire {
			return fmt.Errorf("exit code %d, %+v", code, s.Asked)
		}
		return nil
	})
	t.Run("a key that the config lacks leaves it open", func(t *testing.T) { unknownKey(t, kms, p, before) })
	if _, code := scan(t, p, "--key", after); code != 3 {
		t.Errorf("the new key: exit code %d, want 3", code)
	}
	// What cannot be read is no proof of anything.
	_, stderr, code := run(t, "", "keys", "scan", "--upstream", "127.0.0.1:1", "--namespace", "resume", "--key", before)
	if code != 1 || !strings.Contains(stderr, "resume") {
		t.Errorf("without a server: exit code %d, %s", code, stderr)
	}
}

// unknownKey seals in another namespace with a key that the config lacks. It might be what the name of the asked key
// stood for before, so it is unclear whether that one may go, until the envelope is gone or the config has its key.
func unknownKey(t *testing.T, kms *kmsstub.Server, p *harness.Proxy, asked string) {
	_, lacking := kmsKey(kms, "lacking")
	other := startProxy(t, harness.ProxyOptions{Keys: keys(lacking)})
	c := connect(t, other.Address)
	store(t, c, "moved", "unknown")
	eventually(t, "the unknown key is seen", func() error {
		s, code := scan(t, p, "--key", asked)
		if code != 4 || s.Asked.MayRetire || s.Asked.Envelopes != 0 || len(s.Asked.Unknown) != 1 {
			return fmt.Errorf("exit code %d, %+v", code, s.Asked)
		}
		if reference := s.Namespaces["moved"].Sealed[0].KEK; s.Asked.Unknown[0] != reference {
			return fmt.Errorf("unknown is %s, want %s", s.Asked.Unknown[0], reference)
		}
		return nil
	})
	stdout, _, code := run(t, "", "keys", "scan", "--config", p.Config, "--rate", "2000", "--key", asked)
	if code != 4 || !strings.Contains(stdout, "NOT KNOWN") || strings.Contains(stdout, "may be retired") {
		t.Errorf("exit code %d: %s", code, stdout)
	}
	// Who has all keys in the config gets an answer.
	whole := startProxy(t, harness.ProxyOptions{Keys: keys(lacking, asked)})
	s, code := scan(t, whole, "--namespace", "moved", "--key", asked)
	if code != 0 || !s.Asked.MayRetire {
		t.Errorf("with the key in the config: exit code %d, %+v", code, s.Asked)
	}
	must(t)(c.DeleteWorkflowExecution(t.Context(), &workflowservice.DeleteWorkflowExecutionRequest{Namespace: "moved",
		WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: "unknown"}}))
	eventually(t, "the unknown key is gone", func() error {
		if s, code := scan(t, p, "--key", asked); code != 0 || !s.Asked.MayRetire {
			return fmt.Errorf("exit code %d, %+v", code, s.Asked)
		}
		return nil
	})
}

func resumes(t *testing.T, p *harness.Proxy) {
	whole, _ := scan(t, p, "--namespace", "resume")
	bin, err := harness.BuildProxy()
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(t.TempDir(), "scan.json")
	args := []string{"keys", "scan", "--config", p.Config, "--namespace", "resume", "--state", state, "--rate", "1"}
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), awsEnv...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a state is saved", func() error { _, err := os.Stat(state); return err })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("it was done before it was stopped")
	}
	again, code := scan(t, p, "--namespace", "resume", "--state", state)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, uri := range []string{"alias/before", "alias/after"} {
		if got, want := again.under("resume", uri), whole.under("resume", uri); got != want {
			t.Errorf("%s: %d envelopes in two parts, %d at once", uri, got, want)
		}
	}
}
