package contract

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
)

// calling is a proxy whose callers call Nexus operations: anybody, and with a token those who reach own-* only.
func calling(t *testing.T) *rig {
	token := filepath.Join(t.TempDir(), "own.token")
	if err := os.WriteFile(token, []byte(ownToken), 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, setup{
		listeners: fmt.Sprintf(`  - name: all
    address: 127.0.0.1:0
  - name: tokens
    address: 127.0.0.1:0
    callers: {token: {tokens: [{subject: own, file: %q, namespaces: ["own-*"]}]}}
`, token),
		policy: `package temporal

response contains {"action": "open"}

request contains {"action": "pass"} if input.namespace in {"passing", "own-1", "own-2"}

request contains {"action": "accept"} if input.namespace == "own-3"

request contains {"action": "seal", "clear": ["/ward"]} if input.namespace == "parts"

request contains {"action": "deny", "reason": "RULE-REASON"} if {
	input.namespace == "guarded"
	input.payload.kind in {"input", "text"}
}
`,
		extra: "nexus_endpoints: {named: sealing, gateway: own-2, to-passing: sealing}\n",
	})
}

// operation schedules an operation of an endpoint with an input, if there is one, and a header.
func (r *rig) operation(t *testing.T, c *blackbox.Client, token, namespace, endpoint string, input *commonpb.Payload, list answer) exchange {
	t.Helper()
	return r.doVia(t, c, blackbox.Request{Method: "RespondWorkflowTaskCompleted", Token: token, Body: blackbox.Marshal(
		&workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: namespace, TaskToken: []byte("to-" + endpoint),
			Commands: []*commandpb.Command{{
				CommandType: enumspb.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION,
				Attributes: &commandpb.Command_ScheduleNexusOperationCommandAttributes{
					ScheduleNexusOperationCommandAttributes: &commandpb.ScheduleNexusOperationCommandAttributes{
						Endpoint: endpoint, Service: "s", Operation: "o", Input: input, NexusHeader: map[string]string{"trace": "1"}}},
			}}})}, list)
}

// scheduled is the input of an operation as the frontend received it.
func scheduled(t *testing.T, e exchange) *commonpb.Payload {
	t.Helper()
	q := forwardedAs(t, e, "RespondWorkflowTaskCompleted", new(workflowservice.RespondWorkflowTaskCompletedRequest))
	return q.Commands[0].GetScheduleNexusOperationCommandAttributes().Input
}

// standalone starts an operation of an endpoint without a workflow.
func (r *rig) standalone(t *testing.T, c *blackbox.Client, token, namespace, endpoint string, list answer) exchange {
	t.Helper()
	return r.doVia(t, c, blackbox.Request{Method: "StartNexusOperationExecution", Token: token, Body: blackbox.Marshal(
		&workflowservice.StartNexusOperationExecutionRequest{Namespace: namespace, OperationId: "o", Endpoint: endpoint, Service: "s",
			Operation: "o", Input: text("CANARY")})}, list)
}

// endpointList is a frontend's list of endpoints, by the namespaces to which they lead. One without a namespace leads to a URL.
func endpointList(targets map[string]string) answer {
	list := new(operatorservice.ListNexusEndpointsResponse)
	for name, namespace := range targets {
		target := &nexuspb.EndpointTarget{Variant: &nexuspb.EndpointTarget_External_{
			External: &nexuspb.EndpointTarget_External{Url: "https://example.com/"}}}
		if namespace != "" {
			target.Variant = &nexuspb.EndpointTarget_Worker_{Worker: &nexuspb.EndpointTarget_Worker{Namespace: namespace, TaskQueue: "q"}}
		}
		list.Endpoints = append(list.Endpoints, &nexuspb.Endpoint{Id: name, Spec: &nexuspb.EndpointSpec{Name: name, Target: target}})
	}
	return reply("ListNexusEndpoints", list)
}

// listed is what the frontend of these tests lists.
var listed = endpointList(map[string]string{"to-passing": "passing", "to-sealing": "sealing", "to-guarded": "guarded", "to-parts": "parts",
	"to-own": "own-2", "to-accepting": "own-3", "to-other": "other", "web": "", "gateway": ""})

// The input of a Nexus operation meets the rules of both namespaces. The list of the frontend counts before the config.
func TestNexusOperationsMeetBothPolicies(t *testing.T) {
	t.Parallel()
	r := calling(t)
	clear, doc := text("CANARY"), document(`{"token":"CANARY","ward":"A7"}`)
	call := func(from, endpoint string, input *commonpb.Payload) exchange {
		return r.operation(t, r.client, "", from, endpoint, input, listed)
	}
	equal(t, "an input for a namespace that passes it too", scheduled(t, call("passing", "to-passing", clear)), clear)
	r.isSealed(t, "an input for a namespace that seals", "passing", scheduled(t, call("passing", "to-sealing", clear)), clear)
	r.isSealed(t, "an input from a namespace that seals", "sealing", scheduled(t, call("sealing", "to-passing", clear)), clear)
	for _, input := range []*commonpb.Payload{clear, nil} { // the header is denied there too
		e := call("passing", "to-guarded", input)
		e.wantAmong(t, "RespondWorkflowTaskFailed", "RespondWorkflowTaskCompleted")
	}
	// A caller without an identity would have it sealed in any case.
	r.isSealed(t, "an input for a namespace that accepts what its workers seal", "own-1",
		scheduled(t, r.operation(t, r.dial(t, 1), ownToken, "own-1", "to-accepting", clear, listed)), clear)
	// What is partly readable in one namespace is sealed whole on its way to another one whose rules are not known.
	if got := scheduled(t, call("parts", "to-parts", doc)); !strings.Contains(string(got.Data), "A7") {
		t.Errorf("an input for its own namespace is %s", got.Data)
	}
	if got := scheduled(t, call("parts", "unheard-of", doc)); strings.Contains(string(blackbox.Marshal(got)), `"A7"`) {
		t.Errorf("an input for an unknown endpoint stays readable in part: %s", got.Data)
	}
	for _, endpoint := range []string{"unheard-of", "web", strings.Repeat("e", 5000)} {
		r.isSealed(t, "an input for the endpoint "+endpoint[:3], "passing", scheduled(t, call("passing", endpoint, clear)), clear)
	}
	started := func(endpoint string) *commonpb.Payload {
		e := r.standalone(t, r.client, "", "passing", endpoint, listed)
		return forwardedAs(t, e, "StartNexusOperationExecution", new(workflowservice.StartNexusOperationExecutionRequest)).Input
	}
	equal(t, "a standalone operation for a namespace that passes it too", started("to-passing"), clear)
	r.isSealed(t, "a standalone operation for a namespace that seals", "passing", started("to-sealing"), clear)
	r.isSealed(t, "a standalone operation for an unknown endpoint", "passing", started("unheard-of"), clear)
	r.standalone(t, r.client, "", "passing", "to-guarded", listed).wantAmong(t, "", "StartNexusOperationExecution")
}

// Where the frontend lists no endpoints, the config names their namespaces.
func TestTheConfigNamesNamespacesOfNexusEndpoints(t *testing.T) {
	t.Parallel()
	r := calling(t)
	clear := text("CANARY")
	refused := answer{"ListNexusEndpoints", blackbox.Answer{Status: &spb.Status{Code: int32(codes.PermissionDenied), Message: "no"}}}
	r.isSealed(t, "an input for a namespace that seals", "passing",
		scheduled(t, r.operation(t, r.client, "", "passing", "named", clear, refused)), clear)
	equal(t, "an input for a namespace that passes it too",
		scheduled(t, r.operation(t, r.client, "", "passing", "gateway", clear, refused)), clear)
	r.isSealed(t, "an input for an unknown endpoint", "passing",
		scheduled(t, r.operation(t, r.client, "", "passing", "to-sealing", clear, refused)), clear)
	limited := r.dial(t, 1)
	scheduled(t, r.operation(t, limited, ownToken, "own-1", "gateway", clear, refused))
	for _, endpoint := range []string{"named", "to-own"} {
		r.operation(t, limited, ownToken, "own-1", endpoint, nil, refused).wantAmong(t, "RespondWorkflowTaskFailed", "RespondWorkflowTaskCompleted")
	}
}

// A Nexus endpoint leads no caller past its namespaces.
func TestNexusEndpointsStayWithinReach(t *testing.T) {
	t.Parallel()
	r := calling(t)
	limited := r.dial(t, 1)
	for _, endpoint := range []string{"to-own", "gateway"} {
		for _, input := range []*commonpb.Payload{text("CANARY"), nil} {
			e := r.operation(t, limited, ownToken, "own-1", endpoint, input, listed)
			e.want(t, "OK")
			equal(t, "an input for "+endpoint, scheduled(t, e), input)
		}
		r.standalone(t, limited, ownToken, "own-1", endpoint, listed).want(t, "OK")
	}
	for _, endpoint := range []string{"to-other", "to-guarded", "web", "unheard-of", "TO-OWN", "__temporal_system_"} {
		for _, input := range []*commonpb.Payload{text("CANARY"), nil} {
			e := r.operation(t, limited, ownToken, "own-1", endpoint, input, listed)
			e.wantAmong(t, "RespondWorkflowTaskFailed", "RespondWorkflowTaskCompleted") // or the worker would run the task again and again
			if e.Code() == "OK" {
				t.Errorf("%s: the worker got OK", endpoint)
			}
		}
		e := r.standalone(t, limited, ownToken, "own-1", endpoint, listed)
		e.wantAmong(t, "", "StartNexusOperationExecution")
		if e.Code() != "PermissionDenied" {
			t.Errorf("%s: the caller got %s: %s", endpoint, e.Code(), e.Status.GetMessage())
		}
	}
	// The operations that the server runs itself have no endpoint of a list, without a workflow they are unknown.
	r.standalone(t, limited, ownToken, "own-1", "__temporal_system", listed).wantAmong(t, "", "StartNexusOperationExecution")
}

// wantAmong checks that the frontend received a request of a method, unless it is "", and none of another one.
func (e exchange) wantAmong(t *testing.T, wanted, unwanted string) {
	t.Helper()
	names := strings.Fields(e.names())
	has := map[string]bool{}
	for _, name := range names {
		has[name] = true
	}
	if wanted != "" && !has[wanted] || has[unwanted] {
		t.Errorf("the frontend received %q, want %q and not %q (the caller got %s: %s)", names, wanted, unwanted, e.Code(), e.Status.GetMessage())
	}
}
