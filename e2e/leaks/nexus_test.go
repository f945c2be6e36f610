package leaks

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nexus-rpc/sdk-go/nexus"
	nexuspb "go.temporal.io/api/nexus/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/temporalnexus"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// Nexus operations: answered at once, by a workflow, and with failures.

func init() {
	scenarios["Nexus"] = nexusOperations
	scenarios["StandaloneNexus"] = standaloneNexus
}

// endpoint makes a Nexus endpoint for the scenario's task queue. Its description has no namespace, whose key
// could seal it, and stays readable.
func (e *env) endpoint() string {
	e.Helper()
	name := "endpoint-" + e.name
	description, err := converter.GetDefaultDataConverter().ToPayload("a description that anybody may read")
	e.ok(err, "payload")
	_, err = e.client.OperatorService().CreateNexusEndpoint(e.ctx, &operatorservice.CreateNexusEndpointRequest{Spec: &nexuspb.EndpointSpec{
		Name: name, Description: description,
		Target: &nexuspb.EndpointTarget{Variant: &nexuspb.EndpointTarget_Worker_{Worker: &nexuspb.EndpointTarget_Worker{Namespace: namespace, TaskQueue: e.queue()}}},
	}})
	e.ok(err, "create endpoint")
	return name
}

type nexusSecrets struct{ in, sync, async, failure, detail, handlerError string }

func (e *env) nexusSecrets() nexusSecrets {
	return nexusSecrets{
		e.secret("input"), e.secret("result"), e.secret("result of a workflow"),
		e.secret("failure"), e.secret("details of a failure"), e.secret("error of a handler"),
	}
}

// service registers three operations, and the workflow behind the second.
func (s nexusSecrets) service(e *env) func(worker.Registry) {
	service := nexus.NewService("service")
	e.ok(service.Register(
		nexus.NewSyncOperation("sync", func(_ context.Context, in string, _ nexus.StartOperationOptions) (string, error) {
			e.same("input of an operation", in, s.in)
			return s.sync, nil
		}),
		temporalnexus.NewWorkflowRunOperation("async", s.handler, func(_ context.Context, in string, o nexus.StartOperationOptions) (client.StartWorkflowOptions, error) {
			e.same("input of an operation", in, s.in)
			return client.StartWorkflowOptions{ID: "nexus-" + o.RequestID}, nil
		}),
		nexus.NewSyncOperation("fail", func(context.Context, string, nexus.StartOperationOptions) (string, error) {
			return "", temporal.NewNonRetryableApplicationError(s.failure, "Refused", nil, s.detail)
		}),
		nexus.NewSyncOperation("failed", func(context.Context, string, nexus.StartOperationOptions) (string, error) {
			return "", nexus.NewOperationFailedErrorf("%s", s.failure)
		}),
		nexus.NewSyncOperation("bad", func(context.Context, string, nexus.StartOperationOptions) (string, error) {
			return "", nexus.NewHandlerErrorf(nexus.HandlerErrorTypeBadRequest, "%s", s.handlerError)
		}),
	), "register operations")
	return func(r worker.Registry) {
		flow("Handler", s.handler)(r)
		r.(worker.Worker).RegisterNexusService(service)
	}
}

func (s nexusSecrets) handler(_ workflow.Context, in string) (string, error) {
	if in != s.in {
		return "", errors.New("input did not arrive")
	}
	return s.async, nil
}

func nexusOperations(e *env) {
	s, summary := e.nexusSecrets(), e.secret("summary")
	endpoint := e.endpoint()
	e.worker(s.service(e), flow("Caller", func(ctx workflow.Context, operation string) (string, error) {
		c := workflow.NewNexusClient(endpoint, "service")
		var got string
		err := c.ExecuteOperation(ctx, operation, s.in, workflow.NexusOperationOptions{ScheduleToCloseTimeout: 30 * time.Second, Summary: summary}).Get(ctx, &got)
		return got, err
	}))
	e.returns(e.start(client.StartWorkflowOptions{}, "Caller", "sync"), s.sync)
	e.returns(e.start(client.StartWorkflowOptions{}, "Caller", "async"), s.async)
	e.mentions(e.start(client.StartWorkflowOptions{}, "Caller", "fail").Get(e.ctx, nil), s.failure)
	e.mentions(e.start(client.StartWorkflowOptions{}, "Caller", "failed").Get(e.ctx, nil), s.failure)
	e.mentions(e.start(client.StartWorkflowOptions{}, "Caller", "bad").Get(e.ctx, nil), s.handlerError)
}

// mentions checks that a failure's message arrived, without regard to how the SDK wraps it.
func (e *env) mentions(err error, message string) {
	e.Helper()
	for cause := err; cause != nil; cause = errors.Unwrap(cause) {
		if strings.Contains(cause.Error(), message) {
			return
		}
	}
	e.Errorf("error %v, whose causes do not mention %q", err, message)
}

func standaloneNexus(e *env) {
	s := e.nexusSecrets()
	endpoint := e.endpoint()
	e.worker(s.service(e))
	c, err := e.client.NewNexusClient(client.NexusClientOptions{Endpoint: endpoint, Service: "service"})
	e.ok(err, "nexus client")
	call := func(operation string) (string, error) {
		var handle client.NexusOperationHandle
		e.eventually("start operation", func() (err error) {
			handle, err = c.ExecuteOperation(e.ctx, operation, s.in, client.StartNexusOperationOptions{ID: e.id(), ScheduleToCloseTimeout: 30 * time.Second, Summary: "sums up"})
			if late := new(serviceerror.NotFound); errors.As(err, &late) {
				return err // the frontend learns of a new endpoint after a moment
			}
			e.ok(err, "start operation")
			return nil
		})
		var got string
		err := handle.Get(e.ctx, &got)
		return got, err
	}
	for operation, want := range map[string]string{"sync": s.sync, "async": s.async} {
		got, err := call(operation)
		e.ok(err, operation)
		e.same(operation+" result", got, want)
	}
	_, err = call("fail")
	e.mentions(err, s.failure)
	_, err = call("bad")
	e.mentions(err, s.handlerError)
}
