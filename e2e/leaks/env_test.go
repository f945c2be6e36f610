package leaks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// env is what a scenario works with.
type env struct {
	*testing.T
	*bench
	ctx  context.Context
	name string
	runs int
}

// secret is user data: a text that must not leave workers and clients in clear.
func (e *env) secret(what string) string { return e.canaries.New(e.name + ": " + what) }

func (b *bench) options(address string, o client.ConnectionOptions) client.Options {
	return client.Options{
		HostPort: address, Namespace: namespace, ConnectionOptions: o,
		ContextPropagators: []workflow.ContextPropagator{userPropagator{}},
		// SDKs log failures in clear: they run where the data belongs. Errors alone keep the test's output readable.
		Logger: sdklog.NewStructuredLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError + 1}))),
	}
}

// worker starts a worker on a task queue of the scenario's own.
func (e *env) worker(register ...func(worker.Registry)) (taskQueue string) {
	e.Helper()
	queue := e.queue()
	e.workerOn(queue, register...)
	return queue
}

func (e *env) queue() string { return "queue-" + e.name }

func (e *env) workerOn(queue string, register ...func(worker.Registry)) worker.Worker {
	e.Helper()
	w := worker.New(e.client, queue, worker.Options{
		MaxConcurrentWorkflowTaskPollers: 2, MaxConcurrentActivityTaskPollers: 2, MaxConcurrentNexusTaskPollers: 2,
		MaxHeartbeatThrottleInterval: 100 * time.Millisecond, DefaultHeartbeatThrottleInterval: 100 * time.Millisecond,
	})
	for _, r := range register {
		r(w)
	}
	if err := w.Start(); err != nil {
		e.Fatalf("start worker: %v", err)
	}
	e.Cleanup(w.Stop)
	return w
}

func flow(name string, fn any) func(worker.Registry) {
	return func(r worker.Registry) { r.RegisterWorkflowWithOptions(fn, workflow.RegisterOptions{Name: name}) }
}

func act(name string, fn any) func(worker.Registry) {
	return func(r worker.Registry) { r.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name}) }
}

// id makes a workflow id that no other scenario uses.
func (e *env) id() string {
	e.runs++
	return fmt.Sprintf("%s-%d", e.name, e.runs)
}

// start starts a workflow on the scenario's task queue.
func (e *env) start(o client.StartWorkflowOptions, name string, args ...any) client.WorkflowRun {
	e.Helper()
	o.ID = cmp.Or(o.ID, e.id())
	o.TaskQueue = cmp.Or(o.TaskQueue, e.queue())
	run, err := e.client.ExecuteWorkflow(e.ctx, o, name, args...)
	if err != nil {
		e.Fatalf("start %s: %v", name, err)
	}
	return run
}

// ok fails the scenario on an error.
func (e *env) ok(err error, doing string) {
	e.Helper()
	if err != nil {
		e.Fatalf("%s: %v", doing, err)
	}
}

// returns waits for a run and compares its result.
func (e *env) returns(run client.WorkflowRun, want any) {
	e.Helper()
	got := reflect.New(reflect.TypeOf(want))
	e.ok(run.Get(e.ctx, got.Interface()), "result of "+run.GetID())
	e.same("result of "+run.GetID(), got.Elem().Interface(), want)
}

// same compares a value that arrived with the one that was sent.
func (e *env) same(what string, got, want any) {
	e.Helper()
	if !reflect.DeepEqual(got, want) {
		e.Errorf("%s arrived as %#v, want %#v", what, got, want)
	}
}

// eventually repeats a check until it holds.
func (e *env) eventually(what string, check func() error) {
	e.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	e.Fatalf("%s: %v", what, err)
}

// describe asks the way users do, and past the proxy, where the answer is searched.
func (e *env) describe(run client.WorkflowRun) *client.WorkflowExecutionDescription {
	e.Helper()
	_, err := e.direct.DescribeWorkflow(e.ctx, run.GetID(), run.GetRunID())
	e.ok(err, "describe directly")
	d, err := e.client.DescribeWorkflow(e.ctx, run.GetID(), run.GetRunID())
	e.ok(err, "describe")
	return d
}

// chain is the errors of a chain as text, each with what an application reads of it, outermost first.
func chain(err error) []string {
	var out []string
	for ; err != nil; err = errors.Unwrap(err) {
		switch e := err.(type) {
		case *temporal.ApplicationError:
			var details string
			_ = e.Details(&details) // no details leave it empty, which then shows in the comparison
			out = append(out, fmt.Sprintf("application %s %q details %q", e.Type(), e.Message(), details))
		case *temporal.CanceledError:
			var details string
			_ = e.Details(&details)
			out = append(out, fmt.Sprintf("canceled details %q", details))
		case *temporal.TimeoutError:
			var details string
			_ = e.LastHeartbeatDetails(&details)
			out = append(out, fmt.Sprintf("timeout %q heartbeat %q", e.Message(), details))
		case *temporal.PanicError:
			out = append(out, fmt.Sprintf("panic %q", e.Error()))
		default:
			out = append(out, fmt.Sprintf("%T", err))
		}
	}
	return out
}

// fails waits for a run that fails and compares the chain of its error.
func (e *env) fails(run client.WorkflowRun, want ...string) error {
	e.Helper()
	err := run.Get(e.ctx, nil)
	if err == nil {
		e.Fatalf("%s did not fail", run.GetID())
	}
	e.same("error of "+run.GetID(), chain(err), append([]string{"*internal.WorkflowExecutionError"}, want...))
	return err
}

func (b *bench) addSearchAttributes(t *testing.T) {
	_, err := b.client.OperatorService().AddSearchAttributes(t.Context(), &operatorservice.AddSearchAttributesRequest{
		Namespace: namespace,
		SearchAttributes: map[string]enumspb.IndexedValueType{
			"Region": enumspb.INDEXED_VALUE_TYPE_KEYWORD, "Amount": enumspb.INDEXED_VALUE_TYPE_INT,
			"Owner": enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		},
	})
	if err != nil {
		t.Fatalf("add search attributes: %v", err)
	}
	// Frontends learn of them from a cache that is refreshed in the background.
	for range 200 {
		_, err = b.client.CountWorkflow(t.Context(), &workflowservice.CountWorkflowExecutionsRequest{Query: `Region = "x" AND Amount = 1 AND Owner = "x"`})
		if err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("search attributes do not appear: %v", err)
}

// activityOptions suit activities that fail at most by design.
func activityOptions(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 20 * time.Second,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: 100 * time.Millisecond, MaximumAttempts: 1},
	})
}

func retried(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 20 * time.Second, HeartbeatTimeout: 10 * time.Second,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: 2 * time.Second, BackoffCoefficient: 1, MaximumAttempts: 5},
	})
}

func untilSignal(ctx workflow.Context, name string) {
	workflow.GetSignalChannel(ctx, name).Receive(ctx, nil)
}
