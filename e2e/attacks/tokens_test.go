package attacks

import (
	"bytes"
	"strings"
	"testing"
	"time"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Fields of task tokens: the server's for the type of an activity, and the first that can be the proxy's.
const (
	typeField  = 8
	proxyField = 1000
)

// rebuilt is a token of which each field is what change makes of it; nil leaves it out.
func rebuilt(t *testing.T, token []byte, change func(number protowire.Number, field []byte) []byte) []byte {
	t.Helper()
	var out []byte
	for len(token) > 0 {
		number, _, n := protowire.ConsumeField(token)
		if n < 0 {
			t.Fatalf("the token is no message: %v", protowire.ParseError(n))
		}
		out = append(out, change(number, token[:n])...)
		token = token[n:]
	}
	return out
}

// asOpen is a token with another type of activity, and with another field of the proxy's.
func asOpen(t *testing.T, token, mac []byte) []byte {
	t.Helper()
	changed := false
	out := rebuilt(t, token, func(number protowire.Number, field []byte) []byte {
		switch {
		case number == typeField:
			changed = true
			return protowire.AppendString(protowire.AppendTag(nil, typeField, protowire.BytesType), "Open")
		case number >= proxyField:
			return nil
		}
		return field
	})
	if !changed {
		t.Fatal("the token has no type of activity: this attack proves nothing")
	}
	return append(out, mac...)
}

// macOf is the proxy's field of a token.
func macOf(t *testing.T, token []byte) []byte {
	t.Helper()
	mac := rebuilt(t, token, func(number protowire.Number, field []byte) []byte {
		if number < proxyField {
			return nil
		}
		return field
	})
	if len(mac) == 0 {
		t.Fatal("the token has no MAC")
	}
	return mac
}

// takes has a workflow ask for an activity, and takes its task.
func (p *party) takes(id, kind string) *workflowservice.PollActivityTaskQueueResponse {
	p.Helper()
	must[any](p.T, "start")(nil, p.start(id, nil))
	command := activity(id, value("x"))
	command.GetScheduleActivityTaskCommandAttributes().ActivityType = &commonpb.ActivityType{Name: kind}
	must[any](p.T, "ask for an activity")(nil, p.complete(p.task(id), command))
	return p.activityTask(id)
}

// lying has a worker change the tokens of its tasks, so that the policy takes a secret activity for one whose results pass.
func lying(t *testing.T, b *bench) {
	complete := func(p *party, token []byte, result string) {
		p.Helper()
		must[any](p.T, "complete the activity")(p.RespondActivityTaskCompleted(p.ctx,
			&workflowservice.RespondActivityTaskCompletedRequest{Namespace: p.namespace, TaskToken: token, Result: list(value(result))}))
	}
	for name, lie := range map[string]func(p *party, id string, token []byte) []byte{
		"another activity type, the MAC kept":  func(p *party, _ string, token []byte) []byte { return asOpen(p.T, token, macOf(p.T, token)) },
		"another activity type, the MAC taken": func(p *party, _ string, token []byte) []byte { return asOpen(p.T, token, nil) },
		"another activity type, another task's MAC": func(p *party, id string, token []byte) []byte {
			return asOpen(p.T, token, macOf(p.T, p.takes(id+"-open", "Open").TaskToken))
		},
		"a MAC twice": func(p *party, _ string, token []byte) []byte {
			return asOpen(p.T, token, append(macOf(p.T, token), macOf(p.T, token)...))
		},
	} {
		t.Run(name, func(t *testing.T) {
			id := "lie-" + strings.NewReplacer(" ", "-", ",", "", "'", "").Replace(name)
			p, d := b.as(t, "liar", thiefs), b.as(t, "", thiefs)
			task := p.takes(id, "Secret")
			complete(p, lie(p, id, task.TaskToken), b.canaries.New("token: "+name))
			events := d.events(id)
			if last := events[len(events)-1].EventType; last != enumspb.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED {
				t.Errorf("the history ends with %s: the attack could not be carried out", last)
			}
			b.record(t, "token: "+name, d, "the result is sealed")
		})
	}
	t.Run("honest", func(t *testing.T) {
		p, d := b.as(t, "liar", thiefs), b.as(t, "", thiefs)
		complete(p, p.takes("lie-none", "Open").TaskToken, "nothing to hide in here")
		d.events("lie-none")
		if !bytes.Contains(d.told(), []byte("nothing to hide in here")) {
			t.Error("the result of an activity that may pass was sealed: these attacks prove nothing")
		}
	})
	t.Run("past the proxy", func(t *testing.T) { tokensPastTheProxy(t, b) })
}

// tokensPastTheProxy answers tasks past the proxy with the tokens that it handed out: the server takes each kind with its MAC.
func tokensPastTheProxy(t *testing.T, b *bench) {
	p, d := b.as(t, "liar", thiefs), b.as(t, "", thiefs)
	const id = "past"
	must[any](t, "start")(nil, p.start(id, nil))
	task := p.task(id)
	macOf(t, task.TaskToken)
	must[any](t, "complete a workflow task")(nil, d.complete(task, activity(id, value("x"))))
	work := p.activityTask(id)
	macOf(t, work.TaskToken)
	must[any](t, "heartbeat")(d.RecordActivityTaskHeartbeat(d.ctx, &workflowservice.RecordActivityTaskHeartbeatRequest{Namespace: d.namespace, TaskToken: work.TaskToken}))
	must[any](t, "complete an activity")(d.RespondActivityTaskCompleted(d.ctx, &workflowservice.RespondActivityTaskCompletedRequest{Namespace: d.namespace, TaskToken: work.TaskToken}))
	must[any](t, "complete a workflow task")(nil, d.complete(p.task(id)))
	asked := make(chan error, 1)
	go func() { asked <- d.query(id, nil) }()
	query := p.task(id)
	macOf(t, query.TaskToken)
	must[any](t, "answer a query")(d.RespondQueryTaskCompleted(d.ctx, &workflowservice.RespondQueryTaskCompletedRequest{Namespace: d.namespace,
		TaskToken: query.TaskToken, CompletedType: enumspb.QUERY_RESULT_TYPE_ANSWERED, QueryResult: list(value("x"))}))
	must[any](t, "query")(nil, <-asked)
	b.nexus.Lock()
	defer b.nexus.Unlock()
	must[any](t, "start")(nil, p.start(id+"-nexus", nil))
	must[any](t, "ask for an operation")(nil, p.complete(p.task(id+"-nexus"), operation("to-"+thiefs)))
	called := must[*workflowservice.PollNexusTaskQueueResponse](t, "poll for a Nexus task")(p.PollNexusTaskQueue(p.ctx,
		&workflowservice.PollNexusTaskQueueRequest{Namespace: p.namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: "nexus"}}))
	macOf(t, called.TaskToken)
	must[any](t, "complete a Nexus task")(d.RespondNexusTaskCompleted(d.ctx, &workflowservice.RespondNexusTaskCompletedRequest{Namespace: d.namespace, TaskToken: called.TaskToken,
		Response: &nexuspb.Response{Variant: &nexuspb.Response_StartOperation{StartOperation: &nexuspb.StartOperationResponse{Variant: &nexuspb.StartOperationResponse_SyncSuccess{
			SyncSuccess: &nexuspb.StartOperationResponse_Sync{Payload: value("x")}}}}}}))
}

// operation calls a Nexus operation.
func operation(endpoint string) *commandpb.Command {
	return &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION, Attributes: &commandpb.Command_ScheduleNexusOperationCommandAttributes{
		ScheduleNexusOperationCommandAttributes: &commandpb.ScheduleNexusOperationCommandAttributes{Endpoint: endpoint, Service: "s", Operation: "o", Input: value("x"),
			ScheduleToCloseTimeout: durationpb.New(time.Minute)}}}
}

// leading has the thief, who does not reach the victim's namespace, call operations there.
func leading(t *testing.T, b *bench) {
	for _, endpoint := range []string{"to-" + victims, "to-nowhere"} {
		p := b.as(t, "thief", thiefs)
		id := "lead-" + endpoint
		must[any](t, "start")(nil, p.start(id, nil))
		err := p.complete(p.task(id), operation(endpoint))
		if err == nil || !strings.Contains(err.Error(), "Nexus endpoint") {
			t.Errorf("%s: the answer is %v", endpoint, err)
		}
		for _, e := range b.as(t, "", thiefs).events(id) {
			if e.GetNexusOperationScheduledEventAttributes() != nil {
				t.Errorf("%s: the operation is in the history", endpoint)
			}
		}
		_, err = p.StartNexusOperationExecution(p.ctx, &workflowservice.StartNexusOperationExecutionRequest{Namespace: thiefs, OperationId: id,
			RequestId: id, Endpoint: endpoint, Service: "s", Operation: "o", Input: value("x")})
		if err == nil || !strings.Contains(err.Error(), "Nexus endpoint") {
			t.Errorf("%s: the answer to a standalone operation is %v", endpoint, err)
		}
		b.record(t, "endpoint: "+endpoint, p, refusal(err))
	}
}
