package harness

import (
	"context"
	"fmt"
	"strings"

	batchpb "go.temporal.io/api/batch/v1"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/operatorservice/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Recorder is a client interceptor that searches every answer of the server, errors with their details too.
func (s *Sweep) Recorder(where string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		err := invoke(ctx, method, req, reply, cc, opts...)
		where := where + " " + method[strings.LastIndex(method, "/")+1:]
		var answer proto.Message
		if err != nil {
			answer = status.Convert(err).Proto()
		} else {
			answer, _ = reply.(proto.Message)
		}
		if raw, marshalErr := proto.Marshal(answer); marshalErr == nil {
			s.Bytes(where, raw)
		}
		return err
	}
}

// Frontend asks the server itself, past any proxy, for all that it returns about a namespace: every workflow with
// its history, forwards and backwards, every schedule, batch, standalone activity and Nexus endpoint. The
// connection must carry the sweep's Recorder: what comes back is searched there.
func Frontend(ctx context.Context, conn *grpc.ClientConn, namespace string) error {
	f := frontend{workflowservice.NewWorkflowServiceClient(conn), namespace}
	steps := map[string]func(context.Context) error{
		"workflows": f.workflows, "schedules": f.schedules, "batches": f.batches, "activities": f.activities,
		"nexus endpoints": func(ctx context.Context) error {
			_, err := operatorservice.NewOperatorServiceClient(conn).ListNexusEndpoints(ctx, &operatorservice.ListNexusEndpointsRequest{})
			return err
		},
		"worker deployments": func(ctx context.Context) error {
			_, err := f.client.ListWorkerDeployments(ctx, &workflowservice.ListWorkerDeploymentsRequest{Namespace: namespace})
			return err
		},
	}
	for name, step := range steps {
		if err := step(ctx); status.Code(err) == codes.Unimplemented {
			continue // an older server: what it has no call for it does not keep
		} else if err != nil {
			return fmt.Errorf("sweep of the frontend, %s: %w", name, err)
		}
	}
	return nil
}

type frontend struct {
	client    workflowservice.WorkflowServiceClient
	namespace string
}

func (f frontend) workflows(ctx context.Context) error {
	var token []byte
	for {
		page, err := f.client.ListWorkflowExecutions(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Namespace: f.namespace, PageSize: 100, NextPageToken: token,
		})
		if err != nil {
			return err
		}
		for _, w := range page.Executions {
			if err := f.workflow(ctx, w.Execution); err != nil {
				return fmt.Errorf("%s: %w", w.Execution.WorkflowId, err)
			}
		}
		if token = page.NextPageToken; len(token) == 0 {
			return nil
		}
	}
}

func (f frontend) workflow(ctx context.Context, execution *commonpb.WorkflowExecution) error {
	if _, err := f.client.DescribeWorkflowExecution(ctx, &workflowservice.DescribeWorkflowExecutionRequest{
		Namespace: f.namespace, Execution: execution,
	}); err != nil {
		return err
	}
	var token []byte
	for {
		page, err := f.client.GetWorkflowExecutionHistory(ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{
			Namespace: f.namespace, Execution: execution, NextPageToken: token,
		})
		if err != nil {
			return err
		}
		if token = page.NextPageToken; len(token) == 0 {
			break
		}
	}
	_, err := f.client.GetWorkflowExecutionHistoryReverse(ctx, &workflowservice.GetWorkflowExecutionHistoryReverseRequest{
		Namespace: f.namespace, Execution: execution,
	})
	return err
}

func (f frontend) schedules(ctx context.Context) error {
	page, err := f.client.ListSchedules(ctx, &workflowservice.ListSchedulesRequest{Namespace: f.namespace, MaximumPageSize: 100})
	if err != nil {
		return err
	}
	for _, s := range page.Schedules {
		if err := f.schedule(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (f frontend) schedule(ctx context.Context, s *schedulepb.ScheduleListEntry) error {
	_, err := f.client.DescribeSchedule(ctx, &workflowservice.DescribeScheduleRequest{Namespace: f.namespace, ScheduleId: s.ScheduleId})
	return err
}

func (f frontend) batches(ctx context.Context) error {
	page, err := f.client.ListBatchOperations(ctx, &workflowservice.ListBatchOperationsRequest{Namespace: f.namespace, PageSize: 100})
	if err != nil {
		return err
	}
	for _, b := range page.OperationInfo {
		if err := f.batch(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

func (f frontend) batch(ctx context.Context, b *batchpb.BatchOperationInfo) error {
	_, err := f.client.DescribeBatchOperation(ctx, &workflowservice.DescribeBatchOperationRequest{Namespace: f.namespace, JobId: b.JobId})
	return err
}

func (f frontend) activities(ctx context.Context) error {
	page, err := f.client.ListActivityExecutions(ctx, &workflowservice.ListActivityExecutionsRequest{Namespace: f.namespace, PageSize: 100})
	if err != nil {
		return err
	}
	for _, a := range page.Executions {
		if _, err := f.client.DescribeActivityExecution(ctx, &workflowservice.DescribeActivityExecutionRequest{
			Namespace: f.namespace, ActivityId: a.ActivityId, RunId: a.RunId, IncludeInput: true, IncludeOutcome: true,
			IncludeLastFailure: true, IncludeHeartbeatDetails: true,
		}); err != nil {
			return err
		}
	}
	return nil
}
