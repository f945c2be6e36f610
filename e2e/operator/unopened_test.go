package operator

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	errordetailspb "go.temporal.io/api/errordetails/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	querypb "go.temporal.io/api/query/v1"
	updatepb "go.temporal.io/api/update/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

// unopenable is a proxy before a scripted frontend, with values that do not open.
type unopenable struct {
	*site
	proxy    *proxy
	caller   *blackbox.Client
	tampered *commonpb.Payload // one byte was changed
	good     *commonpb.Payload
}

const unopenableConfig = `
listeners: [{address: "127.0.0.1:0"}]
codec_server: {address: "127.0.0.1:0", callers: {anonymous: {namespaces: ["*"]}}}
upstreams: [{address: "${frontend}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
policy: {file: "${dir}/policy.rego"}
`

// openAll leaves it to the keys what opens.
const openAll = `package temporal
response contains {"action": "open"}
`

func newUnopenable(s *site) *unopenable {
	s.Helper()
	s.write("policy.rego", openAll)
	u := &unopenable{site: s, proxy: s.serve(unopenableConfig)}
	var err error
	u.caller, err = blackbox.Dial(u.proxy.address)
	s.ok(err)
	s.Cleanup(u.caller.Close)
	u.good = u.seal("orders")
	u.tampered = proto.CloneOf(u.good)
	u.tampered.Data[len(u.tampered.Data)-1] ^= 1
	return u
}

// seal returns a payload as the proxy seals it in a namespace.
func (u *unopenable) seal(namespace string) *commonpb.Payload {
	u.Helper()
	sealed, err := u.frontend().Seal(u.Context(), u.caller, namespace, "", []*commonpb.Payload{clearPayload()})
	u.ok(err)
	return sealed[0]
}

func clearPayload() *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"clear text"`)}
}

// does makes a call to which the frontend answers with a message.
func (u *unopenable) does(method string, request proto.Message, answer blackbox.Answer) blackbox.Response {
	u.Helper()
	call := u.frontend().NewCall()
	u.frontend().Set(call, method, answer)
	defer u.frontend().Forget(call)
	return u.caller.Do(u.Context(), blackbox.Request{Call: call, Method: method, Body: blackbox.Marshal(request)})
}

// counted returns the metric of values that did not open.
func (u *unopenable) counted(reason string) float64 {
	u.Helper()
	n, found := u.proxy.metric("temporal_seal_unopened_total", "reason", reason)
	u.want(found, "there is no series for %q", reason)
	return n
}

// way is one way of sealed values to a caller.
type way struct {
	sentence, name string
	values         float64
	call           func(u *unopenable, p *commonpb.Payload)
}

func payloads(p ...*commonpb.Payload) *commonpb.Payloads { return &commonpb.Payloads{Payloads: p} }

var execution = &commonpb.WorkflowExecution{WorkflowId: "w"}

// ways are all of them but tasks, which TestTasksThatDoNotOpen has.
var ways = []way{
	{"7.1", "a list of workflows", 2, func(u *unopenable, p *commonpb.Payload) {
		info := &workflowpb.WorkflowExecutionInfo{Execution: execution, Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"m": p}}}
		u.does("ListWorkflowExecutions", &workflowservice.ListWorkflowExecutionsRequest{Namespace: "orders"},
			blackbox.Message(&workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{info, info}}))
	}},
	{"7.1", "the description of a workflow", 1, func(u *unopenable, p *commonpb.Payload) {
		u.does("DescribeWorkflowExecution", &workflowservice.DescribeWorkflowExecutionRequest{Namespace: "orders", Execution: execution},
			blackbox.Message(&workflowservice.DescribeWorkflowExecutionResponse{PendingActivities: []*workflowpb.PendingActivityInfo{
				{ActivityId: "1", HeartbeatDetails: payloads(u.good, p)}}}))
	}},
	{"7.2", "the result of a query", 1, func(u *unopenable, p *commonpb.Payload) {
		u.does("QueryWorkflow", &workflowservice.QueryWorkflowRequest{Namespace: "orders", Execution: execution,
			Query: &querypb.WorkflowQuery{QueryType: "q"}},
			blackbox.Message(&workflowservice.QueryWorkflowResponse{QueryResult: payloads(p)}))
	}},
	{"7.2", "the failure of a query", 1, func(u *unopenable, p *commonpb.Payload) {
		details, err := anypb.New(&errordetailspb.QueryFailedFailure{Failure: &failurepb.Failure{EncodedAttributes: p}})
		u.ok(err)
		u.does("QueryWorkflow", &workflowservice.QueryWorkflowRequest{Namespace: "orders", Execution: execution,
			Query: &querypb.WorkflowQuery{QueryType: "q"}},
			blackbox.Answer{Status: &spb.Status{Code: 3, Message: "query failed", Details: []*anypb.Any{details}}})
	}},
	{"7.2", "the result of an update", 1, func(u *unopenable, p *commonpb.Payload) {
		u.does("UpdateWorkflowExecution", &workflowservice.UpdateWorkflowExecutionRequest{Namespace: "orders", WorkflowExecution: execution},
			blackbox.Message(&workflowservice.UpdateWorkflowExecutionResponse{Outcome: &updatepb.Outcome{
				Value: &updatepb.Outcome_Success{Success: payloads(p)}}}))
	}},
	{"7.3", "a page of history", 1, func(u *unopenable, p *commonpb.Payload) {
		u.does("GetWorkflowExecutionHistory", &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "orders", Execution: execution},
			blackbox.Message(&workflowservice.GetWorkflowExecutionHistoryResponse{History: historyWith(u.good, p)}))
	}},
	{"7.3", "a page of history, last event first", 1, func(u *unopenable, p *commonpb.Payload) {
		u.does("GetWorkflowExecutionHistoryReverse", &workflowservice.GetWorkflowExecutionHistoryReverseRequest{Namespace: "orders", Execution: execution},
			blackbox.Message(&workflowservice.GetWorkflowExecutionHistoryReverseResponse{History: historyWith(p)}))
	}},
	{"7.4", "the codec server", 2, func(u *unopenable, p *commonpb.Payload) {
		u.decode("orders", u.good, p, p)
	}},
}

func historyWith(p ...*commonpb.Payload) *historypb.History {
	return &historypb.History{Events: []*historypb.HistoryEvent{{EventId: 1,
		Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
			WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{Input: payloads(p...)}}}}}
}

// decode has the codec server open payloads.
func (u *unopenable) decode(namespace string, list ...*commonpb.Payload) string {
	u.Helper()
	body, err := protojson.Marshal(payloads(list...))
	u.ok(err)
	q, err := http.NewRequestWithContext(u.Context(), http.MethodPost, "http://"+u.proxy.codec+"/decode", bytes.NewReader(body))
	u.ok(err)
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("X-Namespace", namespace)
	a, err := http.DefaultClient.Do(q)
	u.ok(err)
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	u.ok(err)
	return string(text)
}

func TestValuesThatDoNotOpen(t *testing.T) {
	t.Parallel()
	for _, w := range ways {
		scenario(t, w.sentence, w.name, func(s *site) {
			u := newUnopenable(s)
			w.call(u, u.tampered)
			s.want(u.counted("tampered") == w.values, "%v tampered values are counted, want %v", u.counted("tampered"), w.values)
			s.want(u.proxy.logged("a sealed value does not open", "reason", "tampered", "namespace", "orders", "key", "default") == 1,
				"the log has no line about the value")
			w.call(u, u.good)
			s.want(u.counted("tampered") == w.values, "a value that opens is counted as well")
			w.call(u, u.seal("billing"))
			s.want(u.counted("foreign") == w.values, "%v values of another namespace are counted, want %v", u.counted("foreign"), w.values)
		})
	}
	scenario(t, "7.6", "all ways raise the series that the alert reads", func(s *site) {
		alerts := repositoryFile(s, "deploy/prometheus/alerts.yaml")
		rule, ok := cutOut(alerts, "- alert: SealedValueTampered", "- alert:")
		s.want(ok && strings.Contains(rule, `temporal_seal_unopened_total{reason="tampered"}`) && strings.Contains(rule, "severity: page"),
			"the alert does not read the series: %s", rule)
		u := newUnopenable(s)
		var all float64
		for _, w := range ways {
			w.call(u, u.tampered)
			all += w.values
			s.want(u.counted("tampered") == all, "after %s: %v values, want %v", w.name, u.counted("tampered"), all)
		}
	})
}

// TestTasksThatDoNotOpen: a task counts once, however often the proxy tries it.
func TestTasksThatDoNotOpen(t *testing.T) {
	t.Parallel()
	scenario(t, "7.3", "the history in a workflow task", func(s *site) {
		u := newUnopenable(s)
		u.does("PollWorkflowTaskQueue", &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "orders"},
			blackbox.Message(&workflowservice.PollWorkflowTaskQueueResponse{TaskToken: []byte("t"), WorkflowExecution: execution,
				Attempt: 1, History: historyWith(u.tampered)}))
		s.want(u.counted("tampered") == 1, "%v values, want 1", u.counted("tampered"))
		s.want(u.proxy.logged("a sealed value does not open", "reason", "tampered", "namespace", "orders", "workflow_id", "w") == 1,
			"the log has no line about the value")
	})
	scenario(t, "7.3", "the input of an activity", func(s *site) {
		u := newUnopenable(s)
		u.does("PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: "orders"},
			blackbox.Message(&workflowservice.PollActivityTaskQueueResponse{TaskToken: []byte("t"), WorkflowExecution: execution,
				ActivityId: "1", Input: payloads(u.good, u.tampered)}))
		s.want(u.counted("tampered") == 1, "%v values, want 1", u.counted("tampered"))
	})
}

func TestUnopenedLines(t *testing.T) {
	t.Parallel()
	scenario(t, "7.5", "one line a minute for each reason", func(s *site) {
		u := newUnopenable(s)
		broken := map[string]*commonpb.Payload{"tampered": u.tampered, "foreign": u.seal("billing"), "malformed": proto.CloneOf(u.good),
			"newer": proto.CloneOf(u.good)}
		broken["malformed"].Data = broken["malformed"].Data[:5]
		broken["newer"].Data[0] = 250
		for range 50 {
			for _, p := range broken {
				ways[2].call(u, p)
			}
		}
		for reason := range broken {
			s.want(u.counted(reason) == 50, "%s: %v values are counted, want 50", reason, u.counted(reason))
			s.want(u.proxy.logged("a sealed value does not open", "reason", reason, "workflow_id", "w", "namespace", "orders",
				"method", "temporal.api.workflowservice.v1.WorkflowService/QueryWorkflow", "caller", "anonymous") == 1,
				"%s: the log does not have one line with all fields", reason)
		}
		s.lacks("the log", u.proxy.log.String(), "clear text")
	})
	scenario(t, "7.5", "a key that is disabled, and one that does not answer", func(s *site) {
		id := s.kms.CreateKey(false)
		s.kms.SetAlias("alias/default", id)
		u, other := newUnopenable(s), newUnopenable(s) // u does not have the other's data key in memory
		s.kms.Always("Decrypt", kmsstub.Fault{Error: "KMSInternalException"})
		u.decode("orders", other.good)
		s.want(u.counted("unavailable") == 1, "%v values, want 1: %s", u.counted("unavailable"), u.unopenedReasons())
		s.kms.Heal()
		s.kms.SetState(id, kmsstub.Disabled)
		s.within(time.Minute, func() error {
			u.decode("orders", other.good)
			if u.counted("revoked") == 0 {
				return fmt.Errorf("no value counts as revoked: %s", u.unopenedReasons())
			}
			return nil
		})
	})
}

// unopenedReasons lists the reasons that were counted, for messages of tests.
func (u *unopenable) unopenedReasons() string {
	_, page := u.proxy.get("/metrics")
	var all []string
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "temporal_seal_unopened_total") && !strings.HasSuffix(line, " 0\n") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return strings.Join(all, ", ")
}

// repositoryFile returns a file of the repository.
func repositoryFile(s *site, name string) string {
	s.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Root(), filepath.FromSlash(name)))
	s.ok(err)
	return string(text)
}

// cutOut returns what stands between two texts.
func cutOut(text, from, to string) (string, bool) {
	_, rest, found := strings.Cut(text, from)
	part, _, _ := strings.Cut(rest, to)
	return part, found
}
