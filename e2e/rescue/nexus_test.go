package rescue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nexus-rpc/sdk-go/nexus"
	enumspb "go.temporal.io/api/enums/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

var nexusTasks = []scenario{
	{"Nexus operation", outage, true, "", nexusHeld},
	{"Nexus operation", long, true, "", nexusLong},
	{"Nexus operation", never, false, "", nexusNever},
	{"Nexus operation", forbidden, false, "", nexusForbidden},
}

// endpoint makes a Nexus endpoint whose handlers poll the site's queue for Nexus tasks.
func (s *site) endpoint() string {
	s.Helper()
	name := strings.NewReplacer("_", "-", ".", "-", "wf-TestMatrix-on", "ep").Replace(s.id)
	_, err := s.direct.OperatorService().CreateNexusEndpoint(s.Context(), &operatorservice.CreateNexusEndpointRequest{Spec: &nexuspb.EndpointSpec{Name: name,
		Target: &nexuspb.EndpointTarget{Variant: &nexuspb.EndpointTarget_Worker_{Worker: &nexuspb.EndpointTarget_Worker{Namespace: namespace, TaskQueue: s.queue + "-nexus"}}}}})
	s.ok(err)
	return name
}

// serve registers an operation that gives back what it is given.
func (s *site) serve(r worker.Registry) {
	service := nexus.NewService("service")
	s.ok(service.Register(nexus.NewSyncOperation("echo", func(_ context.Context, in string, _ nexus.StartOperationOptions) (string, error) { return in, nil })))
	r.(worker.Worker).RegisterNexusService(service)
}

// caller is a workflow that starts operations that fail, one after the other, and then a good one. It returns why they
// failed. It does not read the good one's result, which the test of a caller past the proxy could not.
func caller(endpoint string, bad any, times int) func(workflow.Context) (string, error) {
	return func(ctx workflow.Context) (string, error) {
		c := workflow.NewNexusClient(endpoint, "service")
		call := func(in any) error {
			return c.ExecuteOperation(ctx, "echo", in, workflow.NexusOperationOptions{ScheduleToCloseTimeout: 40 * time.Second}).Get(ctx, nil)
		}
		var failed error
		for range times {
			if failed = call(bad); failed == nil {
				return "", errors.New("an operation did not fail")
			}
		}
		if err := call("good"); err != nil {
			return "", err
		}
		for cause := failed; cause != nil; cause = errors.Unwrap(cause) {
			failed = cause
		}
		return fmt.Sprint("good; ", failed), nil
	}
}

// operating starts a workflow whose Nexus operation waits for its handler.
func (s *site) operating() client.WorkflowRun {
	s.Helper()
	s.work(s.client, s.queue, register("Caller", caller(s.endpoint(), nil, 0)))
	run := s.start(s.client, "Caller")
	s.eventually(func() error {
		if len(s.describe().GetPendingNexusOperations()) == 0 {
			return fmt.Errorf("no operation is pending")
		}
		return nil
	})
	return run
}

func nexusHeld(s *site) string {
	cold := s.cold()
	run := s.operating()
	s.outage(3 * time.Second)
	s.work(cold, s.queue+"-nexus", s.serve)
	s.returns(run, "good; <nil>")
	return "Completed; the task was held"
}

func nexusLong(s *site) string {
	cold := s.cold()
	run := s.operating()
	blocked := s.watchBreaker()
	s.kms.Always("", kmsstub.Fault{Reset: true})
	s.work(cold, s.queue+"-nexus", s.serve)
	s.eventually(func() error {
		for _, o := range s.describe().GetPendingNexusOperations() {
			if strings.Contains(o.GetLastAttemptFailure().String(), "temporal-seal: the worker was not given this task") {
				return nil
			}
		}
		return fmt.Errorf("no attempt has failed")
	})
	s.kms.Heal()
	s.returns(run, "good; <nil>")
	s.want(!blocked(), "the circuit breaker was opened")
	return "an attempt fails as UNAVAILABLE with the reason, after it was held; the server tries again, and Completed once the keys were back"
}

// manyTimes is more than what opens the endpoint's circuit breaker.
const manyTimes = 8

func nexusNever(s *site) string {
	s.work(s.direct, s.queue, register("Caller", caller(s.endpoint(), s.bad(), manyTimes)))
	s.work(s.client, s.queue+"-nexus", s.serve)
	run := s.start(s.direct, "Caller")
	blocked := s.watchBreaker()
	var got string
	s.ok(run.Get(s.Context(), &got))
	s.want(strings.HasPrefix(got, "good; ") && strings.Contains(got, "temporal-seal: the worker was not given this task"), "the operations ended with %q", got)
	s.want(!blocked(), "the circuit breaker was opened")
	s.want(len(s.happened(enumspb.EVENT_TYPE_NEXUS_OPERATION_FAILED)) == manyTimes, "not every operation failed")
	return fmt.Sprintf("each of %d operations fails at once, with the reason and not retried; the circuit breaker stays closed, the next good one completes", manyTimes)
}

// watchBreaker looks at the pending operations until its answer is asked for.
func (s *site) watchBreaker() (blocked func() bool) {
	ctx, stop := context.WithCancel(s.Context())
	seen := make(chan bool, 1)
	go func() {
		found := false
		for ctx.Err() == nil {
			if d, err := s.direct.DescribeWorkflowExecution(ctx, s.id, ""); err == nil {
				for _, o := range d.GetPendingNexusOperations() {
					found = found || o.GetState() == enumspb.PENDING_NEXUS_OPERATION_STATE_BLOCKED
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
		seen <- found
	}()
	return func() bool { stop(); return <-seen }
}

func nexusForbidden(s *site) string {
	s.work(s.client, s.queue, register("Caller", caller(s.endpoint(), "ask for it", 1)))
	s.work(s.client, s.queue+"-nexus", func(r worker.Registry) {
		service := nexus.NewService("service")
		s.ok(service.Register(nexus.NewSyncOperation("echo", func(_ context.Context, in string, _ nexus.StartOperationOptions) (string, error) {
			if in == "ask for it" {
				return "forbidden", nil
			}
			return in, nil
		})))
		r.(worker.Worker).RegisterNexusService(service)
	})
	var got string
	s.ok(s.start(s.client, "Caller").Get(s.Context(), &got))
	s.want(strings.HasPrefix(got, "good; ") && strings.Contains(got, "stay where they are"), "the operation ended with %q", got)
	return "the operation fails at once, with the rule's reason and not retried"
}
