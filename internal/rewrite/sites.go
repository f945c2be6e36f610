package rewrite

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// Full names of the messages that the plan treats by name.
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

// Kinds that the policy package does not name itself, since no rule of its own depends on them.
const (
	kindDetails  = "details"
	kindMetadata = "metadata"
)

// exemptions are the payload sites that stay readable in every message, each
// with the reason. A site is "Message.field" without the package. What bears
// our mark is refused there in requests, and nothing is opened there in
// answers, so that an exempt site is no way to have a stolen ciphertext read.
var exemptions = map[string]string{
	"SearchAttributes.indexed_fields":                                     "the server indexes them and rejects what it can't read; the policy may refuse one (pass, deny)",
	"ComputeProvider.details":                                             "the server decodes it to reach the compute provider",
	"ComputeScaler.details":                                               "the server decodes it to scale the compute provider",
	"EndpointSpec.description":                                            "an endpoint belongs to no namespace, so no key belongs to it",
	"CountActivityExecutionsResponse.AggregationGroup.group_values":       "written by the server from search attributes",
	"CountNexusOperationExecutionsResponse.AggregationGroup.group_values": "written by the server from search attributes",
	"CountSchedulesResponse.AggregationGroup.group_values":                "written by the server from search attributes",
	"CountWorkflowExecutionsResponse.AggregationGroup.group_values":       "written by the server from search attributes",
}

// kinds names what each payload site holds, as policies read it in
// input.payload.kind. A site that is missing here falls back on kindOf's
// guess and turns the completeness test red.
var kinds = map[string]string{
	"Header.fields":                   policy.KindHeader,
	"Memo.fields":                     policy.KindMemo,
	"SearchAttributes.indexed_fields": policy.KindSearchAttribute,

	"ScheduleNexusOperationCommandAttributes.input":             policy.KindInput,
	"ScheduleActivityTaskCommandAttributes.input":               policy.KindInput,
	"StartChildWorkflowExecutionCommandAttributes.input":        policy.KindInput,
	"ContinueAsNewWorkflowExecutionCommandAttributes.input":     policy.KindInput,
	"ActivityTaskScheduledEventAttributes.input":                policy.KindInput,
	"NexusOperationScheduledEventAttributes.input":              policy.KindInput,
	"StartChildWorkflowExecutionInitiatedEventAttributes.input": policy.KindInput,
	"WorkflowExecutionContinuedAsNewEventAttributes.input":      policy.KindInput,
	"WorkflowExecutionStartedEventAttributes.input":             policy.KindInput,
	"StartOperationRequest.payload":                             policy.KindInput,
	"NewWorkflowExecutionInfo.input":                            policy.KindInput,
	"DescribeActivityExecutionResponse.input":                   policy.KindInput,
	"DescribeNexusOperationExecutionResponse.input":             policy.KindInput,
	"PollActivityTaskQueueResponse.input":                       policy.KindInput,
	"SignalWithStartWorkflowExecutionRequest.input":             policy.KindInput,
	"StartActivityExecutionRequest.input":                       policy.KindInput,
	"StartNexusOperationExecutionRequest.input":                 policy.KindInput,
	"StartWorkflowExecutionRequest.input":                       policy.KindInput,

	"NexusOperationCompletedEventAttributes.result":                          policy.KindResult,
	"StartOperationResponse.Sync.payload":                                    policy.KindResult,
	"DescribeNexusOperationExecutionResponse.result":                         policy.KindResult,
	"PollNexusOperationExecutionResponse.result":                             policy.KindResult,
	"ActivityExecutionOutcome.result":                                        policy.KindResult,
	"CompleteWorkflowExecutionCommandAttributes.result":                      policy.KindResult,
	"ContinueAsNewWorkflowExecutionCommandAttributes.last_completion_result": policy.KindResult,
	"ActivityTaskCompletedEventAttributes.result":                            policy.KindResult,
	"ChildWorkflowExecutionCompletedEventAttributes.result":                  policy.KindResult,
	"WorkflowExecutionCompletedEventAttributes.result":                       policy.KindResult,
	"WorkflowExecutionContinuedAsNewEventAttributes.last_completion_result":  policy.KindResult,
	"WorkflowExecutionStartedEventAttributes.last_completion_result":         policy.KindResult,
	"RespondActivityTaskCompletedRequest.result":                             policy.KindResult,
	"RespondActivityTaskCompletedByIdRequest.result":                         policy.KindResult,
	"StartWorkflowExecutionRequest.last_completion_result":                   policy.KindResult,

	"BatchOperationSignal.input":                                    policy.KindSignal,
	"SignalExternalWorkflowExecutionCommandAttributes.input":        policy.KindSignal,
	"SignalExternalWorkflowExecutionInitiatedEventAttributes.input": policy.KindSignal,
	"WorkflowExecutionSignaledEventAttributes.input":                policy.KindSignal,
	"PostResetOperation.SignalWorkflow.input":                       policy.KindSignal,
	"SignalWithStartWorkflowExecutionRequest.signal_input":          policy.KindSignal,
	"SignalWorkflowExecutionRequest.input":                          policy.KindSignal,

	"WorkflowQuery.query_args":                       policy.KindQuery,
	"WorkflowQueryResult.answer":                     policy.KindQuery,
	"QueryWorkflowResponse.query_result":             policy.KindQuery,
	"RespondQueryTaskCompletedRequest.query_result":  policy.KindQuery,
	"RespondQueryTaskCompletedRequest.error_message": policy.KindFailure,
	"WorkflowQueryResult.error_message":              policy.KindFailure,

	"Input.args":      policy.KindUpdate,
	"Outcome.success": policy.KindUpdate,

	"ActivityExecutionInfo.heartbeat_details":                     policy.KindHeartbeat,
	"PendingActivityInfo.heartbeat_details":                       policy.KindHeartbeat,
	"PollActivityTaskQueueResponse.heartbeat_details":             policy.KindHeartbeat,
	"RecordActivityTaskHeartbeatRequest.details":                  policy.KindHeartbeat,
	"RecordActivityTaskHeartbeatByIdRequest.details":              policy.KindHeartbeat,
	"RespondActivityTaskFailedRequest.last_heartbeat_details":     policy.KindHeartbeat,
	"RespondActivityTaskFailedByIdRequest.last_heartbeat_details": policy.KindHeartbeat,
	"ResetWorkflowFailureInfo.last_heartbeat_details":             policy.KindHeartbeat,
	"TimeoutFailureInfo.last_heartbeat_details":                   policy.KindHeartbeat,

	"Failure.encoded_attributes":     policy.KindFailure,
	"ApplicationFailureInfo.details": policy.KindFailure,
	"CanceledFailureInfo.details":    policy.KindFailure,

	"RecordMarkerCommandAttributes.details": policy.KindMarker,
	"MarkerRecordedEventAttributes.details": policy.KindMarker,

	"BatchOperationTermination.details":                     kindDetails,
	"CancelWorkflowExecutionCommandAttributes.details":      kindDetails,
	"ActivityTaskCanceledEventAttributes.details":           kindDetails,
	"ChildWorkflowExecutionCanceledEventAttributes.details": kindDetails,
	"WorkflowExecutionCanceledEventAttributes.details":      kindDetails,
	"WorkflowExecutionTerminatedEventAttributes.details":    kindDetails,
	"RespondActivityTaskCanceledRequest.details":            kindDetails,
	"RespondActivityTaskCanceledByIdRequest.details":        kindDetails,
	"TerminateWorkflowExecutionRequest.details":             kindDetails,

	"Callback.NexusHandler.source_context":                        kindMetadata,
	"DeploymentInfo.metadata":                                     kindMetadata,
	"UpdateDeploymentMetadata.upsert_entries":                     kindMetadata,
	"VersionMetadata.entries":                                     kindMetadata,
	"EventGroupMarker.Label.label":                                kindMetadata,
	"UserMetadata.details":                                        kindMetadata,
	"UserMetadata.summary":                                        kindMetadata,
	"UpdateWorkerDeploymentVersionMetadataRequest.upsert_entries": kindMetadata,
}

// textSites are strings that come back to a caller and may hold user data:
// they are sealed as text.
var textSites = map[string]bool{
	"RespondQueryTaskCompletedRequest.error_message": true,
	"WorkflowQueryResult.error_message":              true,
}

// siteName is a field's name without the package: "Memo.fields".
func siteName(f protoreflect.FieldDescriptor) string {
	m := f.ContainingMessage()
	full := strings.TrimPrefix(string(m.FullName()), string(m.ParentFile().Package())+".")
	return full + "." + string(f.Name())
}

// kindOf names what a site holds; the second result is false for a site that
// the table does not know, whose kind is then guessed from the field's name.
func kindOf(f protoreflect.FieldDescriptor) (string, bool) {
	if k, ok := kinds[siteName(f)]; ok {
		return k, true
	}
	name := string(f.Name())
	switch {
	case strings.Contains(name, "input"), strings.Contains(name, "args"):
		return policy.KindInput, false
	case strings.Contains(name, "result"), strings.Contains(name, "success"):
		return policy.KindResult, false
	case strings.Contains(name, "heartbeat"):
		return policy.KindHeartbeat, false
	}
	return kindDetails, false
}

// isReason tells whether a request's string is a note that people write and
// that the server keeps. It can't be sealed, since the server and its pages
// show it as it is; the policy may refuse or redact it.
func isReason(f protoreflect.FieldDescriptor) bool {
	if f.Kind() != protoreflect.StringKind || f.IsMap() {
		return false
	}
	switch f.Name() {
	case "reason", "notes":
		return true
	}
	return false
}
