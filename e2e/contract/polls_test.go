package contract

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

// kmsRig is a proxy whose default key lives in a key service that can fail.
type kmsRig struct {
	*rig
	kms    *kmsstub.Server
	config setup
}

func startKMS(t *testing.T, more setup) *kmsRig {
	t.Helper()
	return startKMSWith(t, more)
}

// startKMSWith is startKMS with flags. There is a key for each name that the rules of the tests use.
func startKMSWith(t *testing.T, more setup, args ...string) *kmsRig {
	t.Helper()
	more.args = args
	stub := kmsstub.New(kmsstub.Options{})
	if err := stub.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stub.Close)
	for _, name := range keyNames {
		stub.SetAlias("alias/"+name, stub.CreateKey(false))
	}
	return startOn(t, stub, more)
}

// startOn is another proxy with the same keys.
func startOn(t *testing.T, stub *kmsstub.Server, more setup) *kmsRig {
	t.Helper()
	for _, name := range keyNames {
		more.keys += fmt.Sprintf(
			"  - {name: %s, active: %q}\n",
			name,
			"awskms://alias/"+name+"?region=eu-central-1&endpoint="+stub.URL,
		)
	}
	more.env = []string{"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true"}
	return &kmsRig{rig: start(t, more), kms: stub, config: more}
}

// down makes every call of an operation fail as an outage does; "" means all.
func (k *kmsRig) down(op string) {
	k.kms.Always(op, kmsstub.Fault{Error: "KMSInternalException"})
}

// A poll is forwarded once its namespace has a key. Until then it is held, and ends empty before its caller's deadline.
func TestPollsWithoutAKeyAreHeld(t *testing.T) {
	t.Parallel()
	k := startKMS(t, setup{})
	k.down("")
	poll := func(method string, body []byte, timeout time.Duration) (exchange, time.Duration) {
		began := time.Now()
		e := k.do(
			t,
			blackbox.Request{Method: method, Body: body, Timeout: timeout},
			reply(method, &workflowservice.PollWorkflowTaskQueueResponse{TaskToken: []byte("task")}),
		)
		return e, time.Since(began)
	}
	e, took := poll(
		"PollWorkflowTaskQueue",
		blackbox.Marshal(&workflowservice.PollWorkflowTaskQueueRequest{Namespace: "held"}),
		5*time.Second,
	)
	e.empty(t)
	e.wantNames(t, "")
	if took < 2*time.Second {
		t.Errorf("the poll ended after %s of 5 s: workers would poll in a circle", took)
	}
	// Other calls that need the key receive Unavailable.
	k.do(
		t,
		blackbox.Request{
			Method:  "SignalWorkflowExecution",
			Timeout: 4 * time.Second,
			Body: blackbox.Marshal(&workflowservice.SignalWorkflowExecutionRequest{
				Namespace: "held", Input: list(text("CANARY"))}),
		},
	).cameToNothing(
		t,
	)
	// The server's own commands to a worker need no key.
	e, _ = poll("PollNexusTaskQueue", blackbox.Marshal(&workflowservice.PollNexusTaskQueueRequest{Namespace: "held",
		TaskQueue: &taskqueuepb.TaskQueue{Name: "temporal-sys/worker-commands/x"}}), 5*time.Second)
	e.wantNames(t, "PollNexusTaskQueue")
	// A worker that shuts down gets its polls back at once.
	done := make(chan time.Duration, 1)
	go func() {
		_, took := poll(
			"PollActivityTaskQueue",
			blackbox.Marshal(
				&workflowservice.PollActivityTaskQueueRequest{Namespace: "held", Identity: "me", WorkerInstanceKey: "instance"},
			),
			30*time.Second,
		)
		done <- took
	}()
	time.Sleep(time.Second)
	k.send(
		t,
		"ShutdownWorker",
		&workflowservice.ShutdownWorkerRequest{Namespace: "held", Identity: "me", WorkerInstanceKey: "instance"},
	).want(
		t,
		"OK",
	)
	if took := <-done; took > 15*time.Second {
		t.Errorf("a poll of a worker that shut down was held for %s", took)
	}
	// One that waits gets its task once the key is there.
	go func() { time.Sleep(time.Second); k.kms.Heal() }()
	e, _ = poll(
		"PollWorkflowTaskQueue",
		blackbox.Marshal(&workflowservice.PollWorkflowTaskQueueRequest{Namespace: "held"}),
		30*time.Second,
	)
	e.wantNames(t, "PollWorkflowTaskQueue")
	if got := answered(t, e, new(workflowservice.PollWorkflowTaskQueueResponse)); string(got.TaskToken) != "task" {
		t.Errorf("the worker got %v", got)
	}
}

// The encryption context binds a data key to its namespace and the key's name, so that a key service can tell them apart.
func TestDataKeysBelongToOneNamespace(t *testing.T) {
	t.Parallel()
	k := startKMS(t, setup{policy: `package temporal

response contains {"action": "open"}

request contains {"action": "seal", "key": "second"} if input.workflow.id == "second"
`})
	k.seal(t, "one", text("CANARY"))
	k.seal(t, "two", text("CANARY"))
	signaled(t, k.signal(t, "one", "second", text("CANARY")))
	want := map[string]bool{"one default": false, "two default": false, "one second": false}
	for _, c := range k.kms.Calls() {
		if c.Op != "GenerateDataKey" && c.Op != "Decrypt" {
			continue
		}
		name := c.Context["temporal-seal:namespace"] + " " + c.Context["temporal-seal:key"]
		if _, ok := want[name]; !ok {
			t.Errorf("%s was called with the context %v", c.Op, c.Context)
		}
		want[name] = want[name] || c.Op == "GenerateDataKey"
	}
	for name, made := range want {
		if !made {
			t.Errorf("no data key was made for %s", name)
		}
	}
}

// If one payload cannot be sealed, nothing of its message is forwarded.
func TestAMessageWithAPayloadThatCannotBeSealedStays(t *testing.T) {
	t.Parallel()
	k := startKMS(t, setup{policy: `package temporal

response contains {"action": "open"}

request contains {"action": "seal", "key": "second"} if input.payload.kind == "memo"
`})
	k.seal(t, "half", text("CANARY")) // the default key is at hand
	k.down("")
	q := put(
		(&workflowservice.StartWorkflowExecutionRequest{}).ProtoReflect().Descriptor(),
		siteNamed(t, &workflowservice.StartWorkflowExecutionRequest{}, "memo.fields"),
		func() proto.Message { return text("CANARY memo") },
	)
	start := q.(*workflowservice.StartWorkflowExecutionRequest)
	start.Namespace, start.Input = "half", list(text("CANARY input"))
	e := k.do(t, blackbox.Request{Method: "StartWorkflowExecution", Body: blackbox.Marshal(start), Timeout: 5 * time.Second})
	e.cameToNothing(t)
}

// A task whose key is out of reach is held, and handed over once it opens.
func TestTasksAreHeldWhileTheirKeyIsOutOfReach(t *testing.T) {
	t.Parallel()
	one := startKMS(t, setup{})
	sealed := one.seal(t, "holding", text("CANARY"))[0]
	two := startOn(t, one.kms, setup{})
	two.seal(t, "holding", text("CANARY")) // so that polls are forwarded
	two.down("Decrypt")
	go func() { time.Sleep(1500 * time.Millisecond); one.kms.Heal() }()
	task := activityTask("held-1", sealed)
	task.StartToCloseTimeout = durationpb.New(time.Minute)
	e := two.do(t, blackbox.Request{Method: "PollActivityTaskQueue", Timeout: 40 * time.Second,
		Body: blackbox.Marshal(
			&workflowservice.PollActivityTaskQueueRequest{Namespace: "holding"},
		)}, reply("PollActivityTaskQueue", task))
	got := answered(t, e, new(workflowservice.PollActivityTaskQueueResponse))
	if len(got.GetInput().GetPayloads()) != 1 {
		t.Fatalf("the worker got %v", got)
	}
	equal(t, "the input of a task that was held", got.Input.Payloads[0], text("CANARY"))
	e.wantNames(t, "PollActivityTaskQueue")
}

// An activity that was paused goes on by itself once it opens, unless a person has paused it meanwhile.
func TestPausedActivitiesGoOn(t *testing.T) {
	t.Parallel()
	one := startKMS(t, setup{})
	sealed := one.seal(t, "pausing", text("CANARY"))[0]
	two := startOn(t, one.kms, setup{})
	two.seal(t, "pausing", text("CANARY"))
	two.down("Decrypt")
	poll := func(id, pausedBy string) string {
		call := two.NewCall()
		task := activityTask("pausing-"+id, sealed)
		task.ActivityId, task.StartToCloseTimeout = id, durationpb.New(2*time.Second)
		two.Set(call, "PollActivityTaskQueue", blackbox.Message(task))
		two.Set(
			call,
			"DescribeWorkflowExecution",
			blackbox.Message(
				&workflowservice.DescribeWorkflowExecutionResponse{PendingActivities: []*workflowpb.PendingActivityInfo{
					{
						ActivityId: id,
						Paused:     true,
						PauseInfo: &workflowpb.PendingActivityInfo_PauseInfo{
							PausedBy: &workflowpb.PendingActivityInfo_PauseInfo_Manual_{
								Manual: &workflowpb.PendingActivityInfo_PauseInfo_Manual{
									Identity: pausedBy,
									Reason:   "temporal-seal: the worker was not given this task",
								}},
						},
					}}},
			),
		)
		r := two.client.Do(t.Context(), blackbox.Request{Call: call, Method: "PollActivityTaskQueue", Timeout: 30 * time.Second,
			Metadata: metadata.Pairs("authorization", "Bearer of the worker", "baggage", "user=ann"),
			Body:     blackbox.Marshal(&workflowservice.PollActivityTaskQueueRequest{Namespace: "pausing"})})
		e := exchange{r, call, two.rig}
		e.empty(t)
		e.wantNames(t, "PollActivityTaskQueue PauseActivity RespondActivityTaskFailed")
		return call
	}
	ours, theirs := poll("ours", "temporal-seal"), poll("theirs", "alice")
	one.kms.Heal()
	eventually(t, 30*time.Second, func() error {
		if names := (exchange{call: ours, rig: two.rig}).names(); !strings.Contains(names, "UnpauseActivity") {
			return fmt.Errorf("the frontend received %q", names)
		}
		if names := (exchange{call: theirs, rig: two.rig}).names(); !strings.Contains(names, "DescribeWorkflowExecution") {
			return fmt.Errorf("the frontend received %q", names)
		}
		return nil
	})
	q := forwardedAs(t, exchange{call: ours, rig: two.rig}, "UnpauseActivity", new(workflowservice.UnpauseActivityRequest))
	if q.Namespace != "pausing" || q.GetId() != "ours" || !q.ResetAttempts {
		t.Errorf("the activity was let go on by %v", q)
	}
	md := exchange{call: ours, rig: two.rig}.forwarded(t, "UnpauseActivity").Metadata
	if fmt.Sprint(md.Get("authorization")) != "[Bearer of the worker]" || len(md.Get("baggage")) > 0 {
		t.Errorf("the activity was let go on with the headers %v, want the worker's credentials and nothing else of it", md)
	}
	time.Sleep(time.Second)
	if names := (exchange{call: theirs, rig: two.rig}).names(); strings.Contains(names, "UnpauseActivity") {
		t.Errorf("an activity that a person has paused was let go on: %s", names)
	}
}

// TestPausedActivitiesAreSearchedFor: a proxy finds what one before it has paused, in the workflows that fit into its memory.
func TestPausedActivitiesAreSearchedFor(t *testing.T) {
	t.Parallel()
	r := start(t, setup{extra: "limits: {bytes: 16777216}\n"})
	search := func(namespace string, events int) (call string) {
		call = r.NewCall()
		scheduled := &historypb.ActivityTaskScheduledEventAttributes{ActivityId: "a", Input: &commonpb.Payloads{Payloads: r.seal(t, namespace, text("CANARY"))}}
		history := &historypb.History{Events: []*historypb.HistoryEvent{{
			Attributes: &historypb.HistoryEvent_ActivityTaskScheduledEventAttributes{ActivityTaskScheduledEventAttributes: scheduled}}}}
		for range events {
			history.Events = append(history.Events, new(historypb.HistoryEvent))
		}
		manual := &workflowpb.PendingActivityInfo_PauseInfo_Manual{Identity: "temporal-seal", Reason: "temporal-seal: no key"}
		for method, answer := range map[string]proto.Message{
			"ListWorkflowExecutions": &workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{
				{Execution: &commonpb.WorkflowExecution{WorkflowId: namespace, RunId: "run"}}}},
			"DescribeWorkflowExecution": &workflowservice.DescribeWorkflowExecutionResponse{PendingActivities: []*workflowpb.PendingActivityInfo{
				{ActivityId: "a", Paused: true, PauseInfo: &workflowpb.PendingActivityInfo_PauseInfo{
					PausedBy: &workflowpb.PendingActivityInfo_PauseInfo_Manual_{Manual: manual}}}}},
			"GetWorkflowExecutionHistory": &workflowservice.GetWorkflowExecutionHistoryResponse{History: history},
		} {
			r.Set(call, method, blackbox.Message(answer))
		}
		a := r.client.Do(t.Context(), blackbox.Request{Call: call, Method: "PollActivityTaskQueue", Timeout: 30 * time.Second,
			Body: blackbox.Marshal(&workflowservice.PollActivityTaskQueueRequest{Namespace: namespace})})
		exchange{a, call, r}.empty(t)
		return call
	}
	small, large := search("searched-small", 10), search("searched-large", 100_000) // 200 KB on the wire
	goesOn := func(call string) bool {
		return strings.Contains(exchange{call: call, rig: r}.names(), "UnpauseActivity")
	}
	leftOut := func() bool {
		return slices.ContainsFunc(r.proxy.Log.Lines(), func(line map[string]any) bool {
			msg, _ := line["msg"].(string)
			return line["namespace"] == "searched-large" && strings.Contains(msg, "takes more memory than one message may")
		})
	}
	eventually(t, 30*time.Second, func() error {
		if !goesOn(small) || !goesOn(large) && !leftOut() {
			return errors.New("the searches go on")
		}
		return nil
	})
	if goesOn(large) {
		t.Error("a history was decoded that takes more memory than there is")
	}
}

// On SIGTERM a poll ends by itself: cut, it would lose the task that arrives just then.
func TestSIGTERMLetsCallsEnd(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	sealed := r.seal(t, "ending", text("CANARY"))[0]
	call := r.NewCall()
	task := blackbox.Message(activityTask("late", sealed))
	task.Delay = 3 * time.Second
	r.Set(call, "PollActivityTaskQueue", task)
	done := make(chan blackbox.Response, 1)
	go func() {
		done <- r.client.Do(t.Context(), blackbox.Request{Call: call, Method: "PollActivityTaskQueue", Timeout: 20 * time.Second,
			Body: blackbox.Marshal(&workflowservice.PollActivityTaskQueueRequest{Namespace: "ending"})})
	}()
	eventually(t, 10*time.Second, func() error {
		for _, q := range r.Of(call) {
			if q.Name() == "PollActivityTaskQueue" {
				return nil
			}
		}
		return fmt.Errorf("the poll has not reached the frontend")
	})
	if err := syscall.Kill(r.proxy.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() error {
		if code, body, err := r.proxy.Get("/readyz"); err == nil && code == 200 {
			return fmt.Errorf("/readyz answers %d %s", code, body)
		}
		return nil
	})
	e := exchange{<-done, call, r}
	got := answered(t, e, new(workflowservice.PollActivityTaskQueueResponse))
	if string(got.TaskToken) != "late" || len(got.GetInput().GetPayloads()) != 1 {
		t.Errorf("the poll ended with %v", got)
	}
	select {
	case <-r.proxy.Done():
	case <-time.After(20 * time.Second):
		t.Error("the proxy did not end once its calls had ended")
	}
}

// A data key is tried before it seals: what the key service does not unwrap again could never be opened.
func TestNothingIsSealedThatCannotBeUnwrapped(t *testing.T) {
	t.Parallel()
	k := startKMS(t, setup{policy: openAll})
	k.kms.Always("Decrypt", kmsstub.Fault{Error: "AccessDeniedException"})
	e := k.do(t, blackbox.Request{Method: "SignalWorkflowExecution", Timeout: 8 * time.Second, Body: blackbox.Marshal(
		&workflowservice.SignalWorkflowExecutionRequest{Namespace: "blind", Input: list(text("CANARY"))})})
	e.cameToNothing(t)
	k.kms.Heal()
	eventually(t, 30*time.Second, func() error { // a refusal is remembered for some seconds
		_, err := k.Seal(t.Context(), k.client, "blind", "", []*commonpb.Payload{text("CANARY")})
		return err
	})
}

// A namespace whose policy does not load at the start is held: the platform's rules alone could pass in clear what the
// namespace requires sealed. Others go on, and a change of other files changes nothing about it.
func TestANamespaceWithoutItsPolicyIsHeld(t *testing.T) {
	t.Parallel()
	broken := setup{policy: "package temporal\n\n" + passRule, namespaces: map[string]string{"shop": "request contains {"}}
	r := start(t, broken)
	signal := func(namespace string) exchange {
		return r.send(t, "SignalWorkflowExecution", &workflowservice.SignalWorkflowExecutionRequest{
			Namespace: namespace, SignalName: "s", Input: list(text("CANARY"))})
	}
	held := func() {
		t.Helper()
		signal("shop").refused(t, "Unavailable")
		e := r.do(t, blackbox.Request{Method: "PollWorkflowTaskQueue", Timeout: 3 * time.Second,
			Body: blackbox.Marshal(&workflowservice.PollWorkflowTaskQueueRequest{Namespace: "shop"})})
		e.empty(t)
		e.wantNames(t, "")
	}
	held()
	signal("orders").want(t, "OK")
	broken.policy += "\n# changed\n"
	r.reconfigure(t, broken)
	eventually(t, 10*time.Second, func() error {
		for _, line := range r.proxy.Log.Lines() {
			if line["msg"] == "policy reloaded" {
				return nil
			}
		}
		return fmt.Errorf("the platform's new policy is not in force")
	})
	held()
	broken.namespaces["shop"] = passRule
	r.reconfigure(t, broken)
	eventually(t, 10*time.Second, func() error {
		if e := signal("shop"); e.Code() != "OK" {
			return fmt.Errorf("the corrected policy is not in force: %s", e.Status.GetMessage())
		}
		return nil
	})
}

// A key that the policy of a namespace names and that has not answered since the start holds the namespace's polls: nobody
// knows whether a task can be answered without it.
func TestPollsWaitForANamedKeyFromTheStart(t *testing.T) {
	t.Parallel()
	stub := kmsstub.New(kmsstub.Options{})
	if err := stub.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stub.Close)
	for _, name := range keyNames {
		id := stub.CreateKey(false)
		stub.SetAlias("alias/"+name, id)
		if name == "first" {
			stub.SetState(id, kmsstub.Disabled)
		}
	}
	k := startOn(t, stub, setup{namespaces: map[string]string{"shop": `request contains {"action": "seal", "key": "first"}`}})
	poll := func(namespace string) exchange {
		return k.do(t, blackbox.Request{Method: "PollWorkflowTaskQueue", Timeout: 3 * time.Second,
			Body: blackbox.Marshal(&workflowservice.PollWorkflowTaskQueueRequest{Namespace: namespace})},
			reply("DescribeNamespace", &workflowservice.DescribeNamespaceResponse{}))
	}
	e := poll("shop")
	e.empty(t)
	e.wantNames(t, "")
	poll("orders").wantNames(t, "PollWorkflowTaskQueue")
}
