package scan

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// pageSize is the number of things on a page of a list. Servers allow 1000 by default; an interrupted scan
// repeats at most one page.
const pageSize = 200

// walk asks the server for all that it holds for one namespace. Its methods for lists take the token of a
// page, look at each thing in that page, and return the token of the next page.
type walk struct {
	scanner   *Scanner
	client    workflowservice.WorkflowServiceClient
	namespace string
	found     *Namespace
	execution *workflowpb.WorkflowExecutionInfo // that is looked at now; nil: what is looked at is no workflow
	counter   counter
}

// settings finds out what no list shows.
func (w *walk) settings(ctx context.Context, _ []byte) ([]byte, error) {
	d, err := call(ctx, w, w.client.DescribeNamespace, &workflowservice.DescribeNamespaceRequest{Namespace: w.namespace})
	if d.GetConfig().GetHistoryArchivalState() == enumspb.ARCHIVAL_STATE_ENABLED && !w.scanner.options.Running {
		w.found.unread("histories are archived, and what lies in the archive was not looked at")
	}
	return nil, err
}

// workflows walks the workflows that users started, open and closed ones.
func (w *walk) workflows(ctx context.Context, token []byte) ([]byte, error) {
	return w.listWorkflows(ctx, "workflows", w.scanner.options.Query, token)
}

// systemWorkflows are those that the server runs for schedules, batches and deployments. The list of
// workflows leaves them out.
func (w *walk) systemWorkflows(ctx context.Context, token []byte) ([]byte, error) {
	if w.scanner.options.Look != nil {
		return nil, nil // what they hold of users' values is in the schedules
	}
	w.counter.system = true
	defer func() { w.counter.system = false }()
	return w.listWorkflows(ctx, "system workflows", "TemporalNamespaceDivision IS NOT NULL", token)
}

// listWorkflows walks a page of the workflows that a visibility query matches. A run that an earlier page had
// already is left out: workflows change their place in the list when they close.
func (w *walk) listWorkflows(ctx context.Context, what, query string, token []byte) ([]byte, error) {
	page, err := whereKnown(query, func(query string) (*workflowservice.ListWorkflowExecutionsResponse, error) {
		return list(ctx, w, w.client.ListWorkflowExecutions, &workflowservice.ListWorkflowExecutionsRequest{
			Namespace: w.namespace, PageSize: pageSize, Query: query, NextPageToken: token})
	})
	for _, e := range page.GetExecutions() {
		run := e.GetExecution()
		if w.scanner.seen[run.GetRunId()] {
			continue
		}
		w.scanner.seen[run.GetRunId()] = true
		if want := w.scanner.options.Want; want != nil && !want(w.namespace, e) {
			continue
		}
		w.execution = e
		where := fmt.Sprintf("workflow %s run %s", run.GetWorkflowId(), run.GetRunId())
		err := w.workflow(ctx, run, where)
		w.execution = nil
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		w.done(what, where, err)
	}
	return page.GetNextPageToken(), err
}

// workflow looks at one run: its history, and what is not yet in it, such as the memo and the heartbeats of
// activities.
func (w *walk) workflow(ctx context.Context, run *commonpb.WorkflowExecution, where string) error {
	d, err := call(ctx, w, w.client.DescribeWorkflowExecution, &workflowservice.DescribeWorkflowExecutionRequest{
		Namespace: w.namespace, Execution: run})
	if err != nil {
		return err
	}
	w.look(d, where)
	for token := []byte(nil); ; {
		h, err := call(ctx, w, w.client.GetWorkflowExecutionHistory, &workflowservice.GetWorkflowExecutionHistoryRequest{
			Namespace: w.namespace, Execution: run, NextPageToken: token})
		if err != nil {
			return err
		}
		w.look(h, where)
		if token = h.GetNextPageToken(); len(token) == 0 {
			return nil
		}
	}
}

// schedules walks the definitions of schedules, which hold the input of the workflows that they start.
func (w *walk) schedules(ctx context.Context, token []byte) ([]byte, error) {
	page, err := list(ctx, w, w.client.ListSchedules, &workflowservice.ListSchedulesRequest{
		Namespace: w.namespace, MaximumPageSize: pageSize, NextPageToken: token})
	for _, e := range page.GetSchedules() {
		d, err := call(ctx, w, w.client.DescribeSchedule, &workflowservice.DescribeScheduleRequest{
			Namespace: w.namespace, ScheduleId: e.GetScheduleId()})
		w.described("schedules", "schedule "+e.GetScheduleId(), d, err)
	}
	return page.GetNextPageToken(), cmp.Or(err, ctx.Err())
}

// running returns a query for standalone activities or Nexus operations that have not ended, if those alone are looked at.
func (w *walk) running(query string) string {
	if w.scanner.options.Running {
		return query
	}
	return ""
}

// whereKnown asks for a page of a list with a query, and without paused things if the server does not know the status Paused.
func whereKnown[A any](query string, page func(query string) (A, error)) (A, error) {
	a, err := page(query)
	if status.Code(err) == codes.InvalidArgument && strings.HasPrefix(query, runningOrPaused) {
		return page(onlyRunning + strings.TrimPrefix(query, runningOrPaused))
	}
	return a, err
}

// activities walks standalone activities, which belong to no workflow.
func (w *walk) activities(ctx context.Context, token []byte) ([]byte, error) {
	page, err := whereKnown(w.running(runningOrPaused), func(query string) (*workflowservice.ListActivityExecutionsResponse, error) {
		return list(ctx, w, w.client.ListActivityExecutions, &workflowservice.ListActivityExecutionsRequest{
			Namespace: w.namespace, PageSize: pageSize, NextPageToken: token, Query: query})
	})
	for _, e := range page.GetExecutions() {
		d, err := call(ctx, w, w.client.DescribeActivityExecution, &workflowservice.DescribeActivityExecutionRequest{
			Namespace: w.namespace, ActivityId: e.GetActivityId(), RunId: e.GetRunId(),
			IncludeInput: true, IncludeOutcome: true, IncludeHeartbeatDetails: true, IncludeLastFailure: true})
		w.described("activities", fmt.Sprintf("activity %s run %s", e.GetActivityId(), e.GetRunId()), d, err)
	}
	return page.GetNextPageToken(), cmp.Or(err, ctx.Err())
}

// nexusOperations walks standalone Nexus operations, which belong to no workflow.
func (w *walk) nexusOperations(ctx context.Context, token []byte) ([]byte, error) {
	page, err := list(ctx, w, w.client.ListNexusOperationExecutions, &workflowservice.ListNexusOperationExecutionsRequest{
		Namespace: w.namespace, PageSize: pageSize, NextPageToken: token, Query: w.running(onlyRunning)})
	for _, e := range page.GetOperations() {
		d, err := call(ctx, w, w.client.DescribeNexusOperationExecution, &workflowservice.DescribeNexusOperationExecutionRequest{
			Namespace: w.namespace, OperationId: e.GetOperationId(), RunId: e.GetRunId(), IncludeInput: true, IncludeOutcome: true})
		w.described("nexus operations", fmt.Sprintf("nexus operation %s run %s", e.GetOperationId(), e.GetRunId()), d, err)
	}
	return page.GetNextPageToken(), cmp.Or(err, ctx.Err())
}

// deployments looks at the metadata of worker deployments and their versions.
func (w *walk) deployments(ctx context.Context, token []byte) ([]byte, error) {
	if w.scanner.options.Running {
		return nil, nil
	}
	page, err := call(ctx, w, w.client.ListWorkerDeployments, &workflowservice.ListWorkerDeploymentsRequest{
		Namespace: w.namespace, PageSize: pageSize, NextPageToken: token})
	for _, e := range page.GetWorkerDeployments() {
		where := "deployment " + e.GetName()
		d, err := call(ctx, w, w.client.DescribeWorkerDeployment, &workflowservice.DescribeWorkerDeploymentRequest{
			Namespace: w.namespace, DeploymentName: e.GetName()})
		w.described("deployments", where, d, err)
		for _, v := range d.GetWorkerDeploymentInfo().GetVersionSummaries() {
			version, err := call(ctx, w, w.client.DescribeWorkerDeploymentVersion, &workflowservice.DescribeWorkerDeploymentVersionRequest{
				Namespace: w.namespace, DeploymentVersion: v.GetDeploymentVersion()})
			w.described("deployment versions", where+" version "+v.GetDeploymentVersion().GetBuildId(), version, err)
		}
	}
	return page.GetNextPageToken(), cmp.Or(err, ctx.Err())
}

// described counts a thing of a list, and the payloads in what the server answered about it.
func (w *walk) described(what, where string, answer proto.Message, err error) {
	if err == nil {
		w.look(answer, where)
	}
	w.done(what, where, err)
}

// done counts a thing of a list, unless the server has removed it meanwhile.
func (w *walk) done(what, where string, err error) {
	if status.Code(err) == codes.NotFound {
		return
	}
	w.found.Walked[what]++
	switch {
	case err == nil:
	case w.scanner.options.Look != nil: // ids may be data, and messages of the server name them
		w.found.unread("one of the " + what + ": " + status.Code(err).String())
	default:
		w.found.unread(where + ": " + errorText(err))
	}
}

// look hands an answer to who looks at it: by default the count of envelopes.
func (w *walk) look(answer proto.Message, where string) {
	if look := w.scanner.options.Look; look != nil {
		look(&Answer{Namespace: w.namespace, Where: where, Message: answer, Workflow: w.execution})
		return
	}
	w.count(answer, where)
}
