package contract

import (
	"bytes"
	"path/filepath"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	querypb "go.temporal.io/api/query/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
)

// serverToken is a task token as the server writes it, for a type of activity.
func serverToken(id, activity string) []byte {
	var b []byte
	text := func(number protowire.Number, value string) {
		b = protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), value)
	}
	text(1, "0c4f3a52-7d6e-4a53-9b53-1d5a3c8c6f2e")
	text(2, "w")
	text(3, "9d1f6f0e-1f9c-4f0d-8a55-4c7a9f6b3d21")
	b = protowire.AppendVarint(protowire.AppendTag(b, 4, protowire.VarintType), 5)
	b = protowire.AppendVarint(protowire.AppendTag(b, 5, protowire.VarintType), 1)
	text(6, id)
	text(8, activity)
	return b
}

// replicas are two proxies with one key, whose rules read the type of activities.
func replicas(t *testing.T) [2]*rig {
	key := filepath.Join(t.TempDir(), "shared.key")
	if err := newKey(key); err != nil {
		t.Fatal(err)
	}
	s := setup{keys: "  - {name: default, active: \"local:" + key + "\"}\n", policy: `package temporal

response contains {"action": "open"}

request contains {"action": "pass"}

request contains {"action": "seal"} if input.activity.type == "Secret"
`}
	return [2]*rig{start(t, s), start(t, s)}
}

// handedOut is the token that a worker gets with an activity's task.
func (r *rig) handedOut(t *testing.T, token []byte, activity string) []byte {
	t.Helper()
	e := r.pollActivity(t, "tokens", reply("PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueResponse{TaskToken: token,
		WorkflowNamespace: "tokens", WorkflowExecution: execution("w"), WorkflowType: &commonpb.WorkflowType{Name: "W"}, ActivityId: "a",
		ActivityType: &commonpb.ActivityType{Name: activity}, Attempt: 1}))
	return answered(t, e, new(workflowservice.PollActivityTaskQueueResponse)).TaskToken
}

// result is how the result of the task with a token is forwarded. The token has to be the server's.
func (r *rig) result(t *testing.T, token, server []byte) *commonpb.Payload {
	t.Helper()
	e := r.send(t, "RespondActivityTaskCompleted",
		&workflowservice.RespondActivityTaskCompletedRequest{Namespace: "tokens", TaskToken: token, Result: list(text("CANARY"))})
	q := forwardedAs(t, e, "RespondActivityTaskCompleted", new(workflowservice.RespondActivityTaskCompletedRequest))
	if !bytes.Equal(q.TaskToken, server) {
		t.Errorf("the frontend got the token %q, want %q", q.TaskToken, server)
	}
	return q.Result.Payloads[0]
}

// What a task token says counts if a proxy handed it out, whichever replica that was. A changed token weakens no verdict, and
// no task is lost by it.
func TestAChangedTaskTokenWeakensNoVerdict(t *testing.T) {
	t.Parallel()
	two := replicas(t)
	clear := text("CANARY")
	secret, open := serverToken("secret", "Secret"), serverToken("open", "Open")
	given, givenOpen := two[0].handedOut(t, secret, "Secret"), two[0].handedOut(t, open, "Open")
	if bytes.Equal(given, secret) || !bytes.HasPrefix(given, secret) {
		t.Fatalf("the worker got the token %q", given)
	}
	mac, changed := given[len(secret):], serverToken("secret", "Open")
	for i, r := range two { // the second one has seen none of these tasks
		equal(t, "the result of an activity that may pass", r.result(t, givenOpen, open), clear)
		r.isSealed(t, "the result of a secret activity", "tokens", r.result(t, given, secret), clear)
		for what, token := range map[string][]byte{
			"a changed token with its MAC":     append(bytes.Clone(changed), mac...),
			"a changed token with another MAC": append(bytes.Clone(changed), givenOpen[len(open):]...),
		} {
			r.isSealed(t, what, "tokens", r.result(t, token, changed), clear)
		}
		r.isSealed(t, "a changed token without a MAC", "tokens", r.result(t, changed, changed), clear)
		flipped := append(bytes.Clone(changed), mac...)
		flipped[len(flipped)-10] ^= 1
		r.isSealed(t, "a changed token with a changed MAC", "tokens", r.result(t, flipped, changed), clear)
		// A replica of an earlier release hands out tokens without a MAC.
		if sealed := r.result(t, open, open); (i == 0) != proto.Equal(sealed, clear) {
			t.Errorf("replica %d: the result for an token without a MAC is forwarded as %v", i, sealed)
		}
	}
}

// Each kind of token has a MAC for the worker, which the server does not get.
func TestTaskTokensOfEveryKindHaveAMAC(t *testing.T) {
	t.Parallel()
	two := replicas(t)
	server := serverToken("", "")
	workflowTask := &workflowservice.PollWorkflowTaskQueueResponse{TaskToken: server, WorkflowExecution: execution("w")}
	activity := &workflowservice.PollActivityTaskQueueResponse{TaskToken: server, WorkflowExecution: execution("w"), ActivityId: "a"}
	two[0].handedOut(t, server, "Any") // a data key is at hand
	tokens := map[string][]byte{}
	get := func(kind, method string, q proto.Message, a, into proto.Message, of func() []byte) {
		t.Helper()
		answered(t, two[0].send(t, method, q, reply(method, a)), into)
		tokens[kind] = of()
	}
	task := new(workflowservice.PollWorkflowTaskQueueResponse)
	get("workflow task", "PollWorkflowTaskQueue", &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "tokens"}, workflowTask, task, task.GetTaskToken)
	query := new(workflowservice.PollWorkflowTaskQueueResponse)
	asked := proto.CloneOf(workflowTask)
	asked.Query = &querypb.WorkflowQuery{QueryType: "q"}
	get("query", "PollWorkflowTaskQueue", &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "tokens"}, asked, query, query.GetTaskToken)
	nexus := new(workflowservice.PollNexusTaskQueueResponse)
	get("Nexus task", "PollNexusTaskQueue", &workflowservice.PollNexusTaskQueueRequest{Namespace: "tokens"},
		&workflowservice.PollNexusTaskQueueResponse{TaskToken: server}, nexus, nexus.GetTaskToken)
	returned := new(workflowservice.RespondWorkflowTaskCompletedResponse)
	get("returned task", "RespondWorkflowTaskCompleted", &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "tokens", TaskToken: server},
		&workflowservice.RespondWorkflowTaskCompletedResponse{WorkflowTask: workflowTask, ActivityTasks: []*workflowservice.PollActivityTaskQueueResponse{activity, activity}},
		returned, func() []byte { return returned.GetWorkflowTask().GetTaskToken() })
	for i, eager := range returned.ActivityTasks {
		tokens["eager activity "+string(rune('0'+i))] = eager.TaskToken
	}
	started := new(workflowservice.StartWorkflowExecutionResponse)
	get("eager workflow task", "StartWorkflowExecution", &workflowservice.StartWorkflowExecutionRequest{Namespace: "tokens", WorkflowId: "w"},
		&workflowservice.StartWorkflowExecutionResponse{EagerWorkflowTask: workflowTask}, started, func() []byte { return started.GetEagerWorkflowTask().GetTaskToken() })
	if len(tokens) != 7 {
		t.Fatalf("%d kinds of tokens", len(tokens))
	}
	for kind, token := range tokens {
		mac, ok := bytes.CutPrefix(token, server)
		if !ok || len(mac) == 0 {
			t.Errorf("%s: the worker got %q", kind, token)
			continue
		}
		number, _, n := protowire.ConsumeField(mac)
		if n != len(mac) || number < 1000 {
			t.Errorf("%s: behind the server's token stands field %d of %d bytes in %d", kind, number, n, len(mac))
		}
	}
	for method, q := range map[string]func(token []byte) proto.Message{
		"RespondWorkflowTaskCompleted": func(b []byte) proto.Message {
			return &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "tokens", TaskToken: b}
		},
		"RespondWorkflowTaskFailed": func(b []byte) proto.Message {
			return &workflowservice.RespondWorkflowTaskFailedRequest{Namespace: "tokens", TaskToken: b}
		},
		"RespondActivityTaskCompleted": func(b []byte) proto.Message {
			return &workflowservice.RespondActivityTaskCompletedRequest{Namespace: "tokens", TaskToken: b}
		},
		"RespondActivityTaskFailed": func(b []byte) proto.Message {
			return &workflowservice.RespondActivityTaskFailedRequest{Namespace: "tokens", TaskToken: b}
		},
		"RespondActivityTaskCanceled": func(b []byte) proto.Message {
			return &workflowservice.RespondActivityTaskCanceledRequest{Namespace: "tokens", TaskToken: b}
		},
		"RecordActivityTaskHeartbeat": func(b []byte) proto.Message {
			return &workflowservice.RecordActivityTaskHeartbeatRequest{Namespace: "tokens", TaskToken: b}
		},
		"RespondQueryTaskCompleted": func(b []byte) proto.Message {
			return &workflowservice.RespondQueryTaskCompletedRequest{Namespace: "tokens", TaskToken: b}
		},
		"RespondNexusTaskCompleted": func(b []byte) proto.Message {
			return &workflowservice.RespondNexusTaskCompletedRequest{Namespace: "tokens", TaskToken: b}
		},
		"RespondNexusTaskFailed": func(b []byte) proto.Message {
			return &workflowservice.RespondNexusTaskFailedRequest{Namespace: "tokens", TaskToken: b}
		},
	} {
		for _, r := range two {
			e := r.send(t, method, q(tokens["workflow task"]))
			if got := e.forwarded(t, method).Body; !bytes.Equal(got, blackbox.Marshal(q(server))) {
				t.Errorf("%s: the frontend got %q", method, got)
			}
		}
	}
}
