package operator

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nexus-rpc/sdk-go/nexus"
	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	"go.temporal.io/api/operatorservice/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// twoNamespaces is the config of a proxy without a policy of its own.
const twoNamespaces = `
listeners: [{address: "127.0.0.1:0"}]
upstreams: [{address: "${temporal}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
audit: {file: "${dir}/audit.log"}
`

func TestGrants(t *testing.T) {
	t.Parallel()
	scenario(t, "11.1", "the history and the task of what orders sealed, in billing", grantIsEnough)
	scenario(t, "11.1", "grants with a star, and a grant that is added and taken back", grantsChange)
	scenario(t, "11.2", "a workflow task in billing without a grant", failureNamesGrant)
	scenario(t, "11.2", "a grant without a rule in a policy of one's own", failureNamesRule)
	scenario(t, "11.3", "the line about a task without a grant", logNamesGrant)
	scenario(t, "11.4", "the records of a history and a task without a grant", recordNamesGrant)
	scenario(t, "11.5", "a Nexus operation between two namespaces with grants", nexusWithGrants)
	scenario(t, "11.5", "a Nexus operation between two namespaces without grants", nexusWithoutGrants)
	scenario(t, "11.6", "a Nexus operation between two namespaces, without a config file", nexusWithoutConfig)
}

// sealedIn returns a payload that a proxy sealed in a namespace, as the server has it.
func (s *site) sealedIn(p *proxy, namespace, text string) *commonpb.Payload {
	s.Helper()
	id := s.name + "-source-" + namespace
	_, err := s.client(p.address, namespace).ExecuteWorkflow(s.Context(),
		client.StartWorkflowOptions{ID: id, TaskQueue: s.name + "-nobody"}, "Source", text)
	s.ok(err)
	started := s.history(s.expand("${temporal}"), namespace, id)[0].GetWorkflowExecutionStartedEventAttributes()
	return started.Input.Payloads[0]
}

// history returns the events of a workflow as an address returns them.
func (s *site) history(address, namespace, id string) []*historypb.HistoryEvent {
	s.Helper()
	h, err := s.raw(address).GetWorkflowExecutionHistory(s.Context(), &workflowservice.GetWorkflowExecutionHistoryRequest{
		Namespace: namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: id}})
	s.ok(err)
	return h.History.Events
}

// copyTo starts a workflow with a payload as it is, as the server does when it copies one to another namespace.
func (s *site) copyTo(namespace, suffix string, sealed *commonpb.Payload) (id string) {
	s.Helper()
	id = s.name + suffix
	_, err := s.raw(s.expand("${temporal}")).StartWorkflowExecution(s.Context(), &workflowservice.StartWorkflowExecutionRequest{
		Namespace: namespace, WorkflowId: id, RequestId: id, WorkflowType: &commonpb.WorkflowType{Name: "Echo"},
		TaskQueue: &taskqueuepb.TaskQueue{Name: s.name}, Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{sealed}}})
	s.ok(err)
	return id
}

func echo(_ workflow.Context, text string) (string, error) { return text, nil }

// echoes runs a worker in a namespace whose workflow returns its input.
func (s *site) echoes(p *proxy, namespace string) client.Client {
	s.Helper()
	c := s.client(p.address, namespace)
	s.work(c, func(r worker.Registry) { r.RegisterWorkflowWithOptions(echo, workflow.RegisterOptions{Name: "Echo"}) })
	return c
}

func grantIsEnough(s *site) {
	p := s.serve(twoNamespaces + "grants: [{from: orders, to: billing}]\n")
	id := s.copyTo("billing", "", s.sealedIn(p, "orders", "CANARY"))
	s.contains("the history in billing", fmt.Sprint(s.history(p.address, "billing", id)), `"CANARY\"`)
	var out string
	s.ok(s.echoes(p, "billing").GetWorkflow(s.Context(), id, "").Get(s.Context(), &out))
	s.want(out == "CANARY", "the workflow returned %q", out)
	// A grant has a direction.
	back := s.copyTo("orders", "-back", s.sealedIn(p, "billing", "CANARY"))
	_, err := s.raw(p.address).GetWorkflowExecutionHistory(s.Context(), &workflowservice.GetWorkflowExecutionHistoryRequest{
		Namespace: "orders", Execution: &commonpb.WorkflowExecution{WorkflowId: back}})
	s.want(err != nil && strings.Contains(err.Error(), `{from: "billing", to: "orders"}`), "the history in orders: %v", err)
}

func grantsChange(s *site) {
	p := s.serve(twoNamespaces)
	id := s.copyTo("billing", "", s.sealedIn(p, "orders", "CANARY"))
	opens := func(want bool) func() error {
		return func() error {
			_, err := s.raw(p.address).GetWorkflowExecutionHistory(s.Context(), &workflowservice.GetWorkflowExecutionHistoryRequest{
				Namespace: "billing", Execution: &commonpb.WorkflowExecution{WorkflowId: id}})
			if (err == nil) != want {
				return fmt.Errorf("the history in billing: %v", err)
			}
			return nil
		}
	}
	s.within(time.Second, opens(false))
	for _, grants := range []string{`{from: orders, to: billing}`, `{from: "*", to: bill*}`, `{from: "or*", to: "*"}`} {
		p.reconfigure(twoNamespaces + "grants: [" + grants + "]\n")
		s.eventually(opens(true))
		p.reconfigure(twoNamespaces + `grants: [{from: billing, to: "*"}, {from: "*", to: orders}]` + "\n")
		s.eventually(opens(false))
	}
}

// failedTask waits for the failure of a workflow's first task.
func (s *site) failedTask(namespace, id string) (message string) {
	s.Helper()
	s.eventually(func() error {
		for _, e := range s.history(s.expand("${temporal}"), namespace, id) {
			if f := e.GetWorkflowTaskFailedEventAttributes(); f != nil {
				message = f.Failure.GetMessage()
				return nil
			}
		}
		return fmt.Errorf("no task of %s has failed", id)
	})
	return message
}

const grantText = `it was sealed in namespace "orders", which namespace "billing" may not open: add {from: "orders", to: "billing"} to ` +
	"`grants` in the proxy's config if it may"

func failureNamesGrant(s *site) {
	p := s.serve(twoNamespaces)
	sealed := s.sealedIn(p, "orders", "CANARY")
	id := s.copyTo("billing", "", sealed)
	s.echoes(p, "billing")
	s.contains("the task's failure", s.failedTask("billing", id), grantText)
	s.lacks("the task's failure", s.failedTask("billing", id), "restore the key")
}

func failureNamesRule(s *site) {
	s.write("own.rego", "package temporal\n\nresponse contains {\"action\": \"open\"} if input.sealed.namespace == input.namespace\n")
	p := s.serve(twoNamespaces + "grants: [{from: orders, to: billing}]\npolicy: {file: \"${dir}/own.rego\"}\n")
	id := s.copyTo("billing", "", s.sealedIn(p, "orders", "CANARY"))
	s.echoes(p, "billing")
	s.contains("the task's failure", s.failedTask("billing", id), `it was sealed in namespace "orders"`,
		`a grant lets namespace "billing" open it, but no rule of the policy does`, "input.sealed.granted")
	s.eventually(func() error { return recorded(s, "billing", "rule") })
}

func logNamesGrant(s *site) {
	p := s.serve(twoNamespaces)
	id := s.copyTo("billing", "", s.sealedIn(p, "orders", "CANARY"))
	s.echoes(p, "billing")
	line := p.awaitLog("a task could not be opened; its worker gets none", "namespace", "billing", "workflow_id", id)
	s.contains("the log line", fmt.Sprint(line), grantText)
}

func recordNamesGrant(s *site) {
	p := s.serve(twoNamespaces)
	id := s.copyTo("billing", "", s.sealedIn(p, "orders", "CANARY"))
	_, err := s.raw(p.address).GetWorkflowExecutionHistory(s.Context(), &workflowservice.GetWorkflowExecutionHistoryRequest{
		Namespace: "billing", Execution: &commonpb.WorkflowExecution{WorkflowId: id}})
	s.want(err != nil, "the history opened")
	s.eventually(func() error { return recorded(s, "billing", "grant") })
	s.echoes(p, "billing")
	s.failedTask("billing", id)
	s.eventually(func() error {
		text, err := os.ReadFile(s.dir + "/audit.log")
		if err == nil && !strings.Contains(string(text), `"rpc":"PollWorkflowTaskQueue"`) {
			err = fmt.Errorf("no record of the task:\n%s", text)
		}
		return err
	})
}

// recorded is an error unless a record says that what orders sealed was not opened in a namespace, and what is missing.
func recorded(s *site, namespace, missing string) error {
	text, err := os.ReadFile(s.dir + "/audit.log")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		var r struct {
			Namespace string
			Payloads  []struct {
				SealedIn string `json:"sealed_in"`
				Verdict  string
				Missing  string
			}
		}
		s.ok(json.Unmarshal([]byte(line), &r))
		for _, p := range r.Payloads {
			if r.Namespace == namespace && p.SealedIn == "orders" && p.Verdict == "denied" && p.Missing == missing {
				return nil
			}
		}
	}
	return fmt.Errorf("no record names what is missing:\n%s", text)
}

// nexusCall has a workflow in orders call an operation in billing. Its error is that of the workflow.
func (s *site) nexusCall(p *proxy) (string, error) {
	s.Helper()
	endpoint := strings.ToLower(s.name)
	if len(endpoint) > 60 {
		endpoint = "e" + endpoint[len(endpoint)-50:]
	}
	_, err := s.client(s.expand("${temporal}"), "default").OperatorService().CreateNexusEndpoint(s.Context(),
		&operatorservice.CreateNexusEndpointRequest{Spec: &nexuspb.EndpointSpec{Name: endpoint,
			Target: &nexuspb.EndpointTarget{Variant: &nexuspb.EndpointTarget_Worker_{
				Worker: &nexuspb.EndpointTarget_Worker{Namespace: "billing", TaskQueue: s.name}}}}})
	s.ok(err)
	service := nexus.NewService("greetings")
	s.ok(service.Register(nexus.NewSyncOperation("greet", func(_ context.Context, name string, _ nexus.StartOperationOptions) (string, error) {
		return "hello " + name, nil
	})))
	s.work(s.client(p.address, "billing"), func(r worker.Registry) { r.RegisterNexusService(service) })
	caller := func(ctx workflow.Context, name string) (out string, err error) {
		f := workflow.NewNexusClient(endpoint, "greetings").ExecuteOperation(ctx, "greet", name,
			workflow.NexusOperationOptions{ScheduleToCloseTimeout: 40 * time.Second})
		err = f.Get(ctx, &out)
		return out, err
	}
	c := s.client(p.address, "orders")
	s.work(c, func(r worker.Registry) {
		r.RegisterWorkflowWithOptions(caller, workflow.RegisterOptions{Name: "Caller"})
	})
	ctx, cancel := context.WithTimeout(s.Context(), 50*time.Second)
	defer cancel()
	var out string
	err = s.start(c, "-caller", "Caller", "CANARY").Get(ctx, &out)
	return out, err
}

func nexusWithGrants(s *site) {
	p := s.serve(twoNamespaces + "grants: [{from: orders, to: billing}, {from: billing, to: orders}]\n")
	out, err := s.nexusCall(p)
	s.want(err == nil && out == "hello CANARY", "the operation returned %q, %v", out, err)
}

func nexusWithoutGrants(s *site) {
	p := s.serve(twoNamespaces)
	_, err := s.nexusCall(p)
	if err == nil {
		s.Fatal("the operation succeeded without a grant")
	}
	s.contains("the error of the workflow", err.Error(), grantText)
	s.eventually(func() error { return recorded(s, "billing", "grant") })
	p.awaitLog("a task could not be opened; its worker gets none", "namespace", "billing", "task", "nexus")
}

func nexusWithoutConfig(s *site) {
	p := s.serve("", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--upstream", "${temporal}")
	out, err := s.nexusCall(p)
	s.want(err == nil && out == "hello CANARY", "the operation returned %q, %v", out, err)
	p.awaitLog("without a config file, on loopback, every namespace opens what another one sealed")
}
