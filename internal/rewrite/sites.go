package rewrite

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// Full names of the messages that have rules of their own in the plan.
const (
	msgPayload          = "temporal.api.common.v1.Payload"
	msgPayloads         = "temporal.api.common.v1.Payloads"
	msgHeader           = "temporal.api.common.v1.Header"
	msgMemo             = "temporal.api.common.v1.Memo"
	msgSearchAttributes = "temporal.api.common.v1.SearchAttributes"
	msgDataBlob         = "temporal.api.common.v1.DataBlob"
	msgFailure          = "temporal.api.failure.v1.Failure"
	msgHistory          = "temporal.api.history.v1.History"
	msgNexusFailure     = "temporal.api.nexus.v1.Failure"
	msgAny              = "google.protobuf.Any"
	msgWorkflowTask     = "temporal.api.workflowservice.v1.PollWorkflowTaskQueueResponse"
	msgActivityTask     = "temporal.api.workflowservice.v1.PollActivityTaskQueueResponse"
	msgStatus           = "google.rpc.Status"
)

// Kinds that rules do not name: they are sealed or passed with what they belong to.
const (
	kindDetails  = "details"
	kindMetadata = "metadata"
)

// exemptions are the payload sites that stay readable in every message, by the
// reason. A site is "Message.field" without the package. In requests, a payload with
// our marker is refused there, and in responses nothing is opened there, so an
// exempt site cannot be used to read stolen ciphertext.
var exemptions = bySite(map[string][]string{
	"the server indexes them and rejects what it can't read; the policy may refuse one (pass, deny)": {
		"SearchAttributes.indexed_fields",
	},
	"the server decodes it to reach the compute provider":          {"ComputeProvider.details"},
	"the server decodes it to scale the compute provider":          {"ComputeScaler.details"},
	"an endpoint belongs to no namespace, so no key belongs to it": {"EndpointSpec.description"},
	"written by the server from search attributes": {
		"CountActivityExecutionsResponse.AggregationGroup.group_values",
		"CountNexusOperationExecutionsResponse.AggregationGroup.group_values",
		"CountSchedulesResponse.AggregationGroup.group_values",
		"CountWorkflowExecutionsResponse.AggregationGroup.group_values",
	},
})

// kinds is what payload sites hold whose names do not show it, as policies read it in input.payload.kind: see
// kindOf. testdata/kinds.txt lists all sites.
var kinds = bySite(map[string][]string{
	policy.KindHeader:          {"Header.fields"},
	policy.KindMemo:            {"Memo.fields"},
	policy.KindSearchAttribute: {"SearchAttributes.indexed_fields"},
	policy.KindInput:           {"StartOperationRequest.payload"},
	policy.KindResult:          {"StartOperationResponse.Sync.payload"},
	policy.KindSignal: {
		"BatchOperationSignal.input",
		"SignalExternalWorkflowExecutionCommandAttributes.input",
		"SignalExternalWorkflowExecutionInitiatedEventAttributes.input",
		"WorkflowExecutionSignaledEventAttributes.input",
		"PostResetOperation.SignalWorkflow.input",
		"SignalWithStartWorkflowExecutionRequest.signal_input",
		"SignalWorkflowExecutionRequest.input",
	},
	policy.KindQuery: {
		"WorkflowQuery.query_args",
		"WorkflowQueryResult.answer",
		"QueryWorkflowResponse.query_result",
		"RespondQueryTaskCompletedRequest.query_result",
	},
	policy.KindFailure: {
		"RespondQueryTaskCompletedRequest.error_message",
		"WorkflowQueryResult.error_message",
		"Failure.encoded_attributes",
		"ApplicationFailureInfo.details",
		"CanceledFailureInfo.details",
	},
	policy.KindUpdate: {"Input.args", "Outcome.success"},
	policy.KindHeartbeat: {
		"RecordActivityTaskHeartbeatRequest.details",
		"RecordActivityTaskHeartbeatByIdRequest.details",
	},
	policy.KindMarker: {"RecordMarkerCommandAttributes.details", "MarkerRecordedEventAttributes.details"},
	kindMetadata: {
		"Callback.NexusHandler.source_context",
		"DeploymentInfo.metadata",
		"UpdateDeploymentMetadata.upsert_entries",
		"VersionMetadata.entries",
		"EventGroupMarker.Label.label",
		"UserMetadata.details",
		"UserMetadata.summary",
		"UpdateWorkerDeploymentVersionMetadataRequest.upsert_entries",
	},
})

// bySite returns the table by site. A site is in one list only.
func bySite(lists map[string][]string) map[string]string {
	sites := make(map[string]string)
	for what, list := range lists {
		for _, site := range list {
			sites[site] = what
		}
	}
	return sites
}

// textSites are strings that are returned to a caller and may hold user data. They
// are sealed as text.
var textSites = map[string]bool{
	"RespondQueryTaskCompletedRequest.error_message": true,
	"WorkflowQueryResult.error_message":              true,
}

// systemInputs are the inputs of Nexus operations, whose messages also name the endpoint.
var systemInputs = map[string]bool{
	"ScheduleNexusOperationCommandAttributes.input": true,
	"NexusOperationScheduledEventAttributes.input":  true,
}

// factFields are the fields that hold a fact, by the message type and the name of the field. Strings have no type.
var factFields = map[[2]protoreflect.Name]policy.FactSet{
	{"", "workflow_id"}:                            policy.FactWorkflowID,
	{"WorkflowExecution", "workflow_execution"}:    policy.FactWorkflowID,
	{"WorkflowExecution", "execution"}:             policy.FactWorkflowID,
	{"WorkflowType", "workflow_type"}:              policy.FactWorkflowType,
	{"WorkflowType", "type"}:                       policy.FactWorkflowType,
	{"TaskQueue", "task_queue"}:                    policy.FactTaskQueue,
	{"TaskQueue", "workflow_execution_task_queue"}: policy.FactTaskQueue,
	{"", "activity_id"}:                            policy.FactActivityID,
	{"ActivityType", "activity_type"}:              policy.FactActivityType,
}

// siteName returns a field's name without the package: "Memo.fields".
func siteName(f protoreflect.FieldDescriptor) string {
	return strings.TrimPrefix(strings.TrimPrefix(string(f.FullName()), string(f.ParentFile().Package())), ".")
}

// kindOf returns what a site holds: by the table, or by the field's name.
func kindOf(f protoreflect.FieldDescriptor) string {
	if k, ok := kinds[siteName(f)]; ok {
		return k
	}
	name := string(f.Name())
	switch {
	case strings.Contains(name, "input"), strings.Contains(name, "args"):
		return policy.KindInput
	case strings.Contains(name, "result"), strings.Contains(name, "success"):
		return policy.KindResult
	case strings.Contains(name, "heartbeat"):
		return policy.KindHeartbeat
	}
	return kindDetails
}
