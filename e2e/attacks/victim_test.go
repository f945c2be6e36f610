package attacks

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	protocolpb "go.temporal.io/api/protocol/v1"
	querypb "go.temporal.io/api/query/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	sdkpb "go.temporal.io/api/sdk/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	updatepb "go.temporal.io/api/update/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// loot is what an attacker took from the database, or saw on the wire to the server.
type loot struct {
	payload *commonpb.Payload // sealed whole
	members *commonpb.Payload // a JSON document with one member sealed in place
	failure *commonpb.Payload // the sealed texts of a failure
	text    string            // a sealed text
}

func execution(id string) *commonpb.WorkflowExecution {
	return &commonpb.WorkflowExecution{WorkflowId: id}
}

// value is a payload as SDKs make it of a Go value.
func value(v any) *commonpb.Payload {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // the values of this test are all JSON
	}
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: text}
}

func list(p ...*commonpb.Payload) *commonpb.Payloads { return &commonpb.Payloads{Payloads: p} }

// text makes a secret, and secret one in a payload.
func (b *bench) text(site string) string {
	b.secrets[site] = b.canaries.New(site)
	return b.secrets[site]
}

func (b *bench) secret(site string) *commonpb.Payload { return value(b.text(site)) }

// must fails the test on an error of a step that is no attack.
func must[A any](t *testing.T, doing string) func(A, error) A {
	t.Helper()
	return func(a A, err error) A {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", doing, err)
		}
		return a
	}
}

func (p *party) startRequest(id string, change func(*workflowservice.StartWorkflowExecutionRequest)) *workflowservice.StartWorkflowExecutionRequest {
	q := &workflowservice.StartWorkflowExecutionRequest{Namespace: p.namespace, WorkflowId: id, WorkflowType: &commonpb.WorkflowType{Name: "Any"}, RequestId: id,
		TaskQueue: &taskqueuepb.TaskQueue{Name: id}}
	if change != nil {
		change(q)
	}
	return q
}

func (p *party) start(id string, change func(*workflowservice.StartWorkflowExecutionRequest)) error {
	_, err := p.StartWorkflowExecution(p.ctx, p.startRequest(id, change))
	return err
}

// task takes the workflow task of a workflow, which has a task queue of its own.
func (p *party) task(id string) *workflowservice.PollWorkflowTaskQueueResponse {
	p.Helper()
	task, err := p.PollWorkflowTaskQueue(p.ctx, &workflowservice.PollWorkflowTaskQueueRequest{Namespace: p.namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: id}})
	if err != nil || len(task.TaskToken) == 0 {
		p.Fatalf("poll for the workflow task of %s: %v", id, err)
	}
	return task
}

func (p *party) complete(task *workflowservice.PollWorkflowTaskQueueResponse, commands ...*commandpb.Command) error {
	_, err := p.RespondWorkflowTaskCompleted(p.ctx, &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: p.namespace, TaskToken: task.TaskToken, Commands: commands})
	return err
}

func activity(id string, input *commonpb.Payload) *commandpb.Command {
	return &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK,
		Attributes: &commandpb.Command_ScheduleActivityTaskCommandAttributes{ScheduleActivityTaskCommandAttributes: &commandpb.ScheduleActivityTaskCommandAttributes{
			ActivityId: "1", ActivityType: &commonpb.ActivityType{Name: "Any"}, TaskQueue: &taskqueuepb.TaskQueue{Name: id}, Input: list(input),
			ScheduleToCloseTimeout: durationpb.New(10 * time.Minute), RetryPolicy: &commonpb.RetryPolicy{InitialInterval: durationpb.New(time.Millisecond)}}}}
}

func finish(result *commonpb.Payload) *commandpb.Command {
	return &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION, Attributes: &commandpb.Command_CompleteWorkflowExecutionCommandAttributes{
		CompleteWorkflowExecutionCommandAttributes: &commandpb.CompleteWorkflowExecutionCommandAttributes{Result: list(result)}}}
}

func fail(f *failurepb.Failure) *commandpb.Command {
	return &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION, Attributes: &commandpb.Command_FailWorkflowExecutionCommandAttributes{
		FailWorkflowExecutionCommandAttributes: &commandpb.FailWorkflowExecutionCommandAttributes{Failure: f}}}
}

func applicationFailure(message string, details ...*commonpb.Payload) *failurepb.Failure {
	return &failurepb.Failure{Message: message, Source: "test", StackTrace: "at " + message, FailureInfo: &failurepb.Failure_ApplicationFailureInfo{
		ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{Type: "Any", Details: list(details...)}}}
}

func (p *party) activityTask(id string) *workflowservice.PollActivityTaskQueueResponse {
	p.Helper()
	task, err := p.PollActivityTaskQueue(p.ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: p.namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: id}})
	if err != nil || len(task.TaskToken) == 0 {
		p.Fatalf("poll for the activity of %s: %v", id, err)
	}
	return task
}

// answerQuery does a worker's part of one query: it polls, and answers what it was asked.
func (p *party) answerQuery(id string, answer *workflowservice.RespondQueryTaskCompletedRequest) {
	p.Helper()
	task := p.task(id)
	if task.Query == nil {
		p.Errorf("no query, but a task of %s", id)
		return
	}
	answer.Namespace, answer.TaskToken = p.namespace, task.TaskToken
	if _, err := p.RespondQueryTaskCompleted(p.ctx, answer); err != nil {
		p.Errorf("answer the query of %s: %v", id, err)
	}
}

func (p *party) query(id string, args *commonpb.Payloads) error {
	_, err := p.QueryWorkflow(p.ctx, &workflowservice.QueryWorkflowRequest{Namespace: p.namespace, Execution: execution(id), Query: &querypb.WorkflowQuery{QueryType: "any", QueryArgs: args}})
	return err
}

func updateRequest(namespace, id, update string, args *commonpb.Payloads) *workflowservice.UpdateWorkflowExecutionRequest {
	return &workflowservice.UpdateWorkflowExecutionRequest{Namespace: namespace, WorkflowExecution: execution(id),
		WaitPolicy: &updatepb.WaitPolicy{LifecycleStage: enumspb.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED},
		Request:    &updatepb.Request{Meta: &updatepb.Meta{UpdateId: update}, Input: &updatepb.Input{Name: "any", Args: args}}}
}

// answerUpdate does a worker's part of one update.
func (p *party) answerUpdate(id, update string, outcome *commonpb.Payload) error {
	p.Helper()
	task := p.task(id)
	if len(task.Messages) != 1 {
		p.Fatalf("%d messages in the task of %s", len(task.Messages), id)
	}
	asked := task.Messages[0]
	var request updatepb.Request
	if err := asked.Body.UnmarshalTo(&request); err != nil {
		p.Fatal(err)
	}
	body := func(m proto.Message) *anypb.Any {
		a, err := anypb.New(m)
		if err != nil {
			p.Fatal(err)
		}
		return a
	}
	accepted := &protocolpb.Message{Id: update + "/accept", ProtocolInstanceId: asked.ProtocolInstanceId, Body: body(&updatepb.Acceptance{
		AcceptedRequestMessageId: asked.Id, AcceptedRequestSequencingEventId: asked.GetEventId(), AcceptedRequest: &request})}
	done := &protocolpb.Message{Id: update + "/complete", ProtocolInstanceId: asked.ProtocolInstanceId, Body: body(&updatepb.Response{
		Meta: request.Meta, Outcome: &updatepb.Outcome{Value: &updatepb.Outcome_Success{Success: list(outcome)}}})}
	send := func(m *protocolpb.Message) *commandpb.Command {
		return &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_PROTOCOL_MESSAGE, Attributes: &commandpb.Command_ProtocolMessageCommandAttributes{
			ProtocolMessageCommandAttributes: &commandpb.ProtocolMessageCommandAttributes{MessageId: m.Id}}}
	}
	_, err := p.RespondWorkflowTaskCompleted(p.ctx, &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: p.namespace, TaskToken: task.TaskToken,
		Messages: []*protocolpb.Message{accepted, done}, Commands: []*commandpb.Command{send(accepted), send(done)}})
	return err
}

// robVictim has the worker keep secrets in every place that there is, and takes what the server holds of them.
func (b *bench) robVictim(t *testing.T) {
	w := b.as(t, "worker", victims)
	must[any](t, "start the ward")(nil, w.start("ward", func(q *workflowservice.StartWorkflowExecutionRequest) {
		q.Input = list(b.secret("input"))
		q.Memo = &commonpb.Memo{Fields: map[string]*commonpb.Payload{"note": b.secret("memo")}}
		q.Header = &commonpb.Header{Fields: map[string]*commonpb.Payload{"auth": b.secret("header")}}
		q.UserMetadata = &sdkpb.UserMetadata{Summary: b.secret("summary")}
	}))
	must[any](t, "complete the first task")(nil, w.complete(w.task("ward"), activity("ward", b.secret("activity"))))
	w.activityTask("ward")
	must[any](t, "beat")(w.RecordActivityTaskHeartbeatById(w.ctx, &workflowservice.RecordActivityTaskHeartbeatByIdRequest{Namespace: victims, WorkflowId: "ward", ActivityId: "1", Details: list(b.secret("heartbeat"))}))

	updated := make(chan error, 1)
	go func() {
		_, err := w.UpdateWorkflowExecution(w.ctx, updateRequest(victims, "ward", "u1", list(b.secret("update"))))
		updated <- err
	}()
	must[any](t, "answer the update")(nil, w.answerUpdate("ward", "u1", b.secret("outcome")))
	must[any](t, "update")(nil, <-updated)
	must[any](t, "signal")(w.SignalWorkflowExecution(w.ctx, &workflowservice.SignalWorkflowExecutionRequest{Namespace: victims, WorkflowExecution: execution("ward"), SignalName: "any", Input: list(b.secret("signal"))}))
	must[any](t, "complete the task of the signal")(nil, w.complete(w.task("ward")))

	must[any](t, "create a schedule")(w.CreateSchedule(w.ctx, &workflowservice.CreateScheduleRequest{Namespace: victims, ScheduleId: "rounds", RequestId: "rounds", Schedule: &schedulepb.Schedule{
		Spec:  &schedulepb.ScheduleSpec{Interval: []*schedulepb.IntervalSpec{{Interval: durationpb.New(24 * time.Hour)}}},
		State: &schedulepb.ScheduleState{Paused: true},
		Action: &schedulepb.ScheduleAction{Action: &schedulepb.ScheduleAction_StartWorkflow{StartWorkflow: &workflowpb.NewWorkflowExecutionInfo{
			WorkflowId: "rounds", WorkflowType: &commonpb.WorkflowType{Name: "Any"}, TaskQueue: &taskqueuepb.TaskQueue{Name: "rounds"}, Input: list(b.secret("schedule"))}}}}}))

	must[any](t, "start the one that ends")(nil, w.start("done", nil))
	must[any](t, "end it")(nil, w.complete(w.task("done"), finish(b.secret("result"))))
	must[any](t, "start the one that fails")(nil, w.start("failed", nil))
	must[any](t, "fail it")(nil, w.complete(w.task("failed"), fail(applicationFailure(b.text("failure"), b.secret("details")))))
	must[any](t, "start the one with members")(nil, w.start("members", func(q *workflowservice.StartWorkflowExecutionRequest) {
		q.Input = list(value(map[string]string{"name": b.text("member"), "ward": "7"}))
	}))
	b.loot = b.steal(t, w)
}

// steal reads past the proxy what the server holds, all of it sealed.
func (b *bench) steal(t *testing.T, w *party) loot {
	t.Helper()
	d := b.as(t, "", victims)
	start := func(id string) *historypb.WorkflowExecutionStartedEventAttributes {
		return d.events(id)[0].GetWorkflowExecutionStartedEventAttributes()
	}
	l := loot{payload: start("ward").Input.Payloads[0], members: start("members").Input.Payloads[0]}
	last := d.events("failed")
	l.failure = last[len(last)-1].GetWorkflowExecutionFailedEventAttributes().GetFailure().GetEncodedAttributes()
	must[any](t, "complete the task of the one with members")(nil, w.complete(w.task("members")))
	asked := make(chan error, 1)
	go func() { asked <- d.query("members", nil) }()
	w.answerQuery("members", &workflowservice.RespondQueryTaskCompletedRequest{CompletedType: enumspb.QUERY_RESULT_TYPE_FAILED, ErrorMessage: b.text("query error")})
	l.text = sealedText(status.Convert(<-asked).Message())
	if string(l.payload.GetMetadata()["encoding"]) != "binary/sealed.v1" || string(l.members.GetMetadata()["encoding"]) != "json/sealed.v1" ||
		string(l.failure.GetMetadata()["encoding"]) != "binary/sealed.v1" || l.text == "" {
		t.Fatalf("this is no loot: %v, %v, %v, %q", l.payload, l.members, l.failure, l.text)
	}
	b.record(t, "reads all that the server holds", d, "ciphertext")
	return l
}

// sealedText finds the sealed text within another.
func sealedText(text string) string {
	_, after, ok := strings.Cut(text, "sealed.v1:")
	if !ok {
		return ""
	}
	end := strings.IndexFunc(after, func(r rune) bool {
		return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", r)
	})
	if end < 0 {
		end = len(after)
	}
	return "sealed.v1:" + after[:end]
}

// events reads a whole history; raw ones too.
func (p *party) events(id string) []*historypb.HistoryEvent {
	p.Helper()
	a, err := p.GetWorkflowExecutionHistory(p.ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: p.namespace, Execution: execution(id)})
	if err != nil {
		p.Fatalf("read the history of %s: %v", id, err)
	}
	events := a.GetHistory().GetEvents()
	for _, blob := range a.RawHistory {
		var h historypb.History
		if err := proto.Unmarshal(blob.Data, &h); err != nil {
			p.Fatal(err)
		}
		events = append(events, h.Events...)
	}
	return events
}

// knows checks that a party received the secrets of these sites: the sweep that finds nothing elsewhere finds them here.
func (p *party) knows(t *testing.T, b *bench, sites ...string) {
	t.Helper()
	told := p.told()
	for _, site := range sites {
		if text := b.secrets[site]; !bytes.Contains(told, []byte(text)) {
			t.Errorf("the %s, who may, does not get the %s", p.name, site)
		}
	}
}
