package rescue

import (
	"context"
	"fmt"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

var workflowTasks = []scenario{
	{"workflow task", outage, true, "", workflowTaskHeld},
	{"workflow task", long, true, "", workflowTaskLost},
	{"workflow task", never, false, "", workflowTaskNever},
	{"sticky workflow task", outage, true, "", stickyHeld},
	{"sticky workflow task", never, false, "", stickyNever},
	{"update (speculative workflow task)", outage, true, "", updateHeld},
	{"update (speculative workflow task)", never, false, "", updateNever},
	{"signal and update in one workflow task", "only the update " + never, false, "", updateAmongOthers},
}

func echo(_ workflow.Context, s string) (string, error) { return s, nil }

func register(name string, fn any) func(worker.Registry) {
	return func(r worker.Registry) {
		r.RegisterWorkflowWithOptions(fn, workflow.RegisterOptions{Name: name})
	}
}

// asking is a workflow that waits to be asked, and returns the signal that ends it.
func asking(ctx workflow.Context) (string, error) {
	for _, err := range []error{
		workflow.SetQueryHandler(ctx, "q", func(in string) (string, error) { return in, nil }),
		workflow.SetUpdateHandler(ctx, "u", func(_ workflow.Context, in string) (string, error) { return in, nil }),
	} {
		if err != nil {
			return "", err
		}
	}
	var end string
	workflow.GetSignalChannel(ctx, "end").Receive(ctx, &end)
	return end, nil
}

// idle waits until no workflow task is under way.
func (s *site) idle() {
	s.Helper()
	s.eventually(func() error {
		if s.describe().GetPendingWorkflowTask() != nil || len(s.happened(enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)) == 0 {
			return fmt.Errorf("a workflow task is pending")
		}
		return nil
	})
}

// held waits until a worker's poll has brought a workflow task, and lets the KMS answer again a while later.
func (s *site) held() {
	s.Helper()
	s.eventually(func() error {
		if state := s.describe().GetPendingWorkflowTask().GetState(); state != enumspb.PENDING_WORKFLOW_TASK_STATE_STARTED {
			return fmt.Errorf("the workflow task is %s", state)
		}
		return nil
	})
	time.Sleep(time.Second)
	s.kms.Heal()
}

func workflowTaskHeld(s *site) string {
	cold := s.cold()
	run := s.start(s.client, "Echo", "hello")
	s.kms.Always("", kmsstub.Fault{Reset: true})
	s.work(cold, s.queue, register("Echo", echo))
	s.held()
	s.returns(run, "hello")
	s.want(s.failedTasks() == 0, "%d failed workflow tasks", s.failedTasks())
	return "Completed; the task was held, and no WorkflowTaskFailed"
}

func workflowTaskLost(s *site) string {
	s.limit = 2 * time.Second
	cold := s.cold()
	run := s.start(s.client, "Echo", "hello")
	s.kms.Always("", kmsstub.Fault{Reset: true})
	s.work(cold, s.queue, register("Echo", echo))
	s.eventually(func() error {
		if s.describe().GetPendingWorkflowTask().GetAttempt() < 2 {
			return fmt.Errorf("the first attempt is not over")
		}
		return nil
	})
	s.kms.Heal()
	s.returns(run, "hello")
	if s.timedOut() {
		return again
	}
	s.want(s.failedTasks() == 1, "%d failed workflow tasks", s.failedTasks())
	return "one WorkflowTaskFailed with the reason; Completed once the keys were back"
}

// timedOut reports whether the server has lost a first attempt: it gives itself a second to hand a task out.
func (s *site) timedOut() bool {
	s.Helper()
	for _, e := range s.happened(enumspb.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT) {
		if e.GetWorkflowTaskTimedOutEventAttributes().GetTimeoutType() == enumspb.TIMEOUT_TYPE_START_TO_CLOSE {
			return true
		}
	}
	return false
}

// givenUp checks that so many failures tell why, and that the server is not kept busy.
func (s *site) givenUp() string {
	s.Helper()
	s.eventually(func() error {
		if a := s.describe().GetPendingWorkflowTask().GetAttempt(); a < 3 {
			return fmt.Errorf("attempt %d", a)
		}
		return nil
	})
	time.Sleep(4 * time.Second)
	if s.timedOut() {
		return again
	}
	attempt, failed := s.describe().GetPendingWorkflowTask().GetAttempt(), s.failedTasks()
	s.want(attempt < 12 && failed == 1, "attempt %d, %d failed workflow tasks", attempt, failed)
	return "Running; one WorkflowTaskFailed with the reason; further attempts are left to the workflow task timeout"
}

func workflowTaskNever(s *site) string {
	s.work(s.client, s.queue, register("Echo", echo))
	s.start(s.direct, "Echo", s.bad())
	return s.givenUp()
}

// onSticky reports whether a workflow task was scheduled on the sticky queue of the worker that knows the workflow.
func (s *site) onSticky() bool {
	for _, e := range s.happened(enumspb.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED) {
		if e.GetWorkflowTaskScheduledEventAttributes().GetTaskQueue().GetKind() == enumspb.TASK_QUEUE_KIND_STICKY {
			return true
		}
	}
	return false
}

func stickyHeld(s *site) string {
	cold := s.cold()
	s.work(cold, s.queue, register("Asking", asking))
	run := s.start(cold, "Asking")
	s.idle()
	s.kms.Always("", kmsstub.Fault{Reset: true})
	s.ok(s.client.SignalWorkflow(s.Context(), s.id, "", "end", "ended"))
	s.held()
	s.returns(run, "ended")
	s.want(s.onSticky() && s.failedTasks() == 0, "sticky: %v; %d failed workflow tasks", s.onSticky(), s.failedTasks())
	return "Completed; the task was held, and no WorkflowTaskFailed"
}

func stickyNever(s *site) string {
	s.work(s.client, s.queue, register("Asking", asking))
	s.start(s.client, "Asking")
	s.idle()
	s.ok(s.direct.SignalWorkflow(s.Context(), s.id, "", "end", s.bad()))
	shown := s.givenUp()
	s.want(s.onSticky(), "no task was on a sticky queue")
	return shown
}

func (s *site) update(c client.Client, arg any) (got string, err error) {
	ctx, cancel := context.WithTimeout(s.Context(), 30*time.Second)
	defer cancel()
	u, err := c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{WorkflowID: s.id, UpdateName: "u", Args: []any{arg}, WaitForStage: client.WorkflowUpdateStageCompleted})
	if err == nil {
		err = u.Get(ctx, &got)
	}
	s.want(ctx.Err() == nil, "no answer to an update")
	return got, err
}

func (s *site) end(run client.WorkflowRun) {
	s.Helper()
	s.ok(s.client.SignalWorkflow(s.Context(), s.id, "", "end", "ended"))
	s.returns(run, "ended")
}

func updateHeld(s *site) string {
	cold := s.cold()
	s.work(cold, s.queue, register("Asking", asking))
	run := s.start(cold, "Asking")
	s.idle()
	s.outage(2 * time.Second)
	got, err := s.update(s.client, "asked")
	s.want(err == nil && got == "asked", "the update gave %q, %v", got, err)
	s.end(run)
	s.want(s.failedTasks() == 0, "%d failed workflow tasks", s.failedTasks())
	return "the task was held; the update gives its result, and the workflow goes on"
}

func updateNever(s *site) string {
	s.work(s.client, s.queue, register("Asking", asking))
	run := s.start(s.client, "Asking")
	s.idle()
	_, err := s.update(s.direct, s.bad())
	s.want(err != nil && strings.Contains(err.Error(), "wasn't processed by worker"), "the update: %v", err)
	s.end(run)
	s.want(s.failedTasks() == 0, "%d failed workflow tasks", s.failedTasks())
	return "the update alone is rejected, as one that the worker did not process; the workflow goes on"
}

func updateAmongOthers(s *site) string {
	w := s.work(s.client, s.queue, register("Asking", asking))
	run := s.start(s.client, "Asking")
	s.idle()
	w.Stop()
	done := make(chan error, 1)
	bad := s.bad()
	go func() {
		_, err := s.update(s.direct, bad)
		done <- err
	}()
	time.Sleep(500 * time.Millisecond)
	s.ok(s.client.SignalWorkflow(s.Context(), s.id, "", "end", "ended"))
	s.work(s.client, s.queue, register("Asking", asking))
	s.returns(run, "ended")
	err := <-done
	s.want(err != nil && s.failedTasks() == 0, "the update: %v; %d failed workflow tasks", err, s.failedTasks())
	return "Completed: the signal arrives, the update is rejected, and no WorkflowTaskFailed"
}
