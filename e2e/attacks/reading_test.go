package attacks

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	batchpb "go.temporal.io/api/batch/v1"
	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	updatepb "go.temporal.io/api/update/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

func batchSignal(input *commonpb.Payload) *batchpb.BatchOperationSignal {
	return &batchpb.BatchOperationSignal{Signal: "any", Input: list(input), Identity: "test"}
}

// api is a way to read what is in a namespace.
type api struct {
	name string
	read func(p *party) error
	// whole: nothing at all is handed out to somebody without rights; elsewhere the answer comes with ciphertext in it.
	whole bool
}

// apis read what robVictim has put there. They are called by everybody, the worker included.
var apis = []api{
	{"list", func(p *party) error {
		_, err := p.ListWorkflowExecutions(p.ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: victims})
		return err
	}, false},
	{"list of the open ones", func(p *party) error {
		_, err := p.ListOpenWorkflowExecutions(p.ctx, &workflowservice.ListOpenWorkflowExecutionsRequest{Namespace: victims})
		return err
	}, false},
	{"scan", func(p *party) error {
		_, err := p.ScanWorkflowExecutions(p.ctx, &workflowservice.ScanWorkflowExecutionsRequest{Namespace: victims}) //lint:ignore SA1019 older clients call it
		return err
	}, false},
	{"describe", func(p *party) error {
		_, err := p.DescribeWorkflowExecution(p.ctx, &workflowservice.DescribeWorkflowExecutionRequest{Namespace: victims, Execution: execution("ward")})
		return err
	}, false},
	{"history", func(p *party) error {
		_, err := p.GetWorkflowExecutionHistory(p.ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: victims, Execution: execution("ward")})
		return err
	}, true},
	{"history of a failure", func(p *party) error {
		_, err := p.GetWorkflowExecutionHistory(p.ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: victims, Execution: execution("failed")})
		return err
	}, true},
	{"history with members sealed in place", func(p *party) error {
		_, err := p.GetWorkflowExecutionHistory(p.ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: victims, Execution: execution("members")})
		return err
	}, true},
	{"history backwards", func(p *party) error {
		_, err := p.GetWorkflowExecutionHistoryReverse(p.ctx, &workflowservice.GetWorkflowExecutionHistoryReverseRequest{Namespace: victims, Execution: execution("ward")})
		return err
	}, false},
	{"result, by long poll", func(p *party) error {
		_, err := p.GetWorkflowExecutionHistory(p.ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: victims, Execution: execution("done"), WaitNewEvent: true,
			HistoryEventFilterType: enumspb.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT})
		return err
	}, true},
	{"outcome of an update, polled", func(p *party) error {
		_, err := p.PollWorkflowExecutionUpdate(p.ctx, &workflowservice.PollWorkflowExecutionUpdateRequest{Namespace: victims,
			UpdateRef:  &updatepb.UpdateRef{WorkflowExecution: execution("ward"), UpdateId: "u1"},
			WaitPolicy: &updatepb.WaitPolicy{LifecycleStage: enumspb.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED}})
		return err
	}, false},
	{"outcome of an update, asked for again", func(p *party) error {
		_, err := p.UpdateWorkflowExecution(p.ctx, updateRequest(victims, "ward", "u1", list(value("x"))))
		return err
	}, false},
	{"outcome of an update, with a start that is none", func(p *party) error {
		q := p.startRequest("ward", func(q *workflowservice.StartWorkflowExecutionRequest) {
			q.Namespace, q.WorkflowIdConflictPolicy = victims, enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
		})
		_, err := p.ExecuteMultiOperation(p.ctx, &workflowservice.ExecuteMultiOperationRequest{Namespace: victims, Operations: []*workflowservice.ExecuteMultiOperationRequest_Operation{
			{Operation: &workflowservice.ExecuteMultiOperationRequest_Operation_StartWorkflow{StartWorkflow: q}},
			{Operation: &workflowservice.ExecuteMultiOperationRequest_Operation_UpdateWorkflow{UpdateWorkflow: updateRequest(victims, "ward", "u1", list(value("x")))}}}})
		return err
	}, false},
	{"schedule", func(p *party) error {
		_, err := p.DescribeSchedule(p.ctx, &workflowservice.DescribeScheduleRequest{Namespace: victims, ScheduleId: "rounds"})
		return err
	}, false},
}

// reading has the stranger, who may open nothing, the clerk, who may open what was sealed with another key, and the thief, who
// does not even reach the namespace, go through every API.
func reading(t *testing.T, b *bench) {
	for _, attacker := range []string{"stranger", "clerk", "thief"} {
		for _, d := range apis {
			t.Run(attacker+"/"+d.name, func(t *testing.T) {
				p := b.as(t, attacker, victims)
				err := d.read(p)
				outcome := "ciphertext"
				switch {
				case err != nil:
					outcome = refusal(err)
					if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "temporal-seal") {
						t.Errorf("the attack could not be carried out: %v", err)
					}
				case attacker == "thief":
					t.Error("the thief reaches the namespace")
				case d.whole:
					t.Error("something was handed out that is given whole or not at all")
				case !bytes.Contains(p.told(), []byte("sealed.v1")):
					t.Error("there is nothing sealed in the answer: this attack proves nothing")
				}
				b.record(t, "read: "+d.name, p, outcome)
			})
		}
		t.Run(attacker+"/query", func(t *testing.T) { b.readsAQuery(t, attacker) })
		t.Run(attacker+"/poll", func(t *testing.T) { b.polls(t, attacker) })
		t.Run(attacker+"/poll for an activity", func(t *testing.T) { b.pollsActivities(t, attacker) })
		t.Run(attacker+"/reset", func(t *testing.T) { b.resets(t, attacker) })
		t.Run(attacker+"/batch", func(t *testing.T) { b.batches(t, attacker) })
		t.Run(attacker+"/eager start", func(t *testing.T) { b.startsEagerly(t, attacker) })
	}
	t.Run("thief/with the namespace elsewhere", func(t *testing.T) { b.misnames(t) })
	t.Run("thief/acts in the namespace", func(t *testing.T) { b.reachesOver(t) })
}

// readsAQuery asks the victim's workflow, whose worker answers with a secret.
func (b *bench) readsAQuery(t *testing.T, attacker string) {
	w, p := b.as(t, "worker", victims), b.as(t, attacker, victims)
	outcome := "ciphertext"
	if attacker == "thief" {
		err := p.query("done", nil)
		outcome = refusal(err)
	} else {
		asked := make(chan error, 1)
		go func() { asked <- p.query("done", nil) }()
		w.answerQuery("done", &workflowservice.RespondQueryTaskCompletedRequest{CompletedType: enumspb.QUERY_RESULT_TYPE_ANSWERED, QueryResult: list(b.secret("query answer"))})
		if err := <-asked; err != nil {
			t.Errorf("the query: %v", err)
		}
		if !bytes.Contains(p.told(), []byte("sealed.v1")) {
			t.Error("there is nothing sealed in the answer: this attack proves nothing")
		}
	}
	b.record(t, "read: answer to a query", p, outcome)
}

// polls takes the tasks of the victim's workers. The attacker gets none, and the worker gets them still.
func (b *bench) polls(t *testing.T, attacker string) {
	w, p := b.as(t, "worker", victims), b.as(t, attacker, victims)
	id := "bait-for-the-" + attacker
	must[any](t, "start the bait")(nil, w.start(id, func(q *workflowservice.StartWorkflowExecutionRequest) { q.Input = list(b.secret("input of " + id)) }))
	ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
	defer cancel()
	task, err := p.PollWorkflowTaskQueue(ctx, &workflowservice.PollWorkflowTaskQueueRequest{Namespace: victims, TaskQueue: &taskqueuepb.TaskQueue{Name: id}})
	if len(task.GetTaskToken()) > 0 {
		t.Error("the attacker was handed a workflow task")
	}
	outcome := "no task"
	if err != nil {
		outcome = refusal(err)
	}
	b.record(t, "read: poll for a workflow task", p, outcome)
	w.task(id)
	w.knows(t, b, "input of "+id)
}

// pollsActivities takes the victim's activity. The attacker gets none; it is paused where people see it, and goes on from there.
func (b *bench) pollsActivities(t *testing.T, attacker string) {
	w, p := b.as(t, "worker", victims), b.as(t, attacker, victims)
	id := "activity-for-the-" + attacker
	must[any](t, "start the bait")(nil, w.start(id, nil))
	must[any](t, "schedule the activity")(nil, w.complete(w.task(id), activity(id, b.secret("input of "+id))))
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Second)
	defer cancel()
	task, err := p.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: victims, TaskQueue: &taskqueuepb.TaskQueue{Name: id}})
	if len(task.GetTaskToken()) > 0 {
		t.Error("the attacker was handed an activity")
	}
	outcome := "no task; the activity is paused"
	if err != nil {
		outcome = refusal(err)
	} else {
		must[any](t, "unpause it")(w.UnpauseActivity(w.ctx, &workflowservice.UnpauseActivityRequest{Namespace: victims, Execution: execution(id), Activity: &workflowservice.UnpauseActivityRequest_Id{Id: "1"}}))
	}
	b.record(t, "read: poll for an activity", p, outcome)
	w.activityTask(id)
	w.knows(t, b, "input of "+id)
}

// resets makes a new run of the victim's workflow, and reads that.
func (b *bench) resets(t *testing.T, attacker string) {
	w, p := b.as(t, "worker", victims), b.as(t, attacker, victims)
	id := "reset-by-the-" + attacker
	must[any](t, "start")(nil, w.start(id, func(q *workflowservice.StartWorkflowExecutionRequest) { q.Input = list(b.secret("input of " + id)) }))
	must[any](t, "complete")(nil, w.complete(w.task(id), finish(b.secret("result of "+id))))
	reset, err := p.ResetWorkflowExecution(p.ctx, &workflowservice.ResetWorkflowExecutionRequest{Namespace: victims, WorkflowExecution: execution(id), RequestId: id, WorkflowTaskFinishEventId: 4})
	outcome := refusal(err)
	if attacker != "thief" {
		if err != nil {
			t.Fatalf("reset: %v", err)
		}
		_, err = p.GetWorkflowExecutionHistory(p.ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: victims, Execution: &commonpb.WorkflowExecution{WorkflowId: id, RunId: reset.RunId}})
		outcome = "reset; its history is " + refusal(err)
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v", err)
	}
	b.record(t, "read: reset, and the new run's history", p, outcome)
}

// batches signals the victim's workflows in bulk, and reads what the server answers about that.
func (b *bench) batches(t *testing.T, attacker string) {
	p := b.as(t, attacker, victims)
	id := "batch-by-the-" + attacker
	_, err := p.StartBatchOperation(p.ctx, &workflowservice.StartBatchOperationRequest{Namespace: victims, JobId: id, Reason: "x", Executions: []*commonpb.WorkflowExecution{execution("ward")},
		Operation: &workflowservice.StartBatchOperationRequest_SignalOperation{SignalOperation: batchSignal(value("x"))}})
	outcome := "the answers hold no payloads"
	if attacker == "thief" {
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("the thief reaches the namespace: %v", err)
		}
		outcome = refusal(err)
	} else {
		must[any](t, "start a batch")(nil, err)
		must[any](t, "describe it")(p.DescribeBatchOperation(p.ctx, &workflowservice.DescribeBatchOperationRequest{Namespace: victims, JobId: id}))
		must[any](t, "list them")(p.ListBatchOperations(p.ctx, &workflowservice.ListBatchOperationsRequest{Namespace: victims}))
	}
	b.record(t, "read: batch operation", p, outcome)
}

// startsEagerly asks for the first task of a workflow that exists already, which then is the victim's.
func (b *bench) startsEagerly(t *testing.T, attacker string) {
	w, p := b.as(t, "worker", victims), b.as(t, attacker, victims)
	id := "eager-for-the-" + attacker
	must[any](t, "start")(nil, w.start(id, func(q *workflowservice.StartWorkflowExecutionRequest) { q.Input = list(b.secret("input of " + id)) }))
	a, err := p.StartWorkflowExecution(p.ctx, p.startRequest(id, func(q *workflowservice.StartWorkflowExecutionRequest) {
		// The request id of the first start: the server answers as it did then.
		q.RequestId, q.RequestEagerExecution, q.WorkflowIdConflictPolicy = id, true, enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
	}))
	outcome := "no task"
	if err != nil {
		outcome = refusal(err)
	} else if a.EagerWorkflowTask != nil {
		t.Error("the attacker was handed a task")
	}
	b.record(t, "read: eager start", p, outcome)
	w.task(id)
	w.knows(t, b, "input of "+id)
}

// misnames says one namespace and means another.
func (b *bench) misnames(t *testing.T) {
	w, p := b.as(t, "worker", victims), b.as(t, "thief", thiefs)
	must[any](t, "start")(nil, w.start("for-its-token", func(q *workflowservice.StartWorkflowExecutionRequest) { q.Input = list(b.secret("input for a token")) }))
	token := w.task("for-its-token").TaskToken
	id := must[*workflowservice.DescribeNamespaceResponse](t, "describe")(w.DescribeNamespace(w.ctx, &workflowservice.DescribeNamespaceRequest{Namespace: victims})).NamespaceInfo.Id
	header := metadata.AppendToOutgoingContext(p.ctx, "temporal-namespace", victims)
	for name, attempt := range map[string]func() error{
		"task token of another namespace": func() error {
			_, err := p.RespondWorkflowTaskCompleted(p.ctx, &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: thiefs, TaskToken: token, ReturnNewWorkflowTask: true, ForceCreateNewWorkflowTask: true})
			return err
		},
		"task token, and no namespace": func() error {
			_, err := p.RespondWorkflowTaskCompleted(p.ctx, &workflowservice.RespondWorkflowTaskCompletedRequest{TaskToken: token, ReturnNewWorkflowTask: true, ForceCreateNewWorkflowTask: true})
			return err
		},
		"no namespace": func() error {
			_, err := p.ListWorkflowExecutions(p.ctx, &workflowservice.ListWorkflowExecutionsRequest{})
			return err
		},
		"namespace in a header": func() error {
			_, err := p.GetWorkflowExecutionHistory(header, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: thiefs, Execution: execution("ward")})
			if status.Code(err) == codes.NotFound { // there is no such workflow in the thief's own
				return status.Error(codes.PermissionDenied, "temporal-seal: "+err.Error())
			}
			return err
		},
		"namespace by its id": func() error {
			_, err := p.DescribeNamespace(p.ctx, &workflowservice.DescribeNamespaceRequest{Namespace: thiefs, Id: id})
			return err
		},
		"namespace's id as its name": func() error {
			_, err := p.ListWorkflowExecutions(p.ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: id})
			return err
		},
		"namespace in other letters": func() error {
			_, err := p.ListWorkflowExecutions(p.ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: strings.ToUpper(victims)})
			return err
		},
		"an endpoint to the namespace": func() error {
			_, err := p.operator.ListNexusEndpoints(p.ctx, &operatorservice.ListNexusEndpointsRequest{})
			return err
		},
	} {
		err := attempt()
		if code := status.Code(err); code != codes.PermissionDenied && code != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
		b.record(t, "reach: "+name, p, refusal(err))
	}
	namespaces := must[*workflowservice.ListNamespacesResponse](t, "list namespaces")(p.ListNamespaces(p.ctx, &workflowservice.ListNamespacesRequest{}))
	if len(namespaces.Namespaces) != 1 || namespaces.Namespaces[0].NamespaceInfo.Name != thiefs {
		t.Errorf("the thief receives the namespaces %v", namespaces.Namespaces)
	}
	b.record(t, "reach: list of namespaces", p, "its own alone")
}

// reachesOver has a workflow of the thief's act in the victim's namespace, which the server would let it.
func (b *bench) reachesOver(t *testing.T) {
	d := b.as(t, "", victims)
	for name, command := range map[string]*commandpb.Command{
		"child": {CommandType: enumspb.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION, Attributes: &commandpb.Command_StartChildWorkflowExecutionCommandAttributes{
			StartChildWorkflowExecutionCommandAttributes: &commandpb.StartChildWorkflowExecutionCommandAttributes{Namespace: victims, WorkflowId: "planted", WorkflowType: &commonpb.WorkflowType{Name: "Any"},
				TaskQueue: &taskqueuepb.TaskQueue{Name: "planted"}, Input: list(b.loot.payload)}}},
		"signal": {CommandType: enumspb.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION, Attributes: &commandpb.Command_SignalExternalWorkflowExecutionCommandAttributes{
			SignalExternalWorkflowExecutionCommandAttributes: &commandpb.SignalExternalWorkflowExecutionCommandAttributes{Namespace: victims, Execution: execution("ward"), SignalName: "planted", Input: list(b.loot.payload)}}},
		"cancellation": {CommandType: enumspb.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION, Attributes: &commandpb.Command_RequestCancelExternalWorkflowExecutionCommandAttributes{
			RequestCancelExternalWorkflowExecutionCommandAttributes: &commandpb.RequestCancelExternalWorkflowExecutionCommandAttributes{Namespace: victims, WorkflowId: "ward"}}},
	} {
		p := b.as(t, "thief", thiefs)
		id := "thief-plants-a-" + name
		must[any](t, "start")(nil, p.start(id, nil))
		err := p.refusedTask(id, command)
		if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "does not reach") {
			t.Errorf("%s: %v", name, err)
		}
		b.record(t, "reach: "+name+" in another namespace", p, refusal(err))
	}
	for _, e := range d.events("ward") {
		if e.GetWorkflowExecutionSignaledEventAttributes().GetSignalName() == "planted" || e.GetWorkflowExecutionCancelRequestedEventAttributes() != nil {
			t.Errorf("it was planted: %v", e)
		}
	}
	if _, err := d.DescribeWorkflowExecution(d.ctx, &workflowservice.DescribeWorkflowExecutionRequest{Namespace: victims, Execution: execution("planted")}); status.Code(err) != codes.NotFound {
		t.Errorf("a child was planted: %v", err)
	}
}

// honest has the worker go through the same APIs, after all of that, and find its secrets.
func honest(t *testing.T, b *bench) {
	w := b.as(t, "worker", victims)
	for _, d := range apis {
		before := len(b.recorded(t))
		if err := d.read(w); err != nil {
			t.Errorf("%s: %v", d.name, err)
		}
		added := b.recorded(t)[before:]
		if len(added) != 1 || added[0].Caller.Subject != "worker" || added[0].Namespace != victims || added[0].Code != "OK" {
			t.Errorf("%s: on record is %+v", d.name, added)
			continue
		}
		for _, p := range added[0].Payloads {
			opened := p.Verdict == "opened" && (p.Key == "phi" || p.Key == "default") && p.Sealed == victims && p.Count > 0
			if !opened {
				t.Errorf("%s: on record is %+v", d.name, added[0])
			}
		}
	}
	w.knows(t, b, "input", "memo", "header", "summary", "activity", "heartbeat", "update", "outcome", "signal", "schedule", "result", "failure", "details", "member")
}

// record is a line of the audit file.
type record struct {
	Caller    struct{ Kind, Subject, Listener string }
	Namespace string
	RPC       string
	Payloads  []struct {
		Kind, Key, Verdict string
		Sealed             string `json:"sealed_in"`
		Count              int
	}
	Code string
}

func (b *bench) recorded(t *testing.T) []record {
	t.Helper()
	text, err := os.ReadFile(b.records)
	if err != nil {
		t.Fatal(err)
	}
	var all []record
	for line := range bytes.Lines(text) {
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		all = append(all, r)
	}
	return all
}

// recordsHoldNothing searches the audit file, the proxy's log and its metrics for the secrets, and finds the attackers on record:
// no phi was opened for any of them.
func recordsHoldNothing(t *testing.T, b *bench) {
	sweep := harness.NewSweep(b.canaries)
	text, err := os.ReadFile(b.records)
	if err != nil {
		t.Fatal(err)
	}
	sweep.Bytes("the audit file", text)
	sweep.Bytes("the proxy's log", b.proxy.Log.Bytes())
	if n, _ := sweep.Count(); n > 0 {
		t.Error(sweep.Report())
	}
	denied := map[string]int{}
	for _, r := range b.recorded(t) {
		for _, p := range r.Payloads {
			if r.Caller.Subject != "worker" && p.Key == "phi" && p.Verdict == "opened" {
				t.Errorf("opened for the %s: %+v", r.Caller.Subject, r)
			}
			if slices.Contains([]string{"denied", "failed"}, p.Verdict) {
				denied[r.Caller.Subject] += p.Count
			}
		}
	}
	if denied["stranger"] == 0 || denied["clerk"] == 0 || denied["worker"] > 0 {
		t.Errorf("denied by caller: %v", denied)
	}
}
