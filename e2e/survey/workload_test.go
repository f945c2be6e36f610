package survey

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync/atomic"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	namespace = "default"
	queue     = "survey"
	atOnce    = 8 // workflows that are made at the same time
)

// workload makes workflows by the API, as clients and workers do.
type workload struct {
	client workflowservice.WorkflowServiceClient
	plants []plant
	each   int // workflows of each type
}

// run makes all workflows.
func (w *workload) run(ctx context.Context) error {
	group, making := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range w.each {
		for _, kind := range workflowTypes {
			if kind != worked {
				group.Go(func() error { return w.simple(making, kind, i) })
			}
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return w.work(ctx)
}

// planted returns the plant for the i-th payload of a place, if there is to be one: each is in about one of a hundred.
func (w *workload) planted(workflow, activity, kind string, i int) *plant {
	every := min(100, w.each)
	for n := range w.plants {
		if p := &w.plants[n]; p.workflow == workflow && p.activity == activity && p.kind == kind && i%every == n%every {
			return p
		}
	}
	return nil
}

// payload returns the i-th payload of a place: a document that is not sensitive, and what is planted there.
func (w *workload) payload(workflow, activity, kind string, i int) *commonpb.Payload {
	document := map[string]any{"order": i, "status": "open", "ok": true, "items": []any{map[string]any{"sku": "A-1", "count": i % 7}}}
	var value any = document
	if p := w.planted(workflow, activity, kind, i); p != nil && p.members == nil {
		value = p.value
	} else if p != nil {
		maps.Copy(document, p.members)
	}
	data, err := json.Marshal(value)
	if err != nil {
		panic(err) // never for these values
	}
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: data}
}

func one(p *commonpb.Payload) *commonpb.Payloads {
	return &commonpb.Payloads{Payloads: []*commonpb.Payload{p}}
}

// start starts the i-th workflow of a type.
func (w *workload) start(ctx context.Context, kind string, i int) (id string, err error) {
	id = fmt.Sprintf("%s-%d", kind, i)
	_, err = w.client.StartWorkflowExecution(ctx, &workflowservice.StartWorkflowExecutionRequest{
		Namespace: namespace, WorkflowId: id, WorkflowType: &commonpb.WorkflowType{Name: kind}, RequestId: id, Identity: "survey",
		TaskQueue: &taskqueuepb.TaskQueue{Name: queue + "-" + kind}, Input: one(w.payload(kind, "", input, i)),
		Memo:   &commonpb.Memo{Fields: map[string]*commonpb.Payload{memoName: w.payload(kind, "", memo, i)}},
		Header: &commonpb.Header{Fields: map[string]*commonpb.Payload{headerKey: w.payload(kind, "", header, i)}},
	})
	return id, err
}

// simple makes a workflow that nobody works on.
func (w *workload) simple(ctx context.Context, kind string, i int) error {
	id, err := w.start(ctx, kind, i)
	if err != nil {
		return err
	}
	run := &commonpb.WorkflowExecution{WorkflowId: id}
	if kind == "Refund" {
		if _, err := w.client.SignalWorkflowExecution(ctx, &workflowservice.SignalWorkflowExecutionRequest{Namespace: namespace, WorkflowExecution: run,
			SignalName: "refund", RequestId: id, Input: one(w.payload(kind, "", signal, i))}); err != nil {
			return err
		}
	}
	_, err = w.client.TerminateWorkflowExecution(ctx, &workflowservice.TerminateWorkflowExecutionRequest{Namespace: namespace, WorkflowExecution: run})
	return err
}

// work starts the workflows that run an activity, and works on them.
func (w *workload) work(ctx context.Context) error {
	group, starting := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range w.each {
		group.Go(func() error { _, err := w.start(starting, worked, i); return err })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var ended atomic.Int64
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx = errgroup.WithContext(ctx)
	for range atOnce / 2 {
		group.Go(func() error { return w.poll(ctx, cancel, &ended, w.workflowTask) })
		group.Go(func() error { return w.poll(ctx, cancel, &ended, w.activityTask) })
	}
	err := group.Wait()
	if int(ended.Load()) == w.each {
		return nil
	}
	return fmt.Errorf("%d of %d workflows of the worker ended: %w", ended.Load(), w.each, err)
}

// poll answers tasks until all workflows have ended.
func (w *workload) poll(ctx context.Context, cancel func(), ended *atomic.Int64, answer func(context.Context) (ends bool, err error)) error {
	for ctx.Err() == nil {
		ends, err := answer(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if ends && int(ended.Add(1)) == w.each {
			cancel()
		}
	}
	return nil
}

func workQueue() *taskqueuepb.TaskQueue { return &taskqueuepb.TaskQueue{Name: queue + "-" + worked} }

// number returns the number of a workflow of the worker, which is in its id.
func number(id string) (n int) {
	_, _ = fmt.Sscanf(id, worked+"-%d", &n) // all ids are like that
	return n
}

// workflowTask answers one workflow task: the first of a workflow starts its activity, the second fails the workflow.
func (w *workload) workflowTask(ctx context.Context) (ends bool, err error) {
	task, err := w.client.PollWorkflowTaskQueue(ctx, &workflowservice.PollWorkflowTaskQueueRequest{Namespace: namespace, TaskQueue: workQueue()})
	if err != nil || len(task.GetTaskToken()) == 0 {
		return false, err
	}
	i := number(task.GetWorkflowExecution().GetWorkflowId())
	command := &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK, Attributes: &commandpb.Command_ScheduleActivityTaskCommandAttributes{
		ScheduleActivityTaskCommandAttributes: &commandpb.ScheduleActivityTaskCommandAttributes{ActivityId: "1", ActivityType: &commonpb.ActivityType{Name: fetch},
			TaskQueue: workQueue(), Input: one(w.payload(worked, fetch, input, i)), StartToCloseTimeout: durationpb.New(1e11), ScheduleToCloseTimeout: durationpb.New(1e12)}}}
	if ends = task.GetPreviousStartedEventId() > 0; ends {
		message := "no result"
		if p := w.planted(worked, "", failure, i); p != nil {
			message = "no result for " + p.value
		}
		command = &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION, Attributes: &commandpb.Command_FailWorkflowExecutionCommandAttributes{
			FailWorkflowExecutionCommandAttributes: &commandpb.FailWorkflowExecutionCommandAttributes{Failure: &failurepb.Failure{Message: message,
				FailureInfo: &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{Type: "NoResult"}}}}}}
	}
	_, err = w.client.RespondWorkflowTaskCompleted(ctx, &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: namespace, TaskToken: task.GetTaskToken(),
		Commands: []*commandpb.Command{command}})
	return ends && err == nil, err
}

// activityTask answers one activity task.
func (w *workload) activityTask(ctx context.Context) (ends bool, err error) {
	task, err := w.client.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: namespace, TaskQueue: workQueue()})
	if err != nil || len(task.GetTaskToken()) == 0 {
		return false, err
	}
	i := number(task.GetWorkflowExecution().GetWorkflowId())
	_, err = w.client.RespondActivityTaskCompleted(ctx, &workflowservice.RespondActivityTaskCompletedRequest{Namespace: namespace, TaskToken: task.GetTaskToken(),
		Result: one(w.payload(worked, fetch, result, i))})
	return false, err
}
