package attacks

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	"go.temporal.io/api/operatorservice/v1"
	querypb "go.temporal.io/api/query/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	sdkpb "go.temporal.io/api/sdk/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	updatepb "go.temporal.io/api/update/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// pastes put a stolen ciphertext somewhere, and read it back as their attacker can. An error is the proxy's refusal of that.
var pastes = map[string]func(p *party, id string, l loot) error{
	"input": func(p *party, id string, l loot) error {
		return p.withStart(id, func(q *workflowservice.StartWorkflowExecutionRequest) { q.Input = list(l.payload) })
	},
	"input, a JSON member sealed in place": func(p *party, id string, l loot) error {
		return p.withStart(id, func(q *workflowservice.StartWorkflowExecutionRequest) { q.Input = list(l.members) })
	},
	"input, that member in a document of one's own": func(p *party, id string, l loot) error {
		return p.withStart(id, func(q *workflowservice.StartWorkflowExecutionRequest) {
			own := proto.CloneOf(l.members)
			own.Data = bytes.Replace(own.Data, []byte(`"ward"`), []byte(`"mine"`), 1)
			q.Input = list(own)
		})
	},
	"input, that document said to be plain JSON": func(p *party, id string, l loot) error {
		return p.withStart(id, func(q *workflowservice.StartWorkflowExecutionRequest) {
			q.Input = list(&commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain"), "sealed.v1": l.members.Metadata["sealed.v1"]}, Data: l.members.Data})
		})
	},
	"input, under another release's encoding": func(p *party, id string, l loot) error {
		return p.withStart(id, func(q *workflowservice.StartWorkflowExecutionRequest) {
			other := proto.CloneOf(l.payload)
			other.Metadata["encoding"] = []byte("binary/sealed.v9")
			q.Input = list(other)
		})
	},
	"input, the namespace in its header changed": func(p *party, id string, l loot) error {
		return p.withStart(id, func(q *workflowservice.StartWorkflowExecutionRequest) {
			other := proto.CloneOf(l.payload)
			other.Data = bytes.Replace(other.Data, []byte(victims), []byte(p.namespace)[:len(victims)], 1)
			q.Input = list(other, l.payload)
		})
	},
	"input, the serialised payload as text": func(p *party, id string, l loot) error {
		return p.withStart(id, func(q *workflowservice.StartWorkflowExecutionRequest) {
			q.Input = list(value("sealed.v1:"+base64.RawURLEncoding.EncodeToString(l.payload.Data)), l.payload)
		})
	},
	"memo": func(p *party, id string, l loot) error {
		return p.withStart(id, func(q *workflowservice.StartWorkflowExecutionRequest) {
			q.Memo = &commonpb.Memo{Fields: map[string]*commonpb.Payload{"a": l.payload, "b": l.members}}
		})
	},
	"memo, changed by the workflow": func(p *party, id string, l loot) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		return p.andRead(id, p.complete(p.task(id), &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES, Attributes: &commandpb.Command_ModifyWorkflowPropertiesCommandAttributes{
			ModifyWorkflowPropertiesCommandAttributes: &commandpb.ModifyWorkflowPropertiesCommandAttributes{UpsertedMemo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"a": l.payload}}}}}))
	},
	"header": func(p *party, id string, l loot) error {
		return p.withStart(id, func(q *workflowservice.StartWorkflowExecutionRequest) {
			q.Header = &commonpb.Header{Fields: map[string]*commonpb.Payload{"a": l.payload}}
		})
	},
	"summary": func(p *party, id string, l loot) error {
		return p.withStart(id, func(q *workflowservice.StartWorkflowExecutionRequest) {
			q.UserMetadata = &sdkpb.UserMetadata{Summary: l.payload, Details: l.payload}
		})
	},
	"search attribute": func(p *party, id string, l loot) error {
		return p.withStart(id, func(q *workflowservice.StartWorkflowExecutionRequest) {
			q.SearchAttributes = &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{"Region": l.payload}}
		})
	},
	"search attribute, changed by the workflow": func(p *party, id string, l loot) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		return p.andRead(id, p.refusedTask(id, &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES, Attributes: &commandpb.Command_UpsertWorkflowSearchAttributesCommandAttributes{
			UpsertWorkflowSearchAttributesCommandAttributes: &commandpb.UpsertWorkflowSearchAttributesCommandAttributes{
				SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{"Region": l.payload}}}}}))
	},
	"signal": func(p *party, id string, l loot) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		_, err := p.SignalWorkflowExecution(p.ctx, &workflowservice.SignalWorkflowExecutionRequest{Namespace: p.namespace, WorkflowExecution: execution(id), SignalName: "any", Input: list(l.payload)})
		return p.andRead(id, err)
	},
	"signal with start": func(p *party, id string, l loot) error {
		_, err := p.SignalWithStartWorkflowExecution(p.ctx, &workflowservice.SignalWithStartWorkflowExecutionRequest{Namespace: p.namespace, WorkflowId: id, RequestId: id,
			WorkflowType: &commonpb.WorkflowType{Name: "Any"}, TaskQueue: &taskqueuepb.TaskQueue{Name: id}, SignalName: "any", SignalInput: list(l.payload)})
		return p.andRead(id, err)
	},
	"query argument": func(p *party, id string, l loot) error {
		return p.withQuery(id, list(l.payload), &workflowservice.RespondQueryTaskCompletedRequest{CompletedType: enumspb.QUERY_RESULT_TYPE_ANSWERED, QueryResult: list(value("x"))})
	},
	"query answer": func(p *party, id string, l loot) error {
		return p.withQuery(id, nil, &workflowservice.RespondQueryTaskCompletedRequest{CompletedType: enumspb.QUERY_RESULT_TYPE_ANSWERED, QueryResult: list(l.payload)})
	},
	"text: a query's error": func(p *party, id string, l loot) error {
		return p.withQuery(id, nil, &workflowservice.RespondQueryTaskCompletedRequest{CompletedType: enumspb.QUERY_RESULT_TYPE_FAILED, ErrorMessage: "why " + l.text + "."})
	},
	"text: a query's failure": func(p *party, id string, l loot) error {
		return p.withQuery(id, nil, &workflowservice.RespondQueryTaskCompletedRequest{CompletedType: enumspb.QUERY_RESULT_TYPE_FAILED, ErrorMessage: l.text,
			Failure: applicationFailure(l.text, l.payload)})
	},
	"text: a workflow id, which errors quote": func(p *party, _ string, l loot) error {
		for name, err := range p.quoting(l.text) {
			if err == nil {
				p.Errorf("%s: no error", name)
			}
		}
		return nil
	},
	"text: a query's name, which errors quote": func(p *party, id string, l loot) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		if err := p.complete(p.task(id)); err != nil {
			return err
		}
		asked := make(chan error, 1)
		go func() {
			_, err := p.QueryWorkflow(p.ctx, &workflowservice.QueryWorkflowRequest{Namespace: p.namespace, Execution: execution(id), Query: &querypb.WorkflowQuery{QueryType: l.text}})
			asked <- err
		}()
		p.answerQuery(id, &workflowservice.RespondQueryTaskCompletedRequest{CompletedType: enumspb.QUERY_RESULT_TYPE_FAILED, ErrorMessage: "unknown query " + l.text})
		if err := <-asked; status.Code(err) != codes.InvalidArgument {
			return err
		}
		return nil
	},
	"update argument":               func(p *party, id string, l loot) error { return p.withUpdate(id, l.payload, value("x")) },
	"update outcome, within an Any": func(p *party, id string, l loot) error { return p.withUpdate(id, value("x"), l.payload) },
	"activity input": func(p *party, id string, l loot) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		err := p.complete(p.task(id), activity(id, l.payload))
		if err == nil {
			p.activityTask(id)
		}
		return p.andRead(id, err)
	},
	"heartbeat": func(p *party, id string, l loot) error {
		task, err := p.inActivity(id)
		if err != nil {
			return err
		}
		_, err = p.RecordActivityTaskHeartbeat(p.ctx, &workflowservice.RecordActivityTaskHeartbeatRequest{Namespace: p.namespace, TaskToken: task.TaskToken, Details: list(l.payload)})
		return p.andRead(id, err)
	},
	"heartbeat, to the next attempt": func(p *party, id string, l loot) error {
		task, err := p.inActivity(id)
		if err != nil {
			return err
		}
		_, err = p.RespondActivityTaskFailed(p.ctx, &workflowservice.RespondActivityTaskFailedRequest{Namespace: p.namespace, TaskToken: task.TaskToken,
			Failure: applicationFailure("x"), LastHeartbeatDetails: list(l.payload)})
		if err == nil {
			p.activityTask(id)
		}
		return p.andRead(id, err)
	},
	"activity result": func(p *party, id string, l loot) error {
		task, err := p.inActivity(id)
		if err != nil {
			return err
		}
		_, err = p.RespondActivityTaskCompleted(p.ctx, &workflowservice.RespondActivityTaskCompletedRequest{Namespace: p.namespace, TaskToken: task.TaskToken, Result: list(l.payload)})
		return p.andRead(id, err)
	},
	"text: an activity's failure": func(p *party, id string, l loot) error {
		task, err := p.inActivity(id)
		if err != nil {
			return err
		}
		f := applicationFailure(l.text, l.payload)
		f.GetApplicationFailureInfo().NonRetryable = true
		f.Cause = applicationFailure(l.text)
		_, err = p.RespondActivityTaskFailed(p.ctx, &workflowservice.RespondActivityTaskFailedRequest{Namespace: p.namespace, TaskToken: task.TaskToken, Failure: f})
		return p.andRead(id, err)
	},
	"a failure's encoded attributes": func(p *party, id string, l loot) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		f := applicationFailure("x")
		f.EncodedAttributes = l.failure
		return p.andRead(id, p.complete(p.task(id), fail(f)))
	},
	"a cause's encoded attributes": func(p *party, id string, l loot) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		f := applicationFailure("x")
		f.Cause = applicationFailure("Encoded failure")
		f.Cause.EncodedAttributes = l.failure
		return p.andRead(id, p.complete(p.task(id), fail(f)))
	},
	"a failure's texts as an input": func(p *party, id string, l loot) error {
		return p.withStart(id, func(q *workflowservice.StartWorkflowExecutionRequest) { q.Input = list(l.failure) })
	},
	"an input as encoded attributes": func(p *party, id string, l loot) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		f := applicationFailure("Encoded failure")
		f.EncodedAttributes = l.payload
		return p.andRead(id, p.complete(p.task(id), fail(f)))
	},
	"workflow result": func(p *party, id string, l loot) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		return p.andRead(id, p.complete(p.task(id), finish(l.payload)))
	},
	"marker": func(p *party, id string, l loot) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		return p.andRead(id, p.complete(p.task(id), &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_RECORD_MARKER, Attributes: &commandpb.Command_RecordMarkerCommandAttributes{
			RecordMarkerCommandAttributes: &commandpb.RecordMarkerCommandAttributes{MarkerName: "any", Details: map[string]*commonpb.Payloads{"a": list(l.payload)}}}}))
	},
	"continue as new": func(p *party, id string, l loot) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		err := p.complete(p.task(id), &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION, Attributes: &commandpb.Command_ContinueAsNewWorkflowExecutionCommandAttributes{
			ContinueAsNewWorkflowExecutionCommandAttributes: &commandpb.ContinueAsNewWorkflowExecutionCommandAttributes{WorkflowType: &commonpb.WorkflowType{Name: "Any"},
				TaskQueue: &taskqueuepb.TaskQueue{Name: id}, Input: list(l.payload), LastCompletionResult: list(l.payload)}}})
		if err == nil {
			p.task(id)
		}
		return p.andRead(id, err)
	},
	"child workflow": func(p *party, id string, l loot) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		err := p.complete(p.task(id), &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION, Attributes: &commandpb.Command_StartChildWorkflowExecutionCommandAttributes{
			StartChildWorkflowExecutionCommandAttributes: &commandpb.StartChildWorkflowExecutionCommandAttributes{Namespace: p.namespace, WorkflowId: id + "-child", WorkflowType: &commonpb.WorkflowType{Name: "Any"},
				TaskQueue: &taskqueuepb.TaskQueue{Name: id + "-child"}, Input: list(l.payload)}}})
		if err == nil {
			p.task(id + "-child")
		}
		return p.andRead(id, err)
	},
	"text: a reason": func(p *party, id string, l loot) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		_, err := p.TerminateWorkflowExecution(p.ctx, &workflowservice.TerminateWorkflowExecutionRequest{Namespace: p.namespace, WorkflowExecution: execution(id), Reason: l.text})
		return p.andRead(id, err)
	},
	"termination's details": func(p *party, id string, l loot) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		_, err := p.TerminateWorkflowExecution(p.ctx, &workflowservice.TerminateWorkflowExecutionRequest{Namespace: p.namespace, WorkflowExecution: execution(id), Details: list(l.payload)})
		return p.andRead(id, err)
	},
	"schedule": func(p *party, id string, l loot) error {
		_, err := p.CreateSchedule(p.ctx, &workflowservice.CreateScheduleRequest{Namespace: p.namespace, ScheduleId: id, RequestId: id,
			InitialPatch: &schedulepb.SchedulePatch{TriggerImmediately: &schedulepb.TriggerImmediatelyRequest{}},
			Memo:         &commonpb.Memo{Fields: map[string]*commonpb.Payload{"a": l.payload}},
			Schedule: &schedulepb.Schedule{Spec: &schedulepb.ScheduleSpec{Interval: []*schedulepb.IntervalSpec{{Interval: durationpb.New(24 * time.Hour)}}},
				Action: &schedulepb.ScheduleAction{Action: &schedulepb.ScheduleAction_StartWorkflow{StartWorkflow: &workflowpb.NewWorkflowExecutionInfo{
					WorkflowId: id, WorkflowType: &commonpb.WorkflowType{Name: "Any"}, TaskQueue: &taskqueuepb.TaskQueue{Name: id}, Input: list(l.payload)}}}}})
		if err != nil {
			return err
		}
		p.task(id) // the workflow that it started
		_, err = p.DescribeSchedule(p.ctx, &workflowservice.DescribeScheduleRequest{Namespace: p.namespace, ScheduleId: id})
		return err
	},
	"batch of signals": func(p *party, id string, l loot) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		p.complete(p.task(id))
		_, err := p.StartBatchOperation(p.ctx, &workflowservice.StartBatchOperationRequest{Namespace: p.namespace, JobId: id + "-job", Reason: "x", Executions: []*commonpb.WorkflowExecution{execution(id)},
			Operation: &workflowservice.StartBatchOperationRequest_SignalOperation{SignalOperation: batchSignal(l.payload)}})
		if err == nil {
			p.task(id) // the signal made it
		}
		return p.andRead(id, err)
	},
	"update with start": func(p *party, id string, l loot) error {
		outcome := make(chan error, 1)
		go func() {
			_, err := p.ExecuteMultiOperation(p.ctx, &workflowservice.ExecuteMultiOperationRequest{Namespace: p.namespace, Operations: []*workflowservice.ExecuteMultiOperationRequest_Operation{
				{Operation: &workflowservice.ExecuteMultiOperationRequest_Operation_StartWorkflow{StartWorkflow: p.startRequest(id, nil)}},
				{Operation: &workflowservice.ExecuteMultiOperationRequest_Operation_UpdateWorkflow{UpdateWorkflow: updateRequest(p.namespace, id, "u", list(l.payload))}}}})
			outcome <- err
		}()
		if err := p.answerUpdate(id, "u", l.payload); err != nil {
			return err
		}
		return p.andRead(id, <-outcome)
	},
	"standalone activity": func(p *party, id string, l loot) error {
		_, err := p.StartActivityExecution(p.ctx, &workflowservice.StartActivityExecutionRequest{Namespace: p.namespace, ActivityId: id, RequestId: id, ActivityType: &commonpb.ActivityType{Name: "Any"},
			TaskQueue: &taskqueuepb.TaskQueue{Name: id}, StartToCloseTimeout: durationpb.New(time.Minute), Input: list(l.payload)})
		if err == nil {
			p.activityTask(id)
		}
		return err
	},
	"Nexus operation's input": func(p *party, id string, l loot) error { return p.withNexus(id, l.payload, nil) },
	"Nexus failure's details": func(p *party, id string, l loot) error {
		encoded, err := protojson.Marshal(&failurepb.Failure{EncodedAttributes: l.failure, FailureInfo: &failurepb.Failure_ApplicationFailureInfo{
			ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{Details: list(l.payload)}}})
		if err != nil {
			return err
		}
		return p.withNexus(id, value("x"), &nexuspb.Failure{Message: l.text, Metadata: map[string]string{"type": "temporal.api.failure.v1.Failure"}, Details: encoded})
	},
	"Nexus failure's details, some JSON": func(p *party, id string, l loot) error {
		details, err := json.Marshal(map[string]any{"a": l.text, "b": l.payload.Data})
		if err != nil {
			return err
		}
		return p.withNexus(id, value("x"), &nexuspb.Failure{Message: "x", Metadata: map[string]string{"type": "mine", "encoding": "binary/sealed.v1"}, Details: details})
	},
}

// withStart starts a workflow, takes its task as a worker does, and reads it.
func (p *party) withStart(id string, change func(*workflowservice.StartWorkflowExecutionRequest)) error {
	if err := p.start(id, change); err != nil {
		return err
	}
	p.task(id)
	return p.andRead(id, nil)
}

// andRead reads a workflow in every way that its owner can.
func (p *party) andRead(id string, err error) error {
	p.Helper()
	if err != nil {
		return err
	}
	p.events(id)
	for _, err := range p.reads(id) {
		if err != nil {
			p.Errorf("read back %s: %v", id, err)
		}
	}
	return nil
}

// reads are the other ways to read a workflow.
func (p *party) reads(id string) map[string]error {
	errs := map[string]error{}
	_, errs["reverse"] = p.GetWorkflowExecutionHistoryReverse(p.ctx, &workflowservice.GetWorkflowExecutionHistoryReverseRequest{Namespace: p.namespace, Execution: execution(id)})
	_, errs["describe"] = p.DescribeWorkflowExecution(p.ctx, &workflowservice.DescribeWorkflowExecutionRequest{Namespace: p.namespace, Execution: execution(id)})
	_, errs["list"] = p.ListWorkflowExecutions(p.ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: p.namespace, Query: fmt.Sprintf("WorkflowId = %q", id)})
	return errs
}

// refusedTask completes a task. Where the proxy refuses that, it has the task fail: the history says why, and the worker hears that
// its task is gone.
func (p *party) refusedTask(id string, command *commandpb.Command) error {
	err := p.complete(p.task(id), command)
	if status.Code(err) != codes.NotFound {
		return err
	}
	for _, e := range p.events(id) {
		if f := e.GetWorkflowTaskFailedEventAttributes().GetFailure(); f != nil {
			return status.Error(codes.PermissionDenied, f.Message)
		}
	}
	return err
}

func (p *party) inActivity(id string) (*workflowservice.PollActivityTaskQueueResponse, error) {
	if err := p.start(id, nil); err != nil {
		return nil, err
	}
	if err := p.complete(p.task(id), activity(id, value("x"))); err != nil {
		return nil, err
	}
	return p.activityTask(id), nil
}

func (p *party) withQuery(id string, args *commonpb.Payloads, answer *workflowservice.RespondQueryTaskCompletedRequest) error {
	if err := p.start(id, nil); err != nil {
		return err
	}
	if err := p.complete(p.task(id)); err != nil {
		return err
	}
	asked := make(chan error, 1)
	go func() { asked <- p.query(id, args) }()
	p.answerQuery(id, answer)
	err := <-asked
	if answer.CompletedType == enumspb.QUERY_RESULT_TYPE_FAILED && status.Code(err) == codes.InvalidArgument {
		return nil // a failed query is answered so
	}
	return err
}

// quoting asks for workflows, runs and updates of which there is none, so that errors quote their names.
func (p *party) quoting(text string) map[string]error {
	errs := map[string]error{}
	none := &commonpb.WorkflowExecution{WorkflowId: text, RunId: text}
	_, errs["query"] = p.QueryWorkflow(p.ctx, &workflowservice.QueryWorkflowRequest{Namespace: p.namespace, Execution: execution(text), Query: &querypb.WorkflowQuery{QueryType: text}})
	_, errs["query of a run"] = p.QueryWorkflow(p.ctx, &workflowservice.QueryWorkflowRequest{Namespace: p.namespace, Execution: none, Query: &querypb.WorkflowQuery{QueryType: text}})
	_, errs["update"] = p.UpdateWorkflowExecution(p.ctx, updateRequest(p.namespace, text, text, list(value("x"))))
	_, errs["outcome"] = p.PollWorkflowExecutionUpdate(p.ctx, &workflowservice.PollWorkflowExecutionUpdateRequest{Namespace: p.namespace,
		UpdateRef: &updatepb.UpdateRef{WorkflowExecution: none, UpdateId: text}})
	_, errs["update with start"] = p.ExecuteMultiOperation(p.ctx, &workflowservice.ExecuteMultiOperationRequest{Namespace: p.namespace, Operations: []*workflowservice.ExecuteMultiOperationRequest_Operation{
		{Operation: &workflowservice.ExecuteMultiOperationRequest_Operation_StartWorkflow{StartWorkflow: p.startRequest(text, func(q *workflowservice.StartWorkflowExecutionRequest) { q.WorkflowType.Name = "" })}},
		{Operation: &workflowservice.ExecuteMultiOperationRequest_Operation_UpdateWorkflow{UpdateWorkflow: updateRequest(p.namespace, text+"-", text, list(value("x")))}}}})
	_, errs["history"] = p.GetWorkflowExecutionHistory(p.ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: p.namespace, Execution: none})
	_, errs["describe"] = p.DescribeWorkflowExecution(p.ctx, &workflowservice.DescribeWorkflowExecutionRequest{Namespace: p.namespace, Execution: none})
	_, errs["list"] = p.ListWorkflowExecutions(p.ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: p.namespace, Query: "sealed = '" + text + "' AND"})
	return errs
}

func (p *party) withUpdate(id string, argument, outcome *commonpb.Payload) error {
	if err := p.start(id, nil); err != nil {
		return err
	}
	if err := p.complete(p.task(id)); err != nil {
		return err
	}
	asked := make(chan error, 1)
	go func() {
		_, err := p.UpdateWorkflowExecution(p.ctx, updateRequest(p.namespace, id, "u", list(argument)))
		asked <- err
	}()
	if err := p.answerUpdate(id, "u", outcome); err != nil {
		return err
	}
	return p.andRead(id, <-asked)
}

// withNexus has a workflow call a Nexus operation of its own namespace, which answers, or fails.
func (p *party) withNexus(id string, input *commonpb.Payload, failure *nexuspb.Failure) error {
	p.Helper()
	if err := p.start(id, nil); err != nil {
		return err
	}
	err := p.complete(p.task(id), &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION, Attributes: &commandpb.Command_ScheduleNexusOperationCommandAttributes{
		ScheduleNexusOperationCommandAttributes: &commandpb.ScheduleNexusOperationCommandAttributes{Endpoint: "to-" + p.namespace, Service: "s", Operation: "o", Input: input, ScheduleToCloseTimeout: durationpb.New(time.Minute)}}})
	if err != nil {
		return err
	}
	task, err := p.PollNexusTaskQueue(p.ctx, &workflowservice.PollNexusTaskQueueRequest{Namespace: p.namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: "nexus"}})
	if err != nil || len(task.TaskToken) == 0 {
		p.Fatalf("poll for the Nexus task: %v", err)
	}
	if failure != nil {
		_, err = p.RespondNexusTaskCompleted(p.ctx, &workflowservice.RespondNexusTaskCompletedRequest{Namespace: p.namespace, TaskToken: task.TaskToken, Response: &nexuspb.Response{
			Variant: &nexuspb.Response_StartOperation{StartOperation: &nexuspb.StartOperationResponse{Variant: &nexuspb.StartOperationResponse_OperationError{
				OperationError: &nexuspb.UnsuccessfulOperationError{OperationState: "failed", Failure: failure}}}}}})
	} else {
		_, err = p.RespondNexusTaskCompleted(p.ctx, &workflowservice.RespondNexusTaskCompletedRequest{Namespace: p.namespace, TaskToken: task.TaskToken, Response: &nexuspb.Response{
			Variant: &nexuspb.Response_StartOperation{StartOperation: &nexuspb.StartOperationResponse{Variant: &nexuspb.StartOperationResponse_SyncSuccess{
				SyncSuccess: &nexuspb.StartOperationResponse_Sync{Payload: input}}}}}})
	}
	if err != nil {
		return err
	}
	p.task(id) // the operation has ended
	return p.andRead(id, nil)
}

// endpoint makes the Nexus endpoint to a namespace, past the proxy.
func (b *bench) endpoint(t *testing.T, namespace string) {
	t.Helper()
	d := b.as(t, "", namespace)
	must[any](t, "create an endpoint")(d.operator.CreateNexusEndpoint(d.ctx, &operatorservice.CreateNexusEndpointRequest{Spec: &nexuspb.EndpointSpec{Name: "to-" + namespace,
		Target: &nexuspb.EndpointTarget{Variant: &nexuspb.EndpointTarget_Worker_{Worker: &nexuspb.EndpointTarget_Worker{Namespace: namespace, TaskQueue: "nexus"}}}}}))
}

// pasting has the clerk and the forger, who are of the victim's namespace, and the thief, who is not, paste what was stolen. Either
// it is refused, or it comes back as the ciphertext that it was.
func pasting(t *testing.T, b *bench) {
	b.endpoint(t, victims)
	b.endpoint(t, thiefs)
	for attacker, namespace := range map[string]string{"clerk": victims, "forger": victims, "thief": thiefs} {
		for name, paste := range pastes {
			t.Run(attacker+"/"+name, func(t *testing.T) {
				if strings.Contains(name, "Nexus") { // they share a task queue
					b.nexus.Lock()
					defer b.nexus.Unlock()
				}
				p := b.as(t, attacker, namespace)
				id := strings.NewReplacer(" ", "-", ",", "", ":", "", "'", "").Replace(attacker + "-" + name)
				err := paste(p, id, b.loot)
				outcome := "comes back as the ciphertext that it was"
				if err != nil {
					outcome = refusal(err)
					if code := status.Code(err); code != codes.PermissionDenied && code != codes.InvalidArgument || !strings.Contains(err.Error(), "temporal-seal") {
						t.Errorf("the attack could not be carried out: %v", err)
					}
				} else if !b.loot.in(p.told()) {
					t.Error("what was pasted did not come back at all: this attack proves nothing")
				}
				b.record(t, "paste: "+name, p, outcome)
			})
		}
	}
}

// in reports whether a ciphertext, in one of its forms, is within an answer.
func (l loot) in(told []byte) bool {
	for _, form := range [][]byte{l.payload.Data, l.members.Metadata["sealed.v1"], l.failure.Data, []byte(l.text)} {
		if bytes.Contains(told, form) || bytes.Contains(told, []byte(base64.StdEncoding.EncodeToString(form))) {
			return true
		}
	}
	return false
}
