package server

import (
	"context"
	"fmt"
	"strings"
	"testing"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	namespacepb "go.temporal.io/api/namespace/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/temporal-seal/temporal-seal/internal/auth"
)

const service = "/temporal.api.workflowservice.v1.WorkflowService/"

// clusterWide are the methods that name no namespace, with what happens to them for callers that reach certain ones only.
// One that a new API version brings has to be put here, by somebody who has thought about it.
var clusterWide = map[string]codes.Code{
	"GetSystemInfo":  codes.OK,
	"GetClusterInfo": codes.OK,
	"ListNamespaces": codes.OK, // filtered: TestListOfNamespaces

	"GetSearchAttributes":      codes.PermissionDenied, // names of other namespaces' attributes
	"AddOrUpdateRemoteCluster": codes.PermissionDenied,
	"RemoveRemoteCluster":      codes.PermissionDenied,
	"ListClusters":             codes.PermissionDenied,
	"GetNexusEndpoint":         codes.PermissionDenied, // endpoints lead into any namespace
	"CreateNexusEndpoint":      codes.PermissionDenied,
	"UpdateNexusEndpoint":      codes.PermissionDenied,
	"DeleteNexusEndpoint":      codes.PermissionDenied,
	"ListNexusEndpoints":       codes.PermissionDenied,
}

// otherNames are fields of requests, at any depth, that name a namespace beside the one that is checked. Those that act
// there are checked too; the others only report it.
var otherNames = map[string]string{
	"DescribeNamespaceRequest.id":                                       "refused: TestNamespacesByID",
	"DeleteNamespaceRequest.namespace_id":                               "refused: TestNamespacesByID",
	"ListNamespacesRequest.namespace_filter":                            "the answer is filtered",
	"UpdateNamespaceRequest.promote_namespace":                          "a flag",
	"RegisterNamespaceRequest.is_global_namespace":                      "a flag",
	"DeleteNamespaceRequest.namespace_delete_delay":                     "a duration",
	"StartWorkflowExecutionRequest.namespace":                           "checked: TestOtherNamespacesWithinARequest",
	"UpdateWorkflowExecutionRequest.namespace":                          "checked: TestOtherNamespacesWithinARequest",
	"SignalWithStartWorkflowExecutionRequest.namespace":                 "checked, as the input of an operation that the server runs itself",
	"RequestCancelExternalWorkflowExecutionCommandAttributes.namespace": "checked: TestOtherNamespacesWithinARequest",
	"StartChildWorkflowExecutionCommandAttributes.namespace":            "checked: TestOtherNamespacesWithinARequest",
	"SignalExternalWorkflowExecutionCommandAttributes.namespace":        "checked: TestOtherNamespacesWithinARequest",
	"ChildWorkflowExecutionFailureInfo.namespace":                       "says where a child has failed",
	"Link.WorkflowEvent.namespace":                                      "says where something comes from",
	"Link.Activity.namespace":                                           "says where something comes from",
	"Link.NexusOperation.namespace":                                     "says where something comes from",
	"Link.Workflow.namespace":                                           "says where something comes from",
	"Link.Callback.namespace":                                           "says where something comes from",
	"EndpointTarget.Worker.namespace":                                   "its methods are refused",
}

func eachMethod(fn func(full string, d protoreflect.MethodDescriptor)) {
	for _, desc := range rewritten {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(desc.ServiceName))
		if err != nil {
			panic(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			fn("/"+desc.ServiceName+"/"+string(methods.Get(i).Name()), methods.Get(i))
		}
	}
}

// TestEveryNameOfANamespaceIsKnown goes through every field of every request.
func TestEveryNameOfANamespaceIsKnown(t *testing.T) {
	seen := map[string]bool{}
	var walk func(d protoreflect.MessageDescriptor, top bool, open map[protoreflect.FullName]bool)
	walk = func(d protoreflect.MessageDescriptor, top bool, open map[protoreflect.FullName]bool) {
		if open[d.FullName()] {
			return
		}
		open[d.FullName()] = true
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			name := strings.TrimPrefix(string(d.FullName()), string(d.ParentFile().Package())+".") + "." + string(f.Name())
			named := strings.Contains(string(f.Name()), "namespace") || name == "DescribeNamespaceRequest.id"
			if named && !(top && f.Name() == "namespace") {
				seen[name] = true
				if otherNames[name] == "" {
					t.Errorf("%s names a namespace: does a request act in it? Then it has to be checked, see reach.go", name)
				}
			}
			if f.Message() != nil {
				walk(f.Message(), false, open)
			}
		}
	}
	eachMethod(func(full string, d protoreflect.MethodDescriptor) {
		walk(d.Input(), true, map[protoreflect.FullName]bool{})
		if _, ok := clusterWide[string(d.Name())]; ok == (d.Input().Fields().ByName("namespace") != nil) {
			t.Errorf("%s: in the table of methods without a namespace: %v", full, ok)
		}
	})
	for name := range otherNames {
		if !seen[name] && !strings.HasPrefix(name, "SignalWithStart") {
			t.Errorf("%s is no field of a request", name)
		}
	}
}

// restricted is a proxy whose callers reach the namespaces mine and mine-*.
func restricted(t *testing.T, f *frontend) *grpc.ClientConn {
	t.Helper()
	return startProxy(t, f, func(o *Options) {
		o.Listeners[0].Identify = auth.Anonymous("restricted", []string{"mine", "mine-*"})
		o.Services = []string{"company.Admin"}
	}).dial(t)
}

// TestReach calls every method there is, in a namespace that the caller reaches, in another, and in none.
func TestReach(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	cc := restricted(t, f)
	ctx := testContext(t)
	invoke := func(full string, d protoreflect.MethodDescriptor, namespace string) (code codes.Code, forwarded bool) {
		in := dynamicpb.NewMessage(d.Input())
		if namespace != "" {
			in.Set(d.Input().Fields().ByName("namespace"), protoreflect.ValueOfString(namespace))
		}
		arrived := func() (n int) { // other methods may be the proxy's own search for paused activities
			for _, seen := range f.calls() {
				if seen == full {
					n++
				}
			}
			return n
		}
		before := arrived()
		err := cc.Invoke(ctx, full, in, dynamicpb.NewMessage(d.Output()))
		// The upstream here knows few methods, and no OperatorService: its own Unimplemented shows that the call arrived.
		code = status.Code(err)
		if code == codes.Unimplemented && !strings.Contains(err.Error(), "temporal-seal") {
			code = codes.OK
		}
		return code, arrived() > before || code == codes.OK
	}
	tried := 0
	eachMethod(func(full string, d protoreflect.MethodDescriptor) {
		tried++
		want, wide := clusterWide[string(d.Name())]
		if !wide {
			want = codes.PermissionDenied
			if code, forwarded := invoke(full, d, "theirs"); code != codes.PermissionDenied || forwarded {
				t.Errorf("%s in another namespace: %v, forwarded %v", d.Name(), code, forwarded)
			}
			if code, _ := invoke(full, d, "mine"); code != codes.OK {
				t.Errorf("%s in a namespace of the caller's: %v", d.Name(), code)
			}
		}
		if code, forwarded := invoke(full, d, ""); code != want || forwarded != (want == codes.OK) {
			t.Errorf("%s without a namespace: %v, forwarded %v", d.Name(), code, forwarded)
		}
	})
	if tried < 130 {
		t.Errorf("%d methods tried", tried)
	}
}

func TestNamespacesByID(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	cc := restricted(t, f)
	ctx := testContext(t)
	for full, q := range map[string]proto.Message{
		workflowservice.WorkflowService_DescribeNamespace_FullMethodName: &workflowservice.DescribeNamespaceRequest{Namespace: "mine", Id: "c1b2"},
		operatorservice.OperatorService_DeleteNamespace_FullMethodName:   &operatorservice.DeleteNamespaceRequest{Namespace: "mine", NamespaceId: "c1b2"},
	} {
		err := cc.Invoke(ctx, full, q, new(workflowservice.GetSystemInfoResponse))
		if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "not by its id") {
			t.Errorf("%s: %v", full, err)
		}
	}
	if n := len(f.calls()); n != 0 {
		t.Errorf("%v were forwarded", f.calls())
	}
}

// TestLongNamespaces: a name that no namespace can have is refused before anything else of the proxy holds it.
func TestLongNamespaces(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	client := workflowservice.NewWorkflowServiceClient(restricted(t, f))
	for n, want := range map[int]codes.Code{auth.MaxNamespace: codes.PermissionDenied, auth.MaxNamespace + 1: codes.InvalidArgument, 1_000_000: codes.InvalidArgument} {
		_, err := client.DescribeTaskQueue(testContext(t), &workflowservice.DescribeTaskQueueRequest{Namespace: strings.Repeat("n", n)})
		if status.Code(err) != want || want == codes.InvalidArgument && len(err.Error()) > 200 {
			t.Errorf("%d bytes: %.300v", n, err)
		}
	}
	if n := len(f.calls()); n != 0 {
		t.Errorf("%d calls were forwarded", n)
	}
}

// TestOtherNamespacesWithinARequest: no call in a namespace of the caller's acts in one that it does not reach.
func TestOtherNamespacesWithinARequest(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	cc := restricted(t, f)
	ctx := testContext(t)
	child := func(namespace string) *commandpb.Command {
		return &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION, Attributes: &commandpb.Command_StartChildWorkflowExecutionCommandAttributes{
			StartChildWorkflowExecutionCommandAttributes: &commandpb.StartChildWorkflowExecutionCommandAttributes{Namespace: namespace, WorkflowId: "w"}}}
	}
	signal := func(namespace string) *commandpb.Command {
		return &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION, Attributes: &commandpb.Command_SignalExternalWorkflowExecutionCommandAttributes{
			SignalExternalWorkflowExecutionCommandAttributes: &commandpb.SignalExternalWorkflowExecutionCommandAttributes{Namespace: namespace, SignalName: "s", Input: payloads([]byte(`"x"`))}}}
	}
	cancel := func(namespace string) *commandpb.Command {
		return &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION, Attributes: &commandpb.Command_RequestCancelExternalWorkflowExecutionCommandAttributes{
			RequestCancelExternalWorkflowExecutionCommandAttributes: &commandpb.RequestCancelExternalWorkflowExecutionCommandAttributes{Namespace: namespace, WorkflowId: "w"}}}
	}
	system := func(namespace string) *commandpb.Command {
		data, err := proto.Marshal(&workflowservice.SignalWithStartWorkflowExecutionRequest{Namespace: namespace, WorkflowId: "w"})
		if err != nil {
			t.Fatal(err)
		}
		return &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION, Attributes: &commandpb.Command_ScheduleNexusOperationCommandAttributes{
			ScheduleNexusOperationCommandAttributes: &commandpb.ScheduleNexusOperationCommandAttributes{Endpoint: "__temporal_system", Input: &commonpb.Payload{
				Metadata: map[string][]byte{"encoding": []byte("binary/protobuf"), "messageType": []byte("temporal.api.workflowservice.v1.SignalWithStartWorkflowExecutionRequest")}, Data: data}}}}
	}
	completed := func(command *commandpb.Command) (string, proto.Message) {
		return "RespondWorkflowTaskCompleted", &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "mine", TaskToken: []byte("t"), Commands: []*commandpb.Command{command}}
	}
	multi := func(namespace string) (string, proto.Message) {
		start, update := startRequest([]byte(`"x"`)), &workflowservice.UpdateWorkflowExecutionRequest{Namespace: namespace}
		start.Namespace = "mine"
		return "ExecuteMultiOperation", &workflowservice.ExecuteMultiOperationRequest{Namespace: "mine", Operations: []*workflowservice.ExecuteMultiOperationRequest_Operation{
			{Operation: &workflowservice.ExecuteMultiOperationRequest_Operation_StartWorkflow{StartWorkflow: start}},
			{Operation: &workflowservice.ExecuteMultiOperationRequest_Operation_UpdateWorkflow{UpdateWorkflow: update}}}}
	}
	for name, make := range map[string]func(namespace string) (string, proto.Message){
		"a child":                   func(n string) (string, proto.Message) { return completed(child(n)) },
		"a signal":                  func(n string) (string, proto.Message) { return completed(signal(n)) },
		"a cancellation":            func(n string) (string, proto.Message) { return completed(cancel(n)) },
		"the server's own endpoint": func(n string) (string, proto.Message) { return completed(system(n)) },
		"a multi-operation":         multi,
	} {
		for namespace, want := range map[string]codes.Code{"mine": codes.Unimplemented, "mine-too": codes.Unimplemented, "": codes.Unimplemented, "theirs": codes.PermissionDenied,
			strings.Repeat("n", auth.MaxNamespace+1): codes.InvalidArgument} {
			method, q := make(namespace)
			before := len(f.calls())
			err := cc.Invoke(ctx, service+method, q, new(workflowservice.GetSystemInfoResponse))
			failedInItsStead := method == "RespondWorkflowTaskCompleted" && err == nil // its task fails with the reason
			if namespace != "theirs" && status.Code(err) != want || namespace == "theirs" && status.Code(err) != want && !failedInItsStead {
				t.Errorf("%s in %q: %v", name, namespace, err)
			}
			for _, full := range f.calls()[before:] {
				if namespace == "theirs" && full == service+method {
					t.Errorf("%s in another namespace was forwarded", name)
				}
			}
		}
	}
}

// listing is an upstream with three namespaces.
type listing struct{ frontend }

func (l *listing) ListNamespaces(context.Context, *workflowservice.ListNamespacesRequest) (*workflowservice.ListNamespacesResponse, error) {
	a := &workflowservice.ListNamespacesResponse{NextPageToken: []byte("more")}
	for _, name := range []string{"mine", "theirs", "mine-too"} {
		a.Namespaces = append(a.Namespaces, &workflowservice.DescribeNamespaceResponse{NamespaceInfo: &namespacepb.NamespaceInfo{Name: name, Description: "of " + name}})
	}
	return a, nil
}

func TestListOfNamespaces(t *testing.T) {
	l := &listing{}
	startService(t, &l.frontend, l)
	names := func(c workflowservice.WorkflowServiceClient) string {
		a, err := c.ListNamespaces(testContext(t), &workflowservice.ListNamespacesRequest{})
		if err != nil || string(a.NextPageToken) != "more" {
			t.Fatalf("%v, %v", a, err)
		}
		var all []string
		for _, n := range a.Namespaces {
			all = append(all, n.NamespaceInfo.Name+" "+n.NamespaceInfo.Description)
		}
		return fmt.Sprint(all)
	}
	if got := names(workflowservice.NewWorkflowServiceClient(restricted(t, &l.frontend))); got != "[mine of mine mine-too of mine-too]" {
		t.Errorf("a restricted caller receives %s", got)
	}
	if got := names(startProxy(t, &l.frontend).client(t)); !strings.Contains(got, "theirs") {
		t.Errorf("others receive %s", got)
	}
}

// TestPassedServices: of a service that nobody looks into nobody can say which namespace a call is about.
func TestPassedServices(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	cc := restricted(t, f)
	for full, want := range map[string]codes.Code{"/company.Admin/DropNamespace": codes.PermissionDenied, "/grpc.health.v1.Health/Check": codes.OK} {
		err := cc.Invoke(testContext(t), full, new(workflowservice.GetSystemInfoRequest), new(workflowservice.GetSystemInfoResponse))
		if status.Code(err) != want {
			t.Errorf("%s: %v", full, err)
		}
	}
}
