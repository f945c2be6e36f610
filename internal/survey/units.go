package survey

import (
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/scan"
)

// unit is a part of an answer whose payloads one request brought to the server, and what that request was about.
type unit struct {
	message                  proto.Message // a response, with that part alone
	namespace, rpc           string
	workflowID, workflowType string
	taskQueue                string
	activityID, activityType string
}

// activity is an activity of a workflow.
type activity struct{ id, kind string }

// units splits an answer: a history into its events, a description of a workflow into its pending activities.
func (s *Survey) units(a *scan.Answer) []unit {
	about := unit{message: a.Message, namespace: a.Namespace, rpc: "RespondWorkflowTaskCompleted"}
	if e := a.Workflow; e != nil {
		about.workflowID, about.workflowType, about.taskQueue = e.GetExecution().GetWorkflowId(), e.GetType().GetName(), e.GetTaskQueue()
		if run := e.GetExecution().GetRunId(); run != s.run {
			s.run = run
			clear(s.activities)
		}
	}
	switch m := a.Message.(type) {
	case *workflowservice.GetWorkflowExecutionHistoryResponse:
		var all []unit
		for _, e := range m.GetHistory().GetEvents() {
			all = append(all, s.event(about, e))
		}
		return all
	case *workflowservice.DescribeWorkflowExecutionResponse:
		return described(about, m)
	case *workflowservice.DescribeScheduleResponse:
		start := m.GetSchedule().GetAction().GetStartWorkflow()
		about.rpc, about.workflowID = "CreateSchedule", start.GetWorkflowId()
		about.workflowType, about.taskQueue = start.GetWorkflowType().GetName(), start.GetTaskQueue().GetName()
	case *workflowservice.DescribeActivityExecutionResponse:
		about.rpc, about.activityID = "StartActivityExecution", m.GetInfo().GetActivityId()
		about.activityType, about.taskQueue = m.GetInfo().GetActivityType().GetName(), m.GetInfo().GetTaskQueue()
	case *workflowservice.DescribeNexusOperationExecutionResponse:
		about.rpc = "StartNexusOperationExecution"
	}
	return []unit{about}
}

// described splits the description of a workflow. Memo and search attributes are left out: they are in the history too.
func described(about unit, m *workflowservice.DescribeWorkflowExecutionResponse) []unit {
	var all []unit
	for _, p := range m.GetPendingActivities() {
		u := about
		u.rpc, u.activityID, u.activityType = "RecordActivityTaskHeartbeat", p.GetActivityId(), p.GetActivityType().GetName()
		u.message = &workflowservice.DescribeWorkflowExecutionResponse{PendingActivities: []*workflowpb.PendingActivityInfo{p}}
		all = append(all, u)
	}
	rest := proto.CloneOf(m)
	rest.PendingActivities = nil
	if info := rest.GetWorkflowExecutionInfo(); info != nil {
		info.Memo, info.SearchAttributes = nil, nil
	}
	about.message = rest
	return append(all, about)
}

// requests are the methods by which payloads of events reach the server, where that is not the end of a workflow task.
var requests = map[enumspb.EventType]string{
	enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:          "StartWorkflowExecution",
	enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:         "SignalWorkflowExecution",
	enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:       "TerminateWorkflowExecution",
	enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED: "RequestCancelWorkflowExecution",
	enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED:  "UpdateWorkflowExecution",
	enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:  "UpdateWorkflowExecution",
	enumspb.EVENT_TYPE_WORKFLOW_TASK_FAILED:                "RespondWorkflowTaskFailed",
	enumspb.EVENT_TYPE_ACTIVITY_TASK_STARTED:               "RespondActivityTaskFailed", // it has the failure of the attempt before
	enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:             "RespondActivityTaskCompleted",
	enumspb.EVENT_TYPE_ACTIVITY_TASK_FAILED:                "RespondActivityTaskFailed",
	enumspb.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:             "RecordActivityTaskHeartbeat",
	enumspb.EVENT_TYPE_ACTIVITY_TASK_CANCELED:              "RespondActivityTaskCanceled",
}

// event returns the unit of an event.
func (s *Survey) event(about unit, e *historypb.HistoryEvent) unit {
	u := about
	u.message = &workflowservice.GetWorkflowExecutionHistoryResponse{History: &historypb.History{Events: []*historypb.HistoryEvent{e}}}
	if rpc := requests[e.GetEventType()]; rpc != "" {
		u.rpc = rpc
	}
	if started := e.GetWorkflowExecutionStartedEventAttributes(); started != nil {
		u.workflowType, u.taskQueue = started.GetWorkflowType().GetName(), started.GetTaskQueue().GetName()
		if started.GetParentWorkflowExecution() != nil || started.GetContinuedExecutionRunId() != "" {
			u.rpc = "RespondWorkflowTaskCompleted"
		}
	}
	if scheduled := e.GetActivityTaskScheduledEventAttributes(); scheduled != nil {
		s.activities[e.GetEventId()] = activity{scheduled.GetActivityId(), scheduled.GetActivityType().GetName()}
		u.activityID, u.activityType = scheduled.GetActivityId(), scheduled.GetActivityType().GetName()
	}
	if of := s.activities[scheduledBy(e)]; of.kind != "" {
		u.activityID, u.activityType = of.id, of.kind
	}
	if kind := childType(e); kind != "" {
		u.workflowType = kind
	}
	return u
}

// scheduledBy returns the id of the event that scheduled the activity of an event, and 0 for one about no activity.
func scheduledBy(e *historypb.HistoryEvent) int64 {
	switch e.GetEventType() {
	case enumspb.EVENT_TYPE_ACTIVITY_TASK_STARTED:
		return e.GetActivityTaskStartedEventAttributes().GetScheduledEventId()
	case enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
		return e.GetActivityTaskCompletedEventAttributes().GetScheduledEventId()
	case enumspb.EVENT_TYPE_ACTIVITY_TASK_FAILED:
		return e.GetActivityTaskFailedEventAttributes().GetScheduledEventId()
	case enumspb.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
		return e.GetActivityTaskTimedOutEventAttributes().GetScheduledEventId()
	case enumspb.EVENT_TYPE_ACTIVITY_TASK_CANCELED:
		return e.GetActivityTaskCanceledEventAttributes().GetScheduledEventId()
	}
	return 0
}

// childType returns the type of the child, or of the next run, that an event is about.
func childType(e *historypb.HistoryEvent) string {
	switch e.GetEventType() {
	case enumspb.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
		return e.GetStartChildWorkflowExecutionInitiatedEventAttributes().GetWorkflowType().GetName()
	case enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED:
		return e.GetChildWorkflowExecutionCompletedEventAttributes().GetWorkflowType().GetName()
	case enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED:
		return e.GetChildWorkflowExecutionFailedEventAttributes().GetWorkflowType().GetName()
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
		return e.GetWorkflowExecutionContinuedAsNewEventAttributes().GetWorkflowType().GetName()
	}
	return ""
}

// callKind is a kind of payload in a request.
type callKind struct{ rpc, kind string }

// factSets are the facts that requests may tell about payloads of a kind.
type factSets struct{ told policy.FactSet }

// tellFacts returns which facts requests tell.
func tellFacts(rows []policy.CallFacts) map[callKind]factSets {
	all := map[callKind]factSets{}
	for _, r := range rows {
		k := callKind{r.RPC, r.Kind}
		all[k] = factSets{all[k].told | r.Known | r.ByTask}
	}
	return all
}

// input returns what a policy reads of a payload on its way to the server. The facts of the task count as known, as they are
// for workers that poll through the proxy.
func (s *Survey) input(u *unit, kind, name string) *policy.Input {
	in := &policy.Input{Namespace: u.namespace, RPC: u.rpc, Kind: kind, Name: name, WorkflowID: u.workflowID, WorkflowType: u.workflowType,
		TaskQueue: u.taskQueue, ActivityID: u.activityID, ActivityType: u.activityType}
	told, known := s.facts[callKind{u.rpc, kind}]
	for fact, value := range map[policy.FactSet]string{policy.FactWorkflowID: u.workflowID, policy.FactWorkflowType: u.workflowType,
		policy.FactTaskQueue: u.taskQueue, policy.FactActivityID: u.activityID, policy.FactActivityType: u.activityType} {
		switch {
		case value == "":
			in.NotApplicable |= fact
		case !known || told.told&fact != 0:
			in.Known |= fact
		}
	}
	return in
}
