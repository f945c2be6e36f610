package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	taskQueue       = "soak"
	rejectDuplicate = enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
)

// kind is one sort of workflow, seen from its client: drive starts it, plays the client's part, and checks what comes
// back. weight is its share.
type kind struct {
	name   string
	weight int
	drive  func(*job, context.Context) error
}

var kinds = []kind{
	{"ledger", 2, (*job).ledger}, {"signals", 2, (*job).signals}, {"updates", 2, (*job).updates}, {"family", 1, (*job).family},
	{"chain", 1, (*job).chain}, {"local", 1, (*job).local}, {"nexus", 1, (*job).nexus}, {"big", 1, (*job).big},
	{"cancelled", 1, (*job).cancelled}, {"retried", 1, (*job).retried}, {"schedule", 1, (*job).schedule},
}

// planKinds are those whose histories show no attempt but the first unless something was lost.
var planKinds = []kind{{"plain", 3, (*job).plain}, {"signals", 1, (*job).signals}, {"updates", 1, (*job).updates}, {"family", 1, (*job).family}, {"chain", 1, (*job).chain}}

// keepKinds leaves only some of the kinds, to look at them closely.
func keepKinds(names string) error {
	for _, list := range []*[]kind{&kinds, &planKinds} {
		*list = slices.DeleteFunc(*list, func(k kind) bool { return !slices.Contains(strings.Split(names, ","), k.name) })
	}
	if len(kinds)+len(planKinds) == 0 {
		return errors.New("there is no such kind")
	}
	return nil
}

func (j *job) input() doc { return doc{Secret: j.secret, N: j.n} }

func (j *job) plain(ctx context.Context) error {
	return j.computes(ctx, "Plain", steps(j.n, 0, 1), j.input())
}

func (j *job) ledger(ctx context.Context) error {
	want := steps(j.n, 0, 1, 2, countTo, 9)
	if err := j.start(ctx, "Ledger", j.input()); err != nil {
		return err
	}
	if err := j.asks(ctx, func(n int64) bool {
		return n == j.n || n == steps(j.n, 0) || n == steps(j.n, 0, 1) || n == steps(j.n, 0, 1, 2) || n == steps(j.n, 0, 1, 2, countTo) || n == want
	}); err != nil {
		return err
	}
	if err := j.returns(ctx, want); err != nil {
		return err
	}
	return j.asks(ctx, func(n int64) bool { return n == want }) // of a workflow that is over, from its history
}

func (j *job) signals(ctx context.Context) error {
	if err := j.start(ctx, "Signals", j.input()); err != nil {
		return err
	}
	sum := j.n
	for i := range int64(signalCount) {
		sum += i
		if err := j.again(ctx, func(ctx context.Context) error {
			err := j.client.SignalWorkflow(ctx, j.id, "", "number", doc{Secret: j.secret, N: i})
			if i == signalCount-1 && isNotFound(err) {
				return nil // it had been taken, and the workflow was over before it was sent again
			}
			return err
		}); err != nil {
			return err
		}
	}
	return j.returns(ctx, step(sum, 1))
}

func (j *job) updates(ctx context.Context) error {
	if err := j.start(ctx, "Updates", j.input()); err != nil {
		return err
	}
	refused := doc{Secret: j.secret, N: -1}
	var failed *temporal.ApplicationError
	if err := j.update(ctx, "refused", refused, new(doc)); !errors.As(err, &failed) {
		return fmt.Errorf("an update that is refused: %w", cannot(err))
	} else if err := failsWith(err, refused); err != nil {
		return err
	}
	sum := j.n
	for i := range int64(updateCount) {
		var got doc
		if err := j.update(ctx, fmt.Sprint("update-", i), doc{Secret: j.secret, N: i}, &got); err != nil {
			return err
		}
		if want := (doc{Secret: j.secret, N: step(j.n, i)}); got != want {
			return wrong("an update returned %v, want %v", got, want)
		}
		sum += got.N
	}
	return j.returns(ctx, sum)
}

// cannot stands for an error that is missing.
func cannot(err error) error {
	if err == nil {
		return wrong("it did not fail")
	}
	return err
}

// update sends one update until there is an answer. By its id the server knows it again.
func (j *job) update(ctx context.Context, id string, arg doc, result *doc) error {
	return j.again(ctx, func(ctx context.Context) error {
		h, err := j.client.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{UpdateID: id, WorkflowID: j.id, UpdateName: "apply",
			Args: []any{arg}, WaitForStage: client.WorkflowUpdateStageCompleted})
		if err == nil {
			err = h.Get(ctx, result)
		}
		var late *client.WorkflowUpdateServiceTimeoutOrCanceledError
		if isNotFound(err) || errors.As(err, &late) {
			return errAgain // an update that was not accepted yet is gone with the server that was asked
		}
		return err
	})
}

func (j *job) family(ctx context.Context) error {
	return j.computes(ctx, "Family", steps(j.n, steps(1, 4), steps(2, 4)), j.input())
}

func (j *job) chain(ctx context.Context) error {
	return j.computes(ctx, "Chain", steps(j.n, 3, 2, 1, 0), j.input(), chainLength)
}

func (j *job) local(ctx context.Context) error {
	return j.computes(ctx, "Local", steps(j.n, 0, 1, 5), j.input())
}

func (j *job) nexus(ctx context.Context) error {
	return j.computes(ctx, "Nexus", steps(j.n, nexusNow, nexusLater), j.input())
}

func (j *job) retried(ctx context.Context) error {
	return j.computes(ctx, "Retried", steps(j.n, 7), j.input())
}

func (j *job) cancelled(ctx context.Context) error {
	if err := j.start(ctx, "Cancelled", j.input()); err != nil {
		return err
	}
	if err := j.asks(ctx, func(n int64) bool { return n == j.n }); err != nil { // so it waits
		return err
	}
	if err := j.again(ctx, func(ctx context.Context) error {
		err := j.client.CancelWorkflow(ctx, j.id, "")
		if isNotFound(err) {
			return nil // it had been taken, and the workflow was over before it was sent again
		}
		return err
	}); err != nil {
		return err
	}
	return j.returns(ctx, step(j.n, 6))
}

func (j *job) big(ctx context.Context) error {
	in := filled(j.secret, j.n, 100<<10+int(j.n%10)*90<<10)
	if err := j.start(ctx, "Big", in); err != nil {
		return err
	}
	fill := []byte(in.Fill)
	for a, b := 0, len(fill)-1; a < b; a, b = a+1, b-1 {
		fill[a], fill[b] = fill[b], fill[a]
	}
	return j.gets(ctx, j.id, "", digest(doc{Secret: j.secret, N: j.n + 1, Fill: string(fill)}))
}

// skipTime is how long after its last action a schedule is believed that it starts no more workflows. A server that is
// killed counts actions that it never took, without any proxy too: what it did start has to be right.
const skipTime = 10 * time.Second

// schedule has a schedule start two workflows.
func (j *job) schedule(ctx context.Context) error {
	const actions = 2
	err := j.again(ctx, func(ctx context.Context) error {
		_, err := j.client.ScheduleClient().Create(ctx, client.ScheduleOptions{
			ID: j.id, Spec: client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: time.Second}}}, RemainingActions: actions,
			Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL, Memo: map[string]any{"about": doc{Secret: j.secret}},
			Action: &client.ScheduleWorkflowAction{ID: j.id, Workflow: "Plain", TaskQueue: taskQueue, Args: []any{j.input()},
				Memo: map[string]any{"about": doc{Secret: j.secret}}},
		})
		if errors.Is(err, temporal.ErrScheduleAlreadyRunning) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	j.tally.started(j)
	h := j.client.ScheduleClient().GetHandle(ctx, j.id)
	var ran []client.ScheduleActionResult
	var spent time.Time
	if err := j.again(ctx, func(ctx context.Context) error {
		d, err := h.Describe(ctx)
		if early := new(serviceerror.WorkflowNotReady); errors.As(err, &early) || status.Code(toStatus(err)) == codes.FailedPrecondition {
			return errAgain // the server asks a workflow of its own, which has just failed a task
		}
		if err != nil {
			return err
		}
		if ran = d.Info.RecentActions; len(ran) == actions {
			return nil
		}
		if spent.IsZero() && d.Schedule.State.RemainingActions == 0 {
			spent = time.Now()
		}
		if spent.IsZero() || time.Since(spent) < skipTime {
			return errAgain
		}
		return nil
	}); err != nil {
		return err
	}
	for _, r := range ran {
		if err := j.gets(ctx, r.StartWorkflowResult.WorkflowID, r.StartWorkflowResult.FirstExecutionRunID, doc{Secret: j.secret, N: steps(j.n, 0, 1)}); err != nil {
			return err
		}
	}
	return j.again(ctx, func(ctx context.Context) error {
		if err := h.Delete(ctx); !isNotFound(err) {
			return err
		}
		return nil
	})
}

// computes is for workflows that need nothing of their client but to be started.
func (j *job) computes(ctx context.Context, name string, want int64, args ...any) error {
	if err := j.start(ctx, name, args...); err != nil {
		return err
	}
	return j.returns(ctx, want)
}

// start starts the workflow. Where the answer is lost it is sent again, under the same id.
func (j *job) start(ctx context.Context, name string, args ...any) error {
	o := startOptions(j)
	if name == "Retried" {
		o.RetryPolicy = &temporal.RetryPolicy{InitialInterval: 50 * time.Millisecond, MaximumAttempts: 2}
	}
	err := j.again(ctx, func(ctx context.Context) error {
		_, err := j.client.ExecuteWorkflow(ctx, o, name, args...)
		return err
	})
	if err == nil {
		j.tally.started(j)
	}
	return err
}

// returns waits for the workflow's end, and compares its result and its memo.
func (j *job) returns(ctx context.Context, want int64) error {
	if err := j.gets(ctx, j.id, "", doc{Secret: j.secret, N: want}); err != nil {
		return err
	}
	return j.again(ctx, func(ctx context.Context) error {
		d, err := j.client.DescribeWorkflow(ctx, j.id, "")
		if err != nil {
			return err
		}
		about := d.Memo.GetFields()["about"]
		if string(about.GetMetadata()["encoding"]) == "binary/sealed.v1" {
			return fmt.Errorf("%w: the memo does not open for now", errAgain) // descriptions come all the same
		}
		var memo doc
		if err := converter.GetDefaultDataConverter().FromPayload(about, &memo); err != nil || memo.Secret != j.secret {
			return wrong("the memo arrived as %v, %v", memo, err)
		}
		return nil
	})
}

func (j *job) gets(ctx context.Context, id, run string, want doc) error {
	return j.again(ctx, func(ctx context.Context) error {
		var got doc
		if err := j.client.GetWorkflow(ctx, id, run).Get(ctx, &got); err != nil {
			return err
		}
		if got != want {
			return wrong("the result is %v, want %v", got, want)
		}
		return nil
	})
}

// asks sends a query, and again where no worker could answer it.
func (j *job) asks(ctx context.Context, ok func(int64) bool) error {
	return j.again(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		answer, err := j.client.QueryWorkflow(ctx, j.id, "", "state", doc{Secret: j.secret})
		var failed *serviceerror.QueryFailed
		var early *serviceerror.WorkflowNotReady
		if errors.As(err, &failed) || errors.As(err, &early) {
			return fmt.Errorf("%w: %w", errAgain, err)
		}
		if err != nil {
			return err
		}
		var got doc
		if err := answer.Get(&got); err != nil || got.Secret != j.secret || !ok(got.N) {
			return wrong("the query's answer is %v, %v", got, err)
		}
		return nil
	})
}
