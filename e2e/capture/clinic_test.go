package capture

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nexus-rpc/sdk-go/nexus"
	batchpb "go.temporal.io/api/batch/v1"
	commonpb "go.temporal.io/api/common/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// The clinic of the recording: a workflow that uses what can carry a payload, and a client that does the rest.

const endpoint = "laboratory"

type patient struct {
	Name      string `json:"name"`
	Diagnosis string `json:"diagnosis"`
}

var maren = patient{Name: mark + "Maren Voss", Diagnosis: mark + "asthma"}

func register(t *testing.T, w worker.Worker) {
	t.Helper()
	w.RegisterWorkflowWithOptions(treatment, workflow.RegisterOptions{Name: "Treatment"})
	w.RegisterWorkflowWithOptions(aftercare, workflow.RegisterOptions{Name: "Aftercare"})
	w.RegisterActivityWithOptions(scan, activity.RegisterOptions{Name: "Scan"})
	w.RegisterActivityWithOptions(bill, activity.RegisterOptions{Name: "Bill"})
	laboratory := nexus.NewService("laboratory")
	ok(t, laboratory.Register(nexus.NewSyncOperation("test", func(_ context.Context, p patient, _ nexus.StartOperationOptions) (string, error) {
		return mark + "fine is " + p.Name, nil
	})), "register the operation")
	w.RegisterNexusService(laboratory)
}

func treatment(ctx workflow.Context, p patient) (string, error) {
	note := "none"
	if err := errors.Join(
		workflow.SetQueryHandler(ctx, "note", func(form string) (string, error) {
			if form == "broken" {
				return "", errors.New(mark + "no such form")
			}
			return mark + note, nil
		}),
		workflow.SetUpdateHandler(ctx, "dose", func(_ workflow.Context, dose string) (string, error) { return mark + "was 5 mg, is " + dose, nil }),
	); err != nil {
		return "", err
	}
	effect := workflow.SideEffect(ctx, func(workflow.Context) any { return mark + "random bed" })
	var bed string
	if err := effect.Get(&bed); err != nil {
		return "", err
	}
	if err := workflow.UpsertMemo(ctx, map[string]any{"ward": mark + "three", "room": nil}); err != nil {
		return "", err
	}
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: 20 * time.Second, Summary: mark + "a scan",
		RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1}})
	var picture string
	scanning := workflow.ExecuteActivity(ctx, "Scan", p)
	late := workflow.GetActivityOptions(ctx)
	late.DisableEagerExecution = true // one activity comes with the answer to the workflow task, the other by a poll
	billing := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, late), "Bill", p, bed)
	if err := scanning.Get(ctx, &picture); err != nil {
		return "", err
	}
	if err := billing.Get(ctx, nil); err == nil {
		return "", errors.New("the bill was meant to fail")
	}
	child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: "aftercare-1", Memo: map[string]any{"for": p.Name}}), "Aftercare", p)
	if err := child.Get(ctx, nil); err == nil {
		return "", errors.New("the aftercare was meant to fail")
	}
	ask := workflow.NewNexusClient(endpoint, "laboratory").ExecuteOperation(ctx, "test", p, workflow.NexusOperationOptions{
		ScheduleToCloseTimeout: 30 * time.Second, Summary: mark + "blood test"})
	if err := ask.Get(ctx, nil); err != nil {
		return "", err
	}
	workflow.GetSignalChannel(ctx, "note").Receive(ctx, &note)
	return mark + "treated with " + picture, nil
}

func aftercare(ctx workflow.Context, p patient) error {
	if workflow.GetInfo(ctx).ParentWorkflowExecution == nil {
		workflow.GetSignalChannel(ctx, "never").Receive(ctx, nil)
	}
	return temporal.NewNonRetryableApplicationError(mark+"no bed", "NoBed", errors.New(mark+"ward closed"), p)
}

func scan(ctx context.Context, p patient) (string, error) {
	activity.RecordHeartbeat(ctx, mark+"half of the scan")
	time.Sleep(100 * time.Millisecond) // for the heartbeat to be on its way
	return mark + "picture of " + p.Name, nil
}

func bill(context.Context, patient, string) error {
	return temporal.NewNonRetryableApplicationError(mark+"insurer refused", "Refused", errors.New(mark+"card expired"), mark+"card 4711")
}

// useAll is what a clinic's client does.
func useAll(ctx context.Context, t *testing.T, c client.Client) {
	t.Helper()
	_, err := c.OperatorService().CreateNexusEndpoint(ctx, &operatorservice.CreateNexusEndpointRequest{Spec: &nexuspb.EndpointSpec{
		Name: endpoint, Target: &nexuspb.EndpointTarget{Variant: &nexuspb.EndpointTarget_Worker_{
			Worker: &nexuspb.EndpointTarget_Worker{Namespace: namespace, TaskQueue: taskQueue}}}}})
	ok(t, err, "create the endpoint")
	ctx = context.WithValue(ctx, patientKey{}, mark+"token of the nurse")
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "treatment-1", TaskQueue: taskQueue,
		Memo: map[string]any{"insurer": mark + "Alpine Mutual", "room": mark + "12"}, StaticSummary: mark + "asthma", StaticDetails: mark + "since May",
	}, "Treatment", maren)
	ok(t, err, "start")
	update, err := c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{WorkflowID: run.GetID(), UpdateID: "dose-1", UpdateName: "dose",
		Args: []any{mark + "10 mg"}, WaitForStage: client.WorkflowUpdateStageCompleted})
	ok(t, err, "update")
	ok(t, update.Get(ctx, nil), "result of the update")
	_, err = c.QueryWorkflow(ctx, run.GetID(), "", "note", mark+"short")
	ok(t, err, "query")
	if _, err = c.QueryWorkflow(ctx, run.GetID(), "", "note", "broken"); err == nil {
		t.Error("the query was meant to fail")
	}
	_, err = c.DescribeWorkflowExecution(ctx, run.GetID(), "")
	ok(t, err, "describe")
	ok(t, c.SignalWorkflow(ctx, run.GetID(), "", "note", mark+"feels well"), "signal")
	ok(t, run.Get(ctx, nil), "result")
	for events := c.GetWorkflowHistory(ctx, run.GetID(), "", false, 0); events.HasNext(); {
		_, err := events.Next()
		ok(t, err, "history")
	}
	many(ctx, t, c)
}

// many is what is done to more than one workflow.
func many(ctx context.Context, t *testing.T, c client.Client) {
	t.Helper()
	waiting, err := c.SignalWithStartWorkflow(ctx, "aftercare-2", "note", mark+"call back",
		client.StartWorkflowOptions{TaskQueue: taskQueue}, "Aftercare", maren)
	ok(t, err, "signal with start")
	note, err := converter.GetDefaultDataConverter().ToPayloads(mark + "to all")
	ok(t, err, "payload")
	_, err = c.WorkflowService().StartBatchOperation(ctx, &workflowservice.StartBatchOperationRequest{
		Namespace: namespace, JobId: "batch-1", Reason: "recording", Executions: []*commonpb.WorkflowExecution{{WorkflowId: waiting.GetID()}},
		Operation: &workflowservice.StartBatchOperationRequest_SignalOperation{
			SignalOperation: &batchpb.BatchOperationSignal{Signal: "note", Input: note, Identity: identity}},
	})
	ok(t, err, "batch")
	schedule, err := c.ScheduleClient().Create(ctx, client.ScheduleOptions{ID: "schedule-1", Memo: map[string]any{"why": mark + "yearly"},
		Spec:   client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: 24 * time.Hour}}},
		Action: &client.ScheduleWorkflowAction{ID: "aftercare-3", Workflow: "Aftercare", Args: []any{maren}, TaskQueue: taskQueue}})
	ok(t, err, "schedule")
	_, err = schedule.Describe(ctx)
	ok(t, err, "describe the schedule")
	ok(t, c.TerminateWorkflow(ctx, waiting.GetID(), "", "recording", mark+"moved away"), "terminate")
}

func ok(t *testing.T, err error, doing string) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", doing, err)
	}
}

// patientPropagator puts a value of the context into headers.
type patientPropagator struct{}

type patientKey struct{}

func (patientPropagator) write(value any, w workflow.HeaderWriter) error {
	if value == nil {
		return nil
	}
	p, err := converter.GetDefaultDataConverter().ToPayload(value)
	if err == nil {
		w.Set("authorization", p)
	}
	return err
}

func (p patientPropagator) Inject(ctx context.Context, w workflow.HeaderWriter) error {
	return p.write(ctx.Value(patientKey{}), w)
}

func (p patientPropagator) InjectFromWorkflow(ctx workflow.Context, w workflow.HeaderWriter) error {
	return p.write(ctx.Value(patientKey{}), w)
}

func (patientPropagator) Extract(ctx context.Context, _ workflow.HeaderReader) (context.Context, error) {
	return ctx, nil
}

func (patientPropagator) ExtractToWorkflow(ctx workflow.Context, r workflow.HeaderReader) (workflow.Context, error) {
	p, found := r.Get("authorization")
	if !found {
		return ctx, nil
	}
	var value string
	if err := converter.GetDefaultDataConverter().FromPayload(p, &value); err != nil {
		return ctx, err
	}
	return workflow.WithValue(ctx, patientKey{}, value), nil
}
