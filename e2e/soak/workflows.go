package main

import (
	"errors"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

const (
	// attemptTime is what one attempt of an activity may take: a task that was lost with a killed proxy is handed out again
	// after it.
	attemptTime = 8 * time.Second

	signalCount = 5
	updateCount = 3
	countTo     = 6
	chainLength = 3

	endpointName = "soak-endpoint"
	serviceName  = "arithmetic"
)

// workflows are what workers run: each computes something that its client can compute as well.
var workflows = map[string]any{
	"Ledger": ledger, "Signals": signals, "Updates": updates, "Family": family, "Child": child, "Chain": chain, "Local": local,
	"Nexus": nexusCaller, "Big": big, "Cancelled": cancelled, "Retried": retried, "Plain": plain,
}

func registerWorkflows(w worker.Registry) {
	for name, f := range workflows {
		w.RegisterWorkflowWithOptions(f, workflow.RegisterOptions{Name: name})
	}
}

func withActivities(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: attemptTime, HeartbeatTimeout: attemptTime / 2,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: 100 * time.Millisecond, BackoffCoefficient: 1.5, MaximumInterval: 2 * time.Second},
	})
}

// compute runs an activity and gives its document.
func compute(ctx workflow.Context, name string, args ...any) (out doc, err error) {
	err = workflow.ExecuteActivity(withActivities(ctx), name, args...).Get(ctx, &out)
	return out, err
}

// answering has a workflow answer the query "state", and checks what every workflow starts with.
func answering(ctx workflow.Context, state *doc) error {
	if err := headed(ctx, *state); err != nil {
		return err
	}
	return workflow.SetQueryHandler(ctx, "state", func(asked doc) (doc, error) {
		if asked.Secret != state.Secret {
			return doc{}, wrong("the query's argument arrived as %v", asked)
		}
		return *state, nil
	})
}

// plain is two activities, none of which ever fails by itself.
func plain(ctx workflow.Context, in doc) (out doc, err error) {
	if err := headed(ctx, in); err != nil {
		return doc{}, err
	}
	out = in
	for i := range 2 {
		if out, err = compute(ctx, "Add", out, doc{Secret: in.Secret, N: int64(i)}); err != nil {
			return doc{}, err
		}
	}
	return out, nil
}

// ledger runs activities that fail at times, one with heartbeats, and one that is completed from elsewhere.
func ledger(ctx workflow.Context, in doc) (doc, error) {
	state := in
	if err := answering(ctx, &state); err != nil {
		return doc{}, err
	}
	for i := range int32(3) {
		out, err := compute(ctx, "Fail", state, doc{Secret: in.Secret, N: int64(i)}, i)
		if err != nil {
			return doc{}, err
		}
		state = out
	}
	for _, next := range []struct {
		name string
		arg  any
	}{{"Count", countTo}, {"Later", doc{Secret: in.Secret, N: 9}}} {
		out, err := compute(ctx, next.name, state, next.arg)
		if err != nil {
			return doc{}, err
		}
		state = out
	}
	return state, nil
}

// signals waits for a number of different signals: a client that was not answered sends one again.
func signals(ctx workflow.Context, in doc) (doc, error) {
	state := in
	if err := answering(ctx, &state); err != nil {
		return doc{}, err
	}
	seen := map[int64]bool{}
	for channel := workflow.GetSignalChannel(ctx, "number"); len(seen) < signalCount; {
		var d doc
		channel.Receive(ctx, &d)
		if d.Secret != in.Secret {
			return doc{}, wrong("a signal arrived as %v", d)
		}
		if !seen[d.N] {
			seen[d.N] = true
			state.N += d.N
		}
	}
	if err := workflow.Sleep(ctx, 50*time.Millisecond); err != nil {
		return doc{}, err
	}
	return compute(ctx, "Add", state, doc{Secret: in.Secret, N: 1})
}

// updates waits for a number of updates, each of which runs an activity.
func updates(ctx workflow.Context, in doc) (doc, error) {
	state, done := in, 0
	if err := answering(ctx, &state); err != nil {
		return doc{}, err
	}
	err := workflow.SetUpdateHandlerWithOptions(ctx, "apply", func(ctx workflow.Context, d doc) (doc, error) {
		out, err := compute(ctx, "Add", in, d)
		if err == nil {
			state.N += out.N
			done++
		}
		return out, err
	}, workflow.UpdateHandlerOptions{Validator: func(d doc) error {
		if d.N < 0 {
			return failure(d, false)
		}
		return nil
	}})
	if err != nil {
		return doc{}, err
	}
	err = workflow.Await(ctx, func() bool { return done == updateCount && workflow.AllHandlersFinished(ctx) })
	return state, err
}

// family runs two children that compute and one that fails.
func family(ctx workflow.Context, in doc) (doc, error) {
	state := in
	if err := answering(ctx, &state); err != nil {
		return doc{}, err
	}
	ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{Memo: map[string]any{"child": in}})
	first := workflow.ExecuteChildWorkflow(ctx, "Child", doc{Secret: in.Secret, N: 1})
	second := workflow.ExecuteChildWorkflow(ctx, "Child", doc{Secret: in.Secret, N: 2})
	broken := workflow.ExecuteChildWorkflow(ctx, "Child", doc{Secret: in.Secret, N: -3})
	for _, child := range []workflow.ChildWorkflowFuture{first, second} {
		var out doc
		if err := child.Get(ctx, &out); err != nil {
			return doc{}, err
		}
		state.N = step(state.N, out.N)
	}
	return state, failsWith(broken.Get(ctx, nil), doc{Secret: in.Secret, N: -3})
}

// child fails where its number is negative.
func child(ctx workflow.Context, in doc) (doc, error) {
	if err := headed(ctx, in); err != nil {
		return doc{}, err
	}
	if in.N < 0 {
		return doc{}, failure(in, false)
	}
	return compute(ctx, "Add", in, doc{Secret: in.Secret, N: 4})
}

// chain continues as new; memo and header go along.
func chain(ctx workflow.Context, in doc, left int) (doc, error) {
	if err := headed(ctx, in); err != nil {
		return doc{}, err
	}
	var memo doc
	if p := workflow.GetInfo(ctx).Memo.GetFields()["about"]; p == nil || converter.GetDefaultDataConverter().FromPayload(p, &memo) != nil || memo.Secret != in.Secret {
		return doc{}, wrong("the memo arrived as %v", memo)
	}
	out, err := compute(ctx, "Add", in, doc{Secret: in.Secret, N: int64(left)})
	if err != nil || left == 0 {
		return out, err
	}
	return doc{}, workflow.NewContinueAsNewError(ctx, "Chain", out, left-1)
}

// local uses what leaves markers in the history.
func local(ctx workflow.Context, in doc) (doc, error) {
	if err := headed(ctx, in); err != nil {
		return doc{}, err
	}
	ctx = workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{StartToCloseTimeout: attemptTime,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: 10 * time.Millisecond}})
	a := new(activities)
	state := in
	for i := range int32(2) {
		var out doc
		if err := workflow.ExecuteLocalActivity(ctx, a.fail, state, doc{Secret: in.Secret, N: int64(i)}, i).Get(ctx, &out); err != nil {
			return doc{}, err
		}
		state = out
	}
	var aside doc
	if err := workflow.SideEffect(ctx, func(workflow.Context) any { return doc{Secret: in.Secret, N: 5} }).Get(&aside); err != nil {
		return doc{}, err
	}
	if workflow.GetVersion(ctx, "change", workflow.DefaultVersion, 1) != 1 {
		return doc{}, wrong("the version marker did not arrive")
	}
	if err := workflow.Sleep(ctx, 20*time.Millisecond); err != nil {
		return doc{}, err
	}
	return compute(ctx, "Add", state, aside)
}

// nexusCaller has an operation answered at once, and one by a workflow, in another namespace.
func nexusCaller(ctx workflow.Context, in doc) (doc, error) {
	if err := headed(ctx, in); err != nil {
		return doc{}, err
	}
	c, state := workflow.NewNexusClient(endpointName, serviceName), in
	for _, operation := range []string{"now", "later"} {
		var out doc
		if err := c.ExecuteOperation(ctx, operation, state, workflow.NexusOperationOptions{}).Get(ctx, &out); err != nil {
			return doc{}, err
		}
		if out.Secret != in.Secret {
			return doc{}, wrong("the result of an operation arrived as %v", out)
		}
		state = out
	}
	return state, nil
}

// big passes a large document on.
func big(ctx workflow.Context, in doc) (doc, error) {
	out, err := compute(ctx, "Invert", in)
	if err != nil {
		return doc{}, err
	}
	return digest(out), nil
}

// cancelled waits to be cancelled, and cleans up.
func cancelled(ctx workflow.Context, in doc) (doc, error) {
	state := in
	if err := answering(ctx, &state); err != nil {
		return doc{}, err
	}
	if err := workflow.Sleep(ctx, time.Hour); !temporal.IsCanceledError(err) {
		return doc{}, wrong("woken with %v, want a cancellation", err)
	}
	clean, _ := workflow.NewDisconnectedContext(ctx)
	return compute(clean, "Add", in, doc{Secret: in.Secret, N: 6})
}

// retried fails at its first attempt, and reads that failure at its second.
func retried(ctx workflow.Context, in doc) (doc, error) {
	if err := headed(ctx, in); err != nil {
		return doc{}, err
	}
	planned := doc{Secret: in.Secret, N: 7}
	if workflow.GetInfo(ctx).Attempt == 1 {
		return doc{}, failure(planned, true)
	}
	last := workflow.GetLastError(ctx)
	if last == nil {
		return doc{}, errors.New("the failure of the attempt before is not there")
	}
	if err := failsWith(last, planned); err != nil {
		return doc{}, err
	}
	return compute(ctx, "Add", in, planned)
}

// startOptions are those that every workflow is started with.
func startOptions(j *job) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{ID: j.id, TaskQueue: taskQueue, WorkflowIDReusePolicy: rejectDuplicate,
		Memo: map[string]any{"about": doc{Secret: j.secret}}, StaticSummary: j.secret}
}
