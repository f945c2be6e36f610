package scan

import (
	"context"
	"fmt"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
)

const pageSize = 200

// walk asks for all that a server holds for one namespace.
type walk struct {
	s         *Scanner
	client    workflowservice.WorkflowServiceClient
	namespace string
	n         *Namespace
	ofServer  bool // the workflows looked at now are the server's own
}

// settings finds out what no list shows.
func (w *walk) settings(ctx context.Context, _ []byte) ([]byte, error) {
	d, err := call(ctx, w, w.client.DescribeNamespace, &workflowservice.DescribeNamespaceRequest{Namespace: w.namespace})
	if err != nil {
		return nil, err
	}
	if d.GetConfig().GetHistoryArchivalState() == enumspb.ARCHIVAL_STATE_ENABLED {
		w.n.unread("histories are archived, and what lies in the archive was not looked at")
	}
	return nil, nil
}

func (w *walk) workflows(ctx context.Context, query string, token []byte) ([]byte, error) {
	page, err := call(ctx, w, w.client.ListWorkflowExecutions, &workflowservice.ListWorkflowExecutionsRequest{
		Namespace: w.namespace, PageSize: pageSize, Query: query, NextPageToken: token})
	if err != nil {
		return nil, err
	}
	what := "workflows"
	if w.ofServer = query != ""; w.ofServer {
		what = "system workflows"
		defer func() { w.ofServer = false }()
	}
	for _, e := range page.GetExecutions() {
		run := e.GetExecution()
		if w.s.seen[run.GetRunId()] {
			continue
		}
		w.s.seen[run.GetRunId()] = true
		if err := w.workflow(ctx, run); ctx.Err() != nil {
			return nil, ctx.Err()
		} else if gone(err) {
			continue // its retention ended meanwhile
		} else if err != nil {
			w.n.unread(fmt.Sprintf("workflow %s run %s: %s", run.GetWorkflowId(), run.GetRunId(), told(err)))
		}
		w.n.Walked[what]++
	}
	return page.GetNextPageToken(), nil
}

// workflow looks at one run: its history, and what is not yet in it, such as the memo and the heartbeats of activities.
func (w *walk) workflow(ctx context.Context, run *commonpb.WorkflowExecution) error {
	where := fmt.Sprintf("workflow %s run %s", run.GetWorkflowId(), run.GetRunId())
	d, err := call(ctx, w, w.client.DescribeWorkflowExecution, &workflowservice.DescribeWorkflowExecutionRequest{Namespace: w.namespace, Execution: run})
	if err != nil {
		return err
	}
	w.count("DescribeWorkflowExecution", d, where)
	for token := []byte(nil); ; {
		h, err := call(ctx, w, w.client.GetWorkflowExecutionHistory, &workflowservice.GetWorkflowExecutionHistoryRequest{
			Namespace: w.namespace, Execution: run, NextPageToken: token})
		if err != nil {
			return err
		}
		w.count("GetWorkflowExecutionHistory", h, where)
		if token = h.GetNextPageToken(); len(token) == 0 {
			return nil
		}
	}
}

func (w *walk) schedules(ctx context.Context, token []byte) ([]byte, error) {
	page, err := call(ctx, w, w.client.ListSchedules, &workflowservice.ListSchedulesRequest{Namespace: w.namespace, MaximumPageSize: pageSize, NextPageToken: token})
	if err != nil {
		return nil, err
	}
	for _, e := range page.GetSchedules() {
		where := "schedule " + e.GetScheduleId()
		d, err := call(ctx, w, w.client.DescribeSchedule, &workflowservice.DescribeScheduleRequest{Namespace: w.namespace, ScheduleId: e.GetScheduleId()})
		if err == nil {
			w.count("DescribeSchedule", d, where)
		}
		w.one("schedules", where, err)
	}
	return page.GetNextPageToken(), ctx.Err()
}

// one counts a thing of a list that was looked at.
func (w *walk) one(what, where string, err error) {
	if gone(err) {
		return
	}
	w.n.Walked[what]++
	if err != nil {
		w.n.unread(where + ": " + told(err))
	}
}

func (w *walk) activities(ctx context.Context, token []byte) ([]byte, error) {
	page, err := call(ctx, w, w.client.ListActivityExecutions, &workflowservice.ListActivityExecutionsRequest{Namespace: w.namespace, PageSize: pageSize, NextPageToken: token})
	if err != nil {
		return nil, err
	}
	for _, e := range page.GetExecutions() {
		where := fmt.Sprintf("activity %s run %s", e.GetActivityId(), e.GetRunId())
		d, err := call(ctx, w, w.client.DescribeActivityExecution, &workflowservice.DescribeActivityExecutionRequest{
			Namespace: w.namespace, ActivityId: e.GetActivityId(), RunId: e.GetRunId(),
			IncludeInput: true, IncludeOutcome: true, IncludeHeartbeatDetails: true, IncludeLastFailure: true})
		if err == nil {
			w.count("DescribeActivityExecution", d, where)
		}
		w.one("activities", where, err)
	}
	return page.GetNextPageToken(), ctx.Err()
}

func (w *walk) nexusOperations(ctx context.Context, token []byte) ([]byte, error) {
	page, err := call(ctx, w, w.client.ListNexusOperationExecutions, &workflowservice.ListNexusOperationExecutionsRequest{Namespace: w.namespace, PageSize: pageSize, NextPageToken: token})
	if err != nil {
		return nil, err
	}
	for _, e := range page.GetOperations() {
		where := fmt.Sprintf("nexus operation %s run %s", e.GetOperationId(), e.GetRunId())
		d, err := call(ctx, w, w.client.DescribeNexusOperationExecution, &workflowservice.DescribeNexusOperationExecutionRequest{
			Namespace: w.namespace, OperationId: e.GetOperationId(), RunId: e.GetRunId(), IncludeInput: true, IncludeOutcome: true})
		if err == nil {
			w.count("DescribeNexusOperationExecution", d, where)
		}
		w.one("nexus operations", where, err)
	}
	return page.GetNextPageToken(), ctx.Err()
}

// deployments looks at the metadata of the versions of worker deployments.
func (w *walk) deployments(ctx context.Context, token []byte) ([]byte, error) {
	page, err := call(ctx, w, w.client.ListWorkerDeployments, &workflowservice.ListWorkerDeploymentsRequest{Namespace: w.namespace, PageSize: pageSize, NextPageToken: token})
	if err != nil {
		return nil, err
	}
	for _, e := range page.GetWorkerDeployments() {
		where := "deployment " + e.GetName()
		d, err := call(ctx, w, w.client.DescribeWorkerDeployment, &workflowservice.DescribeWorkerDeploymentRequest{Namespace: w.namespace, DeploymentName: e.GetName()})
		if err == nil {
			w.count("DescribeWorkerDeployment", d, where)
		}
		w.one("deployments", where, err)
		for _, v := range d.GetWorkerDeploymentInfo().GetVersionSummaries() {
			version, err := call(ctx, w, w.client.DescribeWorkerDeploymentVersion, &workflowservice.DescribeWorkerDeploymentVersionRequest{
				Namespace: w.namespace, DeploymentVersion: v.GetDeploymentVersion()})
			if err == nil {
				w.count("DescribeWorkerDeploymentVersion", version, where)
			}
			w.one("deployment versions", where+" version "+v.GetDeploymentVersion().GetBuildId(), err)
		}
	}
	return page.GetNextPageToken(), ctx.Err()
}
