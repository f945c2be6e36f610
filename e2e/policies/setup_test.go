// Package policies runs every example of docs/policy.md on a real Temporal server: the built proxy under the example's
// policy, calls as a client and a worker make them, and a look at what the server stores.
package policies

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	os.Exit(code)
}

// example is one folder under examples, with a proxy that runs under its policy.
type example struct {
	*testing.T
	namespace string
	dir       string // of the config and the key files
	proxy     *harness.Proxy
	through   workflowservice.WorkflowServiceClient // the proxy, at its first listener
	direct    workflowservice.WorkflowServiceClient // past it
}

// start runs a proxy under the policy of an example. listeners is YAML; "" is one anonymous listener.
func start(t *testing.T, server *peers.Process, folder, namespace string, keys []string, listeners string) *example {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(harness.Root(), "examples", folder)
	var config, policy strings.Builder
	if listeners == "" {
		listeners = "  - address: 127.0.0.1:0\n"
	}
	fmt.Fprintf(&config, "listeners:\n%supstreams:\n  - address: %s\nadmin: 127.0.0.1:0\nkeys:\n", listeners, server.Address)
	for _, k := range keys {
		file := strings.ReplaceAll(strings.ReplaceAll(k, "/", "-"), "*", "{1}") + ".key"
		fmt.Fprintf(&config, "  - {name: %q, active: %q}\n", k, "local:"+filepath.Join(dir, file))
	}
	for member, name := range map[string]string{"file": "policy.rego", "namespaces": "namespaces"} {
		if path := filepath.Join(source, name); exists(path) {
			fmt.Fprintf(&policy, "  %s: %q\n", member, path)
		}
	}
	fmt.Fprintf(&config, "policy:\n%s", &policy)
	name := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(name, []byte(config.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := harness.StartProxy(t.Context(), harness.ProxyOptions{Dir: dir, Upstream: server.Address, Args: []string{"--config", name}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop() }) // what it says at its end is not what is tested here
	e := &example{T: t, namespace: namespace, dir: dir, proxy: p}
	e.direct = client(t, server.Address, nil)
	if !strings.Contains(listeners, "tls:") {
		e.through = client(t, p.Address, nil)
	}
	return e
}

// newKey makes a key file as an operator does who takes on a tenant.
func (e *example) newKey(name string) {
	e.Helper()
	bin, err := harness.BuildProxy()
	if err != nil {
		e.Fatal(err)
	}
	if out, err := exec.Command(bin, "keys", "new", filepath.Join(e.dir, name+".key")).CombinedOutput(); err != nil {
		e.Fatalf("%v: %s", err, out)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// client connects to an address, with TLS where a config is given.
func client(t *testing.T, address string, c *tls.Config) workflowservice.WorkflowServiceClient {
	t.Helper()
	creds := insecure.NewCredentials()
	if c != nil {
		creds = credentials.NewTLS(c)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return workflowservice.NewWorkflowServiceClient(conn)
}

// bearer is a context that carries a token.
func bearer(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

func (e *example) context() context.Context {
	ctx, cancel := context.WithTimeout(e.Context(), 30*time.Second)
	e.Cleanup(cancel)
	return ctx
}

// value is a payload as SDKs make it of a Go value.
func value(v any) *commonpb.Payload {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // the values of this test are all JSON
	}
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: text}
}

func list(p *commonpb.Payload) *commonpb.Payloads {
	return &commonpb.Payloads{Payloads: []*commonpb.Payload{p}}
}

func (e *example) request(id, workflowType string, input *commonpb.Payload) *workflowservice.StartWorkflowExecutionRequest {
	return &workflowservice.StartWorkflowExecutionRequest{
		Namespace: e.namespace, WorkflowId: id, WorkflowType: &commonpb.WorkflowType{Name: workflowType}, RequestId: id,
		TaskQueue: &taskqueuepb.TaskQueue{Name: queue(id)}, Input: list(input), WorkflowRunTimeout: durationpb.New(time.Minute),
	}
}

// queue is a task queue for one workflow alone.
func queue(id string) string { return strings.ReplaceAll(id, "/", "-") }

func (e *example) start(id, workflowType string, input *commonpb.Payload) {
	e.Helper()
	if _, err := e.through.StartWorkflowExecution(e.context(), e.request(id, workflowType, input)); err != nil {
		e.Fatalf("start %s: %v", id, err)
	}
}

// activity does a worker's part: it takes the workflow's first task, has it run an activity, runs that, and returns what
// the activity was given.
func (e *example) activity(id, activityType string, input, result *commonpb.Payload) *commonpb.Payload {
	e.Helper()
	tasks := &taskqueuepb.TaskQueue{Name: queue(id)}
	task, err := e.through.PollWorkflowTaskQueue(e.context(), &workflowservice.PollWorkflowTaskQueueRequest{Namespace: e.namespace, TaskQueue: tasks})
	if err != nil || len(task.TaskToken) == 0 {
		e.Fatalf("poll for the workflow task of %s: %v", id, err)
	}
	_, err = e.through.RespondWorkflowTaskCompleted(e.context(), &workflowservice.RespondWorkflowTaskCompletedRequest{
		Namespace: e.namespace, TaskToken: task.TaskToken,
		Commands: []*commandpb.Command{{
			CommandType: enumspb.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK,
			Attributes: &commandpb.Command_ScheduleActivityTaskCommandAttributes{ScheduleActivityTaskCommandAttributes: &commandpb.ScheduleActivityTaskCommandAttributes{
				ActivityId: "1", ActivityType: &commonpb.ActivityType{Name: activityType}, TaskQueue: tasks, Input: list(input),
				ScheduleToCloseTimeout: durationpb.New(time.Minute),
			}},
		}},
	})
	if err != nil {
		e.Fatalf("complete the workflow task of %s: %v", id, err)
	}
	work, err := e.through.PollActivityTaskQueue(e.context(), &workflowservice.PollActivityTaskQueueRequest{Namespace: e.namespace, TaskQueue: tasks})
	if err != nil || len(work.TaskToken) == 0 {
		e.Fatalf("poll for the activity task of %s: %v", id, err)
	}
	if _, err := e.through.RespondActivityTaskCompleted(e.context(), &workflowservice.RespondActivityTaskCompletedRequest{
		Namespace: e.namespace, TaskToken: work.TaskToken, Result: list(result),
	}); err != nil {
		e.Fatalf("complete the activity of %s: %v", id, err)
	}
	return work.Input.Payloads[0]
}

// history is what one side returns about a workflow.
type history struct{ input, header, activityInput, result, signal *commonpb.Payload }

func (e *example) history(c workflowservice.WorkflowServiceClient, ctx context.Context, id string) (history, error) {
	var h history
	answer, err := c.GetWorkflowExecutionHistory(ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{
		Namespace: e.namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: id},
	})
	if err != nil {
		return h, err
	}
	for _, event := range answer.History.Events {
		switch a := event.Attributes.(type) {
		case *historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes:
			started := a.WorkflowExecutionStartedEventAttributes
			h.input, h.header = first(started.Input), started.Header.GetFields()["user"]
		case *historypb.HistoryEvent_ActivityTaskScheduledEventAttributes:
			h.activityInput = first(a.ActivityTaskScheduledEventAttributes.Input)
		case *historypb.HistoryEvent_ActivityTaskCompletedEventAttributes:
			h.result = first(a.ActivityTaskCompletedEventAttributes.Result)
		case *historypb.HistoryEvent_WorkflowExecutionSignaledEventAttributes:
			h.signal = first(a.WorkflowExecutionSignaledEventAttributes.Input)
		}
	}
	return h, nil
}

func first(p *commonpb.Payloads) *commonpb.Payload {
	if len(p.GetPayloads()) == 0 {
		return nil
	}
	return p.Payloads[0]
}

// stored is what the server keeps; read is what the proxy makes of it.
func (e *example) stored(id string) history {
	e.Helper()
	return e.must(e.history(e.direct, e.context(), id))
}

func (e *example) read(id string) history {
	e.Helper()
	return e.must(e.history(e.through, e.context(), id))
}

func (e *example) must(h history, err error) history {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
	return h
}

// form names how a payload is stored: "clear", "sealed with <key>" or "in place with <key>".
func form(p *commonpb.Payload) string {
	envelope, how := p.GetData(), "sealed with "
	switch string(p.GetMetadata()["encoding"]) {
	case "binary/sealed.v1":
	case "json/sealed.v1":
		envelope, how = p.Metadata["sealed.v1"], "in place with "
	default:
		return "clear"
	}
	// The key's name stands behind 31 bytes of header; the byte at 26 is its length.
	if len(envelope) < 31 || envelope[0] != 1 || len(envelope) < 31+int(envelope[26]) {
		return "a broken envelope"
	}
	return how + string(envelope[31:31+int(envelope[26])])
}

// is compares how a payload is stored, and that it comes back as it was.
func (e *example) is(what string, stored *commonpb.Payload, want string, read, sent *commonpb.Payload) {
	e.Helper()
	if got := form(stored); got != want {
		e.Errorf("%s is stored %s, want %s", what, got, want)
	}
	if !proto.Equal(read, sent) {
		e.Errorf("%s came back as %v, sent was %v", what, read, sent)
	}
}
